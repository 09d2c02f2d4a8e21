"""What a config may call in each place: from source, and on the object that the name leads to."""

import functools
import importlib
import pkgutil
import random
import sys
import types
from pathlib import Path

import pytest

import kdrun
from kdrun import kinds, slots, targets
from kdrun.config.calls import shipped_terms
from kdrun.config.groups import shipped
from kdrun.data import image_transforms
from kdrun.networks.folders import check_folder
from kdrun.problems import UserError

SHARE = 0.02
"""Of names that no place is open to, how many are tried: they are refused by their beginning."""
EVIL = [
    "torch.os.system",
    "torch.load",
    "torch.hub.load",
    "torch.utils.collect_env.run",
    "torch.nn.modules.module.torch.os.system",
    "torch.nn.functional.torch.load",
    "torch.optim.sgd.torch.os.system",
    "torch.nn.Linear.forward",
    "torch.nn.Module.__init__.__globals__",
    "kdrun.files.os.system",
    "kdrun.files.write_atomic",
    "kdrun.tracking.provenance.subprocess.run",
    "kdrun.networks.weights.torch.load",
    "kdrun.networks.weights.save_state",
    "kdrun.networks.build.build_network",
    "kdrun.networks.encoder.encoder",
    "kdrun.data.clients.subprocess.run",
    "kdrun.data.fetch.fetch",
    "kdrun.objectives.terms.build_objective",
    "kdrun.strategies.base.dataclass",
    "kdrun.targets.build",
    "transformers.AutoModel.from_pretrained",
    "transformers.pipeline",
    "timm.create_model",
    "lightning.Trainer",
    "joblib.load",
    "numpy.load",
    "os.system",
    "code.interact",
    "timeit.timeit",
    "builtins.eval",
]


def callable_there(target, slot):
    try:
        targets.locate(target, slot)
    except (UserError, ImportError):
        return False
    return True


@pytest.mark.parametrize("slot", [*slots.SLOTS, None])
@pytest.mark.parametrize("target", EVIL)
def test_nothing_of_this_can_be_called_in_any_place(target, slot):
    with pytest.raises(UserError):
        targets.locate(target, slot)
    with pytest.raises(UserError):
        targets.build({"_target_": target, "command": "touch PWNED"}, slot)
    with pytest.raises(UserError):
        targets.build({"_target_": target, "_partial_": True}, slot)


@pytest.mark.parametrize("target", ["os.system", "torch.load", "torch.os.system", "kdrun.files.os.system", "sys.exit"])
def test_no_permission_opens_these(target):
    with slots.allowing(["os", "sys", "torch", "kdrun", "posix"]):
        assert not callable_there(target, "network")


@pytest.mark.parametrize(
    ("target", "fits"),
    [
        ("torch.nn.Linear", "network"), ("kdrun.networks.mlp.MLP", "network"), ("kdrun.networks.by_name.timm", "network"),
        ("torch.optim.AdamW", "optimizer"), ("torch.optim.sgd.SGD", "optimizer"), ("kdrun.objectives.kd.kd", "loss"),
        ("kdrun.domains.images.shipped.digits.digits", "source"), ("kdrun.data.image_transforms.rand_augment", "transform"),
        ("kdrun.strategies.vanilla.Vanilla", "strategy"),
    ],
)  # fmt: skip
def test_each_place_takes_its_own_kind_alone(target, fits):
    for slot in slots.SLOTS:
        assert callable_there(target, slot) == (slot == fits)


def test_a_refusal_comes_before_the_module_is_imported():
    sys.modules.pop("kdrun.data.clients", None)
    for target in ("kdrun.data.clients.fetch", "torch.utils.bottleneck.__main__.main", "torch.utils.benchmark.Timer"):
        assert slots.refusal(target, "network")
        assert target.rpartition(".")[0] not in sys.modules or target.startswith("torch.utils.benchmark")
    assert "kdrun.data.clients" not in sys.modules


