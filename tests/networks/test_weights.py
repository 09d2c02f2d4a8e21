import os
import stat
from argparse import Namespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from kdrun.domains.images.spec import DataSpec
from kdrun.networks.resnet import ResNet
from kdrun.networks.weights import load_state, load_weights, read_metadata, save_state, save_weights
from kdrun.problems import UserError

SPEC = DataSpec("letters", ("a", "b", "c"), (1, 8, 8), {"train": 5, "val": 2, "test": 2}, (0.25,), (0.5,))
NODE = {"_target_": "kdrun.networks.resnet.ResNet", "depth": 8, "width": 2}


def network(seed: int = 0) -> ResNet:
    torch.manual_seed(seed)
    return ResNet(8, 2, num_classes=3, in_channels=1, image_size=8)


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


class Tied(nn.Module):
    def __init__(self, tie: bool = True):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        if tie:
            self.second.weight = self.first.weight


def test_saved_and_loaded_weights_are_bit_identical_and_bring_their_facts(tmp_path):
    path = save_weights(network(), tmp_path / "new" / "best.safetensors", SPEC, NODE)
    other = network(1)
    loaded = load_weights(other, path, SPEC)
    assert equal(network(), other)
    assert loaded.notes == ()
    assert loaded.metadata == read_metadata(path)
    assert loaded.metadata == {
        "data": "letters", "classes": ["a", "b", "c"], "shape": [1, 8, 8], "mean": [0.25], "std": [0.5], "network": NODE
    }  # fmt: skip


def test_the_same_weights_give_the_same_bytes(tmp_path):
    one, two = (save_weights(network(), tmp_path / name, SPEC, NODE).read_bytes() for name in ("a", "b"))
    assert one == two


def test_another_state_of_the_network_can_be_saved(tmp_path):
    save_weights(network(), tmp_path / "x.safetensors", state=network(5).state_dict())
    other = network()
    load_weights(other, tmp_path / "x.safetensors")
    assert equal(network(5), other)
    with pytest.raises(ValueError, match="names of ResNet"):
        save_weights(network(), tmp_path / "y.safetensors", state={"stem.weight": torch.zeros(1)})


def test_tied_weights_are_written_once_and_stay_tied(tmp_path):
    tied = Tied()
    path = save_weights(tied, tmp_path / "tied.safetensors")
    assert path.stat().st_size < save_weights(Tied(tie=False), tmp_path / "free.safetensors").stat().st_size
    for other in (Tied(), Tied(tie=False)):
        load_weights(other, path)
        assert torch.equal(other.second.weight, tied.first.weight)
    assert set(load_state(path)) == {"first.weight", "second.weight"}


def test_a_foreign_file_that_leaves_out_a_tied_name_fits_only_a_network_that_ties_it(tmp_path):
    save_file({"first.weight": torch.ones(4, 4)}, tmp_path / "x.safetensors")
    tied = Tied()
    load_weights(tied, tmp_path / "x.safetensors")
    assert tied.second.weight is tied.first.weight and bool((tied.second.weight == 1).all())
    with pytest.raises(UserError, match="missing 1 of 2"):
        load_weights(Tied(tie=False), tmp_path / "x.safetensors")


def test_views_and_strided_tensors_are_saved_by_value(tmp_path):
    whole = torch.arange(24.0).reshape(4, 6)
    state = {"top": whole[:2], "all": whole, "turned": whole.t(), "part": whole[1:3, 1:3]}
    found = load_state(save_state(state, tmp_path / "x.safetensors"))
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_channels_last_weights_survive(tmp_path):
    save_weights(network().to(memory_format=torch.channels_last), tmp_path / "x.safetensors")
    other = network(1)
    load_weights(other, tmp_path / "x.safetensors")
    assert equal(network(), other)


@pytest.mark.parametrize("failing", ["save_file", "os.fsync"])
def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch, failing):
    path = save_weights(network(), tmp_path / "best.safetensors")
    before = path.read_bytes()

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(f"kdrun.networks.weights.{failing}", fail)
    with pytest.raises(OSError, match="disk full"):
        save_weights(network(1), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["best.safetensors"]


def test_the_file_has_ordinary_permissions(tmp_path):
    path = save_weights(network(), tmp_path / "best.safetensors")
    plain = tmp_path / "plain"
    plain.write_text("")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def write(tmp_path, state, suffix=".pt"):
    path = tmp_path / f"file{suffix}"
    if suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "model.", "student."])
def test_a_wrappers_prefix_on_all_names_is_removed_and_said(tmp_path, suffix, prefix):
    state = {prefix + name: tensor for name, tensor in network().state_dict().items()}
    other = network(1)
    loaded = load_weights(other, write(tmp_path, state, suffix))
    assert equal(network(), other)
    assert any(f"removed the prefix {prefix!r}" in note for note in loaded.notes)


def test_a_prefix_on_some_names_only_is_an_error_with_a_hint(tmp_path):
    state = network().state_dict()
    some = {("module." + name if name.startswith("stage") else name): tensor for name, tensor in state.items()}
    with pytest.raises(UserError) as caught:
        load_weights(network(1), write(tmp_path, some))
    count = sum(name.startswith("stage") for name in state)
    assert f"{count} of {len(state)} names carry the prefix 'module.'" in caught.value.lines[-1]


