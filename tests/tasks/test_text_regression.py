"""Texts with a number each: files, scores, and a whole job on made-up pairs."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr

from kdrun import kinds
from kdrun.cli import main
from kdrun.domains.load import load_data
from kdrun.domains.rows import Sums
from kdrun.domains.task import Prediction
from kdrun.domains.text_regression.files import text_numbers
from kdrun.domains.text_regression.shipped.stsb import stsb
from kdrun.problems import UserError

pytest.importorskip("transformers")

WORDS = ["cat", "dog", "bird", "horse", "fish", "cow", "hen", "pig"]


def rows(count, seed=0):
    """Pairs of three words; the number is the sum of the places of the first three."""
    drawn = np.random.default_rng(seed)
    pairs = [[" ".join(drawn.choice(WORDS, 3, replace=False)) for _ in range(2)] for _ in range(count)]
    return [(a, b, sum(map(WORDS.index, a.split()))) for a, b in pairs]


def write(path, count=240, head=("one", "two", "score"), mark=","):
    lines = [mark.join(map(str, row)) for row in [head, *rows(count)]]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_numbers_are_read_and_what_is_none_is_told(tmp_path):
    made = text_numbers(write(tmp_path / "a.csv"), ["one", "two"], "score")
    assert made.y.dtype == np.float32 and made.y[:5].tolist() == [row[2] for row in rows(5)] and made.classes == ()
    path = tmp_path / "b.csv"
    path.write_text("text;score\na;1,5\nb;good\nc;nan\n")
    with pytest.raises(UserError, match=r"'good' in column score is no number, in lines 3, 4"):
        text_numbers(path, "text", "score")


def test_stsb_as_published(tmp_path):
    head = ["index", "genre", "filename", "year", "old_index", "source1", "source2", "sentence1", "sentence2", "score"]
    cells = [*["0", "news", "a", "2012", "1", "x", "y"], 'A "plane is', "An air plane", "5.000"]
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / name).write_text("\t".join(head) + "\n" + "\t".join(cells) + "\n")
    made = stsb(tmp_path)
    assert made.texts[0] == 'A "plane is' and made.y.tolist() == [5.0, 5.0] and made.split.tolist() == [0, 2]


def test_scores_are_those_of_scipy_and_padded_rows_of_ranks_do_not_count(tmp_path):
    source = {"_target_": "kdrun.domains.text_regression.files.text_numbers", "root": str(write(tmp_path / "a.csv"))}
    keys = {"text": ["one", "two"], "label": "score", "task": "text_regression", "tokens": {"vocabulary": 300}}
    module = load_data({**source, **keys}, {"cache": str(tmp_path)})
    known = module.source.y[module.split == 0].astype(float)
    assert module.spec.target_mean == pytest.approx(known.mean()) and module.spec.target_std == pytest.approx(
        known.std()
    )
    task = kinds.find("text_regression").task(module)
    outputs, targets = torch.randn(30, 1, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 7 / 3.0
    real = torch.arange(30) < 28
    metrics, batch = task.metrics(), {"ids": torch.arange(30), "targets": targets, "mask": real}
    task.update(metrics, Prediction(outputs), batch)
    scores, pair = metrics.compute(), (outputs[real, 0], targets[real])
    assert set(scores) == set(task.METRICS)
    assert scores["spearman"].item() == pytest.approx(spearmanr(*pair).statistic)
    assert scores["pearson"].item() == pytest.approx(pearsonr(*pair).statistic, abs=1e-6)
    kept = task.rows(Prediction(outputs), batch)
    (sums,) = kinds.find("text_regression").sums(kept[0]).values()
    assert len(kept) == 28 and isinstance(sums, Sums)
    assert sums.score(sums.numbers(kept).sum(0)[None])[0] == pytest.approx(scores["pearson"].item(), abs=1e-6)


def test_a_job_and_its_predictions(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "pairs.csv")
    words = f"""model=text_small data=csv_numbers data.root={tmp_path / "pairs.csv"} data.text=[one,two] data.label=score objective=mse_kd
        data.tokens.vocabulary=300 teacher=text_w32 teacher.trainer.epochs=10 trainer.epochs=2 trainer.batch_size=16
        trainer.optimizer.lr=5e-3 seeds=1 hardware=cpu tracker=none paths.cache={tmp_path / "cache"}"""
    assert main(words.split()) == 0
    (path,) = (tmp_path / "outputs" / "runs").glob("*/record.json")
    record = json.loads(path.read_text())
    assert record["summary"]["metric"] == "spearman"
    student = next(stage for stage in record["stages"] if stage["role"] == "student")
    assert student["first_step"].keys() == {"mse", "mse_kd"}
    (tmp_path / "lines.txt").write_text("cat dog bird\tcat dog bird\ncat dog bird\tpig hen cow\n")
    capsys.readouterr()
    assert main(["predict", "last", str(tmp_path / "lines.txt")]) == 0
    assert len([float(line.split()[0]) for line in capsys.readouterr().out.splitlines()]) == 2
