"""Language models: texts and chats, and the token that comes next."""

SEMANTICS = 1
USES = ("kdrun.domains.translation",)
