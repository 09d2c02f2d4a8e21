"""Clients as Flower apps: the same bits as in one process, whatever order answers come in, and nothing secret in any message."""

import json

import numpy as np
import pytest

pytest.importorskip("flwr")

from kdrun.federation.flower.calls import Answer, Call
from kdrun.federation.flower.records import answer_of, answer_records, call_of, call_records
from kdrun.federation.messages import Update
from kdrun.learning.firststep import NoEffect
from kdrun.learning.report import Interrupted
from kdrun.problems import UserError

from .flower_grid import grid_of, play_flower
from .plays import CNN, Silent, mlp, plain, play

MIXED = {
    "private": [mlp(16, dropout=0.3), CNN],
    "proxy": mlp(8),
    "clients": 3,
    "rounds": 3,
    "faults": {"flip": {1: 0.3}, "drop": {2: [1]}, "nan": [0]},
}
OPTIONS = {"energy_gated": {"options": {"statistics": "running"}}}
METHODS = ("energy_gated", "fedavg", "fedmd", "feddf", "clustered", "local")


def words(outcome):
    """The outcome as a record has it: keys in one order."""
    return json.loads(json.dumps(plain(outcome), sort_keys=True))


def same(one, other, work):
    """Everything that is said and left is the same."""
    assert words(one) == words(other)
    left = sorted(path.name for path in (work / "one").glob("*.safetensors"))
    assert left == sorted(path.name for path in (work / "other").glob("*.safetensors"))
    for name in [*left, "metrics.jsonl"]:
        assert (work / "one" / name).read_bytes() == (work / "other" / name).read_bytes(), name


@pytest.mark.parametrize("method", METHODS)
def test_a_federation_over_messages_ends_with_the_same_bits(method, tmp_path):
    options = {**MIXED, **OPTIONS.get(method, {}), "eval_every": 2}
    one, told = play(tmp_path / "one", method, **options), Silent()
    other = play_flower(tmp_path / "other", method, told, **options)
    same(one, other, tmp_path)
    assert "incidents" not in other and other["cost"]["cpu_seconds"] is None
    assert other["cost"]["flops"] == one["cost"]["flops"] and other["cost"]["steps"] == one["cost"]["steps"]


@pytest.mark.parametrize(
    ("method", "rare"), [("energy_gated", {}), ("fedavg", {"faults": {"scale": {0: -2.0}}, "participation": 0.7})]
)
def test_the_best_round_is_not_the_last(method, rare, tmp_path):
    options = {**MIXED, "rounds": 14, "faults": {}, **rare}
    one = play(tmp_path / "one", method, **options)
    assert one["val"]["epoch_best"] < 13 and one["test"]["best"] != one["test"]["last"]
    same(one, play_flower(tmp_path / "other", method, **options), tmp_path)


@pytest.mark.parametrize("method", ["energy_gated", "fedavg"])
def test_stopped_after_every_client_it_ends_with_the_same_bits(method, tmp_path):
    options = {**MIXED, **OPTIONS.get(method, {})}
    one = play(tmp_path / "one", method, **options)
    other, tries = None, 0
    while other is None and tries < 100:
        try:
            other = play_flower(tmp_path / "other", method, Silent(1), **options)
        except Interrupted:
            tries += 1
    assert tries >= 9  # three clients in each of three rounds
    same(one, other, tmp_path)


class Killed(Silent):
    """Ends a try at a moment when nothing has been saved for a while."""

    def __init__(self, after):
        super().__init__()
        self.after, self.calls = after, 0

    def advance(self, done, values=None):
        self.calls += 1
        if self.calls == self.after:
            raise RuntimeError("killed")

    epoch = rows = lambda self, *given: self.advance(0)


def test_killed_within_a_round_the_round_is_played_again(tmp_path):
    options = {**MIXED, **OPTIONS["energy_gated"], "participation": 0.7}
    one = play(tmp_path / "one", "energy_gated", **options)
    kills = 0
    for after in (2, 4, 6, 7, 3, 5, 5, 4, 8, 6, 6, 7, 9, 11, 13, 99):
        try:
            other = play_flower(tmp_path / "other", "energy_gated", Killed(after), **options)
            break
        except RuntimeError as error:
            assert "killed" in str(error)
            kills += 1
    assert kills > 4
    same(one, other, tmp_path)


def test_no_message_holds_anything_of_a_client_but_what_the_method_sends(tmp_path):
    for method in ("energy_gated", "fedmd", "clustered", "fedavg", "local"):
        look_into_every_message(method, tmp_path / method)


