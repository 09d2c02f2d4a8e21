"""What every shipped loss promises, one row per loss and one test per promise.

A new loss adds a row to LOSSES: a slow reference in plain Python and what its minimum is.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch

from kdrun.objectives.ce import ce
from kdrun.objectives.ce_kd import ce_kd
from kdrun.objectives.chunked import ce_chunked, ce_kd_chunked, divergence_chunked
from kdrun.objectives.jsd import jsd
from kdrun.objectives.kd import kd
from kdrun.objectives.kl_reverse import kl_reverse
from kdrun.objectives.objective_term import Term
from kdrun.objectives.terms import Objective
from kdrun.objectives.topk import kd_topk

# Shapes: B samples, L positions, C classes.


def log_softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    largest = max(row)
    scaled = [(value - largest) / temperature for value in row]
    normaliser = math.log(math.fsum(math.exp(value) for value in scaled))
    return [value - normaliser for value in scaled]


def slow_ce(student: list[float], target: int, label_smoothing: float = 0.0) -> float:
    logs, classes = log_softmax(student), len(student)
    wanted = [label_smoothing / classes + (1 - label_smoothing) * (c == target) for c in range(classes)]
    return -math.fsum(q * log for q, log in zip(wanted, logs, strict=True))


def slow_kd(student: list[float], teacher: list[float], temperature: float = 4.0) -> float:
    p, q = log_softmax(teacher, temperature), log_softmax(student, temperature)
    return temperature**2 * math.fsum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True))


def slow_kd_topk(student: list[float], ids: list[int], log_p: list[float], k: int = 16) -> float:
    q = [math.exp(value) for value in log_softmax(student)]
    p = [math.exp(value) for value in log_p]
    pairs = [(one, q[number]) for one, number in zip(p, ids, strict=True)]
    rest = 1 - math.fsum(p)
    pairs.append((rest, math.fsum(value for number, value in enumerate(q) if number not in ids)))
    return math.fsum(one * math.log(one / other) for one, other in pairs if one > 0)


def slow_kl_reverse(student: list[float], teacher: list[float], temperature: float = 1.0) -> float:
    return slow_kd(teacher, student, temperature)


def slow_jsd(student: list[float], teacher: list[float], beta: float = 0.5, temperature: float = 1.0) -> float:
    p, q = ([math.exp(value) for value in log_softmax(row, temperature)] for row in (teacher, student))
    m = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
    of_p, of_q = (math.fsum(a * math.log(a / b) for a, b in zip(x, m, strict=True) if a > 0) for x in (p, q))
    return temperature**2 * (beta * of_p + (1 - beta) * of_q)


def slow_vocabulary_kd(student, teacher, kind="forward", temperature: float = 1.0, beta=0.5, chunk=None) -> float:
    if kind == "jsd":
        return slow_jsd(student, teacher, beta, temperature)
    return (slow_kd if kind == "forward" else slow_kl_reverse)(student, teacher, temperature)


def slow_vocabulary_ce(student: list[float], target: int, label_smoothing: float = 0.0, chunk=None) -> float:
    return slow_ce(student, target, label_smoothing)


def slow_vocabulary_ce_kd(student, teacher, target, ce=0.5, kd=0.5, label_smoothing=0.0, **options) -> float:
    return ce * slow_ce(student, target, label_smoothing) + kd * slow_vocabulary_kd(student, teacher, **options)


def over_identity(function: Callable) -> Callable:
    """A term on hidden states as one on logits: the output layer is the identity, so logits are hidden states."""

    def on_logits(**given) -> torch.Tensor:
        for who in ("student", "teacher"):
            if (logits := given.pop(f"{who}_logits", None)) is not None:
                given[f"{who}_hidden"], given[f"{who}_head"] = logits, torch.eye(logits.shape[-1], dtype=logits.dtype)
        return function(**given)

    return on_logits


@dataclass(frozen=True)
class Loss:
    """name; function; its tensors in order; slow reference on one position; options to try; value at equality."""

    name: str
    function: Callable
    wants: tuple[str, ...]
    reference: Callable
    options: dict = field(default_factory=dict)
    zero_at_equality: bool = False
    shifts: tuple[str, ...] = ("student_logits",)
    temperature: bool = False

    @property
    def rounding(self) -> float:
        """The last digit of a float32 log-probability, 2.4e-7 to 4.8e-7; T squared multiplies it like all else."""
        return 1e-6 * (self.options.get("temperature", 4.0) ** 2 if self.temperature else 1.0)

    def term(self, weight: float = 1.0) -> Term:
        return Term(self.name, weight, self.function, self.wants, options=self.options, loss=kd)

    def __call__(self, tensors: dict) -> torch.Tensor:
        return self.function(**{name: tensors[name] for name in self.wants}, **self.options)


BOTH = ("student_logits", "teacher_logits")
LABELS = ("student_logits", "targets")
THREE = (*BOTH, "targets")
TOP = 3
LOSSES = [
    Loss("ce", ce, LABELS, slow_ce),
    Loss("ce_smoothed", ce, LABELS, slow_ce, {"label_smoothing": 0.1}),
    Loss("kd", kd, BOTH, slow_kd, zero_at_equality=True, shifts=BOTH, temperature=True),
    Loss("kd_t1", kd, BOTH, slow_kd, {"temperature": 1.0}, zero_at_equality=True, shifts=BOTH, temperature=True),
    Loss("kd_topk", kd_topk, ("student_logits", "teacher_top_ids", "teacher_top_log_probs"), slow_kd_topk, {"k": TOP}),
    Loss("kl_reverse", kl_reverse, BOTH, slow_kl_reverse, {"temperature": 1.0}, True, BOTH, temperature=True),
    Loss("kl_reverse_t4", kl_reverse, BOTH, slow_kl_reverse, {"temperature": 4.0}, True, BOTH, temperature=True),
    Loss("jsd", jsd, BOTH, slow_jsd, {"temperature": 1.0}, True, BOTH, temperature=True),
    Loss("jsd_b09", jsd, BOTH, slow_jsd, {"beta": 0.9, "temperature": 2.0}, True, BOTH, temperature=True),
    Loss("vocabulary_ce", over_identity(ce_chunked), LABELS, slow_vocabulary_ce, {"chunk": 5}),
    Loss("vocabulary_ce_smoothed", over_identity(ce_chunked), LABELS, slow_vocabulary_ce, {"label_smoothing": 0.1}),
    *(
        Loss(
            f"vocabulary_{name}", over_identity(divergence_chunked), BOTH, slow_vocabulary_kd, options, True, BOTH, True
        )
        for name, options in {
            "kd": {"temperature": 1.0, "chunk": 5},
            "kd_reverse": {"kind": "reverse", "temperature": 2.0, "chunk": 5},
            "kd_jsd": {"kind": "jsd", "temperature": 2.0, "beta": 0.3, "chunk": 5},
        }.items()
    ),
    *(
        Loss(f"vocabulary_{name}", over_identity(ce_kd_chunked), THREE, slow_vocabulary_ce_kd, options, shifts=BOTH)
        for name, options in {
            "ce_kd": {"ce": 1.5, "label_smoothing": 0.2, "temperature": 1.0, "chunk": 5},
            "ce_kd_t4": {"temperature": 4.0},
            "ce_kd_jsd": {"kind": "jsd", "temperature": 2.0, "chunk": 5},
        }.items()
    ),
    Loss("ce_kd", ce_kd, THREE, slow_vocabulary_ce_kd, {"ce": 1.5, "kind": "reverse", "temperature": 2.0}, shifts=BOTH),
    Loss("kd_t20", kd, BOTH, slow_kd, {"temperature": 20.0}, zero_at_equality=True, shifts=BOTH, temperature=True),
]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
zero_losses = pytest.mark.parametrize("loss", [x for x in LOSSES if x.zero_at_equality], ids=lambda loss: loss.name)


def made(*shape: int, classes: int = 7, scale: float = 3.0, dtype=torch.float32, seed: int = 0) -> dict:
    """student_logits and teacher_logits [*shape, C], targets [*shape]; the student wants a gradient."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(*shape, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    targets = torch.randint(classes, shape, generator=generator)
    student = (student * scale).to(dtype).requires_grad_()
    taught = (teacher * scale).to(dtype)
    log_probs, ids = taught.double().log_softmax(-1).topk(TOP, dim=-1)
    top = {"teacher_top_ids": ids, "teacher_top_log_probs": log_probs.to(dtype)}
    return {"student_logits": student, "teacher_logits": taught, **top, "targets": targets, "mask": None}


