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

An objective is a weighted sum of terms, `objective.NAME.weight` times the mean of the term over all valid positions. A term is the
loss NAME of the table, or the one that `_target_` names, with that loss's options and these settings:

- `weight`: a number, or a function of the step: `{linear: {from: 0, to: 1, steps: 0.3}}`, `cosine` likewise,
  `{step: {from: 0, to: 1, at: 500}}`. `steps`, `start` and `at` are whole numbers of steps, or fractions of all.
  With `unit: epoch` they count epochs, and the weight stays the same within an epoch.
- `over`: `labels` or `image_slots`, the positions that the mean is over; for losses whose positions do not look at each other.
- `execution`: `dense`; `chunked` (`chunk`, `memory_mb`), which never holds all logits: [vocabulary-losses.md](vocabulary-losses.md);
  `topk` (`k`), from the teacher's likeliest classes and one bucket for all others, at temperature 1, which are kept on disk for text
  (kd, kl_reverse, jsd, skewed, skewed_reverse, tvd, akl).
- `student`, `teacher`: module paths of each network (`layer3`, globs `blocks.*.norm`, lists of as many), or `output:NAME` of the task,
  for losses that compare features; without them these are what goes into the last linear layer. `-1` stands for the last module in a
  place (`stage3.-1.norm2`), `[2::3]` for every third of them from the third on, and `before:layer3` for what goes into the activation that
  the module ends with.
- `adaptor`, `resize`: what lies between two sizes. `auto` is a linear layer, or a convolution of kernel 1 for grids, where widths differ;
  `linear`, `conv`, `conv_bn_relu`, `none`. Grids are brought together by `pool`, `interpolate`, `none`, or `auto`. Losses that compare features of unlike
  sizes by themselves have `none` by default.
- `logits`: `output:NAME`, what a term is given of the student in the place of its logits: a network of images that returns a mapping
  `{"logits": ..., NAME: ...}` has further heads or exits. `objective=deit_hard` teaches the class token of `student=deit_tiny` by labels and
  its distillation token by the teacher; scores are those of `logits`, the mean of both.
- `view`: `strong`, the term looks at the second view of each sample ([data.augment.strong](image-data.md)) in the place of the first, with
  what both networks say of that. Each step then has a forward pass of both networks for either view, and outputs of the teacher are not cached.

`objective=[kd,at]` is the sum of both options (in experiments: `- override /objective: [kd, at]`). A weight in which they differ is
that of the first, which is told; another setting in which they differ is refused until it is said once:
`objective=[jsd,word_kd] objective.ce.label_smoothing=0`.

A term with weight 0 is not evaluated; one whose weight is 0 at a step is not computed there. Nor is the teacher asked in a step in
which no term that needs it has weight. Records hold the raw means, so that runs with other weights can be compared, and the means times
their weights. With `trainer.balance=100` weights say how large the gradients of terms are beside that of the labels: each term has a
factor, measured every 100 steps by the student's parameters, which records hold as well; a weight of 1000 then is a thousand
times the labels, so give weights near 1 with it (`objective.at.weight=1`). Weights in `conf/objective` are those of the papers' code,
mostly for CIFAR-100: on other sizes look at the gradients that `kdrun plan` shows for each term, times its weight.
Terms over image slots or pictures have their mean over those, and are left out of a batch without any.

