"""What terms capture of untouched networks, how sizes are brought together, and terms that learn or remember something."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from kdrun.domains.spec import Blank
from kdrun.domains.task import Prediction
from kdrun.learning import seeds
from kdrun.learning.adaptor import Adaptor, Adaptors, make_adaptors
from kdrun.learning.callbacks import CHECKPOINT
from kdrun.learning.report import Interrupted
from kdrun.learning.wiring import shapes_of
from kdrun.networks.capture import Capture, matching
from kdrun.networks.resnet import ResNet
from kdrun.networks.weights import read_metadata
from kdrun.objectives.terms import build_objective
from kdrun.problems import UserError
from kdrun.slots import allowing
from kdrun.strategies.cast import Cast, distil, supervised

from .stages import Silent, cell, make_lab, teach
from .test_resume import same


def resnet(width: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return ResNet(depth=8, width=width, num_classes=10, in_channels=1)


def pixels(seed: int = 0) -> torch.Tensor:
    return torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


# Captures


def test_paths_and_globs_name_modules_and_a_wrong_one_names_the_nearest():
    network = resnet(4)
    assert matching(network, "stage2") == ["stage2"]
    assert matching(network, "stage*.0") == ["stage1.0", "stage2.0", "stage3.0"]
    assert matching(network, "stage3.-1.conv1") == ["stage3.0.conv1"] and matching(network, "-1") == ["head"]
    assert matching(network, "[2:4].0") == ["stage1.0", "stage2.0"]
    assert matching(network, "[2::2]") == ["stage1", "stage3"]
    for beyond in ("stage3.-2", "[9:]"):
        with pytest.raises(UserError, match="has no module of this path"):
            matching(network, beyond)
    with pytest.raises(UserError, match=r"objective\.hint\.student=stag2: .* closest: stage2"):
        matching(network, "stag2", "objective.hint.student")


def test_a_captured_module_gives_what_it_gave_with_its_gradient_and_leaves_no_hook():
    network, inputs = resnet(4).eval(), pixels()
    logits, captured = Capture(network, {"stage1": "", "stage*.0": ""}).of(lambda: network(inputs))
    expected = network.stage1(functional.relu(network.norm(network.stem(inputs))))
    torch.testing.assert_close(captured["stage1"][0], expected)
    assert len(captured["stage*.0"]) == 3 and torch.equal(captured["stage*.0"][0], captured["stage1"][0])
    found = torch.autograd.grad(captured["stage1"][0].square().sum(), network.stem.weight, retain_graph=True)[0]
    torch.testing.assert_close(found, torch.autograd.grad(expected.square().sum(), network.stem.weight)[0])
    assert torch.equal(logits, network(inputs)) and not any(part._forward_hooks for part in network.modules())


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool | None):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.reentrant = nn.Linear(4, 5), nn.Linear(5, 3), reentrant

    def forward(self, inputs):
        if self.reentrant is None:
            return self.second(self.first(inputs).tanh())
        return checkpoint(lambda x: self.second(self.first(x).tanh()), inputs, use_reentrant=self.reentrant)


def test_under_activation_checkpointing_the_gradient_comes_once_or_it_is_refused():
    inputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)

    def gradients(reentrant):
        network = Checkpointed(reentrant)
        logits, captured = Capture(network, {"first": ""}).of(lambda: network(inputs))
        (logits.square().sum() + captured["first"][0].pow(3).sum()).backward()
        return [parameter.grad for parameter in network.parameters()]

    for plain, saving in zip(gradients(None), gradients(False), strict=True):
        torch.testing.assert_close(plain, saving)
    with pytest.raises(UserError, match="use_reentrant=False"):
        gradients(True)


def test_what_cannot_be_captured_is_refused():
    network = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    twice = nn.Sequential(network[0], network[0])
    with pytest.raises(UserError, match="was called 2 times"):
        Capture(twice, {"0": ""}).of(lambda: twice(torch.ones(1, 3)))
    network[0].compile()
    with pytest.raises(UserError, match="is compiled"):
        Capture(network, {"1": ""})


def test_layers_of_a_transformers_model():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4,
        num_channels=1, num_labels=10,
    )  # fmt: skip
    network = transformers.ViTForImageClassification(config).eval()
    path = "vit.layers.*" if hasattr(network.vit, "layers") else "vit.encoder.layer.*"
    _, captured = Capture(network, {path: "", "vit": ""}).of(lambda: network(pixels()))
    hidden = network.vit.embeddings(pixels())
    assert len(captured[path]) == 2 and captured["vit"][0].shape == (3, 5, 8)
    for block, layer in zip(network.get_submodule(path[:-2]), captured[path], strict=True):
        hidden = block(hidden)
        hidden = hidden if isinstance(hidden, torch.Tensor) else hidden[0]
        expected = hidden
        assert torch.equal(layer, expected)


# Adaptors and the hint


def test_an_adaptor_is_a_regressor_between_the_sizes():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 4)
    grid = Adaptor((3, 8, 8), (5, 4, 4))
    pooled = student.view(2, 3, 4, 2, 4, 2).mean((3, 5))
    slow = torch.empty(2, 5, 4, 4)
    for b in range(2):
        for i in range(4):
            for j in range(4):
                slow[b, :, i, j] = grid.layer.weight[:, :, 0, 0] @ pooled[b, :, i, j] + grid.layer.bias
    torch.testing.assert_close(grid(student, teacher), slow)
    tokens = Adaptor((6, 3), (4, 5))
    assert isinstance(tokens.layer, nn.Linear)
    assert tokens(torch.randn(2, 6, 3), torch.randn(2, 4, 5)).shape == (2, 4, 5)
    assert Adaptor((3, 2, 2), (5, 4, 4))(torch.randn(2, 3, 2, 2), teacher).shape == teacher.shape
    assert Adaptor((3,), (3,)).layer is None and Adaptor((3,), (3,), "linear").layer is not None
    assert Adaptor((3, 2, 2), (5, 2, 2), "none").layer is None
    normalised = Adaptor((3, 4, 4), (5, 4, 4), "conv_bn_relu")(1e6 * torch.randn(9, 3, 4, 4), torch.randn(9, 5, 4, 4))
    assert normalised.min() == 0 and normalised.square().mean().item() == pytest.approx(0.5, rel=0.2)
    for shapes, kind in (
        (((3,), (5,)), "conv_bn_relu"),
        (((3,), (5,)), "conv"),
        (((3, 2, 2), (5, 2, 2)), "linear"),
        (((3, 2, 2), (4, 5)), "auto"),
    ):
        with pytest.raises(ValueError):
            Adaptor(*shapes, kind)


def test_the_hint_of_middle_layers_is_the_mean_squared_error_after_the_regressor():
    student, teacher, inputs = resnet(4), resnet(8, seed=1).eval(), pixels()
    objective = build_objective({"hint": {"student": ["stage1", "stage3"], "teacher": ["stage1", "stage3"]}})

    class Task:
        def predict(self, network, inputs):
            return Prediction(network(inputs))

    class Spec:
        def blank(self):
            return Blank(torch.zeros(2, 1, 8, 8), (2, 10), "images")

    shapes = [shapes_of(network, objective, who, Task(), Spec()) for who, network in
              (("student", student), ("teacher", teacher))]  # fmt: skip
    adaptors = make_adaptors(objective, shapes[0], [shapes[1]], None, 0)
    again = make_adaptors(objective, shapes[0], [shapes[1]], None, 0)
    assert all(torch.equal(a, b) for a, b in zip(adaptors.parameters(), again.parameters(), strict=True))
    said = []
    for network in (student.eval(), teacher):
        said.append(Prediction(None))
        said[-1].logits, said[-1].captured = Capture(network, dict.fromkeys(["stage1", "stage3"], "")).of(
            lambda network=network: network(inputs)
        )
    tensors = {"student_logits": said[0].logits, "mask": None, "captured": adaptors.captured(*said)}
    total, raw = objective.begin()(tensors, 3)
    slow = 0.0
    for number, stage in enumerate(("stage1", "stage3")):
        ours, theirs = (one.captured[stage][0] for one in said)
        layer = adaptors.pairs["hint"][number].layer
        mapped = torch.einsum("oc,bchw->bohw", layer.weight[:, :, 0, 0], ours) + layer.bias[:, None, None]
        slow += sum((mapped[b] - theirs[b]).square().mean().item() for b in range(3)) / 3 / 2
    assert total.item() == pytest.approx(slow, rel=1e-5) and set(raw) == {"hint"}
    assert Adaptors().captured(*said) == {}


# Whole stages

OWN = ("targets.learning=true", "objective={ce: {weight: 1.0}}", "teacher.source=online")
STATE = (
    "+objective.warm={_target_: learning.losses.LearnedTemperature, weight: 0.5}",
    "+objective.kept={_target_: learning.losses.Remembering, weight: {linear: {from: 0, to: 1, steps: 6}}}",
)
RESNETS = ("teacher=resnet14", "student=resnet8_w4", "objective=hint", "trainer.epochs=1", "data.limit.train=128")


@pytest.fixture
def own():
    with allowing(["learning"]):
        yield


@pytest.mark.parametrize("stop_at", [1, 5, 8])
def test_what_terms_learn_and_remember_goes_on_after_a_stop_to_the_last_bit(tmp_path, own, stop_at):
    words = (*OWN, *STATE, "trainer.accumulate=2")
    unbroken = teach(make_lab(tmp_path / "a"), *words)
    lab = make_lab(tmp_path / "b")
    cast = Cast(cell(*words))
    stage = distil(cast.student, lab.get(supervised(cast.teacher)))
    with pytest.raises(Interrupted):
        make_lab(tmp_path / "b", Silent(stop_at)).get(stage)
    (work,) = (tmp_path / "b" / "unfinished").iterdir()
    state = torch.load(work / CHECKPOINT, weights_only=True)["state_dict"]
    assert state["terms.warm.log"] != torch.tensor(2.0).log()
    assert bool(state["terms.kept.memory.written"].any()) == bool(state["terms.kept.calls"]) == (stop_at > 1)
    same(unbroken, make_lab(tmp_path / "b").get(stage))
    assert not any("term" in name for name in _names(unbroken))


def test_a_temperature_that_learns_goes_on_after_a_stop_to_the_last_bit(tmp_path):
    words = ("objective=ctkd", "teacher.source=online", "trainer.epochs=2")
    unbroken = teach(make_lab(tmp_path / "a"), *words)
    cast = Cast(cell(*words))
    stage = distil(cast.student, make_lab(tmp_path / "b").get(supervised(cast.teacher)))
    with pytest.raises(Interrupted):
        make_lab(tmp_path / "b", Silent(1)).get(stage)
    (work,) = (tmp_path / "b" / "unfinished").iterdir()
    assert torch.load(work / CHECKPOINT, weights_only=True)["state_dict"]["terms.ctkd.theta"] != 1.0
    same(unbroken, make_lab(tmp_path / "b").get(stage))
    assert not any("theta" in name for name in _names(unbroken))


def _names(trained) -> list[str]:
    from safetensors.torch import load_file

    assert read_metadata(trained.weights("best"))
    return list(load_file(trained.weights("best")))


def test_a_term_without_weight_at_a_step_is_not_computed_there(tmp_path, own):
    words = (*OWN, STATE[1].replace("linear: {from: 0, to: 1, steps: 6}", "step: {from: 0, to: 2, at: 12}"))
    record = teach(make_lab(tmp_path), *words)
    rows = [row for row in _rows(record) if "train/loss" in row]
    assert "train/kept" not in rows[0] and rows[-1]["train/kept_weight"] == 2.0
    assert rows[-1]["train/kept_weighted"] == pytest.approx(2 * rows[-1]["train/kept"])
    assert record.record["first_step"]["kept"]["gradient"] > 0


def _rows(trained) -> list[dict]:
    import json

    return [json.loads(line) for line in (trained.path / "metrics.jsonl").read_text().splitlines()]


def test_stages_with_hints_resume_and_keep_no_adaptor(tmp_path):
    unbroken = teach(make_lab(tmp_path / "a"), *RESNETS)
    cast = Cast(cell(*RESNETS))
    stage = distil(cast.student, make_lab(tmp_path / "b").get(supervised(cast.teacher)))
    with pytest.raises(Interrupted):
        make_lab(tmp_path / "b", Silent(1)).get(stage)
    same(unbroken, make_lab(tmp_path / "b").get(stage))
    assert set(unbroken.record["first_step"]) == {"ce", "kd", "hint"}
    assert not any("adaptor" in name for name in _names(unbroken))


def test_captured_layers_all_at_once_in_a_plain_class(tmp_path, own):
    layers = "student: [stage1, stage2], teacher: [stage1, stage2], adaptor: none"
    words = (*RESNETS, *OWN, f"+objective.all={{_target_: learning.losses.Together, {layers}}}")
    assert teach(make_lab(tmp_path), *words).record["first_step"]["all"]["gradient"] > 0


def test_a_capture_of_a_teacher_that_is_asked_from_disk_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"teacher.source=cached: .*captured of its modules"):
        teach(make_lab(tmp_path), *RESNETS, "teacher.source=cached")


def test_the_seed_makes_adaptors():
    objective = build_objective({"hint": {"student": "a"}})
    one, other = (
        make_adaptors(objective, {"a": [(3,)]}, [{"a": [(4,)]}], None, seeds.derive(seed, "x")) for seed in (0, 1)
    )
    assert not torch.equal(next(one.parameters()), next(other.parameters()))


class Activated(nn.Module):
    """Modules that end with an activation: of torch, of its own, in place; and one that ends with none."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.functional, self.plain = resnet(2).stage1, nn.Linear(4, 4)
        self.in_place = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
        self.smooth = nn.Sequential(nn.Linear(4, 4), nn.GELU())

    def forward(self, maps):
        return self.plain(self.smooth(self.in_place(self.functional(maps).mean((1, 2)))))


