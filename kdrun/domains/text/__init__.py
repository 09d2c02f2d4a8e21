"""Texts (or pairs of texts) and their classes."""

SEMANTICS = 1
USES = ("kdrun.domains.images",)
