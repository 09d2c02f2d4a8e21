"""Losses on the inside of networks that say one thing of a sequence: what is padding changes neither values nor gradients."""

import pytest
import torch

from kdrun.objectives.attention_relations import attention_relations
from kdrun.objectives.attention_scores import attention_scores
from kdrun.objectives.hidden_states import hidden_states
from kdrun.objectives.objective_term import labelled_positions
from kdrun.objectives.terms import build_objective

LENGTHS = (5, 2, 3)


def terms(name):
    sides = {"student": ["a", "b"], "teacher": ["a", "b"]}
    options = {} if name == "hidden_states" else {"heads": 2, "parts": 1}
    return build_objective({name: {"weight": 1.0, **sides, **options}})


def without_padding(name, students, teachers):
    """What the loss itself gives of one sample that is not padded; its values are proven in test_proofs.py."""
    if name == "attention_scores":
        return attention_scores(students, teachers, heads=2)
    loss = hidden_states if name == "hidden_states" else attention_relations
    options = {} if name == "hidden_states" else {"heads": 2}
    return sum(loss(s, t, **options) for s, t in zip(students, teachers, strict=True))


@pytest.mark.parametrize("name", ["hidden_states", "attention_scores", "attention_relations"])
def test_padding_is_not_seen(name):
    generator = torch.Generator().manual_seed(0)
    random = [torch.randn(3, 5, 8, generator=generator, dtype=torch.float64) for _ in range(4)]
    inside = torch.arange(5) < torch.tensor(LENGTHS)[:, None]
    for tensor in random:
        tensor[~inside] = float("nan")
    students = [tensor.clone().requires_grad_() for tensor in random[:2]]
    targets, mask = torch.zeros(3, dtype=torch.int64), torch.tensor([True, True, False])
    tensors = {"targets": targets, "mask": mask, "inside": inside, "captured": {name: (students, random[2:])}}
    total, raw = terms(name)(tensors, 2)
    expected = [
        without_padding(name, *([x[row : row + 1, :length] for x in side] for side in (random[:2], random[2:])))
        for row, length in enumerate(LENGTHS)
    ]
    assert raw[name].item() == pytest.approx((expected[0] + expected[1]).item() / 2, rel=1e-5)
    total.backward()
    assert all(x.grad.isfinite().all() and (x.grad[~inside] == 0).all() and (x.grad[2] == 0).all() for x in students)


def test_labels_of_samples_and_of_positions():
    labelled = torch.tensor([True, False])
    flat = labelled_positions({"labelled": labelled}, torch.tensor([True, True]))["labelled"]
    assert flat.tolist() == [True, False]
    rows = labelled_positions({"labelled": labelled}, torch.tensor([[True, False], [True, True]]))["labelled"]
    assert rows.tolist() == [[True, False], [False, False]]
