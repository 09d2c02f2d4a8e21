"""The weighted sum: which terms run, what they are given, and what is said when they do not fit."""

import textwrap

import pytest
import torch

from kdrun.objectives.objective_term import Term
from kdrun.objectives.terms import Objective, build_objective
from kdrun.problems import UserError

CONFIG = {"ce": {"weight": 0.25, "label_smoothing": 0.1}, "kd": {"weight": 2.0, "temperature": 3.0}}


def made(batch: int = 6, classes: int = 5) -> dict:
    generator = torch.Generator().manual_seed(1)
    student = torch.randn(batch, classes, generator=generator, requires_grad=True)
    teacher = torch.randn(batch, classes, generator=generator)
    targets = torch.randint(classes, (batch,), generator=generator)
    return {"student_logits": student, "teacher_logits": teacher, "targets": targets, "mask": None}


def test_gradient_of_the_total_is_the_weighted_sum_of_the_gradients_of_the_terms():
    tensors = made()
    student = tensors["student_logits"]
    objective = build_objective(CONFIG)
    whole = torch.autograd.grad(objective(tensors, 6)[0], student)[0]
    parts = torch.zeros_like(whole)
    for name, node in CONFIG.items():
        alone = build_objective({name: {**node, "weight": 1.0}})
        parts += node["weight"] * torch.autograd.grad(alone(tensors, 6)[0], student)[0]
    torch.testing.assert_close(whole, parts, rtol=1e-6, atol=1e-8)


def test_raw_values_do_not_change_with_the_weights_and_weighted_ones_add_up_to_the_total():
    tensors = made()
    one = build_objective(CONFIG)
    two = build_objective({**CONFIG, "kd": {**CONFIG["kd"], "weight": 4.0}})
    (total, raw), (other_total, other_raw) = one(tensors, 6), two(tensors, 6)
    assert {name: value.item() for name, value in raw.items()} == {n: v.item() for n, v in other_raw.items()}
    assert sum(one.weighted(raw).values()).item() == pytest.approx(total.item(), rel=1e-6)
    assert (other_total - total).item() == pytest.approx(2.0 * raw["kd"].item(), rel=1e-5)


def test_raw_values_keep_their_gradients_so_that_each_term_can_be_looked_at():
    tensors = made()
    for value in build_objective(CONFIG)(tensors, 6)[1].values():
        assert torch.autograd.grad(value, tensors["student_logits"], retain_graph=True)[0].any()


def test_evaluation_has_the_scale_of_training():
    tensors = made()
    objective = build_objective(CONFIG)
    with torch.no_grad():
        assert objective(tensors, 6)[0].item() == objective(tensors, 6)[0].item()
    doubled = {name: None if t is None else torch.cat([t, t]) for name, t in tensors.items()}
    assert objective(doubled, 12)[0].item() == pytest.approx(objective(tensors, 6)[0].item(), rel=1e-6)


def test_a_term_without_weight_is_not_evaluated_and_asks_for_no_teacher():
    objective = build_objective({"ce": {"weight": 1.0}, "kd": {"weight": 0, "temperature": 4.0}})
    assert [term.name for term in objective.terms] == ["ce", "kd"]
    assert not objective.needs_teacher
    tensors = {**made(), "teacher_logits": None}
    assert set(objective(tensors, 6)[1]) == {"ce"}


def test_a_term_with_weight_needs_the_teacher():
    assert build_objective(CONFIG).needs_teacher


def test_the_total_is_float32_whatever_the_logits_are():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        tensors = made()
        tensors |= {name: tensors[name].detach().to(dtype) for name in ("student_logits", "teacher_logits")}
        total, raw = build_objective(CONFIG)(tensors, 6)
        assert total.dtype == torch.float32 and total.shape == ()
        assert all(value.dtype == torch.float32 for value in raw.values())


def test_count_may_be_a_tensor_and_is_what_the_sum_is_divided_by():
    tensors = made()
    objective = build_objective(CONFIG)
    assert objective(tensors, torch.tensor(12.0))[0].item() == pytest.approx(
        objective(tensors, 6)[0].item() / 2, rel=1e-6
    )


@pytest.mark.parametrize("count", [0, 0.0, torch.zeros(()), {"mask": 0, "visual_mask": 0, "images": 0}])
def test_over_nothing_valid_the_total_is_zero_with_a_gradient_of_zero(count):
    tensors = {**made(), "mask": torch.zeros(6, dtype=torch.bool), "visual_mask": torch.zeros(6, dtype=torch.bool)}
    objective = build_objective({**CONFIG, **({"kd_visual": {}, "relation": {}} if isinstance(count, dict) else {})})
    total, raw = objective(tensors, count)
    assert total.item() == 0.0 and not raw
    assert not torch.autograd.grad(total, tensors["student_logits"])[0].any()


def test_a_part_of_a_batch_without_anything_valid_adds_nothing():
    tensors = {**made(), "mask": torch.zeros(6, dtype=torch.bool)}
    total, raw = build_objective(CONFIG)(tensors, 6)
    assert total.item() == 0.0 and {value.item() for value in raw.values()} == {0.0}
    assert not torch.autograd.grad(total, tensors["student_logits"])[0].any()


def test_a_part_without_pictures_can_be_learned_from_where_pictures_are_all_that_counts():
    tensors = {name: None if t is None else t[:, None] for name, t in made().items()}
    tensors["visual_mask"] = torch.zeros(6, 1, dtype=torch.bool)
    total, _ = build_objective({"relation": {}})(tensors, {"mask": 6, "visual_mask": 4, "images": 1})
    assert total.item() == 0.0 and not torch.autograd.grad(total, tensors["student_logits"])[0].any()


