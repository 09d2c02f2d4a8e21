import re
from collections import Counter

import numpy as np
import pytest
from blind_guesses import accuracy, blind

from kdrun.domains.vision_language.sheet import contact_sheet
from kdrun.domains.vision_language.shipped.scenes import Scenes, meaning
from kdrun.domains.vision_language.shipped.shapes import BACKGROUNDS, COLOURS, HELD_OUT, SHAPES
from kdrun.domains.vision_language.shipped.shapes_vqa import WORLD, shapes_vqa
from kdrun.domains.vision_language.source import ImageStore
from kdrun.problems import UserError

SMALL = {"train": 90, "val": 12, "test": 30, "further": 30}
CELLS = WORLD.cells
PLURALS = {**{f"{shape}s": shape for shape in SHAPES}, "crosses": "cross", "things": "thing"}


def answers(samples, kind=None):
    return [sample.turns[0].answer for sample in samples if kind in (None, sample.type)]


def words(sample):
    return {word for turn in sample.turns for word in re.findall(r"\w+", f"{turn.prompt} {turn.answer}".lower())}


@pytest.fixture(scope="module")
def large():
    return shapes_vqa(train=6_000, test=2_400)


@pytest.fixture(scope="module")
def small():
    return shapes_vqa(**SMALL)


def test_splits_and_types(small):
    assert {name: len(samples) for name, samples in small.samples.items()} == {
        **{"train": 90, "val": 12, "test": 30},
        **{"objects": 30, "combinations": 30, "style": 30},
    }
    counts = Counter(sample.type for sample in small.samples["train"])
    assert set(counts) == set(WORLD.splits["train"].types) and set(counts.values()) == {10}
    assert small.further == ("objects", "combinations", "style")
    assert list(shapes_vqa(**{**SMALL, "further": 0}).samples) == ["train", "val", "test"]
    for name, least in (("further", 0), ("val", 1)):
        with pytest.raises(UserError, match=f"data.{name}=-1: how many questions, {least} to"):
            shapes_vqa(**{**SMALL, name: -1})
    for sample in small.samples["train"]:
        assert len(sample.turns) == 1 and len(sample.images) == 1


def test_samples_are_the_same_whatever_sizes_are_asked_for(small):
    other = shapes_vqa(train=45, val=90, test=60, further=9)
    for name, samples in small.samples.items():
        for one, same in zip(samples, other.samples[name], strict=False):
            assert (one.id, one.turns, one.type, one.choices) == (same.id, same.turns, same.type, same.choices)
            pictures = [found.images.pixels(np.array(s.images)) for found, s in ((small, one), (other, same))]
            assert (pictures[0] == pictures[1]).all()


def test_ids_are_unique_over_parts_and_splits(small):
    both = [small, shapes_vqa("captions", **SMALL)]
    ids = [sample.id for found in both for samples in found.samples.values() for sample in samples]
    assert len(set(ids)) == len(ids)


def test_a_seed_determines_everything(small):
    again, other = shapes_vqa(**SMALL), shapes_vqa(**SMALL, seed=1)
    assert again.source_hash == small.source_hash and again.samples == small.samples
    assert other.source_hash != small.source_hash
    assert other.samples["train"][:9] != small.samples["train"][:9]
    assert shapes_vqa(**SMALL, size=64).images.source_hash != small.images.source_hash


def test_captions_are_about_the_pictures_of_questions(small):
    captions = shapes_vqa("captions", **SMALL)
    assert captions.images.source_hash == small.images.source_hash and captions.corpus == small.corpus
    assert captions.source_hash != small.source_hash and "objects" not in captions.samples
    assert {s.images for s in captions.samples["train"]} == {s.images for s in small.samples["train"]}
    for sample in captions.samples["train"]:
        scene, text = captions.images.scenes[sample.images[0]], sample.turns[0].answer
        for thing in scene.things:
            size = "large" if thing.large else "small"
            assert f"{size} {thing.group} {thing.kind} at the {CELLS[thing.cell]}" in text
        assert text.count(" at the ") == len(scene.things) and sample.type == "caption"
        assert ("the word" in text) == (scene.word is not None)


def test_splits_share_no_scene(large):
    seen = {name: {meaning(large.images.scenes[s.images[0]]) for s in part} for name, part in large.samples.items()}
    assert sum(map(len, seen.values())) == len(set().union(*seen.values())) == len(large.images)


def test_unseen_shapes_are_never_named(large):
    everything = set().union(*(words(sample) for sample in large.samples["train"]))
    assert not everything & set(HELD_OUT) and everything >= set(SHAPES) | set(COLOURS)
    for sample in large.samples["objects"]:
        assert {thing.kind for thing in large.images.scenes[sample.images[0]].things} <= set(HELD_OUT)
        assert not words(sample) & (set(HELD_OUT) | set(SHAPES))


