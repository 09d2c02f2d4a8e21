"""Tables of labels as spreadsheets, R and pandas write them."""

import unicodedata

import numpy as np
import pytest
from ct_support import body, write_nifti

from kdrun.data.class_labels import spelling
from kdrun.data.csv_integers import csv_integers
from kdrun.data.csv_table import read_csv
from kdrun.domains.ct.ct_folder import ct_folder
from kdrun.domains.images.shipped.mnist_5k import mnist_5k
from kdrun.domains.load import load_data
from kdrun.problems import UserError

AFFINE = np.array([[-3.0, 0, 0, 0], [0, -2.0, 0, 0], [0, 0, 5.0, 0], [0, 0, 0, 1]])
OPTIONS = {"slices": 3, "size": 8, "fraction": [0.0, 1.0]}
NAMES = ("DOE-1", "DOE-2", "DOE-3", "DOE-4")


@pytest.fixture
def cohort(tmp_path):
    root = tmp_path / "cohort"
    root.mkdir()
    for seed, name in enumerate(NAMES):
        array = np.ascontiguousarray(body(seed=seed).transpose(2, 1, 0))
        write_nifti(root / f"{name}.nii", array, AFFINE)
    return root


def load(root, text, **options):
    (root / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return ct_folder(root, **OPTIONS, **options, cache=root.parent / "cache")


def told(root, text, **options):
    with pytest.raises(UserError) as caught:
        load(root, text, **options)
    words = "\n".join(caught.value.lines)
    assert "DOE" not in words
    return words


def table(labels, header="patient,label"):
    return header + "\n" + "".join(f"{name},{label}\n" for name, label in zip(NAMES, labels, strict=True))


PLAIN = table("0101")
WRITTEN = {
    "R": '"patient","label"\n' + "".join(f'"{name}","{i % 2}"\n' for i, name in enumerate(NAMES)),
    "R with names of rows": '"","patient","label"\n' + "".join(f'"{i}","{n}",{i % 2}\n' for i, n in enumerate(NAMES)),
    "a spreadsheet": "\ufeffPatient;Label\r\n" + "".join(f"{n};{i % 2}\r\n" for i, n in enumerate(NAMES)) + ";\r\n",
    "a spreadsheet in UTF-16": ("Patient\tLabel\r\n" + PLAIN.partition("\n")[2].replace(",", "\t")).encode("utf-16"),
    "a line that names the delimiter": "sep=;\r\n" + PLAIN.replace(",", ";"),
    "an old Mac": PLAIN.replace("\n", "\r"),
    "blanks": "patient , label \n\n" + "".join(f" {n} , {i % 2} \n" for i, n in enumerate(NAMES)),
    "delimiters and line ends in cells": '"note, if any";patient;label\n'
    + "".join(f'"a; ""b""\nand c";{n};{i % 2}\n' for i, n in enumerate(NAMES)),
}


@pytest.mark.parametrize("writer", WRITTEN)
def test_tables_of_all_kinds_are_read(writer, cohort):
    scans = load(cohort, WRITTEN[writer])
    assert scans.classes == ("0", "1") and scans.y.tolist() == [0, 1, 0, 1]


def test_columns_that_are_not_used_are_told(cohort):
    text = "".join(f"{i},{name},{i % 2},{60 + i}\n" for i, name in enumerate(NAMES))
    scans = load(cohort, f'"",patient,label,Age\n{text}')
    assert scans.notes == ("columns of labels.csv that are not used: one without a name, age",)
    config = {"_target_": "kdrun.domains.ct.ct_folder.ct_folder", "root": str(cohort), "task": "diagnosis", **OPTIONS}
    module = load_data({**config, "val_fraction": 0.5, "test_fraction": 0.5}, {"cache": str(cohort.parent / "cache")})
    assert scans.notes[0] in module.audit()["summary"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('"patients","label"\n"DOE-1","0"\n', "no column patient; closest: patients"),
        ("patient,label,label\nDOE-1,0,1\n", "several columns are called label"),
        ("patient,label\nDOE-1,0\nDOE-2,1,2\nDOE-3,3\n", "more cells than the 2 columns of the header in line 3"),
        ('patient,label\nDOE-1,0\n"DOE-2,1\n', "no CSV"),
        ("", "empty"),
        (b"patient,label\nDOE-1,\xff\n", "not a text in UTF-8 (line 2)"),
        ("patient,label\nDOE-1,0\n".encode("utf-16-le"), "a zero byte in line 1"),
        (f"patient,label\n{'x' * 300},0\n", "1 labels without a scan"),
    ],
)
def test_what_is_no_table_is_told(text, said, cohort):
    assert said in told(cohort, text)


def test_invisible_characters_in_the_header_say_nothing(cohort):
    text = table(("0", "0", "1", "1")).replace("patient", "\ufeff\ufeffpatient").replace("label", "\u200blabel")
    assert load(cohort, text).classes == ("0", "1")


ABSENT = ["#DIV/0!", "NA", "nan", "NaN", "", "  ", "N/A", "null", "None", "#N/A", "?", "-"]


