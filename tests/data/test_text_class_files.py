"""Texts with classes from files of the user's own: what is read, and what is said of files that cannot be used."""

import gc
import json

import numpy as np
import pytest

from kdrun.data import ragged, stored
from kdrun.domains.text.files import text_file, unlabelled_texts
from kdrun.domains.text.module import without_duplicates
from kdrun.domains.text.shipped.glue import glue
from kdrun.domains.text.source import digests
from kdrun.domains.text_labels.files import labelled_texts
from kdrun.domains.text_regression.files import text_numbers
from kdrun.problems import UserError

ROWS = [("good, really", "pos"), ("bad", "neg"), ("fine", "pos"), ("awful", "neg")]


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def table(mark=",", head=("Review", "Label"), rows=ROWS):
    cells = [head, *rows]
    return "\r\n".join(mark.join(f'"{cell}"' if mark in cell else cell for cell in row) for row in cells) + "\r\n"


def records(rows=ROWS):
    return "".join(json.dumps({"review": text, "label": label}) + "\n" for text, label in rows)


@pytest.mark.parametrize(
    ("name", "content", "encoding"),
    [
        ("a.csv", table(), "utf-8"),
        ("a.csv", table(";"), "utf-8-sig"),  # as Excel writes it
        ("a.csv", table(";"), "utf-16"),
        ("a.tsv", table("\t"), "utf-8"),
        ("a.jsonl", records(), "utf-8-sig"),
    ],
)
def test_every_kind_of_file_gives_the_same_samples(tmp_path, name, content, encoding):
    made = text_file(write(tmp_path / name, content, encoding), text="Review", label="Label")
    assert made.texts == tuple(text for text, _ in ROWS)
    assert [made.classes[number] for number in made.y] == [label for _, label in ROWS]
    assert made.ids.tolist() == [0, 1, 2, 3] and made.seconds is None
    reference = text_file(write(tmp_path / "reference.csv", table()), text="review", label="label")
    assert made.content_hash == reference.content_hash


def test_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame(ROWS, columns=["review", "label"]).to_parquet(tmp_path / "a.parquet")
    assert text_file(tmp_path / "a.parquet", text="review").texts == tuple(text for text, _ in ROWS)


def test_pairs_numbers_as_classes_and_a_column_of_splits(tmp_path):
    rows = [("a", "b", "10", "train"), ("c", "d", "9", "train"), ("e", "f", "9", "dev"), ("g", "h", "10", "test")]
    path = write(tmp_path / "pairs.csv", table(head=("one", "two", "stars", "part"), rows=rows))
    made = text_file(path, text=["one", "two"], label="stars", split="part")
    assert made.classes == ("9", "10") and made.y.tolist() == [1, 0, 0, 1]
    assert made.seconds == ("b", "d", "f", "h") and made.split.tolist() == [0, 0, 1, 2]
    assert text_file(path, text=["two", "one"], label="stars", split="part").content_hash != made.content_hash


def test_further_files_for_splits_have_ids_behind(tmp_path):
    train, test = write(tmp_path / "train.csv", table()), write(tmp_path / "test.csv", table(rows=[("so so", "neg")]))
    made = text_file(train, text="review", test_root=test)
    assert made.split.tolist() == [0, 0, 0, 0, 2] and made.ids.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        (table(), {"text": "Reveiw"}, ("no column reveiw", "closest: review", "it has: review, label")),
        (table(), {"text": "review", "label": "labels"}, ("no column labels", "closest: label")),
        (table(rows=[*ROWS, ("", "pos"), ("x", "")]), {"text": "review"}, ("in 2 rows: lines 6, 7", "data.empty=drop")),
        (table(), {"text": ["a", "b", "c"]}, ("data.text=", "data.text=[FIRST,SECOND]")),
        (table(), {"text": "review", "empty": "drp"}, ("data.empty=drp", "closest: drop")),
        (table(), {"text": "review", "split": "label"}, ("column label says neither train, val", "lines 2, 3")),
        ("", {"text": "review"}, ("is empty",)),
    ],
)
def test_what_is_said_of_a_table_that_does_not_fit(tmp_path, content, options, said):
    with pytest.raises(UserError) as caught:
        text_file(write(tmp_path / "a.csv", content), **options)
    text = "\n".join(caught.value.lines)
    assert all(words in text for words in said), text
    assert len(caught.value.lines) <= 4