def look_into_every_message(method, work):
    from kdrun.federation.assemble import assemble

    from .plays import request, workshop

    # The private networks have a layer of the proxy's shape, so that a mix-up would not show by its shape alone.
    options = {"private": [mlp(8), mlp(8, 8)], "proxy": mlp(8), "shared": mlp(8), "clients": 2, "rounds": 2}
    grid = grid_of(work, method, **options)
    play_flower(work, method, grid=grid, **options)
    federation = assemble(request(work, method, **options), workshop(work / "cache"))
    secrets = set()
    for path in work.glob("**/*client-*/**/*.safetensors"):
        secrets |= tensors_of(path)
    for path in work.glob("client-*.safetensors"):
        secrets |= tensors_of(path)
    assert bool(secrets) == (method != "fedavg")
    targets = {tuple(s.targets.tolist()) for c in federation.clients for s in c.shards.values()}
    inputs = {
        row.numpy().tobytes()
        for client in federation.clients
        for shard in client.shards.values()
        for batch in shard.whole(1000)
        for row in batch["inputs"].flatten(1)
    }
    ids = {str(number) for client in federation.clients for number in client.train.ids.tolist() if number > 10**6}
    messages = [message.content for _, message in (*grid.down, *grid.up)]
    assert len(messages) > 8
    sent = 0
    for content in messages:
        assert set(content) <= {"call", "answer", "losses", "metrics", "arrays"}
        for record in content.array_records.values():
            for name, array in record.items():
                values, sent = array.numpy(), sent + 1
                if len(np.unique(values)) > 1:
                    assert values.tobytes() not in secrets, name
                assert tuple(values.ravel().tolist()) not in targets
                for row in values.reshape(len(values), -1) if values.ndim else ():
                    assert row.astype(np.float32).tobytes() not in inputs
        for record in content.metric_records.values():
            assert len(record) < 12 and all(isinstance(value, float) for value in record.values())
        for record in content.config_records.values():
            text = json.dumps(dict(record))
            assert len(text) < 3000 and "running" not in text and not any(number in text for number in ids)
            facts = json.loads(record.get("facts", "{}"))
            assert set(facts) <= {"client", "versions", "samples", "numbers"}
    assert bool(sent) == (method != "local")


def tensors_of(path):
    from safetensors.numpy import load_file

    return {array.tobytes() for array in load_file(path).values() if array.size > 1 and len(np.unique(array)) > 1}


def test_a_client_that_fails_dies_or_is_silent_is_left_out_and_the_run_goes_on(tmp_path, monkeypatch):
    from kdrun.federation.methods.energy_gated import EnergyGatedMethod

    work = EnergyGatedMethod.work

    def sometimes(self, client, broadcast):
        if client.number == 0 and broadcast.round == 1:
            raise ValueError("the label of sample 17 is 3")
        return work(self, client, broadcast)

    monkeypatch.setattr(EnergyGatedMethod, "work", sometimes)
    told = []
    report = Silent()
    report.note = told.append
    grid = grid_of(
        tmp_path,
        "energy_gated",
        timeout=1.5,
        **SMALL,
        broken=lambda call, number: number == 1 and call.what == "fit" and call.round == 1,
        silent=lambda call, number: number == 2 and call.what == "fit" and call.round == 2,
    )
    found = play_flower(tmp_path, "energy_gated", report, grid, timeout=1.5, **SMALL)
    assert [row["came"] for row in found["rounds"]] == [4, 2, 3]
    reasons = [client["left_out"] for client in found["clients"]]
    assert reasons == [
        [[1, "it failed: ValueError (errors.log in its folder says more)"]],
        [[1, "Flower says: ActorDiedError: the actor died"]],
        [[2, "no answer in 1.5 seconds"]],
        [],
    ]
    assert [entry[:2] for entry in found["incidents"]] == [[0, 1], [1, 1], [2, 2]]
    assert len(told) == 3 and "sample 17" not in json.dumps(found) + "".join(told)
    assert "the label of sample 17 is 3" in (tmp_path / "clients" / "client-00" / "errors.log").read_text()
    assert all(client["val"]["last"]["accuracy"] > 0 for client in found["clients"])


SMALL = {"clients": 4, "rounds": 3, "private": [mlp(8)], "proxy": mlp(4)}