def test_other_names_are_counted_and_the_first_three_shown_and_nothing_is_loaded(tmp_path):
    state = {"x" + name: tensor for name, tensor in network().state_dict().items()}
    other, untouched = network(1), network(1)
    with pytest.raises(UserError) as caught:
        load_weights(other, write(tmp_path, state))
    count = len(state)
    assert caught.value.lines[1] == f"missing {count} of {count}: stem.weight, norm.weight, norm.bias ..."
    assert caught.value.lines[2] == f"unexpected {count} of {count}: xstem.weight, xnorm.weight, xnorm.bias ..."
    assert len(caught.value.lines) <= 4
    assert equal(other, untouched)


def test_one_missing_name_is_enough(tmp_path):
    state = network().state_dict()
    del state["head.bias"]
    with pytest.raises(UserError, match=r"missing 1 of .*: head\.bias"):
        load_weights(network(1), write(tmp_path, state))


def test_other_shapes_are_named(tmp_path):
    wide = ResNet(8, 4, num_classes=3, in_channels=1, image_size=8)
    with pytest.raises(UserError, match=r"stem.weight \(4, 1, 3, 3\) for \(2, 1, 3, 3\)"):
        load_weights(network(), write(tmp_path, wide.state_dict()))


@pytest.mark.parametrize("name", ["state_dict", "model", "network"])
def test_weights_inside_a_training_checkpoint_are_found_and_said(tmp_path, name):
    other = network(1)
    loaded = load_weights(other, write(tmp_path, {name: network().state_dict(), "epoch": 3}))
    assert equal(network(), other)
    assert loaded.notes == (f"file.pt: took the weights under {name!r}",)


def checkpoints():
    """Name -> what training code of common repositories saves of a teacher."""
    state = network().state_dict()
    optimizer = torch.optim.SGD(network().parameters(), 0.1, momentum=0.9).state_dict()
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    return {
        "torchvision, pytorch-cifar-models": state,
        "RepDistiller, best": {"epoch": 239, "model": state, "best_acc": torch.tensor(72.34), "optimizer": optimizer},
        "RepDistiller, last": {"opt": Namespace(model="resnet8", lr_decay_epochs=[150, 180]), "model": state},
        "mdistiller": {"epoch": 240, "model": state, "optimizer": optimizer, "best_acc": 72.34},
        "pytorch-classification": {"epoch": 164, "state_dict": wrapped, "acc": 93.1, "optimizer": optimizer},
        "pytorch-cifar": {"net": wrapped, "acc": 95.47, "epoch": 199},
        "imagenet example": {"epoch": 90, "arch": "resnet8", "state_dict": wrapped, "best_acc1": torch.tensor(73.3)},
    }


@pytest.mark.parametrize("name", checkpoints())
def test_teachers_of_common_repositories_load_and_say_the_same(tmp_path, name):
    other, images = network(1).eval(), torch.randn(16, 1, 8, 8)
    load_weights(other, write(tmp_path, checkpoints()[name], ".pth"))
    assert torch.equal(other(images), network().eval()(images))


def test_a_pickled_network_is_not_opened(tmp_path):
    torch.save(network(), tmp_path / "whole.pt")
    with pytest.raises(UserError, match="does not unpickle"):
        load_weights(network(), tmp_path / "whole.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_damaged_empty_and_absent_files_are_named(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    with pytest.raises(UserError, match="no weights file"):
        load_weights(network(), path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match=path.name):
        load_weights(network(), path)
    whole = write(tmp_path, network().state_dict(), suffix).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=path.name):
        load_weights(network(), path)


def test_a_file_of_other_things_is_named(tmp_path):
    with pytest.raises(UserError, match="no mapping from names to tensors"):
        load_weights(network(), write(tmp_path, {"epoch": 3}))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    state = network().state_dict()
    state["head.bias"][1] = value
    with pytest.raises(UserError, match=r"NaN or infinite values in 1 tensors: head\.bias"):
        load_weights(network(), write(tmp_path, state))


def test_weights_of_zeros_are_refused(tmp_path):
    state = {name: torch.zeros_like(tensor) for name, tensor in network().state_dict().items()}
    with pytest.raises(UserError, match="nothing but zeros"):
        load_weights(network(), write(tmp_path, state))


@pytest.mark.parametrize(
    ("classes", "said"),
    [(("a", "b"), "3 classes, letters has 2"), (("a", "c", "b"), "class 1 = 'b', letters has 'c' there")],
)
def test_other_classes_are_refused(tmp_path, classes, said):
    path = save_weights(network(), tmp_path / "x.safetensors", SPEC, NODE)
    other = DataSpec("letters", classes, SPEC.shape, SPEC.sizes, SPEC.mean, SPEC.std)
    with pytest.raises(UserError, match=said):
        load_weights(network(), path, other)


def test_another_normalisation_is_refused_unless_the_caller_converts(tmp_path):
    path = save_weights(network(), tmp_path / "x.safetensors", SPEC, NODE)
    other = DataSpec("letters", SPEC.classes, SPEC.shape, SPEC.sizes, (0.3,), SPEC.std)
    with pytest.raises(UserError) as caught:
        load_weights(network(), path, other)
    assert "normalize={mean: [0.25], std: [0.5]}" in caught.value.lines[1]
    load_weights(network(), path, other, any_normalisation=True)


def test_a_network_whose_own_layers_are_called_model_is_left_alone(tmp_path):
    own = nn.ModuleDict({"model": nn.Linear(2, 2)})
    other = nn.ModuleDict({"model": nn.Linear(2, 2)})
    assert load_weights(other, write(tmp_path, own.state_dict())).notes == ()
    assert equal(own, other)
