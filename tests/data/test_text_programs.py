"""Files of text as other programs write them: what is read, and what is refused instead of read wrongly."""

import pytest

from kdrun.domains.translation.files import read_pair
from kdrun.domains.translation.parallel_text import parallel_text
from kdrun.problems import UserError

LANGUAGES = ("de", "en")


def pairs(path, content, **options):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_pair(path, None, LANGUAGES, **options)[0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("Hallo du\nWelt\n".encode("utf-16-le"), "a.de:1: a zero byte"),
        (b"Hallo\nWelt\0\n", "a.de:2: a zero byte"),
        ("Hallo\n".encode("utf-32"), "is UTF-32"),
        (b"Hallo\rWelt\r", "carriage returns alone"),
    ],
)
def test_what_is_no_text_in_lines_is_refused(content, said, tmp_path):
    for name in ("a.de", "a.en"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_pair(tmp_path / "a.de", tmp_path / "a.en", LANGUAGES)
    assert said in str(caught.value) and "NEW" in str(caught.value)


def test_a_side_of_characters_of_no_width_is_empty(tmp_path):
    (tmp_path / "a.de").write_text("\u200b\nWelt\n")
    (tmp_path / "a.en").write_text("Hello\nWorld\n")
    read = parallel_text(tmp_path / "a.de", tmp_path / "a.en")
    assert read.target == ["World"] and read.dropped == {"empty": 1}


@pytest.mark.parametrize(
    ("first", "swapped"),
    [
        ("English sentence\tGerman sentence", True),
        ("text_en\ttext_de", True),
        ("translation.de\ttranslation.en", False),
        ("de-AT text\ten text", False),
    ],
)
def test_titles_that_hold_the_languages(first, swapped, tmp_path):
    rows = [("Hallo du", "Hello you"), ("Welt da", "World there")]
    text = "".join("\t".join(row[::-1] if swapped else row) + "\n" for row in rows)
    assert pairs(tmp_path / "a.tsv", f"{first}\n{text}") == rows


def test_a_title_that_speaks_against_the_direction(tmp_path):
    with pytest.raises(UserError, match=r"'en', which is the other side's language"):
        pairs(tmp_path / "a.tsv", "en\ttranslation\nHello you\tHallo du\nWorld there\tWelt da\n")


def test_quotes_of_spreadsheets_and_of_r(tmp_path):
    excel = '"Er sagte ""Hallo"""\t"She said ""Hi"""\nWelt da\tWorld there\n"""Ja"""\t"""Yes"""\n"so"\t"as is"\n'
    assert pairs(tmp_path / "a.tsv", excel) == [
        ('Er sagte "Hallo"', 'She said "Hi"'),
        ("Welt da", "World there"),
        ('"Ja"', '"Yes"'),
        ('"so"', '"as is"'),
    ]
    escaped = '"de"\t"en"\n"Er sagte \\"Hallo\\""\t"She said \\"Hi\\""\n"Welt"\t"World"\n'
    assert pairs(tmp_path / "a.tsv", escaped) == [('Er sagte "Hallo"', 'She said "Hi"'), ("Welt", "World")]


def test_columns_that_are_no_list(tmp_path):
    with pytest.raises(UserError, match=r"data\.columns=2: two columns"):
        pairs(tmp_path / "a.tsv", "Hallo\tHello\n", columns=2)


PO = 'msgid ""\nmsgstr "Language: de\\n"\n\n'


def test_numbers_of_bytes_in_a_catalogue(tmp_path):
    text = PO + r'msgid "caf\303\251 \x41\tx"' + '\nmsgstr "Tee"\n'
    assert pairs(tmp_path / "a.po", text) == [("Tee", "café A\tx")]


def test_an_entry_without_a_translation_is_not_lost(tmp_path):
    with pytest.raises(UserError, match=r"a\.po:5: a second msgid"):
        pairs(tmp_path / "a.po", PO + 'msgid "a"\nmsgid "b"\nmsgstr "c"\n')


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.tmx", "<html><p>x</p></html>", "a.tmx holds no pair"),
        ("a.pot", PO + 'msgid "a"\nmsgstr ""\n', "a.pot holds no pair; left out: {'untranslated': 1}"),
        ("a.tsv", "", "a.tsv holds no pair"),
        ("a.tmx", '<?xml version="1.0" encoding="Shift_JIS"?><tmx/>', "save it as UTF-8"),
    ],
)
def test_files_without_a_pair_are_named(name, content, said, tmp_path):
    with pytest.raises(UserError) as caught:
        pairs(tmp_path / name, content)
    assert said in str(caught.value)
