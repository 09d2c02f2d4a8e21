"""Overrides -> a Job: one checked, frozen, plain config per seed. The one file that calls Hydra's compose."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from kdrun import kinds, slots, targets
from kdrun.config import allowed, variables, vary
from kdrun.config import groups as places
from kdrun.config import overrides as words_of
from kdrun.config.check import Check
from kdrun.config.groups import ConfDir
from kdrun.config.hydra import compose_groups
from kdrun.config.layers import settle, typed_leaves
from kdrun.config.origins import SETTINGS, Origins
from kdrun.config.several import join
from kdrun.config.trees import differing, leaves, merged, put_at, replaced
from kdrun.config.unlabelled import name_sources
from kdrun.defaults import ADDED_TO_TARGETS, FORMER_DEFAULTS, canonical, canonical_objective, strategy_options
from kdrun.environment import variables_in
from kdrun.looks import AUTO, MOST, SLOPES, looks_until
from kdrun.problems import Problems, listed
from kdrun.schema import REQUIRED, Data, Trainer, added, defaults, irrelevant


@dataclass(frozen=True)
class Job:
    """What one command runs.

    cells      one plain dict of JSON types per seed, with all keys of the schema (see schema.py)
    overrides  as typed
    choices    group -> option
    hash       64 hex digits over all cells without the keys that change no result
    auto       how the student was chosen where it was (`student=auto`, see job.auto); else None
    given      dotted key (of an option of a group, those in its file) -> how a person said it: what was typed, and what stands in an
               experiment of their own (not what comes with kdrun)
    notes      what to tell before it begins: settings that stay beside others of the same name
    slug       short and safe as a folder name: names of the choices and 8 digits of the hash
    """

    cells: list[dict[str, Any]]
    overrides: list[str]
    choices: dict[str, str]
    hash: str = field(default="")
    auto: dict[str, Any] | None = None
    given: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def config(self) -> dict[str, Any]:
        return self.cells[0]

    def allowing(self) -> AbstractContextManager[None]:
        """What this job calls of the user's own packages may be called inside, and what it reads of the environment be read."""
        return slots.allowing(allowed.names_in(self.config.get("targets")), variables_in(self.cells))

    @property
    def slug(self) -> str:
        text = re.sub(r"[^a-z0-9_.]+", "-", str(self.config["name"]).lower()).strip("-.")[:48].rstrip("-.")
        return f"{text or 'run'}-{self.hash[:8]}"


def compose(overrides: Sequence[str] = (), conf_dirs: Sequence[str] = (), *, missing: bool = True) -> Job:
    """Compose, check and freeze. Raises ConfigProblems with everything that is wrong.

    conf_dirs: further folders of configs, as given with --conf. missing=False lets values that have to be given be
    absent, as when shipped options are checked one by one.
    """
    problems = Problems()
    dirs, _ = places.conf_dirs(conf_dirs)
    table = places.groups(dirs)
    words = words_of.read(overrides, table, dirs, problems)
    composed = compose_groups(words.groups, dirs, table, problems)
    if composed is None:
        problems.stop()
        raise AssertionError("a failed composition has a problem")
    data = composed.tree.get("data")
    tree = merged(defaults(task=data.get("task") if isinstance(data, dict) else None), copy.deepcopy(composed.tree))
    words_of.apply(tree, words, problems)
    tree["strategy"] = strategy_options(tree.get("strategy"))
    _add_controls(tree, problems)
    _monitor(tree, words.typed)
    origins = Origins(words.typed, composed.choices, table, places.main_option(dirs))
    notes = join(tree, composed.choices, origins, dirs, table, problems)
    notes += settle(tree, typed_leaves(words.values), origins)
    name_sources(tree, table, origins, problems)
    seeds = _seeds(tree, words.typed, origins, problems)
    vary.check(tree, origins(vary.KEY), problems)
    of_seeds = [{"seed": seed, **vary.varied(tree, seed)} for seed in seeds]
    names = _own_packages(tree, dirs, words.typed)
    check = Check(problems, origins, names, missing=missing)
    trees = _resolved(tree, seeds, origins, problems, missing)
    named = variables.named(tree, lambda told: _resolved(tree, seeds, origins, told, missing), problems)
    check.variables = named.values
    trees = [named.labels(tree, number) for number, tree in enumerate(trees)]
    cells = _checked(trees, of_seeds, check, composed.choices)
    problems.stop()
    for number, cell in enumerate(cells):
        named.put(cell, number)
    used = {
        name: names[name] for name in allowed.packages(cells) if name in names
    }  # else it is one that is missing still
    read = {name: named.origin(name, words.typed) for name in variables_in(cells)}
    if used or read:
        allowed.keep(cells[0]["paths"]["outputs"], used, read)
    for cell in cells:
        cell["targets"] = {**cell["targets"], **dict.fromkeys(sorted(used), True)}
    given = _given(tree, words, origins)
    return Job(cells, list(overrides), composed.options, hash_of(cells), given=given, notes=notes)


