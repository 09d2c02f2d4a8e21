import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdrun.data.ragged import Ragged
from kdrun.domains.translation.loader import TextSamples, TokenLoader, buckets

EOS, BOS = 2, 1


def rows(lengths, seed=0):
    """Rows of random ids ending with eos; eos occurs nowhere else."""
    generator = np.random.default_rng(seed)
    return [[*generator.integers(3, 50, length - 1).tolist(), EOS] for length in lengths]


def samples(count=203, seed=0, pad=0, longest=40):
    generator = np.random.default_rng(seed)
    lengths = np.minimum(generator.geometric(0.1, (2, count)), longest)
    ids = generator.permutation(count).astype(np.int64) * 3 + 1
    return TextSamples(ids, Ragged.of(rows(lengths[0])), Ragged.of(rows(lengths[1], 1)), pad, BOS)


def epoch(loader, number=0):
    loader.set_epoch(number)
    return list(loader)


def real(batch):
    """Ids of the rows that count: all but a stand-in."""
    return batch["ids"][batch["mask"].any(dim=1)].tolist()


def ids(batches):
    return [number for batch in batches for number in real(batch)]


def equal(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_a_batch_is_what_it_says():
    made = samples()
    for batch in TokenLoader(made, 256, seed=1):
        inputs = batch["inputs"]
        assert set(inputs) == {"source", "source_mask", "target"} and batch["view"] == 0
        assert {batch["ids"].dtype, inputs["source"].dtype, inputs["target"].dtype, batch["targets"].dtype} == {
            torch.int64
        }
        assert inputs["source_mask"].dtype == batch["mask"].dtype == torch.bool
        assert inputs["target"].shape == batch["targets"].shape == batch["mask"].shape
        assert batch["size"] == int(batch["mask"].sum())
        assert batch["mask"].any(dim=0).all() and inputs["source_mask"].any(dim=0).all()  # no wider than needed
        for row, number in enumerate(batch["ids"].tolist()):
            position = made.ids.tolist().index(number)
            target = made.target.flat[made.target.starts[position] : made.target.starts[position + 1]].tolist()
            source = made.source.flat[made.source.starts[position] : made.source.starts[position + 1]].tolist()
            mask = batch["mask"][row]
            assert batch["targets"][row][mask].tolist() == target and target[-1] == EOS
            assert inputs["target"][row][mask].tolist() == [BOS, *target[:-1]]
            assert inputs["source"][row][inputs["source_mask"][row]].tolist() == source
            assert mask.tolist() == sorted(mask.tolist(), reverse=True)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=120),
    st.integers(1, 200),
    st.integers(1, 4),
    st.booleans(),
    st.integers(0, 3),
)
def test_every_pair_once_under_the_budget_on_any_number_of_ranks(lengths, budget, world, training, number):
    source, target = ([pair[side] for pair in lengths] for side in (0, 1))
    made = TextSamples(np.arange(len(lengths)), Ragged.of(rows(source)), Ragged.of(rows(target)), 0, BOS)
    seed = 5 if training else None
    whole = epoch(TokenLoader(made, budget, seed=seed), number)
    loaders = [TokenLoader(made, budget, seed=seed, rank=rank, world=world) for rank in range(world)]
    ranks = [epoch(loader, number) for loader in loaders]
    assert sorted(ids(whole)) == list(range(len(lengths)))
    assert {len(loader) for loader in loaders} == {len(batches) for batches in ranks} == {len(whole)}
    for step, batch in enumerate(whole):
        assert len(batch["ids"]) > 0
        cost = len(batch["ids"]) * max(batch["inputs"]["source"].shape[1], batch["targets"].shape[1])
        assert cost <= budget or len(batch["ids"]) == 1
        parts = [batches[step] for batches in ranks]
        assert [one for part in parts for one in real(part)] == real(batch)
        assert {part["size"] for part in parts} == {batch["size"]}
        assert sum(int(part["mask"].sum()) for part in parts) == batch["size"]
        assert all(len(part["ids"]) > 0 and part["inputs"]["source_mask"].any(dim=1).all() for part in parts)


def test_a_rank_without_rows_has_a_stand_in_that_counts_for_nothing():
    made = TextSamples(np.array([7]), Ragged.of([[5, 6, EOS]]), Ragged.of([[8, EOS]]), 0, BOS)
    (one,), (other,) = (list(TokenLoader(made, 100, seed=0, rank=rank, world=2)) for rank in range(2))
    assert one["mask"].all() and not other["mask"].any() and one["size"] == other["size"] == 2
    assert other["ids"].tolist() == [7] and other["inputs"]["source"].tolist() == [[5, 6, EOS]]


def test_a_pair_that_exceeds_the_budget_is_a_batch_of_its_own():
    made = TextSamples(np.arange(4), Ragged.of(rows([50, 3, 3, 60])), Ragged.of(rows([2, 3, 3, 2])), 0, BOS)
    assert [real(batch) for batch in TokenLoader(made, 10)] == [[3], [0], [1, 2]] or [
        sorted(real(batch)) for batch in TokenLoader(made, 10)
    ] == [[3], [0], [1, 2]]


def test_order_is_a_function_of_seed_and_epoch():
    made = samples()
    torch.manual_seed(1)
    one = ids(epoch(TokenLoader(made, 200, seed=1), 4))
    torch.manual_seed(2)
    used = TokenLoader(made, 200, seed=1)
    state = torch.get_rng_state()
    for number in range(4):
        epoch(used, number)
    assert ids(epoch(used, 4)) == one and torch.equal(torch.get_rng_state(), state)
    assert ids(epoch(used, 5)) != one != ids(epoch(TokenLoader(made, 200, seed=2), 4))


