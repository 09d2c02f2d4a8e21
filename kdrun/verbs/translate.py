"""kdrun translate RUN < input.txt: what the student of a run makes of other sentences, one line each."""

from __future__ import annotations

from typing import Any

from kdrun.problems import UserError
from kdrun.verbs.arguments import Arguments
from kdrun.verbs.asked import asked_data, asked_network, asked_run
from kdrun.verbs.lines import print_line, read_lines
from kdrun.verbs.runs import one_word
from kdrun.words import options_in, whole_number

OPTIONS = ("arm", "seed", "which", "beam", "length_penalty", "comet")


def main(args: Arguments) -> int:
    """Print one line for each line of standard input; an empty line stays empty."""
    options = options_in(args.overrides, OPTIONS)
    run = one_word(args)
    view = asked_run(args, run, "not translation")
    if "comet" in options:
        print(comet_line(view, options))
        return 0
    lines = list(read_lines())
    for text in translate(view, asked_network(view, options), lines, options):
        print_line(text)
    return 0


def translate(view: Any, network: Any, lines: list[str], options: dict[str, str]) -> list[str]:
    """The lines in the target language; the tokenizer is that of the run's data."""
    from kdrun.domains.translation.task import Translation

    module = asked_data(view, options, network)
    decoding = dict(view.config["trainer"]["decoding"])
    try:
        decoding |= {"beam": int(options.get("beam", decoding["beam"]))}
        decoding |= {"length_penalty": float(options.get("length_penalty", decoding["length_penalty"]))}
    except ValueError as error:
        raise UserError(f"beam and length_penalty are numbers: {error}") from None
    filled = [number for number, line in enumerate(lines) if line.strip()]
    encoded = module.encode([lines[number] for number in filled])
    sources = [row[real].tolist() for row, real in zip(encoded["source"], encoded["source_mask"], strict=True)]
    found = dict(zip(filled, Translation(module, decoding).translate(network, sources), strict=True))
    return [found.get(number, "") for number in range(len(lines))]


def comet_line(view: Any, options: dict[str, str]) -> str:
    """COMET of the translations that a run kept of its test set (of the epoch that validation chose), with no text read.

    Raises UserError where there is no such checkpoint, or where the stage kept no translations.
    """
    from pathlib import Path

    from kdrun import api
    from kdrun.domains.translation.scores import comet
    from kdrun.learning.resampling import read_samples
    from kdrun.tables.build import stage_folder

    stage = api.part_of(view, options.get("arm", "student"), whole_number(options, "seed"), None).stage
    folder = stage_folder(stage, view.path.resolve().parent.parent)
    rows = read_samples(folder) if folder else []
    if not rows:
        raise UserError(f"{stage['label']} of {view.id} kept no translations: fit it again (kdrun rerun {view.id})")
    module = asked_data(view, options)
    pairs = zip(module.sources("test"), module.references("test"), strict=True)
    texts = dict(zip(module.samples("test").ids.tolist(), pairs, strict=True))
    sources, references = zip(*(texts[row["id"]] for row in rows), strict=True)
    score = comet(Path(options["comet"]), sources, [row["text"] for row in rows], references)
    if score is None:
        raise UserError(f"comet={options['comet']}: no such file; give the checkpoint of a COMET model")
    return f"COMET {score:.4f}   {stage['label']} of {view.id}, {len(rows)} sentences, {Path(options['comet']).name}"
