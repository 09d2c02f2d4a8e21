import json
import math
import subprocess
import sys

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from kdrun.auc import at_threshold, nine_digits, youden
from kdrun.lab.ensembles import combine
from kdrun.learning.resampling import read_samples, write_samples
from kdrun.problems import UserError

VIEWS = ("lung", "bone", "zero")
SIZES = {"val": 60, "test": 80}


def kept(classes, strength, seed, targets):
    noise = np.random.default_rng(seed).normal(size=(len(targets), classes))
    logits = noise + strength * np.eye(classes)[targets]
    return nine_digits(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))


def members(folder, classes=2, sizes=SIZES, lacking=()):
    """Stage folders of three views, each better than the one before, and what they hold."""
    targets = {
        name: np.random.default_rng(place).integers(classes, size=n) for place, (name, n) in enumerate(sizes.items())
    }
    for name, absent in dict(lacking).items():
        targets[name][targets[name] == absent] = 0
    folders, held = {}, {}
    for place, view in enumerate(VIEWS):
        folders[view] = folder / view
        folders[view].mkdir()
        for number, (name, found) in enumerate(targets.items()):
            values = kept(classes, 0.5 + place, 10 * place + number, found)
            held[view, name] = values
            rows = [
                {"id": 1000 * number + row, "target": int(target), "probabilities": value}
                for row, (target, value) in enumerate(zip(found, values.tolist(), strict=True))
            ]
            write_samples(folders[view], name, rows)
    return folders, held, targets


def test_the_stack_is_the_logistic_regression_on_validation(tmp_path):
    folders, held, targets = members(tmp_path)
    found = combine(folders, ["lung", "bone"])
    features = {name: np.stack([held[view, name][:, 1] for view in VIEWS], axis=1) for name in SIZES}
    model = LogisticRegression(C=1.0).fit(features["val"], targets["val"])
    assert np.shape(found["stack"]["coefficients"]) == (1, 3)
    np.testing.assert_allclose(found["stack"]["coefficients"], model.coef_, atol=1e-4)
    np.testing.assert_allclose(found["stack"]["intercept"], model.intercept_, atol=1e-4)
    # What is kept is what the coefficients give.
    weight, bias = (np.asarray(found["stack"][name]) for name in ("coefficients", "intercept"))
    expected = 1 / (1 + np.exp(-(features["test"] @ weight[0] + bias[0])))
    np.testing.assert_allclose([row["combined"][1] for row in found["rows"]["test"]], expected, rtol=1e-8)
    assert found["metrics"]["test"]["auc/combined"] == pytest.approx(roc_auc_score(targets["test"], expected))
    stronger = combine(folders, VIEWS, regularisation=0.01)["stack"]["coefficients"]
    assert np.abs(stronger).max() < np.abs(weight).max()


def test_the_stack_minimises_penalised_cross_entropy_of_several_classes(tmp_path):
    folders, held, targets = members(tmp_path, classes=3)
    found = combine(folders, VIEWS)["stack"]
    features = np.concatenate([held[view, "val"] for view in VIEWS], axis=1)
    weight, bias = np.asarray(found["coefficients"]), np.asarray(found["intercept"])
    assert weight.shape == (3, 9) and bias.shape == (3,)

    def objective(weight, bias):
        logits = features @ weight.T + bias
        losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(60), targets["val"]]
        return losses.sum() + 0.5 * (weight**2).sum()

    random, least = np.random.default_rng(0), objective(weight, bias)
    for _ in range(50):
        assert objective(weight + random.normal(0, 0.01, (3, 9)), bias + random.normal(0, 0.01, 3)) > least


def test_rows_hold_the_members_and_can_be_kept(tmp_path):
    folders, held, targets = members(tmp_path, classes=3)
    found = combine(folders, ["zero"], "mean")
    row = found["rows"]["test"][7]
    assert list(row) == ["id", "target", "members", "counted", "combined"]
    assert (row["id"], row["target"], row["counted"]) == (1007, targets["test"][7], ["zero"])
    assert row["members"] == {view: held[view, "test"][7].tolist() for view in VIEWS}
    np.testing.assert_allclose(row["combined"], np.mean([held[view, "test"][7] for view in VIEWS], axis=0), rtol=1e-8)
    write_samples(tmp_path, "test", found["rows"]["test"])
    assert read_samples(tmp_path) == found["rows"]["test"]
    alone = combine(folders, ["zero"], None)
    assert "combined" not in alone["rows"]["val"][0] and alone["stack"] is None is found["stack"]
    assert not [name for name in alone["metrics"]["test"] if name.endswith("combined")]


