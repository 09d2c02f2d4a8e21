"""Text to ids and back: a SentencePiece model of the training split, or a tokenizer that exists already.

Every tokenizer has these members:

    size                       ids are below it
    pad, bos, eos, unk         ids of special tokens; bos is what a decoder starts from
    sha256                     of its file or files
    byte_ids                   ids that stand for single bytes of what the vocabulary lacks
    encode(texts, side) -> lists of ids, each ending with eos; side is "source" or "target"
    decode(lists of ids) -> texts: what stands before the first eos
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from kdrun.data import kept
from kdrun.data.source import text_hash
from kdrun.files import sha256_file
from kdrun.optional import needed
from kdrun.problems import UserError

RECIPE = {
    "model_type": "bpe",
    "byte_fallback": True,  # what is not in the vocabulary becomes its bytes, so nothing is lost
    "character_coverage": 0.9995,  # of text; the rarest characters would cost the vocabulary more than they give
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "max_sentence_length": 1 << 20,  # the library's own limit would leave out long lines without a word
    "hard_vocab_limit": False,  # a small text gives fewer pieces
    "num_threads": 1,
    "pad_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "unk_id": 3,
}
SMALLEST = 4 + 256 + 8
"""Special tokens, bytes, and a few pieces."""
FILES = ("tokenizer*", "*.model", "*.spm", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json")
"""What the tokenizer of a Hugging Face model's folder is made of."""

USUAL_NAMES = {
    "pad": ("<pad>", "[PAD]", "<|pad|>"),
    "bos": ("<s>", "[CLS]", "<bos>", "[BOS]", "<|startoftext|>"),
    "eos": ("</s>", "[SEP]", "<eos>", "[EOS]", "<|endoftext|>"),
    "unk": ("<unk>", "[UNK]"),
}
"""Special tokens in a `tokenizer.json`, which does not say what they are for."""


class Tokenizer(Protocol):
    size: int
    pad: int
    bos: int
    eos: int
    unk: int
    sha256: str
    byte_ids: frozenset[int]

    def encode(self, texts: Sequence[str], side: str = "source") -> list[list[int]]: ...

    def decode(self, rows: Iterable[Sequence[int]]) -> list[str]: ...


def trained(sentences: Iterable[str], vocabulary: int, cache: Path) -> SentencePiece:
    """A joint byte-pair encoding of `sentences`, trained once and kept below `cache`.

    The order of the sentences does not matter. Raises UserError for a vocabulary that is too small.
    """
    if vocabulary < SMALLEST:
        raise UserError(f"data.text.vocabulary={vocabulary}: at least {SMALLEST}, 256 of which are bytes")
    library = _library()
    text = sorted(sentences)
    settings = {**RECIPE, "vocab_size": vocabulary, "version": library.__version__}
    key = text_hash([json.dumps(settings, sort_keys=True), *text])
    path = cache / "text" / f"sentencepiece-{key[:16]}.model"

    def train() -> bytes:
        out = io.BytesIO()
        options = {**RECIPE, "vocab_size": vocabulary, "minloglevel": 2}
        try:
            library.SentencePieceTrainer.train(sentence_iterator=iter(text), model_writer=out, **options)
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"data.text.vocabulary={vocabulary}: no tokenizer for {len(text)} sentences: {error}"
            ) from error
        return out.getvalue()

    return SentencePiece(kept.content(path, train))


def existing(path: str | Path) -> Tokenizer:
    """A SentencePiece model (NAME.model, NAME.spm), a file of Hugging Face's tokenizers (NAME.json), or the folder of
    a Hugging Face model."""
    path = Path(path).expanduser()
    if path.is_dir():
        return HuggingFace(path)
    if not path.is_file():
        raise UserError(f"data.text.tokenizer={path}: there is no such file or folder")
    if path.suffix == ".json":
        return TokenizersFile(path)
    return SentencePiece(path.read_bytes(), str(path))


def _library() -> Any:
    return needed("sentencepiece", "text needs SentencePiece")


def _until(row: Sequence[int], eos: int, left_out: frozenset[int], size: int) -> list[int]:
    """The ids before the first eos that stand for text."""
    ids = list(map(int, row))
    if eos in ids:
        ids = ids[: ids.index(eos)]
    return [number for number in ids if number not in left_out and 0 <= number < size]


