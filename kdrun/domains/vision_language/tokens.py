"""Conversations to token ids and back: the tokenizer, the slots of images, and which tokens are answers. No torch.

Text of samples is never read as markup: a question that has "</s>" in it has these four characters, not an end token.
Every prompt, every answer and every piece of markup is encoded by itself. So the prompt that a network answers in
generation has the very tokens that it was trained with, and where an answer begins is never a matter of merges.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdrun.data import kept
from kdrun.data.source import text_hash
from kdrun.data.tokenizer import read_folder, read_tokenizers_file
from kdrun.domains.vision_language.templates import ASSISTANT, CHATML, USER, Template, template_of
from kdrun.files import sha256_file
from kdrun.optional import needed
from kdrun.problems import UserError

if TYPE_CHECKING:
    from kdrun.domains.vision_language.source import Sample

PAD, BOS, EOS, UNK, IMAGE = "<pad>", "<s>", "</s>", "<unk>", "<image>"
SPECIAL = (PAD, BOS, EOS, UNK, IMAGE, USER, ASSISTANT)
IMAGE_NAMES = (IMAGE, "<|image_pad|>", "<|image|>", "<image_soft_token>", "[IMG]")
"""Image tokens of existing tokenizers. One that has none gives an unused special token for it, or gets a new id."""
SMOLLM2 = "smollm2"
"""A tokenizer's name instead of its path: that of `kdrun fetch smollm2`."""
MOST_WORDS = 16_384
"""Of a tokenizer that is made for the data; rarer words are unknown. Text of that kind deserves a tokenizer of its own."""


