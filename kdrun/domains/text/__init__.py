"""Texts (or pairs of texts) and their classes."""
