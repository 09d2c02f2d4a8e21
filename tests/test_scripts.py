"""The scripts that measure speed run; what they measure is not asserted."""

import sys
from pathlib import Path

import pytest
from forked import run

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.mark.parametrize(
    ("script", "printed"),
    [
        ("bench_core.py --repeats 1 --steps 7,7", "cached:"),
        ("bench_federated.py --repeats 1 --rounds 3 --cases mlp", "mlp"),
        ("bench_latency.py --repeats 1 --calls 20 --cases mlp", "onnxruntime"),
        (
            "bench_llava.py --repeats 1 --questions 96 --batch 8 --students llava_w16 --teachers llava_w64",
            "cached: llava_w16 taught by llava_w64",
        ),
        ("bench_startup.py --repeats 1", "--cfg job"),
        ("bench_sweep.py --part start --repeats 1", "start of a further job"),
        ("bench_translation.py --repeats 1 --sentences 5 --pairs 400", "beam:"),
        (
            "bench_vocabulary.py --repeats 1 --positions 8 --vocabulary 500 --widths 8 --losses ce+forward",
            "memory:",
        ),
    ],
)
def test_a_benchmark_runs(script, printed, tmp_path):
    name, *options = script.split()
    command = [sys.executable, str(SCRIPTS / name), *options]
    done = run(command, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert printed in done.stdout
