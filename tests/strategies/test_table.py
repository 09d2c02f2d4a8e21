"""The page of strategies is what the script writes."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_is_fresh():
    done = subprocess.run([sys.executable, "scripts/make_strategy_table.py", "--check"], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr
