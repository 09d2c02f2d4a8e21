"""Transforms of images, mixup and CutMix: a function of (key, sample id) alone, with a slow reference beside the mixes."""

import numpy as np
import pytest
import torch

from kdrun.data.loader import BatchLoader
from kdrun.data.samples import Samples
from kdrun.domains.images.augment import Augment
from kdrun.domains.images.mixes import Mixes
from kdrun.problems import UserError

MIXES = [Mixes(mixup=0.4), Mixes(cutmix=1.0), Mixes(mixup=0.8, cutmix=1.0)]
IMAGES = np.random.default_rng(0).integers(0, 256, (24, 3, 12, 10), np.uint8)
HOME = "kdrun.data.image_transforms"


def samples(augment, count=24):
    ids = torch.arange(100, 100 + count)
    targets = torch.arange(count) % 5
    return Samples(torch.from_numpy(IMAGES), torch.arange(count), ids, targets, (0.5,) * 3, (0.25,) * 3, augment)


def by_id(loader):
    """{id: (inputs, mixed target, share)} of an epoch."""
    rows = {}
    for batch in loader:
        mixed = batch.get("mixed_targets"), batch.get("mixed_share")
        for row, number in enumerate(batch["ids"].tolist()):
            rows[number] = (batch["inputs"][row], *(None if one is None else one[row].item() for one in mixed))
    return rows


def same(one, other):
    return all(torch.equal(one[n][0], other[n][0]) and one[n][1:] == other[n][1:] for n in one)


@pytest.mark.parametrize("mixes", MIXES)
def test_a_mixed_image_is_what_its_share_its_partner_and_its_box_say(mixes):
    data, ids, key = samples(None), torch.arange(100, 124).numpy(), 7
    plain = data.inputs(torch.arange(24))
    partners = mixes.partners(key, ids, 24)
    share, boxes = mixes.shares(key, ids, 12, 10)
    mixed = mixes(plain, plain[partners], key, ids)
    cuts = 0
    for row, (own, other) in enumerate(zip(plain, plain[partners], strict=True)):
        top, bottom, left, right = boxes[row]
        expected = share[row] * own + (1 - share[row]) * other
        if boxes[row].any():
            cuts += 1
            expected = own.clone()
            expected[:, top:bottom, left:right] = other[:, top:bottom, left:right]
            assert share[row] == pytest.approx(1 - (bottom - top) * (right - left) / 120)
        torch.testing.assert_close(mixed[row], expected)
    assert (cuts > 0) == (mixes.cutmix > 0) and (cuts < 24) == (mixes.mixup > 0 or cuts < 24)


def test_shares_are_of_the_beta_distribution():
    share, _ = Mixes(mixup=0.3).shares(3, np.arange(4000), 8, 8)
    drawn = np.random.default_rng(1).beta(0.3, 0.3, 4000)
    assert (
        np.abs(np.quantile(share, [0.1, 0.3, 0.5, 0.7, 0.9]) - np.quantile(drawn, [0.1, 0.3, 0.5, 0.7, 0.9])).max()
        < 0.06
    )


@pytest.mark.parametrize("options", [{"mixup": 0.2}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0, "flip": True}])
def test_mixes_do_not_depend_on_batches_and_recur_with_a_stored_seed(options):
    data = samples(Augment(**options))
    one, other = (by_id(BatchLoader(data, size, seed=1)) for size in (24, 7))
    assert same(one, other)
    again = BatchLoader(data, 24, seed=1)
    again.set_epoch(1)
    assert not same(one, by_id(again))
    replayed = samples(Augment(**options, seed=5))
    assert same(by_id(BatchLoader(replayed, 24, seed=1)), by_id(BatchLoader(replayed, 8, seed=2)))


def test_cross_entropy_of_mixed_labels_is_the_mixture_of_both():
    from kdrun.objectives.ce import ce

    logits, targets, others = torch.randn(6, 5), torch.arange(6) % 5, (torch.arange(6) + 2) % 5
    share = torch.rand(6)
    soft = share[:, None] * torch.eye(5)[targets] + (1 - share[:, None]) * torch.eye(5)[others]
    expected = -(soft * logits.log_softmax(-1)).sum(-1)
    torch.testing.assert_close(ce(logits, targets, others, share), expected)
    smooth = 0.9 * expected - 0.1 * logits.log_softmax(-1).mean(-1)
    torch.testing.assert_close(ce(logits, targets, others, share, label_smoothing=0.1), smooth)


