"""teacher.device: a teacher that computes on another device than its student."""

import pytest
import torch

from kdrun.domains.task import Prediction
from kdrun.job.compose import compose
from kdrun.lab.stages.base import Result
from kdrun.learning.device import check_teachers
from kdrun.learning.rollouts import network_of
from kdrun.learning.teacher import Elsewhere
from kdrun.problems import UserError
from kdrun.strategies.cast import Cast, distil, supervised

from .stages import make_lab

WORDS = ("data=digits", "strategy=vanilla", "teacher=mlp_64", "student=mlp_64", "seed=0", "trainer.epochs=1")
SMALL = (*WORDS, "data.limit.train=120", "teacher.trainer.epochs=4", "hardware=cpu", "teacher.source=online")


class Far:
    """What is asked of a teacher on the device `meta`, which holds no values; it answers on another."""

    fingerprint, samples, batch_statistics, network = "far", 3, False, "network"

    def __init__(self):
        self.asked = []

    def outputs(self, batch, step=0):
        self.asked.append({name: value.device.type for name, value in batch["inputs"].items()})
        return Prediction(torch.ones(2, 3), head=(torch.ones(3, 1), torch.ones(3)), captured={"a": [torch.ones(1)]})

    def to(self, device):
        self.place = device


def test_batches_go_to_the_teacher_and_what_it_says_comes_back():
    live = Far()
    source = Elsewhere(live, torch.device("meta"))
    source.to(torch.device("cpu"))
    batch = {"inputs": {"input_ids": torch.ones(2, 3), "attention_mask": torch.ones(2, 3)}, "ids": torch.ones(2)}
    said = source.outputs(batch)
    assert live.asked == [{"input_ids": "meta", "attention_mask": "meta"}] and live.place.type == "meta"
    assert said.logits.device.type == "cpu" and batch["inputs"]["input_ids"].device.type == "cpu"
    assert network_of(source) == "network" and source.samples == 3


def test_all_that_a_network_says_changes_its_device():
    said = Prediction(
        torch.ones(2), features={"a": torch.ones(1)}, head=(torch.ones(1), None), captured={"b": [torch.ones(1)]}
    ).on(torch.device("meta"))
    tensors = (said.logits, said.features["a"], said.head[0], said.captured["b"][0])
    assert {tensor.device.type for tensor in tensors} == {"meta"} and said.head[1] is None and said.hidden is None


def student_of(lab, *words):
    config = compose([*SMALL, *words]).cells[0]
    cast = Cast({**config, "hardware": {**config["hardware"], "device": "cpu"}})
    return lab.get(distil(cast.student, lab.get(supervised(cast.teacher))))


def test_where_it_is_named_it_teaches_the_same(tmp_path):
    lab = make_lab(tmp_path)
    plain, named = student_of(lab), student_of(lab, "teacher.device=cpu")
    assert isinstance(plain, Result) and plain.fingerprint != named.fingerprint
    assert plain.record["val"] == named.record["val"] and plain.record["test"] == named.record["test"]


@pytest.mark.parametrize("device", ["gpu:1", "cuda:x", "cpu:1"])
def test_a_device_that_is_none_is_refused(device):
    with pytest.raises(UserError, match=f"teacher.device={device}"):
        compose([*WORDS, f"teacher.device={device}"])


def test_a_device_that_is_not_here_is_refused_by_its_key():
    config = compose([*WORDS, "teacher.device=cuda:77"]).cells[0]
    with pytest.raises(UserError, match=r"teacher\.device=cuda:77: not on this machine; here: .*cpu"):
        check_teachers(config)
