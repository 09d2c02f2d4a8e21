"""What a batch of conversations on images is, and that nothing around a sample changes its tokens."""

import json

import numpy as np
import pytest
import torch
from vision_support import Store, conversations, mixed, module_of, question, tiny_tower

from kdrun.domains.vision_language.source import Sample, Turn
from kdrun.domains.vision_language.spec import VisionSpec
from kdrun.problems import UserError


@pytest.fixture
def tower(monkeypatch):
    return tiny_tower(monkeypatch)


@pytest.fixture
def module(tmp_path, tower):
    return module_of(tmp_path, conversations(mixed(37), mixed(7, 100), mixed(6, 120)))


def rows_of(batch):
    """Sample id -> its tokens, labels, slots and targets without padding, and its images' features."""
    inputs, found, first = batch["inputs"], {}, 0
    for row, number in enumerate(batch["ids"].tolist()):
        real = inputs["attention_mask"][row]
        slots = batch["visual_mask"][row]
        images = int(slots.sum()) // 4
        features = inputs["image_features"][first : first + images] if images else torch.zeros(0)
        first += images
        assert not slots[~real].any() and not batch["mask"][row][~real].any()
        kinds = (inputs["input_ids"], batch["targets"], batch["mask"], batch["visual_mask"])
        found[number] = [*(values[row][real].tolist() for values in kinds), features.flatten().tolist()]
    assert first == len(inputs.get("image_features", ()))
    return found


class TestBatch:
    def test_targets_are_the_next_tokens(self, module):
        for batch in module.eval_loader("train", 5):
            ids, real = batch["inputs"]["input_ids"], batch["inputs"]["attention_mask"]
            both = real[:, 1:]
            assert torch.equal(ids[:, 1:][both], batch["targets"][:, :-1][both])
            assert (batch["inputs"]["input_ids"][~real] == module.spec.pad).all()
            assert batch["targets"].dtype == ids.dtype == torch.int64
            assert batch["mask"].dtype == real.dtype == batch["visual_mask"].dtype == torch.bool

    def test_slots_are_those_of_the_image_token_in_the_order_of_images(self, module):
        for batch in module.eval_loader("train", 5):
            samples = module.samples_of(batch["ids"])
            assert torch.equal(batch["visual_mask"], batch["inputs"]["input_ids"] == module.spec.image_token)
            assert batch["visual_mask"].sum(1).tolist() == [4 * len(sample.images) for sample in samples]
            numbers = [image for sample in samples for image in sample.images]
            expected = module.pictures(np.array(numbers))["image_features"]
            assert torch.equal(batch["inputs"]["image_features"], expected)
            pixels = module.conversations.images.pixels(np.array(numbers))
            live = module.pictures.of(pixels)["image_features"]
            assert (live - expected).abs().max() < 1e-3

    def test_without_any_image(self, tmp_path, tower):
        text = [question(number, images=0) for number in range(4)]
        module = module_of(tmp_path, conversations(text, mixed(3, 50), mixed(3, 60)))
        (batch,) = module.eval_loader("train", 4)
        assert batch["inputs"].keys() == {"input_ids", "attention_mask"}
        assert not batch["visual_mask"].any() and batch["sizes"] == {
            "mask": batch["size"],
            "visual_mask": 0,
            "images": 0,
        }

    def test_online_images_are_pixels(self, tmp_path, tower):
        module = module_of(tmp_path, conversations(mixed(8), mixed(3, 50), mixed(3, 60)), features="online")
        (batch,) = module.eval_loader("train", 8)
        numbers = [image for sample in module.samples_of(batch["ids"]) for image in sample.images]
        expected = (torch.from_numpy(Store(200).pixels(numbers)).float() - 127) / 128
        assert torch.equal(batch["inputs"]["pixel_values"], expected)
        assert module.spec.feature_width is None and module.spec.tower == "tiny@0123456789ab/32"
        assert module.features_kept() is None and not (tmp_path / "cache" / "features").exists()

    def test_the_networks_own_tower(self, tmp_path):
        source = conversations(mixed(8), mixed(3, 50), mixed(3, 60))
        with pytest.raises(UserError, match="needs data"):
            module_of(tmp_path, source, tower=None)
        module = module_of(tmp_path, source, tower=None, image_tokens=6)
        (batch,) = module.eval_loader("train", 8)
        assert module.spec.tower is None and module.spec.image_tokens == 6
        assert -1 <= batch["inputs"]["pixel_values"].min() < -0.99 and batch["visual_mask"][0].sum() == 6
        other = module_of(tmp_path, source, tower=None, image_tokens=6, normalize={"mean": [0.0] * 3, "std": [1.0] * 3})
        (batch,) = other.eval_loader("train", 8)
        assert batch["inputs"]["pixel_values"].min() >= 0


