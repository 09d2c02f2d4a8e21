"""What a command line holds: the verbs, the flags, and what was typed."""

from __future__ import annotations

VERBS = {
    "run": "run a job (the verb may be left out)",
    "plan": "the stages of a job (-m: jobs of a sweep): which are stored, what the others would cost",
    "ls": "list groups, or the options of one group",
    "runs": "list runs, newest first",
    "show": "one run or sweep: results, stages, cost, files",
    "rerun": "run the exact config of an earlier run",
    "status": "what runs now, what waits, what failed: runs and sweeps",
    "compare": "runs side by side: differences of configs and results",
    "table": "a paper's table: plan it, run what is missing, render it, check it",
    "why": "from a cell of a table to its runs, seeds, commit, config, data and cost",
    "card": "scorecards: accuracy, latency, memory, energy, robustness, safety and gates on a target",
    "diagnose": "whether a student generalises as its teacher does: gaps, divergence, sharpness, ranks",
    "export": "networks of a run as files for other runtimes: ONNX, int8 ...; compared before they are kept",
    "plot": "figures of runs as PNG and SVG: curves, accuracy against cost, seeds",
    "energy": "the energy that a run, sweep or table took, and when it is paid back",
    "report": "one self-contained HTML page about a run, a sweep or a table",
    "predict": "classes (or numbers) that the student of a run gives to texts, pictures or rows of yours",
    "translate": "translate lines of standard input with the student of a run",
    "generate": "texts that the student of a run (a language model) writes behind yours",
    "think": "steps written by one student of a run and answers by another: accuracy against latency",
    "chat": "ask the student of a run, about pictures or (a language model) anything",
    "gc": "delete what no run refers to from the store; asks first",
    "fetch": "bring a data set or pretrained part into the cache",
    "init": "write a small project of your own: options, a network, a loss, a test",
    "sync": "push runs that were logged offline to Weights & Biases",
    "check": "compose and check every option and preset",
    "completion": "print the completion script for bash, zsh or fish",
}


# flag -> (name, whether a value follows)
FLAGS = {
    "-m": ("multirun", False),
    "--multirun": ("multirun", False),
    "--json": ("json", False),
    "--why": ("why", False),
    "--force": ("force", False),
    "--retry": ("retry", False),
    "--yes": ("yes", False),
    "-y": ("yes", False),
    "-q": ("quiet", False),
    "--quiet": ("quiet", False),
    "-h": ("help", False),
    "--help": ("help", False),
    "-V": ("version", False),
    "--version": ("version", False),
    "--check": ("check", False),
    "--conf": ("conf", True),
    "--cfg": ("cfg", True),
    "--from": ("from", True),
    "--image": ("image", True),
    "--teacher": ("teacher", False),
    "--outputs": ("outputs", True),
}


class Arguments:
    """What was typed. overrides: words with `=` (and `~key`); words: the others; options: flags with a value."""

    def __init__(self) -> None:
        self.verb = "run"
        self.overrides: list[str] = []
        self.words: list[str] = []
        self.conf_dirs: list[str] = []
        self.image: list[str] = []
        self.options: dict[str, str] = {}
        self.multirun = self.json = self.why = self.force = self.quiet = self.help = self.version = self.check = False
        self.retry = self.yes = self.teacher = False
        self.named = False  # whether the verb was typed