def test_combinations_are_apart_in_training(large):
    apart = set(WORLD.splits["combinations"].pairs)
    assert len(apart) == 16 and {kind for kind, _ in apart} == set(SHAPES) and {c for _, c in apart} == set(COLOURS)
    phrases = {f"{colour} {shape}" for shape, colour in apart}

    def shown(split):
        scenes = [large.images.scenes[sample.images[0]] for sample in large.samples[split]]
        return {(thing.kind, thing.group) for scene in scenes for thing in scene.things}

    for split in ("train", "val", "test", "style"):
        assert not shown(split) & apart
        assert not any(
            phrase in turn for s in large.samples[split] for turn in [s.turns[0].prompt] for phrase in phrases
        )
    assert shown("combinations") == apart


def test_answers_follow_from_the_scene(large):
    """Read off scenes by another route than the questions were made."""
    checked = Counter()
    for split, samples in large.samples.items():
        for sample in samples:
            scene, turn = large.images.scenes[sample.images[0]], sample.turns[0]
            expected = expectation(sample, scene, turn.prompt)
            if expected is not None:
                assert turn.answer == expected, (split, turn, scene)
                checked[sample.type] += 1
    assert set(checked) == set(WORLD.splits["train"].types) and min(checked.values()) > 300


def expectation(sample, scene, prompt):
    told = re.sub(r"[?.,]", "", prompt.partition("? A. ")[0]).split()
    places = {CELLS[thing.cell]: thing for thing in scene.things}
    if sample.type == "count":
        asked = [PLURALS.get(word, word) for word in told if word in PLURALS or word in COLOURS]
        return str(len(matching(scene, asked)))
    if sample.type == "exist":
        return "yes" if matching(scene, described(told)) else "no"
    if sample.type == "text":
        return scene.word.text
    if sample.type == "position":
        (thing,) = matching(scene, described(told))
        return CELLS[thing.cell]
    if sample.type in ("colour", "shape", "choice") and " at the " in prompt:
        thing = places[" ".join(told).rpartition(" at the ")[2]]
        value = thing.group if "colour" in prompt else thing.kind
        return value if sample.type != "choice" else "ABCD"[sample.choices.index(value)]
    if sample.type in ("colour", "shape"):
        (thing,) = matching(scene, described(told))
        return thing.group if sample.type == "colour" else thing.kind
    if sample.type == "relation":
        side, asked = re.search(r" directly (left of|right of|above|below) (.*)\?", prompt).groups()
        (thing,) = matching(scene, described(asked.split()))
        step = {"left of": -1, "right of": 1, "above": -3, "below": 3}[side]
        (other,) = [found for found in scene.things if found.cell == thing.cell + step]
        return other.kind
    if sample.type == "compare" and "more" in told:
        one, other = " ".join(told).partition(" more ")[2].split(" than ")
        counts = [
            len(matching(scene, [PLURALS.get(w, w) for w in text.split() if w in PLURALS or w in COLOURS]))
            for text in (one, other)
        ]
        assert counts[0] != counts[1]
        return "yes" if counts[0] > counts[1] else "no"
    one, other = " ".join(told).split(" than ")
    (first,), (second,) = matching(scene, described(one.split())), matching(scene, described(other.split()))
    assert first.large != second.large
    return "yes" if first.large else "no"


def described(told):
    return [word for word in told if word in SHAPES or word in COLOURS]


def matching(scene, asked):
    return [
        thing for thing in scene.things if all(word == "thing" or word in (thing.kind, thing.group) for word in asked)
    ]


def test_answers_are_balanced(large):
    for split in ("train", "test"):
        samples = large.samples[split]
        for kind in ("exist", "compare"):
            counts = Counter(answers(samples, kind))
            assert abs(counts["yes"] - counts["no"]) <= 1
        letters = Counter(answers(samples, "choice"))
        assert set(letters) == set("ABCD") and max(letters.values()) - min(letters.values()) <= 1
    for kind, most in (("shape", 1.25), ("colour", 1.1), ("position", 1.1), ("relation", 1.25), ("text", 1.1)):
        counts = Counter(answers(large.samples["train"], kind))
        assert max(counts.values()) <= most * min(counts.values()) + 1, (kind, counts)


def test_blind_guesses_are_near_chance(large):
    chance = {"shape": 1 / 8, "colour": 1 / 6, "position": 1 / 9, "count": 1 / 5, "exist": 1 / 2}
    chance |= {"relation": 1 / 8, "compare": 1 / 2, "text": 1 / 32, "choice": 1 / 4}
    found = blind(large)
    for guess, by_type in found.items():
        for kind, share in by_type.items():
            if kind != "all":
                count = sum(sample.type == kind for sample in large.samples["test"])
                assert share < chance[kind] + 3 * (chance[kind] * (1 - chance[kind]) / count) ** 0.5, (guess, kind)
    assert found["length"]["all"] < found["majority"]["all"] + 0.03


