"""Texts and chats of files of the user's own, and what is said of bad ones."""

import json

import pytest

from kdrun.domains.language.files import chats, text_corpus
from kdrun.problems import UserError


def _jsonl(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_a_folder_of_texts_in_several_kinds_of_files(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_text("one\n\ntwo\n\n\n\nthree")
    (tmp_path / "deep" / "b.md").write_text("four")
    _jsonl(tmp_path / "c.jsonl", [{"text": "five"}, {"text": " "}])
    source = text_corpus(tmp_path, separator="\n\n")
    assert set(source.documents) == {
        "one",
        "two",
        "three",
        "four",
        "five",
    }
    assert source.notes == ("2 rows without text left out",)
    assert text_corpus(tmp_path / "a.txt").documents == ("one\n\ntwo\n\n\n\nthree",)


def test_a_separator_is_typed_with_backslashes_and_one_that_no_file_has_is_told(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\tthree")
    assert text_corpus(tmp_path, separator=r"\n\n").documents == ("one", "two\tthree")
    assert text_corpus(tmp_path, separator=r"\t").documents == ("one\n\ntwo", "three")
    with pytest.raises(UserError, match=r"data\.separator=---: it stands in no file"):
        text_corpus(tmp_path, separator="---")


def test_splits_by_files(tmp_path):
    for name in ("train", "val", "test"):
        (tmp_path / f"{name}.txt").write_text(name)
    source = text_corpus(tmp_path / "train.txt", val_root=tmp_path / "val.txt", test_root=tmp_path / "test.txt")
    assert source.split.tolist() == [0, 1, 2] and source.documents == ("train", "val", "test")


def test_a_missing_column_is_told_with_the_nearest(tmp_path):
    path = _jsonl(tmp_path / "x.jsonl", [{"txet": "a"}])
    with pytest.raises(UserError, match=r"row 1: no column 'text'.*txet"):
        text_corpus(path)


def test_another_encoding_is_told_with_its_line(tmp_path):
    (tmp_path / "x.txt").write_bytes("eins\nzwei\ndrei größer".encode("latin-1"))
    with pytest.raises(UserError, match=r"not a text in UTF-8 \(line 3\)"):
        text_corpus(tmp_path / "x.txt")


def test_empty_rows_stop_where_asked(tmp_path):
    path = _jsonl(tmp_path / "x.jsonl", [{"text": "a"}, {"text": ""}])
    with pytest.raises(UserError, match=r"no text in 1 row: x.jsonl row 2"):
        text_corpus(path, empty="stop")


def test_chats_without_an_assistant_are_told_with_their_rows_or_dropped(tmp_path):
    good = {"prompt": "a", "completion": "b"}
    path = _jsonl(tmp_path / "x.jsonl", [good, {"messages": [{"role": "user", "content": "a"}]}, good])
    with pytest.raises(UserError, match=r"line 2: .*no turn of an assistant"):
        chats(path)
    source = chats(path, wrong="drop")
    assert len(source) == 2 and source.notes == ("1 row that nothing can be learned of left out",)


def test_a_file_that_has_no_chats_is_told_with_the_nearest_form(tmp_path):
    path = _jsonl(tmp_path / "x.jsonl", [{"mesages": []}])
    with pytest.raises(UserError, match=r"its columns are mesages.*messages"):
        chats(path)


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "a"}]},
                {"role": "assistant", "content": "b"},
            ]
        },
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        {"prompt": "a", "completion": "b"},
        {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]},
        {"instruction": "a", "input": "", "output": "b"},
    ],
)
def test_chats_in_all_forms(record, tmp_path):
    source = chats(_jsonl(tmp_path / "x.jsonl", [record]))
    assert source.chats and source.documents == ((("user", "a"), ("assistant", "b")),)
