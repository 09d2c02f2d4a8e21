"""What is in a fingerprint changes it; what is left out does not; renaming and reordering never do."""

import copy
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdrun.lab.fingerprint import (
    LEFT_OUT,
    FingerprintContext,
    differences,
    fingerprint,
    nearest,
)
from kdrun.lab.stages.base import Result
from kdrun.lab.stages.fit import Fit

TRAINER = {
    "epochs": 2,
    "batch_size": 32,
    "eval_batch_size": 256,
    "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1},
    "schedule": {"name": "cosine"},
    "checkpoint_seconds": 30.0,
    "log_every": 20,
    "devices": None,
    "ema": None,
}
TEACHING = {
    "source": "cached",
    "fill": "pass",
    "verify": 16,
    "cache_limit_gb": 20.0,
    "accuracy": None,
    "tolerance": 0.03,
    "normalize": None,
}
STAGE = Fit(
    role="student",
    learner={"name": "small", "network": {"_target_": "kdrun.networks.mlp.MLP", "width": 8}, "weights": None},
    objective={"ce": {"weight": 0.1}, "kd": {"weight": 0.9, "temperature": 4.0}},
    data={
        "_target_": "kdrun.domains.images.shipped.digits.digits",
        "name": "digits",
        "split_seed": 0,
        "root": "/somewhere",
    },
    trainer=TRAINER,
    hardware={
        "name": "local",
        "device": "cpu",
        "devices": 1,
        "precision": "fp32",
        "threads": 1,
        "channels_last": False,
    },
    seed=0,
    teaching=TEACHING,
)
TEACHER = Result("t" * 64, replace(STAGE, role="teacher"), {})


def key(stage: Fit, data: str = "data", device: str = "cpu", added=None) -> str:
    return fingerprint(stage.parts(FingerprintContext(lambda config: data, device, added)))


def changed(path: str, value) -> Fit:
    name, *rest = path.split(".")
    node = copy.deepcopy(getattr(STAGE, name))
    inner = node
    for step in rest[:-1]:
        inner = inner[step]
    inner[rest[-1]] = value
    return replace(STAGE, **{name: node}, teacher=TEACHER)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("learner.network.width", 9),
        ("objective.kd.temperature", 5.0),
        ("objective.ce.weight", 0.2),
        ("data.split_seed", 1),
        ("trainer.epochs", 3),
        ("trainer.optimizer.lr", 0.2),
        ("trainer.ema", 0.99),
        ("hardware.precision", "bf16"),
        ("hardware.devices", 2),
        ("teaching.source", "online"),
        ("teaching.fill", "first_epoch"),
    ],
)
def test_what_determines_the_result_is_in(path, value):
    assert key(changed(path, value)) != key(replace(STAGE, teacher=TEACHER))


def test_seed_start_teacher_data_and_device_are_in():
    base = key(STAGE)
    assert key(replace(STAGE, seed=1)) != base
    assert key(replace(STAGE, start=TEACHER)) != base
    assert key(replace(STAGE, teacher=TEACHER)) != base
    assert key(STAGE, data="other") != base
    assert key(STAGE, device="cuda") != base


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("learner.name", "other"),
        ("data.name", "other"),
        ("data.root", "/elsewhere"),
        ("trainer.checkpoint_seconds", 1.0),
        ("trainer.log_every", 1),
        ("trainer.eval_batch_size", 8),
        ("hardware.name", "other"),
        ("hardware.threads", 2),
        ("hardware.channels_last", True),
        ("teaching.verify", 0),
        ("teaching.cache_limit_gb", 1.0),
        ("teaching.accuracy", 0.5),
        ("teaching.tolerance", 0.5),
    ],
)
def test_what_is_left_out_changes_nothing_and_has_a_reason(path, value):
    assert key(changed(path, value)) == key(replace(STAGE, teacher=TEACHER))
    assert LEFT_OUT[path]


def test_role_is_a_name():
    assert key(replace(STAGE, role="alone")) == key(STAGE)


def test_weights_count_by_content_not_by_path(tmp_path):
    def stage(path, content):
        path.write_bytes(content)
        return replace(STAGE, learner={**STAGE.learner, "weights": str(path)})

    one, two = stage(tmp_path / "a.pt", b"1"), stage(tmp_path / "b.pt", b"1")
    assert key(one) == key(two) != key(STAGE)
    assert key(stage(tmp_path / "c.pt", b"2")) != key(one)


def test_an_option_added_later_does_not_orphan_results():
    older = copy.deepcopy(TRAINER)
    del older["ema"]
    old = key(replace(STAGE, trainer=older), added={})
    assert key(STAGE, added={"trainer.ema": None}) == old
    used = replace(STAGE, trainer={**TRAINER, "ema": 0.9})
    assert key(used, added={"trainer.ema": None}) != old
    assert "ema" in STAGE.trainer  # the config itself is not touched


@cache
def usual_key() -> str:
    return key(STAGE)


@settings(deadline=None, max_examples=8)
@given(st.permutations(sorted(TRAINER)))
def test_key_order_does_not_matter(order):
    assert key(replace(STAGE, trainer={name: TRAINER[name] for name in order})) == usual_key()


def test_versions_of_what_is_used_are_in_and_those_of_other_losses_are_not():
    context = FingerprintContext(lambda config: "data", "cpu")
    code = STAGE.parts(context)["code"]
    rooms = {"learning", "objectives", "networks", "data", "domains", "domains.images", "auc"}
    assert set(code) == rooms | {"objectives.ce", "objectives.kd", "networks.mlp"}
    assert set(code.values()) == {1}
    alone = replace(STAGE, objective={"ce": {"weight": 1.0}}).parts(context)["code"]
    assert set(code) - set(alone) == {"objectives.kd"}


def test_differences_name_the_keys_and_nearest_takes_the_fewest():
    one = {"a": {"b": 1, "c": 2}, "d": 3}
    assert differences(one, {"a": {"b": 1, "c": 5}, "e": 4}) == {"a.c": (2, 5), "d": (3, None), "e": (None, 4)}
    far, near = {"a": {"b": 0, "c": 0}, "d": 0}, {"a": {"b": 1, "c": 2}, "d": 4}
    assert nearest(one, [("far", far), ("near", near)]) == ("near", {"d": (3, 4)})
    assert nearest(one, []) is None
    mine, stored = {"code": {"learning": 1}}, {"code": {"kdrun.learning.fit": "ab" * 32, "mylab.nets": "cd" * 32}}
    assert nearest(mine, [("old", stored)]) == ("old", {"code": (mine["code"], "files of an earlier kdrun")})
    assert nearest(mine, [("new", {"code": {"learning": 2}})]) == ("new", {"code.learning": (1, 2)})
