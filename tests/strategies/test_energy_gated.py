"""Federated strategies: what they ask a lab for, how arms compare, and a small run with faults from plan to panel."""

from __future__ import annotations

import json

import pytest

from kdrun.job import panel
from kdrun.job.compose import compose
from kdrun.job.plan import make_plan
from kdrun.lab.fingerprint import FingerprintContext
from kdrun.lab.stages.base import Result
from kdrun.lab.stages.combine import Combine
from kdrun.lab.stages.federate import Federate
from kdrun.problems import UserError
from kdrun.strategies.cast import Cast
from kdrun.strategies.energy_gated import EnergyGated
from kdrun.tables.metrics import measure

WORDS = ("strategy=energy_gated", "model=clients_mixed", "tracker=none", "card=false", "hardware=cpu")


class Notes:
    """A lab that writes down what it is asked for."""

    def __init__(self):
        self.asked = []

    def get(self, stage):
        self.asked.append(stage)
        return Result(stage.role, stage, {})


@pytest.fixture(scope="module")
def cast():
    return Cast(compose([*WORDS, "seed=4"]).cells[0])


def test_what_is_asked_for(cast):
    lab = Notes()
    found = EnergyGated(alpha=0.1, beta=2.0, gate="hard", faults={"nan": [1]}).run(lab, cast)
    (stage,) = lab.asked
    assert isinstance(stage, Federate) and found.stage.taught and stage.seed == 4
    settings = stage.federation
    assert settings["method"] == "energy_gated" and settings["partition"] == {
        "kind": "label",
        "alpha": 0.1,
        "minimum": 8,
    }
    assert settings["options"]["beta"] == 2.0 and settings["options"]["gate"] == "hard"
    assert settings["faults"] == {"nan": [1]}
    kinds = [node["_target_"].rpartition(".")[2] for node in settings["private"]]
    assert kinds == ["CNN", "MLP", "ResNet", "ResNet"] and settings["proxy"]["hidden"] == [16]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("trainer.ema=0.9", r"trainer.ema=0.9: clients train in a plain loop"),
        ("teacher.weights=conf/config.yaml", "begin with random weights"),
    ],
)
def test_what_clients_do_not_do_is_refused_when_it_is_composed(word, message):
    with pytest.raises(UserError, match=message):
        compose([*WORDS, "seed=0", word])


def test_the_code_of_rooms_and_methods_is_in_the_fingerprint(cast):
    context = FingerprintContext(lambda data: "content", "cpu")
    lab = Notes()
    results = [EnergyGated().run(lab, cast), EnergyGated().control("fedprox", lab, cast)]
    codes = [set(result.stage.parts(context)["code"]) for result in results]
    assert all({"federation", "learning", "domains.images"} <= code for code in codes)
    assert "federation.methods.energy_gated" in codes[0] - codes[1]
    assert "federation.methods.shared" in codes[1] - codes[0]
    group = Combine("student", {"a": results[0]}, ("a",), "mean", 0)
    assert set(group.parts(context)["code"]) == {"lab.ensembles", "auc"}