def test_the_layout_does_not_tell_yes_from_no(large):
    def layout(sample):
        scene = large.images.scenes[sample.images[0]]
        sizes = sum(thing.large for thing in scene.things)
        return [len(scene.things), ("large", sizes), ("word", scene.word is not None), ("shade", scene.background)] + [
            ("cell", thing.cell) for thing in scene.things
        ]

    found = accuracy(large.samples["train"], large.samples["test"], layout)
    for kind, chance in (("exist", 0.5), ("compare", 0.5), ("choice", 0.25), ("colour", 1 / 8), ("text", 1 / 32)):
        count = sum(sample.type == kind for sample in large.samples["test"])
        assert found[kind] < chance + 3 * (chance * (1 - chance) / count) ** 0.5, kind


def test_no_word_of_a_question_is_missing_from_the_corpus():
    tiny = shapes_vqa(train=9, val=9, test=90, further=90)
    known = {word for text in tiny.corpus for word in re.findall(r"\w+", text.lower())}
    answer_words = {word for part in tiny.samples.values() for text in answers(part) for word in text.lower().split()}
    assert answer_words <= known | {"a", "b", "c", "d"}


def test_pixels_are_drawn_when_asked(small):
    images = small.images
    assert isinstance(images, ImageStore) and len(images) == len(images.scenes)
    some = images.pixels(np.array([3, 0, 3]))
    assert some.shape == (3, 3, 96, 96) and some.dtype == np.uint8
    assert (some[0] == some[2]).all() and (some[1] == images.pixels(np.array([0]))[0]).all()
    assert images.pixels(np.array([], np.int64)).shape == (0, 3, 96, 96)


@pytest.mark.parametrize("size", [48, 96, 224])
def test_colours_are_where_things_are(size):
    found = shapes_vqa(**SMALL, size=size)
    cell = size / 3
    for index, scene in enumerate(found.images.scenes[:30]):
        pixels = found.images.pixels(np.array([index]))[0].astype(int)
        for thing in scene.things:
            row, column = divmod(thing.cell, 3)
            y, x = (round((place + 0.5 + off / 100) * cell) for place, off in ((row, thing.dy), (column, thing.dx)))
            if thing.kind != "moon" and (thing.large or size > 48):
                assert abs(pixels[:, y, x] - COLOURS[thing.group]).max() <= 22
        empty = [cell for cell in range(9) if cell not in {thing.cell for thing in scene.things}]
        for place in empty:
            row, column = divmod(place, 3)
            if scene.word is None or scene.word.row != row:
                middle = pixels[:, round((row + 0.5) * cell), round((column + 0.5) * cell)]
                assert tuple(middle) == BACKGROUNDS[scene.background]


def test_the_other_style_is_not_filled(small):
    painter = small.images.painter
    for sample in small.samples["style"]:
        scene = small.images.scenes[sample.images[0]]
        assert (np.asarray(painter.paint(scene)) != np.asarray(painter.paint(scene._replace(style="filled")))).any()


def test_mistakes_are_named():
    for arguments, text in (
        ({"part": "caption"}, "data.part=caption: one of captions, questions; closest"),
        ({"train": 0}, "data.train=0"),
        ({"further": -1}, "data.further=-1"),
        ({"per_image": 9}, "data.per_image=9: 1 to 5"),
        ({"size": 20}, "data.size=20: at least 48 pixels"),
    ):
        with pytest.raises(UserError, match=re.escape(text)):
            shapes_vqa(**{**SMALL, **arguments})


def test_an_endless_split_says_when_it_ends(monkeypatch):
    monkeypatch.setattr("kdrun.domains.vision_language.shipped.scenes.ATTEMPTS", 5)
    from kdrun.domains.vision_language.shipped.scenes import Draw

    with pytest.raises(ValueError, match="shapes_vqa: no further scene was found for train"):
        Scenes(WORLD, WORLD.splits["train"], Draw(0)).next(lambda scene: False)


def test_a_sheet_shows_questions_below_pictures(small):
    sheet = contact_sheet(small, "test", n=5, columns=3)
    assert sheet.width == 600 and sheet.height > 400
    first = small.images.pixels(np.array(small.samples["test"][0].images))[0].transpose(1, 2, 0)
    scaled = np.asarray(sheet)[:192, :192]
    assert (scaled[::2, ::2] == first).all()
    with pytest.raises(UserError, match="no split 'tset'; closest"):
        contact_sheet(small, "tset")
