"""What a config may call, with which values, and what arrives there."""

import ast
import sys

import pytest

from kdrun import slots, targets
from kdrun.problems import UserError


@pytest.fixture(autouse=True)
def spy_module(tmp_path, monkeypatch):
    (tmp_path / "spylab.py").write_text(
        "from dataclasses import dataclass\n"
        "def spy(**given): return given\n"
        "def named(num_classes, stride=None): return num_classes, stride\n"
        "class Holder:\n    def __init__(self, inner, params=None): self.inner, self.params = inner, params\n"
    )
    (tmp_path / "brokenlab.py").write_text("import a_package_that_is_not_there\ndef f(): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with slots.allowing(["spylab", "brokenlab"]):
        yield
    sys.modules.pop("spylab", None)


def test_values_arrive_as_plain_python_at_any_depth():
    from omegaconf import OmegaConf

    node = OmegaConf.create({"_target_": "spylab.spy", "stride": [2, [3, {"a": (1,)}]], "more": {"x": {"y": [1]}}})

    def types(value):
        yield type(value)
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from types(item)

    assert set(types(targets.build(node))) <= {dict, list, int}


def test_supplied_values_go_where_the_signature_has_them_and_the_config_has_not():
    assert targets.build({"_target_": "spylab.named"}, num_classes=10, in_channels=3) == (10, None)
    assert targets.build({"_target_": "spylab.named", "num_classes": 5}, num_classes=10) == (5, None)
    assert targets.build({"_target_": "spylab.spy", "a": 1}, num_classes=10) == {"a": 1}


def test_nested_targets_are_built_without_what_is_supplied_and_partials_are_not_called():
    node = {"_target_": "spylab.Holder", "inner": {"_target_": "spylab.Holder", "inner": 1}}
    built = targets.build(node, params=[1])
    assert (built.params, built.inner.params, built.inner.inner) == ([1], None, 1)
    factory = targets.build({"_target_": "spylab.named", "_partial_": True, "stride": 2})
    assert factory(3) == (3, 2)


def test_an_optimizer_gets_plain_groups():
    import torch

    layer = torch.nn.Linear(2, 2)
    groups = [{"params": [layer.weight], "weight_decay": 0.1}, {"params": [layer.bias], "weight_decay": 0.0}]
    optimizer = targets.build({"_target_": "torch.optim.SGD", "lr": 0.1}, params=groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert all(
        type(value) in (int, float, bool, list, dict, type(None))
        for group in optimizer.state_dict()["param_groups"]
        for value in group.values()
    )


def test_an_import_error_inside_a_users_module_is_theirs():
    assert targets.signature("brokenlab.f") is not None
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there") as caught:
        targets.build({"_target_": "brokenlab.f"})
    assert any(str(entry.path).endswith("brokenlab.py") for entry in caught.traceback)


def test_an_unknown_target_has_its_nearest_name():
    with pytest.raises(UserError, match="closest: Holder"):
        targets.signature("spylab.Holdr")
    with pytest.raises(UserError, match="has no 'Holdr'"):
        targets.build({"_target_": "spylab.Holdr"})


@pytest.mark.parametrize(
    "target",
    [
        "kdrun.networks.mlp.MLP",
        "torch.nn.Linear",
        "kdrun.networks.by_name.timm",
        "kdrun.domains.images.shipped.digits.digits",
    ],
)
def test_allowed_without_asking(target):
    assert targets.refusal(target) is None


def test_a_declared_package_is_allowed_and_others_get_the_line_to_add():
    assert targets.refusal("mylab.nets.Mine", allowed=["mylab"]) is None
    assert "targets.mylab=true" in targets.refusal("mylab.nets.Mine")[1]
    assert targets.refusal("mylab2.nets.Mine", allowed=["mylab"]) is not None


@pytest.mark.parametrize(
    "target",
    [
        "builtins.eval",
        "os.system",
        "importlib.import_module",
        "subprocess.run",
        "torch.load",
        "torch.hub.load",
        "pickle.load",
    ],
)
def test_never_allowed(target):
    assert targets.refusal(target, allowed=[target.partition(".")[0]]) is not None


@pytest.mark.parametrize("target", [None, 3, "Mine", "a b.c", "a..b", ""])
def test_not_a_dotted_name(target):
    assert "dotted name" in targets.refusal(target)[0]


@pytest.mark.parametrize(
    ("value", "annotation", "answer"),
    [
        (1, "int", True), (1.0, "int", False), (True, "int", False), ("1", "int", False), (1, "float", True), ("a", "float", False),
        (True, "bool", True), (1, "bool", False), ("a", "str", True), (None, "str", False), (None, "str | None", True),
        (None, "Optional[int]", True), (2, "Optional[int]", True), ("a", "Union[int, float]", False), ([1, 2], "list[int]", True),
        ([1, "a"], "list[int]", False), (3, "list[int]", False), ([1, 2], "tuple[int, int]", True), ([1], "tuple[int, int]", False),
        ([1, 2, 3], "tuple[int, ...]", True), (3, "int | tuple[int, int]", True), ("a", "Literal['a', 'b']", True),
        ("c", "Literal['a', 'b']", False), ({"a": 1}, "dict[str, int]", True), ({"a": "b"}, "dict[str, int]", False),
        ("a", "float | Tensor", False), ("a", "'int'", False), ("a", "Something", None), ("a", "Something | int", None),
        ("x", "str | Path", True), (3, "Annotated[int, 'x']", True), ([1], "typing.Sequence[float]", True),
    ],
)  # fmt: skip
def test_does_a_value_fit(value, annotation, answer):
    assert targets.fits(value, ast.parse(annotation, mode="eval").body) is answer