def test_arms_have_the_same_clients_and_the_same_budget(cast):
    strategy, lab = EnergyGated(backward_epochs=2, forward_epochs=3), Notes()
    for name in strategy.arms:
        strategy.control(name, lab, cast)
    strategy.run(lab, cast)
    by_role = {stage.role: stage.federation for stage in lab.asked}
    varied = ("method", "options")
    assert (
        len({json.dumps({k: v for k, v in one.items() if k not in varied}, sort_keys=True) for one in by_role.values()})
        == 1
    )
    epochs = {
        name: sum(one["options"][f"{way}_epochs"] for way in ("backward", "forward")) for name, one in by_role.items()
    }
    assert epochs.pop("alone") == 2 and set(epochs.values()) == {5}
    assert by_role["alone"]["method"] == by_role["equal_compute"]["method"] == "local"
    assert by_role["gate_off"]["options"]["gate"] == "off" and by_role["student"]["options"]["gate"] == "logistic"
    assert by_role["gate_constant"]["options"]["gate"] == "constant"
    assert by_role["forward_only"]["options"]["directions"] == "forward"
    assert not lab.asked[0].taught


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gate": "logistics"}, r"strategy.gate=logistics.*closest: logistic"),
        ({"alpha": 0}, r"strategy.alpha=0"),
        ({"clients": 1}, "at least two"),
        ({"participation": 1.5}, "participation=1.5"),
        ({"beta": -1}, "strategy.beta=-1"),
        ({"temperature": 0}, "strategy.temperature=0"),
        ({"backward_epochs": 0}, "backward_epochs=0"),
        ({"engine": "flowers"}, "strategy.engine=flowers"),
        ({"faults": {"nann": [1]}}, "strategy.faults.nann is none; closest: nan"),
        ({"faults": {"flip": {11: 0.5}}}, r"strategy.faults.flip: 11 is no client"),
        ({"controls": ["plain_kd"]}, "no control 'plain_kd'"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        EnergyGated(**options)


SMALL = (*WORDS, "strategy.clients=4", "strategy.rounds=3", "seeds=2", "strategy.faults={flip: {0: 0.5}, nan: [1]}")


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    from kdrun.run import run_job

    folder = tmp_path_factory.mktemp("federated")
    words = (f"paths.outputs={folder / 'outputs'}", "model=mlp_ladder", "teacher=mlp_8", "student=mlp_16")
    job = compose([*(word for word in SMALL if not word.startswith("model")), *words, "trainer.batch_size=32"])
    assert run_job(job, quiet=True) == 0
    (path,) = (folder / "outputs" / "runs").glob("*/record.json")
    return job, json.loads(path.read_text())


def test_negative_transfer_is_reported_client_by_client(ran):
    _, record = ran
    arms = record["summary"]["arms"]
    stages = {stage["label"]: stage for stage in record["stages"]}
    gains = []
    for seed in (0, 1):
        ours, alone = (
            [client["test"]["best"]["accuracy"] for client in stages[f"{role}/seed={seed}"]["clients"]]
            for role in ("student", "alone")
        )
        gains.append([one - other for one, other in zip(ours, alone, strict=True)])
    delta = arms["student"]["gains"]["delta"]
    assert delta["avg"]["mean"] == pytest.approx(sum(map(sum, gains)) / 8)
    assert delta["worst"]["mean"] == pytest.approx(sum(map(min, gains)) / 2)
    assert arms["alone"]["gains"]["delta"]["avg"]["mean"] == 0
    assert [one["parts"] for one in arms["student"]["gains"]["left_out"]] == [
        ["client 1"],
        ["client 1"],
    ]  # of two seeds
    assert arms["alone"]["gains"]["bytes"] == {"up": 0, "down": 0, "private": None}
    assert 0 < arms["student"]["gains"]["bytes"]["up"] < arms["student"]["gains"]["bytes"]["private"]
    gate = arms["student"]["gains"]["gate"]
    assert 0 < gate["gate_corrupted"] < 1 and 0 < gate["gate_clean"] < 1
    table = panel.gains(record["summary"])
    assert table.row_count == 3


def test_a_table_reads_what_clients_gained(ran):
    _, record = ran
    told = record["summary"]["arms"]["student"]["gains"]
    for metric, value in {
        "clients_mean": told["delta"]["avg"]["mean"],
        "clients_worst": told["delta"]["worst"]["mean"],
        "clients_p10": told["delta"]["p10"]["mean"],
        "trust_flipped": told["gate"]["gate_corrupted"],
    }.items():
        assert measure(record, "student", metric).values["best"]["mean"] == value
    assert measure(record, "student", "sent").values["measured"]["mean"] == told["bytes"]["up"] + told["bytes"]["down"]
    assert not measure(record, "alone", "trust_clean").applies
    assert measure(record, "alone", "clients_mean").values["best"]["mean"] == 0


def test_the_second_time_everything_is_found_and_a_plan_says_so(ran):
    job, record = ran
    plan = make_plan(job)
    assert (
        plan["estimate"] | {"at_once": 1} == {"stages": 0, "seconds": 0, "at_once": 1, "elapsed": 0}
        and len(plan["stages"]) == 6
    )
    about = plan["stages"][0]["federation"]
    assert about["clients"] == 4 and sum(about["partition"]["samples"]) == 1146
    sent = record["summary"]["arms"]["student"]["gains"]["bytes"]
    assert about["bytes"] == pytest.approx(sent["up"] + sent["down"], rel=0.25)  # names and shapes travel too


def test_a_partition_that_cannot_be_is_told_by_the_plan(tmp_path):
    words = [*WORDS, "seed=0", "strategy.clients=60", "strategy.minimum=30", f"paths.outputs={tmp_path}"]
    with pytest.raises(UserError, match="clients=60"):
        make_plan(compose(words))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["strategy.method=fedprox", "strategy.options={muu: 0.1}"],
            r"strategy.options.muu: fedprox has no such option; closest: mu",
        ),
        (["strategy.method=fedproxy"], r"strategy.method=fedproxy; closest: fedprox"),
        (["strategy.backward_epochs=0", "strategy.forward_epochs=0"], "nothing would be learned"),
    ],
)
def test_mistakes_in_a_known_method_are_told_when_it_is_composed(words, message):
    with pytest.raises(UserError, match=message):
        compose(["strategy=federated", "model=clients_mixed", "seed=0", *words])
