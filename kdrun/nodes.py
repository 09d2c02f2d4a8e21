"""One job over several nodes (`hardware.nodes`): which of them this process stands for, by what srun, torchrun or a person says.

The same command is started once on each node. The first node runs the job; the others start ranks when it asks for them (learning.board).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdrun.problems import UserError

RANKS = (("SLURM_NODEID", "SLURM_NNODES"), ("GROUP_RANK", "GROUP_WORLD_SIZE"), ("NODE_RANK", "NNODES"))
"""Variables with the number of this node and with that of all nodes, of srun, of torchrun, and of whoever starts the commands by hand."""
SECOND = ("SLURM_LOCALID", "LOCAL_RANK")
"""Variables that are not 0 in a second process on a node."""
START = "srun --ntasks-per-node=1 kdrun ..., or NODE_RANK, MASTER_ADDR and MASTER_PORT for a command on each node"


@dataclass(frozen=True)
class Place:
    """The number of this node, 0 for the first; how many there are; what all of them call this launch; the address of the first."""

    rank: int
    count: int
    launch: str
    address: str

    @property
    def first(self) -> bool:
        return self.rank == 0


def world_of(hardware: Mapping[str, Any]) -> int:
    """Ranks over all nodes."""
    return hardware["devices"] * hardware.get("nodes", 1)


def place_of(hardware: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> Place | None:
    """Where this process stands; None for a job on one node. Raises UserError where nothing says it, or something else."""
    count = hardware.get("nodes", 1)
    if count == 1:
        return None
    names = next((names for names in RANKS if names[0] in environment), None)
    if names is None:
        raise UserError(f"hardware.nodes={count}: this command was not started on {count} nodes", START)
    if (all_nodes := int(environment.get(names[1], count))) != count:
        raise UserError(f"hardware.nodes={count}: {names[1]} says {all_nodes}", f"hardware.nodes={all_nodes}")
    if any(int(environment.get(name) or 0) for name in SECOND):
        raise UserError(
            f"hardware.nodes={count}: several commands on a node", "one each, which starts its own ranks: " + START
        )
    address, port = (environment.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
    if names == RANKS[0]:
        launch = f"slurm-{environment.get('SLURM_JOB_ID', '')}-{environment.get('SLURM_STEP_ID', '')}"
    elif address:
        launch = f"{address}-{port}-{environment.get('TORCHELASTIC_RUN_ID', '')}"
    else:
        raise UserError(f"hardware.nodes={count}: {names[0]} is there and MASTER_ADDR is not", START)
    return Place(
        int(environment[names[0]]), count, "".join(c if c.isalnum() or c in ".-" else "_" for c in launch), address
    )