def split_sweep(overrides: Sequence[str], conf_dirs: Sequence[str] = ()) -> list[list[str]]:
    """The jobs of a multirun, as lists of overrides; a command without a sweep is one job."""
    return words_of.split_sweep(overrides, places.groups(places.conf_dirs(conf_dirs)[0]))


def _own_packages(tree: dict[str, Any], dirs: Sequence[ConfDir], typed: Mapping[str, str]) -> dict[str, str]:
    """Packages of the user's own that targets of this job may be from -> what declares them, "" where the user typed it."""
    given = allowed.names_in(tree.get("targets"))
    words = {name for name in given if "targets" in typed or f"targets.{name}" in typed}
    return {
        **allowed.in_folders(dirs),
        **dict.fromkeys(given, "a config file"),
        **dict.fromkeys((*words, *slots.permitted()), ""),
    }


def _add_controls(tree: dict[str, Any], problems: Problems) -> None:
    """`controls=[plain_kd]` adds arms to those the strategy's options name; `strategy.controls=[...]` replaces them. `controls=[]` is
    refused where the strategy has arms of its own: it would leave them, and who types it wants none."""
    given = tree.pop("controls", None)
    if given is None:
        return
    names = [given] if isinstance(given, str) else given
    strategy = tree.get("strategy")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        problems.add(f"controls={given}: expected a list of names, as in 'controls=[plain_kd,equal_compute]'")
    elif isinstance(strategy, dict):
        own = strategy.get("controls") or []
        if own and not names:
            problems.add(
                f"controls=[] adds no arm, and those of the strategy stay: {listed(own)}",
                "none: 'strategy.controls=[]'",
            )
        strategy["controls"] = [*own, *(name for name in dict.fromkeys(names) if name not in own)]


def _monitor(tree: dict[str, Any], typed: Mapping[str, str]) -> None:
    """The default of `trainer.monitor` is that of the task. What was typed stays, so that a mistake is told."""
    trainer, data = tree.get("trainer"), tree.get("data")
    if isinstance(trainer, dict) and isinstance(data, dict) and "trainer.monitor" not in typed:
        task, default = data.get("task", Data().task), Trainer()
        if trainer.get("monitor") == default.monitor and task in kinds.names():
            domain = kinds.find(task)
            if domain.monitor != default.monitor:
                trainer["monitor"] = domain.monitor
                if "trainer.mode" not in typed:
                    trainer["mode"] = domain.metrics[domain.monitor]


def _given(tree: Mapping[str, Any], words: words_of.Words, origins: Origins) -> dict[str, str]:
    """See Job.given. Left out is what changes no result, and what other values are made from
    (`${trainer.epochs}`), since who uses it cannot be told."""
    found = origins.of_own_experiments()
    for text in words.groups:
        key, _, name = text.partition("=")
        if key.partition("@")[0] in SETTINGS and not text.startswith("~"):
            for option in name.strip("[]").split(","):
                found |= dict.fromkeys(origins.keys_of(key, option.strip()), text)
    for key, text in words.typed.items():
        found[key] = text
    texts = [value for _, value in leaves(tree) if isinstance(value, str) and "${" in value]
    left_out = set(irrelevant(task=(tree.get("data") or {}).get("task")))
    read = {name for text in texts for name in re.findall(r"\$\{([\w.]+)\}", text)}
    return {
        key: said
        for key, said in found.items()
        if not {key, key[key.index("trainer.") :] if ".trainer." in key else key} & left_out
        and not any(f"{name}.".startswith(f"{key}.") or f"{key}.".startswith(f"{name}.") for name in read)
    }