@pytest.mark.parametrize("classes", [2, 4])
def test_metrics_are_means_over_the_counted_members(tmp_path, classes):
    folders, held, targets = members(tmp_path, classes)
    found = combine(folders, ["lung", "zero"], "mean")["metrics"]
    for split in SIZES:
        truth, own = targets[split], [held[view, split] for view in ("lung", "zero")]
        whole = np.mean([held[view, split] for view in VIEWS], axis=0)

        def area(values, truth=truth):
            return roc_auc_score(
                truth, values[:, 1] if classes == 2 else values / values.sum(1)[:, None], multi_class="ovr"
            )

        def accuracies(values, truth=truth):
            return [np.mean(values.argmax(1)[truth == one] == one) for one in range(classes)]

        expected = {
            "auc": np.mean([area(values) for values in own]),
            **{f"auc/{view}": area(held[view, split]) for view in VIEWS},
            "auc/combined": area(whole),
            "accuracy": np.mean([values.argmax(1) == truth for values in own]),
            "accuracy/combined": np.mean(whole.argmax(1) == truth),
            "loss": np.mean([log_loss(truth, values / values.sum(1)[:, None]) for values in own]),
            "worst_class": np.mean([min(accuracies(values)) for values in own]),
        }
        assert {name: found[split][name] for name in expected} == pytest.approx(expected, rel=1e-7)
        rest = {"calibration"} | ({"sensitivity", "specificity", "sensitivity/combined", "specificity/combined"}
                                  if classes == 2 else set())  # fmt: skip
        assert set(found[split]) == set(expected) | rest


def test_scores_of_one_member_are_those_of_its_stage(tmp_path):
    torch = pytest.importorskip("torch")
    from kdrun.domains.ct.scores import DiagnosisScores

    folders, held, targets = members(tmp_path, classes=4)
    metric = DiagnosisScores(4)
    metric.update(torch.from_numpy(np.log(held["bone", "test"])).float(), torch.from_numpy(targets["test"]))
    expected = {name: value.item() for name, value in metric.compute().items()}
    found = combine(folders, ["bone"], None)["metrics"]["test"]
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-5)


def test_each_threshold_is_that_of_the_same_scores_on_validation(tmp_path):
    folders, held, targets = members(tmp_path)
    found = combine(folders, ["lung", "zero"])
    shares = [
        at_threshold(targets["test"], held[view, "test"][:, 1], youden(targets["val"], held[view, "val"][:, 1]))
        for view in ("lung", "zero")
    ]
    metrics = found["metrics"]["test"]
    assert (metrics["sensitivity"], metrics["specificity"]) == pytest.approx(tuple(np.mean(shares, axis=0)))
    combined = {split: [row["combined"][1] for row in found["rows"][split]] for split in SIZES}
    own = at_threshold(targets["test"], combined["test"], youden(targets["val"], combined["val"]))
    assert (metrics["sensitivity/combined"], metrics["specificity/combined"]) == own


def test_test_changes_nothing_that_was_fitted(tmp_path):
    folders, _, _ = members(tmp_path)
    before = combine(folders, VIEWS)
    for folder in folders.values():
        rows = read_samples(folder)
        write_samples(folder, "test", [{**row, "target": 1 - row["target"]} for row in rows])
    after = combine(folders, VIEWS)
    assert after["stack"] == before["stack"] and after["metrics"]["val"] == before["metrics"]["val"]
    assert [row["combined"] for row in after["rows"]["test"]] == [row["combined"] for row in before["rows"]["test"]]
    assert after["metrics"]["test"]["auc"] == pytest.approx(1 - before["metrics"]["test"]["auc"])


def test_further_sets_are_those_of_all_members_and_may_lack_classes(tmp_path):
    folders, held, targets = members(tmp_path, 4, {**SIZES, "other": 50, "partial": 10}, {"other": 2})
    (folders["bone"] / "samples.partial.jsonl").unlink()
    found = combine(folders, VIEWS)
    assert list(found["metrics"]) == list(found["rows"]) == ["val", "test", "other"]
    truth = targets["other"]
    each = [roc_auc_score(truth == one, held["bone", "other"][:, one]) for one in (0, 1, 3)]
    assert found["metrics"]["other"]["auc/bone"] == pytest.approx(np.mean(each))


