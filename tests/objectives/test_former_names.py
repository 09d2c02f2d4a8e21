"""Names of losses that are settings of another one now: they compose, hash and compute as they always did."""

import pytest

from kdrun.config.compose import compose
from kdrun.objectives.terms import build_objective
from kdrun.problems import UserError
from kdrun.term_weights import Length, WeightSchedule

WORDS = {
    ("objective=word_kd_topk", "model=nmt_transformer"): "3a03657484",
    ("objective=word_kd_vocabulary", "model=nmt_transformer"): "515b9d9d1f",
    ("objective=llava",): "edfdc7865b",
    ("+objective.vocabulary_kd.weight=1", "+objective.vocabulary_kd.kind=jsd"): "f6df5b1696",
    ("+objective.vocabulary_ce.chunk=4",): "e4f5df7d19",
    ("+objective.vocabulary_kd_visual.chunk=4", "+objective.vocabulary_kd_visual.memory_mb=64"): "2d6e2c0b15",
    (
        "+objective.x._target_=kdrun.objectives.vocabulary_kd.vocabulary_kd",
        "+objective.x.beta=0.3",
    ): "521f1dc76e",
}


@pytest.mark.parametrize(("words", "digits"), WORDS.items(), ids=lambda x: x if isinstance(x, str) else x[0])
def test_jobs_with_former_names_keep_their_hash_and_their_objective_is_built(words, digits):
    job = compose(["seed=0", *words])
    assert job.hash[:10] == digits
    build_objective(job.cells[0]["objective"])


def test_a_former_name_is_a_loss_with_settings():
    former = build_objective({"kd_topk": {"k": 8}, "vocabulary_kd": {"kind": "reverse", "chunk": 2}, "kd_visual": {}})
    topk, chunked, visual = former.terms
    assert topk == build_objective({"kd_topk": {**NEW, "execution": "topk", "k": 8}}).terms[0]
    assert visual == build_objective({"kd_visual": {**NEW, "over": "image_slots"}}).terms[0]
    assert chunked.options["kind"] == "reverse" and chunked.options["ce"] == 0.0 and chunked.multiplies


NEW = {"_target_": "kdrun.objectives.kd.kd", "temperature": 1.0}


@pytest.mark.parametrize(
    ("term", "lines"),
    [
        ({"kd": {"execution": "topk"}}, "temperature 1 only"),
        ({"kd": {"execution": "sparse"}}, "must be one of dense, chunked, topk"),
        ({"mse": {"execution": "chunked"}}, "this loss has dense"),
        ({"relation": {"over": "labels"}}, "not those of single positions"),
        ({"kd": {"over": "images"}}, "must be one of labels, image_slots"),
        ({"kd": {"student": "layer1"}}, "compares no features"),
        ({"feature": {"student": "layer1", "adaptor": "mlp"}}, "adaptor must be one of"),
        ({"kd": {"execution": "chunked", "chnk": 3}}, "did you mean 'chunk'"),
        ({"kd": {"weight": {"linaer": {"to": 1}}}}, "did you mean 'linear'"),
        ({"kd": {"weight": {"linear": {"steps": 1.5}}}}, r"weight\.linear\.steps must be a whole number"),
        ({"kd": {"weight": {"linear": {"upto": 1}}}}, "takes from, to, start, steps, unit, not upto"),
        (
            {"kd": {"execution": "chunked", "standardize": True}},
            r"objective\.kd\.standardize=True does not go with execution=chunked",
        ),
        ({"kd": {"weight": {"linear": {"unit": "epochs"}}}}, "unit must be step or epoch, got 'epochs'"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_told(term, lines):
    with pytest.raises(UserError, match=lines):
        build_objective(term)


@pytest.mark.parametrize(
    ("node", "values"),
    [
        ({"constant": 0.5}, [0.5, 0.5, 0.5, 0.5]),
        ({"linear": {"from": 0, "to": 1, "steps": 4}}, [0.0, 0.25, 0.5, 0.75]),
        ({"linear": {"from": 0, "to": 2, "steps": 0.2, "start": 1}}, [0.0, 0.0, 1.0, 2.0]),
        ({"cosine": {"from": 1, "to": 0, "steps": 2}}, [1.0, 0.5, 0.0, 0.0]),
        ({"step": {"from": 0, "to": 3, "at": 0.2}}, [0.0, 0.0, 3.0, 3.0]),
        ({"step": {"from": 0, "to": 3, "at": 1, "unit": "epoch"}}, [0.0, 0.0, 0.0, 0.0, 0.0, 3.0, 3.0]),
        ({"linear": {"from": 0.5, "to": 1, "steps": 0.5, "unit": "epoch"}}, [0.5] * 5 + [1.0] * 5),
    ],
    ids=str,
)
def test_weights_are_functions_of_the_step(node, values):
    objective = build_objective({"ce": {"weight": node}}).begin(Length(10, 5))
    assert [objective.weights(step)["ce"] for step in range(len(values))] == pytest.approx(values)
    assert objective.weights()["ce"] == (0.5 if "constant" in node else max(1.0, *values))


def test_a_weight_that_is_always_zero_is_no_term():
    assert isinstance(build_objective({"ce": {"weight": {"linear": {}}}}).terms[0].weight, WeightSchedule)
    with pytest.raises(UserError, match="nothing to minimise"):
        build_objective({"ce": {"weight": {"step": {"from": 0, "to": 0}}}})
