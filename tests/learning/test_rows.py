"""What a stage keeps of the samples of its test set, at the selected and at the last epoch."""

from __future__ import annotations

import pytest

from kdrun import kinds
from kdrun.learning.resampling import has_own_last, read_samples
from kdrun.strategies.cast import Cast, supervised

from .stages import cell, make_lab


def test_rows_of_both_epochs_give_the_figures_of_the_record(tmp_path):
    lab = make_lab(tmp_path)
    # So large a learning rate that the last epoch is not always the best.
    found = [lab.get(supervised(Cast(cell("trainer.optimizer.lr=1.0", f"seed={seed}")).student)) for seed in range(3)]
    both = [one for one in found if has_own_last(one.record)]
    assert both, "in one of three the selected epoch is not the last"
    for one in found:
        for which in ("best", "last"):
            rows = read_samples(one.path, last=which == "last" and has_own_last(one.record))
            sums = kinds.find("classification").sums(rows[0])["accuracy"]
            share = sums.score(sums.numbers(rows).sum(0)[None])[0]
            assert share == pytest.approx(one.record["test"][which]["accuracy"])
