"""The data of a stage as one part of its result has them: of a federation's clients each its own samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def data_of_part(module: Any, tree: dict[str, Any], seed: int, part: str | None) -> Any:
    """The data module of a part of a stage, from that of the whole stage. tree: the parts of its fingerprint."""
    if part is None or not tree.get("federation"):
        return module
    return ClientData(module, tree["federation"], seed, int(part.rpartition(" ")[2]))


class ClientData:
    """The data module of a federation as one client has it: its own samples of every split, shifted as its are.

    module      of all clients together
    federation  as the stage's fingerprint holds it; seed: of the stage; client: its number
    """

    def __init__(self, module: Any, federation: dict[str, Any], seed: int, client: int):
        from types import SimpleNamespace

        from kdrun.federation.assemble import Setting
        from kdrun.federation.request import FederationRequest

        # What a client holds is decided in one place, which asks for nothing else than the data here.
        request = FederationRequest("", "", Path(), federation, {}, {}, {"device": "cpu"}, seed)
        setting = Setting(request, SimpleNamespace(data=lambda config: module))
        self.spec, self.task, self._shards = module.spec, module.task, setting.shards(client)
        self.extra_tests: tuple[str, ...] = ()
        self.files_beside = module.files_beside

    def samples(self, split: str) -> ShardSamples:
        """Ids, targets and inputs of this client."""
        return ShardSamples(self._shards[split])


class ShardSamples:
    """A shard (federation.shards.Shard) as data.samples.Samples: unaugmented inputs by position."""

    def __init__(self, shard: Any):
        self.ids, self.targets, self._shard = shard.ids, shard.targets, shard

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, positions: Any) -> dict[str, Any]:
        """{"ids", "inputs" float32 [b, ...], "targets"} of the samples at these positions (int64 [b])."""
        import torch

        rows = torch.from_numpy(positions)
        return {"ids": self.ids[rows], "inputs": self._shard.drawn(rows, None), "targets": self.targets[rows]}
