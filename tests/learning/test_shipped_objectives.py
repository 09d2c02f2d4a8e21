"""Every shipped objective on a task that has its tensors: one real step, in which each of its terms reaches the student."""

import pytest

from kdrun.domains.load import load_data
from kdrun.learning.probe import NotZero, probe
from kdrun.strategies.cast import Cast, distil, supervised
from kdrun.strategies.unused import StageCollector

from .shipped import NAMES, NODES, RESNETS, WORDS
from .stages import cell


def probed(*words):
    cast, lab = Cast(cell(*RESNETS, *words)), StageCollector()
    stage = distil(cast.student, lab.get(supervised(cast.teacher)))
    return probe(stage, load_data(cast.config["data"], cast.config["paths"]))


@pytest.mark.parametrize("name", NAMES)
def test_each_term_of_an_objective_reaches_the_student(name):
    weights = {term: node["weight"] for term, node in NODES[name].items()}
    if name in WORDS:
        pytest.importorskip("transformers")
    terms = probed(f"objective={name}", *WORDS.get(name, ()))["terms"]
    assert set(terms) == {term for term, weight in weights.items() if weight} and terms
    assert all(found["gradient"] > 0 for found in terms.values())


def test_a_loss_that_is_not_zero_for_equal_networks_has_to_say_so(monkeypatch):
    from kdrun.objectives.hard import hard

    assert probed("objective=hard")["terms"]["hard"]["identity"] > 0
    monkeypatch.setattr(hard, "zero_at_equality", True)
    with pytest.raises(NotZero, match="the hard term is"):
        probed("objective=hard")
