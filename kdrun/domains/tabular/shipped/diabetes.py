"""The 442 diabetes patients that scikit-learn ships (Efron, Hastie, Johnstone and Tibshirani, Annals of Statistics 2004).

The package's files hold raw values; scikit-learn's own loader scales them by moments of all patients, those of test included.
"""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np

from kdrun.data.folders import shipped
from kdrun.data.source import TRAIN
from kdrun.domains.tabular.source import Table
from kdrun.problems import UserError

TARGETS = ("diabetes",)

FEATURES = ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")
ROWS, TARGET = "diabetes_data_raw.csv.gz", "diabetes_target.csv.gz"


def diabetes(root: str | Path | None = None) -> Table:
    """float32 [442, 10]: age in years, sex (1, 2), body mass index, blood pressure, six blood serum measurements.

    The target is a measure of disease progression a year later, 25 to 346.

    root: folder with the two files instead of scikit-learn's own.
    """
    paths = shipped("diabetes", root, (ROWS, TARGET))
    texts = [gzip.decompress(path.read_bytes()) for path in paths]
    try:
        rows, target = (np.array([line.split() for line in text.split(b"\n") if line], np.float32) for text in texts)
        if rows.shape != (len(target), len(FEATURES)) or target.shape[1] != 1:
            raise ValueError(f"{rows.shape} features for {target.shape} targets")
    except ValueError as error:
        wanted = f"expected {len(FEATURES)} numbers and one target a line, between blanks"
        raise UserError(f"{ROWS} and {TARGET} in {paths[0].parent}: {error}", wanted) from None
    return Table(
        x=rows,
        y=target[:, 0].copy(),
        split=np.full(len(rows), TRAIN, np.int8),
        ids=np.arange(len(rows)),
        features=FEATURES,
        target="disease progression",
        name="diabetes",
        source_hash=hashlib.sha256(b"\0".join(texts)).hexdigest(),
        determined=True,
    )
