"""Files as tools and people write them: which side is which language, which columns are text, what one bad unit costs."""

import pytest

from kdrun.domains.translation.parallel_text import parallel_text
from kdrun.problems import UserError


@pytest.fixture
def read(tmp_path):
    """read(name, content, ...) -> pairs; a UserError comes back as its lines joined."""

    def read(name, content, *more, **options):
        paths = []
        for file, text in ((name, content), *more):
            paths.append(tmp_path / file)
            paths[-1].write_bytes(text if isinstance(text, bytes) else text.encode())
        try:
            made = parallel_text(*paths, **options)
        except UserError as error:
            return "\n".join(error.lines)
        return list(zip(made.source, made.target, strict=True)), made.dropped

    return read


# Directions

BODY = 'msgid "Open"\nmsgstr "Öffnen"\n'


def header(*fields):
    return 'msgid ""\nmsgstr ""\n' + "".join(f'"{field}\\n"\n' for field in fields) + "\n"


@pytest.mark.parametrize(
    ("fields", "options", "expected"),
    [
        (("Language: de",), {}, ("Öffnen", "Open")),
        (("Language: de_AT",), {}, ("Öffnen", "Open")),
        (("Language: de",), {"source_language": "en", "target_language": "de"}, ("Open", "Öffnen")),
        (("Language: ", "X-Source-Language: en"), {}, ("Öffnen", "Open")),
        (("X-Source-Language: en_US",), {"source_language": "en", "target_language": "de"}, ("Open", "Öffnen")),
        (("X-Poedit-Language: German",), {}, ("Öffnen", "Open")),
        ((), {"msgstr_language": "de"}, ("Öffnen", "Open")),
        ((), {"msgstr_language": "en"}, ("Open", "Öffnen")),
        (
            ("Language: de-CH",),
            {"source_language": "en", "target_language": "de-AT"},
            "msgstr is in de-CH, which is not",
        ),
        (("Language: fr",), {}, "msgstr is in fr, which is not one of de and en"),
        (("Language: de", "X-Source-Language: fr"), {}, "msgid is in fr"),
        (("Language: de", "X-Source-Language: de"), {}, "says that msgid is in de and msgstr in de"),
        (("Language: \\n",), {}, "data.msgstr_language=en, or data.msgstr_language=de"),
        (None, {}, "does not say which of de and en msgstr is in"),
    ],
)
def test_po_says_its_direction_or_is_refused(read, fields, options, expected):
    found = read("a.po", ("" if fields is None else header(*fields)) + BODY, **options)
    assert (expected in found) if isinstance(expected, str) else found[0] == [expected]


def test_files_whose_names_say_another_language_are_refused(read):
    swapped = ("a.en", "one\n"), ("a.de", "eins\n")
    text = read(*swapped[0], swapped[1])
    assert "a.en ends with .en, but data.source_language=de" in text
    assert "data.source_language=en data.target_language=de" in text
    assert read(*swapped[0], swapped[1], source_language="en", target_language="de")[0] == [("one", "eins")]
    assert "a.fr ends with .fr" in read("a.fr", "un\n", ("a.en", "one\n"))
    assert "a.fr ends with .fr" in read("a.de", "eins\n", ("a.fr", "un\n"))
    assert read("a.de-AT", "eins\n", ("a.eng", "one\n"))[0] == [("eins", "one")]  # the same languages
    assert read("a.src", "eins\n", ("a.tgt", "one\n"))[0] == [("eins", "one")]


def unit(**texts):
    variants = "".join(
        f'<tuv xml:lang="{language.replace("_", "-")}"><seg>{text}</seg></tuv>' for language, text in texts.items()
    )
    return f"<tu>{variants}</tu>"


def tmx(*units, srclang=' srclang="*all*"'):
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<tmx version="1.4"><header{srclang}/><body>{"".join(units)}</body></tmx>'


