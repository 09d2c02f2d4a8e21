"""What every shipped loss on features promises, one test per promise, over the rows of tests/feature_losses.py."""

import sys
from pathlib import Path

import pytest
import torch
import two_ranks
from feature_losses import PROOFS, begun, beside, called, drawn, every_proof, expected, of_batches, value
from forked import Forked

from kdrun.objectives.terms import build_objective


@every_proof
def test_equals_the_slow_reference(proof):
    for shapes in proof.trials:
        pairs = drawn(shapes)
        wanted = expected(proof, begun(proof, pairs), pairs)
        assert value(begun(proof, pairs), pairs).item() == pytest.approx(wanted, rel=1e-6, abs=1e-12)
        assert called(proof, begun(proof, pairs), pairs).mean().item() == pytest.approx(wanted, rel=1e-9, abs=1e-12)


@every_proof
def test_values_are_those_of_samples(proof):
    """One for each, of the shape that terms have to give."""
    for shapes in proof.trials:
        pairs = drawn(shapes)
        assert called(proof, begun(proof, pairs), pairs).shape == (5,)


@every_proof
def test_pairs_of_layers_add_up_where_a_loss_says_so(proof):
    if proof.lists:
        pytest.skip("is given all layers at once")
    pairs = drawn(proof.shapes)
    further = beside(pairs[:1])  # classifiers are of one width
    further = {name: further[name] for name in proof.further}
    if further:
        pairs = [pairs[0], pairs[0]]
    single = [value(begun(proof, [pair]), [pair], **further).item() for pair in pairs]
    together = begun(proof, pairs)
    added = getattr(together.active[0].function, "pairs", "mean") == "sum"  # else the mean
    wanted = sum(single) if added else sum(single) / len(single)
    assert value(together, pairs, **further).item() == pytest.approx(wanted, rel=1e-6)


@every_proof
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_equal_features_give_the_documented_minimum(proof, dtype):
    if proof.minimum is None:
        pytest.skip("says that it is not at its minimum there")
    for shapes in proof.trials:
        pairs = drawn([(ours, ours) for ours, _ in shapes], dtype=dtype)
        pairs = [(student, student.detach().clone()) for student, _ in pairs]
        assert value(begun(proof, pairs), pairs).item() == proof.minimum
        others = drawn([(ours, ours) for ours, _ in shapes], seed=3, dtype=dtype)
        assert value(begun(proof, others), others).item() > proof.minimum


@every_proof
def test_gradient_is_the_derivative_of_the_value(proof):
    for shapes in proof.trials:
        pairs = drawn(shapes, batch=3)
        students, teachers = map(list, zip(*pairs, strict=True))

        def function(*features, shapes=shapes, teachers=teachers, pairs=pairs):
            objective = begun(proof, pairs)  # what it remembers begins anew with each call
            for module in objective.modules.values():
                if hasattr(module, "normalisers"):  # constants that are measured on the first batch
                    module.normalisers.fill_(9.0)
            return called(proof, objective, list(zip(features, teachers, strict=True))).sum()

        assert torch.autograd.gradcheck(function, students, fast_mode=True)


@every_proof
def test_gradient_reaches_the_student_and_what_is_trained_along_and_never_the_teacher(proof):
    for shapes in proof.trials:
        pairs = [(student, teacher.requires_grad_()) for student, teacher in drawn(shapes)]
        further = {
            name: tuple(part.requires_grad_() for part in tensor) if isinstance(tensor, tuple) else tensor
            for name, tensor in beside(pairs).items()
        }
        objective = begun(proof, pairs)
        value(objective, pairs, **further).backward()
        assert all(student.grad.abs().sum() > 0 and teacher.grad is None for student, teacher in pairs)
        assert all(part.grad is None for part in further["teacher_classifier"])
        for module in objective.modules.values():
            assert all(parameter.grad is not None for parameter in module.parameters())


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
    for shapes in proof.trials:
        pairs = drawn(shapes)
        before = value(begun(proof, pairs), pairs).item()
        moved = [(changed(how, student), teacher) for student, teacher in pairs]
        assert value(begun(proof, moved), moved).item() == pytest.approx(before, rel=1e-5)


@every_proof
def test_the_order_of_the_batch_is_of_no_account(proof):
    if proof.ordered:
        pytest.skip("says that it depends on the order")
    for shapes in proof.trials:
        pairs = drawn(shapes)
        turned = [(student.flip(0), teacher.flip(0)) for student, teacher in pairs]
        further = {
            name: tensor.flip(0) if isinstance(tensor, torch.Tensor) else tensor
            for name, tensor in beside(pairs).items()
        }
        before = value(begun(proof, pairs), pairs).item()
        assert value(begun(proof, turned), turned, **further).item() == pytest.approx(before, rel=1e-6)


