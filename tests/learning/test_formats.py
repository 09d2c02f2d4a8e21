"""Number formats of teachers: of their weights while they teach, and of what is kept of their outputs."""

import numpy as np
import pytest
import torch

from kdrun.domains.task import Prediction
from kdrun.job.compose import compose
from kdrun.learning import teaching
from kdrun.learning.cache import OutputCache, cache_bytes
from kdrun.networks.build import build_network, to_be_loaded
from kdrun.problems import UserError
from kdrun.slots import allowing

from .stages import cell, make_lab, teach

WORDS = ("trainer.epochs=2", "teacher.trainer.epochs=4")


def test_defaults_change_no_hash():
    plain = compose(["data=digits"])
    assert compose(["data=digits", "teacher.precision=null", "teacher.cache_format=fp32"]).hash == plain.hash
    assert compose(["data=digits", "teacher.precision=bf16"]).hash != plain.hash


@pytest.mark.parametrize("source", ["online", "cached"])
def test_a_teacher_in_bf16_teaches_what_it_teaches_in_fp32(source, tmp_path, monkeypatch):
    frozen, live = [], teaching.live_teacher
    monkeypatch.setattr(teaching, "live_teacher", lambda *of: frozen.append(live(*of)) or frozen[-1])
    plain = teach(make_lab(tmp_path / "plain"), *WORDS, f"teacher.source={source}")
    narrow = teach(make_lab(tmp_path / "narrow"), *WORDS, f"teacher.source={source}", "teacher.precision=bf16")
    kinds = [{p.dtype for p in each.network.parameters() if p.dim() > 1} for each in frozen]
    assert kinds == [{torch.float32}, {torch.bfloat16}]
    assert all(p.dtype == torch.float32 for p in frozen[1].network.parameters() if p.dim() == 1)
    losses = [result.record["val"]["last"]["loss"] for result in (plain, narrow)]
    assert losses[1] == pytest.approx(losses[0], rel=0.02) and losses[0] != losses[1]
    measured = [result.record["teacher"]["accuracy"] for result in (plain, narrow)]
    assert measured[1] == pytest.approx(measured[0], abs=0.02)


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_a_cache_of_half_the_size(kind, tmp_path):
    plain = teach(make_lab(tmp_path / "plain"), *WORDS, "teacher.source=cached")
    half = teach(make_lab(tmp_path / kind), *WORDS, "teacher.source=cached", f"teacher.cache_format={kind}")
    sizes = [next((tmp_path / name).glob("outputs/*/logits.npy")).stat().st_size - 128 for name in ("plain", kind)]
    assert sizes[0] == 2 * sizes[1]
    losses = [result.record["val"]["last"]["loss"] for result in (plain, half)]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_rows_come_back_rounded_once(tmp_path):
    ids, logits = torch.arange(4), torch.randn(4, 3) * 20
    logits[0, 0] = -torch.inf
    for kind, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        stored = OutputCache(tmp_path / kind, ids, 1, 3, {}, number_format=kind)
        stored.write(0, ids, Prediction(logits))
        assert torch.equal(stored.read(0, ids), logits.to(dtype).float())
        stored.finish()
        again = OutputCache(tmp_path / kind, ids, 1, 3, {}, number_format=kind)
        assert again.complete and torch.equal(again.read(0, ids), logits.to(dtype).float())


def test_what_fp16_cannot_hold_is_refused(tmp_path):
    stored = OutputCache(tmp_path, torch.arange(1), 1, 1, {}, number_format="fp16")
    with pytest.raises(FloatingPointError, match="65,504"):
        stored.write(0, torch.arange(1), Prediction(torch.tensor([[1e5]])))


def test_disk_that_a_cache_takes_is_told(tmp_path):
    module = make_lab(tmp_path).workshop.data(cell()["data"])
    whole, half = cache_bytes(module), cache_bytes(module, number_format="bf16")
    assert whole - half == 2 * module.spec.sizes["train"] * 10
    assert np.dtype(np.uint16).itemsize == 2


def test_another_format_is_refused():
    with pytest.raises(UserError, match="cache_format"):
        compose(["data=digits", "teacher.cache_format=int8"])


def test_a_teacher_is_in_memory_once_while_it_is_loaded(tmp_path, monkeypatch):
    """It is built without memory and given the tensors of its file; its outputs are those of one that is built with weights and filled."""
    empty, load = [], teaching.load_weights

    def loading(network, *of, **options):
        empty.append(all(tensor.is_meta for tensor in network.state_dict().values()))
        return load(network, *of, **options)

    monkeypatch.setattr(teaching, "load_weights", loading)
    lean = teach(make_lab(tmp_path / "lean"), *WORDS, "teacher.source=online")
    monkeypatch.setattr(teaching, "to_be_loaded", lambda node, spec: build_network(node, spec, 0))
    full = teach(make_lab(tmp_path / "full"), *WORDS, "teacher.source=online")
    assert empty == [True, False]
    assert lean.record["val"]["last"] == full.record["val"]["last"]


class Beside(torch.nn.Linear):
    """kind: what of it no weights file has."""

    def __init__(self, kind: str = "none", num_classes: int = 10):
        super().__init__(64, num_classes)
        if kind == "buffer":
            self.register_buffer("scale", torch.ones(1), persistent=False)
        if kind == "attribute":
            self.scale = torch.ones(1)
        if kind == "tied":
            self.also = self.weight

    def forward(self, images):
        return super().forward(images.flatten(1)) * getattr(self, "scale", 1)


@pytest.mark.parametrize("kind", ["none", "buffer", "attribute", "tied"])
def test_what_a_file_does_not_have_is_built(kind, tmp_path):
    spec = make_lab(tmp_path).workshop.data(cell()["data"]).spec
    with allowing(["learning"]):
        network = to_be_loaded({"_target_": "learning.test_formats.Beside", "kind": kind}, spec)
    assert network.weight.is_meta == (kind == "none")


def test_widths_are_learned_without_weights(tmp_path, monkeypatch):
    workshop = make_lab(tmp_path).workshop
    module, seen = workshop.data(cell()["data"]), []
    task = type(module.task())
    width = task.feature_width
    monkeypatch.setattr(
        task, "feature_width", lambda self, net: seen.append(next(net.parameters()).is_meta) or width(self, net)
    )
    assert workshop.width(cell()["student"]["network"], module) == 8 and seen == [True]
