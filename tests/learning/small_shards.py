"""A network in whose processes caches are in shards of one block, each of which waits until two processes have one."""

import os
import time

from torch import nn

from kdrun.learning import shards
from kdrun.learning.cache import OutputCache

shards.SHARD_BYTES = 1
fill = OutputCache.fill


def noted(self, shard, *others):
    (self.folder / f"{shard.number}-{os.environ['RANK']}").touch()
    end = time.monotonic() + 60
    while len({path.name.partition("-")[2] for path in self.folder.glob("*-?")}) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    fill(self, shard, *others)


OutputCache.fill = noted


class Small(nn.Sequential):
    def __init__(self, num_classes: int):
        super().__init__(nn.Flatten(), nn.Linear(64, num_classes))
