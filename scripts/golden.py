"""Do small jobs of every strategy, task and engine give the same bits as with an earlier revision, on this machine?

    python scripts/golden.py --against REV [--only WORD] [--keep FOLDER]

Runs the same jobs with the code of REV (taken from git into a temporary folder) and with the code of this checkout, and compares
every logged row, metric, test sample and weight tensor of every stage. Bits of one processor say nothing about another's, so
none are kept: both sides are computed here. What differs is named, and which numbers of kdrun's parts (`SEMANTICS`, see
kdrun/lab/sources.py) were raised since REV. Exit code 1 where results of a job differ though no part that its stages use has
another number: stored results of before would be taken for those of now.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
QUICK = "seed=0 tracker=none card=false hardware=cpu"
SMALL = "teacher=mlp_64 student=mlp_8 data.limit.train=300 trainer.epochs=2 trainer.batch_size=64"
LADDER = "model=mlp_ladder data.limit.train=300 trainer.epochs=6 trainer.batch_size=32"
WINDOWS = (
    "model=ct_se_resnet data=ct_synthetic data.train=40 data.val=20 data.test=20 data.size=16 data.depth=8 data.strength=8 "
    "strategy=cross_window strategy.teacher=lung controls=[alone] trainer.epochs=2 trainer.optimizer.lr=0.01"
)
CLIENTS = "model=clients_mixed strategy.clients=3 strategy.rounds=2 data.limit.train=300"
JOBS = {
    "online": f"{SMALL} teacher.source=online trainer.clip=1.0 trainer.accumulate=2",
    "cached": f"{SMALL} teacher.source=cached trainer.ema=0.9",
    "augmented": "teacher=resnet8 student=resnet8_w2 data.limit.train=200 data.augment.crop=1 data.augment.flip=true "
    "trainer.epochs=1 teacher.trainer.epochs=3",
    "two ranks": f"{SMALL} hardware.devices=2 trainer.epochs=1",
    "evolving": f"strategy=evolving {LADDER}",
    "takd": f"strategy=takd {LADDER}",
    "cascaded": f"strategy=cascaded {LADDER}",
    "cascaded, joint": f"strategy=cascaded strategy.scheme=joint {LADDER}",
    "cascaded, pictures": "strategy=cascaded strategy.teachers=[llava_w64] model=llava data=shapes_vqa data.train=160 data.val=40 data.test=40 "
    "data.further=0 trainer.batch_size=16 trainer.epochs=12 student.trainer.epochs=1 strategy.controls=[]",
    "compress": f"{SMALL} strategy=compress strategy.order=[prune,distill,quantize]",
    "cross_window": WINDOWS,
    "cross_window, slices": f"{WINDOWS} student=se_resnet_slices",
    "energy_gated": f"strategy=energy_gated {CLIENTS}",
    "fedavg": f"strategy=federated strategy.method=fedavg {CLIENTS}",
    "fedmd": f"strategy=federated strategy.method=fedmd {CLIENTS}",
    "regression": "data=diabetes teacher=mlp_64 student=mlp_8 objective=mse_kd trainer.optimizer.lr=0.01 trainer.epochs=3",
    "translation": "model=nmt_transformer data=parallel_text data.source=text/all.de data.target=text/all.en "
    "data.text.vocabulary=290 teacher=nmt_t64 student=nmt_t32 trainer.epochs=2 teacher.trainer.epochs=8 trainer.batch_size=512 "
    "trainer.schedule.warmup_steps=40 teacher.trainer.optimizer.lr=5e-3 "
    "student.trainer.optimizer.lr=5e-3",
}

NO_TOLERANCE = ("cascaded, pictures", "energy_gated", "fedavg", "fedmd")
"""Jobs in which nothing depends on what a teacher may fall short of."""

NO_RESULTS = (
    "time",
    "seconds",
    "energy",
    "joules",
    "estimate",
    "cost",
    "tries",
    "created",
    "source",
    "path",
    "step_ms",
)
NO_RESULTS += ("fingerprint", "job_hash", "key", "start", "members", "verdict", "notes")
NO_RESULTS += ("interval", "interval_t", "p_value")
"""Names of what may differ between two runs of the same arithmetic: times, where things lie, words, and how chance is judged."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", metavar="REV", required=True, help="the revision to compare with")
    parser.add_argument("--only", metavar="WORD", default="", help="jobs whose name has this word")
    parser.add_argument("--keep", metavar="FOLDER", type=Path, help="keep the outputs of both sides here")
    given = parser.parse_args()
    names = [name for name in JOBS if given.only in name]
    with tempfile.TemporaryDirectory() as temporary:
        work = given.keep or Path(temporary)
        code = work / "code"
        code.mkdir(parents=True)
        archive = subprocess.run(["git", "archive", given.against], cwd=ROOT, check=True, capture_output=True)
        subprocess.run(["tar", "-x", "-C", code], input=archive.stdout, check=True)
        raised = {
            part: numbers
            for part, numbers in both(numbers_below(code), numbers_below(ROOT)).items()
            if None not in numbers
        }
        print(f"numbers raised since {given.against}: {told(raised) or 'none'}")
        different = 0
        for name in names:
            sides = [outcome(name, root, work / side / name) for side, root in (("before", code), ("now", ROOT))]
            used = {part: raised[part] for part in sides[1].pop("parts", ()) if part in raised}
            sides[0].pop("parts", None)
            lines = differences(*sides)
            different += bool(lines) and not used
            word = f"equal, {len(sides[1].get('stages', ()))} stages"
            if lines:
                word = (
                    f"other results, as their numbers say: {told(used)}"
                    if used
                    else "DIFFERS, and no number was raised"
                )
            print(f"{name:22} {word}", *lines[:12], sep="\n    ", flush=True)
    return 1 if different or not names else 0


