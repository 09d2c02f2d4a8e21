import gzip

import pytest

from kdrun.domains.translation.parallel_text import parallel_text
from kdrun.problems import UserError


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def pairs_of(pairs):
    return list(zip(pairs.source, pairs.target, strict=True))


def refused(*arguments, **options):
    with pytest.raises(UserError) as caught:
        parallel_text(*arguments, **options)
    return "\n".join(caught.value.lines)


# Two files


def test_two_files(write):
    made = parallel_text(write("a.de", "eins\n\nzwei  Wörter \ndrei\n"), write("a.en", "one\ntwo\n two words\n \n"))
    assert pairs_of(made) == [("eins", "one"), ("zwei Wörter", "two words")]
    assert made.ids.tolist() == [0, 2] and made.dropped == {"empty": 2}
    assert made.split.tolist() == [0, 0] and made.languages == ("de", "en")


def test_no_line_feed_at_the_end_a_mark_at_the_start_and_carriage_returns(write):
    made = parallel_text(write("a.de", b"\xef\xbb\xbfeins\r\nzwei\r\n"), write("a.en", "one\ntwo"))
    assert pairs_of(made) == [("eins", "one"), ("zwei", "two")]


def test_only_a_line_feed_ends_a_line(write):
    made = parallel_text(write("a.de", "eins\u2028zwei\x85drei\x0cvier\n"), write("a.en", "one two three four\n"))
    assert pairs_of(made) == [("eins zwei drei vier", "one two three four")]


def test_gzip(write):
    made = parallel_text(write("a.de.gz", gzip.compress(b"eins\n")), write("a.en", "one\n"))
    assert pairs_of(made) == [("eins", "one")]
    assert "is damaged" in refused(write("b.de.gz", gzip.compress(b"eins\n" * 100)[:20]), write("b.en", "one\n"))


def test_unequal_line_counts(write):
    text = refused(write("a.de", "1\n2\n3\n"), write("a.en", "1\n2\n3\n4\n5\n"))
    assert "a.de has 3 lines" in text and "a.en has 5" in text and "a.en:4" in text


def test_invalid_utf8_names_the_line(write):
    text = refused(write("a.de", b"gut\nGr\xf6\xdfe\n"), write("a.en", "good\nsize\n"))
    assert "a.de:2: not UTF-8: byte 0xf6 at position 3" in text and "iconv -f LATIN1" in text
    assert "UTF-16" in refused(write("b.de", "eins\n".encode("utf-16")), write("b.en", "one\n"))


def test_what_is_not_there(write, tmp_path):
    assert "no such file" in refused(tmp_path / "absent", write("a.en", "x\n"))
    assert "is a folder" in refused(tmp_path, write("a.en", "x\n"))
    text = refused(write("a.de", "x\n"))
    assert "data.target=FILE" in text and ".tmx" in text
    assert "no data.val_source" in refused(write("a.de", "x"), write("b.en", "x"), val_target=write("v.en", "x"))
    assert "no pair is left for train" in refused(write("e.de", ""), write("e.en", ""))


def test_files_of_their_own_for_val_and_test(write):
    made = parallel_text(
        write("a.de", "eins\nzwei\n"),
        write("a.en", "one\ntwo\n"),
        val_source=write("v.de", "drei\n"),
        val_target=write("v.en", "three\n"),
        test_source=write("t.tsv", "vier\tfour\n"),
    )
    assert made.split.tolist() == [0, 0, 1, 2] and made.ids.tolist() == [0, 1, 2, 3]


def test_limits_hold_for_training_only(write):
    text = "kurz", "ein zwei drei vier fünf", "A B"
    english = "a b c", "one two three four five", "C D"
    lines = [write(f"x.{number}", "\n".join(side) + "\n") for number, side in enumerate((text, english))]
    made = parallel_text(
        *lines, val_source=lines[0], val_target=lines[1], min_words=1, max_words=4, max_ratio=1.5, lowercase=True
    )
    assert made.split.tolist() == [0, 1, 1, 1] and made.source[0] == "a b" and made.lowercase
    assert made.dropped == {"ratio": 1, "long": 1}
    assert "data.max_ratio=0.5" in refused(*lines, max_ratio=0.5)
    assert "less than data.min_words" in refused(*lines, min_words=3, max_words=2)


# TSV


