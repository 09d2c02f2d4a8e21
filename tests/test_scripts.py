"""The scripts that measure speed run; what they measure is not asserted."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.mark.parametrize(
    ("script", "printed"),
    [
        ("bench_core.py --repeats 1", "cached:"),
        (
            "bench_llava.py --repeats 1 --questions 480 --students llava_w16 --teachers llava_w64",
            "cached: llava_w16 taught by llava_w64",
        ),
        ("bench_startup.py --repeats 1", "--cfg job"),
        ("bench_sweep.py --part start", "start of a further job"),
        ("bench_translation.py --repeats 1 --sentences 20 --pairs 400", "beam:"),
        (
            "bench_vocabulary.py --repeats 1 --positions 8 --vocabulary 500 --widths 8 --losses ce+forward",
            "memory:",
        ),
    ],
)
def test_a_benchmark_runs(script, printed, tmp_path):
    name, *options = script.split()
    command = [sys.executable, str(SCRIPTS / name), *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert printed in done.stdout
