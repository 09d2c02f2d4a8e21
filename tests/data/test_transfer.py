"""Which training samples have a label: what is drawn, what batches are made of them, and what is refused."""

import re
import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from kdrun.data.mixing import MixedLoader
from kdrun.data.stream import Stream
from kdrun.domains.images.shipped import digits as digits_source
from kdrun.domains.load import load_data
from kdrun.job.compose import compose
from kdrun.problems import ConfigProblems, UserError
from kdrun.strategies.cast import Cast, distil, supervised

from ..learning.stages import cell, make_lab

DIGITS = digits_source.digits


def data(*overrides, task=("data=digits",)):
    cell = compose([*task, "tracker=none", *overrides]).config
    return load_data(cell["data"], cell["paths"])


def batches(loader, epochs=1):
    found = []
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        found += list(loader)
    return found


def test_labels_are_hidden_in_proportion_in_training_alone_and_for_all_seeds_alike():
    whole, some = data(), data("data.labelled=200")
    train, full = some.samples("train"), whole.samples("train")
    assert torch.equal(train.ids, full.ids) and int(train.labelled.sum()) == 200
    assert torch.equal(train.targets[train.labelled], full.targets[train.labelled])
    assert set(train.targets[~train.labelled].tolist()) == {-1}, "no label is left to be read"
    assert set((some.source.y[some.split == 0][~train.labelled.numpy()]).tolist()) == {-1}
    share = torch.bincount(full.targets) * 200 / len(full)
    assert ((torch.bincount(train.targets[train.labelled]) - share).abs() < 1).all()
    for split in ("val", "test"):
        assert torch.equal(some.samples(split).targets, whole.samples(split).targets)
        assert some.samples(split).labelled is None
    more = data("data.labelled=400").samples("train").labelled
    assert bool((more | ~train.labelled).all()), "more labels are the same ones and others"
    assert int(data("data.labelled=0.5").samples("train").labelled.sum()) == 573
    other = data("data.labelled=200", "data.split_seed=1").samples("train")
    assert other.ids.tolist() != train.ids.tolist()
    assert data(f"data.labelled={len(full)}").samples("train").labelled is None
    assert some.spec.mean == whole.spec.mean, "inputs without labels are inputs"


def test_a_table_keeps_labels_of_all_quantiles_and_learns_its_target_from_them():
    some = data("data.labelled=60", task=("data=diabetes",))
    known = some.source.y[(some.split == 0) & some.labelled]
    assert len(known) == 60 and some.spec.target_mean == pytest.approx(known.mean(), rel=1e-6)
    assert torch.isnan(some.samples("train").targets[~some.samples("train").labelled]).all()


@pytest.mark.parametrize("share", ["null", "0.5"])
def test_what_hidden_labels_are_changes_no_bit(tmp_path, monkeypatch, share):
    """Only which samples are drawn depends on classes; that is held, and all labels that are not drawn are others."""
    first = DIGITS()
    module = data("data.labelled=200", "data.limit.train=300")
    known = (module.split > 0) | ((module.split == 0) & module.labelled)
    changed = replace(first, y=np.where(known, first.y, (first.y + 1 + np.arange(len(first)) % 9) % 10))
    monkeypatch.setattr(type(first), "strata", property(lambda source: first.y[source.ids]))
    ends = []
    for name, source in (("as they are", first), ("others", changed)):
        monkeypatch.setattr(digits_source, "labelled", partial(lambda source, *_: source, source))
        cast = Cast(cell("data.labelled=200", f"data.labelled_share={share}", "trainer.epochs=2", "trainer.gap=true"))
        lab = make_lab(tmp_path / name)
        teacher = lab.get(supervised(cast.teacher))
        student = lab.get(distil(cast.student, teacher))
        rows = [{key: value for key, value in row.items() if "second" not in key} for row in student.record["history"]]
        ends.append((teacher.fingerprint, student.fingerprint, rows, student.record["gap"]))
        ends[-1] += tuple(load_file(found.weights("last")) for found in (teacher, student))
        ends[-1] += (sorted(path.name for path in (tmp_path / name / "outputs").iterdir()),)
    one, two = ends
    assert one[:4] == two[:4] and one[-1] == two[-1]
    for first, second in zip(one[4:6], two[4:6], strict=True):
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_batches_say_who_has_a_label_and_count_them_over_all_ranks():
    module = data("data.labelled=200")
    whole = batches(module.train_loader(128, 3))
    parts = [batches(module.train_loader(128, 3, rank=rank, world=2)) for rank in range(2)]
    assert [batch["ids"].tolist() for batch in batches(data().train_loader(128, 3))] == [
        b["ids"].tolist() for b in whole
    ]
    for batch, *both in zip(whole, *parts, strict=True):
        assert batch["sizes"] == {"mask": batch["size"], "labelled": int(batch["labelled"].sum())}
        assert all(part["sizes"] == batch["sizes"] for part in both)
        assert torch.equal(torch.cat([part["labelled"] for part in both]), batch["labelled"])
    assert sum(batch["sizes"]["labelled"] for batch in whole) == 200
    assert "labelled" not in next(iter(data().train_loader(128, 3)))


