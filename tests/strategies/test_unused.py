"""A key that the chosen strategy would not use is refused where a person typed it; shipped defaults never are."""

import json

import pytest

from kdrun.cli import main
from kdrun.job.compose import compose
from kdrun.problems import UserError
from kdrun.strategies.unused import StageCollector, ask_all, refuse_unused

FEDERATED = ["strategy=federated"]
GATED = ["strategy=energy_gated"]
ALONE = ["strategy=alone"]
CASCADED = ["strategy=cascaded"]


def told(*words, conf=()):
    """What is said of these words, or "" where all are used."""
    try:
        refuse_unused([compose(words, conf)])
    except UserError as error:
        return "\n".join(error.lines)
    return ""


@pytest.mark.parametrize(
    ("words", "second"),
    [
        ([*FEDERATED, "objective.kd.temperature=8"], "strategy.losses=objective"),
        ([*FEDERATED, "objective=jsd"], "strategy.losses=objective"),
        ([*FEDERATED, "strategy.losses=objective", "objective.kd.temperature=8"], "as far as it has them"),
        ([*FEDERATED, "trainer.epochs=3"], "strategy.rounds"),
        ([*FEDERATED, "student.trainer.epochs=3"], "strategy.rounds"),
        ([*FEDERATED, "trainer.schedule.name=constant"], "strategy.rate=schedule"),
        ([*FEDERATED, "trainer=quick"], "strategy.rounds"),
        ([*FEDERATED, "teacher.seed=3"], "travels"),
        ([*FEDERATED, "strategy.trim=0.2"], "strategy.aggregation=trimmed_mean"),
        ([*FEDERATED, "strategy.partition=iid", "strategy.alpha=1"], "strategy.partition=label, quantity or groups"),
        ([*FEDERATED, "strategy.timeout=3"], "strategy.engine=flower"),
        ([*GATED, "objective=jsd"], "strategy.losses=objective"),
        ([*GATED, "strategy.gate=hard", "strategy.beta=2"], "strategy.gate=logistic"),
        ([*ALONE, "objective.kd.temperature=2"], "labels alone"),
        ([*ALONE, "objective.ce.weight=0.5"], "labels alone"),
        ([*ALONE, "teacher.accuracy=0.9"], "strategy=vanilla has a teacher"),
        ([*ALONE, "trainer.gap=true"], "a student with a teacher"),
        (["assistants.resnet8.seed=1"], "strategy=takd"),
        (["strategy=compress", "assistants.resnet8.trainer.epochs=1"], "strategy=takd"),
        (["strategy=compress", "strategy.order=[distill]", "strategy.tune_epochs=6"], ""),
        (["strategy=compress", "strategy.order=[distill,quantize]", "strategy.importance=l1"], "with prune"),
        ([*CASCADED, "strategy.drop=0.5"], ""),
        ([*CASCADED, "strategy.sft=false", "strategy.sft_epochs=3"], ""),
        (["trainer.schedule.milestones=[3]"], "trainer.schedule.name=step"),
        (["objective.kd.weight=0", "objective.kd.temperature=3"], "objective.kd.weight above 0"),
        (["teacher.source=online", "teacher.fill=first_epoch"], "cached"),
        (["data.augment.views=3"], "data.augment.seed"),
        (["data.text.vocabulary=300"], "or translation"),
        ([f"teacher.weights={__file__}", "teacher.data.limit.train=5"], ""),
        (["trainer.sharding=fsdp"], "hardware.devices"),
        (["student.trainer.devices=2"], "hardware.devices"),
    ],
)
def test_what_no_stage_depends_on_is_refused_with_key_value_and_what_is_used_instead(words, second):
    first, *rest = told(*words).splitlines()
    assert first.startswith(f"{words[-1]}: "), "key and value as they were typed"
    assert second in "".join(rest)


@pytest.mark.parametrize(
    "words",
    [
        [],
        FEDERATED,
        [*FEDERATED, "trainer.batch_size=8", "trainer.optimizer.lr=0.5", "trainer.mode=max", "student.trainer.clip=1"],
        [*FEDERATED, "strategy.aggregation=trimmed_mean", "strategy.trim=0.2", "trainer.log_every=1"],
        [*GATED, "strategy.beta=2"],
        [*GATED, "strategy.losses=objective", "objective.kd.temperature=8"],
        [*FEDERATED, "strategy.losses=objective", "objective.ce.label_smoothing=0.1"],
        [*FEDERATED, "strategy.rate=schedule", "trainer.schedule.name=constant", "trainer.accumulate=2"],
        [*ALONE, "objective.ce.label_smoothing=0.1", "trainer.epochs=3", "name=x", "tags.a=true"],
        [*ALONE, "strategy.controls=[plain_kd]", "objective.kd.temperature=2", "teacher.seed=1"],
        [*ALONE, "student=resnet8_w2"],
        [
            *ALONE,
            "model=text_classifier",
            "trainer.epochs=5",
            "trainer.optimizer.lr=1e-3",
        ],  # for the student's own of the preset
        ["teacher.accuracy=0.9", "teacher.tolerance=0.1", "hardware.threads=2", "student.trainer.epochs=3"],
        ["strategy=compress", "strategy.tune_epochs=6"],  # as many as it would have had
        ["strategy=evolving", "strategy.epochs=[30,30,30]", "strategy.order=descending", "assistants.resnet8.seed=1"],
        [*CASCADED, "strategy.scheme=dgkd", "strategy.drop=0.5"],
        ["model=ct_se_resnet", "strategy=cross_window", "strategy.teacher=worst_validation"],
        ["trainer.schedule.name=step", "trainer.schedule.milestones=[3]"],
        ["data.augment.crop=1", "data.augment.seed=1", "data.augment.views=3"],
        ["objective.ce.weight=0", "strategy.controls=[]"],
    ],
)
def test_what_a_stage_depends_on_passes(words):
    assert told(*words) == ""


