"""What every shipped loss on features promises, one test per promise, over the rows of tests/feature_losses.py."""

import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import two_ranks
from feature_losses import PROOFS, begun, drawn, every_proof, of_batches, value
from forked import Forked

from kdrun.objectives.terms import build_objective


@every_proof
def test_equals_the_slow_reference(proof):
    for shapes in proof.shapes:
        pairs = drawn([shapes])
        expected = proof.reference(*(x.detach() for x in pairs[0]), **proof.options)
        assert value(begun(proof, pairs), pairs).item() == pytest.approx(expected, rel=1e-6, abs=1e-12)
        (term,) = begun(proof, pairs).active
        values = term.function(*(x.detach() for x in pairs[0]), **term.options)  # in float64, as it is there
        assert values.mean().item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@every_proof
def test_pairs_of_layers_add_up(proof):
    pairs = drawn(proof.shapes)
    single = [value(begun(proof, [pair]), [pair]).item() for pair in pairs]
    assert value(begun(proof, pairs), pairs).item() == pytest.approx(sum(single), rel=1e-6)


@every_proof
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_equal_features_give_the_documented_minimum(proof, dtype):
    for ours, _ in proof.shapes:
        pairs = drawn([(ours, ours)], dtype=dtype)
        pairs = [(student, student.detach().clone()) for student, _ in pairs]
        assert value(begun(proof, pairs), pairs).item() == proof.minimum
        others = drawn([(ours, ours)], seed=3, dtype=dtype)
        assert value(begun(proof, others), others).item() > proof.minimum


@every_proof
def test_gradient_is_the_derivative_of_the_value(proof):
    for shapes in proof.shapes:
        (term,) = begun(proof, drawn([shapes])).active
        ((student, teacher),) = drawn([shapes], batch=3)
        function = partial(term.function, teacher_features=teacher, **term.options)
        assert torch.autograd.gradcheck(function, student)


@every_proof
def test_gradient_reaches_the_student_and_never_the_teacher(proof):
    pairs = [(student, teacher.requires_grad_()) for student, teacher in drawn(proof.shapes)]
    value(begun(proof, pairs), pairs).backward()
    assert all(student.grad.abs().sum() > 0 and teacher.grad is None for student, teacher in pairs)


def changed(how: str, features: torch.Tensor) -> torch.Tensor:
    """Features with a change that a loss may promise not to see."""
    features = features.detach()
    generator = torch.Generator().manual_seed(9)
    factors = torch.rand(len(features), generator=generator, dtype=torch.float64) + 0.5
    flat = features.flatten(1)
    if how == "scaled":
        return features * factors.view(-1, *(1,) * (features.dim() - 1))
    if how == "all_scaled":
        return 7.0 * features
    if how == "channels":
        return features.flip(1)
    if how == "moved":
        return (flat + torch.randn(flat.shape[1], generator=generator, dtype=torch.float64)).view_as(features)
    rotation = torch.linalg.qr(torch.randn(flat.shape[1], flat.shape[1], generator=generator, dtype=torch.float64))[0]
    return (flat @ rotation).view_as(features)


@pytest.mark.parametrize(
    ("proof", "how"), [(p, how) for p in PROOFS for how in p.leaves], ids=lambda x: x if isinstance(x, str) else x.name
)
def test_changes_that_it_does_not_see(proof, how):
    for shapes in proof.shapes:
        ((student, teacher),) = drawn([shapes])
        expected = value(begun(proof, [(student, teacher)]), [(student, teacher)]).item()
        moved = [(changed(how, student), teacher)]
        assert value(begun(proof, moved), moved).item() == pytest.approx(expected, rel=1e-5)


@every_proof
def test_the_order_of_the_batch_is_of_no_account(proof):
    if proof.options.get("kernel") == "adjacent":
        pytest.skip("says that it depends on the order")
    pairs = drawn(proof.shapes)
    turned = [(student.flip(0), teacher.flip(0)) for student, teacher in pairs]
    expected = value(begun(proof, pairs), pairs).item()
    assert value(begun(proof, turned), turned, ids=torch.arange(5).flip(0)).item() == pytest.approx(expected, rel=1e-6)


