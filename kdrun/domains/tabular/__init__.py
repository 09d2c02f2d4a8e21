"""Tables of numbers with one real target per row."""

SEMANTICS = 1
USES = ("kdrun.domains.images",)
