"""Signatures read from source, against what inspect says of the same thing once it is imported."""

import inspect
import sys
from importlib import import_module

import pytest

from kdrun.signatures import Missing, signature_of

SOURCE = {
    "__init__.py": "from sigcase.one import Direct as Renamed, Outer\nfrom .two import *\n",
    "one.py": """
from dataclasses import dataclass, field
from typing import ClassVar, overload

def function(a, b: int = 1, *args, c: float = 2.0, d, **rest): ...
def plain(a, b=None): ...
async def later(a): ...
@overload
def many(a: int): ...
@overload
def many(a: str): ...
def many(a, extra=1): ...

class Direct:
    def __init__(self, width: int, *, depth: int = 3): ...
    def method(self, x): ...
    @classmethod
    def make(cls, path: str): ...
    @staticmethod
    def free(x, y=1): ...

class Child(Direct):
    pass

class Bare: ...

class Outer:
    class Inner: ...

@dataclass
class Base:
    first: int
    second: list[int] = field(default_factory=list)
    hidden: int = field(default=1, init=False)
    shared: ClassVar[int] = 3

@dataclass
class Derived(Base):
    third: str = "x"

Alias = Direct
def decorate(f): return lambda *a, **k: None
@decorate
def decorated(a): ...
try:
    from nothing_of_the_kind import optional
except ImportError:
    def optional(a): ...
if True:
    def conditional(z): ...
""",
    "two.py": "__all__ = ['starred']\ndef starred(q): ...\n",
    "lazy.py": "def __getattr__(name): return lambda x: x\n",
    "broken.py": "def f(:\n",
}


@pytest.fixture(autouse=True)
def package(tmp_path, monkeypatch):
    (tmp_path / "sigcase").mkdir()
    for name, text in SOURCE.items():
        (tmp_path / "sigcase" / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in [name for name in sys.modules if name.startswith("sigcase")]:
        del sys.modules[name]


KNOWN = [
    "one.function", "one.plain", "one.later", "one.many", "one.Direct", "one.Child", "one.Bare", "one.Base", "one.Derived", "one.Alias",
    "one.optional", "one.conditional", "one.Direct.make", "one.Direct.free", "Renamed", "starred",
]  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_agrees_with_inspect(name):
    found = signature_of(f"sigcase.{name}")
    assert "sigcase" not in sys.modules, "nothing is imported"
    thing = import_module("sigcase")
    import_module("sigcase.one")
    for part in name.split("."):
        thing = getattr(thing, part)
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    expected = inspect.signature(thing).parameters.values()
    assert list(found.parameters) == [item.name for item in expected if item.kind in named]
    assert found.has_kwargs == any(item.kind is inspect.Parameter.VAR_KEYWORD for item in expected)
    for item in expected:
        if item.kind in named:
            assert found.parameters[item.name].required == (item.default is inspect.Parameter.empty), item


@pytest.mark.parametrize("name", ["lazy.anything", "one.decorated", "broken.f"])
def test_what_source_cannot_tell_is_none(name):
    assert signature_of(f"sigcase.{name}") is None


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("sigcase.one.Dirct", "Dirct"),
        ("sigcase.nothing", "nothing"),
        ("sigcaze.one.Direct", "sigcaze"),
        ("sigcase.one", ""),
    ],
)
def test_what_is_certainly_absent(name, word):
    with pytest.raises(Missing) as caught:
        signature_of(name)
    assert caught.value.word == word


def test_an_edited_module_is_read_again(tmp_path):
    import os

    assert "q" in signature_of("sigcase.two.starred").parameters
    path = tmp_path / "sigcase" / "two.py"
    path.write_text("def starred(other): ...\n")
    os.utime(path, ns=(1, 1))
    assert "other" in signature_of("sigcase.two.starred").parameters


@pytest.mark.parametrize(
    ("target", "names"),
    [
        ("torch.optim.SGD", {"params", "lr", "momentum", "nesterov"}),
        ("torch.optim.AdamW", {"lr", "betas", "weight_decay"}),
        ("torch.nn.Linear", {"in_features", "out_features"}),
        ("kdrun.networks.resnet.ResNet", {"depth", "width", "num_classes"}),
        ("kdrun.strategies.vanilla.Vanilla", {"controls"}),
    ],
)
def test_real_targets_are_found_without_importing_them(target, names):
    assert names <= set(signature_of(target).parameters)


def test_every_shipped_target_binds():
    """Each target node of each shipped option: its keys are parameters of the real thing, and are enough."""
    from kdrun import kinds, targets
    from kdrun.config.groups import conf_dirs, groups
    from kdrun.domains.load import COMMON
    from kdrun.job.compose import compose

    supplied = {*kinds.supplied(), "params", "cache"}
    common = set(COMMON)
    seen = set()
    table = groups(conf_dirs()[0])
    for group in ("student", "data", "strategy", "trainer/optimizer"):
        for name in table[group]:
            config = compose([f"{group}={name}"], missing=False).config
            data = {key: value for key, value in config["data"].items() if key not in common}
            nodes = [config["student"]["network"], data, config["strategy"], config["trainer"]["optimizer"]]
            seen |= {(node["_target_"], *sorted(set(node) - {"_target_"})) for node in nodes}
    for target, *keys in seen:
        parameters = inspect.signature(targets.locate(target)).parameters
        given = {name: None for name in [*keys, *(set(parameters) & supplied)]}
        inspect.signature(targets.locate(target)).bind(**given)
