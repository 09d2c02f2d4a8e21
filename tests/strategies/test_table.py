"""The page of strategies is what the script writes."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_is_fresh():
    done = subprocess.run([sys.executable, "scripts/make_strategy_table.py", "--check"], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_the_strategy_of_the_page_runs(tmp_path, capsys, monkeypatch):
    import json
    import re

    from kdrun.cli import main

    page = (ROOT / "docs" / "strategies.md").read_text()
    (module,) = re.findall(r"```python\n(# mylab.py.*?)```", page, re.S)
    option, allowed = re.findall(r"```yaml\n(.*?)```", page, re.S)
    (tmp_path / "conf" / "strategy").mkdir(parents=True)
    (tmp_path / "conf" / "strategy" / "labels_first.yaml").write_text(option.partition("\n")[2])
    (tmp_path / "conf" / "kdrun.yaml").write_text(allowed)
    (tmp_path / "mylab.py").write_text(module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    small = "seed=0 trainer.epochs=2 teacher=mlp_64 student=mlp_8 data.limit.train=200 hardware=cpu tracker=none card=false -q"
    assert main([*["--conf", "conf", "strategy=labels_first", "strategy.labels=1"], *small.split()]) == 0
    (record,) = tmp_path.glob("outputs/runs/*/record.json")
    roles = [stage["role"] for stage in json.loads(record.read_text())["stages"]]
    assert roles[:3] == ["teacher", "labels_first", "student"] and set(roles[3:]) == {"alone", "equal_compute"}