def test_variants_of_a_language(read):
    one = tmx(unit(de="eins", en_US="one"), srclang="")
    assert read("a.tmx", one)[0] == read("a.tmx", one, target_language="en-US")[0] == [("eins", "one")]
    assert read("a.tmx", tmx(unit(de="eins", en="one")), target_language="en-US")[0] == [("eins", "one")]
    assert "it has: de, en-us" in read("a.tmx", one, target_language="en-GB")
    both = tmx(unit(de="eins", en_GB="colour", en_US="color"))
    assert read("a.tmx", both, target_language="en-US")[0] == [("eins", "color")]
    assert read("a.tmx", tmx(unit(GER="eins", eng="one")))[0] == [("eins", "one")]
    # What is one of the languages is never taken for the other as well.
    dialects = {"source_language": "de", "target_language": "de-AT"}
    assert "no unit in de and de-AT" in read("a.tmx", tmx(unit(de_AT="Jänner", en="January")), **dialects)
    assert read("a.tmx", tmx(unit(de_AT="Jänner", de="Januar")), **dialects)[0] == [("Januar", "Jänner")]
    assert "both de" in read("a.tmx", one, target_language="de")
    assert "variants without a language" in read("a.tmx", one.replace(' xml:lang="de"', ""))


# Codes and characters of TMX


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ("Mein<ph/>Bruder", "Mein Bruder"),
        ('Mein<ph x="1">&lt;br/&gt;</ph>Bruder', "Mein Bruder"),
        ("Mein<x/>Bruder", "Mein Bruder"),
        ("Mein<ut>\\line </ut>Bruder", "Mein Bruder"),
        ("Mein<ph/><ph/>Bruder", "Mein Bruder"),
        ('Mein<bpt i="1">&lt;p&gt;</bpt>Bruder<ept i="1">&lt;/p&gt;</ept>kommt', "Mein Bruder kommt"),
        ("Mein <ph/> Bruder<ph/>.", "Mein Bruder."),
        ("Hallo,<ph/>Bruder (<ph/>du)", "Hallo, Bruder (du)"),
        ('H<bpt i="1">&lt;sub&gt;</bpt>2<ept i="1">&lt;/sub&gt;</ept>O', "H2O"),
        ('H<it pos="begin">&lt;sub&gt;</it>2O', "H2O"),
        ("Haus<hi>tür</hi>", "Haustür"),
        ("Haus<ph>&lt;b&gt;</ph>tür<ph>&lt;/b&gt;</ph>", "Haustür"),
        ('Haus<ph type="bold"/>tür', "Haustür"),
        ("l'<ph/>eau", "l'eau"),
        ("你<ph/>好", "你好"),
        ("Siehe<ph>Fußnote <sub>ungesehen</sub></ph>unten", "Siehe unten"),
        ("Mein<br/>Bruder", "Mein Bruder"),
        ('<g id="1">Haus</g><g id="2"/>tür<mrk>en</mrk>', "Haustüren"),
        ("Nr.&nbsp;5 &uuml;ber", "Nr. 5 über"),
    ],
)
def test_codes_neither_join_words_nor_part_them(read, inside, expected):
    assert read("a.tmx", tmx(unit(de=inside, en="x")))[0] == [(expected, "x")]


@pytest.mark.parametrize(
    "bad",
    ["&#x1F;", "&#31;", "&#0;", "&#xD800;", "&#xFFFE;", "&#x110000;", "\x1f", "\x00", "\x0c", "\uffff", "&unheardof;"],
)
def test_a_character_that_xml_forbids_loses_its_unit(read, bad):
    units = (unit(de="eins", en="one"), unit(de=f"zw{bad}ei", en="two"), unit(de="drei", en="three", fr=f"tr{bad}ois"))
    for encoded in (tmx(*units).encode(), tmx(*units).replace("UTF-8", "UTF-16").encode("utf-16")):
        pairs, dropped = read("a.tmx", encoded)
        assert pairs == [("eins", "one"), ("drei", "three")]
        assert dropped == {"with a character that XML forbids": 1}
    assert "left out: {'with a character that XML forbids': 1}" in read("a.tmx", tmx(units[1]))


def test_characters_that_xml_allows_stay(read):
    assert read("a.tmx", tmx(unit(de="a&#9;b&#x1F600;&amp;#x1F;", en="x")))[0] == [("a b😀&#x1F;", "x")]


# Columns


def rows(*lines):
    return "".join("\t".join(map(str, line)) + "\n" for line in lines)


TATOEBA = rows((77, "Lass uns gehen!", 1276, "Let's go!"), (78, "Ich muss schlafen.", 1277, "I have to sleep."))


