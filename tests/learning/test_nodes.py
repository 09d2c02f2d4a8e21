"""A job over several nodes: here each is a process group that knows of the other by a folder and an address alone."""

import threading
import time
from contextlib import contextmanager

import pytest
from forked import stand_in

from kdrun.learning import board, workers
from kdrun.learning.report import Interrupted
from kdrun.learning.workers import RankFailed
from kdrun.nodes import Place, place_of, world_of
from kdrun.problems import UserError
from kdrun.slots import allowing
from kdrun.strategies.cast import Cast, supervised

from .stages import Silent, cell, make_lab

BY_HAND = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29999", "NODE_RANK": "0"}


@pytest.fixture
def forked_ranks(monkeypatch):
    monkeypatch.setattr(workers, "subprocess", stand_in())
    monkeypatch.setattr(board, "BEAT", 0.1)


@contextmanager
def second_node(hardware, paths):
    """Beside what is done in here; it yields the exit codes of the second node."""
    place, codes = place_of(hardware), []
    other = threading.Thread(
        target=lambda: codes.append(board.follow(Place(1, 2, place.launch, place.address), paths, stand_in()))
    )
    other.start()
    with board.led(hardware, paths):
        yield codes
    other.join(60)
    assert not other.is_alive()


@pytest.fixture
def by_hand(monkeypatch):
    for name, value in BY_HAND.items():
        monkeypatch.setenv(name, value)


def test_two_nodes_of_one_rank_say_what_two_ranks_of_one_node_say(tmp_path, forked_ranks, by_hand):
    together = make_lab(tmp_path / "ranks").get(supervised(Cast(cell("hardware.devices=2")).student))
    config, lab = cell("hardware.nodes=2"), make_lab(tmp_path / "nodes")
    place = place_of(config["hardware"])
    with second_node(config["hardware"], lab.paths) as codes:
        apart = lab.get(supervised(Cast(config).student))
    assert codes == [0] and list((board.folder_of(place, lab.paths)).glob("left-0-1.json"))
    assert apart.record["fingerprint"] == together.record["fingerprint"]  # where ranks run changes nothing
    assert (apart.record["val"], apart.record["test"]) == (together.record["val"], together.record["test"])


def test_a_rank_that_dies_on_the_second_node_ends_those_of_the_first(tmp_path, forked_ranks, by_hand):
    dying = "student.network={_target_: learning.dying.Dying, how: exit}"
    config, lab = cell("targets.learning=true", "hardware.nodes=2", "student=mlp_8", dying), make_lab(tmp_path)
    started = time.monotonic()
    with (
        allowing(["learning"]),
        second_node(config["hardware"], lab.paths) as codes,
        # Whichever is seen first: how it ended, or that it no longer answers.
        pytest.raises(RankFailed, match=r"rank 1 of 2 ended with exit code 9|rank 0 of 2: .*(reset|closed)"),
    ):
        lab.get(supervised(Cast(config).student))
    assert codes == [0] and time.monotonic() - started < 60


def test_a_stop_on_the_first_node_saves_the_state_of_both(tmp_path, forked_ranks, by_hand):
    config, one = cell("hardware.nodes=2", "trainer.epochs=6"), cell("hardware.devices=2", "trainer.epochs=6")
    unbroken = make_lab(tmp_path / "one").get(supervised(Cast(one).student))
    report = Silent()
    report.stop_requested = lambda: len(report.told) >= 4
    for lab, ended in ((make_lab(tmp_path / "two", report), False), (make_lab(tmp_path / "two"), True)):
        with second_node(config["hardware"], lab.paths):
            if ended:
                resumed = lab.get(supervised(Cast(config).student))
                continue
            with pytest.raises(Interrupted):
                lab.get(supervised(Cast(config).student))
    assert resumed.record["cost"]["tries"] == 2
    assert (resumed.record["val"], resumed.record["test"]) == (unbroken.record["val"], unbroken.record["test"])


def test_a_node_without_a_first_one_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(board, "COME", 0.3)
    with pytest.raises(UserError, match="the first node of this job did not come"):
        board.follow(Place(1, 2, "launch", "127.0.0.1"), {"outputs": str(tmp_path)})


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "was not started on 2 nodes"),
        ({"NODE_RANK": "1"}, "MASTER_ADDR is not"),
        ({"SLURM_NODEID": "0", "SLURM_NNODES": "3"}, "SLURM_NNODES says 3"),
        ({"GROUP_RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "a"}, "several commands on a node"),
    ],
)
def test_commands_that_were_started_otherwise_are_refused(environment, said):
    with pytest.raises(UserError, match=said):
        place_of({"nodes": 2, "devices": 1}, environment)


def test_nodes_are_known_by_what_srun_and_torchrun_say():
    hardware = {"nodes": 2, "devices": 4}
    slurm = {"SLURM_NODEID": "1", "SLURM_NNODES": "2", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_LOCALID": "0"}
    torchrun = {"GROUP_RANK": "0", "GROUP_WORLD_SIZE": "2", "MASTER_ADDR": "one", "MASTER_PORT": "9", "LOCAL_RANK": "0"}
    assert place_of(hardware, slurm) == Place(1, 2, "slurm-7-0", "")
    assert place_of(hardware, torchrun) == Place(0, 2, "one-9-", "one")
    assert place_of({"devices": 4}, slurm) is None and world_of(hardware) == 8
