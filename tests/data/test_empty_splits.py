"""Data of which nothing could be held out are refused before anything is trained."""

import json

import pytest

from kdrun import cli

TEXT = ("model=text_small", "data=csv", "data.text=text", "data.label=label", "seed=0")
LANGUAGE = ("model=lm_small", "data=text_corpus", "seed=0")


@pytest.mark.parametrize(
    ("words", "file", "content", "told"),
    [
        (
            TEXT,
            "ids.csv",
            "text,label\n" + "".join(f"text {n},{n}\n" for n in range(20)),
            ["for val and test", "20 train"],
        ),
        (LANGUAGE, "notes.txt", "the soup was good, the room was cold. " * 60, ["for val and test", "data.separator"]),
        (
            LANGUAGE,
            "two.jsonl",
            "".join(json.dumps({"text": f"a day {n} " * 9}) + "\n" for n in range(2)),
            ["for val ("],
        ),
    ],
)
def test_a_split_without_samples_is_told(words, file, content, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / file).write_text(content)
    assert cli.main(["plan", *words, f"data.root={file}"]) == 2
    message = capsys.readouterr().err
    assert all(part in message for part in told) and len(message.splitlines()) <= 4, message
