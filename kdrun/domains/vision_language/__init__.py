"""Questions about images, answered in words."""

SEMANTICS = 1
USES = ("kdrun.decoding", "kdrun.domains.translation")