def conf_functions():
    """Dotted names that the shipped configs call, and kinds of data for `data.unlabelled`."""
    import re

    text = "\n".join(path.read_text() for path in Path(shipped()).rglob("*.yaml"))
    readers = [domain.reads_unlabelled({"data": {}}) for domain in kinds.shipped().values()]
    named = {reader["_target_"] for reader in readers if reader}
    return named | set(re.findall(r"_target_: *(kdrun\.(?:domains|networks)\.[\w.]+)", text))


def test_of_all_modules_below_the_allowed_prefixes_only_declared_things_can_be_called():
    """Every name of every module of kdrun and of torch that is loaded, and names behind the modules and classes among them."""
    import torch

    homes = [home for place in slots.SLOTS.values() for home in place.homes]
    for room in (
        "accounting",
        "config",
        "data",
        "domains",
        "hardware",
        "lab",
        "learning",
        "networks",
        "objectives",
        "strategies",
        "sweep",
        "tracking",
    ):
        for found in pkgutil.walk_packages([str(Path(kdrun.__file__).parent / room)], f"kdrun.{room}."):
            if slots.below(found.name, homes):
                with_optional(found.name)
            else:
                assert all(slots.refusal(f"{found.name}.main", slot) for slot in [*slots.SLOTS, None])
    shuffled = random.Random(0)
    functions, classes, tried = set(), set(), 0
    for name, module in sorted(sys.modules.items()):
        if name.partition(".")[0] not in ("kdrun", "torch") or not isinstance(module, types.ModuleType):
            continue
        if not slots.below(name, homes):
            for word in list(vars(module)):
                if not slots.below(f"{name}.{word}", homes):  # a room below `kdrun` is looked at by its own name
                    assert shuffled.random() > SHARE or slots.refusal(f"{name}.{word}"), f"{name}.{word}"
            continue
        for word, value in list(vars(module).items()):
            ways = [word]
            if isinstance(value, types.ModuleType | type):
                inner = [one for one in dir(value) if not one.startswith("__")]
                likely = {"system", "run", "load", "Popen", "import_module", "from_pretrained"} & set(inner)
                ways += [f"{word}.{one}" for one in (*likely, *shuffled.sample(inner, min(1, len(inner))))]
            for way in ways:
                target = f"{name}.{way}"
                for slot in slots.SLOTS:
                    tried += 1
                    if all(part.isidentifier() for part in target.split(".")) and callable_there(target, slot):
                        found = functools.reduce(getattr, way.split("."), module)
                        (classes if isinstance(found, type) else functions).add((slot, found))
    names = {f"{one.__module__}.{one.__qualname__}" for _, one in functions}
    assert all(isinstance(one, types.FunctionType) for _, one in functions)
    named = {f"{image_transforms.HOME}.{name}" for name in image_transforms.TARGETS}
    assert names <= conf_functions() | {f"kdrun.objectives.{term}.{term}" for term in shipped_terms()} | named
    assert {slot for slot, _ in functions} == {"network", "loss", "reward", "source", "transform"}
    from kdrun.strategies.base import Strategy

    bases = {
        "network": [torch.nn.Module],
        "loss": [torch.nn.Module],
        "optimizer": [torch.optim.Optimizer],
        "strategy": [Strategy],
    }
    if "transformers" in sys.modules:
        bases["network"].append(sys.modules["transformers"].PretrainedConfig)
    assert all(issubclass(one, tuple(bases[slot])) for slot, one in classes)
    assert len(classes) > 150 and len(functions) > 30 and tried > 5_000


def with_optional(name):
    try:
        importlib.import_module(name)
    except ImportError:
        return  # of a package that is not installed
    except UserError:
        return


