"""Start-up of kdrun's light commands against `python -c "import hydra"`, interleaved in one run; medians.

python scripts/bench_startup.py [--repeats 7]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time

COMMANDS = {
    "import hydra": ["-c", "import hydra"],
    "--help": ["-m", "kdrun", "--help"],
    "ls": ["-m", "kdrun", "ls"],
    "completion of one word": ["-m", "kdrun", "__complete", "strategy=va"],
    "a typo": ["-m", "kdrun", "strategyy=vanilla"],
    "--cfg job": ["-m", "kdrun", "--cfg", "job"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats + 1):
            for name, words in COMMANDS.items():
                started = time.perf_counter()
                subprocess.run([sys.executable, *words], cwd=folder, capture_output=True)
                times[name].append(time.perf_counter() - started)
    base = statistics.median(times["import hydra"][1:])
    for name, values in times.items():
        median = statistics.median(values[1:])  # the first round warms the disk
        print(f"{name:<24} {1e3 * median:7.1f} ms   {median / base:5.2f}")


if __name__ == "__main__":
    main()
