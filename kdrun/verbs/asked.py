"""What commands share that ask networks of a finished run something: predict, translate, generate, think, chat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdrun import kinds
from kdrun.problems import UserError
from kdrun.verbs.arguments import Arguments
from kdrun.verbs.runs import outputs_folder
from kdrun.words import whole_number


def asked_run(args: Arguments, run: str, otherwise: str) -> Any:
    """The run, as api.RunView has it. UserError where its kind of data does not know the command (otherwise: what that means, behind
    what it learned), or where it has no result yet."""
    from kdrun import api

    view = api.RunView.find(run, outputs_folder(args))
    learned = view.config.get("data", {}).get("task", "classification")
    if args.verb not in (commands := kinds.find(learned).commands):
        others = [f"kdrun {command} asks a run that learned {learned}" for command in commands]
        raise UserError(f"{view.id} learned {learned}, {otherwise}", *others)
    if view.status != "done" and not view.summary:
        raise UserError(f"{view.id} is not finished, it is {view.status}", f"to continue it: kdrun rerun {view.id}")
    return view


def asked_network(view: Any, options: Mapping[str, str], arm: str = "student", part: str | None = None) -> Any:
    """The network that arm=, seed= and which= name."""
    from kdrun import api

    seed = whole_number(options, "seed")
    return api.load(view, options.get("arm", arm), seed, options.get("which"), part=part)


def asked_data(view: Any, options: Mapping[str, str], *networks: Any) -> Any:
    """The data module of the run. UserError where its tokenizer is not that with which the networks were trained."""
    from kdrun.domains.load import load_data

    module = load_data(view.config_of(whole_number(options, "seed"))["data"], view.config["paths"])
    for network in networks:
        check_tokenizer(view, module, network)
    return module


def check_tokenizer(view: Any, module: Any, network: Any) -> None:
    """UserError where a network of the run was trained with another tokenizer than its data have."""
    if module.spec.tokenizer != network.kdrun["tokenizer"]:
        raise UserError(f"the data of {view.id} have another tokenizer now than when it was trained")