def total(loss: Loss, tensors: dict, count: float) -> torch.Tensor:
    return Objective((loss.term(),))(tensors, count)[0]


def gradient(value: torch.Tensor, tensors: dict) -> torch.Tensor:
    return torch.autograd.grad(value, tensors["student_logits"])[0]


@every_loss
def test_equals_the_slow_reference_at_every_position(loss):
    tensors = made(4, 3, dtype=torch.float64)
    values = loss(tensors)
    assert values.shape == (4, 3)
    rows = [tensors[name].detach().reshape(12, *tensors[name].shape[2:]).tolist() for name in loss.wants]
    expected = [loss.reference(*row, **loss.options) for row in zip(*rows, strict=True)]
    torch.testing.assert_close(values.flatten().tolist(), expected, rtol=1e-12, atol=1e-12)


@every_loss
def test_float32_is_close_to_the_reference(loss):
    narrow, wide = made(50, classes=100), made(50, classes=100, dtype=torch.float64)
    torch.testing.assert_close(loss(narrow).double(), loss(wide), rtol=1e-5, atol=loss.rounding)


@every_loss
def test_gradient_is_the_derivative_of_the_value(loss):
    tensors = made(3, classes=5, dtype=torch.float64)
    student = tensors.pop("student_logits")
    assert torch.autograd.gradcheck(lambda logits: loss({**tensors, "student_logits": logits}), student)


