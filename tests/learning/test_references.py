"""What a network says is a copy, and what it is given is not changed: captured features, inputs, stored outputs."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from kdrun.domains.images.spec import DataSpec
from kdrun.domains.images.task import Classification
from kdrun.domains.task import Prediction
from kdrun.learning.cache import CachedTeacher, DamagedCache, OutputCache, largest_difference
from kdrun.learning.positions import PositionCache
from kdrun.learning.rowcache import RowCache
from kdrun.learning.teacher import FrozenTeacher
from kdrun.problems import UserError

from .stages import make_lab, teach

SPEC = DataSpec("rows", ("a", "b", "c"), (1, 1, 4), {}, (0.0,), (1.0,))
CPU = torch.device("cpu")


class InPlace(nn.Module):
    """Changes the features in place after its classifier has read them, in one of several ways."""

    def __init__(self, after: str):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.classifier = nn.Linear(4, 5), nn.Linear(5, 3)
        self.after, self.act = after, nn.ReLU(inplace=True)

    def forward(self, inputs):
        x = self.first(inputs.flatten(1))
        features = x.view(-1, 5)
        logits = self.classifier(input=features) if self.after == "by name" else self.classifier(features)
        if self.after == "relu_":
            functional.relu_(features)
        elif self.after == "module":
            self.act(x)  # the tensor that the features are a view of
        elif self.after == "add_":
            features.add_(7.0)
        return logits


def task() -> Classification:
    made = Classification(SPEC)
    made.prepare(frozenset({"teacher_features"}))
    return made


def rows(count: int = 6) -> torch.Tensor:
    return torch.randn(count, 1, 1, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("after", ["nothing", "relu_", "module", "add_", "by name"])
def test_features_are_those_that_the_classifier_read(after, tmp_path):
    network, inputs = InPlace(after), rows()
    expected = network.first(inputs.flatten(1)).detach()
    teacher = FrozenTeacher(network, task(), "t")
    assert torch.equal(teacher.outputs({"inputs": inputs}).features["features"], expected)
    cache = OutputCache(tmp_path, torch.arange(6), 1, 3, {}, features=5)
    cache.build(teacher, lambda ids, view: inputs[ids], CPU)
    assert torch.equal(cache.read(0, torch.arange(6))[:, 3:], expected)
    assert cache.largest_error(teacher, lambda ids, view: inputs[ids], CPU, 6, 0) == 0.0


def test_features_of_a_student_carry_their_gradient():
    network, inputs = InPlace("nothing").train(), rows()
    features = task().predict(network, inputs).features["features"]
    features.sum().backward()
    assert torch.allclose(network.first.weight.grad, inputs.flatten(1).sum(0).expand(5, 4), atol=1e-6)


@pytest.mark.parametrize("when", ["training", "evaluation"])
@pytest.mark.parametrize("calls", [0, 2])
def test_a_classifier_that_is_not_called_once_is_refused_in_either_mode(when, calls):
    class Twice(InPlace):
        def forward(self, inputs):
            x = self.first(inputs.flatten(1))
            if self.training != (when == "training"):
                return self.classifier(x)
            return sum((self.classifier(x) for _ in range(calls)), x[:, :3])

    network = Twice("nothing").train(when == "training")
    with pytest.raises(UserError, match=f"in a pass in {when} mode"):
        task().predict(network, rows())
    assert task().predict(network.train(when != "training"), rows()).features["features"].shape == (6, 5)


def test_a_teacher_that_changes_its_inputs_does_not_teach():
    class Scaling(InPlace):
        def forward(self, inputs):
            return super().forward(inputs.sub_(0.5))

    batch = {"inputs": rows()}
    with pytest.raises(UserError, match="the teacher Scaling changes its inputs in place"):
        FrozenTeacher(Scaling("nothing"), task(), "t").outputs(batch)


# what is stored


class Said:
    """A teacher that says what it is told to."""

    samples = 0

    def __init__(self, logits: torch.Tensor):
        self.logits = logits

    def outputs(self, batch, step=0):
        return Prediction(self.logits[batch["inputs"].long().flatten()])


def inputs(ids, view):
    return ids.float()


def stored(folder, logits):
    cache = OutputCache(folder, torch.arange(len(logits)), 1, logits.shape[1], {})
    cache.build(Said(logits), inputs, CPU)
    return cache


def test_the_largest_error_sees_nan_and_takes_equal_infinities_for_equal(tmp_path):
    logits = torch.tensor([[1.0, -torch.inf], [2.0, 3.0], [0.0, 4.0]])
    cache = stored(tmp_path, logits)
    assert cache.largest_error(Said(logits), inputs, CPU, 50, 0) == 0.0
    for place, bad, expected in (((1, 0), 2.5, 0.5), ((0, 1), 5.0, np.inf), ((2, 1), torch.nan, np.nan)):
        live = logits.clone()
        live[place] = bad
        # Rows are drawn with replacement: some draws miss the bad one.
        found = {str(cache.largest_error(Said(live), inputs, CPU, 50, seed)) for seed in range(30)}
        assert found == {"0.0", str(expected)}
    cache.shards[0].arrays["logits"][0, 1, 1] = np.nan
    assert any(np.isnan(cache.largest_error(Said(logits), inputs, CPU, 50, seed)) for seed in range(30))


@pytest.mark.parametrize("bad", ["live", "stored"])
def test_a_difference_of_nan_is_never_left_out(bad):
    live, other = torch.tensor([-20.0, -1.0]), torch.tensor([-25.0, -1.25])
    assert largest_difference(live, other, least=-10) == 0.25 and largest_difference(live, other) == 5.0
    (live if bad == "live" else other)[0] = torch.nan
    assert np.isnan(largest_difference(live, other, least=-10))
    assert largest_difference(live[:0], other[:0]) == 0.0


def test_nan_is_not_stored(tmp_path):
    with pytest.raises(FloatingPointError, match="sample id 2 is NaN"):
        stored(tmp_path / "a", torch.tensor([[1.0, 2.0], [0.0, 1.0], [torch.nan, 1.0]]))
    cache = RowCache(tmp_path / "b", torch.tensor([4, 7]), lambda ids: torch.ones_like(ids), {"x": (np.float16, 2)}, {})
    with pytest.raises(FloatingPointError, match="sample id 7 is NaN"):
        cache.put(1, x=np.array([[np.nan, 0.0]], np.float16))
    assert PositionCache.put is RowCache.put


def test_rows_that_are_filled_while_training_are_float32_and_compared_with_the_teacher(tmp_path):
    """Under autocast a teacher computes in bfloat16; what it says there is not what is stored."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 50), nn.Linear(50, 3))
    teacher, data = FrozenTeacher(network, Classification(SPEC), "t"), rows(6)
    calls = []
    cached = CachedTeacher(
        OutputCache(tmp_path, torch.arange(6), 1, 3, {}),
        "t",
        teacher,
        verify=lambda: calls.append(torch.is_autocast_enabled("cpu")),
    )
    with torch.autocast("cpu", torch.bfloat16):
        for part in (slice(0, 4), slice(4, 6), slice(0, 6)):
            batch = {"ids": torch.arange(6)[part], "view": 0, "inputs": data[part]}
            found = cached.outputs(batch).logits
            assert found.dtype == torch.float32 and calls == [False] * (part.stop == 6)
            expected = network.double()(data[part].double())
            network.float()
            torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_cache_filled_in_the_first_epoch_is_verified(tmp_path, precision):
    options = (
        "teacher.source=cached",
        "teacher.fill=first_epoch",
        f"hardware.precision={precision}",
        "trainer.epochs=2",
    )
    noted = teach(make_lab(tmp_path), *options).record["teacher"]
    assert noted["verified"] == 16 and noted["largest_error"] < 1e-4
    (folder,) = (tmp_path / "outputs").iterdir()
    assert json.loads((folder / "manifest.json").read_text())
    again = teach(make_lab(tmp_path, force=True), *options).record["teacher"]
    assert again["verified"] == 16 and again["largest_error"] < 1e-4


