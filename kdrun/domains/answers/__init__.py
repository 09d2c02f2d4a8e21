"""Questions whose answers are checked: chats with a language model, and whether what it writes is right."""

SEMANTICS = 1
USES = ("kdrun.domains.language",)