def test_batches_are_new_in_every_epoch_and_equally_many():
    loader = TokenLoader(samples(), 200, seed=1)
    seen = [[frozenset(real(batch)) for batch in epoch(loader, number)] for number in range(6)]
    assert {len(batches) for batches in seen} == {len(loader)}
    assert len(set(seen[0]) & set(seen[1])) < len(loader) / 3  # not the same batches in another order
    assert len({max(map(len, batches)) for batches in seen[:1]}) == 1
    lengths = [[batch["targets"].shape[1] for batch in epoch(loader, number)] for number in range(2)]
    assert lengths[0] != sorted(lengths[0], reverse=True) and lengths[0] != lengths[1]


def test_all_batches_but_one_are_full():
    made = samples(1000)
    loader = TokenLoader(made, 300, seed=1)
    full = sum(rows == end - first for (first, end), rows in zip(loader._bounds, _rows(loader), strict=True))
    assert full >= len(loader) - 1
    cost = sum(
        rows * int(made.lengths[loader._sorted[first]])
        for (first, _), rows in zip(loader._bounds, _rows(loader), strict=True)
    )
    assert made.lengths.sum() / cost > 0.75  # little of it is padding


def _rows(loader):
    return [rows for begin, end, rows in loader._buckets for _ in range(begin, end, rows)]


def test_evaluation_is_longest_first_and_never_changes():
    made = samples()
    loader = TokenLoader(made, 200)
    first = epoch(loader)
    assert all(equal(a, b) for a, b in zip(first, epoch(loader, 3), strict=True))
    lengths = [max(batch["inputs"]["source"].shape[1], batch["targets"].shape[1]) for batch in first]
    assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("seed", [None, 3])
def test_resume_at_every_cursor_equals_the_unbroken_epoch(world, seed):
    made = samples(60)

    def loader():
        return TokenLoader(made, 100, seed=seed, rank=world - 1, world=world)

    unbroken = epoch(loader(), 3)
    for stopped in range(1, len(unbroken)):
        first = loader()
        first.set_epoch(3)
        iterator = iter(first)
        for _ in range(stopped):
            next(iterator)
        assert first.state_dict() == {"epoch": 3, "cursor": stopped}
        resumed = loader()
        resumed.load_state_dict(first.state_dict())
        resumed.set_epoch(3)  # what the trainer says on its way must not lose the cursor
        rest = list(resumed)
        assert len(rest) == len(unbroken) - stopped
        assert all(equal(a, b) for a, b in zip(rest, unbroken[stopped:], strict=True))
        assert resumed.state_dict()["cursor"] == 0 and len(list(resumed)) == len(unbroken)
    with pytest.raises(ValueError, match="cursor"):
        loader().load_state_dict({"epoch": 0, "cursor": len(unbroken)})


def test_padding_that_equals_eos_hides_no_eos():
    """Masks come from lengths: where pad is eos, the end of each sentence still counts, and no padding does."""
    plain, same = samples(50), samples(50, pad=EOS)
    for one, other in zip(TokenLoader(plain, 120, seed=1), TokenLoader(same, 120, seed=1), strict=True):
        assert torch.equal(one["mask"], other["mask"]) and one["size"] == other["size"]
        assert torch.equal(one["targets"][one["mask"]], other["targets"][other["mask"]])
        assert (other["targets"][~other["mask"]] == EOS).all()
        ends = (other["targets"] == EOS) & other["mask"]
        assert (ends.sum(dim=1) == 1).all()


def test_an_empty_target_has_its_end_alone():
    made = TextSamples(np.arange(2), Ragged.of([[4, EOS], [EOS]]), Ragged.of([[EOS], [5, 6, EOS]]), 0, BOS)
    (batch,) = TokenLoader(made, 100)
    row = batch["ids"].tolist().index(0)
    assert batch["mask"][row].tolist() == [True, False, False] and batch["inputs"]["target"][row, 0] == BOS
    assert batch["size"] == 4


def test_what_is_refused():
    with pytest.raises(ValueError, match="rank 2 is not one of 2"):
        TokenLoader(samples(5), 10, rank=2, world=2)
    with pytest.raises(ValueError, match="at least 1"):
        TokenLoader(samples(5), 0)


def test_buckets_depend_on_lengths_and_ids_not_on_their_order():
    made = samples()
    ids_, lengths = made.ids.numpy(), made.lengths
    order, found = buckets(lengths, ids_, 200, 0.8)
    shuffled = np.random.default_rng(3).permutation(len(ids_))
    again, same = buckets(lengths[shuffled], ids_[shuffled], 200, 0.8)
    assert found == same and ids_[order].tolist() == ids_[shuffled][again].tolist()
    assert buckets(lengths[:0], ids_[:0], 200, 0.8)[1] == []


def test_rows_that_are_cut_end_with_eos():
    ragged = Ragged.of([[4, 5, 6, EOS], [7, EOS], [4, 5, EOS]])
    cut = ragged.cut(np.array([0, 2, 1]), 3, EOS)
    assert [cut.flat[a:b].tolist() for a, b in zip(cut.starts, cut.starts[1:], strict=False)] == [
        [4, 5, EOS],
        [4, 5, EOS],
        [7, EOS],
    ]
    assert ragged.flat.tolist() == [4, 5, 6, EOS, 7, EOS, 4, 5, EOS] and len(ragged) == 3
    assert Ragged.joined([ragged, cut]).lengths().tolist() == [4, 2, 3, 3, 3, 2]
