"""Chats under another prompt (`teacher.prompt`, `teacher.system`). No torch."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from kdrun.domains.language.source import Documents, Message
from kdrun.problems import UserError, closest, listed


@dataclass(frozen=True)
class Templates:
    """What stands in a chat in place of the last question of the user (prompt) and of the system message; None: as it is.

    Both may name, in braces, columns of the row that the chat is from, and, where no column has that name, `prompt` (that question),
    `answer` (the answer to it) and `system`.
    """

    prompt: str | None = None
    system: str | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Templates | None:
        """Those of a node data.language; None where it has none."""
        made = cls(settings.get("prompt"), settings.get("system"))
        return None if made == cls() else made

    def filled(self, chat: tuple[Message, ...], columns: Mapping[str, str], where: str) -> tuple[Message, ...]:
        """The chat as they have it. where: what the chat is called. Raises UserError for a column that its row lacks."""
        last = max(place for place, (role, _) in enumerate(chat) if role == "assistant")
        asked = max((place for place in range(last) if chat[place][0] == "user"), default=None)
        if asked is None:
            raise UserError(f"teacher.prompt: {where} has no question of a user before its last answer")
        known = {
            "prompt": chat[asked][1],
            "answer": chat[last][1],
            "system": next((content for role, content in chat if role == "system"), ""),
            **columns,
        }
        made = list(chat)
        if self.prompt is not None:
            made[asked] = ("user", _filled("teacher.prompt", self.prompt, known, where))
        if self.system is not None:
            message = ("system", _filled("teacher.system", self.system, known, where))
            made = [message, *(turn for turn in made if turn[0] != "system")]
        return tuple(made)


def check_template(key: str, template: str) -> None:
    """Raises UserError for a template whose braces do not name columns. key: where it stands in the config."""
    _names(key, template)


def _names(key: str, template: str) -> list[str]:
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UserError(f"{key}: {error}", "a brace of the text itself is written twice: {{ and }}") from None
    names = [(name, form, how) for _, name, form, how in parts if name is not None]
    for name, form, how in names:
        if not name or form or how:
            raise UserError(
                f"{key}: '{{{name}{'!' + how if how else ''}{':' + form if form else ''}}}' names no column",
                "as in '{prompt} (hint: {hint})'; a brace of the text itself is written twice: {{ and }}",
            )
    return [name for name, _, _ in names]


def _filled(key: str, template: str, known: Mapping[str, str], where: str) -> str:
    for name in _names(key, template):
        if name not in known:
            raise UserError(
                f"{key}: {where} has no column {name!r}{closest(name, known)}", f"it may name {listed(known)}"
            )
    # Not str.format: a column may be called "a.b" or "a[0]", and is a text whatever it holds.
    parts = string.Formatter().parse(template)
    return "".join(text + ("" if name is None else known[name]) for text, name, _, _ in parts)


def prompted(source: Documents, templates: Templates | None) -> Documents:
    """The source with its chats under these templates; ids, hashes by which equal chats are known, and all else stay."""
    if templates is None:
        return source
    if not source.chats:
        raise UserError(
            f"teacher.prompt: {source.name} has texts, which have no prompt", "it is for chats, as those of data=chats"
        )
    fields = source.fields or ({},) * len(source)
    made = [
        templates.filled(chat, fields[place] or {}, f"the chat with {source.describe(place)}")
        for place, chat in enumerate(source.documents)
    ]
    return replace(source, documents=tuple(made))


def content_of(source: Documents, templates: Templates) -> str:
    """All that a teacher reads of the documents under these templates, for a hash."""
    return json.dumps(prompted(source, templates).documents)
