"""Pages of MiniWoB++ for agents of one action: read, tried and photographed in a browser once, then on disk (extra: gui)."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from kdrun.data.fetch import default_cache
from kdrun.data.source import TEST, TRAIN, UNUSED, VAL
from kdrun.domains.answers.miniwob.browser import Browser, binaries, check_here, check_tasks
from kdrun.domains.answers.miniwob.pages import VERSION, Page, prepared
from kdrun.domains.answers.shipped.forms import screens
from kdrun.domains.language.source import Documents
from kdrun.problems import UserError

TARGETS = ("miniwob",)
TASKS = (
    "click-button",
    "click-link",
    "click-tab",
    "click-dialog",
    "click-widget",
    "click-shape",
    "click-color",
    "focus-text-2",
    "enter-text",
)
HELD_OUT = ("click-dialog-2", "click-test-2")


def miniwob(
    tasks: Sequence[str] = TASKS,
    held_out: Sequence[str] = HELD_OUT,
    train: int = 60,
    val: int = 8,
    test: int = 16,
    executed: bool = True,
    seed: int = 0,
    screenshot: int | None = None,
    *,
    cache: str | Path | None = None,
) -> Documents:
    """Pages as text (the task, and a line for each element), and an answer {"Reason", "Subtasks", "Action"}: one of the actions that succeed.

    tasks: names of pages; held_out: of those that are in no split but the further test set `held_out`. train, val, test: pages of each task,
    of seeds of their own. executed: whether actions of test are carried out in the browser; false: they are compared with those that
    succeeded when the page was prepared. seed: of the choice between actions that succeed, where there are several.
    screenshot: pixels of a side of a picture that agents see beside the text; null: none.

    Pages are kept in CACHE/prepared with their screenshots; those that are not there yet are made with the browser, about one a second on two busy cores.
    """
    for name, count in (("train", train), ("val", val), ("test", test)):
        if count < 1:
            raise UserError(f"data.{name}={count}: pages of each task, 1 or more")
    if not tasks:
        raise UserError("data.tasks is empty: which pages shall be learned?")
    if both := [name for name in held_out if name in tasks]:
        raise UserError(f"data.held_out: {both[0]} is in data.tasks too")
    browser, folder = Browser(), prepared_folder(cache)
    splits = {TRAIN: ("train", train), VAL: ("val", val), TEST: ("test", test)}
    wanted = [(task, *splits[part]) for part in splits for task in tasks] + [(task, "test", test) for task in held_out]
    parts = [part for part in splits for _ in tasks] + [UNUSED] * len(held_out)
    if executed:
        binaries()
    if not all((folder / task / f"{split}-{count - 1}.json").exists() for task, split, count in wanted):
        check_tasks("data.tasks", tasks)
        check_tasks("data.held_out", held_out)
        binaries()
    pages: list[Page] = []
    split: list[int] = []
    try:
        for part, made in zip(parts, prepared(folder, browser, wanted, _told), strict=True):
            pages += [replace(page, browser=browser if executed else None) for page in made]
            split += [part] * len(made)
    finally:
        browser.close()
    return screens("miniwob", pages, np.array(split, np.int8), seed, screenshot)


def _needs(data: Mapping[str, Any]) -> None:
    check_here(data.get("executed", True))


miniwob.needs = _needs


def prepared_folder(cache: str | Path | None) -> Path:
    """Where pages are kept. UserError where the package that has them is not installed."""
    try:
        release = version("miniwob")
    except PackageNotFoundError:
        raise UserError("data=miniwob needs the pages of the package miniwob: pip install miniwob selenium") from None
    return Path(cache or default_cache()) / "prepared" / f"miniwob-{release}-v{VERSION}"


def _told(done: int, total: int) -> None:
    if done % 100 == 0 and done:
        print(f"data=miniwob: {done:,} of {total:,} pages", file=sys.stderr, flush=True)
