"""Terms where not all samples of a batch have a label: those that ask for labels are means over samples that have one."""

import pytest
import torch
from torch.nn import functional

from kdrun.learning.microbatches import micro_batches
from kdrun.objectives.objective_term import labelled_positions
from kdrun.objectives.terms import build_objective

CONFIG = {"ce": {"weight": 0.5}, "kd": {"weight": 2.0, "temperature": 3.0}}


def batch(labelled, classes=5):
    generator = torch.Generator().manual_seed(2)
    size = len(labelled)
    known = torch.tensor(labelled)
    targets = torch.where(known, torch.randint(classes, (size,), generator=generator), -1)
    return {
        "inputs": torch.randn(size, classes, generator=generator, requires_grad=True),
        "teacher": torch.randn(size, classes, generator=generator),
        "targets": targets,
        "labelled": known,
        "size": size,
        "sizes": {"mask": size, "labelled": int(known.sum())},
    }


def tensors(part):
    given = {
        "student_logits": part["inputs"],
        "teacher_logits": part["teacher"],
        "targets": part["targets"],
        "mask": None,
    }
    return given | labelled_positions(part, None)


def by_hand(given, config=CONFIG):
    """Of the definitions, one sample after another."""
    kept = [row for row in range(given["size"]) if given["labelled"][row]]
    ce = sum(-functional.log_softmax(given["inputs"][row], 0)[given["targets"][row]] for row in kept) / len(kept)
    kd = 0.0
    for student, teacher in zip(given["inputs"], given["teacher"], strict=True):
        p, log_q = functional.softmax(teacher / 3, 0), functional.log_softmax(student / 3, 0)
        kd = kd + 9 * (p * (p.log() - log_q)).sum() / given["size"]
    return 0.5 * ce + 2.0 * kd, ce, kd


@pytest.mark.parametrize("labelled", [[True, False, True, True, False, False], [True] * 6, [False] * 5 + [True]])
@pytest.mark.parametrize("parts", [1, 2, 3, 6])
def test_each_mean_is_exact_however_a_batch_is_divided(labelled, parts):
    given = batch(labelled)
    total, ce, kd = by_hand(given)
    expected = torch.autograd.grad(total, given["inputs"])[0]
    objective, found, gradient = build_objective(CONFIG), {"ce": 0.0, "kd": 0.0}, 0.0
    for part in micro_batches(given, parts):
        value, raw = objective(tensors(part), given["sizes"])
        gradient = gradient + torch.autograd.grad(value, given["inputs"])[0]
        found = {name: found[name] + raw[name].item() for name in found}
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)
    assert found == pytest.approx({"ce": ce.item(), "kd": kd.item()}, rel=1e-5)


def test_a_batch_without_labels_has_no_value_of_the_term_that_needs_them():
    given = batch([False] * 4)
    total, raw = build_objective(CONFIG)(tensors(given), given["sizes"])
    assert set(raw) == {"kd"} and total.item() == pytest.approx(2 * raw["kd"].item())


def relation(student_logits, targets, ids):
    """A loss that looks at all samples of a batch: who shares a class with whom."""
    same = targets[:, None] == targets[None]
    assert (targets >= 0).all() and len(ids) == len(targets)
    return (student_logits @ student_logits.T * same).mean(1)


def test_a_term_that_looks_at_all_samples_is_given_those_with_a_label():
    given = batch([True, False, True, True])
    objective = build_objective(
        {"relation": {"_target_": f"{__name__}.relation"}}, allowed=[__name__.partition(".")[0]]
    )
    known = given["labelled"]
    _, raw = objective({**tensors(given), "ids": torch.arange(4)}, given["sizes"])
    expected = relation(given["inputs"][known], given["targets"][known], torch.arange(3)).mean()
    assert raw["relation"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_without_labels_a_batch_is_what_it_was():
    given = batch([True] * 6)
    whole = {name: value for name, value in tensors(given).items() if name != "labelled"}
    one, two = build_objective(CONFIG)(whole, 6)[0], build_objective(CONFIG)(tensors(given), given["sizes"])[0]
    assert torch.equal(one, two)


def test_which_terms_need_labels():
    assert build_objective({"ce": {}}).needs_labels and build_objective({"ce_kd": {}}).needs_labels
    assert not build_objective(CONFIG).needs_labels and not build_objective({"kd": {}}).needs_labels
