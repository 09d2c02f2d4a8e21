"""docs/results/scorecard_digits.md and its figure: the cards of one run on digits, with where they come from.

    python scripts/make_scorecard_digits.py [--outputs DIR]        (make scorecard)

The run is made unless it is there. Accuracies are the same on every machine with the same versions; times are those of the machine
that is named in the file.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
RUN = [
    "kdrun",
    "experiment=transfer",
    "hardware=cpu",
    "seeds=5",
    "tracker=none",
    "name=scorecard_digits",
    "card=false",
]
CARD = ["kdrun", "card", "RUN", "hardware=cpu,raspberry_pi_5,jetson_orin_nano", "precision=fp32,int8", "critical=8"]
TOP = """\
# A scorecard: ResNet-8 and a student of a fifteenth of its size, on digits

Made by `make scorecard`: 200 of 1,146 images have a label for the students, the teacher has seen all. What the rows
mean: [scorecard.md](../scorecard.md). These are figures of three networks, one seed: whether distillation helps is a
question for [a table](transfer/table.md), not for this page. What can be read here:

- A file of 33 kB instead of 313 answers in less time; most of what is left is the runtime, which weighs 50 MB where
  the network weighs none.
- Eight bits keep the accuracy and, for networks this small, *cost* time on a server processor: converting is more
  work than is saved.
- The student that was taught is nearer to its teacher than the student alone in accuracy, worst class, calibration
  and robustness to noise and blur; it loses more than its teacher where images become dark or pale. A gate says what
  the mean does not: one class is 4.7 points below the teacher's worst, and 2 are allowed.
- Figures for the two boards are estimates of a roofline model and no measurements.
"""
BUSY = """\
- **Times here were taken on a busy machine**, which the card says of itself. Medians are those of a quiet one or nearly
  so; p99, and how far the roofline model is from what this machine reaches, are not. Accuracies and sizes do not depend
  on it.
"""


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--outputs", default="outputs")
    outputs = Path(options.parse_args().outputs)
    from kdrun.job.compose import compose
    from kdrun.tracking.registry import finished_run, read_run

    words = [*RUN[1:], f"paths.outputs={outputs}"]
    job = compose(words)
    if finished_run(outputs, job.hash) is None:
        called(words)
    run = read_run(finished_run(outputs, job.hash).dir)
    shutil.rmtree(run.dir / "card", ignore_errors=True)  # cards of other targets or times do not belong on this page
    text = called([*CARD[1:2], run.id, *CARD[3:], "--outputs", str(outputs), "-q"])
    called(["plot", run.id, "kind=card", "--outputs", str(outputs)])
    folder = HERE / "docs" / "results"
    shutil.copyfile(run.dir / "plots" / "card.png", folder / "scorecard_digits.png")
    (folder / "scorecard_digits.md").write_text(page(run, text), encoding="utf-8")
    print(folder / "scorecard_digits.md")
    return 0


def called(words: list[str]) -> str:
    """Standard output of a kdrun command; a failure ends the script with its message."""
    done = subprocess.run([sys.executable, "-m", "kdrun", *words], stdout=subprocess.PIPE, text=True, cwd=Path.cwd())
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


def page(run, text: str) -> str:
    """The whole file."""
    from kdrun.hardware.exports.formats import installed_runtimes
    from kdrun.tracking.provenance import machine, package_versions

    record, here = run.record, machine(run.record["config"]["hardware"])
    versions = package_versions()
    from importlib.metadata import version

    names = [f"{name} {versions[name]}" for name in ("kdrun", "python", "torch") if versions.get(name)]
    names += [f"{name} {version(name)}" for name in ("onnx", "onnxruntime") if name in (*installed_runtimes(), "onnx")]
    git = (record["git"] or {}).get("kdrun") or {}
    commit = f"{git.get('commit') or 'not known'}{' with uncommitted changes' if git.get('dirty') else ''}"
    lines = [
        TOP + (BUSY if "the machine was busy" in text else ""),
        "![test accuracy against p99 latency, teacher, student alone and student, on three targets](scorecard_digits.png)\n",
        f"```text\n{text.rstrip()}\n```\n",
        "## Where the figures come from\n",
        f"- commands: `{shlex.join(RUN)}`, then `{shlex.join(CARD)}` and `kdrun plot RUN kind=card`",
        f"- run: {run.id}, job hash {record['job_hash'][:8]}; commit: {commit}",
        f"- seed: {', '.join(map(str, record['seeds']))}",
        f"- machine: {here['cpu']}, cores: {here['cores']}, one thread, shared with other work",
        f"- versions: {', '.join(names)}",
        "- test: 450 images, seen by no choice; int8 ranges come from 256 training images",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
