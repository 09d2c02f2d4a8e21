"""GLUE (Wang et al. 2018, arXiv 1804.07461) as its files are published: one folder a task, with train.tsv and dev.tsv."""

from __future__ import annotations

from pathlib import Path

from kdrun.domains.text.files import text_file
from kdrun.domains.text.source import Texts
from kdrun.problems import UserError, closest, listed

TARGETS = ("glue",)

TASKS = {
    "sst2": ("sentence", "label", "dev.tsv"),
    "mrpc": (["#1 String", "#2 String"], "Quality", "dev.tsv"),
    "qqp": (["question1", "question2"], "is_duplicate", "dev.tsv"),
    "mnli": (["sentence1", "sentence2"], "gold_label", "dev_matched.tsv"),
    "qnli": (["question", "sentence"], "label", "dev.tsv"),
    "rte": (["sentence1", "sentence2"], "label", "dev.tsv"),
    "wnli": (["sentence1", "sentence2"], "label", "dev.tsv"),
}
"""Task -> (columns of texts, column of classes, file of its published development set)."""


def glue(root: str | Path | None = None, subset: str = "sst2") -> Texts:
    """A task of GLUE with classes, from its folder. Labels of the test sets are not published, so the development set is the test set;
    validation is held out of training. Rows without text (QQP has some) are left out.

    subset: name of the task. Raises UserError as text_file.
    """
    if subset not in TASKS:
        hint = "STS-B has numbers in the place of classes: data=glue_stsb" if subset in ("stsb", "sts-b") else ""
        raise UserError(
            f"data.subset={subset}{closest(subset, TASKS)}; all: {listed(TASKS)}", *([hint] if hint else [])
        )
    text, label, test = TASKS[subset]
    if root is None:
        raise UserError("data=glue needs data.root=FOLDER, with train.tsv and dev.tsv as GLUE publishes them")
    folder = Path(root).expanduser()
    return text_file(folder / "train.tsv", text, label, test_root=folder / test, empty="drop")


glue.reads = ("root",)
