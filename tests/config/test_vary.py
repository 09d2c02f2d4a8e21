"""`seeds.vary`: what differs from seed to seed."""

from __future__ import annotations

import pytest

from kdrun.config.compose import compose
from kdrun.problems import UserError

WORDS = ("teacher=cnn_small", "student=mlp_16", "seeds=3")


def drawn(*words: str) -> list[tuple[int, int, int]]:
    """(student's seed, teacher's seed, seed of the split) of each cell."""
    return [
        (cell["seed"], cell["teacher"]["seed"], cell["data"]["split_seed"]) for cell in compose([*WORDS, *words]).cells
    ]


def test_the_students_seed_alone_differs_by_default():
    plain, said = compose(WORDS), compose([*WORDS, "seeds.vary=[student]"])
    assert drawn() == [(0, 0, 0), (1, 0, 0), (2, 0, 0)]
    assert plain.hash == said.hash and plain.config["vary"] == ["student"]


def test_teacher_and_split_follow_from_where_they_begin():
    assert drawn("seeds.vary=[student,teacher]") == [(0, 0, 0), (1, 1, 0), (2, 2, 0)]
    assert drawn("seeds.vary=[student,split]", "data.split_seed=4") == [(0, 0, 4), (1, 0, 5), (2, 0, 6)]
    assert drawn("seeds.vary=[student,teacher,split]", "teacher.seed=7", "seeds=[2,5]") == [(2, 9, 2), (5, 12, 5)]
    assert drawn("seeds.vary=[student,teacher]", "teacher.seed=${seed}") == [(0, 0, 0), (1, 1, 0), (2, 2, 0)]


def test_assistants_follow_too_and_what_is_made_from_a_seed_is_made_from_the_cells_own():
    job = compose(
        [
            "strategy=takd",
            "model=mlp_ladder",
            "seeds=2",
            "seeds.vary=[student,teacher]",
            "assistants.mlp_64.seed=3",
            "extra.t=${teacher.seed}",
        ]
    )
    seeds = [{name: node["seed"] for name, node in cell["assistants"].items()} for cell in job.cells]
    assert seeds == [{"mlp_256": 0, "mlp_64": 3}, {"mlp_256": 1, "mlp_64": 4}]
    assert [cell["extra"]["t"] for cell in job.cells] == [0, 1]


def test_the_order_of_the_words_changes_no_hash_and_what_varies_does():
    one, other = (
        compose([*WORDS, f"seeds.vary={vary}"]).hash for vary in ("[student,teacher,split]", "[split,student,teacher]")
    )
    assert one == other != compose(WORDS).hash


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("seeds.vary=[studnet]", "closest: student"),
        ("seeds.vary=[student,techer]", "closest: teacher"),
        ("seeds.vary=[teacher]", "[student,teacher]"),
        ("seeds.vary=[]", "[student]"),
        ("seeds.vary=student", "expected a list of student, teacher, split"),
        ("seeds.vary=null", "expected a list of student, teacher, split"),
        ("seeds.vary=[student,split,split]", "the same twice"),
        ("seeds.vry=[student]", "closest: seeds.vary"),
        ("seed.vary=[student]", "closest: seeds.vary"),
    ],
)
def test_mistakes_are_told_by_what_was_typed(word, said):
    with pytest.raises(UserError) as error:
        compose([*WORDS, word])
    assert error.value.lines[0].startswith(f"{word}: ") and said in str(error.value) and len(error.value.lines) <= 2


def test_no_search_chooses_what_varies():
    from kdrun.sweep.space import read_space

    with pytest.raises(UserError, match="luckiest"):
        read_space([*WORDS, "seeds.vary=[student],[student,split]"])
