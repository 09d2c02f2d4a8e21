"""A job over several nodes: here each is a process group that knows of the other by a folder and an address alone."""

import threading

import pytest
from forked import stand_in

from kdrun.learning import board, workers
from kdrun.nodes import Place, place_of, world_of
from kdrun.problems import UserError
from kdrun.strategies.cast import Cast, supervised

from .stages import cell, make_lab

BY_HAND = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29999", "NODE_RANK": "0"}


@pytest.fixture
def forked_ranks(monkeypatch):
    monkeypatch.setattr(workers, "subprocess", stand_in())
    monkeypatch.setattr(board, "BEAT", 0.1)


def test_two_nodes_of_one_rank_say_what_two_ranks_of_one_node_say(tmp_path, forked_ranks, monkeypatch):
    together = make_lab(tmp_path / "ranks").get(supervised(Cast(cell("hardware.devices=2")).student))
    for name, value in BY_HAND.items():
        monkeypatch.setenv(name, value)
    config, lab = cell("hardware.nodes=2"), make_lab(tmp_path / "nodes")
    place = place_of(config["hardware"])
    codes = []
    other = threading.Thread(
        target=lambda: codes.append(board.follow(Place(1, 2, place.launch, place.address), lab.paths, stand_in()))
    )
    other.start()
    with board.led(config["hardware"], lab.paths):
        apart = lab.get(supervised(Cast(config).student))
    other.join(60)
    assert codes == [0] and list((board.folder_of(place, lab.paths)).glob("left-0-1.json"))
    assert apart.record["fingerprint"] == together.record["fingerprint"]  # where ranks run changes nothing
    assert (apart.record["val"], apart.record["test"]) == (together.record["val"], together.record["test"])


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