class TestNothingAroundASampleChangesIt:
    @pytest.mark.parametrize(("size", "world"), [(1, 1), (3, 1), (37, 1), (8, 2), (5, 3), (2, 3)])
    def test_batches_ranks_and_accumulation(self, module, size, world):
        expected = {}
        for batch in module.eval_loader("train", 4):
            expected |= rows_of(batch)
        loaders = [module.train_loader(size, 7, rank, world) for rank in range(world)]
        seen, steps = {}, [list(loader) for loader in loaders]
        assert len({len(batches) for batches in steps}) == 1 == len({len(loader) for loader in loaders})
        for batches in zip(*steps, strict=True):
            assert len({json.dumps([batch["size"], batch["sizes"]]) for batch in batches}) == 1
            whole = batches[0]["sizes"]
            assert whole["mask"] == batches[0]["size"] == sum(int(batch["mask"].sum()) for batch in batches)
            assert whole["visual_mask"] == sum(int(batch["visual_mask"].sum()) for batch in batches)
            assert whole["images"] == sum(int(batch["visual_mask"].any(1).sum()) for batch in batches)
            for batch in batches:
                if batch["mask"].any():
                    rows = rows_of(batch)
                    assert seen.keys().isdisjoint(rows)
                    seen |= rows
        assert seen == expected

    def test_single_samples_by_id(self, module):
        for batch in module.train_loader(6, 3):
            again = module.inputs(batch["ids"])
            assert rows_of(again) == rows_of(batch) and again["sizes"] == batch["sizes"]
            assert module.lengths(batch["ids"]).tolist() == batch["mask"].sum(1).tolist()
        with pytest.raises(KeyError, match="99999"):
            module.inputs(torch.tensor([99999]))
        with pytest.raises(ValueError, match="one split at a time"):
            module.inputs(torch.tensor([0, 100]))


class TestOrder:
    def test_is_a_function_of_seed_and_epoch(self, module):
        def order(seed, epoch):
            loader = module.train_loader(5, seed)
            loader.set_epoch(epoch)
            return [batch["ids"].tolist() for batch in loader]

        assert order(1, 2) == order(1, 2) != order(1, 3)
        assert order(1, 2) != order(2, 2)
        assert sorted(number for batch in order(1, 3) for number in batch) == list(range(37))

    @pytest.mark.parametrize("cut", range(1, 8))
    def test_resumes_at_any_batch(self, module, cut):
        loader = module.train_loader(5, 1)
        loader.set_epoch(3)
        whole = list(loader)
        loader = module.train_loader(5, 1)
        loader.set_epoch(3)
        for _, _ in zip(range(cut), loader, strict=False):
            pass
        again = module.train_loader(5, 1)
        again.load_state_dict(json.loads(json.dumps(loader.state_dict())))
        rest = list(again)
        assert len(rest) == len(whole) - cut == 8 - cut
        for one, other in zip(whole[cut:], rest, strict=True):
            assert rows_of(one) == rows_of(other) and one["ids"].tolist() == other["ids"].tolist()

    def test_similar_lengths_come_together(self, module):
        padding = lambda loader: sum(int((~batch["inputs"]["attention_mask"]).sum()) for batch in loader)  # noqa: E731
        assert padding(module.train_loader(5, 0)) < padding(module.eval_loader("train", 5)) / 2

    def test_evaluation_is_in_the_order_of_the_source(self, module):
        ids = [number for batch in module.eval_loader("train", 5) for number in batch["ids"].tolist()]
        assert ids == list(range(37)) == module.train_ids.tolist()
        assert [len(batch["ids"]) for batch in module.eval_loader("val", 5)] == [5, 2]

    def test_lightning(self, module):
        assert (
            len(module.train_dataloader()) == 2 and len(module.val_dataloader()) == len(module.test_dataloader()) == 1
        )


