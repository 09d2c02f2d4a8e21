"""Kinds of data: one package each, with the same file names. The rest of kdrun asks a domain and names none."""

SEMANTICS = 1
USES = ("kdrun.data", "kdrun.networks", "kdrun.auc")
