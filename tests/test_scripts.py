"""The scripts that measure speed run; what they measure is not asserted."""

import sys
from pathlib import Path

import pytest
from forked import run

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "printed"),
    [
        ("bench_core.py --repeats 1 --steps 7,7", "cached:"),
        ("bench_federated.py --repeats 1 --rounds 3 --cases mlp", "mlp"),
        ("bench_language.py --repeats 1 --steps 6 --part step", "step: hand"),
        ("compare_losses.py", "nothing to compare with"),
        ("bench_latency.py --repeats 1 --calls 20 --cases mlp", "onnxruntime"),
        (
            "bench_llava.py --repeats 1 --questions 96 --batch 8 --students llava_w16 --teachers llava_w64",
            "cached: llava_w16 taught by llava_w64",
        ),
        ("bench_objectives.py --quick --names fitnet,simkd", "simkd  "),
        ("gpu_check.py --device cpu --quick --rows cached", "plain loop"),
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


def test_the_simulated_statistics_are_those_of_their_page(tmp_path):
    """Every row of the page, in its order, and figures that differ by no more than fewer comparisons explain."""
    import re

    def rows(text):
        found = re.findall(r"^\| ([^|]+) \| ([0-9.]+) \| ([0-9.]+) \| ([0-9.]+) \|$", text, re.M)
        return [(name, [float(value) for value in values]) for name, *values in found]

    done = run([sys.executable, str(SCRIPTS / "simulate_statistics.py"), "--quick"], folder=tmp_path)
    assert done.returncode == 0, done.stderr
    page = rows((SCRIPTS.parent / "docs" / "statistics.md").read_text())
    quick = rows(done.stdout)
    assert [name for name, _ in quick] == [name for name, _ in page] and len(page) == 22
    for (name, there), (_, here) in zip(page, quick, strict=True):
        assert here == pytest.approx(there, abs=8), name
    shares = dict(page)
    assert all(4 < share < 6 for share in shares["paired t"]) and shares["bootstrap over seeds (not used)"][0] > 30
    assert all(share < 6 for share in (*shares["two-level bootstrap"], *shares["Holm, any of 7"], *shares["Welch's t"]))
