"""Graphs of a bare network: ONNX by two exporters, and torch.export. Batches, and lengths of sequences, stay free."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdrun.problems import UserError

OPSET = 18
Axes = list[dict[int, str]]


def free_axes(names: Sequence[str]) -> Axes:
    """For each input which of its axes may have any length, with their names."""
    tokens = {"source": "source_length", "source_mask": "source_length", "target": "target_length"}
    tokens |= {"input_ids": "length", "attention_mask": "length"}
    pictures = ("image_features", "pixel_values")
    return [
        {0: "pictures" if name in pictures else "batch", **({1: tokens[name]} if name in tokens else {})}
        for name in names
    ]


def traced(module: nn.Module, inputs: Sequence[Tensor], names: Sequence[str], path: Path) -> None:
    """ONNX by running the network once: quick, one file; a branch that depends on values is written as it went."""
    needs_onnx()
    axes = free_axes(names)
    dynamic = {
        **dict(zip(names, axes, strict=True)),
        "output": {0: "batch", **({1: "positions"} if len(axes) > 1 else {})},
    }
    with _exporting():
        torch.onnx.export(
            module, tuple(inputs), str(path), dynamo=False, input_names=list(names), output_names=["output"],
            dynamic_axes=dynamic, opset_version=OPSET,
        )  # fmt: skip
    _strip(path)


def captured(module: nn.Module, inputs: Sequence[Tensor], names: Sequence[str], path: Path) -> None:
    """ONNX from a graph of torch.export: slow to make; lengths are symbols and branches on values are refused."""
    needs_onnx()
    with _exporting():
        torch.onnx.export(
            module, tuple(inputs), str(path), dynamo=True, input_names=list(names), output_names=["output"],
            dynamic_shapes=_dynamic(names), external_data=False, verbose=False,
        )  # fmt: skip
    _strip(path)


def exported(module: nn.Module, inputs: Sequence[Tensor], names: Sequence[str], path: Path) -> None:
    """A .pt2 file of torch.export."""
    graph = program(module, inputs, _dynamic(names))
    for node in graph.graph.nodes:  # lines of source, with the folders of this machine
        node.meta.pop("stack_trace", None)
    torch.export.save(graph, path)


def program(module: nn.Module, inputs: Sequence[Tensor], dynamic: Any) -> torch.export.ExportedProgram:
    """The graph of the module as torch.export captures it."""
    with _exporting():
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
    for part in (
        model,
        model.graph,
        *model.graph.node,
        *model.graph.value_info,
        *model.graph.initializer,
        *model.functions,
    ):
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


def _dynamic(names: Sequence[str]) -> tuple[dict[int, Any], ...]:
    return tuple(dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for axes in free_axes(names))


@contextlib.contextmanager
def _exporting() -> Iterator[None]:
    """Quiet, without gradients, and with networks that look at no values on the way.

    - Networks say is_causal=length > 1. While a graph is made that is no bool but a symbol or a tensor, which
      scaled_dot_product_attention refuses. It is taken as it is for the sample (whose length is above 1): over a single position a
      causal mask changes nothing.
    - LLaVA counts image places, to tell a mistake, and leaves the mask out where padding is on the right, to be faster. A graph
      takes any padding, and its caller answers for the places.
    """
    own = functional.scaled_dot_product_attention

    def attention(*arguments: Any, is_causal: Any = False, **options: Any) -> Tensor:
        return own(*arguments, is_causal=bool(is_causal), **options)

    with contextlib.ExitStack() as changes:
        changes.enter_context(mock.patch.object(functional, "scaled_dot_product_attention", attention))
        if llava := sys.modules.get("kdrun.domains.vision_language.networks.llava"):
            masked = mock.patch.object(llava, "_attention", lambda mask: (mask.bool(), llava._positions(mask.bool())))
            changes.enter_context(masked)
            unchecked = mock.patch.object(llava.LlavaNetwork, "_check_places", lambda *places: None)
            changes.enter_context(unchecked)
        changes.enter_context(contextlib.redirect_stdout(io.StringIO()))
        changes.enter_context(contextlib.redirect_stderr(io.StringIO()))
        changes.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        disabled = logging.root.manager.disable
        changes.callback(logging.disable, disabled)
        logging.disable(logging.CRITICAL)
        changes.enter_context(torch.no_grad())
        yield
