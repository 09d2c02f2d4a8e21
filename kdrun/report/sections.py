"""Sections that pages share: data audit, config, cost of stages, how to reproduce."""

from __future__ import annotations

import json
from typing import Any

from kdrun.files import number
from kdrun.parts import is_group
from kdrun.present.results import seeds_of
from kdrun.present.units import MISSING, duration
from kdrun.present.verdict import settle_command
from kdrun.report.markup import Html, block, code, facts, folded, section, table, tag
from kdrun.tracking.flatten import flatten
from kdrun.tracking.overview import seconds_of
from kdrun.tracking.registry import RunInfo

SHORT = 16
"""Digits of a fingerprint that tell it from any other."""

NOT_CONFIG = ("paths", "seed", "seeds", "name")
"""Folders of a machine, and what the page says elsewhere."""


def count(value: Any) -> str:
    """`75,002`; n/a for what is not known."""
    value = number(value)
    return MISSING if value is None else f"{value:,.0f}"


def plain(value: Any) -> str:
    """A value of a config as text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def audit(found: dict[str, Any]) -> Html:
    """What looking at the data brought to light."""
    if not found:
        return section("Data", tag("p", "There was no audit of the data.", class_="note"))
    samples, shared = found.get("samples") or {}, found.get("shared") or {}
    splits = [split for split in ("train", "val", "test") if split in samples]
    splits += [split for split in samples if split not in splits]
    repeated = found.get("duplicates") or {}
    what = "sentences" if "near" in found else "input"  # what an audit of text looks at
    shared = {pair: entry if isinstance(entry, dict) else {"pairs": entry} for pair, entry in shared.items()}
    sentence = found.get("summary") or ""
    return section(
        "Data",
        tag("p", f"{sentence[:1].upper()}{sentence[1:]}."),
        table(
            f"Samples per split, and how many have the {what} of an earlier one",
            ("split", "samples", "repeated"),
            [(split, count(samples[split]), count(repeated.get(split))) for split in splits],
        ),
        table(
            f"Equal {what} in two splits",
            ("splits", "pairs", "samples of the second", "pairs labelled differently"),
            [
                (pair.replace("/", " and "), *(count(entry.get(key)) for key in ("pairs", "samples", "contradictions")))
                for pair, entry in shared.items()
                if entry.get("pairs")
            ],
        ),
    )


def config(record: dict[str, Any]) -> Html:
    """Every key of the config, folded, and the keys in which its cells differ."""
    whole = flatten({key: value for key, value in (record.get("config") or {}).items() if key not in NOT_CONFIG})
    cells = record.get("cells") or {}
    changed = {seed: flatten({k: v for k, v in cell.items() if k not in NOT_CONFIG}) for seed, cell in cells.items()}
    differing = sorted({key for cell in changed.values() for key, value in cell.items() if value != whole.get(key)})
    rows = [(seed, *(plain(cell.get(key, whole.get(key))) for key in differing)) for seed, cell in changed.items()]
    choices = [(code(group), option) for group, option in sorted((record.get("choices") or {}).items())]
    if differing:
        cell_table = table(
            "Keys that differ between seeds", ("seed", *map(code, differing)), rows, left=len(differing) + 1
        )
    else:
        cell_table = (
            tag("p", "Only the seed differs between the repetitions of this job.") if len(cells) > 1 else Html("")
        )
    keys = table("Config", ("key", "value"), [(code(key), plain(whole[key])) for key in sorted(whole)], left=2)
    return section(
        "Config",
        tag("p", "Typed: ", code(" ".join(record.get("overrides") or []) or "nothing, all defaults")),
        cell_table,
        folded(f"Options chosen in {len(choices)} groups", table("Groups", ("group", "option"), choices, left=2)),
        folded(f"All {len(whole)} keys", keys),
    )


def code_state(git: dict[str, Any] | None) -> list[tuple[str, Any]]:
    """Commit and uncommitted changes of kdrun and of the user's own repository."""
    lines = []
    for name, label in (("kdrun", "commit"), ("user", "your repository")):
        state = (git or {}).get(name) or {}
        if not state.get("commit"):
            continue
        dirt = []
        if state.get("diff_sha256"):
            file = "git.diff" if name == "kdrun" else "user.diff"
            dirt.append(f"with the changes in {file} (sha256 {state['diff_sha256'][:SHORT]})")
        if state.get("untracked"):
            dirt.append(f"{state['untracked']} files that git does not know")
        clean = "uncommitted changes" if state.get("dirty") else "clean"
        lines.append((label, [code(state["commit"]), f", {', '.join(dirt) or clean}"]))
    return lines or [("commit", "not known")]


def versions_text(versions: dict[str, Any] | None) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted((versions or {}).items()) if version)


def machine_text(hardware: dict[str, Any]) -> str:
    """`AMD EPYC, 2 cores, 25.3 GB; cpu, fp32, 1 thread`"""
    memory = number(hardware.get("memory"))
    machine = [
        hardware.get("cpu"),
        f"{hardware['cores']} cores" if hardware.get("cores") else None,
        f"{memory / 1e9:.1f} GB" if memory else None,
        hardware.get("system"),
        *(f"{key} {hardware[key]}" for key in ("device", "devices", "precision", "threads") if hardware.get(key)),
    ]
    return ", ".join(part for part in machine if part)


def reproduce(run: RunInfo, record: dict[str, Any]) -> Html:
    """Command, code, versions, seeds, hashes: what another person needs to get the same figures."""
    seconds = seconds_of(record, run.status)
    stages = [
        (stage["label"], stage.get("learner") or MISSING,
         f"{len(stage['members'])} networks together" if is_group(stage) else stage.get("source") or MISSING,
         code(str(stage.get("fingerprint") or MISSING)[:SHORT]))
        for stage in record.get("stages") or []
    ]  # fmt: skip
    return section(
        "How to reproduce",
        block(record.get("command") or f"kdrun rerun {run.id}"),
        *((tag("p", "What would settle the verdict:"), block(settle)) if (settle := settle_command(record)) else ()),
        facts([
            ("again from here", code(f"kdrun rerun {run.id}")),
            *code_state(record.get("git")),
            ("seeds", seeds_of(record)),
            ("job hash", code(record.get("job_hash") or MISSING)),
            ("versions", versions_text(record.get("versions"))),
            ("machine", machine_text(record.get("hardware") or {})),
            ("started", f"{record.get('created')}, took {duration(seconds)}"),
        ]),
        table("Stages; whole fingerprints are in record.json", ("stage", "network", "source", "fingerprint"), stages, left=4),
    )  # fmt: skip


def failure(message: str, log: list[str]) -> list[Html]:
    """What went wrong, and the end of the log."""
    return [tag("p", message), folded("End of run.log", block("\n".join(log))) if log else Html("")]
