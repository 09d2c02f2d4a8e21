"""Language models: texts and chats, and the token that comes next."""

SEMANTICS = 1
USES = ("kdrun.domains.text", "kdrun.domains.translation", "kdrun.domains.vision_language")
