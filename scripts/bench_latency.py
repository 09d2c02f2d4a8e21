"""kdrun's p50 against torch.utils.benchmark, and against a bare loop over ONNX Runtime, on the same networks.

    python scripts/bench_latency.py [--repeats 7] [--calls 500] [--cases mlp,resnet8]

The contenders alternate in blocks within one process, so that both see the same machine; each block's p50 is one measurement,
and the figure is the median over blocks of kdrun's p50 divided by the other's. Aim: within 5 % of 1.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch.utils import benchmark

from kdrun.domains.images.spec import DataSpec
from kdrun.hardware.exports import graphs
from kdrun.hardware.exports.measure import latency
from kdrun.hardware.exports.sessions import OnnxSession, TorchSession
from kdrun.networks.build import build_network

SPECS = {
    "mlp": ({"_target_": "kdrun.networks.mlp.MLP", "hidden": [128]}, (1, 8, 8)),
    "resnet8": ({"_target_": "kdrun.networks.resnet.ResNet", "depth": 8, "width": 8}, (1, 8, 8)),
    "resnet20": ({"_target_": "kdrun.networks.resnet.ResNet", "depth": 20, "width": 16}, (3, 32, 32)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="blocks of each contender")
    parser.add_argument("--calls", type=int, default=500, help="timed calls of a block")
    parser.add_argument("--cases", default=",".join(SPECS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for case in options.cases.split(","):
        node, shape = SPECS[case]
        spec = DataSpec("bench", tuple(map(str, range(10))), shape, {}, (0.0,) * shape[0], (1.0,) * shape[0])
        network = build_network(node, spec, seed=0).eval()
        array = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
        told(case, "torch", *compare(TorchSession(network), lambda n=network, a=array: torch_p50(n, a, options.calls),
                                     array, options))  # fmt: skip
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            batch = torch.from_numpy(array).repeat(2, *[1] * len(shape))
            graphs.traced(network, (batch,), {"images": {0: "batch"}}, path)
            told(case, "onnxruntime", *compare(OnnxSession(path, ["images"]), lambda p=path, a=array: bare_p50(p, a, options.calls),
                                               array, options))  # fmt: skip


def compare(session, other, array: np.ndarray, options) -> tuple[list[float], list[float]]:
    """p50 in ms of kdrun's measurement and of the other, block by block, the order alternating."""
    ours, theirs = [], []
    for block in range(options.repeats):
        order = [(ours, lambda: latency(session, [array], calls=options.calls)["p50_ms"]), (theirs, other)]
        for found, measure in order if block % 2 else reversed(order):
            found.append(measure())
    return ours, theirs


def torch_p50(network: torch.nn.Module, array: np.ndarray, calls: int) -> float:
    """Median ms by torch.utils.benchmark, over single calls: of more it gives a mean, and on a machine that others use too the mean
    of ten short calls is mostly the time for which they were made to wait."""
    timer = benchmark.Timer(
        "network(inputs)",
        "network(inputs)",
        globals={"network": torch.inference_mode()(network), "inputs": torch.from_numpy(array)},
        num_threads=1,
    )
    timer.timeit(50)
    times = [timer.timeit(1).mean for _ in range(calls)]
    return 1e3 * statistics.median(times)


def bare_p50(path: Path, array: np.ndarray, calls: int) -> float:
    """Median ms of a loop that does nothing but call InferenceSession.run."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    feed, times = {"images": array}, []
    for _ in range(50):
        session.run(["output"], feed)
    for _ in range(calls):
        start = time.perf_counter()
        session.run(["output"], feed)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def told(case: str, runtime: str, ours: list[float], theirs: list[float]) -> None:
    ratios = sorted(one / other for one, other in zip(ours, theirs, strict=True))
    print(
        f"{case:9} {runtime:12} kdrun p50 {statistics.median(ours):.4f} ms, the other {statistics.median(theirs):.4f} ms, "
        f"ratio {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}, {len(ratios)} blocks)"
    )


if __name__ == "__main__":
    main()
