"""Sequence-to-sequence networks."""