def _seeds(tree: dict[str, Any], typed: Mapping[str, str], origins: Origins, problems: Problems) -> list[int]:
    """`seed=1` is one cell, `seeds=5` five, `seeds=[3,7]` two; what is typed wins over what a file says. `seeds=auto` is as many as
    a sequential rule has at most (kdrun.looks), which is then in the tree as `looks`."""
    seed, seeds = tree.pop("seed", None), tree.pop("seeds", None)
    if tree.get("looks") is not None:
        problems.add(f"{origins('looks')}: seeds=auto says when it looks; seeds=auto:12 ends at 12 seeds")
        tree["looks"] = None
    if "seed" in typed and "seeds" in typed:
        problems.add(f"{typed['seed']} and {typed['seeds']}: give one of them", "seed=1 is one run, seeds=5 is five")
        return [0]
    if seed not in (None, REQUIRED) and "seeds" not in typed:
        if not _whole(seed):
            problems.add(f"{origins('seed')}: expected a whole number of at least 0, got {str(seed).lower()}")
            return [0]
        return [seed]
    if isinstance(seeds, str) and seeds.partition(":")[0] == AUTO:
        most = seeds.partition(":")[2] or str(MOST)
        if most in map(str, SLOPES):
            tree["looks"] = looks_until(int(most))
            return list(range(int(most)))
        problems.add(
            f"{origins('seeds')}: seeds=auto ends at {listed(map(str, SLOPES))} seeds; without a number, at {MOST}"
        )
        return [0]
    if _whole(seeds) and seeds > 0:
        return list(range(seeds))
    if isinstance(seeds, list) and seeds and all(map(_whole, seeds)):
        if len(set(seeds)) == len(seeds):
            return list(seeds)
        problems.add(f"{origins('seeds')}: the same seed twice")
    else:
        problems.add(
            f"{origins('seeds')}: expected a number of seeds (seeds=5), a list of them ('seeds=[3,7]'), or seeds=auto"
        )
    return [0]


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _resolved(
    tree: dict[str, Any], seeds: list[int], origins: Origins, problems: Problems, missing: bool
) -> list[dict[str, Any]]:
    """One copy of `tree` per seed with its interpolations replaced; those that lead nowhere are problems."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    open_ends = [(path, value) for path, value in leaves(tree) if isinstance(value, str) and "${" in value]
    read = {word for path, text in open_ends for word in re.findall(r"\w+", f"{path} {text}")}
    parts = {
        name: value for name, value in tree.items() if name in read
    }  # the whole tree takes half the time of a composition
    cells = []
    config = OmegaConf.create({**parts, "seed": 0, "seeds": seeds} if open_ends else {})
    for seed in seeds:
        values = {"seed": seed, **vary.varied(tree, seed)}
        cell = replaced(copy.deepcopy({"seeds": seeds, **tree}), values)
        for path, number in values.items() if open_ends else ():
            if path.partition(".")[0] in (*parts, "seed"):
                OmegaConf.update(config, path, number)
        for path, value in open_ends:
            try:
                found = OmegaConf.select(config, path, throw_on_missing=True)
            except OmegaConfBaseException as error:
                name = type(error).__name__
                if "Missing" in name:  # what it points to is named as missing already
                    put_at(cell, path, REQUIRED if not missing else None)
                    continue
                place = "" if path in origins.typed or origins.place(path) else origins.text(value)
                reason = str(error).splitlines()[0]
                problems.add(f"{origins(path)}: {value} leads nowhere", reason, f"in {place}" if place else "")
                put_at(cell, path, None)
                continue
            put_at(cell, path, OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found)
        cells.append(cell)
    return cells


def _checked(
    trees: list[dict[str, Any]], of_seeds: list[dict[str, int]], check: Check, choices: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The cells in plain types. One that differs from the first in `of_seeds` (dotted key -> value) alone is not checked a second
    time."""
    cells: list[dict[str, Any]] = []
    for tree, values in zip(trees, of_seeds, strict=True):
        if cells and replaced(tree, of_seeds[0]) == trees[0]:
            cells.append(replaced(copy.deepcopy(cells[0]), values))
        else:
            cells.append(_named(check.root(tree), choices))
    return cells


