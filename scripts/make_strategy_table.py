"""Write docs/strategies.md from the strategies and their options; `--check` only says whether it is up to date.

python scripts/make_strategy_table.py [--check]
"""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
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
OWN = '''\
## A strategy of your own

A frozen dataclass with `run`; its fields are its options. Put the module beside your `conf` folder:

```python
# mylab.py
from dataclasses import dataclass

from kdrun.lab.lab import Lab
from kdrun.lab.stages.base import Result
from kdrun.strategies.base import Strategy
from kdrun.strategies.cast import Cast, distil, supervised


@dataclass(frozen=True)
class BetterOfTwo(Strategy):
    """The teacher and the assistants are trained; the one that is best on validation teaches the student."""

    epochs: int | None = None

    def run(self, lab: Lab, cast: Cast) -> Result:
        teachers = {learner.role: lab.get(supervised(learner)) for learner in cast.teachers()}
        better = lab.choose("better teacher", teachers)
        return lab.get(distil(cast.student, teachers[better], epochs=self.student_epochs(cast)))

    def student_epochs(self, cast: Cast) -> int:
        return self.epochs or cast.student.trainer["epochs"]
```

```yaml
# conf/strategy/better_of_two.yaml
# the first line says what it is, for `kdrun ls strategy`
_target_: mylab.BetterOfTwo
controls: [alone, equal_compute]
epochs: null
```

```yaml
# conf/kdrun.yaml: which modules of yours may be called
targets: {mylab: true}
```

```sh
kdrun --conf conf strategy=better_of_two model=mlp_ladder
```

A strategy that spends more on the student than `trainer.epochs` says so in `student_epochs` and has `equal_compute` among its controls: a
verdict is over the control with as many optimisation steps, and arms with fewer are named so ("student alone, a third of the steps").

`run` is called once for each seed. It asks for stages and returns the last one; it sees validation (`Result.metrics`), never test. `kdrun plan` calls
it as well, with a lab that fits nothing: decide through `lab.choose`, or by what the config says. What was chosen, by which metric, and from which
values is in the record, in `kdrun show` and on the page of the run. A stage is made by `supervised` or `distil`, with the learner's first phase where the
config has one, and asked for with `lab.get(...)`, which finds it in the store or runs it. Several finished results of the same samples are one with
`lab.get(Combine(...))`, whose parts every command shows, exports and loads; `generate` makes the stage of training targets of a trained network. What it is
made of:
'''
PARTS = (
    ("kdrun.strategies.cast", ("supervised", "distil", "generate")),
    (
        "kdrun.strategies.cast",
        ("Cast.teacher", "Cast.student", "Cast.assistants", "Cast.teachers", "Learner.trainer", "Learner.seed"),
    ),
    ("kdrun.lab.lab", ("Lab.get", "Lab.choose", "Lab.parameters")),
    ("kdrun.lab.stages.base", ("Result.metrics", "Result.parts", "Result.weights", "Result.record")),
    (
        "kdrun.strategies.base",
        ("Strategy.run", "Strategy.check", "Strategy.label", "Strategy.student_epochs", "Strategy.control"),
    ),
)
"""Module -> what a strategy uses of it."""
FIELDS = {
    "Learner.trainer": "The trainer group with the learner's own overrides on top.",
    "Learner.seed": "Of weights and data order.",
    "Result.record": "What the stage recorded: sizes, history, cost; its `test` is for reading afterwards.",
}


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
    return "\n".join([HEAD, *table, "", *(section(name, node) for name, _, node in found), OWN, *parts()])


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


def parts() -> list[str]:
    """A row for each function, method and attribute of PARTS: where it is imported from, its signature, what it does."""
    lines = ["| import from | call | what it does |", "| --- | --- | --- |"]
    for module, names in PARTS:
        for name in names:
            thing: object = import_module(module)
            for part in name.split("."):
                fields_of = {item.name: item for item in fields(thing)} if is_dataclass(thing) else {}
                thing = getattr(thing, part, fields_of.get(part))
            if callable(thing):
                call, text = f"{name}{inspect.signature(thing)}", inspect.getdoc(thing)
                call = call.replace("'", "").replace("(self, ", "(").replace("(self)", "()")
            elif isinstance(thing, property):
                returns = inspect.signature(thing.fget).return_annotation
                call, text = f"{name}: {returns}", inspect.getdoc(thing)
            else:
                call, text = f"{name}: {thing.type}", FIELDS[name]
            first = " ".join((text or "").partition("\n\n")[0].split())
            call, first = (value.replace("|", "\\|") for value in (call, first))
            lines.append(f"| `{module}` | `{call}` | {first} |")
    return [*lines, "", "More on stages, labs and fingerprints: [architecture](architecture.md).", ""]


def said(default: object) -> str:
    """A default as it is typed."""
    return (
        {None: "null", True: "true", False: "false"}[default]
        if default is None or isinstance(default, bool)
        else str(default)
    )


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        fresh = PAGE.is_file() and PAGE.read_text() == page()
        if not fresh:
            print(f"{PAGE.relative_to(ROOT)} is stale: python scripts/make_strategy_table.py", file=sys.stderr)
        sys.exit(0 if fresh else 1)
    PAGE.write_text(page())
