"""Logits that are not finite, in every divergence: excluded classes (-inf), and what is no distribution at all."""

import math

import pytest
import torch

from kdrun.federation.energy import energy
from kdrun.federation.methods.losses import soft_targets
from kdrun.objectives.ce_kd import ce_kd
from kdrun.objectives.chunked import ce_kd_chunked, divergence_chunked
from kdrun.objectives.jsd import jsd
from kdrun.objectives.kd import kd
from kdrun.objectives.kl_reverse import kl_reverse
from kdrun.objectives.topk import kd_topk

OUT = -math.inf
PLAIN = [0.5, -1.0, 2.0, 0.25]
OTHER = [1.0, 0.5, -0.75, 0.0]


def probabilities(logits: list[float]) -> list[float]:
    powers = [math.exp(value) for value in logits]
    return [power / math.fsum(powers) for power in powers]


def kl(p: list[float], q: list[float]) -> float:
    """In double precision; infinite where q excludes what p does not."""
    return math.fsum(math.inf if not b else a * math.log(a / b) for a, b in zip(p, q, strict=True) if a)


def js(p: list[float], q: list[float]) -> float:
    m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return (kl(p, m) + kl(q, m)) / 2


def chunked(function, **options):
    """Hidden states that an identity turns into logits; what is excluded goes through the bias, since 0 * inf is NaN."""

    def value(student, teacher):
        given, eye = {}, torch.eye(student.shape[-1])
        for who, logits in (("student", student), ("teacher", teacher)):
            bias = torch.where(logits.detach()[0].isfinite(), 0.0, logits.detach()[0])
            given |= {
                f"{who}_hidden": torch.where(logits.isfinite(), logits, 0.0),
                f"{who}_bias": bias,
                f"{who}_head": eye,
            }
        return function(**given, **options)

    return value


def labelled(**given):
    return ce_kd_chunked(**given, targets=torch.zeros(1, dtype=torch.int64), ce=0.0, kd=1.0)


def top(student, teacher):
    log_probs, ids = teacher.log_softmax(-1).topk(teacher.shape[-1], dim=-1)
    return kd_topk(student, ids, log_probs, k=teacher.shape[-1])


def federated(student, teacher):
    value = soft_targets(student, teacher, temperature=1.0)
    if value.isinf().any():  # a federation looks at its losses when a client is through
        raise FloatingPointError
    return value


FORWARD = {
    "kd": lambda student, teacher: kd(student, teacher, temperature=1.0),
    "ce_kd": lambda q, p: ce_kd(q, p, torch.zeros(1, dtype=torch.int64), ce=0.0, kd=1.0),
    "kd_topk": top,
    "kd chunked": chunked(divergence_chunked),
    "ce_kd chunked": chunked(labelled),
    "federated": federated,
}
REVERSE = {"kl_reverse": kl_reverse, "kl_reverse chunked": chunked(divergence_chunked, kind="reverse")}
JSD = {"jsd": jsd, "jsd chunked": chunked(divergence_chunked, kind="jsd")}
DIVERGENCES = {
    **{name: (function, lambda q, p: kl(p, q)) for name, function in FORWARD.items()},
    **{name: (function, lambda q, p: kl(q, p)) for name, function in REVERSE.items()},
    **{name: (function, js) for name, function in JSD.items()},
}
every_divergence = pytest.mark.parametrize("name", DIVERGENCES)
ROWS = {
    "nothing": (PLAIN, OTHER),
    "teacher": (PLAIN, [*OTHER[:3], OUT]),
    "student": ([*PLAIN[:3], OUT], OTHER),
    "both, the same": ([*PLAIN[:3], OUT], [*OTHER[:3], OUT]),
    "both, others": ([*PLAIN[:3], OUT], [OUT, *OTHER[1:]]),
    "all but one": ([OUT, OUT, 1.0, OUT], [OUT, OUT, -2.0, OUT]),
}


@every_divergence
@pytest.mark.parametrize("who", ROWS)
def test_excluded_classes_have_the_probability_zero(name, who):
    function, reference = DIVERGENCES[name]
    student, teacher = (torch.tensor([row], dtype=torch.float32) for row in ROWS[who])
    student.requires_grad_()
    expected = reference(probabilities(ROWS[who][0]), probabilities(ROWS[who][1]))
    if math.isinf(expected):
        with pytest.raises(FloatingPointError):
            function(student, teacher)
        return
    value = function(student, teacher)
    assert value.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    gradient = torch.autograd.grad(value.sum(), student)[0]
    assert gradient.isfinite().all() and abs(gradient.sum().item()) < 1e-5


@every_divergence
@pytest.mark.parametrize(
    "bad", [[math.nan, 1.0, 2.0, 3.0], [math.inf, 1.0, 2.0, 3.0], [OUT] * 4], ids=["nan", "inf", "out"]
)
@pytest.mark.parametrize("who", ["student", "teacher"])
def test_what_is_no_distribution_gives_nan_and_no_number(name, who, bad):
    """A loss of NaN ends a run; only the row that is no distribution is one."""
    rows = {"student": PLAIN, "teacher": OTHER, who: bad}
    try:
        value = DIVERGENCES[name][0](*(torch.tensor([rows[each]]) for each in ("student", "teacher")))
    except FloatingPointError:
        return
    assert value.isnan().all()


def test_the_top_may_hold_all_that_the_student_does_not_exclude():
    student = torch.tensor([[1.0, 2.0, OUT, OUT]], requires_grad=True)
    value = kd_topk(student, torch.tensor([[0, 1]]), torch.tensor([[0.5, 0.5]]).log(), k=2)
    assert value.item() == pytest.approx(kl([0.5, 0.5], probabilities([1.0, 2.0])), rel=1e-5)
    assert torch.autograd.grad(value.sum(), student)[0].isfinite().all()


@pytest.mark.parametrize("kind", ["disagreement", "entropy"])
def test_energies_of_a_federation_leave_out_what_both_networks_exclude(kind):
    private, proxy = torch.tensor([PLAIN]), torch.tensor([OTHER])
    wider = [torch.cat([logits, torch.tensor([[OUT]])], 1).requires_grad_() for logits in (private, proxy)]
    value = energy(*wider, kind)
    scale = 1.0 if kind == "disagreement" else math.log(5) / math.log(4)  # of five classes, one of them excluded
    assert (value * scale).item() == pytest.approx(energy(private, proxy, kind).item(), rel=1e-6)
    assert torch.autograd.grad(value.sum(), wider[1])[0].isfinite().all()
