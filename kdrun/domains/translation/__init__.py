"""Sentence pairs in two languages."""

SEMANTICS = 1
USES = ("kdrun.decoding",)
