"""Texts with classes that packages ship, and made-up ones."""