def _named(cell: dict[str, Any], choices: Mapping[str, Any]) -> dict[str, Any]:
    """A part without a label is called after the option that was chosen."""
    for part in ("teacher", "student", "data", "hardware", "tracker"):
        node = cell.get(part)
        if isinstance(node, dict) and node.get("name") is None:
            chosen = choices.get(part)
            node["name"] = chosen.rpartition("/")[2] if isinstance(chosen, str) else part
    for name, node in (cell.get("assistants") or {}).items():
        if isinstance(node, dict) and node.get("name") is None:
            node["name"] = name
    if cell.get("name") is None:
        named = [part for part in ("teacher", "student", "data") if f"{part}.network" not in _instead(cell)]
        parts = [choices.get("strategy"), *((cell.get(part) or {}).get("name") for part in named)]
        cell["name"] = "-".join(str(part) for part in parts if part)
    return cell


def _instead(cell: Mapping[str, Any]) -> Mapping[str, str]:
    """Parts of a config that its strategy has something in place of (Strategy.instead); of a class that cannot be had, none."""
    try:
        return targets.locate(cell["strategy"]["_target_"], "strategy").instead
    except Exception:  # what is wrong with it is told where it is built
        return {}


def hash_of(cells: Sequence[Mapping[str, Any]]) -> str:
    """sha256 over canonical JSON of the cells, without the keys declared irrelevant in the schema.

    Left out, each with its reason beside it in schema.py: name, tags, paths, tracker, targets, trainer.log_every and
    trainer.checkpoint_seconds (also of single learners). hardware.threads stays: the order of a sum over threads
    changes its last digits. A default that is written out is one that is not (kdrun.defaults).
    """
    task = (cells[0].get("data") or {}).get("task") if cells else None
    left_out, later = irrelevant(task=task), {**added(task=task), **ADDED_TO_TARGETS}
    kept = [_without(_canonical(cell), left_out, later, "") for cell in cells]
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(cell: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a cell that call something, in one form. A learner's own settings of a trainer stay as they are: a default
    there takes the place of what the run's trainer says."""
    result = {**cell, **{name: canonical(cell[name]) for name in ("strategy", "data", "trainer") if name in cell}}
    result |= {vary.KEY: sorted(cell[vary.KEY])} if vary.KEY in cell else {}
    if isinstance(result.get("strategy"), Mapping):
        result["strategy"] = _as_formerly(result["strategy"], (cell.get("data") or {}).get("task"))
    if isinstance(cell.get("objective"), Mapping):
        result["objective"] = canonical_objective(cell["objective"])
    task = (cell.get("data") or {}).get("task")

    def networks(learners: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: {**each, "network": canonical(each["network"], task=task), **data(each)}
            for name, each in learners.items()
        }

    def data(learner: Mapping[str, Any]) -> dict[str, Any]:
        """What is as in the run's data is no difference."""
        return {"data": differing(learner["data"], cell["data"])} if learner.get("data") else {}

    result |= networks({name: cell[name] for name in ("teacher", "student") if isinstance(cell.get(name), Mapping)})
    if isinstance(cell.get("assistants"), Mapping):
        result["assistants"] = networks(cell["assistants"])
    return result


def _as_formerly(strategy: Mapping[str, Any], task: str | None) -> Mapping[str, Any]:
    """With former defaults for options that are null now and mean the same (defaults.FORMER_DEFAULTS)."""
    divided = kinds.find(task).divided if isinstance(task, str) and task in kinds.names() else None
    former = FORMER_DEFAULTS.get((str(strategy.get("_target_")), divided[1] if divided else ""), {})
    return {**strategy, **{name: value for name, value in former.items() if strategy.get(name) is None}}


def _without(node: Any, left_out: Mapping[str, str], later: Mapping[str, Any], path: str) -> Any:
    if not isinstance(node, Mapping):
        return node
    result = {}
    for name, value in node.items():
        full = f"{path}.{name}" if path else name
        rule = full[full.index("trainer.") :] if ".trainer." in full else full  # a learner's own trainer
        rule = re.sub(r"^assistants\.[^.]+", "teacher", rule)  # has the keys of a teacher
        if full in left_out or rule in left_out or (rule in later and later[rule] == value):
            continue
        result[name] = _without(value, left_out, later, full)
    return result
