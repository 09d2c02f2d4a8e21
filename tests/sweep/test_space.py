"""Hydra's override grammar as ranges that a sampler draws from, and what is no range."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdrun.problems import UserError
from kdrun.sweep.space import Choices, Numbers, read_space


def parameter(word):
    (found,) = read_space([word]).parameters.values()
    return found


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("objective.kd.temperature=interval(1,8)", ("float", 1.0, 8.0, None, False)),
        ("trainer.epochs=int(interval(1,8))", ("int", 1, 8, 1, False)),
        ("trainer.optimizer.lr=tag(log,interval(1e-4,1e-1))", ("float", 1e-4, 1e-1, None, True)),
        ("trainer.epochs=tag(log, int(interval(1,64)))", ("int", 1, 64, 1, True)),
        ("trainer.epochs=int(tag(log,interval(1,64)))", ("int", 1, 64, 1, True)),
        ("trainer.epochs=range(1,10,2)", ("int", 1, 9, 2, False)),
        ("trainer.epochs=range(4)", ("int", 0, 3, 1, False)),
        ("trainer.epochs=range(10,1,-3)", ("int", 4, 10, 3, False)),
        ("trainer.clip=range(0.1,1,0.3)", ("float", 0.1, 0.7, 0.3, False)),
        ("trainer.clip=shuffle(range(1,4))", ("int", 1, 3, 1, False)),
        ("trainer.clip=float(range(1,4))", ("float", 1.0, 3.0, 1.0, False)),
    ],
)
def test_numbers_become_the_distribution_that_the_grammar_means(word, expected):
    found = parameter(word).distribution()
    kind = "int" if type(found).__name__ == "IntDistribution" else "float"
    assert (kind, found.low, found.high, found.step, found.log) == expected


@pytest.mark.parametrize(
    ("word", "texts", "values"),
    [
        ("trainer.batch_size=choice(32,64)", ("32", "64"), (32, 64)),
        ("student=resnet8_w2,resnet8_w4", ("resnet8_w2", "resnet8_w4"), ("resnet8_w2", "resnet8_w4")),
        ("trainer.clip=null,1.5,true", ("null", "1.5", "True"), (None, 1.5, True)),
        ("trainer.schedule.milestones=[1,2],[3]", ("[1,2]", "[3]"), ("[1,2]", "[3]")),
        ("name='1','a b'", ("'1'", "'a b'"), ("'1'", "'a b'")),
        ("student=glob(mlp_1*)", ("mlp_1024", "mlp_16"), ("mlp_1024", "mlp_16")),
        ("trainer.batch_size=shuffle(4,3,2,1)", ("4", "3", "2", "1"), (4, 3, 2, 1)),
        ("trainer.batch_size=4,4,8", ("4", "8"), (4, 8)),
    ],
)
def test_choices_keep_the_text_that_composes_and_the_value_that_is_shown(word, texts, values):
    found = parameter(word)
    assert isinstance(found, Choices) and (found.texts, found.values) == (texts, values)
    assert found.distribution().choices == texts


@pytest.mark.parametrize(
    ("words", "telling"),
    [
        (["trainer.epochs=5"], "something to search"),
        ([], "something to search"),
        (["objective.kd.temperature=interval(8,1)"], "LOW below HIGH"),
        (["objective.kd.temperature=interval(1,1)"], "LOW below HIGH"),
        (["objective.kd.temperature=interval(1,inf)"], "finite"),
        (["trainer.optimizer.lr=tag(log,interval(0,1))"], "above 0"),
        (["trainer.optimizer.lr=tag(log,interval(-1,1))"], "above 0"),
        (["trainer.epochs=range(5,1)"], "empty range"),
        (["trainer.epochs=range(1,5,0)"], "step"),
        (["trainer.epochs=tag(log,range(1,5))"], "log goes with interval"),
        (["trainer.epochs=tag(log,choice(1,5))"], "log goes with interval"),
        (["trainer.epochs=tag(lin,interval(1,5))"], "only tag"),
        (["student=glob(nothing*)"], "no value fits"),
        (["~objective.kd=1,2"], "taken away"),
        (["seed=0,1,2"], "luckiest"),
        (["seeds=2,3"], "luckiest"),
    ],
)
def test_what_cannot_be_searched_is_named(words, telling):
    with pytest.raises(UserError) as caught:
        read_space(words)
    assert telling in str(caught.value)
    assert not words or words[0] in str(caught.value) or "something" in telling


def test_words_keep_their_order_and_the_last_of_a_key_counts():
    space = read_space(
        ["student=mlp_8", "trainer.epochs=1,2", "student=mlp_8,mlp_16", "trainer.clip=1,2", "trainer.clip=3"]
    )
    assert list(space.parameters) == ["trainer.epochs", "student"]
    assert space.overrides({"trainer.epochs": "2", "student": "mlp_16"}) == [
        "trainer.epochs=2", "student=mlp_16", "trainer.clip=3",
    ]  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6), st.floats(0, 1))
def test_a_settled_number_stays_inside_is_short_and_is_read_back_as_itself(one, other, share):
    low, high = sorted((one, other))
    if low == high:
        return
    number = Numbers("x", low, high)
    value = number.settled(low + share * (high - low))
    assert low <= value <= high and number.settled(value) == value
    assert float(number.text(value)) == value and (value in (low, high) or len(f"{value:.4g}") <= 10)


@given(st.integers(0, 30), st.floats(-1e-9, 1e-9))
def test_a_grid_of_reals_gives_the_numbers_of_the_grid(step, error):
    number = parameter("trainer.clip=range(0.1,10,0.1)")
    assert number.settled(0.1 + step * 0.1 + error) == float(f"{0.1 * (step + 1):.1f}")


def test_all_options_and_both_ends_are_composed_before_the_search_and_all_problems_told_at_once():
    from kdrun.job.compose import compose

    space = read_space(["student=mlp_8,resnet9,mlp_16", "trainer.batch_size=interval(16,64)", "trainer.clipp=1,2"])
    with pytest.raises(UserError) as caught:
        space.check(compose)
    text = str(caught.value)
    assert "resnet9" in text and "trainer.clipp" in text and "int(interval(16,64))" in text


def test_a_sound_space_gives_the_jobs_of_its_corners():
    from kdrun.job.compose import compose

    space = read_space(["objective.kd.temperature=interval(1,8)", "student=mlp_8,mlp_16", "seed=0"])
    jobs = space.check(compose)
    assert [job.config["objective"]["kd"]["temperature"] for job in jobs][:3] == [1.0, 8.0, 3.599]
    assert jobs[-1].choices["student"] == "mlp_16" and len({job.hash for job in jobs}) == 4
