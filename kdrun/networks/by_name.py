"""Networks of timm and transformers by their names, built from configuration without any download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdrun.networks import quiet
from kdrun.networks.folders import check_fields, pretrained, refuse_download
from kdrun.optional import needed
from kdrun.problems import UserError, closest

SEMANTICS = 1

TARGETS = ("timm", "transformers_image_classifier")


def timm(
    model_name: str,
    num_classes: int = 1000,
    in_chans: int = 3,
    img_size: int | tuple[int, int] | None = None,
    **options: Any,
) -> nn.Module:
    """Any classification network of timm with random weights; options go to timm.create_model.

    img_size is passed on only to networks that are made for one size (vision transformers); convolutional ones take
    any size and have no such argument. Pretrained weights are files: set `weights` beside the network.
    Raises UserError where timm is absent or has no such network.
    """
    kept = torch.__version__.partition("+")[0]  # torchvision, which timm asks for, would bring another torch
    library = needed("timm", f"{model_name} is a network of timm", f"timm torch=={kept}")
    refuse_download(options, model_name)
    if not library.is_model(model_name.split(".")[0]):
        raise UserError(f"timm has no network {model_name!r}{closest(model_name, library.list_models())}")
    if img_size is not None and library.get_pretrained_cfg(model_name).fixed_input_size:
        options["img_size"] = img_size
    return library.create_model(model_name, pretrained=False, num_classes=num_classes, in_chans=in_chans, **options)


def transformers_image_classifier(
    architecture: str,
    config: dict[str, Any] | None = None,
    path: str | None = None,
    num_labels: int | None = None,
    in_channels: int | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> nn.Module:
    """An image classifier of transformers, such as ResNetForImageClassification or ViTForImageClassification.

    config: fields of its configuration class (sizes, depths ...), random weights. path: a folder with config.json and
    weights in place of that, read locally and without executing code from it. The data's classes, channels and image
    size are set in the configuration where it has such fields and `config` leaves them out.
    forward: pixel values [B, C, H, W] -> object with `.logits` [B, num_labels].
    Raises UserError where transformers is absent, has no such class, or the folder does not fit the data.
    """
    transformers = quiet.transformers(architecture)
    network_class = getattr(transformers, architecture, None)
    if network_class is None or getattr(network_class, "config_class", None) is None:
        known = [name for name in dir(transformers) if name.endswith("ForImageClassification")]
        raise UserError(f"transformers has no {architecture!r}{closest(architecture, known)}")
    if path is not None:
        return _from_folder(network_class, Path(path), config, num_labels)
    known = network_class.config_class().to_dict()
    check_fields(network_class.config_class.__name__, config or {}, {**known, "num_labels": None})
    from_data = {"num_channels": in_channels, "image_size": image_size}
    fields = {name: value for name, value in from_data.items() if value is not None and name in known}
    if num_labels is not None:
        fields["num_labels"] = num_labels
    return network_class(network_class.config_class(**{**fields, **(config or {})}))


def _from_folder(network_class: Any, path: Path, config: dict[str, Any] | None, num_labels: int | None) -> nn.Module:
    if config:
        raise UserError(f"{network_class.__name__}: give either config or path, not both")
    if not (path / "config.json").is_file():
        raise UserError(f"{network_class.__name__}: no config.json in {path}")
    wrong = ("missing_keys", "unexpected_keys", "mismatched_keys")
    network = pretrained(network_class, str(path), wrong, local_files_only=True, use_safetensors=True)
    if num_labels is not None and network.config.num_labels != num_labels:
        raise UserError(f"{path} has {network.config.num_labels} classes, the data have {num_labels}")
    return network