def test_what_goes_into_the_activation_that_a_module_ends_with():
    network, maps = Activated(), torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    paths = ("functional", "in_place", "smooth", "plain")
    patterns = {f"{before}{path}": "" for path in paths for before in ("", "before:")}
    for learning in (True, False):
        with torch.set_grad_enabled(learning):
            output, captured = Capture(network, patterns).of(lambda: network(maps))
            assert torch.equal(output, network(maps))
        before = {path: captured[f"before:{path}"][0] for path in paths}
        after = {path: captured[path][0] for path in paths}
        assert torch.equal(before["functional"].relu(), after["functional"]) and (before["functional"] < 0).any()
        assert torch.equal(before["in_place"], network.in_place[0](after["functional"].mean((1, 2))))
        assert torch.equal(before["in_place"].relu(), after["in_place"])
        assert torch.equal(functional.gelu(before["smooth"]), after["smooth"])
        assert torch.equal(before["plain"], after["plain"])
        assert before["functional"].requires_grad == learning
    found = torch.autograd.grad(before_relu(network, maps).sum(), network.functional[0].conv2.weight)[0]
    assert found.abs().sum() > 0
    with pytest.raises(UserError, match=r"objective\.ab\.student=smoth: .* closest: smooth"):
        Capture(network, {"before:smoth": "objective.ab.student"})


def before_relu(network: nn.Module, maps: torch.Tensor) -> torch.Tensor:
    return Capture(network, {"before:functional": ""}).of(lambda: network(maps))[1]["before:functional"][0]


def test_lists_of_layers_without_adaptors_may_be_of_unlike_lengths(tmp_path, own):
    layers = "student: [stage1], teacher: [stage1, stage2], adaptor: none, resize: none"
    words = (*RESNETS, *OWN, f"+objective.all={{_target_: learning.losses.Pooled, {layers}}}")
    assert teach(make_lab(tmp_path), *words).record["first_step"]["all"]["gradient"] > 0
