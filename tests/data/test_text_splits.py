import numpy as np
import pytest
from text_support import COMMON

from kdrun.data.text_keys import normalised
from kdrun.domains.translation.source import Pairs
from kdrun.domains.translation.splits import assign
from kdrun.problems import UserError

FRUIT = ("apple", "pear", "plum", "fig", "lime", "kiwi", "date", "mango", "peach", "grape")


def pairs(rows, split=None, **options):
    count = len(rows)
    split = np.zeros(count, np.int8) if split is None else np.array(split, np.int8)
    source, target = (list(side) for side in zip(*rows, strict=True))
    return Pairs("made", ("de", "en"), source, target, split, np.arange(count) * 2 + 1, **options)


def many():
    """100 groups of three near-duplicates."""
    return pairs([(f"{a} und {b} Nr. {n}", f"{a} and {b} no. {n}") for a in FRUIT for b in FRUIT for n in (1, 22, 333)])


def used(made, split, part):
    return {normalised(made.target[row]) for row in np.flatnonzero(split == part)}


def config(**changes):
    return {**COMMON, "val_fraction": 0.1, "test_fraction": 0.2, **changes}


def test_near_duplicates_stay_together_and_sizes_are_met():
    made = many()
    split, removed = assign(made, config())
    parts = [used(made, split, part) for part in range(3)]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2] and not removed
    assert [int((split == part).sum()) for part in range(3)] == [216, 24, 60]


def test_a_split_is_a_function_of_text_and_seed():
    made = many()
    split, _ = assign(made, config())
    assert (assign(made, config())[0] == split).all()
    assert (assign(made, config(split_seed=1))[0] != split).any()
    turned = pairs(list(zip(made.source, made.target, strict=True))[::-1])
    assert (assign(turned, config())[0][::-1] == split).all()


def test_groups_of_the_source_count():
    made = many()
    grouped = pairs(list(zip(made.source, made.target, strict=True)), groups=[text.split()[0] for text in made.target])
    split, _ = assign(grouped, config())
    for fruit in FRUIT:
        assert len({split[row] for row in range(300) if grouped.groups[row] == fruit}) == 1


def test_a_test_sentence_on_either_side_is_removed_from_training():
    rows = [(f"Satz {a} {b}", f"sentence {a} {b}") for a in FRUIT for b in FRUIT]
    rows += [(source.upper() + "!", f"another {number} {number % 7 * 'x'}") for number, (source, _) in enumerate(rows)]
    made = pairs(rows)
    split, removed = assign(made, config())
    sources = [{normalised(made.source[row]) for row in np.flatnonzero(split == part)} for part in range(3)]
    assert not sources[0] & (sources[1] | sources[2]) and not sources[1] & sources[2]
    assert removed["train"] > 20 and set(removed) == {"train", "val"}
    kept, none = assign(made, config(duplicates="keep"))
    assert not none and (kept >= 0).all()


def test_splits_of_the_source_stay_and_lose_equal_pairs_only():
    rows = [("danke", "thanks"), ("Danke.", "Thanks."), ("a", "b"), ("c", "d"), ("c", "d"), ("a", "b"), ("e", "f")]
    made = pairs(rows, [0, 0, 0, 0, 1, 2, 3], extra=("shift",))
    split, removed = assign(made, config())
    assert split.tolist() == [0, 0, -1, -1, 1, 2, 3] and removed == {"train": 2}
    assert assign(made, config(duplicates="keep"))[0].tolist() == [0, 0, 0, 0, 1, 2, 3]
    # What two test sets have stays in the first, and validation gives way to both.
    both = pairs([("a", "b"), ("c", "d"), ("a", "b"), ("x", "y"), ("a", "b")], [1, 1, 2, 0, 3], extra=("shift",))
    assert assign(both, config())[1] == {"shift": 1, "val": 1}


def test_validation_alone_is_taken_where_test_is_given():
    made = many()
    made.split[:30] = 2
    split, _ = assign(made, config())
    assert (split[:30] == 2).all() and (split == 1).sum() == 27


def test_limits():
    split, _ = assign(many(), config(limit={"train": 50, "val": 5, "test": None}))
    assert [int((split == part).sum()) for part in (-1, 0, 1, 2)] == [185, 50, 5, 60]


def test_text_that_cannot_be_split():
    with pytest.raises(UserError, match=r"data.test_fraction=0.2: made has 3 pairs in 1 groups"):
        assign(pairs([("a 1", "b 1"), ("a 2", "b 2"), ("a 3", "b 3")]), config())


def test_what_pairs_have_to_be():
    with pytest.raises(ValueError, match="differ in length"):
        Pairs("x", ("a", "b"), ["a"], [], np.zeros(1, np.int8), np.zeros(1, np.int64))
    with pytest.raises(ValueError, match="not unique"):
        Pairs("x", ("a", "b"), ["a"] * 2, ["b"] * 2, np.zeros(2, np.int8), np.zeros(2, np.int64))
    one, other = pairs([("a", "b")]), pairs([("a", "c")])
    assert one.source_hash == pairs([("a", "b")]).source_hash != other.source_hash
