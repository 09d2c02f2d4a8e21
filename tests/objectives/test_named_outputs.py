"""Terms on an output of the student other than its logits: DeiT's two tokens, exits."""

import inspect

import pytest
import torch
from torch import nn

from kdrun.config.compose import compose
from kdrun.domains.images.spec import DataSpec
from kdrun.domains.images.task import Classification
from kdrun.learning.backend import Backend
from kdrun.learning.wiring import dry_shapes
from kdrun.networks.vit import VisionTransformer
from kdrun.objectives.ela import ela
from kdrun.objectives.sta import sta
from kdrun.objectives.step_ce import step_ce
from kdrun.objectives.step_kd import step_kd
from kdrun.objectives.terms import build_objective
from kdrun.problems import UserError

SPEC = DataSpec("x", ("a", "b", "c"), (1, 8, 8), {"train": 6}, (0.0,), (1.0,))


def distilled(**options) -> VisionTransformer:
    torch.manual_seed(0)
    sizes = {"width": 12, "depth": 1, "heads": 2, "num_classes": 3, "in_channels": 1, "image_size": 8}
    network = VisionTransformer(**{**sizes, "distilled": True, **options})
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    return network


def tensors_of(objective, network, images, targets, said):
    task = Classification(SPEC)
    task.prepare(objective.wanted)
    backend = Backend(task, network)
    prediction = backend.predict(network, images)
    teacher = type(prediction)(said)
    return backend.tensors({"targets": targets, "inputs": images}, prediction, teacher), prediction


def presets():
    return {name: compose([f"objective={name}"]).config["objective"] for name in ("deit_hard", "deit_soft")}


@pytest.mark.parametrize("name", ["deit_hard", "deit_soft"])
def test_deit_is_that_of_the_paper_and_each_token_learns_from_its_own(name):
    objective, network = build_objective(presets()[name]), distilled()
    images, targets = torch.randn(6, 1, 8, 8), torch.tensor([0, 1, 2, 2, 1, 0])
    said = 3 * torch.randn(6, 3)
    tensors, prediction = tensors_of(objective, network, images, targets, said)
    total, raw = objective(tensors, 6)
    outputs = network(images)
    wanted = 0.0
    for token, other, label, speech in zip(
        outputs["class_token"].double(), outputs["distillation_token"].double(), targets, said.double(), strict=True
    ):
        labels = token.exp().sum().log() - token[label]
        if name == "deit_hard":
            wanted += 0.5 * labels + 0.5 * (other.exp().sum().log() - other[speech.argmax()])
        else:
            p, q = (speech / 3).exp() / (speech / 3).exp().sum(), (other / 3).exp() / (other / 3).exp().sum()
            wanted += 0.9 * labels + 0.1 * 9 * sum(p[c] * (p[c] / q[c]).log() for c in range(3))
    assert total.item() == pytest.approx((wanted / 6).item(), rel=1e-5)
    torch.testing.assert_close(prediction.logits, (outputs["class_token"] + outputs["distillation_token"]) / 2)
    taught = next(term for term in raw if term != "ce")
    labelled = torch.autograd.grad(raw["ce"], network.parameters(), allow_unused=True, retain_graph=True)
    from_teacher = torch.autograd.grad(raw[taught], network.parameters(), allow_unused=True)
    names = [name for name, _ in network.named_parameters()]
    assert labelled[names.index("head_dist.weight")] is None and from_teacher[names.index("head.weight")] is None
    assert labelled[names.index("head.weight")].norm() > 0 and from_teacher[names.index("head_dist.weight")].norm() > 0


def test_a_term_may_have_any_output_of_a_network_beside_others_on_its_logits():
    class Exits(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(64, 3), nn.Linear(64, 3)

        def forward(self, images):
            rows = images.flatten(1)
            return {"early": self.first(rows), "logits": self.last(rows), "unused": rows}

    early = {"_target_": "kdrun.objectives.ce.ce", "logits": "output:early"}
    objective, network = build_objective({"ce": {}, "exit": early}), Exits()
    images, targets = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    tensors, prediction = tensors_of(objective, network, images, targets, torch.zeros(4, 3))
    assert set(prediction.features) == {"early"}
    _, raw = objective(tensors, 4)
    for name, output in (("ce", "logits"), ("exit", "early")):
        wanted = nn.functional.cross_entropy(network(images)[output], targets)
        assert raw[name].item() == pytest.approx(wanted.item(), rel=1e-6)


class Exits(nn.Module):
    """A network that does not spike, with an answer after each of three layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64 if number == 0 else 16, 16) for number in range(3))
        self.heads = nn.ModuleList(nn.Linear(16, 3) for _ in range(3))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden, answers = images.flatten(1), []
        for layer, head in zip(self.layers, self.heads, strict=True):
            hidden = layer(hidden).relu()
            answers.append(head(hidden))
        return {"logits": answers[-1], "steps": torch.stack(answers, dim=1)}


@pytest.mark.parametrize("name", ["seal", "step_ce", "step_kd", "temporal_decoupling"])
def test_losses_of_steps_are_those_of_exits_too(name):
    torch.manual_seed(0)
    node = compose([f"objective={name}"]).config["objective"]
    objective, network = build_objective(node), Exits()
    images, targets = torch.randn(6, 1, 8, 8), torch.tensor([0, 1, 2, 2, 1, 0])
    tensors, _ = tensors_of(objective, network, images, targets, 3 * torch.randn(6, 3))
    assert torch.equal(tensors["student_steps"], network(images)["steps"])
    total, raw = objective(tensors, 6)
    functions = {"step_ce": step_ce, "step_kd": step_kd, "ela": ela, "sta": sta}
    given = {"student_steps": tensors["student_steps"], "teacher_logits": tensors["teacher_logits"], "targets": targets}
    for term, options in node.items():
        taken = {key: value for key, value in given.items() if key in inspect.signature(functions[term]).parameters}
        options = {key: value for key, value in options.items() if key in inspect.signature(functions[term]).parameters}
        assert raw[term].item() == pytest.approx(functions[term](**taken, **options).mean().item(), rel=1e-5)
    total.backward()
    assert all(head.weight.grad.abs().sum() > 0 for head in network.heads)
    task = Classification(SPEC)
    scores = task.collection()
    task.evaluate(scores, network.eval(), {"inputs": images, "targets": targets, "ids": torch.arange(6)})
    found = scores.compute()
    assert found["accuracy/step_3"] == found["accuracy"] and "firing_rate" not in found


def test_what_cannot_be_is_refused_with_the_key():
    with pytest.raises(UserError, match=r"objective.ce.logits must be output:NAME.*got 'class_token'"):
        build_objective({"ce": {"logits": "class_token"}})
    with pytest.raises(UserError, match=r"objective.at.logits=output:x: this term takes no logits"):
        build_objective({"at": {"logits": "output:x", "student": "a", "teacher": "a"}})
    objective, task = build_objective(presets()["deit_hard"]), Classification(SPEC)
    task.prepare(objective.wanted)
    node = {"_target_": "kdrun.networks.cnn.CNN"}
    with pytest.raises(UserError, match=r"objective.hard.logits=output:distillation_token: this task gives no"):
        dry_shapes(node, objective, "student", task, SPEC)
    with pytest.raises(ValueError, match="patches of 4 x 4 do not cover images of 9 x 9"):
        distilled(image_size=9)
