"""The terms over image slots and over pictures: what they compare, where, and what does not change them."""

import math
from pathlib import Path

import pytest
import torch
import yaml

from kdrun.objectives.kd import kd
from kdrun.objectives.relation import relation
from kdrun.objectives.terms import build_objective

SHIPPED = Path(__file__).resolve().parents[2] / "conf" / "objective" / "llava.yaml"
B, L, V, D, D2 = 4, 9, 7, 5, 6
OPTIONS = [{}, {"center": True}, {"normalize": True}, {"center": True, "normalize": True}, {"of": "hidden"}]
every_option = pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "_".join(map(str, o)) or "default")


def made(seed: int = 0, dtype=torch.float32, slots=(4, 0, 6, 4)) -> dict:
    """A batch [B, L] whose samples have different numbers of image slots; the second has no picture."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64).to(dtype)

    count = torch.tensor(slots)[:, None]
    position = torch.arange(L)
    return {
        "student_logits": (3 * normal(len(slots), L, V)).requires_grad_(),
        "teacher_logits": 3 * normal(len(slots), L, V),
        "student_hidden": normal(len(slots), L, D).requires_grad_(),
        "teacher_hidden": normal(len(slots), L, D2),
        "targets": torch.randint(V, (len(slots), L), generator=random),
        "visual_mask": (position >= 1) & (position <= count),
        "mask": (position > count) & (position < 8),
    }


def value(given: dict, **options) -> torch.Tensor:
    names = ("student_logits", "teacher_logits", "visual_mask", "student_hidden", "teacher_hidden")
    return relation(*(given[name] for name in names), **options)


def compared(options: dict) -> tuple[str, str]:
    return tuple(f"{who}_{options.get('of', 'logits')}" for who in ("student", "teacher"))


def slow(student: list[list[float]], teacher: list[list[float]], center=False, normalize=False) -> float:
    def matrix(z: list[list[float]]) -> list[float]:
        if center:
            z = [[x - math.fsum(row) / len(row) for x in row] for row in z]
        if normalize:
            z = [[x / math.hypot(*row) for x in row] for row in z]
        return [math.fsum(a * b for a, b in zip(one, other, strict=True)) for one in z for other in z]

    one, other = matrix(student), matrix(teacher)
    return 1 - math.fsum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


@every_option
def test_relation_is_one_less_the_cosine_of_the_matrices_of_each_sample(options):
    given = made(dtype=torch.float64)
    student, teacher = compared(options)
    rest = {name: option for name, option in options.items() if name != "of"}
    expected = [
        slow(given[student][b][mask].tolist(), given[teacher][b][mask].tolist(), **rest) if mask.any() else 0.0
        for b, mask in enumerate(given["visual_mask"])
    ]
    torch.testing.assert_close(value(given, **options).tolist(), expected, rtol=1e-12, atol=1e-12)


@every_option
def test_relation_in_float32_is_close_and_its_gradient_is_the_derivative(options):
    torch.testing.assert_close(
        value(made(), **options).double(), value(made(dtype=torch.float64), **options), rtol=1e-5, atol=1e-7
    )
    given = made(dtype=torch.float64)
    student = compared(options)[0]
    assert torch.autograd.gradcheck(lambda x: value({**given, student: x}, **options), given[student])


@every_option
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_relation_of_equal_networks_is_exactly_zero_and_without_gradient(options, dtype):
    given = made(dtype=dtype)
    student, teacher = compared(options)
    given[teacher] = given[student].detach().clone()
    values = value(given, **options)
    assert values.dtype == torch.float32 and not values.any()
    assert not torch.autograd.grad(values.sum(), given[student])[0].any()


@every_option
def test_relation_lies_between_zero_and_two(options):
    for seed in range(20):
        values = value(made(seed), **options)
        assert (values >= 0).all() and (values <= 2).all()


@every_option
def test_order_of_the_slots_in_both_networks_changes_nothing_and_in_one_it_does(options):
    given = made(slots=(6, 6))
    order = torch.tensor([0, 4, 2, 6, 1, 3, 5, 7, 8])
    student, teacher = compared(options)
    both = {**given, student: given[student][:, order], teacher: given[teacher][:, order]}
    torch.testing.assert_close(value(both, **options), value(given, **options), rtol=1e-5, atol=1e-6)
    one = {**given, student: given[student][:, order]}
    assert ((value(one, **options) - value(given, **options)).abs() > 1e-3).all()


def test_a_rotation_of_the_slots_of_both_networks_changes_nothing():
    given = made(dtype=torch.float64, slots=(6, 6))
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    turned = dict(given)
    for name in ("student_logits", "teacher_logits"):
        turned[name] = given[name].detach().clone()
        turned[name][:, 1:7] = rotation @ turned[name][:, 1:7]
    torch.testing.assert_close(value(turned), value(given).detach(), rtol=1e-9, atol=1e-12)


def test_a_rotation_of_the_features_of_one_network_changes_nothing():
    given = made(dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(V, V, dtype=torch.float64))[0]
    turned = {**given, "student_logits": given["student_logits"] @ rotation}
    torch.testing.assert_close(value(turned), value(given), rtol=1e-9, atol=1e-12)


@every_option
@pytest.mark.parametrize(("one", "other"), [(1e-6, 1e-6), (1e3, 1e3), (7.0, 1e-3), (1e15, 1e18)])
def test_scale_of_either_network_changes_nothing(options, one, other):
    given = made()
    student, teacher = compared(options)
    scaled = {**given, student: given[student] * one, teacher: given[teacher] * other}
    torch.testing.assert_close(value(scaled, **options), value(given, **options), rtol=1e-4, atol=1e-6)


def test_a_constant_added_to_all_logits_of_a_position_changes_nothing_where_rows_are_centred():
    given = made(dtype=torch.float64)
    moved = {**given, "student_logits": given["student_logits"] + torch.randn(B, L, 1, dtype=torch.float64)}
    torch.testing.assert_close(value(moved, center=True), value(given, center=True), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(value(moved), value(given), atol=1e-3)


@every_option
def test_only_image_slots_are_looked_at_and_get_gradients(options):
    given = made()
    student, teacher = compared(options)
    outside = ~given["visual_mask"][..., None]
    expected = value(given, **options)
    junk = {name: given[name].detach().masked_fill(outside, torch.nan) for name in (student, teacher)}
    junk[student].requires_grad_()
    found = value({**given, **junk}, **options)
    assert torch.equal(found, expected)
    gradient = torch.autograd.grad(found.sum(), junk[student])[0]
    assert gradient.isfinite().all() and not gradient.masked_select(outside).any()
    assert not gradient[1].any() and gradient[0].any()


def test_samples_do_not_see_each_other():
    given = made()
    apart = [{name: tensor[b : b + 1] for name, tensor in given.items()} for b in range(B)]
    torch.testing.assert_close(torch.cat([value(one) for one in apart]), value(given), rtol=1e-5, atol=1e-7)


def test_excluded_tokens_large_logits_and_slots_of_zeros_give_no_nan():
    for change in (
        lambda x: x.index_fill(-1, torch.tensor([2]), -torch.inf),
        lambda x: x.index_fill(-1, torch.tensor([2]), -1e30),
        lambda x: x * 1e30,
        torch.zeros_like,
    ):
        for options in ({}, {"center": True}, {"normalize": True}):
            given = made()
            student = change(given["student_logits"].detach()).requires_grad_()
            for teacher in (given["teacher_logits"], change(given["teacher_logits"])):
                values = value({**given, "student_logits": student, "teacher_logits": teacher}, **options)
                assert values.isfinite().all() and (values >= 0).all()
                assert torch.autograd.grad(values.sum(), student)[0].isfinite().all()


def test_relation_takes_vocabularies_of_different_width_and_sends_no_gradient_to_the_teacher():
    given = made()
    wider = torch.cat([given["teacher_logits"], torch.zeros(B, L, 3)], dim=-1).requires_grad_()
    values = value({**given, "teacher_logits": wider})
    torch.testing.assert_close(values, value(given))
    values.sum().backward()
    assert wider.grad is None


def test_relation_says_what_is_missing_or_wrong():
    given = made()
    with pytest.raises(ValueError, match="of must be logits or hidden"):
        value(given, of="states")
    with pytest.raises(ValueError, match="needs student_hidden and teacher_hidden"):
        value({**given, "teacher_hidden": None}, of="hidden")
    with pytest.raises(ValueError, match="disagree"):
        value({**given, "visual_mask": given["visual_mask"][:, 1:]})


def test_a_batch_of_text_alone_has_relation_zero():
    given = made(slots=(0, 0))
    assert value(given).tolist() == [0.0, 0.0]


# In an objective


def counts(given: dict) -> dict:
    visual = given["visual_mask"]
    return {"mask": int(given["mask"].sum()), "visual_mask": int(visual.sum()), "images": int(visual.any(1).sum())}


def objective(given: dict, config: dict | None = None):
    config = config or yaml.safe_load(SHIPPED.read_text())
    return build_objective(config)(given, counts(given))


def test_the_shipped_objective_has_the_weights_of_the_paper_and_binds_to_what_the_task_gives():
    built = build_objective(yaml.safe_load(SHIPPED.read_text()))
    assert {term.name: term.weight for term in built.terms} == {"ce": 1.0, "kd": 1.0, "kd_visual": 1.0, "relation": 0.5}
    assert {term.name: term.over for term in built.terms} == {
        "ce": "mask", "kd": "mask", "kd_visual": "visual_mask", "relation": "images",
    }  # fmt: skip
    assert all(set(term.wants) <= set(made()) for term in built.terms)
    assert [term.name for term in built.terms if term.needs_teacher] == ["kd", "kd_visual", "relation"]


def test_each_term_is_a_mean_over_its_own_positions():
    given = made()
    _, raw = objective(given)
    expected = kd(given["student_logits"], given["teacher_logits"], temperature=1.0)
    torch.testing.assert_close(raw["kd"], expected[given["mask"]].mean())
    torch.testing.assert_close(raw["kd_visual"], expected[given["visual_mask"]].mean())
    torch.testing.assert_close(raw["relation"], value(given).sum() / 3)


def test_equal_networks_have_no_loss_but_that_of_the_labels():
    given = made()
    given["teacher_logits"] = given["student_logits"].detach().clone()
    total, raw = objective(given)
    assert {name: raw[name].item() for name in ("kd", "kd_visual", "relation")} == dict.fromkeys(
        ("kd", "kd_visual", "relation"), 0.0
    )
    assert total.item() == raw["ce"].item()


def test_text_alone_has_no_visual_terms():
    given = made(slots=(0, 0))
    total, raw = objective(given)
    assert set(raw) == {"ce", "kd"}
    assert total.isfinite() and torch.autograd.grad(total, given["student_logits"])[0].isfinite().all()


def test_samples_of_text_in_a_mixed_batch_add_nothing_to_visual_terms():
    given = made()
    _, raw = objective(given)
    kept = [0, 2, 3]
    _, without = objective({name: tensor[kept] for name, tensor in given.items()})
    for name in ("kd_visual", "relation"):
        torch.testing.assert_close(raw[name], without[name])


def test_positions_without_label_or_picture_leak_nothing():
    given = made()
    outside = ~(given["mask"] | given["visual_mask"])
    assert outside.any()
    junk = {name: given[name].detach().masked_fill(outside[..., None], torch.nan) for name in given if "logits" in name}
    junk["student_logits"].requires_grad_()
    total, _ = objective({**given, **junk, "targets": given["targets"].masked_fill(outside, -100)})
    torch.testing.assert_close(total, objective(given)[0])
    gradient = torch.autograd.grad(total, junk["student_logits"])[0]
    assert gradient.isfinite().all() and not gradient[outside].any()


def test_kd_over_image_slots_is_the_same_dense_and_chunked_and_by_its_former_names():
    given = made()
    heads = {"student_head": torch.randn(V, D, requires_grad=True), "teacher_head": torch.randn(V, D2)}
    for who in ("student", "teacher"):
        given[f"{who}_logits"] = given[f"{who}_hidden"] @ heads[f"{who}_head"].T
    config = {"weight": 1.0, "temperature": 2.0}
    one, _ = objective(given, {"kd": {**config, "over": "image_slots"}})
    other, _ = objective({**given, **heads}, {"kd": {**config, "over": "image_slots", "execution": "chunked"}})
    torch.testing.assert_close(one, other)
    assert torch.equal(one, objective(given, {"kd_visual": config})[0])
    assert torch.equal(other, objective({**given, **heads}, {"vocabulary_kd_visual": config})[0])
    learning = (given["student_hidden"], heads["student_head"])
    for found, expected in zip(*(torch.autograd.grad(x, learning) for x in (other, one)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("padding", [0.0, -math.inf])
@pytest.mark.parametrize("shift", [0.0, -10.0, 300.0])
@pytest.mark.parametrize("normalize", [False, True])
def test_centered_relation_changes_neither_by_a_shift_nor_by_a_padded_vocabulary(padding, shift, normalize):
    """Unused rows of a padded output layer give logits of 0 (or, excluded, -inf); they belong to no mean."""
    plain = made(dtype=torch.float64)
    options = {"center": True, "normalize": normalize}
    expected = value(plain, **options)
    changed = dict(plain)
    for who, width in (("student", 3), ("teacher", 40)):
        logits = plain[f"{who}_logits"].detach() + shift
        changed[f"{who}_logits"] = torch.cat([logits, logits.new_full((B, L, width), padding)], -1).requires_grad_()
    found = value(changed, **options)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    (gradient,) = torch.autograd.grad(found.sum(), changed["student_logits"])
    torch.testing.assert_close(gradient[..., :V], torch.autograd.grad(expected.sum(), plain["student_logits"])[0])
    assert not gradient[..., V:].any()
