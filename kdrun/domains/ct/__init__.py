"""Computed tomography: volumes with one diagnosis each, seen through windows of Hounsfield units."""

SEMANTICS = 1
USES = ("kdrun.domains.images",)
