"""Files that may be larger than memory: read row by row, kept in files as soon as they are many, and in the same rows of tokens."""

import json

import numpy as np
import pytest
from language_support import module_of

from kdrun.data import stored
from kdrun.domains.language import kept_rows, module, rows
from kdrun.domains.language.files import chats, text_corpus
from kdrun.domains.language.shipped.made_corpus import made_corpus
from kdrun.domains.language.tokens import trained
from kdrun.problems import UserError

TEXTS = tuple(text for text in made_corpus(50).documents)
CHATS = [{"prompt": text, "completion": f"{number}.", "hint": str(number)} for number, text in enumerate(TEXTS)]


def written(folder, kind):
    path = folder / f"{kind}.jsonl"
    records = CHATS if kind == "chats" else [{"text": text} for text in TEXTS]
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


@pytest.mark.parametrize("kind", ["texts", "chats"])
def test_rows_that_are_many_are_in_a_file_and_the_same(tmp_path, monkeypatch, kind):
    read, path = (chats if kind == "chats" else text_corpus), written(tmp_path, kind)
    here = read(path)
    monkeypatch.setattr(stored, "HELD", 100)
    there = read(path, cache=tmp_path / "cache")
    assert isinstance(there.documents, stored.RowColumn if kind == "chats" else stored.StoredTexts)
    assert tuple(there.documents) == here.documents and there.documents[7] == here.documents[7]
    assert there.content_hash == here.content_hash
    assert there.fields is here.fields is None or tuple(there.fields) == here.fields
    assert not list((tmp_path / "cache" / "spooled").iterdir()), "nothing is left of the file"


def test_a_column_of_a_csv_file_is_found_as_its_header_writes_it(tmp_path):
    (tmp_path / "a.csv").write_text("Review;Stars\none, two;3\nthree;4\n", encoding="utf-8-sig")
    assert text_corpus(tmp_path / "a.csv", column="Review").documents == ("one, two", "three")


def test_a_file_is_not_read_whole(tmp_path, monkeypatch):
    path = written(tmp_path, "texts")
    first = next(text_corpus.__globals__["records"](path, "x"))
    assert first == (1, {"text": TEXTS[0]})
    path.write_bytes(path.read_bytes() + b'{"text": "\xff"}\n')
    with pytest.raises(UserError, match=f"line {len(TEXTS) + 1}"):
        text_corpus(path)


@pytest.mark.parametrize("size", [4, 10, 1 << 20])
def test_parts_between_separators_are_those_of_the_whole_text(tmp_path, monkeypatch, size):
    from kdrun.data import records

    monkeypatch.setattr(records, "CHARACTERS", size)
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\r\n\r\ntwo\n\n\n\nthree\n\n\nfour")
    expected = ["one", "two", "", "three", "\nfour"]
    assert list(records.parts_in(path, "x", "\n\n")) == expected


def test_byte_pairs_do_not_depend_on_the_order_of_texts(tmp_path):
    one, other = (
        trained(texts, 320, tmp_path / name) for name, texts in (("one", TEXTS), ("other", sorted(TEXTS, reverse=True)))
    )
    assert one.sha256 == other.sha256
    assert one.sha256 != trained(TEXTS[:-1], 320, tmp_path / "one").sha256


@pytest.mark.parametrize("pack", [False, True])
def test_tokens_in_files_are_those_in_memory(tmp_path, monkeypatch, pack):
    monkeypatch.setattr(rows, "AT_ONCE", 64)
    tokenizer = trained(TEXTS, 320, tmp_path)

    def made(folder):
        found, _ = rows.pieces(range(len(TEXTS)), TEXTS, tokenizer, 12)
        return rows.packed(found, 24, 0, folder) if pack else rows.separate(found, 0, folder)

    (folder := tmp_path / "rows").mkdir()
    here, there = made(None), made(folder)
    assert isinstance(there.tokens.flat, np.memmap) and {path.suffix for path in folder.iterdir()} == {".npy"}
    for name, array in kept_rows._arrays(here).items():
        np.testing.assert_array_equal(array, kept_rows._arrays(there)[name])


def test_rows_without_bound_are_packed_at_once():
    """A search over all sizes of free room took 9 seconds for 300 pieces."""
    pieces = [rows.Piece.of(number, [1] * (number % 50 + 1), [0] * (number % 50 + 1)) for number in range(3_000)]
    made = rows.packed(pieces, 10_000_000, 0)
    assert len(made) == 1 and int(made.lengths[0]) == sum(len(piece.ids) for piece in pieces)


def test_a_length_above_all_documents_is_told(tmp_path):
    notes = module_of(tmp_path, max_length=1_000_000).audit()["notes"]
    assert [note for note in notes if "max_length=1000000 is more than all documents together" in note]
    assert not [note for note in module_of(tmp_path).audit()["notes"] if "all documents together" in note]


def test_a_packed_row_too_long_for_its_mask_is_refused(tmp_path, monkeypatch):
    """`kdrun plan` with a length of a million asked for 290 GB."""
    monkeypatch.setattr(module, "MASK", 100**2)
    with pytest.raises(UserError, match=r"max_length=1000000: a packed row of [\d,]+ tokens is too long") as caught:
        module_of(tmp_path, max_length=1_000_000)
    assert "data.language.max_length=100 at most" in caught.value.lines[1]
    assert len(module_of(tmp_path, max_length=100).samples("train"))
    assert len(module_of(tmp_path, max_length=1_000_000, pack=False).samples("train"))


@pytest.mark.parametrize("kind", ["texts", "chats"])
def test_folders_of_datasets_are_read_with_their_splits(tmp_path, kind):
    datasets = pytest.importorskip("datasets")
    records = CHATS if kind == "chats" else [{"text": text} for text in TEXTS]
    parts = {"train": records[:30], "validation": records[30:40], "test": records[40:]}
    whole = datasets.DatasetDict({name: datasets.Dataset.from_list(part) for name, part in parts.items()})
    whole.save_to_disk(str(tmp_path / "all"))
    read = chats if kind == "chats" else text_corpus
    source, plain = read(tmp_path / "all"), read(written(tmp_path, kind))
    assert source.documents == plain.documents and source.fields == plain.fields
    assert np.bincount(source.split).tolist() == [30, 10, 10]
    alone = read(tmp_path / "all" / "train", test_root=tmp_path / "all" / "test")
    assert np.bincount(alone.split).tolist() == [30, 0, 10]
