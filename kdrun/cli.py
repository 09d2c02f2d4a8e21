"""The shell door: which verb, which flags. Imports nothing heavy; each verb imports its work when it is called."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from kdrun.verbs.arguments import FLAGS, VERBS, Arguments
from kdrun.version import __version__

HELP = """\
kdrun {version}: run knowledge-distillation experiments

usage: kdrun [VERB] [KEY=VALUE ...] [FLAGS]

  kdrun                                       distil a student on real data, with controls, five seeds
  kdrun plan strategy=vanilla data=fashion_mnist
  kdrun teacher=resnet20 student=resnet8_w4 objective.kd.temperature=2 trainer.epochs=5
  kdrun -m seed=0,1,2 strategy=alone,vanilla jobs=2   one job per combination, two at a time
  kdrun 'seeds=[3,7]' experiment=temperature  quote brackets: zsh would take them
  kdrun --conf ./conf student=mine            your own options, from a folder of yours

verbs
{verbs}

flags
  -m, --multirun     comma-separated values, range() and choice() make one job each
  --conf DIR         a further folder of options (may be repeated)
  --cfg job          print the composed config and stop
  --check            compose and check every option and preset
  --json             machine-readable output
  --why              plan: which part of a fingerprint differs from the nearest stored stage
  --force            fit every stage again, even if it is in the store
  --retry            sweeps, tables: run failed jobs again
  -y, --yes          gc: delete without asking
  --image, --teacher chat: a picture (may be repeated); ask the teacher instead
  --from PATH        fetch: from a file you already have
  --outputs DIR      where the runs are, for commands that read them (default: ./outputs)
  -q, --quiet        no bars, no panel
  -h, --help         this text; kdrun VERB --help      -V, --version
