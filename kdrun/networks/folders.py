"""Folders with networks of transformers, before they are loaded."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from kdrun.networks import quiet
from kdrun.problems import UserError, closest


def check_folder(name: str) -> None:
    """Raises UserError for what is meant as a folder and is none (it would be looked for on the hub), and for a config.json with
    which a network of timm inside would unpickle a file."""
    path = Path(name)
    if not path.is_dir():
        if name.startswith((".", "/", "~")):
            raise UserError(f"no folder {name}")
        return
    try:
        content = json.loads((path / "config.json").read_bytes())
    except FileNotFoundError:
        raise UserError(f"no config.json in {name}") from None
    except ValueError as error:
        raise UserError(f"{path / 'config.json'} is no JSON: {error}") from None
    if _has(content, "checkpoint_path"):
        raise UserError(f"{path / 'config.json'}: checkpoint_path is refused: it would unpickle a file")


def pretrained(
    kind: Any,
    name: str,
    wrong: tuple[str, ...] = ("missing_keys", "mismatched_keys"),
    new: Callable[[nn.Module, str], bool] = lambda model, key: False,
    **options: Any,
) -> nn.Module:
    """A network of transformers from a folder or hub name; no code that comes with it is run.

    kind: its class. wrong: what of transformers' report must be empty, but for names of which `new` says that they may be made anew.
    Raises UserError where weights are not there or not all fit.
    """
    check_folder(name)
    try:
        with quiet.loading():
            model, report = kind.from_pretrained(name, trust_remote_code=False, output_loading_info=True, **options)
    except pickle.UnpicklingError as error:  # torch's own words advise to unpickle
        raise UserError(
            f"{name} holds Python objects, which kdrun does not unpickle",
            "its weights as safetensors are read: save_pretrained writes them",
        ) from error
    except (OSError, ValueError, RuntimeError) as error:  # not there, or not of this kind
        raise UserError(f"cannot load {name}: {(str(error).splitlines() or [''])[0]}") from error
    for problem in wrong:
        if names := sorted(key for key in map(str, report.get(problem) or ()) if not new(model, key)):
            more = " ..." if len(names) > 3 else ""
            what = problem.replace("_", " ")
            raise UserError(
                f"{name} does not fit {type(model).__name__}: {len(names)} {what}: {', '.join(names[:3])}{more}"
            )
    return model


def refuse_download(options: dict[str, Any], name: str) -> None:
    """UserError where `pretrained` is asked of a library; the option is taken out."""
    if options.pop("pretrained", False):
        raise UserError(
            f"{name}: pretrained=true would download weights",
            "put the file beside the network instead: teacher.weights=PATH",
        )


def check_fields(kind: str, fields: Iterable[str], known: Mapping[str, Any]) -> None:
    """Raises UserError for a field that a configuration does not have."""
    for name in fields:
        if name not in known:
            raise UserError(f"{kind} has no field {name!r}{closest(name, known)}")


def _has(node: Any, key: str) -> bool:
    items = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return (isinstance(node, dict) and bool(node.get(key))) or any(_has(item, key) for item in items)
