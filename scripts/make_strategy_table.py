"""Write docs/strategies.md from the strategies and their options; `--check` only says whether it is up to date.

python scripts/make_strategy_table.py [--check]
"""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import MISSING, fields
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from kdrun.strategies.base import Strategy  # noqa: E402
from kdrun.targets import locate  # noqa: E402

PAGE = ROOT / "docs" / "strategies.md"
HEAD = """\
# Strategies

Written by `scripts/make_strategy_table.py` from the code; do not edit.

`strategy=NAME` chooses which stages a run fits, in which order. `controls=[...]` adds arms to compare with; what arms are is below each.
"""
OWN = """\
## A strategy of your own

A dataclass with `run(lab, cast)` in a module of yours, named in `conf/strategy/mine.yaml` of your `--conf` folder (`_target_: mylab.Mine`, and
`targets.mylab=true`). Its fields are its options; `student_epochs` says what it spends on the student, for the arm `equal_compute`. See
[architecture](architecture.md).
"""


def page() -> str:
    """The whole page."""
    found = []
    for path in sorted((ROOT / "conf" / "strategy").glob("*.yaml")):
        text = path.read_text()
        found.append((path.stem, text.splitlines()[0].lstrip("# "), yaml.safe_load(text)))
    rows = []
    for name, summary, node in found:
        paper = " ".join(f"[{number}](https://arxiv.org/abs/{number})" for number in papers(locate(node["_target_"])))
        controls = ", ".join(f"`{one}`" for one in node["controls"]) or "-"
        rows.append(f"| [`{name}`](#{name}) | {summary} | {controls} | {paper or '-'} |")
    table = ["| strategy | what it is | controls by default | paper |", "| --- | --- | --- | --- |", *rows]
    return "\n".join([HEAD, *table, "", *(section(name, node) for name, _, node in found), OWN])


def papers(strategy: type[Strategy]) -> list[str]:
    """arXiv numbers that the module names."""
    return list(dict.fromkeys(re.findall(r"arXiv (\d{4}\.\d{5})", inspect.getsource(inspect.getmodule(strategy)))))


def section(name: str, node: dict) -> str:
    """Docstring, options and arms of one strategy."""
    strategy = locate(node["_target_"])
    lines = [f"## {name}", "", "```text", inspect.cleandoc(strategy.__doc__), "```", ""]
    options = []
    for item in fields(strategy):
        if item.name != "controls":
            default = item.default if item.default is not MISSING else None
            options.append(f"`strategy.{item.name}={said(default)}`")
    lines.append(f"Options with defaults: {', '.join(options) or 'none'}.")
    lines += ["", "| arm | what it is |", "| --- | --- |"]
    lines += [f"| `{arm}` | {text} |" for arm, text in strategy.arms.items()]
    return "\n".join([*lines, ""])


def said(default: object) -> str:
    """A default as it is typed."""
    return {None: "null", True: "true", False: "false"}.get(default, str(default))


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        fresh = PAGE.is_file() and PAGE.read_text() == page()
        if not fresh:
            print(f"{PAGE.relative_to(ROOT)} is stale: python scripts/make_strategy_table.py", file=sys.stderr)
        sys.exit(0 if fresh else 1)
    PAGE.write_text(page())