class SentencePiece:
    """A SentencePiece model with eos. One without padding or start token pads with eos and starts from it.

    Text comes back as it was, but for the character U+2581, which these models use for a space.
    """

    def __init__(self, model: bytes, called: str = "the tokenizer"):
        library = _library()
        try:
            self._model = library.SentencePieceProcessor(model_proto=model)
        except (RuntimeError, OSError) as error:
            raise UserError(f"{called} is no SentencePiece model: {str(error)[:200]}") from None
        self.sha256 = hashlib.sha256(model).hexdigest()
        self.size, self.unk, self.eos = self._model.vocab_size(), self._model.unk_id(), self._model.eos_id()
        if self.eos < 0:
            raise UserError(f"{called} has no end-of-sentence token")
        self.pad = self._model.pad_id() if self._model.pad_id() >= 0 else self.eos
        self.bos = self._model.bos_id() if self._model.bos_id() >= 0 else self.eos
        self.byte_ids = frozenset(number for number in range(self.size) if self._model.is_byte(number))
        self._silent = frozenset((self.pad, self.bos))

    def kept_parts(self) -> bytes:
        """Of what of_kept_parts makes it again (data.columns)."""
        return self._model.serialized_model_proto()

    @classmethod
    def of_kept_parts(cls, model: bytes) -> SentencePiece:
        return cls(model)

    def encode(self, texts: Sequence[str], side: str = "source") -> list[list[int]]:
        return [[*ids, self.eos] for ids in self._model.encode(list(texts))]

    def decode(self, rows: Iterable[Sequence[int]]) -> list[str]:
        ids = [_until(row, self.eos, self._silent, self.size) for row in rows]
        return self._model.decode(ids) if ids else []


def read_tokenizers_file(path: Path) -> tuple[Any, dict[str, str | None]]:
    """(tokenizers.Tokenizer of a `tokenizer.json`, role -> its token of USUAL_NAMES). Raises UserError where it is none."""
    library = needed("tokenizers", f"{path} needs Hugging Face's tokenizers", "transformers")
    try:
        model = library.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"{path} is no file of Hugging Face's tokenizers: {str(error)[:200]}") from None
    model.no_padding()
    model.no_truncation()
    known = model.get_vocab(with_added_tokens=True)
    return model, {role: next(filter(known.__contains__, names), None) for role, names in USUAL_NAMES.items()}


def read_folder(folder: Path) -> tuple[Any, list[str]]:
    """(transformers' tokenizer of a folder, "sha256  name" of each of its files). Raises UserError where it holds none."""
    library = needed("transformers", f"{folder} needs transformers")
    try:
        made = library.AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{folder} holds no tokenizer: {str(error).splitlines()[0][:200]}") from None
    files = sorted({path for pattern in FILES for path in folder.glob(pattern) if path.is_file()})
    return made, [f"{sha256_file(path)}  {path.name}" for path in files]


class TokenizersFile:
    """A `tokenizer.json` by itself: special tokens are known by USUAL_NAMES."""

    def __init__(self, path: Path):
        self._model, names = read_tokenizers_file(path)
        self.sha256 = sha256_file(path)
        self.size = self._model.get_vocab_size()
        ids: dict[str, Any] = {role: name and self._model.token_to_id(name) for role, name in names.items()}
        if ids["eos"] is None:
            raise UserError(f"{path} has no end-of-sentence token; known names: {', '.join(USUAL_NAMES['eos'])}")
        self.eos: int = ids["eos"]
        self.pad, self.bos, self.unk = (self.eos if ids[role] is None else ids[role] for role in ("pad", "bos", "unk"))
        self.byte_ids = frozenset(
            number for byte in range(256) if (number := self._model.token_to_id(f"<0x{byte:02X}>")) is not None
        )
        self._silent = frozenset((self.pad, self.bos))

    def encode(self, texts: Sequence[str], side: str = "source") -> list[list[int]]:
        return [[*made.ids, self.eos] for made in self._model.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, rows: Iterable[Sequence[int]]) -> list[str]:
        return self._model.decode_batch([_until(row, self.eos, self._silent, self.size) for row in rows])


class HuggingFace:
    """The tokenizer of a Hugging Face model's folder, with the target side's own vocabulary or language where it has
    one. bos is the model's `decoder_start_token_id` where its config.json has that."""

    def __init__(self, folder: Path):
        self._model, files = read_folder(folder)
        self.sha256 = text_hash(files)
        config = folder / "config.json"
        start = json.loads(config.read_text()).get("decoder_start_token_id") if config.is_file() else None
        if self._model.eos_token_id is None:
            raise UserError(f"the tokenizer in {folder} has no end-of-sentence token")
        self.size, self.eos = len(self._model), self._model.eos_token_id
        self.pad, self.unk = (
            self.eos if number is None else number for number in (self._model.pad_token_id, self._model.unk_token_id)
        )
        starts = (start, self._model.bos_token_id, self.pad)
        self.bos = next(number for number in starts if number is not None)
        self.byte_ids: frozenset[int] = frozenset()

    def encode(self, texts: Sequence[str], side: str = "source") -> list[list[int]]:
        if not texts:
            return []
        given = {"text_target": list(texts)} if side == "target" else {"text": list(texts)}
        rows = self._model(**given, padding=False, truncation=False)["input_ids"]
        return [row if row and row[-1] == self.eos else [*row, self.eos] for row in rows]

    def decode(self, rows: Iterable[Sequence[int]]) -> list[str]:
        ids = [_until(row, self.eos, frozenset((self.pad,)), self.size) for row in rows]
        return self._model.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
