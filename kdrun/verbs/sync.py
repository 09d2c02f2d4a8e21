"""kdrun sync [RUN...|all]: send runs to W&B that were recorded offline, or whose mirror did not finish."""

from __future__ import annotations

import sys

from kdrun.files import dump_json
from kdrun.tracking.registry import find_run, list_runs
from kdrun.tracking.sync import FAILED, SENT, Outcome, sync_run
from kdrun.verbs.arguments import Arguments
from kdrun.verbs.runs import outputs_folder


def main(args: Arguments) -> int:
    """0 if everything asked for is at W&B, 1 if a run could not be sent; the others are sent all the same."""
    outputs = outputs_folder(args)
    everything = not args.words or "all" in args.words
    runs = list_runs(outputs) if everything else [find_run(outputs, word) for word in args.words]
    outcomes = []
    for run in reversed(runs) if everything else runs:  # oldest first, as they happened
        outcome = sync_run(run)
        outcomes.append(outcome)
        if not args.json and (outcome.status in (SENT, FAILED) or not everything):
            print(line(outcome), file=sys.stderr if outcome.status == FAILED else sys.stdout, flush=True)
        if outcome.status == FAILED and "No API key" in (outcome.problem or ""):
            break  # the other two hundred would say the same
    if args.json:
        print(dump_json([outcome.as_dict() for outcome in outcomes]))
    elif everything:
        counts = {status: sum(one.status == status for one in outcomes) for status in (SENT, FAILED)}
        print(f"{len(outcomes)} runs: {counts[SENT]} sent, {counts[FAILED]} failed")
    return 1 if any(outcome.status == FAILED for outcome in outcomes) else 0


def line(outcome: Outcome) -> str:
    """`RUN: sent (1 folder)`"""
    if outcome.status == SENT:
        return f"{outcome.id}: sent ({outcome.folders} folder{'s' if outcome.folders > 1 else ''})"
    return f"{outcome.id}: {outcome.status}" + (f": {outcome.problem}" if outcome.problem else "")
