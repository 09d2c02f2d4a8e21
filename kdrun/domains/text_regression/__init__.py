"""Texts (or pairs of texts) and a number each."""

SEMANTICS = 1
USES = ("kdrun.domains.text", "kdrun.domains.tabular")
