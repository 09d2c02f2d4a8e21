"""O-LoRA: additions of low rank, their overlap, and the stages and a run of strategy=continual with them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import conv2d

import kdrun
from kdrun.job.compose import compose
from kdrun.networks.low_rank import LowRank
from kdrun.objectives.olora import Olora
from kdrun.problems import UserError
from kdrun.strategies.cast import Cast
from kdrun.strategies.continual import Continual
from kdrun.strategies.unused import StageCollector

WORDS = ("data=digits", "student=mlp_8", "strategy=continual", "trainer.epochs=2", "tracker=none", "card=false")


class Small(nn.Sequential):
    def __init__(self, num_classes=3):
        super().__init__(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, num_classes))


def network_of(tasks, seed=0):
    torch.manual_seed(seed)
    return LowRank(Small(), rank=2, tasks=tasks)


def test_a_weight_is_its_own_and_the_product_of_each_addition():
    network, inputs = network_of(3), torch.randn(5, 2, 4, 4)
    conv, norm, *_, linear = network.network
    with torch.no_grad():
        for addition in network.additions:
            for b in addition.b:
                b.normal_()
    weights = []
    for layer, addition in zip((conv, linear), network.additions, strict=True):
        weight = layer.parametrizations.weight.original.detach().clone()
        flat = weight.view(len(weight), -1)
        for a, b in zip(addition.a, addition.b, strict=True):
            for row in range(flat.shape[0]):
                for column in range(flat.shape[1]):
                    flat[row, column] += 2.0 * sum(b[row, k].item() * a[k, column].item() for k in range(2))
        weights.append(weight)
    middle = torch.relu(norm(conv2d(inputs, weights[0], conv.bias))).flatten(1)
    torch.testing.assert_close(network(inputs), middle @ weights[1].T + linear.bias, rtol=1e-4, atol=1e-5)


def test_the_last_addition_alone_trains_and_begins_at_nothing():
    first, third = network_of(1), network_of(3)
    assert all(one.requires_grad for one in first.parameters())
    trained = {name for name, one in third.named_parameters() if one.requires_grad}
    assert trained == {f"network.{n}.parametrizations.weight.0.{x}.2" for n in (0, 4) for x in "ab"}
    statistics = third.network[1].running_mean.clone()
    third.train()(torch.randn(8, 2, 4, 4))
    assert torch.equal(third.network[1].running_mean, statistics)


def test_weights_of_fewer_tasks_and_of_the_base_are_taken_over_and_say_the_same():
    inputs, third = torch.randn(5, 2, 4, 4), network_of(3, seed=1).eval()
    torch.manual_seed(2)
    base, second = Small().eval(), network_of(2, seed=3).eval()
    with torch.no_grad():
        second.additions[0].b[1].normal_()
        for network in (base, second):
            third.load_state_dict(third.adopt({}, network.state_dict()), strict=True)
            torch.testing.assert_close(third(inputs), network(inputs))
    with pytest.raises(RuntimeError, match="Missing key"):
        third.load_state_dict(third.adopt({}, {"0.weight": base[0].weight}), strict=True)


def test_the_penalty_is_the_sum_of_squared_products_of_rows_of_a_new_addition_with_those_before():
    network = network_of(3)
    value = Olora(network)(torch.randn(4, 3))
    slow = 0.0
    for addition in network.additions:
        for old in addition.a[:2]:
            for row in old:
                for new in addition.a[2]:
                    slow += sum(x.item() * y.item() for x, y in zip(row, new, strict=True)) ** 2
    assert value.shape == (4,) and torch.allclose(value, torch.full((4,), slow), rtol=1e-4) and slow > 0
    value.mean().backward()
    for addition in network.additions:
        overlap = sum(2 * addition.a[2] @ old.T @ old for old in addition.a[:2])
        torch.testing.assert_close(addition.a[2].grad, overlap.detach(), rtol=1e-4, atol=1e-6)
    assert Olora(network_of(1))(torch.randn(4, 3)).tolist() == [0.0] * 4
    with pytest.raises(UserError, match="no additions of low rank"):
        Olora(Small())


def test_each_task_adds_to_the_network_before():
    cast, lab = Cast(compose([*WORDS]).cells[0]), StageCollector()
    Continual(tasks=[[0, 1], [2, 3], [4]], method="olora", olora_weight=2.0).run(lab, cast)
    assert [stage.learner["network"]["tasks"] for stage in lab.stages] == [1, 2, 3]
    assert [stage.objective.get("olora") for stage in lab.stages] == [None, {"weight": 2.0}, {"weight": 2.0}]
    assert [stage.start and stage.start.stage.role for stage in lab.stages] == [None, "student_task1", "student_task2"]


def test_a_first_step_moves_a_weight_as_it_would_move_by_itself_in_the_directions_of_the_addition():
    network, base = network_of(2), Small()
    network.load_state_dict(network.adopt({}, base.state_dict()))
    inputs, linear = torch.randn(6, 2, 4, 4), network.network[4]
    before = linear.weight.detach().clone()
    for one in (network, base.eval()):
        one.eval()(inputs).square().sum().backward()
    (a, b) = (part[1] for part in (network.additions[1].a, network.additions[1].b))
    torch.testing.assert_close(a @ a.T, torch.eye(2), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        b -= 0.01 * b.grad
    moved, alone = linear.weight.detach() - before, -0.01 * base[4].weight.grad
    torch.testing.assert_close(moved, 4.0 * alone @ a.T @ a, rtol=1e-3, atol=1e-5)  # the factor 2, twice


def test_of_a_network_of_questions_the_language_model_is_added_to_and_projectors_train():
    from kdrun.domains.vision_language.networks.multimodal import Multimodal

    fields = {"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    fields |= {"intermediate_size": 16, "tie_word_embeddings": True}
    data = {"vocabulary": 24, "pad": 0, "eos": 2, "image_token": 3, "image_tokens": 2, "max_length": 12}
    made = {"modalities": ["image", "audio"], "feature_width": 4, **data}
    base, third = Multimodal(fields, **made), LowRank(Multimodal(fields, **made), rank=2, tasks=3)
    with torch.no_grad():
        third.load_state_dict(third.adopt({}, base.state_dict()), strict=True)
    trained = {name for name, one in third.named_parameters() if one.requires_grad}
    assert {name.rpartition(".")[2] for name in trained if ".projectors." not in name} == {"2"}
    assert sum(".projectors." in name for name in trained) == len(list(base.projectors.parameters()))
    ids = torch.tensor([[5, 3, 3, 7], [5, 3, 3, 9]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids, dtype=torch.bool)}
    inputs |= {"image_features": torch.randn(2, 2, 4), "modality": torch.tensor([0, 1])}
    torch.testing.assert_close(third(**inputs), base(**inputs))
    hidden, weight, _ = third.hidden(**inputs)
    torch.testing.assert_close(hidden @ weight.T, base(**inputs))
    assert third.generate(**inputs, max_new=3) == base.generate(**inputs, max_new=3)
    assert third.parts["projectors"] == ("network.projectors",)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = third.nothing_like_it


def test_types_of_questions_are_learned_with_additions(tmp_path):
    words = (
        "model=multimodal",
        "strategy=continual",
        "tracker=none",
        "card=false",
        "strategy.method=olora",
        "data.train=8",
        "data.val=2",
        "data.test=2",
    )
    tasks = ("strategy.tasks=[[image_answer],[video_answer]]", "strategy.controls=[]", "trainer.epochs=1", "seed=0")
    record = kdrun.run(*words, *tasks, "data.modalities=[image,video]", f"paths.outputs={tmp_path}").record
    paths = {stage["role"]: Path(stage["path"]) for stage in record["stages"]}
    start, after = (
        load_file(paths["student_task1"] / "best.safetensors"),
        load_file(paths["student_task2"] / "last.safetensors"),
    )
    moved = {name for name in start if not torch.equal(start[name], after[name])}
    assert moved and all(
        name.startswith("network.projectors.video.") for name in moved
    )  # no picture in the second task
    assert any(bool(after[name].any()) for name in after.keys() - start.keys() if ".b." in name)


def test_a_run_leaves_all_but_the_new_addition_as_it_was(tmp_path):
    words = ("strategy.method=olora", "strategy.tasks=[[0,1],[2,3]]", "strategy.controls=[]", "data.limit.train=60")
    record = kdrun.run(*WORDS, *words, "seed=0", f"paths.outputs={tmp_path}", "strategy.olora_rank=2").record
    paths = {stage["role"]: Path(stage["path"]) for stage in record["stages"]}
    before, after = (load_file(paths[f"student_task{n}"] / "last.safetensors") for n in (1, 2))
    start = load_file(paths["student_task1"] / "best.safetensors")
    assert before.keys() < after.keys() and all(torch.equal(start[name], after[name]) for name in before)
    assert any(bool(after[name].any()) for name in after.keys() - before.keys() if ".b." in name)
    (stage,) = [stage for stage in record["stages"] if stage.get("matrix")]
    rows = stage["matrix"]["metrics"]["accuracy"]
    (first,) = [stage for stage in record["stages"] if stage["role"] == "student_task1"]
    # Measured by a network with an addition more, of which there is nothing yet.
    assert len(rows) == 3 and rows[1][0] == first["test"]["best"]["accuracy"] > rows[0][0]