def test_the_whole_way_with_a_cached_teacher_and_a_term_that_mixing_is_refused_for(tmp_path, capsys):
    from kdrun.cli import main

    words = "data=digits student=mlp_8 teacher=mlp_16 strategy.controls=[] tracker=none trainer.epochs=1 seed=0 -q"
    words = f"{words} paths.outputs={tmp_path}"
    mixing = ["data.augment.mixup=0.2", "data.augment.cutmix=1.0"]
    replay = ["data.augment.seed=0", "data.augment.views=2", "teacher.source=cached"]
    assert main([*words.split(), *mixing, *replay, "hardware=cpu"]) == 0
    assert main([*words.split(), *mixing, "objective=dkd", "hardware=cpu"]) == 2
    assert "dkd takes one label" in capsys.readouterr().err


# Transforms of torchvision.

NODES = {
    "random_resized_crop": {"scale": [0.2, 1.0]},
    "rand_augment": {"operations": 2},
    "trivial_augment": {},
    "color_jitter": {"hue": 0.1},
    "random_erasing": {"p": 1.0},
    "auto_augment": {},
    "cutout": {"length": 5},
}


def with_transforms(*names, **options):
    nodes = {name: {"_target_": f"{HOME}.{name}", **NODES[name]} for name in names}
    return Augment(transforms=nodes, size=(12, 10), **options)


@pytest.mark.parametrize("names", [*((name,) for name in NODES), tuple(NODES)])
def test_transforms_are_a_function_of_the_key_and_the_id(names):
    pytest.importorskip("torchvision")
    augment, images, ids = with_transforms(*names), torch.from_numpy(IMAGES), torch.arange(24)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    whole = augment(images, ids, 9)
    assert torch.equal(torch.get_rng_state(), state)  # nothing of the run's own randomness is used up
    backwards = torch.arange(23, -1, -1)
    assert torch.equal(augment(images[backwards], ids[backwards], 9)[backwards], whole)
    assert whole.dtype == torch.uint8 and whole.shape == images.shape
    assert not torch.equal(augment(images, ids, 10), whole) and not torch.equal(whole, images)


def test_cutout_needs_no_torchvision_and_blackens_a_square_that_may_lie_half_outside():
    augment, images = with_transforms("cutout"), torch.full((200, 3, 12, 10), 9, dtype=torch.uint8)
    cut = augment(images, torch.arange(200), 9) == 0
    assert torch.equal(cut.any(1), cut.all(1))
    rows, columns = cut[:, 0].any(2).sum(1), cut[:, 0].any(1).sum(1)
    assert torch.equal(cut[:, 0].sum((1, 2)), rows * columns)  # a rectangle
    assert rows.max() == columns.max() == 5 and rows.min() == columns.min() == 3
    assert cut[:, 0, 0, 0].any() and cut[:, 0, -1, -1].any()


def test_the_order_in_which_transforms_are_typed_changes_nothing():
    pytest.importorskip("torchvision")
    one, other = (with_transforms(*names) for names in (tuple(NODES), tuple(reversed(NODES))))
    images, ids = torch.from_numpy(IMAGES), torch.arange(24)
    assert torch.equal(one(images, ids, 4), other(images, ids, 4)) and str(one) == str(other)


def test_wrong_transforms_are_told_with_what_there_is(tmp_path, capsys):
    from kdrun.cli import main

    words = f"check data=digits student=mlp_8 teacher=mlp_16 paths.outputs={tmp_path}".split()
    for word, *told in (
        ("data.augment.transforms.rand_augmnet={}", "no transform 'rand_augmnet'", "closest: rand_augment"),
        (
            "data.augment.transforms.rand_augment={magnitud: 9}",
            "closest: data.augment.transforms.rand_augment.magnitude",
        ),
        ("data.augment.transforms.rand_augment={magnitude: much}", "magnitude", "much"),
        ("data.augment.transforms.mine={_target_: torch.nn.Linear}", "not a transform of images"),
    ):
        assert main([*words, word]) == 2
        text = capsys.readouterr().err
        assert all(each in text for each in told), text


def test_a_transform_that_changes_the_size_or_the_type_is_named():
    augment = Augment(flip=True)
    augment._transforms = [("mine", lambda image: image.float())]
    with pytest.raises(UserError, match=r"transforms\.mine made torch\.float32 \(3, 12, 10\)"):
        augment(torch.from_numpy(IMAGES), torch.arange(24), 1)