class TestPrompts:
    def test_are_what_training_has_before_the_last_answer(self, module):
        for batch in module.eval_loader("train", 6):
            prompts = module.prompts(batch["ids"])
            assert prompts["input_ids"].shape == prompts["attention_mask"].shape
            assert prompts["attention_mask"][:, -1].all(), "filled up on the left"
            assert torch.equal(
                prompts.get("image_features", torch.zeros(0)), batch["inputs"].get("image_features", torch.zeros(0))
            )
            for row, sample in enumerate(module.samples_of(batch["ids"])):
                real = batch["inputs"]["attention_mask"][row]
                trained = batch["inputs"]["input_ids"][row][real].tolist()
                prompt = prompts["input_ids"][row][prompts["attention_mask"][row]].tolist()
                assert trained[: len(prompt)] == prompt
                rest = [*trained[len(prompt) :], module.spec.eos]
                assert module.decode([rest]) == [sample.turns[-1].answer]
                assert (prompts["input_ids"][row][~prompts["attention_mask"][row]] == module.spec.pad).all()

    def test_of_a_question_that_no_split_has(self, module):
        sample = module.samples_of(torch.tensor([2]))[0]
        pixels = module.conversations.images.pixels(np.array(sample.images))
        prompt = module.encode_prompt(sample.turns[-1].prompt, pixels, sample.turns[:-1])
        stored = module.prompts(torch.tensor([2]))
        assert prompt.keys() == stored.keys() and len(sample.turns) == 3 and len(sample.images) == 2
        assert all(torch.equal(prompt[name], stored[name]) for name in stored)
        text = module.encode_prompt("what colour is thing 1, please?")
        assert text.keys() == {"input_ids", "attention_mask"}
        from PIL import Image

        shown = module.encode_prompt("what?", [Image.new("L", (90, 40)), Image.new("RGBA", (8, 8))])
        assert shown["image_features"].shape == (2, 4, 3)
        with pytest.raises(UserError, match="16 images of 4 slots do not fit 64 tokens"):
            module.encode_prompt("what?", np.zeros((16, 3, 32, 32), np.uint8))

    def test_samples_by_id(self, module):
        assert [sample.id for sample in module.samples_of(torch.tensor([120, 2, 101]))] == [120, 2, 101]


class TestTooLong:
    def test_is_left_out_of_training_and_cut_elsewhere(self, tmp_path, tower):
        long = Turn("what colour is thing 0, please" + " now" * 25 + "?", "pale blue")
        train = [*mixed(5), Sample(90, (1,), (long,), "one")]
        test = [
            *mixed(2, 60),
            Sample(91, (195, 190), (long,), "one"),
            Sample(92, tuple(range(150, 160)), (long,), "one"),
        ]
        module = module_of(tmp_path, conversations(train, mixed(3, 50), test), max_length=34)
        assert module.found["too_long"] == len(train) - module.spec.sizes["train"] > 0
        assert 90 not in module.train_ids and 91 in module.samples("test").ids and 92 not in module.samples("test").ids
        assert module.found["cut"]["test"] >= 1 and module.found["no_room"] == {"test": 1}
        batch = module.inputs(torch.tensor([91]))
        assert batch["inputs"]["input_ids"].shape == (1, 33), "max_length with the last end token"
        assert batch["visual_mask"].sum() == 8, "no slot is cut"
        assert module.decode([batch["targets"][0][batch["mask"][0]]]) == ["pale blue"]
        prompt = module.prompts(torch.tensor([91]))["input_ids"][0].tolist()
        assert batch["inputs"]["input_ids"][0].tolist()[: len(prompt)] == prompt
        assert module.encoder.tokenizer.decode([prompt], -1)[0].endswith("now now?")
        said = module.audit()["summary"]
        assert (
            f"left out: {module.found['too_long']} too long" in said and "1 of test have more images than fit" in said
        )

    def test_few_samples_to_choose_or_judge_by_are_told(self, tmp_path, tower):
        train, val, test = ([question(first + n) for n in range(20)] for first in (0, 40, 80))
        assert "few" not in module_of(tmp_path, conversations(train, val, test)).audit()["summary"]
        few = module_of(tmp_path, conversations(train, val[:1], test[:19])).audit()["summary"]
        assert "few samples: 1 in val, 19 in test" in few

    def test_an_image_that_does_not_fit(self, tmp_path, tower):
        with pytest.raises(UserError, match="an image takes 4 tokens"):
            module_of(tmp_path, conversations(mixed(5), mixed(2, 50), mixed(2, 60)), max_length=7)
        with pytest.raises(UserError, match="no sample is left for training"):
            module_of(tmp_path, conversations(mixed(5), mixed(2, 50), mixed(2, 60)), max_length=9)


