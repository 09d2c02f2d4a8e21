"""kdrun export RUN: the networks of a finished run as files for other runtimes, each held against the network it comes from."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdrun.files import dump_json
from kdrun.hardware.exports.formats import (
    FORMATS,
    POSSIBLE,
    PRECISIONS,
    RUNTIMES,
    check_pair,
    installed_runtimes,
    known,
)
from kdrun.parts import epoch_of
from kdrun.present.tables import print_table
from kdrun.present.units import MISSING
from kdrun.problems import UserError
from kdrun.tracking.registry import RunInfo, slugify
from kdrun.verbs.arguments import Arguments
from kdrun.verbs.show import chosen_run
from kdrun.words import names_in, options_in, whole_number

OPTIONS = ("arm", "seed", "which", "format", "precision", "calibration", "to")
FOLDER = "exports"


@dataclass(frozen=True)
class ExportRequest:
    """What was asked for. pairs: (format, precision) in order; left_out: those of the two lists that do not go together;
    whatever: `all` was asked for, so that what a network or this machine cannot have is no mistake."""

    arms: list[str]
    seeds: list[int] | None
    which: str | None
    pairs: list[tuple[str, str]]
    left_out: list[tuple[str, str]]
    whatever: bool
    calibration: int
    to: Path | None


def main(args: Arguments) -> int:
    """Print a line per file, or with --json their records. What could not be made is told with its reason, and is exit code 2;
    pairs that do not go together (with `all`: that cannot be had here) are left out and told."""
    request = read_options(args.overrides)
    run = chosen_run(args)
    run.known_record()
    made, failed, left_out = [], [], []

    def tell(line: str) -> None:
        if not args.json:
            print(f"kdrun: {line}", file=sys.stderr)

    for format, precision in request.left_out:
        left_out.append(f"{format} is not written in {precision}")
        tell(f"{left_out[-1]}: left out")
    from kdrun.hardware.exports.export import Mismatch, export
    from kdrun.hardware.exports.subjects import subjects

    for subject in subjects(run, request.seeds, request.arms, request.which, tell):
        folder = folder_of(run, subject, request.to)
        for format, precision in request.pairs:
            try:
                artifact = export(subject, folder, format, precision, request.calibration)
            except UserError as error:
                if request.whatever and not isinstance(error, Mismatch):
                    left_out.append(f"{subject.label} as {format} {precision}: {error.lines[0]}")
                    tell(f"left out: {left_out[-1]}")
                else:
                    failed.append((subject, error))
                continue
            made.append((subject, artifact))
    if args.json:
        rows = [{"label": one.label, "seed": one.seed, "folder": str(a.folder), **a.record()} for one, a in made]
        told = [{"label": one.label, "seed": one.seed, "problem": error.lines} for one, error in failed]
        print(dump_json({"run": run.id, "artifacts": rows, "failed": told, "left_out": left_out}))
    else:
        _print(made)
    if not made and not failed:
        raise UserError(f"{run.id}: nothing could be written in any of these formats", *left_out)
    if failed and (not args.json or not made):
        raise UserError(*dict.fromkeys(line for _, error in failed for line in error.lines))
    return 2 if failed else 0


def folder_of(run: RunInfo, subject: Any, to: Path | None = None) -> Path:
    """Where the artifacts of a network go; where its scorecard looks for them, too."""
    ending = "" if subject.which == epoch_of(run.record or {}, subject.arm) else f"-{subject.which}"
    return (to or run.dir / FOLDER) / slugify(f"{subject.label}-seed-{subject.seed}{ending}")


def read_options(words: list[str]) -> ExportRequest:
    """KEY=VALUE words of this command. UserError for what there is not, with the nearest; nothing heavy is imported."""
    found = options_in(words, OPTIONS)
    formats = _known(found, "format", "safetensors,onnx", FORMATS)
    precisions = _known(found, "precision", "fp32", PRECISIONS)
    pairs = [(format, precision) for precision in precisions for format in formats]
    possible = [(format, precision) for format, precision in pairs if precision in POSSIBLE[format]]
    if not possible:
        check_pair(*pairs[0])
    which = found.get("which")
    if which not in (None, "best", "last"):
        raise UserError(f"which={which}: best or last")
    seed, calibration = whole_number(found, "seed"), whole_number(found, "calibration", 1, 256)
    return ExportRequest(
        arms=names_in(found, "arm", "student"),
        seeds=None if seed is None else [seed],
        which=which,
        pairs=possible,
        left_out=[pair for pair in pairs if pair not in possible],
        whatever=any(found.get(name, "").strip("[] ") == "all" for name in ("format", "precision")),
        calibration=calibration,
        to=Path(found["to"]).expanduser() if found.get("to") else None,
    )


def _known(found: dict[str, str], name: str, default: str, every: tuple[str, ...]) -> list[str]:
    """The values of an option; `all`: of formats those that can be run here."""
    if (words := names_in(found, name, default)) == ["all"]:
        here = installed_runtimes()
        return [one for one in every if RUNTIMES.get(one, "torch") in here]
    return [known(name, word, every) for word in words]


def _print(made: list[tuple[Any, Any]]) -> None:
    if not made:
        return
    seeds = len({subject.seed for subject, _ in made}) > 1
    print_table(
        [
            {
                "network": f"{subject.label}, seed {subject.seed}" if seeds else subject.label,
                "format": artifact.format,
                "precision": artifact.precision,
                "kB": f"{artifact.bytes / 1e3:,.1f}",
                "difference": f"{artifact.max_difference:.1e}",
                "allowed": "-" if artifact.tolerance is None else f"{artifact.tolerance:.1e}",
                "labels, %": MISSING if artifact.labels_agree is None else f"{100 * artifact.labels_agree:.1f}",
            }
            for subject, artifact in made
        ]
    )
    for _, artifact in made:
        print(artifact.path)
