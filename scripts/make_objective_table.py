"""Writes docs/objectives.md: one row and one section per objective, from its docstring, signature and shipped options.

    python scripts/make_objective_table.py           writes the file
    python scripts/make_objective_table.py --check   exit code 1 where the file is not what would be written

Reads source and YAML only; nothing is imported from kdrun.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "objectives.md"
HEAD = """\
# Objectives

Written by `scripts/make_objective_table.py` from the docstrings; do not edit.

An objective is a weighted sum of terms, `objective.NAME.weight` times the mean of the term over all valid positions.
A term with weight 0 is not evaluated. Records hold the raw means, so that runs with other weights can be compared.
Terms over image slots or pictures have their mean over those, and are left out of a batch without any.
How the terms whose names begin with `vocabulary_` do without logits: [vocabulary-losses.md](vocabulary-losses.md).
"""
OVER = {"mask": "valid positions", "visual_mask": "image slots", "images": "samples with a picture"}
OWN = """\
## A term of your own

A function with the same two kinds of parameters, named in a config below your `--conf` folder
(`conf/objective/mine.yaml`), is a term like the shipped ones:

```yaml
# soft and hard labels, and my own comparison
ce: {weight: 0.1}
mine:
  _target_: mylab.losses.mine   # def mine(student_logits, teacher_logits, *, margin=1.0): ... one value per position
  weight: 0.9
  margin: 0.5
```

with `targets.mylab=true` to allow the package. Tensors are taken by parameter name from what the task gives
(`student_logits`, `teacher_logits`, `targets`); keyword-only parameters are options. Where positions do not look at each
other, `mine.pointwise = True` below the function says so: padding is then left out before it is computed.
`mine.over = "visual_mask"` makes it a term over image slots, `mine.over = "images"` one with a value per sample.
"""


def page() -> str:
    terms = [term for path in sorted((ROOT / "kdrun" / "objectives").glob("*.py")) if (term := read(path))]
    rows = [
        f"| [`{term['name']}`](#{term['name']}) | {term['summary']} | {', '.join(f'`{t}`' for t in term['tensors'])} "
        f"| {', '.join(f'`{o}`' for o in term['options']) or 'none'} | {paper(term['docstring'])} | {term['over']} "
        f"| {term['used']} |"
        for term in terms
    ]
    table = [
        "| term | what it is | tensors | options with defaults | paper | mean over | shipped in |",
        "|" + " --- |" * 7,
        *rows,
    ]
    sections = [f"## {term['name']}\n\n```text\n{term['docstring']}\n```\n" for term in terms]
    return "\n".join([HEAD, *table, "", *sections, OWN])


def read(path: Path) -> dict[str, Any] | None:
    """What a file says of the function that has its name; None for a file without one."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    function = next((n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == path.stem), None)
    if function is None:
        return None
    given = function.args
    options = [
        f"{argument.arg}: {ast.unparse(default)}" if default is not None else argument.arg
        for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)
    ]
    summary = (ast.get_docstring(tree) or "").splitlines()[0]
    return {
        "name": path.stem,
        "summary": summary.rstrip("."),
        "tensors": [argument.arg for argument in given.args],
        "options": options,
        "docstring": textwrap.dedent(ast.get_docstring(function) or ""),
        "over": over(tree, path.stem),
        "used": used(path.stem),
    }


def over(tree: ast.Module, name: str) -> str:
    """What a term has its mean over: what `NAME.over = "..."` says in its file, else positions with a label."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == f"{name}.over":
            return OVER[ast.literal_eval(node.value)]
    return OVER["mask"]


def paper(docstring: str) -> str:
    """Links to the arXiv numbers a docstring names."""
    numbers = dict.fromkeys(re.findall(r"arXiv (\d{4}\.\d{4,5})", docstring))
    return ", ".join(f"[{number}](https://arxiv.org/abs/{number})" for number in numbers) or "-"


def used(name: str) -> str:
    """The shipped objectives that have this term, with its weight."""
    found = []
    for path in sorted((ROOT / "conf" / "objective").glob("*.yaml")):
        node = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get(name)
        if node is not None:
            found.append(f"`objective={path.stem}` ({node['weight']})")
    return ", ".join(found) or "-"


def main(arguments: list[str]) -> int:
    text = page()
    if "--check" in arguments:
        fresh = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
        if not fresh:
            print(f"{PAGE.relative_to(ROOT)} is stale: python scripts/make_objective_table.py", file=sys.stderr)
        return 0 if fresh else 1
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