def test_tsv(write):
    assert pairs_of(parallel_text(write("a.tsv", "eins\tone\tnote\nzwei\ttwo\t\n"))) == [
        ("eins", "one"),
        ("zwei", "two"),
    ]
    assert "a.tsv:2: 3 columns; expected: line 1 has 2" in refused(write("a.tsv", "a\tb\na\tb\tc\n"))
    assert "a.tsv:1: 1 column;" in refused(write("a.tsv", "a b\n"))


# TMX

TMX = """<?xml version="1.0"?><!DOCTYPE tmx SYSTEM "tmx14.dtd">
<tmx version="1.4"><header srclang="en"/><body>
<tu><tuv xml:lang="EN-us"><seg>Press <bpt i="1">&lt;b&gt;</bpt><hi>OK</hi><ept i="1">&lt;/b&gt;</ept> &amp; go</seg></tuv>
    <tuv xml:lang="de"><seg>Drücken Sie OK</seg></tuv><tuv xml:lang="fr"><seg>Oui</seg></tuv></tu>
<tu><tuv xml:lang="en"><seg>only</seg></tuv><tuv xml:lang="fr"><seg>seulement</seg></tuv></tu>
</body></tmx>
"""


def test_tmx(write):
    made = parallel_text(write("a.tmx", TMX))
    assert pairs_of(made) == [("Drücken Sie OK", "Press OK & go")] and made.dropped == {"other languages": 1}
    sixteen = write("b.tmx", TMX.replace('"1.0"?', '"1.0" encoding="UTF-16"?').encode("utf-16"))
    assert pairs_of(parallel_text(sixteen)) == pairs_of(made)


def test_tmx_in_other_languages(write):
    text = refused(write("a.tmx", TMX), source_language="cs")
    assert "no unit in cs and en" in text and "de, en, en-us, fr" in text


def test_broken_xml_names_the_line(write):
    assert "a.tmx:5: not XML" in refused(write("a.tmx", TMX.replace("seulement</seg>", "seulement")))
    assert "a.tmx:3: not XML" in refused(write("a.tmx", TMX.encode().replace(b"Press", b"Pr\xe4ss")))


def test_entities_are_never_expanded(write, tmp_path):
    bomb = '<?xml version="1.0"?>\n<!DOCTYPE tmx [<!ENTITY a "aaaa">\n<!ENTITY b "&a;&a;">]>\n<tmx>&b;</tmx>'
    assert "a.tmx:2: defines the entity 'a'" in refused(write("a.tmx", bomb))
    secret = write("secret", "hidden")
    outside = f'<!DOCTYPE tmx [\n<!ENTITY x SYSTEM "file://{secret}">]><tmx>&x;</tmx>'
    assert "a.tmx:2: defines the entity 'x'" in refused(write("a.tmx", outside))


# PO

PO = r"""# a comment
msgid ""
msgstr ""
"Language: de\n"
"Content-Type: text/plain; charset=UTF-8\n"

#: file.c:1
msgctxt "menu"
msgid "Open"
msgstr "Öffnen"

#, fuzzy
#| msgid "Save"
msgid "Save all"
msgstr "Speichern"
msgid "Say \"hi\"\tand "
"go\nhome"
msgstr "Sag \"hi\" und geh heim"

msgid "one file"
msgid_plural "%d files"
msgstr[0] "eine Datei"
msgstr[1] "%d Dateien"

msgid "new"
msgstr ""

#~ msgid "gone"
#~ msgstr "weg"
"""


def test_po(write):
    made = parallel_text(write("a.po", PO), source_language="en", target_language="de")
    assert pairs_of(made) == [
        ("Open", "Öffnen"),
        ('Say "hi" and go home', 'Sag "hi" und geh heim'),
        ("one file", "eine Datei"),
        ("%d files", "%d Dateien"),
    ]
    assert made.dropped == {"fuzzy": 1, "obsolete": 1, "untranslated": 1}


def test_po_knows_which_side_is_which(write):
    made = parallel_text(write("a.po", PO))  # de -> en, and the header says that msgstr is German
    assert pairs_of(made)[0] == ("Öffnen", "Open")


def test_broken_po_names_the_line(write):
    assert "a.po:8: neither a keyword" in refused(write("a.po", PO.replace('msgctxt "menu"', 'msgctxt "menu')))
    assert "has no msgstr" in refused(write("a.po", 'msgid "x"\n'))
    assert "has no msgid" in refused(write("a.po", 'msgstr "x"\n'))
    assert "ISO-8859-1, not UTF-8" in refused(write("a.po", PO.replace("UTF-8", "ISO-8859-1")))