def test_every_function_of_the_shipped_configs_is_declared_in_its_module():
    for target in conf_functions():
        slot = "network" if ".networks." in target else "reward" if ".rewards." in target else "source"
        assert slots.refusal(target, slot) is None, target


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "ownlab.py").write_text(
        "import functools, os, subprocess\nimport torch\nfrom torch.nn import Linear\nfrom subprocess import run\n"
        "from kdrun.networks.weights import save_state\nsystem = os.system\n"
        "class Net:\n    @classmethod\n    def small(cls): return cls()\n"
        "    def __call__(self): return 3\n"
        "def make(x=1): return x\nhalf = functools.partial(make, 2)\nhidden = functools.partial(os.system, 'touch PWNED')\n"
        "kept = functools.lru_cache(make)\nobject_of_mine = Net()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with slots.allowing(["ownlab"]):
        yield tmp_path
    sys.modules.pop("ownlab", None)


@pytest.mark.parametrize("name", ["Net", "Net.small", "make", "half", "kept", "object_of_mine", "Linear"])
def test_of_a_package_of_the_users_own_what_it_defines_can_be_called(own, name):
    assert callable(targets.locate(f"ownlab.{name}", "network"))


@pytest.mark.parametrize(
    "name",
    ["run", "system", "hidden", "os.system", "torch.load", "subprocess.run", "save_state", "Net.__init__.__globals__", "make.__globals__"],
)  # fmt: skip
def test_what_a_package_of_the_users_own_only_imports_cannot(own, name):
    with pytest.raises(UserError, match="refused"):
        targets.locate(f"ownlab.{name}", "network")


@pytest.mark.parametrize(
    "options", [{"weights_only": False}, {"a": [{"trust_remote_code": True}]}, {"allow_pickle": True}]
)
def test_options_that_let_a_loader_run_code_are_refused_at_any_depth(own, options):
    with pytest.raises(UserError, match="refused"):
        targets.build({"_target_": "ownlab.make", **options}, "network")


def test_modules_of_the_current_folder_are_found_for_allowed_packages_alone(tmp_path, monkeypatch):
    (tmp_path / "timm.py").write_text("raise SystemExit('a file of the folder was imported')")
    (tmp_path / "sentlab.py").write_text("raise SystemExit('a file of the folder was imported')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    with pytest.raises(UserError):
        targets.build({"_target_": "kdrun.networks.by_name.timm", "model_name": "resnet18"}, "network")
    with pytest.raises(UserError):
        targets.build({"_target_": "sentlab.Net"}, "network")
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize("options", [{"weights_only": 0}, {"weights_only": ""}, {"trust_remote_code": "yes"}])
def test_what_is_as_good_as_true_or_false_is_refused_as_well(own, options):
    with pytest.raises(UserError, match="refused"):
        targets.build({"_target_": "ownlab.make", **options}, "network")


@pytest.mark.parametrize("option", ["checkpoint_path", "pretrained_cfg_overlay", "use_pretrained_backbone"])
def test_no_network_of_timm_inside_one_of_transformers_unpickles_a_file(own, tmp_path, option):
    wrapped = {"architecture": "resnet18", "model_args": {option: "evil.pth"}}
    node = {"_target_": "kdrun.networks.by_name.transformers_image_classifier", "architecture": "TimmWrapperForImageClassification"}  # fmt: skip
    with pytest.raises(UserError, match=f"{option}.* is refused"):
        targets.build({**node, "config": wrapped}, "network")
    with pytest.raises(UserError, match=f"{option}.* is refused"):
        targets.build({"_target_": "transformers.TimmBackbone", "config": {}, option: "evil.pth"}, "network")
    assert slots.unsafe({option: "mine.pth"}, "ownlab.make") is None  # an option of one's own


def test_no_folder_with_a_network_names_a_file_to_unpickle(tmp_path):
    (tmp_path / "config.json").write_text('{"vision_config": {"model_args": {"checkpoint_path": "evil.pth"}}}')
    with pytest.raises(UserError, match="checkpoint_path is refused"):
        check_folder(str(tmp_path))
    (tmp_path / "config.json").write_text(
        '{"pretrained_cfg": {"file": "model.safetensors"}, "model_args": {"depth": 3}}'
    )
    check_folder(str(tmp_path))