def test_ids_between_the_sentences_are_no_text(read):
    text = read("a.tsv", TATOEBA)
    assert "column 1 is no text" in text and "INTERNAL" not in text
    assert "2 ('Lass uns gehen!'), 4 (\"Let's go!\")" in text and "data.columns=[2,4]" in text
    expected = [("Lass uns gehen!", "Let's go!"), ("Ich muss schlafen.", "I have to sleep.")]
    assert read("a.tsv", TATOEBA, columns=[2, 4])[0] == expected
    assert read("a.tsv", TATOEBA, columns=[4, 2])[0] == [pair[::-1] for pair in expected]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([(0.93, "eins zwei", "one two"), (0.2, "drei", "three")], "data.columns=[2,3]"),
        ([("eins zwei", 0.93, "one two"), ("drei", 1, "three")], "data.columns=[1,3]"),
        ([("deu", "eins", "eng", "one"), ("deu", "zwei", "eng", "two")], "columns 1 is no text"),
        ([("https://a.de/x", "eins", "one"), ("https://a.de/y", "zwei", "two")], "data.columns=[2,3]"),
        ([("s-001", "eins", "one"), ("s-002", "zwei", "two")], "data.columns=[2,3]"),
        ([(1, 2), (3, 4)], "columns that look like text: none"),
    ],
)
def test_scores_codes_and_addresses_are_no_text(read, lines, said):
    assert said.replace("columns 1 is", "column 1 is") in read("a.tsv", rows(*lines))


def test_titles_say_which_side_is_which(read):
    body = [("one", "eins", 0.5), ("two", "zwei", 0.6)]
    expected = [("eins", "one"), ("zwei", "two")]
    assert read("a.tsv", rows(("en", "de", "score"), *body))[0] == expected
    assert read("a.tsv", rows(("English", "German", "score"), *body))[0] == expected
    assert read("a.tsv", rows(("target", "source", "score"), *body))[0] == expected
    assert read("a.tsv", rows(("a", "b", "c"), *body), columns=["b", "a"])[0] == expected
    assert read("a.tsv", rows(("en", "de", "score"), *body), columns=[2, 1])[0] == expected
    text = read("a.tsv", rows(("en", "fr", "score"), *body))
    assert "names the languages of its columns: en, fr; none is de" in text
    quoted = rows(('"en"', '"de"'), ('"one"', '"eins ""hier"""'), ('"two"', '"zwei"'))
    assert read("a.tsv", quoted)[0] == [('eins "hier"', "one"), ("zwei", "two")]
    assert read("a.tsv", rows(('"eins"', "one"), ("zwei", "two")))[0][0] == ('"eins"', "one")
    # A first pair is no line of titles.
    assert read("a.tsv", rows(("Deutsch", "German"), ("eins", "one")))[0] == [("Deutsch", "German"), ("eins", "one")]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ([1], "two columns, the source first"),
        ([2, 2], "two columns, the source first"),
        ([0, 1], "columns 1 to 4, none is 0"),
        ([2, 5], "none is 5"),
        (["de", 2], "no column 'de'"),
    ],
)
def test_columns_that_are_not_there(read, columns, said):
    assert said in read("a.tsv", TATOEBA, columns=columns)


# Scripts without blanks between words


def test_lengths_of_scripts_without_blanks_are_in_characters(read):
    german = [f"Die {a} Lampe ist {b}." for a in ("rote", "grüne", "blaue") for b in ("an", "aus", "kaputt", "neu")]
    for language, one in (
        ("zh", "这盏灯今天是红色的"),
        ("th", "หลอดไฟดวงนี้เป็นสีแดงวันนี้"),
        ("ja", "このランプは今日は赤いです"),
    ):
        other = [one[: len(one) - n % 3] + one[0] * (n % 2) for n in range(len(german))]
        lines = "\n".join(german) + "\n", "\n".join(other) + "\n"
        for names in (language, "xx"):  # known by the text where the language says nothing
            pairs, dropped = read(
                "a.txt", lines[0], ("b.txt", lines[1]), target_language=names, max_ratio=1.5, max_words=40
            )
            assert len(pairs) == len(german) and not dropped
        found = read("a.txt", lines[0], ("b.txt", f"{one * 3}\n" + "\n".join(other[1:]) + "\n"), max_ratio=2.0)
        assert found[1] == {"ratio": 1}
        longest = max(map(len, other))
        text = read("a.txt", lines[0], ("b.txt", lines[1]), max_words=longest - 1)
        assert text[1] == {"long": sum(len(line) == longest for line in other)}