def test_a_term_that_changes_what_it_is_given_is_named(tmp_path, monkeypatch):
    (tmp_path / "changing.py").write_text(
        "def halved(student_logits, teacher_logits):\n    return (student_logits - teacher_logits.div_(2)).square().sum(-1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    objective = build_objective({"halved": {"_target_": "changing.halved"}, **CONFIG}, allowed=["changing"])
    with pytest.raises(UserError, match=r"objective\.halved changes teacher_logits in place"):
        objective(made(), 6)


def test_a_tensor_the_task_does_not_give_is_named_with_those_it_gives():
    tensors = {**made(), "teacher_logits": None}
    with pytest.raises(UserError) as caught:
        build_objective(CONFIG)(tensors, 6)
    assert "objective.kd wants teacher_logits" in caught.value.lines[0]
    assert caught.value.lines[1] == "given here: student_logits, targets"


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf"), "0.5", None, True])
def test_a_weight_is_a_finite_number_of_at_least_zero(weight):
    with pytest.raises(UserError, match=r"objective\.ce\.weight"):
        build_objective({"ce": {"weight": weight}})


@pytest.mark.parametrize("config", [{}, {"ce": {"weight": 0.0}, "kd": {"weight": 0}}])
def test_an_objective_with_nothing_to_minimise_is_refused(config):
    with pytest.raises(UserError, match="nothing to minimise"):
        build_objective(config)


def test_an_unknown_option_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'temperature'"):
        build_objective({"kd": {"weight": 1.0, "temprature": 2.0}})


def test_a_misspelt_option_is_refused():
    with pytest.raises(UserError, match="has no option 'temperatur'"):
        build_objective({"kd": {"weight": 1.0, "temperatur": 2.0}})


def test_a_target_outside_of_the_allowed_packages_is_refused():
    with pytest.raises(UserError, match=r"objective\.mine"):
        build_objective({"mine": {"_target_": "os.system", "weight": 1.0}})


def test_a_package_of_the_users_own_must_be_declared_where_that_is_asked():
    with pytest.raises(UserError, match=r"'mylab' is not a declared package"):
        build_objective({"mine": {"_target_": "mylab.losses.mine", "weight": 1.0}})


def test_a_class_is_no_term():
    with pytest.raises(UserError, match="not a loss"):
        build_objective({"mine": {"_target_": "torch.nn.CrossEntropyLoss", "weight": 1.0}})


@pytest.fixture
def own_losses(tmp_path, monkeypatch):
    """A module of the user's own in the current folder."""
    (tmp_path / "mylosses_for_terms.py").write_text(
        textwrap.dedent(
            """
            def squared(student_logits, teacher_logits, *, scale=1.0):
                return scale * (student_logits - teacher_logits).square().mean(-1)

            def averaged(student_logits, teacher_logits):
                return (student_logits - teacher_logits).square().mean()

            def not_reduced(student_logits, teacher_logits):
                return (student_logits - teacher_logits).square()

            def number(student_logits):
                return 1.0

            def with_features(student_logits, features=None, mask=None):
                assert features is not None
                return student_logits.sum(-1)

            def must_be_set(student_logits, *, margin):
                return student_logits.sum(-1) * margin
            """
        )
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return lambda name, **options: build_objective(
        {"mine": {"_target_": f"mylosses_for_terms.{name}", "weight": 1.0, **options}}, allowed=["mylosses_for_terms"]
    )


def test_a_loss_of_the_users_own_is_a_term_like_any_other(own_losses):
    tensors = made()
    objective = own_losses("squared", scale=3.0)
    assert objective.needs_teacher
    expected = 3.0 * (tensors["student_logits"] - tensors["teacher_logits"]).square().mean()
    assert objective(tensors, 6)[1]["mine"].item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(("name", "shape"), [("averaged", r"\(\)"), ("not_reduced", r"\(6, 5\)"), ("number", "float")])
def test_a_loss_that_does_not_return_one_value_per_position_is_refused(own_losses, name, shape):
    with pytest.raises(UserError, match=rf"objective\.mine returned {shape}, expected one value per position, \(6,\)"):
        own_losses(name)(made(), 6)


def test_a_tensor_with_a_default_is_given_where_the_task_has_it(own_losses):
    objective = own_losses("with_features")
    objective({**made(), "features": torch.ones(6)}, 6)
    with pytest.raises(AssertionError):
        objective(made(), 6)


def test_an_option_without_default_must_be_set(own_losses):
    with pytest.raises(UserError, match=r"objective\.mine\.margin"):
        own_losses("must_be_set")
    own_losses("must_be_set", margin=2.0)(made(), 6)


def test_tensors_that_are_not_per_position_pass_the_mask_unchanged():
    seen = {}

    def record(student_logits, prototypes):
        seen.update(student_logits=student_logits, prototypes=prototypes)
        return student_logits.sum(-1)

    prototypes = torch.full((3, 4, 2), float("nan"))
    logits = torch.full((2, 4, 3), float("nan"))
    mask = torch.zeros(2, 4, dtype=torch.bool)
    Objective((Term("record", 1.0, record, ("student_logits", "prototypes")),))(
        {"student_logits": logits, "prototypes": prototypes, "mask": mask}, 1
    )
    assert seen["prototypes"] is prototypes
    assert not seen["student_logits"].any()