@pytest.mark.parametrize("finished", [True, False])
def test_rows_of_an_earlier_try_that_are_not_the_teachers_stop_the_stage(tmp_path, monkeypatch, finished):
    options = ("teacher.source=cached", "teacher.fill=first_epoch", "trainer.epochs=1")
    with monkeypatch.context() as patch:
        row = OutputCache.row
        patch.setattr(OutputCache, "row", lambda self, said: row(self, said) + 0.149)
        if not finished:
            patch.setattr(OutputCache, "finish", lambda self, extra=None: None)
        teach(make_lab(tmp_path), *options, "teacher.verify=0")
    with pytest.raises(DamagedCache, match=r"differed from the live teacher by 0\.149"):
        teach(make_lab(tmp_path, force=True), *options)
    assert teach(make_lab(tmp_path, force=True), *options).record["teacher"]["largest_error"] < 1e-4


# batch statistics of a teacher


def test_a_teacher_may_normalise_by_the_statistics_of_each_batch():
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(4)
    network = nn.Sequential(nn.Flatten(), norm, nn.Dropout(0.5), nn.Linear(4, 3))
    norm.running_mean.fill_(3.0)
    teacher, inputs = FrozenTeacher(network, Classification(SPEC), "t"), rows(8)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    plain = teacher.outputs({"inputs": inputs}).logits
    teacher.use_batch_statistics()
    network.train()
    found = teacher.outputs({"inputs": inputs}).logits
    x = inputs.flatten(1).double()
    x = (x - x.mean(0)) / (x.var(0, unbiased=False) + norm.eps).sqrt()
    expected = x @ network[3].weight.double().T + network[3].bias
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, plain, atol=0.1)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    teacher.close()


