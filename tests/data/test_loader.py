import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdrun.data.loader import BatchLoader, batch_bounds
from kdrun.data.samples import Samples
from kdrun.domains.images.augment import Augment
from kdrun.domains.load import load_data


def samples(count=103, augment=None, prepared=True):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 1, 6, 6), generator=generator).to(torch.uint8)
    numbers = torch.arange(count)
    made = Samples(pixels, numbers, numbers * 3 + 1, numbers % 7, (0.4,), (0.3,), augment)
    if not prepared:
        made._prepared = None
    return made


def loader(batch_size=10, seed=1, augment=None, **kwargs):
    return BatchLoader(samples(augment=augment), batch_size, seed=seed, **kwargs)


def epoch(made, number=0):
    made.set_epoch(number)
    return list(made)


def ids(batches):
    return torch.cat([batch["ids"] for batch in batches]).tolist()


def equal(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(one[key], other[key]) if isinstance(one[key], torch.Tensor) else one[key] == other[key]
        for key in one
    )


def test_a_batch_is_what_it_says():
    made = loader()
    batches = epoch(made)
    assert len(batches) == len(made) == 11
    assert sorted(ids(batches)) == [i * 3 + 1 for i in range(103)]
    first = batches[0]
    assert first["inputs"].dtype == torch.float32 and first["inputs"].shape == (10, 1, 6, 6)
    assert first["ids"].dtype == first["targets"].dtype == torch.int64
    assert first["view"] == 0 and first["size"] == 10 and batches[-1]["size"] == 3
    assert torch.equal(first["targets"], (first["ids"] - 1) // 3 % 7)
    pixels = made.samples._raw[(first["ids"] - 1) // 3]
    assert torch.allclose(first["inputs"], (pixels / 255 - 0.4) / 0.3, atol=1e-6)


def test_prepared_and_on_the_fly_inputs_are_the_same_bits():
    positions = torch.randperm(103, generator=torch.Generator().manual_seed(2))
    assert torch.equal(samples().inputs(positions), samples(prepared=False).inputs(positions))


def test_order_is_a_function_of_seed_and_epoch():
    torch.manual_seed(1)
    one = ids(epoch(loader(), 4))
    torch.manual_seed(2)
    assert ids(epoch(loader(), 4)) == one
    used = loader()
    for number in range(4):
        epoch(used, number)
    assert ids(epoch(used, 4)) == one
    assert ids(epoch(loader(batch_size=17), 4)) == one
    assert ids(epoch(loader(), 5)) != one != ids(epoch(loader(seed=2), 4))


def test_neither_global_random_state_nor_batches_touch_each_other():
    state = torch.get_rng_state()
    batches = epoch(loader(augment=Augment(1, True)))
    assert torch.equal(torch.get_rng_state(), state)
    again = epoch(loader(augment=Augment(1, True)))
    batches[0]["inputs"].zero_()
    assert all(equal(a, b) for a, b in zip(batches[1:], again[1:], strict=True))


@pytest.mark.parametrize("augment", [None, Augment(2, True), Augment(2, True, seed=3, views=2)])
def test_resume_at_every_cursor_equals_the_unbroken_epoch(augment):
    unbroken = epoch(loader(augment=augment), 3)
    for stopped in range(1, len(unbroken)):
        first = loader(augment=augment)
        first.set_epoch(3)
        iterator = iter(first)
        for _ in range(stopped):
            next(iterator)
        state = first.state_dict()
        assert state == {"epoch": 3, "cursor": stopped}
        resumed = loader(augment=augment)
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        resumed.set_epoch(3)  # what the trainer says on its way must not lose the cursor
        rest = list(resumed)
        assert len(rest) == len(unbroken) - stopped
        assert all(equal(a, b) for a, b in zip(rest, unbroken[stopped:], strict=True))
        assert resumed.state_dict()["cursor"] == 0
        assert len(list(resumed)) == len(unbroken)  # the next pass is whole


def test_the_cursor_ends_with_the_last_batch_and_another_epoch_clears_it():
    made = loader()
    iterator = iter(made)
    for _ in range(len(made)):
        next(iterator)
    assert made.state_dict() == {"epoch": 0, "cursor": 0}
    made.load_state_dict({"epoch": 2, "cursor": 5})
    made.set_epoch(3)
    assert made.state_dict() == {"epoch": 3, "cursor": 0} and len(list(made)) == 11


def test_a_look_at_the_first_batch_costs_the_next_pass_nothing():
    made = loader()
    first = next(iter(made))
    assert equal(next(iter(made)), first) and len(list(made)) == 11


@pytest.mark.parametrize("cursor", [-1, 11, 500])
def test_a_cursor_of_another_loader_is_refused(cursor):
    with pytest.raises(ValueError, match="cursor"):
        loader().load_state_dict({"epoch": 0, "cursor": cursor})


@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_together_are_the_single_process(world):
    augment = Augment(2, True)
    whole = epoch(loader(batch_size=20, augment=augment), 2)
    ranks = [epoch(loader(batch_size=20, augment=augment, rank=rank, world=world), 2) for rank in range(world)]
    # 103 = 5 * 20 + 3: a rest of 3 cannot give two to each rank and is joined to the batch before.
    assert {len(rank) for rank in ranks} == {len(whole) - 1}
    together = [torch.cat([rank[step]["ids"] for rank in ranks]) for step in range(len(ranks[0]))]
    assert torch.cat(together).tolist() == ids(whole)
    for step in range(len(together) - 1):
        parts = [rank[step] for rank in ranks]
        assert {part["size"] for part in parts} == {whole[step]["size"]}
        assert torch.equal(torch.cat([part["inputs"] for part in parts]), whole[step]["inputs"])


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 5), st.sampled_from([1, 2]))
def test_bounds(count, batch_size, world, smallest):
    least = smallest * world if world > 1 or batch_size > 1 else 1
    if batch_size < least or (world > 1 and count < least):
        with pytest.raises(ValueError, match=r"batch_size|too few"):
            batch_bounds(count, batch_size, 0, world, smallest)
        return
    ranks = [batch_bounds(count, batch_size, rank, world, smallest) for rank in range(world)]
    assert len({len(rank) for rank in ranks}) == 1
    position = 0
    for step in zip(*ranks, strict=True):
        sizes = [end - first for first, end, _ in step]
        assert max(sizes) - min(sizes) <= 1 and len({size for _, _, size in step}) == 1 and sum(sizes) == step[0][2]
        if count >= least:
            assert min(sizes) >= (smallest if least > 1 else 1)
        for first, end, _ in step:
            assert first == position
            position = end
    assert position == count