def test_a_client_that_is_not_there_has_no_figures(tmp_path):
    options = {**SMALL, "rounds": 2}
    grid = grid_of(tmp_path, "fedavg", numbers=(0, 1, 3, 7, None), timeout=4.0, **options)
    report, told = Silent(), []
    report.note = told.append
    found = play_flower(tmp_path, "fedavg", report, grid, timeout=4.0, **options)
    missing = found["clients"][2]
    assert missing["left_out"][0] == [0, "it is not connected"] and np.isnan(missing["test"]["best"]["accuracy"])
    assert found["test"]["best"]["accuracy"] > 0 and [row["came"] for row in found["rounds"]] == [3, 3]
    assert any("partition-id is 7, clients are 0 to 3" in text for text in told)
    assert any("partition-id is None" in text for text in told)


def test_when_nobody_can_work_the_run_ends_where_it_can_go_on(tmp_path):
    grid = grid_of(tmp_path, "fedavg", **SMALL, broken=lambda call, number: call.what == "fit" and call.round == 1)
    with pytest.raises(RuntimeError, match="no client could work in round 1: Flower says: ActorDiedError"):
        play_flower(tmp_path, "fedavg", grid=grid, **SMALL)
    found = play_flower(tmp_path, "fedavg", **SMALL)
    calm = play(tmp_path / "calm", "fedavg", **SMALL)
    assert words(found) == words(calm)


def test_what_concerns_all_clients_ends_the_run(tmp_path, monkeypatch):
    from kdrun.federation.methods.shared import FedAvg

    def nothing(self, client, broadcast):
        raise NoEffect("the shared_labels term was 0")

    monkeypatch.setattr(FedAvg, "work", nothing)
    with pytest.raises(NoEffect, match="the shared_labels term was 0"):
        play_flower(tmp_path, "fedavg", **SMALL)

    def refused(self, client, broadcast):
        raise UserError("no data here", "kdrun fetch digits")

    monkeypatch.setattr(FedAvg, "work", refused)
    with pytest.raises(UserError) as error:
        play_flower(tmp_path / "other", "fedavg", **SMALL)
    assert error.value.lines == ["no data here", "kdrun fetch digits"]


def test_a_waiting_server_can_be_stopped(tmp_path):
    grid = grid_of(tmp_path, "fedavg", **SMALL, silent=lambda call, number: call.what == "fit" and call.round == 1)

    class Waiting(Silent):
        def stop_requested(self):
            self.asked += 1
            return self.asked > 3

    with pytest.raises(Interrupted):
        play_flower(tmp_path, "fedavg", Waiting(), grid, **SMALL)


def test_another_version_is_told(tmp_path, monkeypatch):
    from kdrun.federation.flower import client_app

    monkeypatch.setattr(client_app, "versions", lambda: {"kdrun": "0.0.1", "torch": "1.0", "numpy": "1.0"})
    report, told = Silent(), []
    report.note = told.append
    play_flower(tmp_path, "local", report, **{**SMALL, "clients": 2, "rounds": 1})
    assert len(told) == 2 and "client 0 has kdrun 0.0.1 (here " in told[0] + told[1]


def test_calls_and_answers_come_back_as_they_were():
    arrays = {"z": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array(5, np.int64), "e": np.zeros((0, 2))}
    call = call_of(call_records(Call("fit", "x" * 32, 2**61, 3, 2, 1, "val", "best", arrays)))
    plain_fields = (call.what, call.turn, call.round, call.best, call.saved, call.split, call.which)
    assert plain_fields == ("fit", 2**61, 3, 2, 1, "val", "best")
    assert list(call.arrays) == list(arrays)
    for name, array in arrays.items():
        assert call.arrays[name].tobytes() == array.tobytes() and call.arrays[name].dtype == array.dtype
        assert call.arrays[name].shape == array.shape
    facts = {"numbers": {"seconds": 0.1 + 0.2, "seen": {}}}
    answer = Answer(facts, Update(arrays, 7, {"loss": 1 / 3}), {"accuracy": float("nan")})
    found = answer_of(answer_records(answer))
    assert found.facts == facts and found.update.samples == 7 and found.update.metrics == {"loss": 1 / 3}
    assert np.isnan(found.metrics["accuracy"]) and found.failure is None and found.ended == ()
    other = answer_of(answer_records(Answer(failure="no", chance=True, ended=("UserError", "a", "b"))))
    assert other == Answer(None, None, None, "no", True, ("UserError", "a", "b"))
