"""ExecuTorch programs: .pte files for phones and boards, with XNNPACK as the backend."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdrun.hardware.exports.graphs import program
from kdrun.hardware.exports.sessions import import_executorch
from kdrun.problems import UserError

LARGEST = 32
"""Samples of a batch at most: ExecuTorch plans memory ahead."""


def write_executorch(
    module: nn.Module,
    inputs: Sequence[Tensor],
    path: Path,
    batches: Iterable[Sequence[Tensor]] | None = None,
) -> None:
    """Lower a network of one input [B, ...] to XNNPACK and write its program; batches of 1 to LARGEST.

    batches: training samples for int8 (PT2E quantisation, symmetric, a scale per channel of weights); None: float32.
    UserError for sequences, whose length ExecuTorch would need a bound for.
    """
    import_executorch("exir")
    if len(inputs) != 1:
        raise UserError("ExecuTorch plans its memory ahead, and sequences have no fixed length: format=onnx has them")
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    dynamic = ({0: torch.export.Dim("batch", min=1, max=LARGEST)},)
    # The largest batch: convolutions branch on the number of samples, and a program captured from a few has memory for a few.
    inputs = [torch.cat([one] * -(-LARGEST // len(one)))[:LARGEST] for one in inputs]
    graph = program(module, inputs, dynamic)
    if batches is not None:
        graph = program(_quantised(graph, batches), inputs, dynamic)
    lowered = to_edge_transform_and_lower(graph, partitioner=[XnnpackPartitioner()])
    path.write_bytes(lowered.to_executorch().buffer)


def _quantised(graph: Any, batches: Iterable[Sequence[Tensor]]) -> nn.Module:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    try:
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    except ImportError as error:
        raise UserError("int8 for ExecuTorch needs torchao: pip install torchao") from error
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(graph.module(), quantizer)
    with torch.no_grad():
        for batch in batches:
            prepared(*batch)
    return convert_pt2e(prepared)
