"""The Semantic Textual Similarity Benchmark (Cer et al. 2017, arXiv 1708.00055) as GLUE publishes it."""

from __future__ import annotations

from pathlib import Path

from kdrun.domains.text_regression.files import text_numbers
from kdrun.domains.text_regression.source import NumberedTexts
from kdrun.problems import UserError

TARGETS = ("stsb",)


def stsb(root: str | Path | None = None) -> NumberedTexts:
    """Pairs of sentences and how alike they are, 0 to 5, from a folder with train.tsv and dev.tsv. Scores of GLUE's test set are not
    published, so the development set is the test set; validation is held out of training."""
    if root is None:
        raise UserError("data=glue_stsb needs data.root=FOLDER, with train.tsv and dev.tsv as GLUE publishes them")
    folder, columns = Path(root).expanduser(), ["sentence1", "sentence2"]
    return text_numbers(folder / "train.tsv", columns, "score", test_root=folder / "dev.tsv", empty="drop")


stsb.reads = ("root",)