def test_no_last_batch_of_one():
    """BatchNorm raises "Expected more than 1 value per channel" on it."""
    made = BatchLoader(samples(101), 10, seed=0)
    assert [batch["size"] for batch in made] == [10] * 9 + [11]
    norm = torch.nn.BatchNorm1d(36)
    for batch in made:
        norm(batch["inputs"].flatten(1))


def test_evaluation_is_in_order_and_keeps_single_samples():
    made = BatchLoader(samples(21), 10, smallest=1)
    assert [batch["size"] for batch in made] == [10, 10, 1]
    assert ids(made) == [i * 3 + 1 for i in range(21)]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_evaluation_counts_every_sample_once(world):
    """10 samples on 4 ranks: no padding, no rank without a step."""
    ranks = [list(BatchLoader(samples(10), 4, rank=rank, world=world, smallest=1)) for rank in range(world)]
    assert sorted(sample for rank in ranks for sample in ids(rank)) == [i * 3 + 1 for i in range(10)]
    assert len({len(rank) for rank in ranks}) == 1


def test_views_of_replayed_augmentation_recur():
    made = loader(augment=Augment(2, True, seed=3, views=2))
    by_epoch = []
    for number in range(3):
        batches = epoch(made, number)
        assert {batch["view"] for batch in batches} == {number % 2}
        order = torch.cat([batch["ids"] for batch in batches]).argsort()
        by_epoch.append(torch.cat([batch["inputs"] for batch in batches])[order])
    assert torch.equal(by_epoch[0], by_epoch[2]) and not torch.equal(by_epoch[0], by_epoch[1])
    fresh = epoch(loader(augment=Augment(2, True)), 2)
    assert fresh[0]["view"] == 2


def test_evaluation_is_never_augmented():
    made = samples(30)
    plain = list(BatchLoader(made, 10, smallest=1))
    augmented = list(BatchLoader(samples(30, Augment(2, True)), 10, smallest=1))
    assert all(torch.equal(a["inputs"], b["inputs"]) for a, b in zip(plain, augmented, strict=True))


def test_module_inputs_are_the_loaders_bits():
    config = {
        "_target_": "kdrun.domains.images.shipped.digits.digits",
        "augment": {"crop": 1, "flip": True, "seed": 5, "views": 3},
    }
    module = load_data(config, {"cache": "unused"})
    assert module.random and module.replayed and module.views == 3
    made = module.train_loader(50, seed=8)
    for number in (0, 4):
        made.set_epoch(number)
        for batch in made:
            assert torch.equal(module.inputs(batch["ids"], batch["view"]), batch["inputs"])
    with pytest.raises(KeyError, match="not a training sample"):
        module.inputs(module.samples("test").ids[:2])


def test_inputs_of_a_view_need_a_replayed_augmentation():
    module = load_data(
        {"_target_": "kdrun.domains.images.shipped.digits.digits", "augment": {"crop": 1}}, {"cache": "unused"}
    )
    assert module.random and not module.replayed and module.views == 1
    with pytest.raises(ValueError, match="replayed"):
        module.inputs(module.train_ids[:2])


@pytest.mark.parametrize("augment", [None, Augment(2, True)])
def test_batches_that_workers_made_are_the_same_also_after_a_resume_and_draw_nothing(augment):
    import torch

    plain, ahead = loader(augment=augment), loader(augment=augment)
    ahead.workers = 2
    whole = epoch(plain)
    state = torch.get_rng_state()
    for one, other in zip(whole, epoch(ahead), strict=True):
        assert one.keys() == other.keys() and (one["size"], one["view"]) == (other["size"], other["view"])
        assert all(torch.equal(one[name], other[name]) for name in ("ids", "inputs", "targets"))
    assert torch.equal(torch.get_rng_state(), state)
    ahead.load_state_dict({"epoch": 0, "cursor": 2})
    assert torch.equal(next(iter(ahead))["inputs"], whole[2]["inputs"]) and ahead.state_dict()["cursor"] == 3