@every_proof
def test_parts_of_a_batch_add_up_where_samples_are_not_compared_with_each_other(proof):
    for shapes in proof.trials:
        pairs = drawn(shapes, batch=7)
        objective = begun(proof, pairs)
        whole, parts = value(objective, pairs).item(), 0.0
        for rows in (slice(0, 2), slice(2, 7)):
            part = [(student[rows], teacher[rows]) for student, teacher in pairs]
            parts += value(begun(proof, part), part, count=7, **beside(pairs, rows)).item()
        assert objective.active[0].whole_batch == proof.batch
        assert (parts == pytest.approx(whole, rel=1e-6)) != (proof.batch or proof.normalizes)


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

    for shapes in proof.trials:
        pairs = [(filled(student, s).requires_grad_(), filled(teacher, t)) for s, t in drawn(shapes)]
        found = value(begun(proof, pairs), pairs)
        assert found.isfinite() and found.dtype == torch.float32
        factor = proof.largest if student == "large" else 1.0
        gradients = torch.autograd.grad(found / factor, [s for s, _ in pairs])
        assert all(gradient.isfinite().all() for gradient in gradients)


@every_proof
def test_numbers_of_samples_that_differ_are_refused(proof):
    pairs = drawn(proof.trials[0])
    with pytest.raises(ValueError, match=r"cannot be compared|disagree"):
        value(begun(proof, pairs), [(student, teacher[:3]) for student, teacher in pairs])


@every_proof
def test_under_autocast_values_are_those_of_float32(proof):
    for shapes in proof.trials:
        pairs = drawn(shapes, dtype=torch.float32)
        plain = value(begun(proof, pairs), pairs)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(value(begun(proof, pairs), pairs), plain)


@of_batches
@pytest.mark.parametrize("batch", [1, 2])
def test_a_batch_of_one_sample_compares_nothing_and_is_finite(proof, batch):
    for shapes in proof.trials:
        pairs = drawn(shapes, batch=batch)
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
    for proof in two_ranks.PROOFS:
        pairs = drawn(proof.trials[0], batch=7)
        objective = begun(proof, pairs)
        whole = value(objective, pairs)
        assert sum(rank[proof.name][0] for rank in ranks).item() / 2 == pytest.approx(whole.item(), rel=1e-6)
        wanted = torch.autograd.grad(whole, [student for student, _ in pairs])
        for number, gradient in enumerate(wanted):
            found = torch.cat([rank[proof.name][1][number] for rank in ranks]) / 2
            torch.testing.assert_close(found, gradient, rtol=1e-5, atol=1e-9)
        for module in objective.modules.values():  # what they remember is the same on all ranks
            for name, buffer in module.named_buffers():
                for rank in ranks:
                    torch.testing.assert_close(rank[proof.name][2][name], buffer)


@pytest.mark.parametrize("name", ["attention_relations", "attention_scores"])
def test_attention_among_positions_that_count_is_that_of_the_shorter_sequence(name):
    (proof,) = (proof for proof in PROOFS if proof.name == name)
    pairs = drawn([((5, 12), (5, 12)), ((5, 12), (5, 12))][: 1 + proof.lists], batch=3)
    lengths = (5, 2, 0)
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    junk = [
        tuple(torch.where(mask[..., None], x, torch.full_like(x, 1e3)).detach().requires_grad_() for x in pair)
        for pair in pairs
    ]
    (term,) = begun(proof, pairs).active

    def per_position(pairs, **tensors):
        students, teachers = map(list, zip(*pairs, strict=True))
        given = (students, teachers) if proof.lists else (students[0], teachers[0])
        return term.function(*given, **tensors, **term.options)

    values = per_position(junk, mask=mask)
    assert values.shape == (3, 5)
    total = torch.where(mask, values, 0.0).sum()
    assert all(x.isfinite().all() for x in torch.autograd.grad(total, [student for student, _ in junk]))
    for row, size in enumerate(lengths[:2]):
        short = [(s[row : row + 1, :size], t[row : row + 1, :size]) for s, t in pairs]
        assert values[row, :size].mean().item() == pytest.approx(per_position(short).item(), rel=1e-9)


def test_crd_without_labels_draws_from_all_other_samples():
    (proof,) = (proof for proof in PROOFS if proof.name == "crd")
    pairs = drawn(proof.trials[0])
    ((_, module),) = begun(proof, pairs).modules.items()
    ids = torch.tensor([3, 0, 19])
    drawn_places = torch.stack([module.chosen(ids, step, None) for step in range(40)])
    assert (drawn_places[:, :, 0] == ids).all()
    assert not (drawn_places[:, :, 1:] == ids[:, None]).any()
    assert all(len(set(drawn_places[:, row, 1:].flatten().tolist())) == 19 for row in range(3))
    assert torch.equal(module.chosen(ids, 7, None), drawn_places[7])
    assert torch.equal(module.chosen(ids[1:], 7, None), drawn_places[7, 1:])
