"""Every command of docs/teachers.md, in order, in an empty folder."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import kdrun
from kdrun.cli import main

PAGE = (Path(__file__).parent.parent / "docs" / "teachers.md").read_text()


def test_the_page_does_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shown = []
    for language, block in re.findall(r"```(sh|python)\n(.*?)```", PAGE, re.S):
        if language == "python":
            exec(block, {})
            continue
        for line in block.splitlines():
            command, *words = shlex.split(line)
            assert command == "kdrun"
            more = ["tracker=none", "card=false"] if words[0].startswith("strategy=") else []
            assert main([*words, *more]) == 0, capsys.readouterr().err
            shown.append(capsys.readouterr().out)
    assert len(shown) == 5
    assert "'teacher.normalize={mean: [0.5], std: [0.5]}'" in shown[1]
    assert "to use that" not in shown[2]
    views = list(map(kdrun.RunView.find, runs()))
    first, second, _ = (view.summary["teacher"]["best"] for view in views)
    assert second > first + 0.1
    assert [seen["samples"] for seen in views[2].summary["seen"].values()] == [200, 1146]
    assert list(tmp_path.glob("outputs/runs/*/exports/*/safetensors-fp32/config.json"))


def runs() -> list[str]:
    found = kdrun.runs(strategy="vanilla")
    rows = found.to_dict("records") if hasattr(found, "to_dict") else found
    return [row["id"] for row in rows][::-1]
