"""Chats: the forms that files have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdrun.domains.language.source import Message

ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot"), "assistant"),
    "system": "system",
    "tool": "tool",
}
"""What a turn's speaker is called in files -> the role."""
FORMS = {
    "messages": ("messages",),
    "ShareGPT": ("conversations",),
    "prompt and completion": ("prompt", "completion"),
    "prompt and response": ("prompt", "response"),
    "Alpaca": ("instruction", "output"),
}
"""Form -> the columns that a row of it has."""


def form_of(columns: Sequence[str]) -> str | None:
    """The form of a file whose rows have these columns; None for none of FORMS."""
    return next((form for form, needed in FORMS.items() if set(needed) <= set(columns)), None)


def messages_of(record: Mapping[str, Any]) -> tuple[Message, ...]:
    """The messages of one row. Raises ValueError that says what is wrong with it."""
    form = form_of(list(record))
    if form in ("messages", "ShareGPT"):
        turns = record[FORMS[form][0]]
        if not isinstance(turns, list) or not turns:
            raise ValueError(f"'{FORMS[form][0]}' is no list of turns")
        messages = [_message(turn, number) for number, turn in enumerate(turns, 1)]
    elif form == "Alpaca":
        parts = [_text(record, "instruction"), _text(record, "input", "")]
        messages = [
            ("user", "\n\n".join(part for part in parts if part)),
            ("assistant", _text(record, "output")),
        ]
    elif form is not None:
        prompt, answer = FORMS[form]
        given = record[prompt]
        before = [_message(turn, n) for n, turn in enumerate(given, 1)] if isinstance(given, list) else None
        after = record[answer]
        messages = before or [("user", _text(record, prompt))]
        messages += (
            [_message(turn, n) for n, turn in enumerate(after, 1)]
            if isinstance(after, list)
            else [("assistant", _text(record, answer))]
        )
    else:
        raise ValueError(f"no chat that kdrun knows ({', '.join(FORMS)})")
    if system := record.get("system"):
        messages = [("system", str(system)), *messages]
    if not any(role == "assistant" for role, _ in messages):
        raise ValueError("no turn of an assistant, so nothing can be learned of it")
    empty = [n for n, (role, text) in enumerate(messages, 1) if role == "assistant" and not text.strip()]
    if empty:
        raise ValueError(f"turn {empty[0]}: the assistant says nothing")
    return tuple(messages)


def columns_of(record: Mapping[str, Any]) -> dict[str, str]:
    """The columns of a row, as text, that its chat is not made of; those with lists or nothing in them are left out."""
    form = form_of(list(record))
    used = (*FORMS[form], "system") if form else ()
    kept = {name: value for name, value in record.items() if name not in used}
    return {name: str(value) for name, value in kept.items() if isinstance(value, str | int | float)}


def _message(turn: Any, number: int) -> Message:
    if not isinstance(turn, Mapping):
        raise ValueError(f"turn {number} is a {type(turn).__name__}, expected {{...}}")
    role = turn.get("role", turn.get("from"))
    content = turn.get("content", turn.get("value"))
    if isinstance(content, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text")) for part in content)
    if not isinstance(role, str) or role not in ROLES:
        raise ValueError(f"turn {number}: the role is {role!r}, not one of {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise ValueError(
            f"turn {number} has no text" if content is None else f"turn {number}: no text but {content!r:.60}"
        )
    return ROLES[role], content


def _text(record: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = record.get(key)
    value = default if value is None else value
    if not isinstance(value, str):
        raise ValueError(f"'{key}' is no text")
    return value