def test_a_label_only_in_test_is_named_with_its_lines_and_the_nearest(tmp_path):
    train = write(tmp_path / "train.csv", table())
    test = write(tmp_path / "test.csv", table(rows=[("x", "neg"), ("y", "poss"), ("z", "poss")]))
    with pytest.raises(UserError, match=r"label 'poss' in lines 3, 4 is in no training row.*closest: pos"):
        text_file(train, text="review", test_root=test)


def test_a_file_in_another_encoding_is_told_with_the_line(tmp_path):
    path = write(tmp_path / "latin.csv", table(rows=[("a", "pos"), ("schön", "neg")]), "latin-1")
    with pytest.raises(UserError, match=r"not a text in UTF-8 \(line 3\)"):
        text_file(path, text="review")
    path = write(tmp_path / "latin.jsonl", '{"text": "a"}\n{"text": "schön"}\n', "latin-1")
    with pytest.raises(UserError, match=r"not a text in UTF-8 \(line 2\)"):
        text_file(path)


def test_broken_lines_of_jsonl_are_named(tmp_path):
    with pytest.raises(UserError, match="line 2: no JSON"):
        text_file(write(tmp_path / "a.jsonl", '{"text": "a", "label": 1}\n{"text"\n'))
    with pytest.raises(UserError, match="line 1: a list"):
        text_file(write(tmp_path / "a.jsonl", "[1]\n"))


def test_rows_without_text_are_dropped_on_request_and_counted(tmp_path):
    made = text_file(write(tmp_path / "a.csv", table(rows=[("", "pos"), *ROWS])), text="review", empty="drop")
    assert made.ids.tolist() == [1, 2, 3, 4] and "1 row of a.csv" in made.notes[0]


def test_equal_texts_do_not_cross_splits(tmp_path):
    rows = [("Same  text", "pos"), ("b", "neg"), ("same text", "pos"), ("c", "neg"), ("c", "neg"), ("d", "pos")]
    made = text_file(write(tmp_path / "a.csv", table(rows=rows)), text="review")
    split, notes = without_duplicates(made, np.array([0, 0, 2, 1, 2, 0], np.int8))
    assert split.tolist() == [-1, 0, 2, -1, 2, 0]
    assert notes == [
        "1 val texts left out: they are also in test",
        "1 training texts left out: they are also in val or test",
    ]


def test_digests_tell_pairs_apart():
    first, second, third = digests(["a b", "a", "A  b"], ["c", "b c", "c"])
    assert first.tolist() != second.tolist() and first.tolist() == third.tolist()


@pytest.mark.parametrize("name", ["more.csv", "more.txt"])
def test_texts_without_labels(tmp_path, name):
    like = text_file(write(tmp_path / "a.csv", table()), text="review")
    content = "one\n\ntwo\n" if name.endswith("txt") else "id,review\n1,one\n2,\n3,two\n"
    made = unlabelled_texts(write(tmp_path / name, content), like)
    assert made.texts == ("one", "two") and made.classes == ()


def test_quotation_marks_in_files_of_glue_are_letters(tmp_path):
    rows = [("1", '"Yes" , he said .', 'He said "no .'), ("0", 'a " b', "c"), ("1", "d", '"e f')]
    text = "".join("\t".join(row) + "\n" for row in [("Quality", "#1 String", "#2 String"), *rows])
    (tmp_path / "mrpc").mkdir()
    for name in ("train.tsv", "dev.tsv"):
        write(tmp_path / "mrpc" / name, text, "utf-8-sig")
    made = glue(tmp_path / "mrpc", "mrpc")
    assert list(zip(made.texts, made.seconds, strict=True)) == [row[1:] for row in rows] * 2
    assert made.classes == ("0", "1") and made.split.tolist() == [0, 0, 0, 2, 2, 2]
    with pytest.raises(UserError, match="closest: mrpc"):
        glue(tmp_path, "mrpcs")


def test_quoted_cells_over_several_lines_are_read_as_a_spreadsheet_wrote_them(tmp_path):
    path = write(tmp_path / "a.tsv", 'text\tlabel\n"one\ntwo ""x"""\tpos\nplain\tneg\n')
    assert text_file(path).texts == ('one\ntwo "x"', "plain")


