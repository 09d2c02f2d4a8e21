"""kdrun generate RUN "text": what a language model of a run writes behind a text, and nothing else on standard output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdrun.problems import UserError
from kdrun.verbs.arguments import Arguments
from kdrun.verbs.asked import asked_data, asked_network, asked_run
from kdrun.verbs.lines import print_line, read_lines
from kdrun.verbs.runs import read_words
from kdrun.words import whole_number

OPTIONS = ("arm", "seed", "which", "max_new", "temperature")
NEW_TOKENS = 64


def main(args: Arguments) -> int:
    """Print what comes behind the text, or behind each line of standard input where none is given."""
    run, text, options = read_words(args.words, args.overrides, OPTIONS)
    view = asked_run(args, run, "not causal_lm or answers: it writes no texts")
    written = Continuations(view, options, whole_number(options, "max_new", least=1))
    for line in [text] if text else read_lines():
        print_line(written(line))
    return 0


class Continuations:
    """What a network of a run writes, each a line of text.

    options  arm, seed and which: the network, as api.load takes them; temperature: 0 for the likeliest tokens
    most     tokens at most; None: NEW_TOKENS
    Raises UserError where the data of the run have another tokenizer now than when it was trained.
    """

    def __init__(self, view: Any, options: Mapping[str, str], most: int | None = None) -> None:
        try:
            self.temperature = float(options.get("temperature", 0))
        except ValueError:
            self.temperature = -1.0
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature={options['temperature']}: a number of at least 0")
        self.network = asked_network(view, options)
        self.task = asked_data(view, options, self.network).task()
        self.most = NEW_TOKENS if most is None else most

    def __call__(self, prompt: Any) -> str:
        """prompt: a text, or messages (role, content)."""
        ids = self.task.module.tokenizer.prompt(prompt)
        (text,) = self.task.continued(self.network, [ids], self.most, self.temperature)
        return " ".join(text.split())