class TestSplits:
    def test_are_made_by_image(self, tmp_path, tower):
        module = module_of(tmp_path, conversations(mixed(150)), val_fraction=0.2, test_fraction=0.2)
        images = {name: {i for s in module.chosen[name] for i in s.images} for name in ("train", "val", "test")}
        assert all(images[a].isdisjoint(images[b]) for a, b in (("train", "val"), ("train", "test"), ("val", "test")))
        assert sum(module.spec.sizes.values()) == 150 and min(module.spec.sizes.values()) > 5
        assert module.audit()["shared"] == {} and module.audit()["summary"].startswith("no image is in two splits")

    def test_an_image_is_in_the_same_one_whatever_else_there_is(self, tmp_path, tower):
        def parts(count):
            source = conversations([question(n) for n in range(count)])
            module = module_of(tmp_path, source, val_fraction=0.2, test_fraction=0.2)
            return {s.id: name for name, samples in module.chosen.items() for s in samples}

        few, many = parts(60), parts(180)
        assert few == {number: many[number] for number in few}
        seeds = [module_of(tmp_path, conversations(mixed(60)), split_seed=seed).chosen["test"] for seed in (0, 1)]
        assert seeds[0] != seeds[1]

    @pytest.mark.parametrize("seed", range(8))
    def test_images_that_nearly_all_belong_together_stay_in_training(self, tmp_path, tower, seed):
        chain = [question(n, images=2) for n in range(60)]
        source = conversations(chain + [question(100 + n) for n in range(40)])
        module = module_of(tmp_path, source, val_fraction=0.2, test_fraction=0.2, split_seed=seed)
        assert {s.id for s in chain} <= {s.id for s in module.chosen["train"]}
        assert min(module.spec.sizes.values()) >= 1
        alone = conversations(chain[:20])
        with pytest.raises(UserError, match="cannot be split"):
            module_of(tmp_path, alone, val_fraction=0.2, test_fraction=0.2, split_seed=seed)

    def test_what_shares_an_image_with_test_is_removed(self, tmp_path, tower):
        train, val = [question(n) for n in range(10)], [question(100 + n) for n in range(5)]
        test = [Sample(50, (3, 101), (Turn("a", "b"),), "x")]
        module = module_of(tmp_path, conversations(train, val, test))
        assert module.found["removed"] == {"train": 1, "val": 1}
        assert 3 not in module.train_ids and "1 removed from train for their images" in module.audit()["summary"]

    def test_limits(self, tmp_path, tower):
        source = conversations(mixed(30), mixed(9, 100), mixed(8, 120), further={"style": mixed(7, 140)})
        module = module_of(tmp_path, source, limit={"train": 10, "val": 4, "test": 3})
        assert module.spec.sizes == {"train": 10, "val": 4, "test": 3, "style": 3}
        assert module.extra_tests == ("style",)
        more = module_of(tmp_path, source, limit={"train": 20, "val": None, "test": None})
        assert set(module.train_ids.tolist()) < set(more.train_ids.tolist())

    def test_for_evaluation_only(self, tmp_path, tower, module):
        source = conversations([], [], mixed(6, 60), corpus=[])
        with pytest.raises(UserError, match="it is for evaluation"):
            module_of(tmp_path, source)
        other = module_of(tmp_path, source, like=module)
        assert other.spec.tokenizer == module.spec.tokenizer and other.spec.vocabulary == module.spec.vocabulary
        assert len(list(other.eval_loader("test", 4))) == 2 and list(other.eval_loader("val", 4)) == []
        with pytest.raises(UserError, match="no training samples"):
            other.train_loader(4, 0)

    def test_nothing_at_all(self, tmp_path, tower):
        with pytest.raises(UserError, match="has no samples"):
            module_of(tmp_path, conversations([]))
        with pytest.raises(UserError, match="cannot be split"):
            module_of(tmp_path, conversations([question(0)]))


class TestSpec:
    def test_survives_a_weights_file(self, module):
        spec = module.spec
        again = VisionSpec.of(json.loads(json.dumps(spec.metadata())))
        assert again.metadata() == spec.metadata() and again.types == spec.types == ("one", "several", "text")
        assert again.sizes == {} and spec.sizes == {"train": 37, "val": 7, "test": 6}
        assert spec.vocabulary % 8 == 0 and spec.image_token < spec.vocabulary
        assert "images of 32 pixels in 4 slots" in spec.about and spec.tower == "tiny@0123456789ab/32"

    def test_sizes_that_do_not_agree(self, tmp_path, tower):
        with pytest.raises(UserError, match="of 32 pixels"):
            module_of(tmp_path, conversations(mixed(5)), size=64)
        with pytest.raises(UserError, match="tiny gives 4"):
            module_of(tmp_path, conversations(mixed(5)), image_tokens=9)
        with pytest.raises(UserError, match="cached or online"):
            module_of(tmp_path, conversations(mixed(5)), features="kept")

    def test_captions_and_questions_have_one_tokenizer(self, tmp_path, tower):
        corpus = ["one two three", "four?"]
        first, second = (
            module_of(tmp_path, conversations(mixed(n), mixed(2, 50), mixed(2, 60), corpus=c))
            for n, c in ((5, corpus), (9, corpus[::-1]))
        )
        assert first.spec.tokenizer == second.spec.tokenizer
        assert first.audit()["unknown"]["train"] > 0.2 and "unknown words" in first.audit()["summary"]


def test_audit_is_json(module):
    found = module.audit()
    assert json.loads(json.dumps(found)) == found
    assert sum(found["types"]["train"].values()) == 37 and found["types"]["train"]["text"] == 8
    assert found["text_only"]["train"] == 8 and found["lengths"]["train"]["answer"] > 2
