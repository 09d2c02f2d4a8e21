"""The page of strategies is what the script writes."""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_is_fresh():
    done = subprocess.run([sys.executable, "scripts/make_strategy_table.py", "--check"], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_the_strategy_of_the_page_runs(tmp_path, capsys, monkeypatch):
    from kdrun.cli import main

    page = (ROOT / "docs" / "strategies.md").read_text()
    (module,) = re.findall(r"```python\n(# mylab.py.*?)```", page, re.S)
    option, allowed = re.findall(r"```yaml\n(.*?)```", page, re.S)
    (tmp_path / "conf" / "strategy").mkdir(parents=True)
    (tmp_path / "conf" / "strategy" / "better_of_two.yaml").write_text(option.partition("\n")[2])
    (tmp_path / "conf" / "kdrun.yaml").write_text(allowed)
    (tmp_path / "mylab.py").write_text(module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    small = [
        "seeds=2",
        "model=mlp_ladder",
        "trainer.epochs=1",
        "data.limit.train=200",
        "hardware=cpu",
        "tracker=none",
        "card=false",
    ]
    words = ["--conf", "conf", "strategy=better_of_two", "strategy.epochs=2", *small]
    assert main(["plan", *words]) == 0
    page = read(capsys)
    assert "better teacher: the best of" in page and "on validation, not known yet" in page
    assert main([*words, "-q"]) == 0
    (record,) = (json.loads(path.read_text()) for path in tmp_path.glob("outputs/runs/*/record.json"))
    roles = [stage["role"] for stage in record["stages"]]
    assert {*roles[:3]} == {"mlp_64", "mlp_256", "teacher"} and roles[3] == "student"
    summary, chosen = record["summary"], {}
    for decision in summary["decisions"]:
        values = decision["values"]
        assert decision["chosen"] == max(values, key=values.get) and decision["split"] == "val"
        chosen[decision["seed"]] = decision["chosen"]
    assert summary["compared_with"] == "equal_compute" and "gap_closed" in summary, (
        "it decides, and is one network all the same"
    )
    capsys.readouterr()
    assert main(["show"]) == 0
    page = read(capsys)
    assert "last epoch" in page and "better teacher" in page and "decisions, all on validation" in page
    assert main(["report"]) == 0 and main(["gc", "--json"]) == 0
    (html,) = tmp_path.glob("outputs/runs/*/report.html")
    assert "better teacher" in html.read_text()


def read(capsys):
    return " ".join(re.sub("[│╭╮╰╯─├└]", " ", capsys.readouterr().out).split())
