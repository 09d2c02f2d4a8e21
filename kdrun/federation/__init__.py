"""Many clients, each with its own data: who has what, what travels, how it is put together, and what each client gained."""

SEMANTICS = 2
USES = ("kdrun.learning", "kdrun.objectives")
