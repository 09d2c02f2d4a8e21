"""Documents to ids and back: the tokenizer of a language model of transformers, or byte pairs of the training documents."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdrun.data import kept
from kdrun.data.source import text_hash
from kdrun.data.tokenizer import read_folder
from kdrun.domains.language.source import Document, Message, messages, written
from kdrun.networks import quiet
from kdrun.optional import needed
from kdrun.problems import UserError
from kdrun.schema import HUB_NAME

SMOLLM2 = "smollm2"
"""A tokenizer's (or a network's) name instead of its path: that of `kdrun fetch smollm2`."""
END, PAD, BEGIN_TURN, END_TURN = "<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The chat template of tokenizers that kdrun trains."""
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
"""How a template of transformers marks what the assistant generates."""


@dataclass(frozen=True)
class Turns:
    """A chat as text and tokens.

    offsets  of each token: where its characters begin and end in the text
    spans    of each answer of the assistant: where it begins and ends in the text, with what ends it
    answers  of each answer: places of its tokens
    """

    text: str
    ids: list[int]
    offsets: list[tuple[int, int]]
    spans: list[tuple[int, int]]
    answers: list[list[int]]


TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.jinja",
    "config.json",
)
"""What is fetched of a name of the hub: no weights."""


class LanguageTokenizer:
    """A fast tokenizer of transformers.

    size      ids are below it
    pad, eos  ids that fill rows, and that end a text
    start     id that a text begins with, so that its first token is predicted as well: bos, or eos where there is none
    ends      ids that end a text or an answer
    special   what its special tokens are written as
    sha256    of its content
    """

    def __init__(self, made: Any, sha256: str, name: str, trained: bytes = b"") -> None:
        self.made, self.sha256, self.name, self._trained = made, sha256, name, trained
        self.size: int = len(made)
        if made.eos_token_id is None:
            raise UserError(f"the tokenizer of {name} has no end token (eos_token), which separates documents")
        self.eos: int = made.eos_token_id
        self.start: int = self.eos if made.bos_token_id is None else made.bos_token_id
        self.pad: int = self.eos if made.pad_token_id is None else made.pad_token_id
        self.special = tuple(made.all_special_tokens)
        turn = made.convert_tokens_to_ids(END_TURN)
        self.ends = frozenset((self.eos, *([turn] if turn not in (None, made.unk_token_id) else [])))

    def kept_parts(self) -> bytes:
        """The content of one that was trained here, of which of_kept_parts makes it again."""
        return self._trained

    @classmethod
    def of_kept_parts(cls, content: bytes) -> LanguageTokenizer:
        library = needed("tokenizers", "language models need Hugging Face's tokenizers", "transformers")
        transformers = quiet.transformers("language models")
        made = transformers.PreTrainedTokenizerFast(
            tokenizer_object=library.Tokenizer.from_buffer(content),
            eos_token=END,
            pad_token=PAD,
            additional_special_tokens=[BEGIN_TURN, END_TURN],
            clean_up_tokenization_spaces=False,
        )
        made.chat_template = CHATML
        return cls(made, hashlib.sha256(content).hexdigest(), "the training texts", content)

    def alike(self, other: LanguageTokenizer) -> bool:
        """Whether both cut every text and every chat into the same ids."""
        ours, theirs = (
            (each.made.backend_tokenizer.to_str(), each.made.chat_template, each.start, each.eos, each.pad)
            for each in (self, other)
        )
        return self.sha256 == other.sha256 or ours == theirs

    @property
    def content(self) -> list[str]:
        """What decides which tokens a document becomes."""
        return [self.sha256, json.dumps(self.made.chat_template)]

    def encode(self, texts: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        """(ids, bytes of UTF-8 that each stands for) of each text, without special tokens. The bytes of a text add up to its own."""
        made = self.made(
            list(texts), add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True, verbose=False
        )
        rows = zip(texts, made["input_ids"], made["offset_mapping"], strict=True)
        return [(ids, _bytes(text, offsets)) for text, ids, offsets in rows]

    def chat(self, chat: Sequence[Message]) -> tuple[list[int], list[int], list[bool]]:
        """(ids, bytes that each stands for, whether it is of an answer of the assistant, its end included); see `turns`."""
        made = self.turns(chat)
        of_answer = {place for places in made.answers for place in places}
        answers = [place in of_answer for place in range(len(made.ids))]
        sizes = [size if answer else 0 for size, answer in zip(_bytes(made.text, made.offsets), answers, strict=True)]
        return made.ids, sizes, answers

    def turns(self, chat: Sequence[Message]) -> Turns:
        """A chat as the tokenizer's own template writes it. What is of an answer is what stands between its {% generation %} marks, or,
        where it has none, what it adds to the text of the messages before. Raises UserError where there is no template, or an answer
        changes what was written before it.
        """
        text = self.render(chat)
        made = self.made(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        offsets = made["offset_mapping"]
        if self.marks:
            answers = self._marked(chat)
            spans = [(offsets[places[0]][0], offsets[places[-1]][1]) for places in answers]
        else:
            spans = self._added(chat, text)
            firsts = [first for first, _ in offsets]
            answers = [[place for place, first in enumerate(firsts) if begin <= first < end] for begin, end in spans]
        return Turns(text, made["input_ids"], offsets, spans, answers)

    @property
    def marks(self) -> bool:
        """Whether the chat template says by itself what the assistant generates."""
        template = self.made.chat_template
        texts = template.values() if isinstance(template, dict) else [template or ""]
        return any(GENERATION.search(text) for text in texts)

    def _marked(self, chat: Sequence[Message]) -> list[list[int]]:
        """Places of the tokens of each answer, by the marks of the template."""
        told = self.made.apply_chat_template(
            messages(chat), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        mask = enumerate(told["assistant_masks"])
        groups = itertools.groupby(mask, key=lambda entry: bool(entry[1]))
        return [[place for place, _ in group] for counts, group in groups if counts]

    def _added(self, chat: Sequence[Message], text: str) -> list[tuple[int, int]]:
        """Where in the text what each answer adds to it begins and ends."""
        spans = []
        for place, (role, _) in enumerate(chat):
            if role == "assistant":
                before, after = self.render(chat[:place], answer=True), self.render(chat[: place + 1])
                if not (text.startswith(before) and text.startswith(after.rstrip())):
                    raise UserError(
                        f"the chat template of {self.name} changes earlier messages, so answers cannot be told apart"
                    )
                spans.append((len(before), len(after.rstrip())))
        return spans

    def render(self, chat: Sequence[Message], answer: bool = False) -> str:
        """A chat as text. answer: with what comes before an answer of the assistant."""
        if self.made.chat_template is None:
            raise UserError(
                f"the tokenizer of {self.name} has no chat template (chat_template in tokenizer_config.json)",
                "train on texts (data=text_corpus), or give a tokenizer that has one: data.language.tokenizer=FOLDER",
            )
        if not chat:  # templates may refuse no message at all
            return ""
        try:
            return self.made.apply_chat_template(messages(chat), tokenize=False, add_generation_prompt=answer)
        except Exception as error:  # whatever a template raises
            raise UserError(f"the chat template of {self.name}: {type(error).__name__}: {error}") from error

    def prompt(self, prompt: str | Sequence[Message]) -> list[int]:
        """What a network reads before it goes on with a text, or before it answers the last of some messages."""
        if isinstance(prompt, str):
            return [self.start, *self.encode([prompt])[0][0]]
        return self.made(self.render(prompt, answer=True), add_special_tokens=False)["input_ids"]

    def decode(self, rows: Iterable[Sequence[int]]) -> list[str]:
        """Text of ids, without special tokens, up to the first end token."""
        return [self.made.decode(_until(list(map(int, row)), self.eos), skip_special_tokens=True) for row in rows]


def _until(ids: list[int], eos: int) -> list[int]:
    return ids[: ids.index(eos)] if eos in ids else ids


def _bytes(text: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Bytes of UTF-8 that each token adds to those before it; a character of several tokens is the first one's. They add up to the text."""
    ends = [0, *itertools.accumulate(len(character.encode()) for character in text)]
    sizes, reached = [], 0
    for place, (_, end) in enumerate(offsets):
        upto = ends[-1] if place + 1 == len(offsets) else max(ends[end], reached)
        sizes.append(upto - reached)
        reached = upto
    return sizes


def trained(documents: Sequence[Document], vocabulary: int, cache: Path) -> LanguageTokenizer:
    """Byte pairs of what documents say, trained once and kept below `cache`; their order does not matter. Chats are written as ChatML.

    Documents are gone through twice, and none is held: byte pairs are of words and how often these come, whatever the order.
    """
    library = needed("tokenizers", "language models need Hugging Face's tokenizers", "transformers")
    settings = {"model": "byte pairs with case", "vocabulary": vocabulary, "version": library.__version__}
    whole = sum(int.from_bytes(hashlib.sha256(written(document).encode()).digest()) for document in documents)
    path = cache / "text" / f"language-{text_hash([json.dumps(settings), f'{len(documents)} {whole}'])[:16]}.json"
    content = kept.content(path, lambda: _byte_pairs(library, map(written, documents), vocabulary).to_str().encode())
    return LanguageTokenizer.of_kept_parts(content)


def _byte_pairs(library: Any, texts: Iterable[str], vocabulary: int) -> Any:
    from tokenizers import decoders, models, pre_tokenizers, trainers

    model = library.Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END, PAD, BEGIN_TURN, END_TURN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    model.train_from_iterator(texts, trainer)
    return model


def _from_hub(name: str) -> str:
    """The folder in the hub's cache with the tokenizer of this name."""
    hub = needed("huggingface_hub", f"the tokenizer of {name} needs huggingface_hub", "transformers")
    try:
        return hub.snapshot_download(name, allow_patterns=list(TOKENIZER_FILES))
    except (OSError, ValueError) as error:  # not there, not to be had without a network, or no name of the hub
        raise UserError(
            f"data.language.tokenizer={name}: no such folder, and the hub gives none: {(str(error).splitlines() or [''])[0][:120]}",
            "a folder with tokenizer.json, or a name whose tokenizer is in the hub's cache",
        ) from None


def existing(path: str | Path) -> LanguageTokenizer:
    """The folder of a Hugging Face model with a fast tokenizer, its name on the hub (found in its cache, or downloaded unless HF_HUB_OFFLINE
    is set), or "smollm2" (kdrun fetch smollm2)."""
    if str(path) == SMOLLM2:
        from kdrun.domains.vision_language.networks.smollm2 import tokenizer_folder

        path = tokenizer_folder()
    if not Path(path).expanduser().is_dir() and HUB_NAME.fullmatch(str(path)):
        path = _from_hub(str(path))
    path = Path(path).expanduser()
    if not path.is_dir():
        raise UserError(f"data.language.tokenizer={path}: there is no such folder", "a folder with tokenizer.json")
    made, files = read_folder(path)
    if getattr(made, "backend_tokenizer", None) is None:
        raise UserError(f"the tokenizer in {path} is not one of Hugging Face's fast ones: it has no tokenizer.json")
    return LanguageTokenizer(made, text_hash(files), str(path))
