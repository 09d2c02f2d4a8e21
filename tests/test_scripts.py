"""The scripts that measure speed run; what they measure is not asserted."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.mark.parametrize(("script", "printed"), [("bench_core.py", "cached:"), ("bench_startup.py", "--cfg job")])
def test_a_benchmark_runs(script, printed, tmp_path):
    command = [sys.executable, str(SCRIPTS / script), "--repeats", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert printed in done.stdout
