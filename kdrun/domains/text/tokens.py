"""Texts to ids: the tokenizer of a network of transformers, or byte pairs of the training texts (both by `tokenizers`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kdrun.data import fetch, kept
from kdrun.data.ragged import Growing, Ragged
from kdrun.data.source import text_hash
from kdrun.data.tokenizer import read_folder, read_tokenizers_file
from kdrun.files import sha256_file
from kdrun.optional import needed
from kdrun.problems import UserError

MINILM = "minilm"
"""A tokenizer's (or a network's) name instead of its path: that of `kdrun fetch minilm`."""
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
BLOCK = 1_000
"""Texts that are encoded at a time."""


class TextTokenizer:
    """A fast tokenizer: a text becomes its ids with the special tokens that the tokenizer puts around it.

    size    ids are below it; pad: id that fills rows; sha256: of its content
    """

    def __init__(self, model: Any, pad: int, sha256: str, trained: bytes = b"") -> None:
        self.model, self.pad, self.sha256, self._trained = model, pad, sha256, trained
        self.size: int = model.get_vocab_size(with_added_tokens=True)

    def kept_parts(self) -> bytes:
        """The content of one that was trained here, of which of_kept_parts makes it again (data.columns)."""
        return self._trained

    @classmethod
    def of_kept_parts(cls, content: bytes) -> TextTokenizer:
        library = needed("tokenizers", "text needs Hugging Face's tokenizers", "transformers")
        model = library.Tokenizer.from_buffer(content)
        return cls(model, model.token_to_id(SPECIAL[0]), hashlib.sha256(content).hexdigest(), content)

    def content(self, max_length: int) -> bytes:
        """A tokenizer.json (of Hugging Face's tokenizers) that cuts texts to `max_length` and fills batches up with `pad`."""
        made = type(self.model).from_str(self.model.to_str())
        made.enable_truncation(max_length)
        made.enable_padding(pad_id=self.pad, pad_token=made.id_to_token(self.pad))
        return made.to_str(pretty=True).encode()

    def encode(
        self, texts: Sequence[str], seconds: Sequence[str] | None, max_length: int, folder: Path | None = None
    ) -> tuple[Ragged, Ragged | None, list[int]]:
        """(ids, which of a pair's texts each id is of (0, 1), positions of the texts that were cut to `max_length`). folder: for ids that
        are many, see ragged.Growing."""
        self.model.enable_truncation(max_length)
        ids, types, cut = Growing(folder), Growing(folder), []
        for first in range(0, max(len(texts), 1), BLOCK):
            chosen = list(texts[first : first + BLOCK])
            given = chosen if seconds is None else list(zip(chosen, seconds[first : first + BLOCK], strict=True))
            made = self.model.encode_batch(given)
            ids.add(Ragged.of([one.ids for one in made]))
            if seconds is not None:
                types.add(Ragged.of([one.type_ids for one in made]))
            cut += [first + place for place, one in enumerate(made) if one.overflowing]
        return ids.rows(), None if seconds is None else types.rows(), cut


def trained(texts: Sequence[str], vocabulary: int, cache: Path) -> TextTokenizer:
    """Byte pairs (as of RoBERTa, in small letters) of `texts`, trained once and kept below `cache`. Their order does not matter, and
    every training gives the same; word pieces do not (the library goes through words in the order of a hash that differs). Texts are gone
    through twice, and none is held."""
    library = needed("tokenizers", "text needs Hugging Face's tokenizers", "transformers")
    settings = {"model": "byte pairs", "vocabulary": vocabulary, "special": SPECIAL, "version": library.__version__}
    whole = sum(int.from_bytes(hashlib.sha256(text.encode()).digest()) for text in texts)
    path = cache / "text" / f"pairs-{text_hash([json.dumps(settings), f'{len(texts)} {whole}'])[:16]}.json"
    content = kept.content(path, lambda: _byte_pairs(library, texts, vocabulary).to_str().encode())
    return TextTokenizer.of_kept_parts(content)


def _byte_pairs(library: Any, texts: Iterable[str], vocabulary: int) -> Any:
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    begin, end = SPECIAL[2:4]
    model = library.Tokenizer(models.BPE())
    model.normalizer = normalizers.BertNormalizer(lowercase=True)
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    model.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    options = {"special_tokens": list(SPECIAL), "initial_alphabet": alphabet, "show_progress": False}
    model.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocabulary, **options))
    ids = {token: model.token_to_id(token) for token in (begin, end)}
    model.post_processor = processors.BertProcessing((end, ids[end]), (begin, ids[begin]))
    return model


def existing(path: str | Path) -> TextTokenizer:
    """A file of Hugging Face's tokenizers (NAME.json), the folder of a Hugging Face model, or "minilm" (kdrun fetch minilm)."""
    path = minilm_folder() if str(path) == MINILM else Path(path).expanduser()
    if not path.exists():
        raise UserError(f"data.tokens.tokenizer={path}: there is no such file or folder")
    if path.is_file():
        model, names = read_tokenizers_file(path)
        pad = None if names["pad"] is None else model.token_to_id(names["pad"])
        sha256 = sha256_file(path)
    else:
        made, files = read_folder(path)
        model, pad, sha256 = getattr(made, "backend_tokenizer", None), made.pad_token_id, text_hash(files)
        if model is None:
            raise UserError(f"the tokenizer in {path} is not one of Hugging Face's fast ones: it has no tokenizer.json")
        model.no_padding()
    return TextTokenizer(model, 0 if pad is None else pad, sha256)


def of_content(sha256: str, path: str | None, cache: Path) -> TextTokenizer:
    """The tokenizer with this content: that at `path`, or one that was trained and is kept below `cache`. UserError where it is neither."""
    if path is not None:
        tokenizer = existing(path)
        if tokenizer.sha256 != sha256:
            raise UserError(
                f"data.tokens.tokenizer={path}: its content is another one than when the network was trained"
            )
        return tokenizer
    for file in sorted((cache / "text").glob("pairs-*.json")):
        content = kept.read(file)
        if content is not None and hashlib.sha256(content).hexdigest() == sha256:
            return TextTokenizer.of_kept_parts(content)
    raise UserError(
        f"the tokenizer that the network was trained with (sha256 {sha256[:12]}) is not in {cache / 'text'}",
        "kdrun rerun RUN makes it again",
    )


def minilm_folder() -> Path:
    """The fetched folder. Raises UserError saying what to type where it is not there."""
    return fetch.needed(MINILM, fetch.default_cache(), MINILM)["config.json"].parent
