import hashlib
import io
import json
import re
import tarfile
from collections import Counter

import numpy as np
import pytest
from blind_guesses import blind
from PIL import Image

from kdrun.data.bundles import EXTRACTS, read_bundle
from kdrun.data.fetch import Fetchable, FetchFailed, fetch, registry
from kdrun.domains.vision_language.shipped.emoji import CATEGORIES
from kdrun.domains.vision_language.shipped.emoji_vqa import APART, WORLD, emoji_vqa
from kdrun.domains.vision_language.shipped.scenes import meaning
from kdrun.problems import UserError

SMALL = {"train": 80, "val": 8, "test": 24, "further": 24}
NAMES = {name: short for names in CATEGORIES.values() for name, short in names.items()}


def png(number, style):
    """A picture of one colour, another for every number and style, transparent at the border."""
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[8:56, 8:56] = (number % 256, 40 * (number // 256), 200 if style == "google" else 10, 255)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def package(style):
    """What an npm package of emoji holds, with one emoji in another colour of skin, by path."""
    entries = [{"short_name": short, "image": f"{place:04x}.png"} for place, short in enumerate(sorted(NAMES.values()))]
    found = {"package/emoji.json": json.dumps(entries).encode()}
    for place, entry in enumerate(entries):
        found[f"package/img/{style}/64/{entry['image']}"] = png(place, style)
    found[f"package/img/{style}/64/0001-1f3fd.png"] = b"skin"
    found[f"package/img/{style}/sheets/64.png"] = b"sheet"
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files that `kdrun fetch emoji` would bring, made up."""
    root = tmp_path_factory.mktemp("emoji")
    for style in ("twitter", "google"):
        bundle = EXTRACTS[f"emoji_{style}"]
        members = package(style)
        wanted = {path: content for path, content in members.items() if bundle.members.search(path)}
        (root / f"emoji-{style}.tar").write_bytes(bundle.table(wanted))
        (root / "emoji.json").write_bytes(members["package/emoji.json"])
    return root


@pytest.fixture(scope="module")
def small(folder):
    return emoji_vqa(**SMALL, root=folder)


@pytest.fixture(scope="module")
def large(folder):
    return emoji_vqa(train=4_000, test=1_600, root=folder)


def scenes(found, split):
    return [found.images.scenes[sample.images[0]] for sample in found.samples[split]]


def test_splits_and_types(small):
    assert {name: len(samples) for name, samples in small.samples.items()} == {
        **{"train": 80, "val": 8, "test": 24},
        **{"objects": 24, "combinations": 24, "style": 24},
    }
    counts = Counter(sample.type for sample in small.samples["train"])
    assert set(counts) == set(WORLD.splits["train"].types) and set(counts.values()) == {10}


def test_samples_are_the_same_whatever_sizes_are_asked_for(small, folder):
    other = emoji_vqa(train=16, val=16, test=40, further=6, root=folder)
    for name, samples in small.samples.items():
        for one, same in zip(samples, other.samples[name], strict=False):
            assert (one.id, one.turns, one.choices) == (same.id, same.turns, same.choices)


def test_unseen_emoji_are_never_shown_or_named_in_training(large):
    seen = {thing.kind for scene in scenes(large, "train") for thing in scene.things}
    unseen = {thing.kind for scene in scenes(large, "objects") for thing in scene.things}
    assert not seen & unseen and len(seen | unseen) > 0.95 * len(NAMES)
    told = " ".join(large.corpus)
    assert not unseen & set(re.findall(r"\w+", told)) and set(CATEGORIES) - {"sea animal"} <= set(told.split())
    for sample in large.samples["objects"]:
        turn = sample.turns[0]
        assert not set(re.findall(r"\w+", f"{turn.prompt} {turn.answer}")) & set(NAMES)
    for category, names in CATEGORIES.items():
        assert 2 <= len(unseen & set(names)) <= 0.25 * len(names), category


def test_categories_that_training_shows_only_apart(large):
    def together(scene):
        shown = {thing.group for thing in scene.things}
        return any(one in shown and other in shown for one, other in APART)

    for split in large.samples:
        assert {together(scene) for scene in scenes(large, split)} == {split == "combinations"}


def test_splits_share_no_scene(large):
    seen = [{meaning(scene) for scene in scenes(large, name)} for name in large.samples]
    assert sum(map(len, seen)) == len(set().union(*seen))


def test_answers_follow_from_the_scene(large):
    groups = {**{category: category for category in CATEGORIES}}
    plurals = {**{f"{category}s": category for category in CATEGORIES}, "dishes": "dish", "things": None}
    checked = Counter()
    for split in large.samples:
        for sample, scene in zip(large.samples[split], scenes(large, split), strict=True):
            prompt, answer = sample.turns[0].prompt.partition(" A. ")[0].rstrip("?."), sample.turns[0].answer
            places = {WORLD.cells[thing.cell]: thing for thing in scene.things}
            if sample.type == "count":
                asked = next(plurals[p] for p in sorted(plurals, key=len, reverse=True) if p in prompt)
                assert answer == str(sum(asked in (None, thing.group) for thing in scene.things))
            elif sample.type == "exist":
                asked = re.search(r"(?:there|see|show) an? (.*)", prompt)[1]
                side = "group" if asked in groups else "kind"
                assert answer == ("yes" if any(getattr(t, side) == asked for t in scene.things) else "no")
            elif sample.type in ("name", "category", "choice") and " at the " in prompt:
                thing = places[prompt.rpartition(" at the ")[2]]
                value = sample.choices["ABCD".index(answer)] if sample.type == "choice" else answer
                assert value in (
                    (thing.kind, thing.group)
                    if sample.type == "choice"
                    else (getattr(thing, "kind" if sample.type == "name" else "group"),)
                )
            elif sample.type == "position":
                asked = re.search(r"(?:is|see) the (.*)", prompt)[1]
                assert asked in (places[answer].kind, places[answer].group)
            elif sample.type == "relation":
                side, asked = re.search(r"(left of|right of|above|below) the (.*)", prompt).groups()
                (thing,) = [t for t in scene.things if asked in (t.kind, t.group)]
                step = {"left of": -1, "right of": 1, "above": -2, "below": 2}[side]
                assert places[WORLD.cells[thing.cell + step]].kind == answer
            else:
                continue
            checked[sample.type] += 1
    assert len(checked) == 7 and min(checked.values()) > 100


def test_answers_are_balanced_and_blind_guesses_near_chance(large):
    for kind in ("exist", "compare"):
        counts = Counter(sample.turns[0].answer for sample in large.samples["train"] if sample.type == kind)
        assert abs(counts["yes"] - counts["no"]) <= 1
    chance = {"name": 1 / 30, "category": 1 / 15, "position": 1 / 4, "count": 1 / 4, "exist": 1 / 2, "relation": 1 / 30}
    chance |= {"compare": 1 / 2, "choice": 1 / 4}
    for guess, by_type in blind(large).items():
        for kind, share in by_type.items():
            if kind != "all":
                assert share < chance[kind] + 3 * (chance[kind] * (1 - chance[kind]) / 200) ** 0.5, (guess, kind)


def test_the_other_style_is_another_drawing_of_the_same_emoji(small):
    blue = {}
    for split in ("test", "style"):
        index = small.samples[split][0].images[0]
        scene, pixels = small.images.scenes[index], small.images.pixels(np.array([index]))[0]
        thing = scene.things[0]
        row, column = divmod(thing.cell, 2)
        blue[split] = pixels[2, round((row + 0.5) * 48), round((column + 0.5) * 48)]
        assert thing.kind in {kind for kind, _ in WORLD.splits["train"].pairs}
    assert blue == {"test": 10, "style": 200}


def test_pixels_and_captions(small, folder):
    captions = emoji_vqa("captions", **SMALL, root=folder)
    assert captions.images.source_hash == small.images.source_hash and captions.source_hash != small.source_hash
    some = captions.images.pixels(np.array([1, 0, 1]))
    assert some.shape == (3, 3, 96, 96) and (some[0] == some[2]).all()
    for sample in captions.samples["train"]:
        scene = captions.images.scenes[sample.images[0]]
        for thing in scene.things:
            assert f" {thing.kind} at the {WORLD.cells[thing.cell]}" in sample.turns[0].answer


def test_the_pictures_are_part_of_the_hash(small, folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    pictures = read_bundle(folder / "emoji-google.tar", {f"{place:04x}.png" for place in range(len(NAMES))})
    pictures["0000.png"] = png(77, "google")
    (tmp_path / "emoji-google.tar").write_bytes(EXTRACTS["emoji_google"].table(pictures))
    assert emoji_vqa(**SMALL, root=tmp_path).source_hash != small.source_hash


def test_mistakes_are_named(folder, tmp_path):
    with pytest.raises(UserError, match="data=emoji_vqa needs a data set that is not here yet: kdrun fetch emoji"):
        emoji_vqa(cache=tmp_path)
    with pytest.raises(UserError, match=r"data.root has no .*emoji.json"):
        emoji_vqa(root=tmp_path)
    with pytest.raises(UserError, match=r"data\.size=8: at least 32 pixels"):
        emoji_vqa(size=8, root=folder)
    for name in ("emoji.json", "emoji-twitter.tar", "emoji-google.tar"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "emoji-twitter.tar").write_bytes(EXTRACTS["emoji_twitter"].table({"0000.png": png(0, "twitter")}))
    with pytest.raises(UserError, match="does not hold the emoji that are needed"):
        emoji_vqa(root=tmp_path)
    (tmp_path / "emoji-twitter.tar").write_bytes(b"no archive, however long it may be" * 100)
    with pytest.raises(UserError, match="does not hold the emoji that are needed"):
        emoji_vqa(root=tmp_path)


def npm(folder, style, version):
    """A package as npm packs it."""
    with tarfile.open(folder / f"emoji-datasource-{style}-{version}.tgz", "w:gz") as archive:
        for path, content in reversed(package(style).items()):
            member = tarfile.TarInfo(path)
            member.size, member.mtime = len(content), 1_700_000_000 + version
            archive.addfile(member, io.BytesIO(content))


def test_fetching_keeps_pictures_and_names_only(folder, tmp_path):
    """From packages with other times and another order; without skin tones and sheets."""
    files = tuple(
        {"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), **extract}
        for name, extract in (
            ("emoji.json", {}),
            ("emoji-twitter.tar", {"extract": "kdrun.data.bundles:emoji_twitter"}),
            ("emoji-google.tar", {"extract": "kdrun.data.bundles:emoji_google"}),
        )
        for content in [(folder / name).read_bytes()]
    )
    entry = Fetchable("made_up", "made up", "data set", "MIT", 1000, files)
    given = tmp_path / "given"
    given.mkdir()
    npm(given, "twitter", 1)
    with pytest.raises(FetchFailed) as caught:
        fetch(entry, tmp_path / "cache", given)
    assert "  missing: emoji-google.tar" in caught.value.lines and "damaged" not in str(caught.value)
    npm(given, "google", 2)
    assert fetch(entry, tmp_path / "cache", given)
    kept = entry.folder(tmp_path / "cache")
    assert sorted(path.name for path in kept.iterdir() if path.name != "about.json") == sorted(f["name"] for f in files)
    with tarfile.open(kept / "emoji-google.tar") as archive:
        assert len(archive.getnames()) == len(NAMES) and "0001-1f3fd.png" not in archive.getnames()


def test_what_is_pinned():
    known = registry()
    assert {package["client"] for package in known["emoji"].packages} == {"npm"}
    assert "CC BY 4.0" in known["emoji"].licence and "Apache-2.0" in known["emoji"].licence
    assert [file["name"] for file in known["smollm2"].files] == ["SmolLM2-135M-Instruct.Q4_1.gguf"]
