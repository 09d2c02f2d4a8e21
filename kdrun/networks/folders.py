"""Folders with networks of transformers, before they are loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kdrun.problems import UserError


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


def _has(node: Any, key: str) -> bool:
    items = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return (isinstance(node, dict) and bool(node.get(key))) or any(_has(item, key) for item in items)
