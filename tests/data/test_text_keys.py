"""Texts that differ in spelling alone are the same text, in every place where splits are compared."""

import unicodedata

import numpy as np
import pytest
from text_support import COMMON, ROWS

from kdrun.data.text_keys import COMPARED, near_key, text_key
from kdrun.domains.translation.build import text_module
from kdrun.domains.translation.source import Pairs
from kdrun.domains.translation.splits import assign
from kdrun.domains.vision_language.source import Conversations, Sample, Turn
from kdrun.problems import UserError

PLAIN = "Die schöne Tür ist offen"
SPELLINGS = {
    "decomposed": unicodedata.normalize("NFD", PLAIN),
    "case": PLAIN.upper(),
    "soft hyphen": "Die schö\u00adne Tür ist offen",
    "zero width": "Die\u200b schöne\ufeff Tür\u2060 ist offen",
    "punctuation": "„Die schöne Tür“ ist offen!",
    "white space": "  Die schöne\u00a0Tür\tist  offen",
    "full width": "Ｄｉｅ schöne Tür ist offen",
    "variation selector": "Die schöne Tür\ufe0f ist offen",
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_spellings(spelling):
    assert text_key(spelling) == text_key(PLAIN) == "dieschönetüristoffen"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1.5 m", "15 m"), ("10:30", "1030"), ("-5 Grad", "5 Grad"), ("Sensor 1", "Sensor 2"), ("a < b", "a > b"),
        ("5 $", "5 €"), ("C", "C++"), ("?", "!"), ("कि", "की"), ("ปา", "ป่า"), ("schon", "schön"),
    ],
)  # fmt: skip
def test_what_means_something_else_is_not_the_same(one, other):
    assert text_key(one) != text_key(other)


def test_dashes_dots_and_typography():
    assert text_key("3–4 Tage…") == text_key("3-4 Tage...") == text_key("3‑4 Tage")
    assert text_key("ﬁne Straße") == text_key("fine STRASSE")


def test_near_duplicates_are_known_however_letters_are_composed():
    assert near_key(SPELLINGS["decomposed"]) == near_key(SPELLINGS["soft hyphen"]) == near_key(PLAIN)
    assert near_key("हम कि 1") == near_key("हम कि 22") != near_key("हम की 1")  # marks are letters of a word


def pairs(rows, split, **options):
    source, target = (list(side) for side in zip(*rows, strict=True))
    return Pairs("made", ("de", "en"), source, target, np.array(split, np.int8), np.arange(len(rows)), **options)


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_a_pair_that_is_spelled_otherwise_is_removed_or_counted(spelling, tmp_path):
    rows = [*ROWS[:60], (PLAIN, "The beautiful door"), (spelling, "the beautiful door."), ("etwas anderes", "another")]
    made = pairs(rows, [0] * 60 + [0, 2, 1])
    split, removed = assign(made, COMMON)
    assert removed == {"train": 1} and split[60] == -1
    options = {**COMMON, "vocabulary": 330, "duplicates": "keep"}
    audit = text_module(made, options, tmp_path).audit()
    assert audit["shared"] == {"train/test": 1} == audit["spelled"] and audit["compared"] == COMPARED
    assert "1 pairs of test are also in train (1 of them spelled otherwise)" in audit["summary"]
    assert text_module(made, {**options, "duplicates": "remove"}, tmp_path).audit()["shared"] == {}


def test_where_all_of_training_is_in_test_the_message_says_so(tmp_path):
    with pytest.raises(UserError, match="no pair is left for training: 20 are in val or test as well") as told:
        text_module(pairs(ROWS[:20] * 3, [0] * 20 + [1] * 20 + [2] * 20), {**COMMON, "vocabulary": 330}, tmp_path)
    assert "INTERNAL" not in str(told.value) and "data.text.duplicates=keep" in str(told.value)


# Conversations without pictures


class NoImages:
    size, source_hash = 16, ""

    def __len__(self):
        return 0


def said(number, prompt, answer):
    return Sample(number, (), (Turn(prompt, answer),), "text")


def test_a_conversation_of_text_that_is_spelled_otherwise_is_in_one_split_alone():
    from kdrun.domains.vision_language.splits import assign as divide

    train = [said(n, f"Wie geht es {n}?", "Gut") for n in range(20)] + [said(30, PLAIN, "Ja.")]
    config = {
        "val_fraction": 0.2,
        "test_fraction": 0.2,
        "split_seed": 0,
        "limit": dict.fromkeys(("train", "val", "test")),
    }
    for spelling in SPELLINGS.values():
        own = {"train": train, "val": [said(40, "Wer?", "Ich")], "test": [said(50, spelling, "ja")]}
        chosen, removed = divide(Conversations("made", own, NoImages(), (), ""), config)
        assert removed == {"train": 1} and [s.id for s in chosen["train"]] == list(range(20))
    # Where no split is given, both go the same way.
    both = [*train, *(said(60 + n, text, "JA") for n, text in enumerate(SPELLINGS.values()))]
    for seed in range(5):
        splits = {"train": both, "val": [], "test": []}
        chosen, removed = divide(Conversations("made", splits, NoImages(), (), ""), {**config, "split_seed": seed})
        assert not removed
        assert len({name for name, samples in chosen.items() for s in samples if s.id >= 30}) == 1
