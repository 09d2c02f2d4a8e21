from __future__ import annotations

import json

import pytest
from tracking.support import begin, make_job

import kdrun.verbs.sync
from kdrun.cli import main
from kdrun.tracking.sync import FAILED, NOTHING, SENT, Outcome


@pytest.fixture
def three(tmp_path, monkeypatch):
    """Three runs of which the second cannot be sent and the third has nothing; the order they were asked in."""
    ids, asked = [], []
    for letters in ("1a", "2b", "3c"):
        run = begin(tmp_path, make_job(letters * 32))
        run.finish()
        run.close()
        ids.append(run.id)
    outcomes = {
        ids[0]: Outcome(ids[0], SENT, 2),
        ids[1]: Outcome(ids[1], FAILED, 0, "network is down"),
        ids[2]: Outcome(ids[2], NOTHING),
    }
    monkeypatch.setattr(kdrun.verbs.sync, "sync_run", lambda run: asked.append(run.id) or outcomes[run.id])
    return tmp_path, ids, asked


@pytest.mark.parametrize("words", [[], ["all"]])
def test_all_runs_oldest_first_and_a_failure_does_not_stop_the_rest(three, capsys, words):
    outputs, ids, asked = three
    assert main(["sync", *words, "--outputs", str(outputs)]) == 1
    out, err = capsys.readouterr()
    assert asked == ids
    assert f"{ids[0]}: sent (2 folders)" in out and "3 runs: 1 sent, 1 failed" in out
    assert err == f"{ids[1]}: failed: network is down\n"


def test_chosen_runs_each_get_an_answer(three, capsys):
    outputs, ids, asked = three
    assert main(["sync", ids[2], ids[0], "--outputs", str(outputs)]) == 0
    assert asked == [ids[2], ids[0]]
    assert capsys.readouterr().out.splitlines() == [f"{ids[2]}: nothing to send", f"{ids[0]}: sent (2 folders)"]


def test_json(three, capsys):
    outputs, _, _ = three
    assert main(["sync", "--json", "--outputs", str(outputs)]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert [row["status"] for row in rows] == [SENT, FAILED, NOTHING] and rows[1]["problem"] == "network is down"


def test_without_a_key_the_first_answer_is_enough(three, capsys, monkeypatch):
    outputs, ids, asked = three
    refused = Outcome("x", FAILED, 0, "Error: No API key configured. Use `wandb login` to log in.")
    monkeypatch.setattr(kdrun.verbs.sync, "sync_run", lambda run: asked.append(run.id) or refused)
    assert main(["sync", "--outputs", str(outputs)]) == 1
    assert asked == ids[:1] and "wandb login" in capsys.readouterr().err


def test_an_unknown_run_sends_nothing(three, capsys):
    outputs, ids, asked = three
    assert main(["sync", ids[0], "nothing", "--outputs", str(outputs)]) == 2
    assert asked == []
