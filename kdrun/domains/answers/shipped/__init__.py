"""Texts that packages ship, and made-up ones."""