Of several pairs of layers a term has the mean, or the sum where its paper adds them. The column "over the batch" says what a value looks at.
Per sample: parts of a batch (`trainer.accumulate`) and ranks give the gradient of the whole. All samples of all ranks: so do ranks, and
`trainer.accumulate` is refused. Batch normalisation per rank: layers of the loss itself normalise by the samples of one rank and of one part,
as those of a student do.
Further names stand for a loss and settings: `fitnet` (hint), `kd_topk` (kd, `execution: topk`, temperature 1), `kd_visual` (kd,
`over: image_slots`), `vocabulary_ce` (ce, `execution: chunked`), `vocabulary_kd` and `vocabulary_ce_kd` (ce_kd, `execution: chunked`) and
`vocabulary_kd_visual` (kd, both).
"""
SUPPLIED = ("sample_ids", "classes", "batch_size", "student_shapes", "teacher_shapes")
"""What kdrun gives to a class by name (kdrun/losses.py): no options."""
OVER = {
    "mask": "valid positions",
    "visual_mask": "image slots",
    "images": "samples with a picture",
    "rewarded": "tokens that were written",
}
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
(`student_logits`, `teacher_logits`, `targets`), and `ids` (of the samples), `step` and `epoch` likewise; keyword-only parameters are
options. Where positions do not look at each other, `mine.pointwise = True` below the function says so: padding is then left out before
it is computed. `mine.over = "visual_mask"` makes it a term over image slots, `mine.over = "images"` one with a value per sample.
`mine.whole_batch = True` says that samples are compared with each other; `kdrun.objectives.ranks.whole_batch` gives those of all ranks, with their
gradients. `mine.figures = {"hits": hits}`, functions of the same tensors without options, has their means recorded beside the loss (`train/mine_hits`);
nothing is minimised of them. `mine.settings = {"adaptor": "none"}` are other defaults of the settings above, `mine.pairs = "sum"` adds what layers give.
`student_classifier` and `teacher_classifier` are weight and bias of the last linear layers of image classifiers; with
`mine.reuses_classifier = True` the student is given the teacher's, which then stays.

A loss that learns or remembers something is a class: its constructor takes the options, `forward` the tensors. Its parameters are in the
optimizer; parameters and buffers are in the checkpoints that a run goes on from, to the last bit, and in nothing that is kept of the student.

```python
from kdrun.objectives.sample_memory import RowMemory


class Contrast(nn.Module):
    # kdrun gives the first three by name (and `classes` and `batch_size`); `width` is an option
    def __init__(self, sample_ids, student_shapes, teacher_shapes, width: int = 128):
        super().__init__()
        self.project = nn.Linear(student_shapes[0][0], width)
        self.memory = RowMemory(sample_ids, width)  # rows by sample id, the same on all ranks

    # lists, one tensor for each pair of modules; returns one value per sample
    def forward(self, student_captured, teacher_captured, ids): ...
```

A loss that compares the inside of both networks takes `student_features` and `teacher_features`, and is called for each pair of modules that
`student` and `teacher` name (`objective.mine.student=layer3 objective.mine.teacher=layer4`); with `student_captured` and
`teacher_captured` it gets lists of all. The student's come through the adaptor (`adaptor: none` where unlike sizes are welcome). Paths are
checked against both networks before anything is trained. A teacher whose modules are captured is asked in every step, not read from disk.
"""


def page() -> str:
    terms = [term for path in sorted((ROOT / "kdrun" / "objectives").glob("*.py")) if (term := read(path))]
    rows = [
        f"| [`{term['name']}`](#{term['name']}) | {term['summary']} | {', '.join(f'`{t}`' for t in term['tensors'])} "
        f"| {', '.join(f'`{o}`' for o in term['options']) or 'none'} | {paper(term['docstring'])} | {term['over']} | {term['batch']} "
        f"| {term['used']} |"
        for term in terms
    ]
    table = [
        "| term | what it is | tensors | options with defaults | paper | mean over | over the batch | shipped in |",
        "|" + " --- |" * 8,
        *rows,
    ]
    sections = [f"## {term['name']}\n\n```text\n{term['docstring']}\n```\n" for term in terms]
    return "\n".join([HEAD, *table, "", *sections, OWN])


def read(path: Path) -> dict[str, Any] | None:
    """What a file says of the function, or of the class, that has its name; None for a file without one."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    capitals = "".join(word.capitalize() for word in path.stem.split("_"))
    loss = next((n for n in tree.body if getattr(n, "name", None) in (path.stem, capitals)), None)
    if loss is None:
        return None
    methods = {n.name: n.args for n in loss.body if isinstance(n, ast.FunctionDef)}
    given = methods["forward"] if isinstance(loss, ast.ClassDef) else loss.args
    taken = methods["__init__"] if isinstance(loss, ast.ClassDef) else loss.args
    names, defaults = taken.kwonlyargs, taken.kw_defaults
    if isinstance(loss, ast.ClassDef):
        names = [*taken.args[len(taken.args) - len(taken.defaults) :], *names]
        defaults = [*taken.defaults, *defaults]
    options = [
        f"{argument.arg}: {ast.unparse(default)}" if default is not None else argument.arg
        for argument, default in zip(names, defaults, strict=True)
        if argument.arg not in SUPPLIED
    ]
    summary = (ast.get_docstring(tree) or "").splitlines()[0]
    return {
        "name": path.stem,
        "summary": summary.rstrip("."),
        "tensors": [argument.arg for argument in given.args if argument.arg != "self"],
        "options": options,
        "docstring": textwrap.dedent(ast.get_docstring(loss) or ""),
        "over": over(tree, path.stem),
        "batch": batch(tree, loss),
        "used": used(path.stem),
    }


def over(tree: ast.Module, name: str) -> str:
    """What a term has its mean over: what `NAME.over = "..."` says in its file, else positions with a label."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == f"{name}.over":
            return OVER[ast.literal_eval(node.value)]
    return OVER["mask"]


def batch(tree: ast.Module, loss: ast.AST) -> str:
    """What a value looks at of a batch, by `whole_batch = True` and `batch_norm = True` of the function or the class."""
    inside = loss.body if isinstance(loss, ast.ClassDef) else tree.body
    said = {ast.unparse(node.targets[0]).rpartition(".")[2] for node in inside if isinstance(node, ast.Assign)}
    looks = "all samples of all ranks" if "whole_batch" in said else "per sample"
    return f"{looks}; batch normalisation per rank" if "batch_norm" in said else looks


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
