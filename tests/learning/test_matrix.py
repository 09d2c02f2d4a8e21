"""What every shipped objective promises of a training step, whichever terms it is made of: over the rows of shipped.py."""

from __future__ import annotations

import copy
import io
import sys
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from forked import Forked
from torch.nn.modules.batchnorm import _BatchNorm

from kdrun.learning.cache import CachedTeacher, OutputCache
from kdrun.learning.microbatches import micro_batches

from . import shipped
from .shipped import EVERY, NAMES, WORDS, assembled, data_of

every_objective = pytest.mark.parametrize("name", EVERY)


TRANSFORMERS = ("minilm", "tinybert", "minilm_text", "tinybert_text")


def skip_without_transformers(name: str) -> None:
    if name in TRANSFORMERS:
        pytest.importorskip("transformers")


@lru_cache
def whole(name: str):
    """Values and gradients of the whole batch in one process."""
    made = assembled(name)
    return made.of([made.batch])


def close(found, wanted, relative=1e-4):
    values, gradients = found
    torch.testing.assert_close(values, wanted[0], rtol=relative, atol=1e-6)
    largest = float(wanted[1].abs().max())
    assert largest > 0 and gradients.isfinite().all()
    torch.testing.assert_close(gradients, wanted[1], rtol=0.0, atol=relative * largest)


@every_objective
def test_two_parts_of_a_batch_give_its_gradient_unless_samples_are_compared(name):
    """A loss that compares samples (whole_batch), which trainer.accumulate is refused with, is another one of each part. Batch
    normalisation, the student's and that of losses (batch_norm), is not looked at here: it normalises each part by itself."""
    skip_without_transformers(name)
    if name == "ofd":
        pytest.skip("the margin of the first part does not count the responses of the second")
    made = assembled(name)
    parts = micro_batches(made.batch, 2)
    assert len(parts) == 2
    compared = torch.tensor([term.whole_batch for term in made.objective.active])
    split = made.of(parts)
    if not compared.any():
        close(split, whole(name))
    else:
        values, together = split[0], whole(name)[0]
        torch.testing.assert_close(values[~compared], together[~compared], rtol=1e-4, atol=1e-6)
        apart = ((values - together).abs() > 1e-4 * together.abs())[compared]
        assert apart.any() and (
            name == "mlkd_strong" or apart.all()
        )  # two of its terms are of one level, which compares none


@every_objective
def test_in_bfloat16_values_and_gradients_are_finite_and_close(name):
    skip_without_transformers(name)
    made, (values, gradients) = assembled(name), whole(name)
    with torch.autocast("cpu", torch.bfloat16):
        narrow, slopes = made.of([made.batch])
    assert narrow.isfinite().all() and slopes.isfinite().all() and narrow.dtype == torch.float32
    torch.testing.assert_close(narrow, values, rtol=0.1, atol=0.02)
    assert torch.nn.functional.cosine_similarity(slopes, gradients, dim=0) > 0.9


@pytest.mark.slow
def test_two_ranks_give_what_one_does(tmp_path):
    """Averaged over ranks with half of the batch each: losses over the whole batch compare the samples of both.

    Without TRANSFORMERS, whose import takes as long as all others here; their losses are per sample, as parts of a batch show.
    """
    names = [name for name in EVERY if name not in TRANSFORMERS]
    running = [
        Forked([sys.executable, str(Path(shipped.__file__)), str(rank), str(tmp_path), *names]) for rank in range(2)
    ]
    assert [process.wait(400) for process in running] == [0, 0]
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name in names:
        mean = [sum(parts) / 2 for parts in zip(*(rank[name] for rank in ranks), strict=True)]
        close(mean, whole(name))


IMAGES = [name for name in NAMES if name not in WORDS]


@pytest.mark.parametrize("name", [name for name in IMAGES if name != "ce"])
def test_a_teacher_read_from_disk_teaches_as_the_live_one(name, stored):
    made = assembled(name)
    if made.teacher is None or made.objective.captures("teacher"):
        pytest.skip("has no teacher, or one that is asked in every step")
    close(made.of([made.batch], taught=stored), whole(name), relative=1e-5)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The outputs of the teacher of all IMAGES with its features."""
    module, _ = data_of("")
    made = assembled("cross_window")  # compares features as well
    width = made.backend.task.feature_width(made.teacher.network)
    folder = tmp_path_factory.mktemp("outputs")
    cache = OutputCache(folder, module.train_ids, 1, module.spec.outputs, {"teacher": "kd"}, width)
    cache.build(made.teacher, module.inputs, torch.device("cpu"))
    return CachedTeacher(cache, "kd")


@every_objective
def test_a_stage_goes_on_from_a_checkpoint_to_the_bit(name):
    """With what terms and adaptors learn and remember: crd's memory, ctkd's temperature, batch normalisation."""
    skip_without_transformers(name)
    made = assembled(name, training=True)
    for term in made.objective.active:
        modules = term.function.modules() if isinstance(term.function, torch.nn.Module) else ()
        normalises = any(isinstance(module, _BatchNorm) for module in modules)
        assert normalises == getattr(term.function, "batch_norm", False), "what docs/objectives.md says of ranks"
    if not made.backend.beside:
        pytest.skip("neither learns nor remembers anything beside the student")

    def optimizer_of(it):
        parts = (it.student, *it.backend.beside.values())
        return torch.optim.SGD([p for part in parts for p in part.parameters()], lr=1e-3, momentum=0.9)

    def stepped(it, optimizer, step):
        torch.manual_seed(step)  # of dropout; kept in checkpoints
        values, _ = it.of([{**it.batch, "step": step, "epoch": step}])
        optimizer.step()
        return values

    def state(it, optimizer):
        return {"student": it.student.state_dict(), "optimizer": optimizer.state_dict()} | {
            key: part.state_dict() for key, part in it.backend.beside.items()
        }

    optimizer = optimizer_of(made)
    stepped(made, optimizer, 0)
    file = io.BytesIO()
    torch.save(state(made, optimizer), file)
    values = stepped(made, optimizer, 1)
    resumed = assembled(name, training=True)
    kept, other = torch.load(io.BytesIO(file.getvalue()), weights_only=True), optimizer_of(resumed)
    resumed.student.load_state_dict(kept["student"])
    for key, part in resumed.backend.beside.items():
        part.load_state_dict(kept[key])
    other.load_state_dict(copy.deepcopy(kept["optimizer"]))
    assert torch.equal(stepped(resumed, other, 1), values)
    for mine, theirs in zip(_tensors(state(resumed, other)), _tensors(state(made, optimizer)), strict=True):
        assert torch.equal(mine, theirs)


def _tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