@pytest.mark.parametrize("word", ABSENT)
def test_a_label_that_says_nothing_is_no_class(word, cohort):
    text = table(("0", word, "1", word))
    words = told(cohort, text)
    assert "lines 3, 5: no label" in words and "data.incomplete=leave_out" in words
    for name in ("DOE-2", "DOE-4"):
        (cohort / f"{name}.nii").unlink()
    scans = load(cohort, text, incomplete="leave_out")
    assert scans.classes == ("0", "1") and len(scans) == 2
    assert "labels.csv lines 3, 5: no label: left out" in scans.notes


ALIKE = [
    (("0", "0.0", "1", "1"), "0"),
    (("1", "01", "2", "2"), "01"),
    (("Benign", "benign", "malignant", "Benign"), "Benign"),
    (("ca", "CA", "Ca", "b"), "CA"),
    (("a b", "a  b", "c", "c"), "a  b"),
    (("non-small", "non small", "c", "c"), "non small"),
    (("a\u00adb", "ab", "c", "c"), "ab"),
    (("ａ", "a", "c", "c"), "a"),
    (("True", "1", "2", "2"), "1"),
    (("FALSE", "False", "c", "c"), "FALSE"),
    (("\u22121", "-1", "2", "2"), "-1"),
    (("non\u2011small", "non-small", "c", "c"), "non-small"),
]


@pytest.mark.parametrize(("labels", "usual"), ALIKE, ids=[" ".join(labels[:2]) for labels, _ in ALIKE])
def test_spellings_of_one_label_are_refused_or_one(labels, usual, cohort):
    words = told(cohort, table(labels))
    assert "one class or several" in words and f"{labels[0]!r} in line" in words and "3" in words
    scans = load(cohort, table(labels), alike="merge")
    assert len(scans.classes) == 2 and usual in scans.classes
    assert any(note.startswith("labels that are one") and repr(labels[1]) in note for note in scans.notes)
    assert len(load(cohort, table(labels), alike="keep").classes) == len(set(labels))


def test_a_decimal_comma_is_a_number(cohort):
    lines = "".join(f"{name};{label}\n" for name, label in zip(NAMES, ("1,0", "1", "0,0", "1"), strict=False))
    assert "'1' in lines 3, 5; '1,0' in line 2" in told(cohort, f"patient;label\n{lines}")


def test_blanks_around_a_label_say_nothing(cohort):
    scans = load(cohort, table(("a ", "a", " b", "b\u00a0")))
    assert scans.classes == ("a", "b") and scans.notes == ()


def test_labels_and_patients_are_compared_in_composed_characters(cohort):
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    (cohort / "DOE-1.nii").rename(cohort / f"{decomposed}.nii")
    text = f"patient,label\n{composed},{decomposed}\nDOE-2,{composed}\nDOE-3,b\nDOE-4,b\n"
    assert load(cohort, text).classes == ("b", composed)


def test_words_that_are_not_alike():
    for first, second in (("A+", "A-"), ("1", "2"), ("1e-3", "1e-4"), ("T1", "T2"), ("b", "ba")):
        assert spelling(first) != spelling(second)


def test_an_unknown_way_with_spellings(cohort):
    assert "data.alike=join: expected one of stop, merge, keep" in told(cohort, PLAIN, alike="join")


@pytest.mark.parametrize("word", ["NA", "", "nan"])
def test_a_patient_without_a_name(word, cohort):
    assert "line 2: no patient" in told(cohort, f"patient,label\n{word},0\nDOE-2,1\n")


@pytest.mark.parametrize(
    "words", [("train", "val", "test"), ("Training", "Validation", "Testing"), ("TRAIN", "dev", "Test")]
)
def test_splits_under_their_common_names(words, cohort):
    parts = (*words, words[0])
    text = "patient,label,split\n" + "".join(f"{n},0,{part}\n" for n, part in zip(NAMES, parts, strict=True))
    assert load(cohort, text).split.tolist() == [0, 1, 2, 0]


def test_what_systems_leave_beside_the_scans(cohort):
    for name in ("__MACOSX", "@eaDir", ".Trash-1000", "lost+found"):
        (cohort / name).mkdir()
    (cohort / "._DOE-1.nii").write_bytes(b"fork")
    assert load(cohort, PLAIN).notes == ()
    (cohort / "DOE-9.nrrd").write_bytes(b"another kind of scan")
    assert load(cohort, PLAIN).notes == ("files that are not read: 1 .nrrd",)


def test_lines_are_those_of_the_file(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('a,b\n\n"x\ny",1\n , \nz,2\n')
    assert read_csv(path, "labels").rows == ((4, {"a": "x\ny", "b": "1"}), (6, {"a": "z", "b": "2"}))


def test_numbers_as_other_programs_write_them(tmp_path):
    assert csv_integers('\ufeff"1";"2"\r\n"3";"255"\r\n'.encode()).tolist() == [[1, 2], [3, 255]]
    (tmp_path / "mnist_5k.csv").write_text("label,pixel\n1,2\n")
    with pytest.raises(UserError, match="no header"):
        mnist_5k(tmp_path)
    (tmp_path / "mnist_5k.csv").write_text("1,2\n")
    with pytest.raises(UserError, match="2 numbers a line, not 785"):
        mnist_5k(tmp_path)
