"""Tables with a real target: the shipped one, how they are split and standardised, and what is refused."""

import gzip
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from kdrun.data.audit import audit
from kdrun.data.source import SPLITS
from kdrun.domains import load as build
from kdrun.domains.load import load_data
from kdrun.domains.tabular.shipped.diabetes import FEATURES, diabetes
from kdrun.domains.tabular.source import Table, quantile_bins
from kdrun.problems import UserError

CONFIG = {
    "_target_": "kdrun.domains.tabular.shipped.diabetes.diabetes",
    "task": "regression",
    "val_fraction": 0.15,
    "test_fraction": 0.25,
}


def loaded(monkeypatch=None, table: Table | None = None, **config):
    if table is not None:
        monkeypatch.setattr(build, "load_source", lambda node, paths, domain: table)
    return load_data({**CONFIG, **config}, {"cache": ""})


def made(count: int = 60) -> Table:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(count, 4)).astype(np.float32)
    split = np.repeat(np.array([0, 1, 2], np.int8), count // 3)
    y = (x[:, 0] + 2).astype(np.float32)
    return Table(x, y, split, np.arange(count) + 1000, ("a", "b", "c", "d"), "e", "made", "0")


def test_diabetes_is_scikit_learns():
    from sklearn.datasets import load_diabetes

    reference = load_diabetes(scaled=False)
    table = diabetes()
    assert np.allclose(table.x, reference.data, rtol=1e-6) and np.array_equal(table.y, reference.target)
    assert table.features == FEATURES == tuple(reference.feature_names)


def test_diabetes_does_not_import_scikit_learn():
    code = "import sys, kdrun.domains.tabular.shipped.diabetes as d; d.diabetes(); print([m in sys.modules for m in ('sklearn', 'torch')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[False, False]"


def test_absent_files_are_named(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"diabetes_data_raw\.csv\.gz, which is not there"):
        diabetes(tmp_path)
    monkeypatch.setattr("kdrun.data.folders.find_spec", lambda name: None)
    with pytest.raises(UserError, match="scikit-learn, which is not installed"):
        diabetes()


def test_the_hash_is_that_of_both_files(tmp_path):
    def written(rows: bytes, target: bytes) -> str:
        (tmp_path / "diabetes_data_raw.csv.gz").write_bytes(gzip.compress(rows))
        (tmp_path / "diabetes_target.csv.gz").write_bytes(gzip.compress(target))
        return diabetes(tmp_path).source_hash

    row = b"1 2 3 4 5 6 7 8 9 10\n"
    hashes = {
        written(2 * row, b"1\n2\n"),
        written(2 * row, b"1\n3\n"),
        written(row + row.replace(b"2", b"3"), b"1\n2\n"),
    }
    assert len(hashes) == 3


def test_quantile_bins_against_counting():
    values = np.random.default_rng(1).normal(size=1000)
    bins = quantile_bins(values)
    assert np.bincount(bins).tolist() == [100] * 10 and bins.dtype == np.int64
    assert (np.diff(bins[np.argsort(values)]) >= 0).all()
    assert quantile_bins(np.array([-9.0, 0.0, 9.0]), of=values, bins=4).tolist()[::2] == [0, 3]
    assert set(quantile_bins(np.zeros(5))) == {9} and quantile_bins(np.ones(3), of=np.array([])).tolist() == [0] * 3


def test_splits_are_drawn_in_proportion_from_the_target():
    module = loaded()
    assert module.spec.sizes == {"train": 281, "val": 50, "test": 111}
    ids = [module.samples(split).ids.tolist() for split in SPLITS]
    assert sorted(one for own in ids for one in own) == list(range(442))
    bins = quantile_bins(module.source.y)
    shares = [np.bincount(bins[rows], minlength=10) / len(rows) for rows in ids]
    assert all(np.abs(share - np.bincount(bins) / 442).max() < 0.02 for share in shares)
    assert loaded().samples("test").ids.tolist() == ids[2] != loaded(split_seed=1).samples("test").ids.tolist()
    assert loaded(limit={"train": 40}).spec.sizes["train"] == 40


def test_inputs_and_targets_are_standardised_by_the_training_split_alone():
    module = loaded()
    table, spec = module.source, module.spec
    train = module.samples("train")
    inputs = train.inputs(torch.arange(len(train)))
    assert inputs.dtype == train.targets.dtype == torch.float32 and inputs.shape == (281, 10)
    for values in (inputs, train.targets[:, None]):
        assert values.double().mean(0).abs().max() < 1e-4
        assert (values.double().std(0, correction=0) - 1).abs().max() < 1e-4
    test = module.samples("test")
    raw = table.x[test.ids].astype(float)
    assert np.allclose(test.inputs(torch.arange(111)), (raw - spec.mean) / spec.std, atol=1e-4)
    assert np.allclose(test.targets * spec.target_std + spec.target_mean, table.y[test.ids], atol=1e-3)
    assert abs(float(test.targets.mean())) > 1e-3  # moments of training are not those of test


def test_loaders_give_batches_and_inputs_by_id():
    module = loaded()
    batches = list(module.train_loader(128, seed=0))
    assert [len(batch["ids"]) for batch in batches] == [128, 128, 25]
    assert batches[0]["inputs"].shape == (128, 10) and batches[0]["targets"].dtype == torch.float32
    assert torch.equal(module.inputs(batches[0]["ids"]), batches[0]["inputs"])
    again, other = (next(iter(module.train_loader(128, seed=seed)))["ids"] for seed in (0, 1))
    assert torch.equal(again, batches[0]["ids"]) and not torch.equal(other, again)
    assert sum(len(batch["ids"]) for batch in module.eval_loader("test", 50)) == 111
    assert (module.random, module.replayed, module.views, module.extra_tests) == (False, False, 1, ())


def test_given_moments_and_constant_columns(monkeypatch):
    table = made()
    table.x[:, 1] = 7
    module = loaded(monkeypatch, table)
    assert module.spec.std[1] == 1 and not module.samples("train").inputs(torch.arange(20))[:, 1].any()
    given = {"mean": [0.0] * 4, "std": [2.0] * 4}
    module = loaded(monkeypatch, table, normalize=given)
    assert np.allclose(module.samples("train").inputs(torch.arange(20)), table.x[:20] / 2)
    for wrong in ({"mean": [0.0] * 3, "std": [1.0] * 4}, {"mean": [0.0] * 4, "std": [1.0, 1.0, 1.0, 0.0]}):
        with pytest.raises(UserError, match="needs 4 means and 4 positive deviations"):
            loaded(monkeypatch, table, normalize=wrong)


def test_what_is_for_images_is_refused():
    with pytest.raises(UserError, match=r"data.augment.flip=True: diabetes is a table"):
        loaded(augment={"flip": True})
    with pytest.raises(UserError, match="only images have views"):
        loaded(view="edges")
    with pytest.raises(UserError, match=r"data.task=regression"):
        loaded(task="classification")


def test_the_audit_of_a_table():
    assert loaded().audit()["summary"] == "no sample is in two splits"
    table = made()
    table.x[3] = table.x[0]
    table.x[40] = table.x[0]
    table.y[40] = table.y[3] = table.y[0]
    table.y[40] += 0.25  # the same whole number
    found = audit(table, table.split)
    assert found["duplicates"] == {"train": 1, "val": 0, "test": 0} and found["contradictions"] == 0
    assert found["shared"]["train/test"] == {"pairs": 2, "samples": 1, "contradictions": 2}
    table.y[5] = np.nan
    with pytest.raises(UserError, match=r"made: 1 targets are NaN or infinite: id 1005"):
        audit(table, table.split)
    table = made()
    table.x[7, 2] = np.inf
    with pytest.raises(UserError, match=r"made: 1 rows hold NaN or infinite features: id 1007"):
        audit(table, table.split)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("x", np.zeros((60, 3), np.float32)),
        ("x", np.zeros((60, 4))),
        ("y", np.zeros(60)),
        ("y", np.zeros((60, 1), np.float32)),
        ("split", np.zeros(60, np.int64)),
        ("ids", np.zeros(60, np.int64)),
    ],
)
def test_a_source_that_breaks_the_contract_is_told(field, value):
    with pytest.raises(ValueError, match="made: "):
        replace(made(), **{field: value})
