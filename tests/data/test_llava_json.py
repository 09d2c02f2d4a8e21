"""Conversations in LLaVA's JSON with image files: what is read, what is refused by name, what is counted and skipped."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from vision_support import COMMON, tiny_tower

from kdrun.data.pictures import BrokenImage
from kdrun.domains.vision_language.build import vision_module
from kdrun.domains.vision_language.files import with_tests
from kdrun.domains.vision_language.images import EDGE, read_image
from kdrun.domains.vision_language.llava_json import llava_json
from kdrun.problems import UserError


def said(*values, roles=("human", "gpt")):
    return [{"from": roles[n % 2], "value": value} for n, value in enumerate(values)]


def entry(image, *values, **more):
    found = {"id": "x", "conversations": said(*(values or ("<image>\nWhat is it?", "A thing.")))}
    return {**found, **({} if image is None else {"image": image}), **more}


def picture(path, shade=0, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, 100, 50)).save(path)


@pytest.fixture
def root(tmp_path):
    for number in range(10):
        picture(tmp_path / "root" / "images" / f"{number}.png", number)
    return tmp_path / "root"


@pytest.fixture
def load(root, tmp_path):
    def load(entries=None, **options):
        if entries is not None:
            (root / "a.json").write_text(json.dumps(entries))
        options = {"file": "a.json", "images": "images", "size": 16, **options}
        return llava_json(root, cache=tmp_path / "cache", **options)

    return load


class TestEntries:
    def test_standard(self, load):
        made = load([entry("3.png", "Look: <image> what?", " Red. ", "And now?", "Blue."), entry(None, "Hi", "Hello")])
        first, second = made.samples["train"]
        assert [(turn.prompt, turn.answer) for turn in first.turns] == [("Look:  what?", "Red."), ("And now?", "Blue.")]
        assert (first.id, first.images, first.type) == (0, (0,), "conversation")
        assert (second.id, second.images, second.type) == (1, (), "text")
        assert made.samples["val"] == made.samples["test"] == [] and made.report == {}
        pixels = made.images.pixels(np.array([0]))
        assert pixels.shape == (1, 3, 16, 16) and pixels[0, :, 8, 8].tolist() == [3, 100, 50]
        assert list(made.corpus) == ["Look:  what?", "Red.", "And now?", "Blue.", "Hi", "Hello"]

    def test_several_images_in_their_order(self, load):
        made = load([entry(["5.png", "2.png"], "<image>\n<image>\nSame?", "No."), entry("2.png")])
        first, second = made.samples["train"]
        assert first.images == (0, 1) and second.images == (1,) and first.turns[0].prompt == "Same?"
        assert made.images.pixels(np.array(first.images))[:, 0, 8, 8].tolist() == [5, 2]

    @pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
    def test_json_lines(self, load, root, name):
        entries = [entry("1.png"), entry("2.png")]
        (root / name).write_text("\n".join(map(json.dumps, entries)) + "\n\n")
        assert load(file=name).samples == load(entries).samples

    def test_the_folder_of_images(self, load, root):
        entries = [entry("images/1.png")]
        expected = load(entries, images=None).samples
        assert expected == load([entry("1.png")], images=str(root / "images")).samples

    def test_further_keys(self, load):
        (sample,) = load([entry("1.png", type="colour", choices=["a", "b"], answers=["c"])]).samples["train"]
        assert (sample.type, sample.choices, sample.answers) == ("colour", ("a", "b"), ("c",))

    def test_what_llava_leaves_out(self, load):
        entries = [
            {"conversations": said("Begins", "in", "the middle", roles=("gpt", "human"))},
            entry(None, "Q", "A", "no answer"),
            entry(None, "Q", "A", "Q2", " "),
            entry(None, "only a question"),
            {"conversations": []},
        ]
        made = load(entries)
        assert [len(sample.turns) for sample in made.samples["train"]] == [1, 1, 1]
        assert [sample.id for sample in made.samples["train"]] == [0, 1, 2]
        assert made.report == {
            "turns before the first question": 1,
            "turns without an answer": 2,
            "empty answers": 1,
            "without an answer": 2,
        }

    def test_an_answer_of_characters_of_no_width_is_empty(self, load):
        made = load([entry("1.png"), entry("2.png", "<image> a", "\u200b")])
        assert len(made.samples["train"]) == 1 and made.report == {"empty answers": 1, "without an answer": 1}

    def test_a_long_name_is_told_in_short(self, load):
        made = load([entry("1.png"), entry(f"data:image/png;base64,{'A' * 5000}")], limit_broken=0.5)
        assert all(len(line) < 250 and "characters)" in line for line in made.report["images"])

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ("text", "it is text, not an object"),
            ({"image": "1.png"}, "no list of 'conversations'"),
            (entry(7), "'image' is neither"),
            (entry(["1.png", ""]), "'image' is neither"),
            ({"conversations": [{"from": "human"}]}, "it has no 'value'"),
            ({"conversations": [{"from": "human", "value": None}]}, "'value' is null, not text"),
            ({"conversations": [{"from": "bot", "value": "x"}]}, "turn 0 is from 'bot'"),
            ({"conversations": ["x"]}, "turn 0 is not an object"),
            (
                entry(None, "a", "b") | {"conversations": said("a", "b") + said("c", roles=("gpt", "gpt"))},
                "do not take turns at turn 2",
            ),
            (entry("1.png", "no place", "b"), "1 images, but 0 places"),
            (entry(None, "<image>", "b"), "0 images, but 1 places"),
            (entry("1.png", "a", "b", "<image> c", "d"), "1 of them behind the first question"),
            (entry("1.png", choices="ab"), "'choices' is not a list of text"),
            ({"images": ["1.png"], "conversations": said("what?", "b")}, "1 images, but 0 places '<image>': write"),
            ({"image": None, "images": ["1.png"], "conversations": said("what?", "b")}, "1 images, but 0 places"),
            *(
                ({key: "1.png", "conversations": said("what?", "b")}, "1 images, but 0 places")
                for key in ("image_path", "img", "img_path", "image_url", "image_file", "picture", "photo", "Image")
            ),
            ({"file_name": "1.png", "conversations": said("what?", "b")}, "'file_name' names a picture"),
            ({"media": ["x", "sub/1.JPG"], "conversations": said("what?", "b")}, "'media' names a picture"),
            ({"image_url": {"url": "1.png"}, "conversations": said("<image>", "b")}, "'image_url' is neither"),
            ({"image_id": 7, "conversations": said("what?", "b")}, "'image_id' means a picture"),
            ({"video": "a.mp4", "conversations": said("what?", "b")}, "'video' names a picture (or a film)"),
            *(
                ({"conversations": said(f"{place} what?", "b")}, f"a place for a picture ({place})")
                for place in ("<img>", "<|image_pad|>", "<image_1>", "<Image>", "<video>", "<image-placeholder>")
            ),
            (entry("1.png", "<image> a", "so nice \ud83d"), "'value' holds half a character ('\\ud83d') at place 8"),
            (entry("1.png", images=["2.png"]), "'image' and 'images' name different pictures"),
            (
                {"conversations": [{"from": "human", "value": "what?", "image": "1.png"}, *said("", "b")[1:]]},
                "a turn has 'image'",
            ),
        ],
    )
    def test_malformed(self, load, root, wrong, message):
        with pytest.raises(UserError) as caught:
            load([entry("1.png"), wrong, entry("2.png")])
        first, second = caught.value.lines
        assert first == f"{root / 'a.json'}: 1 of 3 entries are malformed"
        assert second.startswith("entry 1: ") and message in second

    @pytest.mark.parametrize(
        "key", ["images", "image_path", "image_paths", "img", "image_file", "image_url", "picture", "photos"]
    )
    def test_other_names_of_the_key(self, load, key):
        standard = load([entry(["1.png", "2.png"], "<image><image> same?", "no"), entry("3.png")]).samples
        renamed = entry(None, "<image><image> same?", "no", **{key: ["1.png", "2.png"]}) | {"image": None}
        assert load([renamed, entry(None, **{key: "3.png"})]).samples == standard
        assert load([entry(["1.png", "2.png"], "<image><image> same?", "no", **{key: ["1.png", "2.png"]})]).report == {}

    def test_keys_that_are_not_read_are_counted(self, load, root, tmp_path, monkeypatch):
        tiny_tower(monkeypatch)
        entries = [entry(f"{n}.png", **({"source": "web", "model": ""} if n else {"video": None})) for n in range(8)]
        entries[3]["conversations"][0]["lang"] = "en"
        made = load(entries)
        assert made.report == {"keys not read": {"source": 7, "model": 7, "conversations.lang": 1, "video": 1}}
        module = vision_module(
            made, {**COMMON, "size": 16, "val_fraction": 0.3, "test_fraction": 0.3}, tmp_path / "cache"
        )
        assert "keys not read: model (7), source (7), conversations.lang (1), video (1)" in module.audit()["summary"]

    def test_many_malformed(self, load):
        with pytest.raises(UserError) as caught:
            load([entry("1.png"), *[{}] * 9])
        assert (
            caught.value.lines[0].endswith("9 of 10 entries are malformed")
            and caught.value.lines[-1] == "... and 6 more"
        )
        assert len(caught.value.lines) == 5

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"[1, 2", "is no JSON: .* line 1, column"),
            (b'{"a": 1}', "holds an object, not a list"),
            (b"[]", "holds no conversation"),
            (b'["\xff"]', "is not UTF-8"),
            (b'{"a": 1}\n{"a"\n', "line 2: no JSON"),
        ],
    )
    def test_files_that_are_something_else(self, load, root, content, message):
        (root / "a.json").write_bytes(content)
        with pytest.raises(UserError, match=message):
            load()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"file": "none.json"}, "there is no such file"),
            ({"file": None}, "needs data.root"),
            ({"part": "x"}, "one of captions, questions"),
            ({"part": "captions"}, "(?s)needs data.captions.*pretrain=null"),
            ({"size": 0}, "height and width"),
            ({"limit_broken": 2}, "a share from 0 to 1"),
            ({"images": "/elsewhere"}, "is not below data"),
            ({"images": "../elsewhere"}, "is not below data"),
        ],
    )
    def test_options(self, load, options, message):
        with pytest.raises(UserError, match=message):
            load([entry("1.png")], **options)


class TestImages:
    def test_missing_and_broken_are_named_counted_and_skipped(self, load, root):
        (root / "images" / "bad.png").write_bytes((root / "images" / "1.png").read_bytes()[:45])
        (root / "images" / "text.jpg").write_text("no image")
        names = ["1.png", "none.png", "bad.png", "text.jpg", "../a.json"]
        entries = [entry(name) for name in names] + [entry(["1.png", "none.png"], "<image><image>", "x")]
        made = load(entries, limit_broken=0.9)
        assert [sample.id for sample in made.samples["train"]] == [0] and len(made.images) == 1
        assert made.report["missing image"] == 2 and made.report["broken image"] == 3
        assert len(made.report["images"]) == 4 and "images/none.png: there is no such file" in made.report["images"]
        with pytest.raises(UserError) as caught:
            load(entries, limit_broken=0.5)
        assert "5 of 6 samples have missing or broken images, more than data.limit_broken=0.5" in str(caught.value)
        assert "images/bad.png: " in str(caught.value) and "images/../a.json: it is not below" in str(caught.value)
        with pytest.raises(UserError, match="no sample is left"):
            load(entries[1:2], limit_broken=1)

    def test_absolute_paths_below_the_root(self, load, root, tmp_path):
        (tmp_path / "linked").symlink_to(root)
        picture(tmp_path / "shared" / "x.png", 77)
        (root / "outside").symlink_to(tmp_path / "shared")
        expected = load([entry("3.png"), entry("../outside/x.png")], limit_broken=0.5)
        names = [
            root / "images/3.png",
            tmp_path / "linked/images/3.png",
            tmp_path / "linked/./images/../images/3.png",
            "a/../3.png",
        ]
        made = load([entry(str(name)) for name in names])
        assert [sample.images for sample in made.samples["train"]] == [(0,)] * 4 and made.report == {}
        assert made.images.source_hash == expected.images.source_hash
        assert (
            load([entry("3.png")], images=str(tmp_path / "linked/images")).images.source_hash
            == load([entry("3.png")]).images.source_hash
        )
        # A folder of pictures that is linked to from within belongs to the root.
        made = load([entry(str(root / "outside/x.png")), entry("outside/x.png")], images=None)
        assert [sample.images for sample in made.samples["train"]] == [(0,), (0,)]

    @pytest.mark.parametrize(
        "name",
        [
            "/etc/passwd",
            "../../secret.png",
            "{root}/images/../../secret.png",
            "{root}-more/1.png",
            "a/../../../secret.png",
        ],
    )
    def test_what_lies_outside_is_refused(self, load, root, tmp_path, name):
        picture(tmp_path / "secret.png")
        picture(tmp_path / "root-more" / "1.png")
        with pytest.raises(UserError, match="it is not below the folder of images"):
            load([entry("1.png"), entry(name.format(root=root))], limit_broken=0)

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("a%20b.png", "but images/a b.png is there: names with %.. are taken as they are"),
            ("sub\\c.png", "but images/sub/c.png is there: a path has / and no backslashes"),
            ("C:\\data\\c.png", "a path has / and no backslashes"),
            ("https://example.org/1.png", "it is an address, and nothing is downloaded"),
            ("file:///tmp/1.png", "it is an address"),
            ("data:image/png;base64,AAAA", "it is an address"),
            ("e\u0301.png", "its letters are composed otherwise"),
        ],
    )
    def test_names_that_are_written_otherwise(self, load, root, name, said):
        for there in ("a b.png", "sub/c.png", "\u00e9.png"):
            picture(root / "images" / there)
        with pytest.raises(UserError) as caught:
            load([entry(name)], limit_broken=0)
        assert "there is no such file" in caught.value.lines[1] and said in caught.value.lines[1]
        assert load([entry("1.png"), entry(name)], limit_broken=1).report["missing image"] == 1

    def test_same_content_is_one_image(self, load, root):
        (root / "images" / "copy.png").write_bytes((root / "images" / "4.png").read_bytes())
        made = load([entry("4.png"), entry("copy.png"), entry("5.png")])
        assert [sample.images for sample in made.samples["train"]] == [(0,), (0,), (1,)]

    def test_are_looked_at_once(self, load, monkeypatch):
        made = load([entry("4.png")])
        from kdrun.domains.vision_language import files as vision_files

        monkeypatch.setattr(vision_files, "_look", lambda *_: pytest.fail("looked at again"))
        assert load([entry("4.png")]).source_hash == made.source_hash

    def test_hash_is_of_what_matters(self, load, root):
        hashes = {load([entry("4.png")]).source_hash, load([entry("5.png")]).source_hash}
        hashes |= {load([entry("5.png")], size=8).source_hash, load([entry("5.png", "<image> q", "a")]).source_hash}
        picture(root / "images" / "5.png", 200)
        hashes |= {load([entry("5.png")]).source_hash}
        assert len(hashes) == 5

    def test_that_goes_away_later(self, load, root):
        made = load([entry("4.png")])
        (root / "images" / "4.png").unlink()
        with pytest.raises(RuntimeError, match=r"4\.png could be read when"):
            made.images.pixels(np.array([0]))


class TestSplits:
    @pytest.fixture
    def module(self, load, tmp_path, monkeypatch):
        tiny_tower(monkeypatch)

        def build(made):
            return vision_module(
                made, {**COMMON, "size": 16, "val_fraction": 0.2, "test_fraction": 0.3}, tmp_path / "cache"
            )

        return build

    def test_by_image_and_alike_for_both_parts(self, load, module, root):
        (root / "captions.json").write_text(json.dumps([entry(f"{n}.png", "<image>", f"{n}") for n in range(10)]))
        entries = [entry(f"{n % 10}.png", f"<image> {n}?", "yes") for n in range(40)]
        parts = {part: module(load(entries, part=part, captions="captions.json")) for part in ("questions", "captions")}
        places = {}
        for made in parts.values():
            assert made.audit()["shared"] == {}
            for split, samples in made.chosen.items():
                for sample in samples:
                    places.setdefault(sample.images, set()).add(split)
        assert all(len(splits) == 1 for splits in places.values())
        assert parts["captions"].spec.tokenizer == parts["questions"].spec.tokenizer
        assert parts["captions"].pictures.features.folder == parts["questions"].pictures.features.folder
        assert parts["captions"].spec.types == ("caption",)
        ids = [set().union(*({s.id for s in samples} for samples in made.chosen.values())) for made in parts.values()]
        assert ids[0].isdisjoint(ids[1])

    def test_files_of_their_own(self, load, module, root):
        (root / "val.json").write_text(json.dumps([entry("1.png")]))
        (root / "test.jsonl").write_text(json.dumps(entry("2.png")))
        (root / "captions.json").write_text(json.dumps([entry(f"{n}.png") for n in range(10)]))
        options = {"val_file": "val.json", "test_file": "test.jsonl", "captions": "captions.json"}
        made = module(load([entry(f"{n}.png") for n in range(5)], **options))
        assert made.spec.sizes == {"train": 3, "val": 1, "test": 1} and made.found["removed"] == {"train": 2}
        captions = load(part="captions", **options)
        assert len(captions.samples["train"]) == 8 and captions.report == {"image of val or test": 2}

    def test_an_image_that_a_further_test_set_has_too_leaves_training(self, load, module, root, tmp_path):
        first = load([entry(f"{n}.png") for n in range(8)])
        other = tmp_path / "other"
        for name, shade in (("copy.png", 3), ("new.png", 99)):
            picture(other / name, shade)
        (other / "b.json").write_text(json.dumps([entry("copy.png"), entry("new.png")]))
        second = llava_json(other, "b.json", size=16, test_file="b.json", cache=tmp_path)
        made = module(with_tests(first, {"others": second}))
        images = {name: {i for s in samples for i in s.images} for name, samples in made.chosen.items()}
        assert 3 in images["others"] and 3 not in images["train"] | images["val"] and made.spec.sizes["others"] == 2
        assert made.conversations.images.pixels(np.array(sorted(images["others"])))[:, 0, 8, 8].tolist() == [3, 99]

    def test_further_test_sets(self, load, module, root, tmp_path):
        first = load([entry(f"{n}.png") for n in range(8)])
        picture(root / "images" / "new.png", 99)
        second = (
            llava_json(root, "b.json", "images", size=16, test_file="b.json", cache=tmp_path)
            if (root / "b.json").write_text(json.dumps([entry("new.png", "<image> what?", "red")]))
            else None
        )
        joined = with_tests(first, {"others": second})
        made = module(joined)
        assert made.extra_tests == ("others",) and made.spec.sizes["others"] == 1
        (sample,) = made.chosen["others"]
        assert made.conversations.images.pixels(np.array([0, *sample.images, 7]))[:, 0, 8, 8].tolist() == [0, 99, 7]
        with pytest.raises(UserError, match="has a split of that name"):
            with_tests(first, {"val": second})
        with pytest.raises(UserError, match="is no source of conversations"):
            with_tests(first, {"x": {"root": 1}})


class TestReading:
    """Files as cameras, drawing programs and attackers write them."""

    def read(self, image, form, size=16, **options):
        file = io.BytesIO()
        image.save(file, form, **options)
        return read_image(io.BytesIO(file.getvalue()), size)

    def test_is_filled_up_to_a_square(self):
        found = self.read(Image.new("RGB", (40, 20), (200, 0, 0)), "PNG")
        assert found.shape == (3, 16, 16) and found.dtype == np.uint8
        assert found[:, 8, 8].tolist() == [200, 0, 0] and tuple(found[:, 0, 0]) == tuple(found[:, 15, 15]) == EDGE

    def test_small_and_thin(self):
        assert self.read(Image.new("RGB", (1, 1), (9, 9, 9)), "PNG")[:, 8, 8].tolist() == [9, 9, 9]
        assert self.read(Image.new("RGB", (2000, 1), (9, 9, 9)), "PNG").shape == (3, 16, 16)

    def test_exif_turns(self):
        image = Image.new("RGB", (32, 32), (0, 0, 0))
        image.paste((250, 250, 250), (0, 0, 32, 16))
        exif = Image.Exif()
        exif[0x0112] = 6  # shown after a quarter turn clockwise: what is on top of the file is on the right
        found = self.read(image, "JPEG", exif=exif, quality=95)
        assert found[0, :, 13:].min() > 200 and found[0, :, :3].max() < 50

    def test_jpeg_is_decoded_small(self):
        rng = np.random.default_rng(0)
        image = Image.fromarray(rng.integers(0, 256, (10, 20, 3), np.uint8)).resize(
            (1600, 800), Image.Resampling.BICUBIC
        )
        exact = self.read(image, "PNG", 32).astype(int)
        assert np.abs(self.read(image, "JPEG", 32, quality=95).astype(int) - exact).mean() < 3

    @pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "I;16", "I", "F"])
    def test_modes(self, mode):
        grey = Image.new("L", (8, 8), 255)
        if mode == "I;16":
            image = Image.fromarray(np.full((8, 8), 65535, np.uint16))
        elif mode == "I":
            image = Image.fromarray(np.full((8, 8), 65535, np.int32))
        else:
            image = grey.convert("RGB").convert(mode) if mode in ("CMYK", "YCbCr", "HSV") else grey.convert(mode)
        found = read_image(image, 16)
        assert found.shape == (3, 16, 16) and found.min() >= 250

    def test_sixteen_bits_are_not_clipped(self):
        found = self.read(Image.fromarray(np.full((8, 8), 0x8000, np.uint16)), "PNG")
        assert found[:, 8, 8].tolist() == [128] * 3
        assert self.read(Image.fromarray(np.full((8, 8), 0x8000, np.uint16)), "TIFF")[:, 8, 8].tolist() == [128] * 3

    def test_cmyk_jpeg(self):
        found = self.read(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")
        assert found[0].min() > 220 and found[1:].max() < 40

    def test_transparency_is_on_white(self):
        image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
        assert self.read(image, "PNG").min() == 255
        image.putalpha(128)
        assert 120 < self.read(image, "PNG")[0, 8, 8] < 135
        palette = Image.new("P", (8, 8), 0)
        palette.putpalette([10, 20, 30] * 256)
        assert self.read(palette, "PNG")[:, 8, 8].tolist() == [10, 20, 30]
        assert self.read(palette, "GIF", transparency=0).min() == 255
        assert self.read(Image.new("LA", (8, 8), (0, 0)), "PNG").min() == 255
        grey = Image.new("L", (8, 8), 7)
        assert self.read(grey, "PNG", transparency=7).min() == 255

    def test_animation_is_its_first_frame(self):
        frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (200, 10)]
        file = io.BytesIO()
        frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
        assert read_image(io.BytesIO(file.getvalue()), 16)[0, 8, 8] == 200

    def test_bomb(self):
        def chunk(kind, data):
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0))
        bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
        with pytest.raises(BrokenImage, match=r"DecompressionBomb|more than 100,000,000"):
            read_image(io.BytesIO(bomb), 16)

    @pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
    def test_cut_off(self, form):
        file = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(file, form)
        content = file.getvalue()
        with pytest.raises(BrokenImage):
            read_image(io.BytesIO(content[: len(content) // 2]), 16)

    def test_no_image(self, tmp_path):
        (tmp_path / "empty.png").touch()
        for name in ("empty.png", "none.png", "."):
            with pytest.raises(BrokenImage):
                read_image(tmp_path / name, 16)
        for source in (io.BytesIO(b"text"), tmp_path / "empty.png"):
            with pytest.raises(BrokenImage, match=r"^no image, or of a kind"):  # the same in every process
                read_image(source, 16)
