"""kdrun think RUN: steps written by one student of a run and answers by another, accuracy against latency."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdrun.files import dump_json
from kdrun.present.fronts import stairs
from kdrun.present.tables import print_table
from kdrun.problems import UserError
from kdrun.verbs.arguments import Arguments
from kdrun.verbs.asked import asked_data, asked_network, asked_run
from kdrun.verbs.runs import read_words
from kdrun.words import whole_number

OPTIONS = ("arm", "seed", "which", "tokens", "count", "timed")
TOKENS, COUNT, TIMED = "0,8,16,32", 200, 5


def main(args: Arguments) -> int:
    """Print every pair of the networks of an arm at every number of tokens; with --json as one object."""
    run, rest, options = read_words(args.words, args.overrides, OPTIONS)
    if rest:
        raise UserError(f"kdrun think takes a run, not {rest!r}", "kdrun think RUN tokens=0,8,16")
    from kdrun.parts import parts_of

    view = asked_run(args, run, "no questions with answers, as data=arithmetic_chains has")
    tokens, arm, seed = (
        _tokens(options.get("tokens", TOKENS)),
        options.get("arm", "student"),
        whole_number(options, "seed"),
    )
    stages = {stage["seed"]: stage for stage in view.stages if stage["role"] == arm}
    entry = stages.get(next(iter(stages), None) if seed is None else seed)
    names = list(parts_of(entry, view.stages)) if entry else []
    several = len(names) > 1
    networks = {
        name: asked_network(view, options, part=name if several else None) for name in (names if several else [arm])
    }
    module = asked_data(view, {"seed": str(entry["seed"])} if entry else options, *networks.values())
    from kdrun.domains.answers.thinking import Thinking

    count, timed = whole_number(options, "count", 1, COUNT), whole_number(options, "timed", 1, TIMED)
    thinking = Thinking(module.task(), count)
    outcomes = thinking.measured(networks, tokens, min(timed, len(thinking.questions)))
    front = set(stairs(outcomes, lambda each: (outcomes[each].seconds, outcomes[each].right)))
    if args.json:
        print(
            dump_json([{**vars(each), **vars(outcome), "front": each in front} for each, outcome in outcomes.items()])
        )
        return 0
    ordered = sorted(outcomes, key=lambda each: outcomes[each].seconds)
    print_table([_row(each, outcomes[each], each in front) for each in ordered])
    print(
        f"{len(thinking.questions)} questions of test; time of one by itself on the CPU, median of {timed}; *: none is faster and better"
    )
    return 0


def _row(setting: Any, outcome: Any, best: bool) -> Mapping[str, str]:
    return {
        "thinks": setting.thinks if setting.tokens else "nobody",
        "answers": setting.answers,
        "tokens allowed": f"{setting.tokens}",
        "tokens written": f"{outcome.written:.1f}",
        "right, %": f"{100 * outcome.right:.1f}",
        "ms": f"{1000 * outcome.seconds:.1f}",
        "": "*" if best else "",
    }


def _tokens(text: str) -> list[int]:
    parts = text.strip("[]").split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise UserError(f"tokens={text}: whole numbers of at least 0, as in tokens=0,8,16")
    return sorted({int(part) for part in parts})