class VisionTokenizer:
    """A file of Hugging Face's `tokenizers` with an image token.

    size          ids are below it
    pad, bos      ids; those of eos where there are none
    unk           id, or None
    image         id of the image token
    sha256        of its file or files
    special       text -> id of its special tokens
    names         text of bos and of eos, None where there is none
    """

    def __init__(
        self,
        model: Any,
        sha256: str,
        names: dict[str, str | None],
        render: Any = None,
        called: str = "",
        trained: bytes = b"",
    ):
        model.no_padding()
        model.no_truncation()
        self._model, self.sha256, self._render, self._trained = model, sha256, render, trained
        known = model.get_vocab(with_added_tokens=True)
        added = model.get_added_tokens_decoder()
        self.special = {token.content: number for number, token in added.items() if token.special}
        ids = {role: known.get(name) if name is not None else None for role, name in names.items()}
        if ids["eos"] is None:
            raise UserError(f"{called} has no end token")
        self.eos_token: int = ids["eos"]
        self.unk: int | None = ids["unk"]
        self.pad: int = self.eos_token if ids["pad"] is None else ids["pad"]
        self.bos: int = self.eos_token if ids["bos"] is None else ids["bos"]
        self.names = {"bos": names["bos"] if ids["bos"] is not None else None, "eos": names["eos"]}
        self.size = max(known.values()) + 1
        self.image = self._image_token(names, known)
        self.size = max(self.size, self.image + 1)
        self._silent = frozenset(self.special.values()) - {self.unk} | {self.image}

    def kept_parts(self) -> bytes:
        """The content of one that was trained here, of which of_kept_parts makes it again (data.columns)."""
        return self._trained

    @classmethod
    def of_kept_parts(cls, content: bytes) -> VisionTokenizer:
        library = needed("tokenizers", "questions on images need Hugging Face's tokenizers", "transformers")
        model, names = library.Tokenizer.from_str(content.decode()), {"pad": PAD, "bos": BOS, "eos": EOS, "unk": UNK}
        return cls(model, hashlib.sha256(content).hexdigest(), names, trained=content)

    def _image_token(self, names: dict[str, str | None], known: dict[str, int]) -> int:
        for name in IMAGE_NAMES:
            if name in self.special:
                return self.special[name]
        used = {name for name in names.values() if name} | set(CHATML)
        written = getattr(self._render, "template", "") or ""
        unused = [name for name in self.special if name not in used and name not in written]
        return self.special[max(unused, key=self.special.__getitem__)] if unused else max(known.values()) + 1

    def template(self, name: str) -> Template:
        """See template_of."""
        return template_of(name, self.special.__contains__, self.names["bos"], self.names["eos"], self._render)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of text; no special token among them."""
        self._model.encode_special_tokens = True
        return [made.ids for made in self._model.encode_batch(list(texts), add_special_tokens=False)]

    def unknown(self, text: str) -> list[str]:
        """The pieces of text that have no token, as the tokenizer cuts it, in order and each once."""
        self._model.encode_special_tokens = True
        made = self._model.encode(text, add_special_tokens=False)
        pieces = [
            text[begin:end].strip()
            for number, (begin, end) in zip(made.ids, made.offsets, strict=True)
            if number == self.unk
        ]
        return list(dict.fromkeys(piece for piece in pieces if piece))

    def markup(self, text: str) -> list[int]:
        """Ids of markup, its special tokens included."""
        self._model.encode_special_tokens = False
        return self._model.encode(text, add_special_tokens=False).ids if text else []

    def decode(self, rows: Iterable[Sequence[int]], eos: int) -> list[str]:
        """Text of ids before the first `eos`, without special tokens and outer spaces."""
        texts = []
        for row in rows:
            ids = list(map(int, row))
            ids = ids[: ids.index(eos)] if eos in ids else ids
            real = [number for number in ids if number not in self._silent and 0 <= number < self.size]
            texts.append(self._model.decode(real, skip_special_tokens=False).strip())
        return texts


def trained(corpus: Iterable[str], template: str, cache: Path) -> VisionTokenizer:
    """Words and punctuation marks of `corpus`, each an id; made once and kept below `cache`.

    Text comes back as it was, but for runs of white space, which are one space. The order of the corpus does not matter.
    """
    library = needed("tokenizers", "questions on images need Hugging Face's tokenizers", "transformers")
    special = SPECIAL + (CHATML if template == "chatml" else ())
    words = sorted({*corpus, *_markup_words(template, special)})
    settings = {"special": special, "most": MOST_WORDS, "version": library.__version__, "format": 1}
    path = cache / "text" / f"words-{text_hash([json.dumps(settings), *words])[:16]}.json"
    content = kept.content(path, lambda: _word_level(library, words, special).to_str().encode())
    return VisionTokenizer.of_kept_parts(content)


def _markup_words(template: str, special: Sequence[str]) -> list[str]:
    """What a template writes beside special tokens: words that a tokenizer must know."""
    if template == "tokenizer":  # of a tokenizer that has none: an error that is told later
        return []
    between = re.compile("|".join(map(re.escape, special)))
    texts = template_of(template, special.__contains__, BOS, EOS).texts
    return [text for written in texts for text in between.split(written) if text.strip()]


def _word_level(library: Any, texts: list[str], special: Sequence[str]) -> Any:
    """A word that follows a space begins with a mark, a punctuation mark stands by itself: so nothing is lost."""
    from tokenizers import decoders, models, pre_tokenizers, trainers

    model = library.Tokenizer(models.WordLevel(unk_token=UNK))
    model.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(prepend_scheme="always"),
            pre_tokenizers.Punctuation("isolated"),
        ]
    )
    model.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.WordLevelTrainer(vocab_size=MOST_WORDS, special_tokens=list(special), show_progress=False)
    model.train_from_iterator(texts, trainer)
    return model


def existing(path: str | Path) -> VisionTokenizer:
    """A file of Hugging Face's tokenizers (NAME.json), the folder of a Hugging Face model, or "smollm2" (kdrun fetch smollm2)."""
    path = _place(path)
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise UserError(f"data.vision.tokenizer={path}: there is no such file or folder")
    model, names = read_tokenizers_file(path)
    return VisionTokenizer(model, sha256_file(path), names, called=str(path))


