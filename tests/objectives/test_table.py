"""docs/objectives.md is generated; this fails when a docstring or a config changed and the page did not."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "make_objective_table.py"


def test_the_page_is_fresh():
    done = subprocess.run([sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_stale_page_is_noticed(tmp_path):
    for folder in ("kdrun/objectives", "conf/objective", "scripts", "docs"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "scripts" / SCRIPT.name).write_text(SCRIPT.read_text())
    (tmp_path / "kdrun" / "objectives" / "x.py").write_text(
        '"""Summary."""\ndef x(a, *, b=1):\n    """arXiv 1503.02531"""\n'
    )
    (tmp_path / "conf" / "objective" / "x.yaml").write_text("x: {weight: 0.5}\n")
    command = [sys.executable, str(tmp_path / "scripts" / SCRIPT.name)]
    assert subprocess.run([*command, "--check"], capture_output=True, timeout=60).returncode == 1
    subprocess.run(command, check=True, timeout=60)
    assert subprocess.run([*command, "--check"], timeout=60).returncode == 0
    page = (tmp_path / "docs" / "objectives.md").read_text()
    assert "| [`x`](#x) | Summary | `a` | `b: 1` | [1503.02531]" in page and "`objective=x` (0.5)" in page
    (tmp_path / "conf" / "objective" / "x.yaml").write_text("x: {weight: 0.6}\n")
    assert subprocess.run([*command, "--check"], capture_output=True, timeout=60).returncode == 1


def test_every_objective_file_has_a_row_in_the_shared_test_of_losses():
    names = {path.stem for path in (ROOT / "kdrun" / "objectives").glob("*.py")} - {"__init__", "terms"}
    table = (ROOT / "tests" / "objectives" / "test_losses.py").read_text()
    assert all(f'Loss("{name}", {name},' in table for name in names)
    assert all(len(p.read_text().splitlines()) < 150 for n in names if (p := ROOT / f"kdrun/objectives/{n}.py"))
