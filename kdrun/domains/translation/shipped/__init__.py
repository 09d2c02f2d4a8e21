"""Parallel corpora that packages ship or that papers report on."""