def test_folders_of_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    kinds = datasets.Features({"review": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})

    def of(rows):
        return datasets.Dataset.from_dict(
            {"review": [r[0] for r in rows], "label": [r[1] for r in rows]}, features=kinds
        )

    of(ROWS).save_to_disk(tmp_path / "single")
    made = text_file(tmp_path / "single", text="review")
    reference = text_file(write(tmp_path / "reference.csv", table()), text="review", label="label")
    assert made.content_hash == reference.content_hash
    splits = {"train": of(ROWS), "validation": of(ROWS[:1]), "test": of(ROWS[1:3])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "several")
    made = text_file(tmp_path / "several", text="review")
    assert made.split.tolist() == [0, 0, 0, 0, 1, 2, 2] and made.classes == ("neg", "pos")
    assert made.ids.tolist() == list(range(7)) and made.places[4] == "validation line 1"
    with pytest.raises(UserError, match="no column text"):
        text_file(tmp_path / "several")
    with pytest.raises(UserError, match="none that the package datasets keeps rows in"):
        text_file(tmp_path)


def test_missing_values_of_parquet_are_empty_cells(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"text": ["a", None, "c"], "label": [1, 2, None]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="no text or no label in 2 rows: lines 2, 3"):
        text_file(tmp_path / "a.parquet")
    write(tmp_path / "b.parquet", "text,label\n")
    with pytest.raises(UserError, match="no Parquet file"):
        text_file(tmp_path / "b.parquet")


def test_texts_without_labels_in_another_encoding_are_told(tmp_path):
    like = text_file(write(tmp_path / "a.csv", table()), text="review")
    with pytest.raises(UserError, match=r"data.unlabelled=.*not a text in UTF-8 \(line 2\)"):
        unlabelled_texts(write(tmp_path / "more.txt", "one\nschön\n", "latin-1"), like)


@pytest.mark.parametrize("kind", ["classes", "labels", "numbers"])
def test_rows_that_are_many_are_in_files_and_the_same(tmp_path, monkeypatch, kind):
    """Texts of tables come row by row, so that they may be more than memory holds."""
    read = {"classes": text_file, "labels": labelled_texts, "numbers": text_numbers}[kind]
    cells = {"classes": "ab", "labels": ("x|y", "y"), "numbers": ("1", "2,5")}[kind]
    rows = [(f"text {number}", f"other {number % 5}", cells[number % 2]) for number in range(40)]
    for name, part in (("a.csv", rows[:30]), ("b.csv", rows[30:])):
        write(tmp_path / name, table(";", ("one", "two", "label"), [*part[:7], ("", "b", cells[0]), *part[7:]]))
    options = {"text": ["one", "two"], "label": "label", "test_root": tmp_path / "b.csv", "empty": "drop"}
    here = read(tmp_path / "a.csv", **options)
    monkeypatch.setattr(stored, "HELD", 50)
    there = read(tmp_path / "a.csv", **options, cache=tmp_path / "cache")
    assert all(isinstance(part, stored.StoredTexts) for part in (*there.texts.columns, *there.places.columns))
    assert there.content_hash == here.content_hash and there.notes == here.notes
    for name in ("texts", "seconds", "places"):
        assert list(getattr(there, name)) == list(getattr(here, name)) and getattr(there, name)[-1]
    assert there.places[7] == "a.csv line 10" and there.describe(35) == "b.csv line 7 ('text 35')"
    assert not list((tmp_path / "cache" / "spooled").iterdir()), "nothing is left of the files"


def test_a_pool_without_labels_is_in_files_too_and_follows_the_others(tmp_path, monkeypatch):
    like = text_file(write(tmp_path / "a.csv", table()), text="review")
    path = write(tmp_path / "more.txt", "".join(f"further {number}\n\n" for number in range(30)))
    here = unlabelled_texts(path, like)
    monkeypatch.setattr(stored, "HELD", 50)
    there = unlabelled_texts(path, like, tmp_path / "cache")
    assert isinstance(there.texts, stored.StoredTexts) and there.content_hash == here.content_hash
    both = like.followed_by(there, np.array([29, 3]), 1 << 40)
    assert tuple(both.texts) == (*like.texts, "further 29", "further 3")
    assert both.texts[-1] == both.texts[5] == "further 3" and both.texts[3:5] == ["awful", "further 29"]
    assert list(both.places) == [*like.places, "", ""]
    with pytest.raises(IndexError):
        both.texts[6]


