"""A step asks the device for nothing: on the meta device, whose tensors have no values, whatever had to wait for one fails."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from kdrun.data.host import HOST, MOVES, on_host, placed
from kdrun.domains.images.spec import DataSpec
from kdrun.domains.images.task import Classification
from kdrun.domains.load import load_data
from kdrun.learning.backend import Backend
from kdrun.learning.cache import CachedTeacher, OutputCache
from kdrun.learning.microbatches import micro_batches
from kdrun.learning.step import train_step
from kdrun.networks.resnet import ResNet
from kdrun.objectives.terms import build_objective

from . import shipped
from .stages import cell

META = torch.device("meta")
SPEC = DataSpec("made up", tuple("0123456789"), (1, 8, 8), {"train": 6, "val": 0, "test": 0}, (0.5,), (0.5,))
BOTH = {"ce": {"weight": 0.5}, "kd": {"weight": 0.5, "temperature": 4.0}}


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """The meta device has no autocast to ask for."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *device: False)


def network() -> ResNet:
    with torch.device("meta"):
        return ResNet(8, 2, in_channels=1, image_size=8)


def images() -> dict:
    return {"ids": torch.arange(6), "inputs": torch.randn(6, 1, 8, 8), "targets": torch.arange(6), "view": 0, "size": 6}


class Live:
    def __init__(self):
        self.network, self.task = network().eval(), Classification(SPEC)

    @torch.no_grad()
    def outputs(self, batch, step=0):
        return self.task.predict(self.network, batch["inputs"])


def cached(folder) -> CachedTeacher:
    stored = OutputCache(folder, torch.arange(6), 1, 10, {"of": "a test"})
    stored.write(0, torch.arange(6), type("Said", (), {"logits": torch.randn(6, 10)}))
    stored.finish()
    teacher = CachedTeacher(stored, "a test")
    teacher.to(META)
    return teacher


def step(student, task, teacher, objective, batch, **options) -> list[torch.Tensor]:
    backend = Backend(task, student, **options)
    backend.trained = [list(student.parameters())]
    backend.seen = dict.fromkeys(BOTH)  # the first step looks at values: it is another
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9)
    return train_step(student, teacher, build_objective(objective), batch, optimizer, 1, backend)


@pytest.mark.parametrize("source", ["live", "cached"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_on_images_waits_for_nothing(source, accumulate, tmp_path):
    teacher = Live() if source == "live" else cached(tmp_path)
    values = step(
        network(), Classification(SPEC), teacher, BOTH, placed(images(), META), accumulate=accumulate, clip=1.0
    )
    assert [value.device.type for value in values] == 3 * ["meta"]


class Positions:
    """A task of positions, some of which count."""

    def predict(self, network, inputs):
        return network(inputs)

    def tensors(self, batch, prediction, taught):
        return {"student_logits": prediction, "teacher_logits": taught, **{n: batch[n] for n in ("targets", "mask")}}


class Twice:
    def outputs(self, batch, step=0):
        return batch["inputs"] * 2


def positions() -> dict:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    batch = {"ids": torch.arange(2), "inputs": torch.randn(2, 3, 5), "targets": torch.ones(2, 3, dtype=torch.int64)}
    return {
        **batch,
        "mask": mask,
        "labelled": torch.tensor([True, False]),
        "view": 0,
        "sizes": {"mask": 3, "labelled": 2},
    }


def test_positions_that_count_are_found_in_main_memory():
    torch.manual_seed(0)
    student, batch = nn.Linear(5, 5), positions()
    here = step(copy.deepcopy(student), Positions(), Twice(), BOTH, batch)
    beside = step(copy.deepcopy(student), Positions(), Twice(), BOTH, placed(batch, torch.device("cpu")))
    assert all(torch.equal(*pair) for pair in zip(here, beside, strict=True))
    assert step(student.to(META), Positions(), Twice(), BOTH, placed(batch, META))[0].is_meta
    with pytest.raises((RuntimeError, NotImplementedError)):  # what the test counts is seen
        step(student, Positions(), Twice(), BOTH, {**placed(batch, META), HOST: {}})


def test_parts_of_a_batch_with_images_are_cut_in_main_memory():
    slots = torch.tensor([[True, True, False], [False, False, False], [True, True, True], [True, False, False]])
    inputs = {"input_ids": torch.zeros(4, 3, dtype=torch.int64), "image_features": torch.randn(3, 2, 4)}
    batch = placed({"ids": torch.arange(4), "inputs": inputs, "visual_mask": slots, "size": 4}, META)
    first, second = micro_batches(batch, 2)
    assert len(first["inputs"]["image_features"]) == 1 and len(second["inputs"]["image_features"]) == 2
    assert on_host(second, "ids").tolist() == [2, 3]


@pytest.mark.parametrize(
    "words",
    [(), ("data.augment.crop=2",), ("data.augment.flip=true",), ("data.augment.crop=1", "data.augment.flip=true")],
)
def test_raw_pixels_are_cropped_mirrored_and_normalised_where_they_are_used(words):
    """A quarter of the bytes on the way, and on a CPU the same bits."""
    config = cell(*words)
    module = load_data(config["data"], config["paths"])
    plain, raw = (module.train_loader(64, 0) for _ in range(2))
    raw.raw = True
    for batch, other in zip(plain, raw, strict=True):
        assert other["inputs"].dtype == torch.uint8 and (MOVES in other) == bool(words)
        pinned = {name: list(value) if isinstance(value, tuple) else value for name, value in other.items()}
        there = placed(pinned, torch.device("cpu"))
        assert (
            torch.equal(there["inputs"], batch["inputs"])
            and there["inputs"].is_contiguous()
            and torch.equal(there["ids"], batch["ids"])
        )


WAITS = {
    "crd": "its negatives are drawn in main memory, by labels that are on the device",
    "tinybert_text": "transformers looks whether a row is padded",
    "word_kd_vocabulary": "its backward pass looks whether all positions count alike",
}
"""Objectives whose steps wait for the device, and for what. Not seen here: networks of transformers are given no padding mask on the meta
device (text encoders and language models), so that minilm_text passes; on a device transformers still looks whether a row is padded."""


@pytest.mark.parametrize("name", shipped.EVERY)
def test_no_step_of_a_shipped_objective_waits_but_those_that_say_so(name, monkeypatch):
    """Images, tables and texts; forward pass, teacher, captures, terms and backward pass of a step that is not the first."""
    plain = torch.autocast
    monkeypatch.setattr(
        torch, "autocast", lambda at, *args, **kw: nullcontext() if at == "meta" else plain(at, *args, **kw)
    )
    if any("transformers" in word or "encoder" in word for word in shipped.WORDS.get(name, ())):
        pytest.importorskip("transformers")
    made = shipped.assembled(name, training=True)
    for part in (made.student, *made.backend.beside.values()):
        part.to(META)
    if made.teacher is not None:
        made.teacher.to(META)
    batch = placed(made.batch, META)
    if name in WAITS:
        with pytest.raises((RuntimeError, NotImplementedError)):
            made.of([batch])
    else:
        values, gradients = made.of([batch])
        assert values.is_meta and gradients.is_meta
