"""Texts (or pairs of texts) and any number of labels each."""

SEMANTICS = 1
USES = ("kdrun.domains.text",)