@zero_losses
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_equal_logits_give_exactly_zero_and_no_gradient(loss, dtype, scale):
    tensors = made(16, 9, classes=11, scale=scale, dtype=dtype)
    tensors["teacher_logits"] = tensors["student_logits"].detach().clone()
    value = loss(tensors).sum()
    assert value.item() == 0.0
    assert not gradient(value, tensors).any()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_ce_is_never_below_the_entropy_of_its_label_and_reaches_it(smoothing):
    classes = 5
    q = [smoothing / classes + (1 - smoothing) * (c == 2) for c in range(classes)]
    entropy = -math.fsum(p * math.log(p) for p in q if p > 0)
    best = torch.tensor([[math.log(p) if p > 0 else -1e4 for p in q]])
    target = torch.tensor([2])
    assert ce(best, target, label_smoothing=smoothing).item() == pytest.approx(entropy, abs=1e-6)
    others = made(200, classes=classes)
    assert (ce(others["student_logits"], target.expand(200), label_smoothing=smoothing) >= entropy).all()


@zero_losses
def test_divergence_is_not_negative(loss):
    assert (loss(made(500, classes=10, scale=1e-3)) >= -loss.rounding).all()
    assert (loss(made(500, classes=10)) > 0).all()


@every_loss
def test_adding_a_constant_to_all_logits_of_a_position_changes_nothing(loss):
    tensors = made(8, dtype=torch.float64)
    for name in loss.shifts:
        shift = torch.linspace(-500, 500, 8, dtype=torch.float64)[:, None]
        moved = {**tensors, name: tensors[name].detach() + shift}
        torch.testing.assert_close(loss(moved), loss(tensors), rtol=1e-9, atol=1e-9)


@zero_losses
def test_a_shift_of_a_whole_network_in_float32_does_not_drown_a_small_difference(loss):
    tensors = made(8, scale=0.1)
    moved = {**tensors, "teacher_logits": tensors["teacher_logits"] + 4096.0}
    rounded = {**tensors, "teacher_logits": moved["teacher_logits"] - 4096.0}  # what is left of it after rounding
    torch.testing.assert_close(loss(moved), loss(rounded), rtol=1e-4, atol=loss.rounding)


