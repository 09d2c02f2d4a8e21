"""The card at the end of a run: its own target and number format, teacher, student alone and student of the first seed, in a few seconds.

Whatever goes wrong here is noted and changes nothing: the run is done, and `kdrun card RUN` makes the card at any time.
"""

from __future__ import annotations

import logging
from pathlib import Path

from kdrun.problems import UserError

SECONDS, SAMPLES = 0.3, 200
"""Timed calls of one network, and test samples that are corrupted, at most."""


def card_at_end(folder: Path) -> str:
    """Make the card of the finished run in this folder; one line for the panel: the result's figures, or `no card: why`."""
    try:
        return _line(folder)
    except (UserError, KeyboardInterrupt) as error:
        reason = str(error).partition("\n")[0] or "interrupted"
        logging.getLogger("kdrun").warning("no card: %s", error)
    except Exception as error:  # exporters and runtimes raise what they like
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        logging.getLogger("kdrun").warning("no card", exc_info=error)
    return f"no card: {reason[:160]}"


def _line(folder: Path) -> str:
    from dataclasses import replace

    from kdrun.hardware.card.cards import own
    from kdrun.hardware.card.make import make_cards
    from kdrun.hardware.card.render import line
    from kdrun.hardware.card.request import read_request
    from kdrun.tracking.registry import read_run

    run = read_run(folder)
    request = replace(read_request([], run.record or {}), seconds=SECONDS, samples=SAMPLES, quick=True)
    cards = make_cards(run, request, logging.getLogger("kdrun.card").info)
    result = own(cards)
    if result is None:
        raise UserError("the student could not be measured")
    return line(result)
