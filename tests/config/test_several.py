"""Several options of the group `objective` in one job: `objective=[kd,hint]`."""

import pytest

from kdrun.cli import main
from kdrun.config.compose import compose, split_sweep
from kdrun.problems import UserError

HALF = "ce: {weight: 1.0}\nkd: {weight: 0.5}\n"
FIRST = "ce: {weight: 1.0}\nfeature: {weight: 2.0}\n"
SECOND = "ce: {weight: 1.0, label_smoothing: 0.0}\njsd: {weight: 3.0, beta: 0.5}\n"


@pytest.fixture
def conf(tmp_path):
    for name, text in {"half": HALF, "first": FIRST, "second": SECOND}.items():
        (tmp_path / "objective").mkdir(exist_ok=True)
        (tmp_path / "objective" / f"{name}.yaml").write_text(text)
    return [str(tmp_path)]


def objective(words, conf=()):
    return compose(words, conf).config["objective"]


def test_the_terms_of_all_are_summed_whatever_their_order(conf):
    one, other = (compose([f"objective=[{names}]"], conf) for names in ("first,second", "second,first"))
    assert {name: term["weight"] for name, term in one.config["objective"].items()} == {
        "ce": 1.0,
        "feature": 2.0,
        "jsd": 3.0,
    }
    assert list(one.config["objective"]) == list(other.config["objective"]) and one.hash == other.hash
    assert one.choices["objective"] == "first+second"


def test_one_in_brackets_is_one():
    assert compose(["objective=[kd]"]).hash == compose(["objective=kd"]).hash
    assert compose(["objective=[kd,hint]"]).hash == compose(["objective=hint"]).hash  # hint has kd's terms, and its own


def test_options_that_differ_are_named_with_both_values_and_files(conf):
    with pytest.raises(UserError) as error:
        compose(["objective=[kd,word_kd]"])
    text = "\n".join(error.value.lines)
    assert "objective.kd.temperature: 4.0 (conf/objective/kd.yaml), 1.0 (" in text
    assert "objective.kd.temperature=4.0" in text and "weight" not in text


def test_a_weight_that_differs_is_that_of_the_first_and_is_told(conf):
    for names, weights in (("kd,half", {"ce": 0.1, "kd": 0.9}), ("half,kd", {"ce": 1.0, "kd": 0.5})):
        job = compose([f"objective=[{names}]"], conf)
        assert {name: term["weight"] for name, term in job.config["objective"].items()} == weights
        first, other = names.split(",")
        assert f"objective.ce.weight={weights['ce']}, as in {first}, which is named first; {other} has" in job.notes[0]
    assert compose(["objective=[kd,at]"]).config["objective"].keys() == {"at", "ce", "kd"}


def test_what_is_said_once_is_for_all_of_them(conf, tmp_path):
    words = ["objective=[kd,half]", "objective.ce.weight=0.3", "objective.kd.weight=0.7"]
    job = compose(words, conf)
    assert {name: term["weight"] for name, term in job.config["objective"].items()} == {
        "ce": 0.3,
        "kd": 0.7,
    } and not job.notes
    (tmp_path / "experiment").mkdir()
    preset = "# @package _global_\ndefaults:\n  - override /objective: [kd, half]\nobjective:\n  kd: {weight: 0.7}\n"
    (tmp_path / "experiment" / "both.yaml").write_text(preset)
    assert objective(["experiment=both"], conf)["ce"]["weight"] == 0.1
    (tmp_path / "experiment" / "both.yaml").write_text(preset + "  ce: {weight: 0.2}\n")
    assert objective(["experiment=both"], conf)["ce"]["weight"] == 0.2
    assert (
        objective(["experiment=both", "objective=half"], conf)["kd"]["weight"] == 0.7
    )  # the experiment's over any option


def test_a_sweep_has_lists_as_values():
    jobs = split_sweep(["objective=[kd,hint],kd", "seed=0"])
    assert jobs == [["objective=[kd,hint]", "seed=0"], ["objective=kd", "seed=0"]]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("objective=[kd,hnt]", "closest: hint"),
        ("objective=[kd,kd]", "the same option twice"),
        ("student=[resnet8,vgg8]", "one option of student at a time"),
        ("objective=kd,hint", r"the terms of all: objective=\[kd,hint\]"),
    ],
)
def test_mistakes(word, said):
    with pytest.raises(UserError, match=said):
        compose([word])


def test_what_a_strategy_does_not_use_is_told_as_of_one_option():
    from kdrun.strategies.unused import refuse_unused

    for words in (["objective.kd.temperature=2"], ["objective.hint.weight=2"]):
        with pytest.raises(UserError, match="objective"):
            refuse_unused([compose(["objective=[kd,hint]", "strategy=alone", *words])])


def test_names_and_keys_are_completed(capsys):
    for words, wanted in (
        (["objective=[h"], "objective=[hint"),
        (["objective=[kd,h"], "objective=[kd,hint"),
        (["objective=[kd,hint]", "objective.hint.w"], "objective.hint.weight="),
        (["objective=[kd,hint]", "objective.kd.temp"], "objective.kd.temperature="),
    ):
        assert main(["__complete", *words]) == 0
        assert wanted in capsys.readouterr().out.split()