def test_a_share_of_each_batch_has_labels_and_an_epoch_is_as_long_as_ever():
    module = data("data.labelled=200", "data.labelled_share=0.25")
    loader, plain = module.train_loader(100, 5), data().train_loader(100, 5)
    assert isinstance(loader, MixedLoader) and len(loader) == len(plain) == 12
    found = batches(loader, 40)
    assert all(batch["sizes"] == {"mask": 100, "labelled": 25} for batch in found)
    counts = torch.bincount(torch.cat([batch["ids"] for batch in found]), minlength=1797)
    train = module.samples("train")
    for which, total in ((train.labelled, 25 * 480), (~train.labelled, 75 * 480)):
        seen = counts[train.ids[which]]
        assert int(seen.sum()) == total and int(seen.max() - seen.min()) <= 1, "all come equally often"
    assert loader.per_epoch() == {"labelled": 25 * 12, "unlabelled": 75 * 12}
    halves = [module.train_loader(100, 5, rank=rank, world=2) for rank in range(2)]
    for whole, *both in zip(found[:12], *map(batches, halves), strict=True):
        assert torch.equal(torch.cat([part["ids"] for part in both]), whole["ids"])


def test_labels_alone_are_full_batches_in_as_many_steps():
    module = data("data.labelled=200")
    loader = module.train_loader(128, 1, labels_only=True)
    found = batches(loader, 3)
    assert len(loader) == len(module.train_loader(128, 1))
    assert all(batch["labelled"].all() and len(batch["ids"]) == 128 for batch in found)
    counts = torch.bincount(torch.cat([batch["ids"] for batch in found]), minlength=1797)
    assert set(counts[module.samples("train").ids[module.samples("train").labelled]].tolist()) <= {17, 18}


def test_a_mixed_epoch_that_is_cut_goes_on_with_the_same_batches():
    module = data("data.labelled=200", "data.labelled_share=0.5", "data.augment.crop=1")
    loader, again = module.train_loader(64, 1), module.train_loader(64, 1)
    loader.set_epoch(2)
    steps = iter(loader)
    for _ in range(5):
        next(steps)
    again.load_state_dict(loader.state_dict())
    for one, two in zip(steps, again, strict=True):
        assert all(torch.equal(one[key], two[key]) for key in ("ids", "inputs", "targets", "labelled"))


def test_a_sample_that_comes_again_in_an_epoch_is_augmented_anew():
    module = data("data.labelled=60", "data.augment.crop=2", "data.limit.train=400")
    found = batches(module.train_loader(64, 1, labels_only=True))
    ids, inputs = (torch.cat([batch[key] for batch in found]) for key in ("ids", "inputs"))
    seen = inputs[ids == ids[0]]
    assert len(seen) > 5 and len({row.numpy().tobytes() for row in seen}) > 3