def test_a_term_that_was_taken_out_of_an_option_is_no_key_to_judge():
    refuse_unused(
        [compose(["student=spiking_resnet8", "teacher=resnet14", "objective=seal", "~objective.ela", "seed=0"])]
    )


def test_the_verbs_refuse_before_anything_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for verb in ("run", "plan"):
        assert main([verb, "strategy=federated", "objective.kd.temperature=8"]) == 2
        assert "objective.kd.temperature=8: strategy=federated does not use it" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_python_refuses_as_well(tmp_path, monkeypatch):
    import kdrun

    monkeypatch.chdir(tmp_path)
    for call in (kdrun.run, kdrun.plan):
        with pytest.raises(UserError, match="strategy=alone does not use it"):
            call("strategy=alone", "teacher.seed=3")


def test_an_experiment_of_the_users_is_judged_with_file_and_line_and_a_shipped_one_is_not(tmp_path):
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\ndefaults:\n  - override /objective: jsd\ntrainer:\n  epochs: 3\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    assert told("experiment=mine", conf=[str(tmp_path)]) == ""
    found = told("experiment=mine", "strategy=federated", conf=[str(tmp_path)])
    assert (
        "trainer.epochs=3 (" in found and "experiment/mine.yaml, line 5): strategy=federated does not use it" in found
    )
    assert "objective=jsd (" in found and "experiment/mine.yaml, line 3)" in found
    assert told("experiment=smoke", "strategy=federated") == ""


def test_in_a_sweep_it_is_enough_that_one_job_uses_a_word():
    kinds = [compose([kind, "objective.kd.temperature=2"]) for kind in ("strategy=alone", "strategy=vanilla")]
    refuse_unused(kinds)
    with pytest.raises(UserError, match="temperature=2"):
        refuse_unused([kinds[0], compose(["strategy=federated", "objective.kd.temperature=2"])])


def test_a_sweep_of_what_nothing_uses_is_refused(tmp_path, capsys):
    words = ["-m", "strategy=federated", "trainer.epochs=2,3", f"paths.outputs={tmp_path}/outputs"]
    assert main(["plan", *words]) == 2
    assert "strategy=federated does not use it" in capsys.readouterr().err


def test_a_key_that_another_value_is_made_from_is_used():
    assert told("strategy=alone", "objective.kd.temperature=2", "name=t-${objective.kd.temperature}") == ""


def test_tables_that_come_with_kdrun_pass():
    from kdrun.config.groups import conf_dirs, tables
    from kdrun.tables.spec import TableRequest, compose_jobs
    from kdrun.tables.table_file import read_spec

    for name in ("transfer", "evolving", "energy_gated"):
        spec = read_spec(tables(conf_dirs()[0])[name])
        refuse_unused(compose_jobs(TableRequest(spec, []))[1], spec.words)


def test_stages_that_build_on_many_others_are_collected_in_little_space():
    """Each names those before it; spelled out, a sequence of twenty would take a million times the space of one."""
    lab = StageCollector()
    ask_all(compose(["data=digits", "student=mlp_8", "strategy=continual", "strategy.tasks=20"]).cells[0], lab)
    assert len(lab.stages) > 20 and max(len(json.dumps(tree, default=str)) for tree in lab.asked) < 100_000


@pytest.mark.parametrize(
    ("words", "told_of"),
    [
        (["strategy=alone", "teacher=mlp_64"], ""),  # the row beside jobs that have one
        (["strategy=mutual", "teacher=mlp_64"], "teacher=mlp_64"),
        (["strategy=continual", "teacher=mlp_64"], "teacher=mlp_64"),
        (["model=clients_mixed", "strategy=clustered", "teacher=mlp_64"], "controls=[fedavg]"),
        (["strategy=federated", "strategy.method=fedmd", "teacher=mlp_64", "student=mlp_8"], "teacher=mlp_64"),
        (["strategy=vanilla", "teacher@assistants.resnet8=mlp_64"], "teacher@assistants.resnet8=mlp_64"),
        (["model=clients_mixed", "strategy=clustered", "controls=[fedavg]", "teacher=mlp_64"], ""),
        (["model=clients_mixed", "strategy=clustered", "teacher@assistants.server=mlp_64"], ""),
        (["strategy=energy_gated", "teacher=mlp_64"], ""),
        (["strategy=vanilla", "teacher=mlp_64"], ""),
    ],
)
def test_a_teacher_that_no_arm_asks_is_refused(words, told_of):
    said = told(*words)
    assert told_of in said and bool(said) == bool(told_of)


def test_methods_whose_weights_travel_are_those_that_say_so():
    from kdrun.federation.methods.base import build_method
    from kdrun.federation.methods.options import METHODS
    from kdrun.strategies.unused import OF_PREDICTIONS, SHARED

    travels = {name: build_method(name, {}, False, None).TRAVELS for name in METHODS}
    assert {name for name, what in travels.items() if what in (None, "predictions", "")} == set(OF_PREDICTIONS)
    assert {name for name, what in travels.items() if what == "shared"} == set(SHARED)
