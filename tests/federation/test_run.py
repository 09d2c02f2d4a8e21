"""Whole federations on digits: what comes out, what is left behind, and going on after a stop at any client."""

import json
import os
import signal
import time

import pytest
import torch

from kdrun.federation.methods.options import METHODS
from kdrun.files import read_json, write_json
from kdrun.learning.report import Interrupted
from kdrun.networks.weights import load_state, read_metadata
from kdrun.problems import UserError

from .plays import CNN, SGD, Silent, mlp, plain, play

MIXED = {"private": [mlp(32), CNN], "proxy": mlp(8), "clients": 3}
FILES = {
    "private": {f"client-0{n}.{which}.safetensors" for n in range(3) for which in ("best", "last")},
    "proxy": {"best.safetensors", "last.safetensors"},
    "always": {"metrics.jsonl", "outcome.json"},
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_and_says_what_it_did(method, tmp_path):
    report = Silent()
    found = play(tmp_path, method, report, rounds=6, **MIXED)
    judged = "shared" if method in ("fedavg", "fedprox", "feddf") else "private"
    assert found["judged"] == judged and found["method"] == found["label"] == method
    assert found["test"]["best"]["accuracy"] > 0.5
    clients = found["clients"]
    for which in ("best", "last"):
        values = [client["test"][which]["accuracy"] for client in clients]
        assert found["test"][which]["accuracy"] == pytest.approx(sum(values) / 3)
        assert found["test"][which]["accuracy/worst"] == min(values) <= found["test"][which]["accuracy/p10"]
    best = max(found["history"], key=lambda row: row["accuracy"])
    assert found["val"]["epoch_best"] == best["epoch"] and found["val"]["best"]["accuracy"] == best["accuracy"]
    assert len(found["history"]) == len(found["rounds"]) == found["val"]["epochs"] == 6
    assert found["bytes"]["up"] == sum(client["bytes_up"] for client in clients)
    assert (found["bytes"]["up"] > 0) == (method != "local")
    if method in ("energy_gated", "fedkd"):
        assert found["bytes"]["up"] + found["bytes"]["down"] < found["bytes"]["private"]
    assert found["cost"]["flops"]["total"] > 0 and found["cost"]["steps"] > 0 and found["parameters"] > 0
    assert all(term["value"] > 0 and term["gradient"] > 0 for term in found["first_step"].values())
    left = {path.name for path in tmp_path.iterdir()} - {"federation", "cache"}
    travels = method not in ("local", "fedmd", "fedct", "comet", "clustered")
    assert left == FILES["always"] | (FILES["private"] if judged == "private" else set()) | (
        FILES["proxy"] if travels else set()
    )
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == report.told and [row["epoch"] for row in rows] == [0, 1, 2, 3, 4, 5, 5]
    assert rows[2]["val/accuracy"] == found["history"][2]["accuracy"]
    assert rows[-1]["test/accuracy_best"] == found["test"]["best"]["accuracy"]


def test_all_methods_divide_the_data_alike_and_spend_the_same_steps(tmp_path):
    found = {
        method: play(tmp_path / method, method, rounds=1) for method in ("local", "fedavg", "energy_gated", "fedmd")
    }
    samples = {method: [client["samples"] for client in one["clients"]] for method, one in found.items()}
    assert samples["local"] == samples["fedavg"] == samples["energy_gated"]
    for own, public in zip(samples["local"], samples["fedmd"], strict=True):
        assert public["test"] == own["test"] and public["train"] == own["train"] - int(0.1 * own["train"])
    steps = {method: one["cost"]["steps"] for method, one in found.items()}
    assert steps["local"] == steps["fedavg"] == steps["energy_gated"]


def test_the_best_round_is_what_is_tested_and_kept(tmp_path):
    # One thing in a few rounds goes wrong on purpose, so that the best round is not the last.
    found = play(tmp_path, "fedavg", rounds=5, faults={"scale": {"0": -3.0}}, eval_every=1)
    assert found["val"]["epoch_best"] < 4
    assert found["test"]["best"] != found["test"]["last"]
    best, last = load_state(tmp_path / "best.safetensors"), load_state(tmp_path / "last.safetensors")
    assert any(not torch.equal(best[name], last[name]) for name in best)
    assert read_metadata(tmp_path / "best.safetensors")["network"] == mlp(32)


def stopped_everywhere(work, method, stop_at=1, **options):
    """The same work, begun again and stopped at the first look at the signal, after one client, until it is through."""
    for tries in range(100):
        try:
            return play(work, method, Silent(stop_at), **options), tries
        except Interrupted:
            continue
    raise AssertionError("it never came to an end")


@pytest.mark.parametrize("method", METHODS)
def test_stopped_after_every_client_it_ends_with_the_same_bits(method, tmp_path):
    options = {
        **MIXED,
        "rounds": 3,
        "private": [mlp(16, dropout=0.3), CNN],
        "faults": {"flip": {1: 0.3}, "drop": {2: [1]}},
        "options": {"statistics": "running"} if method == "energy_gated" else {},
    }
    calm = play(tmp_path / "calm", method, **options)
    rough, tries = stopped_everywhere(tmp_path / "rough", method, **options)
    assert tries >= 9  # three clients in each of three rounds
    assert plain(rough) == plain(calm)
    for path in (tmp_path / "calm").glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "rough" / path.name).read_bytes(), path.name
    assert (tmp_path / "calm" / "metrics.jsonl").read_text() == (tmp_path / "rough" / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_killed_it_goes_on_from_what_was_written(tmp_path):
    options = {"rounds": 8, "clients": 3, "trainer": {"checkpoint_seconds": 0}}
    calm = play(tmp_path / "calm", "energy_gated", **options)
    kills = 0
    for number in range(40):
        child = os.fork()
        if child == 0:
            try:
                play(tmp_path / "rough", "energy_gated", **options)
                os._exit(0)
            except BaseException:
                os._exit(1)
        time.sleep(0.15 + 0.07 * number)
        if os.waitpid(child, os.WNOHANG)[0] == 0:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            kills += 1
        else:
            break
    assert kills > 0
    rough = json.loads((tmp_path / "rough" / "outcome.json").read_text())
    assert plain(rough) == json.loads(json.dumps(plain(calm)))
    tensors = list((tmp_path / "rough" / "federation").glob("*.safetensors"))
    manifest = json.loads((tmp_path / "rough" / "federation" / "state.json").read_text())
    assert {path.name for path in tensors} >= set(manifest["files"].values())


def test_the_state_of_another_stage_is_not_taken(tmp_path, caplog):
    with pytest.raises(Interrupted):
        play(tmp_path, "local", Silent(2))
    path = tmp_path / "federation" / "state.json"
    write_json(path, read_json(path) | {"identity": {"stage": "e" * 64}})
    assert plain(play(tmp_path, "local")) == plain(play(tmp_path / "calm", "local"))
    assert "belongs to" in caplog.text and "it starts again" in caplog.text


def test_faults_are_survived_and_recorded(tmp_path):
    faults = {"drop": {"0": [0]}, "nan": [1], "scale": {"2": 50.0}}
    found = play(tmp_path, "energy_gated", rounds=3, clients=4, faults=faults)
    assert [client["left_out"] for client in found["clients"]] == [
        [[0, "it dropped out"]],
        [[0, found["clients"][1]["left_out"][0][1]], *found["clients"][1]["left_out"][1:]],
        found["clients"][2]["left_out"],
        found["clients"][3]["left_out"],
    ]
    assert len(found["clients"][1]["left_out"]) == 3 and "not finite" in found["clients"][1]["left_out"][0][1]
    assert found["rounds"][0]["came"] == 2
    empty = play(tmp_path / "empty", "fedavg", rounds=2, faults={"nan": [0, 1, 2]})
    assert [row["came"] for row in empty["rounds"]] == [0, 0]


def test_wrong_labels_are_trusted_less(tmp_path):
    options = {
        "clients": 3,
        "rounds": 12,
        "partition": {"kind": "iid"},
        "faults": {"flip": {"0": 0.3}},
        "proxy": mlp(32),
    }
    found = play(tmp_path, "energy_gated", options={"temperature": 1.0}, **options)
    dirty, clean = found["clients"][0], found["clients"][1]
    assert dirty["gate_clean"] > dirty["gate_corrupted"] and clean["gate_corrupted"] is None
    assert 0 < dirty["gated"] < 1


def test_a_covariate_shift_changes_what_clients_see(tmp_path):
    one = play(tmp_path / "a", "local", rounds=1)
    other = play(tmp_path / "b", "local", rounds=1, shift={"strength": 1.0})
    assert one["clients"][1]["test"] != other["clients"][1]["test"]


def test_mistakes_are_told(tmp_path):
    for method, wrong, said in (
        ("fedavgg", {}, "closest: fedavg"),
        ("fedprox", {"options": {"nu": 1}}, "options.nu: fedprox has no such option"),
        ("energy_gated", {"options": {"gate": "logistics"}}, "closest: logistic"),
        ("energy_gated", {"options": {"temperature": 0}}, "above 0"),
        ("feddf", {"options": {"public": 1.0}}, "below 1"),
        ("local", {"trainer": {"monitor": "accurcy"}}, "closest: accuracy"),
        ("local", {"options": {"backward_epochs": 0, "forward_epochs": 0}}, "nothing would be learned"),
    ):
        with pytest.raises(UserError, match=said):
            play(tmp_path / method, method, **wrong)


@pytest.mark.parametrize("method", METHODS)
def test_numbers_are_predicted_too(method, tmp_path):
    data = {"_target_": "kdrun.domains.tabular.shipped.diabetes.diabetes", "name": "diabetes", "task": "regression"}
    trainer = {"monitor": "r2", "optimizer": {**SGD, "lr": 0.02}}
    if method in ("fedct", "comet", "clustered"):
        with pytest.raises(UserError, match="targets are numbers here"):
            play(tmp_path, method, data=data, trainer=trainer)
        return
    found = play(tmp_path, method, data=data, rounds=5, trainer=trainer, proxy=mlp(16))
    assert found["test"]["best"]["rmse"] < 90
    assert found["test"]["best"]["r2/worst"] <= found["test"]["best"]["r2"]
    if method == "energy_gated":
        assert 0.2 < found["clients"][0]["gate_clean"] < 0.8


def test_a_federation_that_ends_without_a_finite_loss_is_diverged_and_no_result(tmp_path):
    import kdrun

    words = [
        "strategy=federated",
        "strategy.method=feddf",
        "strategy.clients=2",
        "strategy.rounds=1",
        "strategy.partition=iid",
    ]
    words += ["strategy.controls=[]", "teacher=mlp_8", "student=mlp_8", "seed=0", "tracker=none", "card=false"]
    outputs = f"paths.outputs={tmp_path}/outputs"
    with pytest.raises(kdrun.RunFailed, match="no client has a finite loss"):
        kdrun.run(*words, "strategy.faults={scale: {0: 1e25}}", outputs)
    assert kdrun.RunView.find("last", tmp_path / "outputs").status == "diverged"
    assert not list((tmp_path / "outputs" / "store").glob("*/record.json"))
    assert kdrun.run(*words, "strategy.faults={scale: {0: 2.0}}", outputs).status == "done"


def test_both_gradients_of_a_sharpness_aware_step_are_in_the_cost(tmp_path):
    sharp = {
        "_target_": "kdrun.learning.sam.SAM",
        "lr": 0.05,
        "base": {"_target_": "torch.optim.SGD", "_partial_": True},
    }
    plain, twice = (
        play(tmp_path / name, "local", rounds=1, trainer={"optimizer": optimizer}, **MIXED)["cost"]
        for name, optimizer in (("plain", SGD), ("sharp", sharp))
    )
    assert twice["flops"]["student"] == 2 * plain["flops"]["student"] and twice["steps"] == plain["steps"]
    assert twice["flops"]["method"].endswith("is 6 of them")