def test_tokens_that_are_many_are_in_a_file_and_the_same(tmp_path, monkeypatch):
    blocks = [ragged.Ragged.of([[1, 2, 3], []]), ragged.Ragged.of([[4]]), ragged.Ragged.of([[5, 6], [7]])]
    here = ragged.Ragged.joined(blocks)
    monkeypatch.setattr(ragged, "HELD", 4)
    growing = ragged.Growing(tmp_path)
    for block in blocks:
        growing.add(block)
    there = growing.rows()
    assert isinstance(there.flat, np.memmap) and there.starts.tolist() == here.starts.tolist() == [0, 3, 3, 4, 6, 7]
    assert there.flat.tolist() == here.flat.tolist() == list(range(1, 8))


def test_a_column_that_some_rows_lack_is_found_in_later_ones(tmp_path):
    rows = '{"text": "a"}\n{"text": "b", "label": 1}\n{"label": 2, "Text": "c"}\n'
    made = text_file(write(tmp_path / "a.jsonl", rows), empty="drop")
    assert made.texts == ("b", "c") and made.ids.tolist() == [1, 2]
    with pytest.raises(UserError, match="no column labels; closest: label"):
        text_file(tmp_path / "a.jsonl", label="labels")


def test_a_label_that_begins_like_a_list_is_a_label(tmp_path):
    made = labelled_texts(write(tmp_path / "a.csv", 'text,labels\na,[draft|x\nb,"[""x"", ""y""]"\n'))
    assert made.classes == ("[draft", "x", "y") and made.y.tolist() == [[1, 1, 0], [0, 1, 1]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,label\n", "none of its 0 rows can be trained on"),
        ("a.csv", "text,label\na,\n", "none of its 1 row can be trained on"),
        ("a.jsonl", '{"text": ["a"], "label": "x"}\n', "line 1, column text: a list, expected a text"),
        ("a.jsonl", '{"text": "a", "label": {"x": 1}}\n', r"line 1, column label: \{...\}, expected a text"),
        ("a.jsonl", '{"text": "b", "label": 1}\n{"text": "a\\ud800", "label": 1}\n', "line 2: half a character"),
        ("a.jsonl", '{"text": ' + "[" * 100_000, "line 1: no JSON"),
    ],
)
def test_what_is_no_text_is_told_with_its_line(tmp_path, name, content, message):
    with pytest.raises(UserError, match=message):
        text_file(write(tmp_path / name, content), empty="drop")


def test_whole_characters_in_two_halves_and_long_cells_are_texts(tmp_path):
    assert text_file(write(tmp_path / "a.jsonl", '{"text": "\\ud83d\\ude00", "label": 1}\n')).texts == ("\U0001f600",)
    long = "word " * 40_000 + "end"  # more than the csv module reads unless it is told
    assert text_file(write(tmp_path / "a.csv", f'text,label\n"{long}",x\n')).texts == (long,)


def test_a_column_is_one_thing(tmp_path):
    path = write(tmp_path / "a.csv", table())
    for options in ({"text": "label"}, {"text": ["review", "Review"]}):
        with pytest.raises(UserError, match="is named twice"):
            text_file(path, **options)


def test_numbers_that_float32_cannot_hold_are_told(tmp_path):
    with pytest.raises(UserError, match="'1e39' in column label is no number, in line 2"):
        text_numbers(write(tmp_path / "a.csv", "text,label\na,1e39\nb,1\n"))


def test_an_error_in_a_table_leaves_no_noise_behind(tmp_path, capfd):
    with pytest.raises(UserError, match="no column labels") as caught:
        text_file(write(tmp_path / "a.csv", table()), text="review", label="labels")
    del caught
    gc.collect()
    assert "Exception ignored" not in capfd.readouterr().err


def test_nan_in_json_is_no_label(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"text": "t {n}", "label": {"NaN" if n == 1 else n % 2}}}\n' for n in range(4)))
    with pytest.raises(UserError, match="no text or no label in 1 row: line 2"):
        text_file(path, text="text", label="label")
