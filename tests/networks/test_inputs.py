"""Weights files against data: what a network was trained to be given is compared, whatever kind of data it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kdrun.domains.images.spec import DataSpec
from kdrun.domains.translation.spec import TextSpec
from kdrun.domains.vision_language.spec import VisionSpec
from kdrun.kinds import spec_of
from kdrun.networks.inputs import check_data, moments_of, typed
from kdrun.problems import UserError

IMAGES = DataSpec("letters", ("a", "b", "c"), (1, 8, 8), {}, (0.25,), (0.5,))
TEXT = TextSpec("toy", 330, 0, 1, 2, {}, 128, "aa" * 32, ("de", "en"), 3)
VISION = VisionSpec("toy", 64, 0, 1, 2, {}, 64, "aa" * 32, 5, 4, 32, 3, "tiny@0123/32", "plain", ("one",))
PIXELS = replace(VISION, tower=None, feature_width=None, mean=(0.5,) * 3, std=(0.5,) * 3)
FILE = Path("w.safetensors")


@pytest.mark.parametrize("spec", [IMAGES, TEXT, VISION, PIXELS])
def test_a_file_fits_the_data_it_was_trained_on_and_names_of_data_do_not_matter(spec):
    assert spec_of(spec.metadata()).metadata() == spec.metadata()
    check_data(spec.metadata(), replace(spec, name="other", sizes={"train": 3}), FILE, as_trained=True)


@pytest.mark.parametrize(
    ("spec", "changed", "said"),
    [
        (TEXT, {"tokenizer": "bb" * 32}, "sha256 aaaaaaaaaaaa, toy has bbbbbbbbbbbb, both of 330 tokens"),
        (TEXT, {"languages": ("en", "de")}, "another direction: de, en, toy has en, de"),
        (TEXT, {"bos": 2}, "another bos token: 1, toy has 2"),
        (VISION, {"tokenizer": "bb" * 32}, "another tokenizer: sha256 aaaaaaaaaaaa"),
        (VISION, {"tower": "other@0123/32"}, "another vision tower: tiny@0123, toy has other@0123"),
        (PIXELS, {"mean": (0.4,) * 3}, r"mean \[0.5, 0.5, 0.5\]"),
        (IMAGES, {"mean": (0.3,)}, r"mean \[0.25\]"),
        (IMAGES, {"classes": ("a", "c", "b")}, "class 1 = 'b', letters has 'c' there, the same names in another order"),
    ],
)
def test_what_has_to_be_as_it_was_is_refused_otherwise(spec, changed, said):
    with pytest.raises(UserError, match=said):
        check_data(spec.metadata(), replace(spec, **changed), FILE)


@pytest.mark.parametrize(
    ("spec", "changed", "said"),
    [
        (VISION, {"template": "chatml"}, "another chat template: plain, toy has chatml"),
        (VISION, {"image_size": 64, "tower": "tiny@0123/64"}, "another image size: 32, toy has 64"),
        (PIXELS, {"image_tokens": 9}, "another number of image slots: 4, toy has 9"),
        (IMAGES, {"shape": (1, 16, 16)}, "another image shape: 1, 8, 8, letters has 1, 16, 16"),
    ],
)
def test_what_further_training_may_change_is_refused_where_there_is_none(spec, changed, said):
    check_data(spec.metadata(), replace(spec, **changed), FILE)
    with pytest.raises(UserError, match=said):
        check_data(spec.metadata(), replace(spec, **changed), FILE, as_trained=True)


def test_the_tokenizer_message_says_what_to_type():
    with pytest.raises(UserError) as caught:
        check_data(TEXT.metadata(), replace(TEXT, tokenizer="bb" * 32), FILE)
    assert "data.text.tokenizer=FILE" in caught.value.lines[-1]
    with pytest.raises(UserError) as caught:
        check_data(VISION.metadata(), replace(VISION, tokenizer="bb" * 32), FILE)
    assert "data.vision.tokenizer=FILE" in caught.value.lines[-1]


def test_files_that_say_nothing_are_not_refused():
    check_data({"network": {}}, IMAGES, FILE, as_trained=True)
    check_data({"network": {}}, TEXT, FILE, as_trained=True)
    assert moments_of({}) is None and moments_of(TEXT) is None and moments_of(VISION) is None


def test_a_normalisation_is_shown_as_it_is_typed():
    assert typed("teacher.normalize", {"mean": [0.5], "std": [1 / 3]}) == (
        "'teacher.normalize={mean: [0.5], std: [0.333333]}'"
    )