def test_what_a_further_set_of_one_class_cannot_say(tmp_path):
    folders, _, _ = members(tmp_path, 2, {**SIZES, "healthy": 20}, {"healthy": 1})
    metrics = combine(folders, VIEWS)["metrics"]["healthy"]
    assert math.isnan(metrics["auc"]) and math.isnan(metrics["auc/combined"])
    assert "sensitivity" not in metrics and 0 < metrics["specificity"] <= 1
    assert "sensitivity/combined" not in metrics and "specificity/combined" in metrics


def test_a_class_that_validation_lacks_has_no_probability(tmp_path):
    folders, _, _ = members(tmp_path, 4, lacking={"val": 3})
    found = combine(folders, VIEWS)
    assert len(found["stack"]["intercept"]) == 3
    assert all(row["combined"][3] == 0 and sum(row["combined"]) == pytest.approx(1) for row in found["rows"]["test"])
    assert math.isfinite(found["metrics"]["test"]["loss"])


def test_it_is_deterministic(tmp_path):
    folders, _, _ = members(tmp_path, 3)
    assert json.dumps(combine(folders, VIEWS)) == json.dumps(combine(folders, VIEWS))


def rewritten(folder, split, change):
    write_samples(folder, split, [change(row) for row in read_samples(folder, split)])


def test_members_of_other_samples_are_refused(tmp_path):
    folders, _, _ = members(tmp_path)
    rewritten(folders["bone"], "val", lambda row: {**row, "target": 0})
    with pytest.raises(UserError, match="lung and bone have other samples, targets or classes in val"):
        combine(folders, VIEWS)
    rewritten(folders["bone"], "val", lambda row: {**row, "id": row["id"] + 1})
    with pytest.raises(UserError, match="in val"):
        combine(folders, VIEWS)


@pytest.mark.parametrize("split", ["test", "other"])
def test_a_stack_is_never_fitted_on_test(tmp_path, split):
    folders, _, _ = members(tmp_path, 2, {**SIZES, "other": 20})
    for folder in folders.values():
        rewritten(folder, split, lambda row: {**row, "id": row["id"] % 1000 + 50})
    with pytest.raises(
        UserError, match=f"10 samples of {split} are in val too, as 50: the stack would be fitted on {split}"
    ):
        combine(folders, VIEWS)


@pytest.mark.parametrize("split", ["val", "test"])
def test_members_need_rows_of_validation_and_test(tmp_path, split):
    folders, _, _ = members(tmp_path)
    (folders["zero"] / f"samples.{split}.jsonl").unlink()
    with pytest.raises(UserError, match=f"member zero kept no probabilities of {split}"):
        combine(folders, VIEWS)


def test_rows_of_another_task_or_without_finite_numbers_are_refused(tmp_path):
    folders, _, _ = members(tmp_path)
    rewritten(folders["lung"], "test", lambda row: {**row, "probabilities": [float("nan")] * 2})
    with pytest.raises(UserError, match="member lung has probabilities in test that are not finite"):
        combine(folders, VIEWS)
    rewritten(folders["lung"], "test", lambda row: {"id": row["id"], "right": 1})
    with pytest.raises(UserError, match="member lung kept no probabilities of test"):
        combine(folders, VIEWS)


def test_a_stack_needs_two_classes(tmp_path):
    folders, _, _ = members(tmp_path, lacking={"val": 1})
    with pytest.raises(UserError, match="one class only"):
        combine(folders, VIEWS)
    assert "sensitivity" not in combine(folders, VIEWS, "mean")["metrics"]["test"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counted": ["lungs"]}, "lungs is no member; closest: lung"),
        ({"counted": []}, "needs members, and views to count"),
        ({"counted": ["lung", "lung"]}, "counted twice"),
        ({"method": "logistics"}, "cannot be combined by logistics; closest: logistic"),
        ({"regularisation": 0}, "must be above 0, not 0"),
        ({"members": {"combined": "x"}}, "no view can be called combined"),
    ],
)
def test_mistakes_are_told(tmp_path, change, message):
    folders, _, _ = members(tmp_path)
    with pytest.raises(UserError, match=message):
        combine(**{"members": folders, "counted": ["lung"], **change})


def test_torch_is_not_needed():
    code = "import sys, kdrun.lab.ensembles, kdrun.auc, kdrun.learning.resampling; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