def test_a_teacher_may_teach_with_dropout_active_and_keeps_all_else_in_eval_mode():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    teacher, inputs = FrozenTeacher(network, Classification(SPEC), "t"), rows(8)
    plain = teacher.outputs({"inputs": inputs}).logits
    teacher.use("dropout")
    network.train()
    torch.manual_seed(1)
    found = torch.stack([teacher.outputs({"inputs": inputs}).logits for _ in range(4000)])
    assert not torch.equal(found[0], found[1])
    torch.testing.assert_close(
        found.mean(0), plain, rtol=0.1, atol=0.1
    )  # a linear map: the mean over drops is the eval output
    x = network[1](inputs.flatten(1))  # by its own statistics, and one of the 16 patterns of dropped units
    masks = torch.cartesian_prod(*[torch.tensor([0.0, 2.0])] * 4)
    possible = (x[0] * masks) @ network[3].weight.T + network[3].bias
    assert (found[:50, 0, None] - possible).abs().amax(-1).amin(-1).max() < 1e-5
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    teacher.close()


def test_a_job_with_a_teacher_that_drops_units_keeps_no_outputs(tmp_path):
    words = (*DROPOUT, "teacher.mode=dropout")
    dropped = teach(make_lab(tmp_path), *words)
    assert dropped.record["teacher"]["source"] == "online" and dropped.record["teacher"]["mode"] == "dropout"
    assert not list(tmp_path.glob("outputs/*"))
    with pytest.raises(UserError, match="differs each time and cannot be kept"):
        teach(make_lab(tmp_path), *words, "teacher.source=cached")
    with pytest.raises(UserError, match="MLP has no dropout"):
        teach(make_lab(tmp_path), *words, "teacher.network.dropout=0")
    usual = teach(make_lab(tmp_path), *DROPOUT, "teacher.mode=eval")
    assert usual.fingerprint != dropped.fingerprint
    assert usual.record["first_step"]["kd"]["value"] != dropped.record["first_step"]["kd"]["value"]


DROPOUT = (
    "teacher=mlp_64",
    "student=mlp_64",
    "student.network.dropout=0",
    "teacher.network.dropout=0.5",
    "trainer.epochs=1",
    "data.limit.train=70",
    "teacher.tolerance=1",
)

BATCH_STATS = (
    "teacher=resnet8_w2",
    "student=resnet8_w2",
    "teacher.mode=batch_stats",
    "trainer.epochs=1",
    "teacher.trainer.epochs=20",
    "teacher.trainer.batch_size=32",
    "teacher.tolerance=1",
)


@pytest.mark.slow
def test_a_job_with_batch_statistics_of_the_teacher_keeps_no_outputs(tmp_path):
    trained = teach(
        make_lab(tmp_path), *BATCH_STATS, "trainer.batch_size=5", "trainer.accumulate=3", "data.limit.train=35"
    )
    assert trained.record["teacher"]["source"] == "online" and trained.record["teacher"]["mode"] == "batch_stats"
    assert trained.stage.teaching["mode"] == "batch_stats" and not list(tmp_path.glob("outputs/*"))
    with pytest.raises(UserError, match="depends on its batch"):
        teach(make_lab(tmp_path), *BATCH_STATS, "teacher.source=cached")
    with pytest.raises(UserError, match="MLP has no batch normalisation"):
        teach(make_lab(tmp_path), *BATCH_STATS, "teacher=mlp_64")
    usual, other = (
        teach(make_lab(tmp_path), *BATCH_STATS, f"teacher.mode={mode}", "data.limit.train=70")
        for mode in ("eval", "batch_stats")
    )
    assert usual.fingerprint != other.fingerprint
    assert usual.record["first_step"]["kd"]["value"] != other.record["first_step"]["kd"]["value"]