def outcome(name: str, root: Path, folder: Path) -> dict[str, Any]:
    """What a job leaves, of the code below `root`, run in `folder`; {"failed": last lines} where it ends with an error."""
    folder.mkdir(parents=True)
    words = shlex.split(f"{JOBS[name]} {QUICK}")
    words += [] if name in NO_TOLERANCE else ["teacher.tolerance=1"]
    if "data=parallel_text" in words:
        write_text(folder / "text")
    begin = f"import sys, kdrun.cli; assert kdrun.__file__.startswith({str(root)!r}); sys.exit(kdrun.cli.main())"
    command = [sys.executable, "-c", begin, *words]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        return {"failed": (done.stdout + done.stderr).strip().splitlines()[-6:]}
    (record,) = (json.loads(path.read_text()) for path in folder.glob("outputs/runs/*/record.json"))
    stages, parts = {}, set()
    for stage in record["stages"]:
        parts |= set(json.loads(Path(stage["path"], "record.json").read_text())["parts"]["code"])
        files = sorted(Path(stage["path"]).iterdir())
        stages[stage["label"]] = {
            "said": plain(stage),
            "rows": {
                file.name: [plain(json.loads(line)) for line in file.read_text().splitlines()]
                for file in files
                if file.suffix == ".jsonl"
            },
            "weights": {file.name: tensors(file) for file in files if file.suffix == ".safetensors"},
        }
    return {"summary": plain(record["summary"]), "stages": stages, "parts": parts}


def numbers_below(root: Path) -> dict[str, int]:
    """Part of the kdrun below `root` -> the number that its source says."""
    from kdrun.lab.sources import part_name, semantics

    found = {}
    for path in (root / "kdrun").rglob("*.py"):
        number, _ = semantics(path.read_text(encoding="utf-8"))
        if number is not None:
            found[part_name(".".join(path.relative_to(root).with_suffix("").parts))] = number
    return found


def both(before: dict[str, int], now: dict[str, int]) -> dict[str, tuple[int | None, int | None]]:
    """Part -> (number before, number now) where they differ; None where there was none."""
    names = sorted({*before, *now})
    return {name: (before.get(name), now.get(name)) for name in names if before.get(name) != now.get(name)}


def told(raised: dict[str, tuple[int | None, int | None]]) -> str:
    return ", ".join(f"{part} {before} to {now}" for part, (before, now) in raised.items())


def plain(value: Any) -> Any:
    """Without times and places."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key not in NO_RESULTS}
    return [plain(item) for item in value] if isinstance(value, list) else value


def tensors(file: Path) -> dict[str, str]:
    """{name: digest of its bytes}."""
    from safetensors import safe_open

    with safe_open(file, "np") as weights:
        return {key: hashlib.sha256(weights.get_tensor(key).tobytes()).hexdigest()[:16] for key in weights.keys()}  # noqa: SIM118


def differences(before: Any, now: Any, place: str = "") -> list[str]:
    """Where two trees differ, a line each. Keys that only `now` has are new figures, and no difference; a failure is one."""
    if not place and "failed" in {*before, *now}:
        return [*before.get("failed", ()), *now.get("failed", ())]
    if isinstance(before, dict) and isinstance(now, dict):
        gone = [f"{place}{key}: missing now" for key in before if key not in now]
        return gone + [
            line for key in before if key in now for line in differences(before[key], now[key], f"{place}{key} > ")
        ]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return [
            line
            for i, pair in enumerate(zip(before, now, strict=True))
            for line in differences(*pair, f"{place}{i} > ")
        ]
    same = before == now or (before != before and now != now)
    return [] if same else [f"{place.removesuffix(' > ')}: {before!r} before, {now!r} now"]


def write_text(folder: Path) -> None:
    """A toy corpus of two languages, word by word: numbers as words, in another order."""
    words = ["eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn", "elf", "zwölf"]
    folder.mkdir()
    rows = [[words[(i * k + k) % 12] for k in range(1, 3 + i % 6)] + [f"n{i}"] for i in range(400)]
    (folder / "all.de").write_text("".join(" ".join(row) + ".\n" for row in rows))
    (folder / "all.en").write_text("".join(" ".join(reversed(row)) + ".\n" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
