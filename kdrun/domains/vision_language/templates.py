"""Chat templates: which text stands before, between and behind the questions and answers of a conversation. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kdrun.problems import UserError

NAMES = ("plain", "chatml", "vicuna", "tokenizer")
USER, ASSISTANT = "<user>", "<assistant>"
CHATML = ("<|im_start|>", "<|im_end|>")
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
"""The system line that Vicuna was trained with: another one would be another model."""


@dataclass(frozen=True)
class Template:
    """A conversation is opening, images, prompt, asked, answer, end, following, prompt, asked, answer, end ...

    opening      before the first prompt and its images
    asked        between a prompt and its answer
    end          the one token that ends an answer
    following    between an end and the next prompt
    after_image  behind every image
    lead         begins every prompt and answer, but for a prompt behind images
    """

    name: str
    opening: str
    asked: str
    end: str
    following: str
    after_image: str = ""
    lead: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.opening, self.asked, self.end, self.following, self.after_image)


def template_of(
    name: str,
    special: Callable[[str], bool],
    bos: str | None,
    eos: str | None,
    render: Callable[[Sequence[dict[str, str]], bool], str] | None = None,
) -> Template:
    """The template of a name of NAMES.

    special(token): whether the tokenizer has this special token. bos, eos: its own, as text. render(messages, ask): the
    tokenizer's own template, None where it has none. Raises UserError where tokenizer and template do not fit.
    """
    if name == "tokenizer":
        if render is None:
            raise UserError(
                "data.vision.template=tokenizer: the tokenizer has no chat template", "use chatml or vicuna"
            )
        return _derived(render, special)
    if name == "chatml":
        start, end = CHATML
        missing = [token for token in CHATML if not special(token)]
        if missing:
            raise UserError(f"data.vision.template=chatml: the tokenizer has no {' and no '.join(missing)}")
        answer = f"{start}assistant\n"
        return Template("chatml", f"{start}user\n", f"{end}\n{answer}", end, f"\n{start}user\n", after_image="\n")
    if eos is None:
        raise UserError(f"data.vision.template={name}: the tokenizer has no end token; template=tokenizer may know one")
    if name == "vicuna":
        return Template("vicuna", f"{bos or ''}{VICUNA} USER:", " ASSISTANT:", eos, "USER:", after_image="\n", lead=" ")
    if name != "plain":
        raise UserError(f"data.vision.template={name}: one of {', '.join(NAMES)}")
    if special(USER) and special(ASSISTANT):
        return Template("plain", f"{bos or ''}{USER}", ASSISTANT, eos, USER)
    return Template("plain", bos or "", "\n", eos, "\n")


def _derived(render: Callable[[Sequence[dict[str, str]], bool], str], special: Callable[[str], bool]) -> Template:
    """What a tokenizer's own template writes around contents, found out by contents that occur nowhere else."""
    contents = [(f"\ue000Q{turn}\ue001", f"\ue000A{turn}\ue001") for turn in range(3)]
    messages = [
        {"role": role, "content": text}
        for turn in contents
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    try:
        rendered = render(messages, False)
        prompts = [render(messages[: 2 * turn + 1], True) for turn in range(3)]
    except Exception as error:  # whatever a template raises
        raise UserError(f"data.vision.template=tokenizer: the tokenizer's chat template fails: {error}") from error
    gaps, rest = [], rendered
    for text in (text for turn in contents for text in turn):
        before, found, rest = rest.partition(text)
        gaps.append(before if found else None)
    irregular = UserError(
        "data.vision.template=tokenizer: the tokenizer's chat template is not the same for every turn, "
        "or asks for an answer in other words than those before one",
        "use data.vision.template=chatml or vicuna",
    )
    if None in gaps:
        raise irregular
    opening, asked, between = gaps[:3]
    if gaps != [opening, asked, between, asked, between, asked]:
        raise irregular
    for turn, prompt in enumerate(prompts):
        if prompt != rendered[: rendered.index(contents[turn][1])]:
            raise irregular
    end = _end(between, rest, special)
    return Template("tokenizer", opening, asked, end, between[len(end) :], after_image="\n")


def _end(between: str, last: str, special: Callable[[str], bool]) -> str:
    """The special token that both begin with."""
    for length in range(1, len(last) + 1):
        if special(last[:length]) and between.startswith(last[:length]):
            return last[:length]
    raise UserError(
        "data.vision.template=tokenizer: answers do not end with a special token in the tokenizer's chat template",
        f"behind an answer it writes {last[:40]!r}",
    )