"""

# Flags that only some verbs look at. Elsewhere they would be ignored, so they are refused.
ONLY = {
    "multirun": ("run", "plan"),
    "cfg": ("run",),
    "why": ("plan",),
    "force": ("run", "rerun", "diagnose"),
    "retry": ("run", "table"),
    "yes": ("gc",),
    "from": ("fetch",),
    "image": ("chat",),
    "teacher": ("chat",),
    "outputs": (
        "runs",
        "show",
        "rerun",
        "sync",
        "status",
        "compare",
        "table",
        "why",
        "card",
        "diagnose",
        "export",
        "plot",
        "energy",
        "report",
        "predict",
        "translate",
        "generate",
        "think",
        "chat",
        "gc",
    ),
    "jobs": ("run", "rerun", "table"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `kdrun` and `python -m kdrun`; returns the exit code (2 for a mistake of the user)."""
    from kdrun.problems import UserError

    words = list(sys.argv[1:] if argv is None else argv)
    if getattr(sys.stdout, "errors", "") == "strict" and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that no terminal can show ends no command
    try:
        if words[:1] == ["__complete"]:
            from kdrun.verbs.completion import complete

            return complete(words[1:])
        args = parse(words)
        if args.version:
            print(f"kdrun {__version__}")
            return 0
        if args.help:
            print(help_text(args.verb if args.named else None), end="")
            return 0
        work = _work(args)
        with _without_warnings(), _allowed(args):
            return work(args)
    except UserError as error:
        from kdrun.present.escape import printable

        for line in error.lines:
            print(f"kdrun: {printable(line)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader is gone (`kdrun ls | head`): nothing to say, nobody to say it to
        return 0
    except Exception as error:
        return _bug(error)


def help_text(verb: str | None = None) -> str:
    """The help of kdrun, or of one verb."""
    if verb:
        from kdrun.verbs.usage import USAGE

        return f"kdrun {verb}: {VERBS[verb]}\n\n{USAGE[verb]}\n"
    verbs = "\n".join(f"  {name:<12} {text}" for name, text in VERBS.items())
    return HELP.format(version=__version__, verbs=verbs)


def parse(words: Sequence[str]) -> Arguments:
    """Sort words into verb, overrides and flags. Raises UserError for an unknown flag or verb."""
    from kdrun.problems import UserError, closest

    args = Arguments()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if word == "--":
            continue
        if name in FLAGS and word.startswith("-") and not (equals and name == "--teacher"):  # W&B: --teacher=OPTION
            option, takes = FLAGS[name]
            if not takes:
                setattr(args, option, True)
                continue
            if not equals:
                if not rest:
                    raise UserError(f"{name} needs a value")
                value = rest.pop(0)
            if option == "conf":
                args.conf_dirs.append(value)
            elif option == "image":
                args.image.append(value)
            else:
                args.options[option] = value
        elif (word.startswith("--") and equals and "." in name) or (
            word.startswith("--") and equals and name[2:] in TOP
        ):
            args.overrides.append(word[2:])  # W&B agents write --a.b=1
        elif word.startswith("-"):
            raise UserError(f"no flag {name}{closest(name, FLAGS)}", "all flags: kdrun --help")
        elif name == "jobs" and equals:
            args.options["jobs"] = value  # how jobs are run, no part of any of them
        elif equals or word.startswith("~"):
            args.overrides.append(word)
        elif not args.named and word in VERBS:
            args.verb, args.named = word, True
        elif not args.named and not args.overrides:
            raise UserError(f"no command '{word}'{closest(word, VERBS)}", f"commands: {', '.join(VERBS)}")
        else:
            args.words.append(word)
    return args


TOP = ("seed", "seeds", "name", "model", "teacher", "student", "strategy", "objective", "data", "hardware", "trainer",
       "tracker", "experiment")  # fmt: skip


def _work(args: Arguments) -> Callable[[Arguments], int]:
    """The function that does what a command asks for. Raises UserError for flags that do not go with it."""
    from importlib import import_module

    from kdrun.problems import UserError, listed

    if args.check and args.verb == "run":
        args.verb = "check"
    if args.check and args.verb not in ("check", "table"):
        raise UserError(f"--check belongs to check and table, not to {args.verb}")
    for option, verbs in ONLY.items():
        if (option in args.options or getattr(args, option, False)) and args.verb not in verbs:
            flag = f"jobs={args.options['jobs']}" if option == "jobs" else f"--{option}"
            hint = ("a run's own place: paths.outputs=DIR",) if option == "outputs" else ()
            raise UserError(f"{flag} belongs to {listed(verbs)}, not to {args.verb}", *hint)
    if args.verb == "run" and not args.multirun and args.retry:
        raise UserError("--retry belongs to a sweep: add -m")
    if "cfg" in args.options:
        if args.options["cfg"] != "job":
            raise UserError(f"--cfg {args.options['cfg']}: only `--cfg job` exists")
        return _print_config
    if args.words and args.verb in ("run", "plan", "check"):
        raise UserError(f"'{args.words[0]}' is not KEY=VALUE", "see kdrun --help")
    return import_module(f"kdrun.verbs.{args.verb}").main


def _bug(error: Exception) -> int:
    """Tells of what nothing else has dealt with: a full disk, or a mistake in kdrun."""
    from kdrun.problems import disk_problem

    if problem := disk_problem(error):
        for line in problem:
            print(f"kdrun: {line}", file=sys.stderr)
        return 1
    import traceback

    traceback.print_exception(error)
    print("kdrun: this is a bug in kdrun; please report it with the lines above", file=sys.stderr)
    return 1


def _print_config(args: Arguments) -> int:
    import yaml

    from kdrun.config.compose import split_sweep
    from kdrun.job.compose import compose

    points = split_sweep(args.overrides, args.conf_dirs) if args.multirun else [args.overrides]
    for job in [compose(point, args.conf_dirs) for point in points]:
        start = "---\n" if args.multirun else ""  # one YAML document per job
        print(start + yaml.safe_dump(job.config, sort_keys=False, allow_unicode=True, width=120), end="")
    return 0


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Warnings of libraries are for their programmers: none between the lines of a command, unless `python -W` or
    PYTHONWARNINGS asks for them. Those of a run are in its log (job.log)."""
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.showwarning = lambda *warning, **more: None
        yield


def _allowed(args: Arguments) -> AbstractContextManager[None]:
    """What the user allows records: `targets.NAME=true`, `environment.NAME=true` and the kdrun.yaml of --conf folders.

    A command that composes a config finds them there; one that reads records has them here, once and for what it starts.
    """
    if args.verb not in ONLY["outputs"] or args.verb == "table":
        return nullcontext()
    from kdrun.slots import allowing

    words = [word for word in args.overrides if word.startswith(("targets.", "environment."))]
    args.overrides = [word for word in args.overrides if word not in words]
    said = [word[: -len("=true")].partition(".") for word in words if word.endswith("=true")]
    names = [name for kind, _, name in said if kind == "targets"]
    variables = [name for kind, _, name in said if kind == "environment"]
    if args.conf_dirs:
        from kdrun.config.allowed import in_folders
        from kdrun.config.groups import conf_dirs

        names += in_folders(conf_dirs(args.conf_dirs)[0])
    return allowing(names, variables)
