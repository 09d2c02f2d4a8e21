"""Graphs of a bare network: ONNX by two exporters, and torch.export. Batches, and lengths of sequences, stay free."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdrun.problems import UserError

OPSET = 18
Axes = Mapping[str, dict[int, str]]
"""Input -> which of its axes may have any length, with their names (domains.spec.Spec.free_axes)."""


def traced(module: nn.Module, inputs: Sequence[Tensor], axes: Axes, path: Path) -> None:
    """ONNX by running the network once: quick, one file; a branch that depends on values is written as it went."""
    needs_onnx()
    dynamic = {
        **axes,
        "output": {0: "batch", **({1: "positions"} if len(axes) > 1 else {})},
    }
    with _exporting(module):
        torch.onnx.export(
            module, tuple(inputs), str(path), dynamo=False, input_names=list(axes), output_names=["output"],
            dynamic_axes=dynamic, opset_version=OPSET,
        )  # fmt: skip
    _strip(path)


def captured(module: nn.Module, inputs: Sequence[Tensor], axes: Axes, path: Path) -> None:
    """ONNX from a graph of torch.export: slow to make; lengths are symbols and branches on values are refused."""
    needs_onnx()
    with _exporting(module):
        torch.onnx.export(
            module, tuple(inputs), str(path), dynamo=True, input_names=list(axes), output_names=["output"],
            dynamic_shapes=_dynamic(axes), external_data=False, verbose=False,
        )  # fmt: skip
    _strip(path)


def exported(module: nn.Module, inputs: Sequence[Tensor], axes: Axes, path: Path) -> None:
    """A .pt2 file of torch.export."""
    graph = program(module, inputs, _dynamic(axes))
    for node in graph.graph.nodes:  # lines of source, with the folders of this machine
        node.meta.pop("stack_trace", None)
    torch.export.save(graph, path)


def program(module: nn.Module, inputs: Sequence[Tensor], dynamic: Any) -> torch.export.ExportedProgram:
    """The graph of the module as torch.export captures it."""
    with _exporting(module):
        return torch.export.export(module, tuple(inputs), dynamic_shapes=dynamic)


def onnx_writers(sequences: bool) -> dict[str, Callable[..., None]]:
    """Both exporters by name, the one to try first in front.

    Tracing is 20 times quicker and does for networks whose graph is the same for every input. Of sequences it would write down
    lengths and masks of one sample, so graphs of torch.export come first there; networks that look at values (as those that
    count image places do) cannot be captured so and are traced, which the comparison on other samples then has to bear out.
    """
    both = {"traced": traced, "captured": captured}
    return dict(reversed(both.items())) if sequences else both


def _strip(path: Path) -> None:
    """Take out what exporters write for people who look for mistakes: lines of source with the folders of this machine."""
    import onnx

    model = onnx.load(path)
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.initializer, *model.functions):
        for name in ("metadata_props", "doc_string"):
            if name in part.DESCRIPTOR.fields_by_name:
                part.ClearField(name)
    onnx.save(model, path)


def needs_onnx() -> None:
    """UserError where a package that writes ONNX is absent."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"ONNX needs onnx and onnxscript: pip install onnx onnxscript ({error})") from error


def _dynamic(axes: Axes) -> tuple[dict[int, Any], ...]:
    return tuple(dict.fromkeys(free, torch.export.Dim.DYNAMIC) for free in axes.values())


@contextlib.contextmanager
def _exporting(module: nn.Module) -> Iterator[None]:
    """Quiet, without gradients, and with networks that look at no values on the way.

    - Networks say is_causal=length > 1. While a graph is made that is no bool but a symbol or a tensor, which
      scaled_dot_product_attention refuses. It is taken as it is for the sample (whose length is above 1): over a single position a
      causal mask changes nothing.
    - A network may have a context manager `exporting()`, within which its own code does so.
    """
    own = functional.scaled_dot_product_attention

    def attention(*arguments: Any, is_causal: Any = False, **options: Any) -> Tensor:
        return own(*arguments, is_causal=bool(is_causal), **options)

    with contextlib.ExitStack() as changes:
        changes.enter_context(mock.patch.object(functional, "scaled_dot_product_attention", attention))
        for part in module.modules():
            if hasattr(part, "exporting"):
                changes.enter_context(part.exporting())
        changes.enter_context(contextlib.redirect_stdout(io.StringIO()))
        changes.enter_context(contextlib.redirect_stderr(io.StringIO()))
        changes.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        disabled = logging.root.manager.disable
        changes.callback(logging.disable, disabled)
        logging.disable(logging.CRITICAL)
        changes.enter_context(torch.no_grad())
        yield
