"""Which mode W&B can work in, found out from environment and files alone: no network, no wandb import, no question."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kdrun.problems import UserError, closest

TRACKERS = ("wandb", "none")
MODES = ("auto", "online", "offline")
DEFAULT_HOST = "https://api.wandb.ai"


def has_key(environment: Mapping[str, str] | None = None) -> bool:
    """Whether W&B would find a key: WANDB_API_KEY, an identity token file, or a netrc entry for its host."""
    environment = os.environ if environment is None else environment
    if environment.get("WANDB_API_KEY") or environment.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    import netrc

    host = urlsplit(environment.get("WANDB_BASE_URL") or DEFAULT_HOST).netloc
    for path in _netrc_files(environment):
        try:
            entry = netrc.netrc(path).authenticators(host)
        except (OSError, netrc.NetrcParseError):
            continue
        if entry and entry[2]:
            return True
    return False


def _netrc_files(environment: Mapping[str, str]) -> list[str]:
    if environment.get("NETRC"):
        return [os.path.expanduser(environment["NETRC"])]
    home = Path(environment.get("HOME") or Path.home())
    return [str(home / ".netrc"), str(home / "_netrc")]


def resolve_mode(tracker: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> str | None:
    """ "online", "offline", or None for no tracker at all. UserError for what cannot work, before anything is trained.

    `mode: auto` goes online only with a key, and obeys WANDB_MODE (offline, disabled), which people set for a session.
    """
    environment = os.environ if environment is None else environment
    name, mode = tracker.get("name", "none"), tracker.get("mode", "auto")
    for value, options, key in ((name, TRACKERS, "tracker"), (mode, MODES, "tracker.mode")):
        if value not in options:
            raise UserError(f"no {key} '{value}'{closest(str(value), options)}; all: {', '.join(options)}")
    if name == "none":
        return None
    if mode == "online":
        if not has_key(environment):
            raise UserError("tracker.mode=online needs a W&B key: type `wandb login`, or use tracker.mode=offline")
        return "online"
    wished = environment.get("WANDB_MODE", "")
    if mode == "auto" and wished == "disabled":
        return None
    if mode == "auto" and wished not in ("offline", "dryrun") and has_key(environment):
        return "online"
    return "offline"
