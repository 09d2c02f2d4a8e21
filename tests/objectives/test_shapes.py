"""Shapes nobody chose: leading dimensions, classes, samples, channels and grids of any size, for every shipped loss."""

import pytest
import torch
from feature_losses import begun, called, drawn, every_proof, expected
from hypothesis import given, settings
from hypothesis import strategies as st
from logit_losses import OF_BATCHES, TOP, every_loss, made

few = settings(max_examples=4, deadline=None, derandomize=True)


@every_loss
@few
@given(
    shape=st.lists(st.integers(1, 3), min_size=1, max_size=3), classes=st.integers(TOP + 1, 9), seed=st.integers(0, 99)
)
def test_losses_on_logits_have_a_value_for_each_position_whatever_stands_before_the_classes(loss, shape, classes, seed):
    tensors = made(*shape, classes=classes, dtype=torch.float64, seed=seed)
    values = loss(tensors)
    assert values.shape == tuple(shape)
    dimensions = {name: len(tensor.shape) - len(shape) for name, tensor in tensors.items() if tensor is not None}
    flat = {name: tensors[name].detach().reshape(-1, *tensors[name].shape[len(shape) :]) for name in dimensions}
    assert all(tensor.dim() == 1 + dimensions[name] for name, tensor in flat.items())
    for place, value in enumerate(values.flatten()):
        alone = loss({name: tensor[place : place + 1] for name, tensor in flat.items()})
        torch.testing.assert_close(alone[0], value.detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", OF_BATCHES, ids=lambda loss: loss.name)
@few
@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=3), classes=st.integers(2, 9), seed=st.integers(0, 99))
def test_losses_over_a_batch_have_a_value_for_each_position_of_it(loss, shape, classes, seed):
    tensors = made(*shape, classes=max(classes, TOP), dtype=torch.float64, seed=seed)
    values = loss(tensors)
    assert values.shape == tuple(shape) and values.isfinite().all()
    flat = {
        name: tensor if tensor is None else tensor.detach().flatten(0, len(shape) - 1)
        for name, tensor in tensors.items()
    }
    torch.testing.assert_close(loss(flat).view(values.shape), values.detach())


@every_proof
@few
@given(more=st.integers(0, 3), times=st.integers(1, 2), batch=st.integers(2, 6), seed=st.integers(0, 99))
def test_losses_on_features_take_any_channels_grid_and_number_of_samples(proof, more, times, batch, seed):
    """Values are those of the slow reference, which is too slow for larger grids: there they are finite."""
    for shapes in proof.trials:
        changed = [tuple((c + more, *(side * times for side in grid)) for c, *grid in pair) for pair in shapes]
        pairs = drawn(changed, batch=batch, seed=seed)
        values = called(proof, begun(proof, pairs), pairs)
        assert values.shape == (batch,) and values.isfinite().all()
        if times == 1 and batch <= 4:
            wanted = expected(proof, begun(proof, pairs), pairs)
            assert values.mean().item() == pytest.approx(wanted, rel=1e-8, abs=1e-12)