@every_loss
def test_sums_over_classes_so_that_unlikely_extra_classes_change_nothing(loss):
    """An average over classes would divide by C; here 93 classes without probability are added."""
    if loss.options.get("label_smoothing"):
        pytest.skip("smoothing gives every class some probability")
    few = made(6, dtype=torch.float64)
    many = dict(few)
    for name in BOTH:
        many[name] = torch.cat([few[name], few[name].detach().new_full((6, 93), -1e4)], dim=1)
    torch.testing.assert_close(loss(many), loss(few), rtol=1e-9, atol=1e-9)


@every_loss
def test_batches_may_be_split_into_accumulation_steps_of_any_size(loss):
    """The mean of means would weigh the positions of a small micro-batch more."""
    whole = made(43)
    expected = gradient(total(loss, whole, 43), whole)
    split = made(43)
    values = 0.0
    for start, end in ((0, 3), (3, 43)):
        part = {name: None if tensor is None else tensor[start:end] for name, tensor in split.items()}
        value = total(loss, part, 43)
        value.backward()
        values += value.item()
    assert values == pytest.approx(total(loss, whole, 43).item(), rel=1e-6)
    torch.testing.assert_close(split["student_logits"].grad, expected, rtol=1e-6, atol=1e-9)


@every_loss
def test_padding_changes_neither_value_nor_gradient_whatever_it_holds(loss):
    plain = made(4, 5)
    lengths = torch.tensor([5, 1, 3, 4])
    mask = torch.arange(5) < lengths[:, None]
    plain["mask"] = mask
    value = total(loss, plain, 13)
    expected = gradient(value, plain)
    for junk in (0.0, float("nan"), float("inf"), -float("inf"), 1e30):
        padded = {"mask": torch.cat([mask, torch.zeros(4, 5, dtype=torch.bool)], dim=1)}
        for name in (*BOTH, "teacher_top_log_probs"):
            longer = torch.cat([plain[name].detach(), torch.full((4, 5, plain[name].shape[-1]), junk)], dim=1)
            padded[name] = torch.where(padded["mask"][..., None], longer, junk)
        padded["teacher_top_ids"] = torch.cat([plain["teacher_top_ids"], torch.full((4, 5, TOP), -100)], dim=1)
        padded["student_logits"].requires_grad_()
        padded["targets"] = torch.cat([plain["targets"], torch.full((4, 5), -100)], dim=1)
        padded["targets"][~padded["mask"]] = -100
        other = total(loss, padded, 13)
        assert other.item() == pytest.approx(value.item(), rel=1e-6)  # a longer sum is rounded elsewhere
        found = gradient(other, padded)
        torch.testing.assert_close(found[:, :5], expected, rtol=1e-6, atol=0)
        assert not found[~padded["mask"]].any()


@every_loss
def test_the_mask_decides_and_not_the_id_so_that_padding_may_equal_the_end_token(loss):
    """Class 0 is the end token and what padding holds. The true end counts, the padding behind it does not."""
    tensors = made(2, 4)
    tensors["targets"] = torch.tensor([[3, 0, 0, 0], [5, 2, 1, 0]])
    tensors["mask"] = torch.tensor([[True, True, False, False], [True, True, True, True]])
    found = gradient(total(loss, tensors, 6), tensors)
    assert found[0, 1].any() and found[1, 3].any()
    assert not found[0, 2:].any()


@every_loss
def test_twice_the_length_by_repetition_leaves_the_value(loss):
    once = made(3, 6)
    twice = {name: None if t is None else torch.cat([t, t], dim=1) for name, t in once.items()}
    assert total(loss, twice, 36).item() == pytest.approx(total(loss, once, 18).item(), rel=1e-6)


@every_loss
@pytest.mark.parametrize(
    ("dtype", "scale"), [(torch.float16, 2e4), (torch.bfloat16, 1e30), (torch.float32, 360.0), (torch.float32, 1e30)]
)
def test_extreme_logits_give_finite_values_and_gradients(loss, dtype, scale):
    tensors = made(64, classes=100, scale=1.0, dtype=torch.float64)
    for name in BOTH:
        tensors[name] = (tensors[name].detach().clamp(-3, 3) * scale).to(dtype)
        assert tensors[name].isfinite().all()
    student = tensors["student_logits"].requires_grad_()
    values = loss(tensors)
    assert values.dtype == torch.float32
    assert values.isfinite().all() and (values >= -1e-6).all()
    assert gradient((values / scale).sum(), tensors).isfinite().all()
    assert student.grad is None


