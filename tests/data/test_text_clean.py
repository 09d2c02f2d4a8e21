import pytest

from kdrun.data.text_keys import normalised
from kdrun.domains.translation.clean import clean, common_words, pieces, refusal, text_of


@pytest.mark.parametrize(
    "string, text",
    [
        ("Set up {name} at {host}?", "Set up at?"),
        ("Log in at the [portal]({url}) **now**.", "Log in at the portal now."),
        ("The `legacy_templates` key", "The legacy_templates key"),
        ('"{subtype}" pressed', "pressed"),
        ("Failed to write the time: {error}.", "Failed to write the time."),
        ("Slide %1 of %2 (%3)", "Slide of"),
        ("No $1$ exists for $(ARG1).", "No exists for."),
        ("%PRODUCTNAME must be restarted", "LibreOffice must be restarted"),
        ("60% lighter, 5 %", "60% lighter, 5 %"),
        ("see https://example.org/x for <b>more</b> &amp; less", "see for more & less"),
        ("1. Go there\n\n - and  back", "Go there\nand back"),
        ("soft\u00adhyphen and\u00a0space", "softhyphen and space"),
    ],
)
def test_text_of(string, text):
    assert text_of(string) == text


def test_accelerators_go_only_where_they_are_meant():
    assert text_of("Öff~nen _Datei", accelerators=True) == "Öffnen Datei"
    assert text_of("a_b ~ c") == "a_b ~ c"


def test_lines_and_sentences_are_split_where_both_sides_have_equally_many():
    assert list(pieces("One here. Two there!\nThree", "Eins hier. Zwei dort!\nDrei")) == [
        ("One here.", "Eins hier."),
        ("Two there!", "Zwei dort!"),
        ("Three", "Drei"),
    ]
    assert list(pieces("One here. Two there.", "Beides in einem.")) == [("One here. Two there.", "Beides in einem.")]
    assert list(pieces("a\nb", "nur eine")) == [("a b", "nur eine")]
    # Neither numbers nor abbreviations end a sentence; a closing quote goes with the sentence before it.
    assert len(list(pieces("See e.g. Anna and 1. Bob", "Siehe z. B. Anna und 1. Bob"))) == 1
    assert next(pieces('He said "yes." Then', "Er sagte „ja.“ Dann")) == ('He said "yes."', "Er sagte „ja.“")


@pytest.mark.parametrize(
    "english, other, reason",
    [
        ("", "x", "empty"),
        ("two words", "zwei Wörter", "short"),
        ("word " * 41, "Wort " * 41, "long"),
        ("one two three four five six", "eins zwei", "ratio"),
        ("the same text", "the same text", "identical"),
        ("a 1 2 3 4 5", "b 1 2 3 4 5", "letters"),
        ("the device is on", "das Gerät ist an", None),
    ],
)
def test_refusal(english, other, reason):
    assert refusal(english.strip(), other.strip()) == reason


def test_clean_counts_what_it_leaves_out():
    pairs, dropped = clean(
        [
            ("The device is on.", "Das Gerät ist an."),
            ("The device is on.", "Das Gerät ist an."),  # the same string is read once
            ("The device {name} is on.", "Das Gerät {name} ist an."),  # the same pair only after cleaning
            ("Too short", "Zu kurz"),
        ]
    )
    assert pairs == [("The device is on.", "Das Gerät ist an.")]
    assert dropped == {"repeated": 1, "short": 1}


def test_near_duplicates_have_one_normal_form():
    common = common_words(["connect to your bridge", "the sensor of a device"])
    same = ["Sensor 1 of Hue", "sensor 22 of Philips Hue.", "Sensor 3.5 of TP-Link"]
    assert {normalised(text, common) for text in same} == {"sensor 0 of @"}
    assert normalised("Connect to a Device", common) == "connect to a device"  # capitals alone make no name
    assert normalised("Der Sensor, Nr. 5!") == "der sensor nr 0"
    assert normalised("...!") == ""