def test_a_stream_is_one_pass_after_another():
    stream = Stream(np.array([4, 6, 8, 9, 11]), np.array([14, 16, 18, 19, 111]), 3, seed=0)
    rows, turns = map(np.concatenate, zip(*(stream(step) for step in range(5)), strict=True))
    assert turns.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    for turn in range(3):
        assert sorted(rows[turns == turn]) == [4, 6, 8, 9, 11]
    assert stream(1)[0].tolist() == rows[3:6].tolist(), "also when it is asked again"


def test_another_data_set_is_inputs_without_labels(monkeypatch):
    first = DIGITS()
    known = data()
    held_out = [int(known.samples(split).ids[0]) for split in ("val", "test")]
    x = np.concatenate([255 - first.x[:50], first.x[held_out]])
    other = replace(
        first, x=x, y=first.y[: len(x)], split=np.zeros(len(x), np.int8), ids=np.arange(len(x)), name="other"
    )
    made = data("data.labelled=200")
    from kdrun.data.transfer import Training, with_unlabelled

    joined = with_unlabelled(Training(made.source, made.split, made.labelled), other)
    assert len(joined.source) == len(first) + 50 and (joined.source.ids[len(first) :] >= 1 << 40).all()
    assert not joined.labelled[len(first) :].any() and len(np.unique(joined.source.ids)) == len(joined.source)
    assert "2 of other left out: they are also in validation or test" in joined.source.notes
    with pytest.raises(UserError, match=r"its inputs are of shape \(1, 8, 4\), those of digits \(1, 8, 8\)"):
        with_unlabelled(Training(made.source, made.split), replace(other, x=x[..., :4].copy()))
    with pytest.raises(UserError, match="all of its 2 samples are also in validation or test"):
        with_unlabelled(
            Training(made.source, made.split),
            replace(other, x=x[50:], y=other.y[:2], split=other.split[:2], ids=other.ids[:2], names=None),
        )


def test_a_folder_of_pictures_is_read_in_the_size_and_colours_of_the_data(tmp_path):
    random = np.random.default_rng(0)
    for number in range(6):
        (tmp_path / "deep").mkdir(exist_ok=True)
        pixels = random.integers(256, size=(16, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / ("deep" if number % 2 else ".") / f"{number}.png")
    made = data("data.labelled=200", f"data.unlabelled={tmp_path}")
    assert len(made.samples("train")) == 1146 + 6 and int(made.samples("train").labelled.sum()) == 200
    assert made.samples("train").inputs(torch.arange(1146, 1152)).shape == (6, 1, 8, 8)
    assert made.spec.sizes == {**data().spec.sizes, "train": 1152} and made.spec.mean == data().spec.mean
    audit = made.audit()
    assert audit["labelled"] == 200 and "6 samples without labels from" in audit["summary"]
    assert made.trained_on() == {"samples": 1152, "labelled": 200}
    only = data(f"data.unlabelled={tmp_path}").samples("train")
    assert int(only.labelled.sum()) == 1146
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"data\.unlabelled=.*empty holds no images"):
        data(f"data.unlabelled={tmp_path / 'empty'}")


def test_a_table_without_its_target_is_read_by_the_names_of_its_features(tmp_path):
    names, task = data(task=("data=diabetes",)).spec.features, ("data=diabetes",)
    path = tmp_path / "more.csv"
    rows = "\n".join(",".join(str(number + place) for place in range(11)) for number in range(5))
    path.write_text(",".join([*reversed(names), "doctor"]) + "\n" + rows + "\n")
    made = data("data.labelled=100", f"data.unlabelled={path}", task=task)
    assert made.source.x[-5:, 0].tolist() == [9, 10, 11, 12, 13], "columns are found by their names"
    assert np.isnan(made.source.y[-5:]).all() and int(made.samples("train").labelled.sum()) == 100
    path.write_text(",".join(names) + "\n" + ",".join(["1"] * 9 + ["x"]) + "\n")
    with pytest.raises(UserError, match="cells that are no numbers in line 2"):
        data(f"data.unlabelled={path}", task=task)
    path.write_text("age,sex\n1,2\n")
    with pytest.raises(UserError, match="no column bmi"):
        data(f"data.unlabelled={path}", task=task)