@every_loss
def test_under_autocast_values_are_float32_ones(loss):
    tensors = made(16, classes=50)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = loss(tensors)
    assert values.dtype == torch.float32
    if loss.name.startswith("vocabulary"):  # products are part of these, and autocast makes them in its own type
        tensors = {name: t.bfloat16() if name in BOTH else t for name, t in tensors.items()}
    assert torch.equal(values, loss(tensors))


@pytest.mark.parametrize("loss", [x for x in LOSSES if x.temperature and x.name == "kd"], ids=lambda loss: loss.name)
def test_gradient_is_about_the_same_size_at_every_temperature(loss):
    tensors = made(256, classes=10, scale=0.05)
    norms = []
    for temperature in (1.0, 2.0, 4.0, 8.0, 20.0):
        value = loss.function(tensors["student_logits"], tensors["teacher_logits"], temperature=temperature).mean()
        norms.append(gradient(value, tensors).norm().item())
    assert max(norms) / min(norms) < 1.1


def test_kd_gradient_is_temperature_times_the_difference_of_the_probabilities():
    """Equation 2 of the paper, times T squared."""
    tensors, temperature = made(5, dtype=torch.float64), 3.0
    found = gradient(kd(tensors["student_logits"], tensors["teacher_logits"], temperature=temperature).sum(), tensors)
    q, p = ((tensors[name].detach() / temperature).softmax(-1) for name in BOTH)
    torch.testing.assert_close(found, temperature * (q - p))


def test_kd_of_one_logit_104_below_the_rest_is_finite_both_ways():
    """softmax and then log would give infinity or NaN here."""
    low = torch.tensor([[0.0, 1.0, -104.0]])
    even = torch.tensor([[0.5, 0.2, 0.1]])
    for student, teacher in ((low, even), (even, low)):
        student = student.clone().requires_grad_()
        value = kd(student, teacher, temperature=1.0)
        assert value.item() == pytest.approx(slow_kd(student[0].tolist(), teacher[0].tolist(), 1.0), rel=1e-5)
        assert torch.autograd.grad(value.sum(), student)[0].isfinite().all()


def test_kd_accepts_classes_that_the_teacher_excludes():
    teacher = torch.tensor([[1.0, 2.0, -torch.inf]])
    for last in (0.0, -torch.inf):
        student = torch.tensor([[0.0, 1.5, last]], requires_grad=True)
        value = kd(student, teacher, temperature=2.0)
        assert value.isfinite().all()
        assert torch.autograd.grad(value.sum(), student)[0].isfinite().all()


def test_kd_sends_no_gradient_to_the_teacher():
    tensors = made(4)
    teacher = tensors["teacher_logits"].requires_grad_()
    kd(tensors["student_logits"], teacher).sum().backward()
    assert teacher.grad is None


def test_kd_of_different_numbers_of_classes_names_both():
    with pytest.raises(ValueError, match="student has 10 classes and the teacher 11"):
        kd(torch.zeros(2, 10), torch.zeros(2, 11))


@pytest.mark.parametrize("shape", [(1, 10), (10,), (4, 2, 10)])
def test_kd_does_not_broadcast(shape):
    with pytest.raises(ValueError, match="disagree"):
        kd(torch.zeros(2, 10), torch.zeros(shape))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_kd_refuses_a_temperature_that_is_none(temperature):
    with pytest.raises(ValueError, match="temperature"):
        kd(torch.zeros(2, 3), torch.zeros(2, 3), temperature=temperature)


def test_ce_of_a_label_that_no_class_has_is_an_error_and_never_skipped():
    for label in (-100, 3):
        with pytest.raises(IndexError):
            ce(torch.zeros(1, 3), torch.tensor([label]))


def test_ce_refuses_targets_of_another_shape():
    with pytest.raises(ValueError, match="disagree"):
        ce(torch.zeros(2, 4, 3), torch.zeros(2, dtype=torch.long))