def tokenizer_hash(path: str | Path) -> str:
    """sha256 of an existing tokenizer, without loading it where it is one file."""
    path = _place(path)
    return sha256_file(path) if path.is_file() else existing(path).sha256


def _place(path: str | Path) -> Path:
    if str(path) != SMOLLM2:
        return Path(path).expanduser()
    from kdrun.domains.vision_language.networks.smollm2 import tokenizer_folder

    return tokenizer_folder()


def _folder(folder: Path) -> VisionTokenizer:
    made, files = read_folder(folder)
    model = getattr(made, "backend_tokenizer", None)
    if model is None:
        raise UserError(f"the tokenizer in {folder} is not one of Hugging Face's fast ones: it has no tokenizer.json")
    files += [f"{sha256_file(path)}  {path.name}" for path in sorted(folder.glob("chat_template*"))]
    names = {role: getattr(made, f"{role}_token") for role in ("pad", "bos", "eos", "unk")}
    render = _Render(made) if made.chat_template else None
    return VisionTokenizer(model, text_hash(files), names, render, f"{folder}'s tokenizer")


class _Render:
    """A tokenizer's own chat template."""

    def __init__(self, tokenizer: Any):
        self._tokenizer, self.template = tokenizer, str(tokenizer.chat_template)

    def __call__(self, messages: Sequence[dict[str, str]], ask: bool) -> str:
        return self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=ask)


@dataclass(frozen=True)
class TokenRow:
    """The tokens of a conversation without those of its images, which come behind the first `head` tokens.

    tokens   ids
    answers  [(begin, end)]: which tokens are answers, the end token of each included
    """

    tokens: list[int]
    answers: list[tuple[int, int]]


class Encoder:
    """A tokenizer with a chat template.

    head   tokens before the images
    eos    id that ends an answer
    image  ids of one image: its slots, and what the template writes behind
    """

    def __init__(self, tokenizer: VisionTokenizer, template: str, image_tokens: int):
        self.tokenizer, self.template = tokenizer, tokenizer.template(template)
        self._opening, self._asked, end, self._following, after = map(tokenizer.markup, self.template.texts)
        if len(end) != 1:
            raise UserError(
                f"data.vision.template={template}: {self.template.end!r} is not one token, which ends answers"
            )
        self.eos, self.head = end[0], len(self._opening)
        self.image_tokens = image_tokens
        self.image = [tokenizer.image] * image_tokens + after

    def rows(self, samples: Iterable[Sample]) -> Iterator[TokenRow]:
        """Each distinct text of `samples` is encoded once."""
        samples = list(samples)
        texts = sorted({text for sample in samples for text in self._texts(sample)})
        known = dict(zip(texts, self.tokenizer.encode(texts), strict=True))
        for sample in samples:
            found = [known[text] for text in self._texts(sample)]
            if any(self.tokenizer.image in ids for ids in found):
                raise UserError(f"sample {sample.id}: its text has the image token in it")
            yield self._row(found)

    def _texts(self, sample: Sample) -> list[str]:
        """Prompt, answer, prompt, answer ... as they are encoded."""
        lead, texts = self.template.lead, []
        for turn in sample.turns:
            first = "" if sample.images and not texts else lead
            texts += [first + turn.prompt if turn.prompt else "", lead + turn.answer if turn.answer else ""]
        return texts

    def _row(self, found: list[list[int]]) -> TokenRow:
        tokens, answers = list(self._opening), []
        for place in range(0, len(found), 2):
            if place:
                tokens += self._following
            tokens += found[place] + self._asked
            begin = len(tokens)
            tokens += [*found[place + 1], self.eos]
            answers.append((begin, len(tokens)))
        return TokenRow(tokens, answers)

    def decode(self, rows: Iterable[Sequence[int]]) -> list[str]:
        """Text of ids that a network gave: what stands before the end token."""
        return self.tokenizer.decode(rows, self.eos)