def test_where_a_set_lies_is_in_no_fingerprint_and_its_content_is(tmp_path):
    prints = []
    for place, value in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / place).mkdir()
        Image.fromarray(np.full((8, 8), value, np.uint8)).save(tmp_path / place / "x.png")
        cast = Cast(cell("data.labelled=200", f"data.unlabelled={tmp_path / place}"))
        lab = make_lab(tmp_path / "store")
        prints.append(lab.get(supervised(cast.student, epochs=1)).fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_noise_changes_that_share_of_training_labels_and_no_other():
    clean, noisy = data(), data("data.label_noise=0.4")
    wrong = clean.samples("train").targets != noisy.samples("train").targets
    assert int(wrong.sum()) == round(0.4 * len(wrong)), "a wrong label is never the right one"
    pairs = torch.stack([clean.samples("train").targets[wrong], noisy.samples("train").targets[wrong]])
    assert len({tuple(pair) for pair in pairs.T.tolist()}) > 60, "any other class"
    for split in ("val", "test"):
        assert torch.equal(clean.samples(split).targets, noisy.samples(split).targets)
    less = data("data.label_noise=0.2").samples("train").targets
    assert bool(((less != clean.samples("train").targets) <= wrong).all()), "more noise is the same noise and more"
    both = data("data.label_noise=0.4", "data.labelled=200").samples("train")
    assert torch.equal(both.targets[both.labelled], noisy.samples("train").targets[both.labelled])


def test_a_class_that_noise_empties_is_told_with_the_key():
    with pytest.raises(UserError, match=r"data.label_noise=0.95: no training sample of digits keeps or gets label"):
        data("data.long_tail=1000", "data.limit.train=100", "data.label_noise=0.95")


def test_a_long_tail_has_its_ratio():
    counts = torch.bincount(data("data.long_tail=20").samples("train").targets)
    whole = torch.bincount(data().samples("train").targets)
    expected = [int(int(whole.max()) * 20 ** -(c / 9)) for c in range(10)]
    assert counts.tolist() == [min(a, b) for a, b in zip(expected, whole.tolist(), strict=True)]
    assert torch.equal(data("data.long_tail=20").samples("test").ids, data().samples("test").ids)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data.labelled=2000"], "data.labelled=2000: digits has 1146 training samples"),
        (["data.labelled=5"], "one of each of the 10 classes of digits needs a label"),
        (["data.labelled=0.001"], "data.labelled=0.001: 1 of 1146 training samples"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(words, said):
    with pytest.raises(UserError) as error:
        data(*words)
    assert said in str(error.value) and "data.labelled=" in error.value.lines[-1]


@pytest.mark.parametrize("key", ["label_noise=0.2", "long_tail=10"])
def test_a_table_has_no_classes(key):
    with pytest.raises(UserError, match="diabetes has no classes"):
        data(f"data.{key}", task=("data=diabetes",))


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("data.labelled=0", "above 0"),
        ("data.labelled=200.5", "a share below 1, or a whole number"),
        ("data.labelled_share=1.5", "at most 1"),
        ("data.label_noise=1", "below 1"),
        ("data.unlabelled=fashon_mnist", "closest: fashion_mnist"),
        ("data.labeled=200", "closest: data.labelled"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_data_are_loaded(word, said):
    with pytest.raises(ConfigProblems) as error:
        compose(["data=digits", word])
    assert said in str(error.value)


def test_a_default_that_is_written_out_is_the_same_job():
    words = ["data.labelled=null", "data.unlabelled=null", "data.label_noise=0", "data.long_tail=null"]
    assert compose(["data=digits", *words]).hash == compose(["data=digits"]).hash


def test_every_command_of_the_page_composes():
    page = (Path(__file__).parent.parent.parent / "docs" / "transfer-sets.md").read_text()
    lines = [line for block in re.findall(r"```sh\n(.*?)```", page, re.S) for line in block.splitlines()]
    assert len(lines) >= 3
    for line in lines:
        command, *words = shlex.split(line)
        assert command == "kdrun" and compose([*words, "tracker=none"]).cells
