"""Static quantisation of an ONNX file to 8-bit whole numbers, with ranges from training samples. No torch here."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdrun.hardware.exports.sessions import import_onnxruntime

PRODUCTS = ["MatMul", "Gemm", "Conv"]


def quantise(
    source: Path,
    path: Path,
    names: Sequence[str],
    batches: Iterable[Sequence[np.ndarray]],
    products_only: bool = False,
) -> None:
    """Write the network of `source` with weights and activations in int8, as pairs of quantise and dequantise nodes (QDQ).

    names          of the inputs, in the order of the arrays of a batch
    batches        the samples whose activations give the ranges: largest and smallest value of each tensor
    products_only  only products with weights: attention stays in float32, whose masks add numbers so large that nothing else
                   would be left of a range of 256 steps
    Weights have a scale per output channel and are symmetric around 0; activations have a scale and a zero point per tensor.
    """
    import_onnxruntime()
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class CalibrationReader(CalibrationDataReader):
        def __init__(self, used: set[str]) -> None:
            self._batches: Iterator[Any] = iter(batches)
            self._used = used

        def get_next(self) -> dict[str, np.ndarray] | None:
            arrays = next(self._batches, None)
            if arrays is None:
                return None
            return {name: array for name, array in zip(names, arrays, strict=True) if name in self._used}

    prepared = path.with_name(f".prepared.{path.name}")
    with _quiet():
        try:
            # Folds constants and batch norms, so that what is quantised is what will run.
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            start = prepared
        except Exception:  # shapes that onnx cannot infer; the network is quantised as it is
            start = source
        try:
            quantize_static(
                str(start),
                str(path),
                CalibrationReader(_inputs(start)),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                op_types_to_quantize=PRODUCTS if products_only else None,
                extra_options={
                    "ActivationSymmetric": False,
                    "WeightSymmetric": True,
                    "MatMulConstBOnly": products_only,
                },
            )
        finally:
            prepared.unlink(missing_ok=True)


def fold(path: Path) -> None:
    """What depends on weights alone is worked out, in place: weights that are rounded in the graph lie in the file as int8."""
    runtime = import_onnxruntime()
    folded = path.with_name(f".folded.{path.name}")
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC  # nothing of this machine's own
    options.optimized_model_filepath = str(folded)
    options.log_severity_level = 3
    runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    folded.replace(path)


def _inputs(path: Path) -> set[str]:
    import onnx

    return {one.name for one in onnx.load(path, load_external_data=False).graph.input}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice that the quantiser writes to the log, and the traceback where shapes cannot be inferred."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