@every_proof
def test_parts_of_a_batch_add_up_where_samples_are_not_compared_with_each_other(proof):
    pairs = drawn(proof.shapes, batch=7)
    objective = begun(proof, pairs)
    whole, parts = value(objective, pairs).item(), 0.0
    for rows in (slice(0, 2), slice(2, 7)):
        parts += value(begun(proof, pairs), [(s[rows], t[rows]) for s, t in pairs], count=7).item()
    assert objective.active[0].whole_batch == proof.batch
    assert (parts == pytest.approx(whole, rel=1e-6)) != proof.batch


@every_proof
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("student", ["zeros", "constant", "large", "one_zero", "duplicates"])
@pytest.mark.parametrize("teacher", ["zeros", "large", "constant"])
def test_degenerate_features_give_finite_values_and_gradients(proof, dtype, student, teacher):
    def filled(how, features):
        features = features.detach().float().clamp(-3, 3)
        if how in ("zeros", "constant"):
            features = torch.full_like(features, float(how == "constant"))
        elif how == "large":
            features = features * (proof.largest / 3)
        elif how == "one_zero":
            features[0] = 0.0
        else:
            features[1] = features[0]
        return features.to(dtype)

    for shapes in proof.shapes:
        ((s, t),) = drawn([shapes])
        pairs = [(filled(student, s).requires_grad_(), filled(teacher, t))]
        found = value(begun(proof, pairs), pairs)
        assert found.isfinite() and found.dtype == torch.float32
        factor = proof.largest if student == "large" else 1.0
        assert torch.autograd.grad(found / factor, pairs[0][0])[0].isfinite().all()


@every_proof
def test_numbers_of_samples_that_differ_are_refused(proof):
    ((student, teacher),) = drawn(proof.shapes[:1])
    with pytest.raises(ValueError, match=r"cannot be compared|disagree"):
        value(begun(proof, [(student, teacher)]), [(student, teacher[:3])])


@every_proof
def test_under_autocast_values_are_those_of_float32(proof):
    pairs = drawn(proof.shapes, dtype=torch.float32)
    expected = value(begun(proof, pairs), pairs)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(value(begun(proof, pairs), pairs), expected)


@of_batches
@pytest.mark.parametrize("batch", [1, 2])
def test_a_batch_of_one_sample_compares_nothing_and_is_finite(proof, batch):
    for shapes in proof.shapes:
        pairs = drawn([shapes], batch=batch)
        found = value(begun(proof, pairs), pairs)
        assert found.isfinite()
        assert torch.autograd.grad(found, pairs[0][0])[0].isfinite().all()


def test_a_loss_says_which_settings_it_has_by_default():
    (term,) = build_objective({"at": {"student": "stage1", "teacher": "stage1"}}).terms
    assert (term.pairs.adaptor, term.pairs.resize) == ("none", "none")
    (term,) = build_objective({"hint": {"student": "stage1", "teacher": "stage1"}}).terms
    assert (term.pairs.adaptor, term.pairs.resize) == ("auto", "auto")


def test_samples_are_compared_across_ranks(tmp_path):
    """Averaged over two ranks with unlike shares of a batch, values and gradients are those of one process."""
    script = str(Path(two_ranks.__file__))
    running = [Forked([sys.executable, script, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [process.wait(60) for process in running] == [0, 0]
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for proof in PROOFS:
        if not proof.batch:
            continue
        pairs = drawn(proof.shapes, batch=7)
        whole = value(begun(proof, pairs), pairs)
        assert sum(rank[proof.name][0] for rank in ranks).item() / 2 == pytest.approx(whole.item(), rel=1e-6)
        expected = torch.autograd.grad(whole, [student for student, _ in pairs])
        for number, gradient in enumerate(expected):
            found = torch.cat([rank[proof.name][1][number] for rank in ranks]) / 2
            torch.testing.assert_close(found, gradient, rtol=1e-5, atol=1e-9)
