"""Every shipped loss is computed in float32 under autocast, values and gradients, by itself and in the weighted sum."""

from pathlib import Path

import pytest
import torch
from feature_losses import PROOFS

from kdrun.objectives.terms import build_objective

FOLDER = Path(__file__).resolve().parents[2] / "kdrun" / "objectives"
ON_FEATURES = {proof.loss or proof.name for proof in PROOFS}  # which tests/objectives/test_proofs.py looks at
TERMS = sorted(path.stem for path in FOLDER.glob("*.py") if f"def {path.stem}(" in path.read_text())
CAPTURING = {path.stem for path in FOLDER.glob("*.py") if "student_captured:" in path.read_text()}  # given lists
TERMS = [name for name in TERMS if name not in ON_FEATURES | CAPTURING]
B, L, C, D = 3, 5, 8, 8
SETTINGS = [
    *((name, {}) for name in TERMS),
    ("ce", {"label_smoothing": 0.2}),
    ("feature", {"norm": "l2"}),
    ("relation", {"center": True, "normalize": True}),
    ("relation", {"of": "hidden"}),
    ("ce", {"execution": "chunked"}),
    ("kd", {"execution": "chunked"}),
    ("kd", {"execution": "topk", "temperature": 1.0, "k": 2}),
    ("kl_reverse", {"execution": "chunked"}),
    ("jsd", {"execution": "chunked", "temperature": 2.0}),
    ("ce_kd", {"execution": "chunked"}),
    *((name, {"execution": "chunked"}) for name in ("skewed", "skewed_reverse", "tvd", "akl")),
    *(
        (name, {"execution": "topk", "k": 2})
        for name in ("skewed", "skewed_reverse", "tvd", "akl", "jsd", "kl_reverse")
    ),
]
every_term = pytest.mark.parametrize(("name", "options"), SETTINGS, ids=lambda x: x if isinstance(x, str) else repr(x))
types = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


def made(names: set[str], options: dict) -> dict:
    """Tensors of these names. Those that an output layer multiplies are numbers that a product in bfloat16 keeps whole: the
    layer is the identity."""
    generator = torch.Generator().manual_seed(3)
    heads = any(name.endswith("_head") for name in names)

    def random(*shape):
        drawn = torch.randn(*shape, generator=generator)
        return drawn.bfloat16().float() if heads else drawn

    made = {
        "targets": torch.randint(0, C, (B, L), generator=generator),
        "visual_mask": torch.ones(B, L, dtype=torch.bool),
        "sampled_tokens": torch.randint(0, C, (B, L), generator=generator),
        "advantages": torch.randn(B, L, generator=generator),
        "sample_weights": torch.rand(B, L, generator=generator),
        "teacher_top_ids": torch.arange(2).expand(B, L, 2),
        "teacher_top_log_probs": torch.tensor([0.5, 0.3]).log().expand(B, L, 2),
    }
    for who in ("student", "teacher"):
        made |= {f"{who}_{kind}": random(B, L, C) for kind in ("logits", "hidden", "features", "label_logits")}
        made |= {f"{who}_head": torch.eye(D), f"{who}_outputs": random(B, L, 1)}
    if "student_outputs" in names and "targets" not in names:  # several numbers per position
        made |= {f"{who}_outputs": random(B, L, 3) for who in ("student", "teacher")}
    if "student_outputs" in names and "targets" in names:
        made["targets"] = torch.randn(B, L, generator=generator)
    if "student_label_logits" in names:  # any number of the C labels applies
        made["targets"] = (torch.rand(B, L, C, generator=generator) < 0.5).float()
    if "student_steps" in names:  # answers at every step, of samples
        made |= {"teacher_logits": random(B, C), "targets": made["targets"][:, 0]}
        made["student_steps"] = random(B, 4, C).requires_grad_()
    made["student_logits"].requires_grad_(), made["student_hidden"].requires_grad_()
    made["student_features"].requires_grad_(), made["student_outputs"].requires_grad_()
    made["student_label_logits"].requires_grad_()
    return {name: made.get(name) for name in names}


def by_itself(name, tensors, options):
    (term,) = build_objective({name: options}).terms
    return term.function(**tensors, **term.options)


def in_the_sum(name, tensors, options):
    sizes = {"mask": B * L, "visual_mask": B * L, "rewarded": B * L, "images": B}
    rewarded = torch.ones(B, L, dtype=torch.bool)
    return build_objective({name: {"weight": 0.3, **options}})({"mask": None, "rewarded": rewarded, **tensors}, sizes)[
        0
    ]


@every_term
@types
@pytest.mark.parametrize("way", [by_itself, in_the_sum])
def test_values_and_gradients_are_those_of_float32(name, options, dtype, way):
    (term,) = build_objective({name: options}).terms
    tensors = made({*term.wants, *term.may_want}, options)
    wanted = [tensor for tensor in tensors.values() if tensor is not None and tensor.requires_grad]
    wanted = [tensor for tensor in wanted if torch.autograd.grad(
        way(name, tensors, options).sum(), tensor, allow_unused=True)[0] is not None]  # fmt: skip
    plain = way(name, tensors, options)
    expected = torch.autograd.grad(plain.sum(), wanted)
    with torch.autocast("cpu", dtype):
        value = way(name, tensors, options)
    found = torch.autograd.grad(value.sum(), wanted)
    assert wanted and value.dtype == torch.float32 and torch.equal(value, plain)
    for one, other in zip(found, expected, strict=True):
        if term.multiplies:  # the derivative by hidden states is a product in the type of the network
            torch.testing.assert_close(one, other, rtol=0.0, atol=0.02 * float(other.abs().max()))
        else:
            assert torch.equal(one, other)


@types
@pytest.mark.parametrize("narrow", [True, False])
def test_a_loss_of_the_users_own_is_computed_in_float32_too(dtype, narrow, tmp_path, monkeypatch):
    (tmp_path / "similarity_terms.py").write_text(
        "import torch\n\n\ndef gram(student_logits, teacher_logits):\n"
        "    assert student_logits.dtype == torch.float32\n"
        "    one, other = (x @ x.transpose(-1, -2) for x in (student_logits, teacher_logits))\n"
        "    return (one - other).square().sum(-1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    given = torch.randn(4, 3, 7, generator=torch.Generator().manual_seed(0)), torch.zeros(4, 3, 7)
    student, teacher = (tensor.to(dtype) if narrow else tensor for tensor in given)
    objective = build_objective({"gram": {"_target_": "similarity_terms.gram"}}, allowed=["similarity_terms"])
    tensors = {"student_logits": student.requires_grad_(), "teacher_logits": teacher, "mask": None}
    with torch.autocast("cpu", dtype):
        value = objective(tensors, 12)[0]
    gram = student.double() @ student.double().transpose(-1, -2)
    assert value.item() == pytest.approx((gram.square().sum() / 12).item(), rel=1e-5)
    assert torch.autograd.grad(value, student)[0].dtype == student.dtype
