"""The moving average of the weights against one written out: student only, buffers copied, counters whole; and as a teacher."""

import pytest
import torch
from torch import nn

from kdrun.domains.images.task import Classification
from kdrun.domains.load import load_data
from kdrun.learning.learner import LearnerModule, _average
from kdrun.learning.report import Interrupted
from kdrun.learning.teacher import OwnAverage
from kdrun.objectives.terms import build_objective
from kdrun.strategies.cast import Cast, averaged

from .stages import Silent, cell, make_lab
from .test_resume import same


def test_average_against_a_slow_reference():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average, decay = _average(network, 0.8), 0.8
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    expected = None
    for _ in range(4):
        network(torch.randn(5, 3)).pow(2).sum().backward()
        optimizer.step()
        average.update_parameters(network)
        now = {name: p.detach().clone() for name, p in network.named_parameters()}
        # The first update takes the weights as they are; an average that began at the random start would keep it in.
        expected = now if expected is None else {n: decay * expected[n] + (1 - decay) * now[n] for n in now}
    for name, parameter in average.module.named_parameters():
        assert torch.allclose(parameter, expected[name], atol=1e-6), name
    for name, buffer in network.named_buffers():
        assert torch.equal(dict(average.module.named_buffers())[name], buffer), name


def test_an_average_that_teaches_is_the_mean_of_all_weights_at_first():
    torch.manual_seed(0)
    network = nn.Linear(3, 4)
    average, seen = _average(network, 0.75, quick=True), []
    for _ in range(6):
        with torch.no_grad():
            network.weight += torch.randn(4, 3)
        average.update_parameters(network)
        seen.append(network.weight.detach().clone())
        if len(seen) <= 4:
            expected = torch.stack(seen).mean(0)
        else:
            expected = 0.75 * expected + 0.25 * seen[-1]
        torch.testing.assert_close(average.module.weight.detach(), expected)


OBJECTIVE = {"ce": {"weight": 1.0}, "kd": {"weight": 1.0, "temperature": 1.0}}


def test_the_average_teaches_in_eval_mode_and_learns_nothing_by_a_gradient():
    config = cell()
    task = Classification(load_data(config["data"], config["paths"]).spec)
    torch.manual_seed(0)
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 10))
    learner = LearnerModule(student, task, build_objective(OBJECTIVE), teacher=OwnAverage(task), ema=0.9)
    inputs = torch.randn(8, 1, 8, 8)
    with torch.no_grad():
        student[4].weight += 1.0
    before = {name: tensor.clone() for name, tensor in learner.average.state_dict().items()}
    said = learner.teacher.outputs({"inputs": inputs})
    learner.network.eval()
    torch.testing.assert_close(said.logits, learner.network(inputs).detach())
    assert not said.logits.requires_grad and learner.teacher.samples == 8
    assert not torch.allclose(said.logits, student.eval()(inputs))
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.average.state_dict().items())
    assert set(learner.state_dict()) == {f"student.{name}" for name in student.state_dict()}


def test_a_stage_taught_by_its_average_goes_on_after_a_stop_to_the_last_bit(tmp_path):
    def stage():
        return averaged(Cast(cell("objective=mean_teacher", "data.augment.crop=1")).student, 0.9)

    unbroken = make_lab(tmp_path / "a").get(stage())
    with pytest.raises(Interrupted):
        make_lab(tmp_path / "b", Silent(3)).get(stage())
    same(unbroken, make_lab(tmp_path / "b").get(stage()))
    assert unbroken.record["first_step"]["kd"]["gradient"] > 0 and unbroken.record["teacher"]["average"] == 0.9
    flops = unbroken.record["cost"]["flops"]
    assert flops["teacher"] > 0, flops
