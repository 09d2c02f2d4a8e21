"""Keys that a job would not use. A strategy is asked for its stages, which are plain data, without running any: a key is used
where another value of it gives other stages. What a stage holds and does not read is left out of it by RULES."""

from __future__ import annotations

import ast
import contextlib
import copy
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from kdrun import kinds
from kdrun.config.layers import followers
from kdrun.config.trees import at, leaves, put_at
from kdrun.domains.base import Domain
from kdrun.lab.stages.base import Result, Stage
from kdrun.problems import Problems, listed
from kdrun.schema import Decoding
from kdrun.strategies.cast import Cast

if TYPE_CHECKING:
    from kdrun.config.compose import Job

MANY = 1000
"""Classes of data that are not looked at."""
DECODING = [item.name for item in fields(Decoding)]
PARTS = (
    "strategy",
    "teacher",
    "assistants",
    "student",
    "objective",
    "data",
    "trainer",
    "reward",
    "pretrain",
    "hardware",
)
"""Parts of a config that stages are made of; no strategy decides whether the others are used."""


def _domain(question: Callable[[Domain], bool]) -> Callable[[dict[str, Any]], bool]:
    """For the kind of data: it answers this."""
    return lambda tree: question(kinds.find(at(tree, "data.task") or "classification"))


def _tasks(question: Callable[[Domain], bool]) -> str:
    """`data.task=translation`: kinds of data of kdrun that answer this."""
    return f"data.task={' or '.join(name for name, domain in kinds.shipped().items() if question(domain))}"


def _decodes(name: str) -> Callable[[Domain], bool]:
    return lambda domain: name in domain.decoding


def _has(key: str) -> Callable[[Domain], bool]:
    return lambda domain: key in (*domain.settings, *domain.options)


def _where(path: str, *values: Any) -> Callable[[dict[str, Any]], bool]:
    return lambda tree: at(tree, path) in values


def _options(**values: Any) -> Callable[[dict[str, Any]], bool]:
    """For a federation's method: it has this option, with one of these values."""
    return lambda tree: all(at(tree, f"federation.options.{name}") in allowed for name, allowed in values.items())


def _ranks(tree: dict[str, Any]) -> bool:
    """Whether a stage is computed by several."""
    return (at(tree, "hardware.devices"), at(tree, "hardware.nodes")) != (1, 1)


def _mixes(tree: dict[str, Any]) -> bool:
    """Whether batches have samples without labels."""
    return bool(at(tree, "taught") and (at(tree, "data.labelled") or at(tree, "data.unlabelled")))


def _shown(tree: dict[str, Any]) -> bool:
    """Whether a term looks at a further view of the samples."""
    return any(term.get("view") for term in (at(tree, "objective") or {}).values())


def _self_taught(tree: dict[str, Any]) -> bool:
    """Whether what teaches is made in the same stage."""
    return bool(at(tree, "averaged") or at(tree, "peers"))


def _smooths(tree: dict[str, Any]) -> bool:
    """Whether a federation's method compares outputs with those on noisy inputs."""
    options = at(tree, "federation.options") or {}
    return bool(options.get("smooth_grad") and options.get("smooth"))


UNAVERAGED = ("local", "clustered", "comet", "fedct")
"""Methods of a federation that average nothing, or in their own way."""

OF_PREDICTIONS = (*UNAVERAGED, "fedmd")
SHARED = ("fedavg", "fedprox", "feddf")
"""Methods in which no weights travel; and those of one network for all clients: their own where all have the same, else the teacher's."""


def _sends_teacher(tree: dict[str, Any]) -> bool:
    """Whether the teacher's network is what travels in a federation; True of other stages."""
    method, private = at(tree, "federation.method"), at(tree, "federation.private")
    alike = method in SHARED and all(node == private[0] for node in private)
    return method not in OF_PREDICTIONS and not alike


AUGMENTED = ("crop", "flip", "transforms", "strong", "mixup", "cutmix")
"""Keys of data.augment that change images at random."""
RULES: tuple[tuple[str, str, Callable[[dict[str, Any]], bool]], ...] = (
    ("trainer.schedule.milestones", "trainer.schedule.name=step", _where("trainer.schedule.name", "step")),
    ("trainer.schedule.factor", "trainer.schedule.name=step", _where("trainer.schedule.name", "step")),
    ("trainer.schedule.floor", "trainer.schedule.name=cosine", _where("trainer.schedule.name", "cosine")),
    ("trainer.schedule.warmup_epochs", "trainer.schedule.warmup_steps=null", _where("trainer.schedule.warmup_steps", None)),
    ("trainer.decoding", "a task that generates text", _domain(lambda domain: bool(domain.decoding))),
    *((f"trainer.decoding.{name}", _tasks(_decodes(name)), _domain(_decodes(name))) for name in DECODING),
    ("trainer.balance", "an objective of two terms and more", lambda tree: len(at(tree, "objective") or {}) > 1),
    ("trainer.gap", "a student with a teacher that is trained before it", lambda tree: bool(at(tree, "taught")) and not _self_taught(tree)),
    ("trainer.sharding", "hardware.devices of 2 and more", lambda tree: _ranks(tree)),
    ("trainer.gather", "trainer.sharding=fsdp", lambda tree: at(tree, "trainer.sharding") == "fsdp" and _ranks(tree)),
    ("trainer.sync_batch_norm", "hardware.devices of 2 and more", lambda tree: _ranks(tree)),
    ("trainer.devices", "no learner by itself: hardware.devices is that of all", lambda tree: False),
    *((f"data.{key}", _tasks(_has(key)), _domain(_has(key))) for key in kinds.settings()),
    ("data.labelled_share", "a student that is taught, with data.labelled or data.unlabelled", lambda tree: _mixes(tree)),
    ("data.augment", "a task of images", _domain(lambda domain: domain.augmented)),
    ("data.augment.strong", "a term with view: strong (objective=mlkd_strong)", lambda tree: _shown(tree)),
    ("data.augment.views", "data.augment.seed", lambda tree: at(tree, "data.augment.seed") is not None),
    ("data.augment.seed", f"data.augment.{listed(AUGMENTED)}", lambda tree: any(at(tree, f"data.augment.{key}") for key in AUGMENTED)),
    ("teaching.sharding", "teacher.source=online, with hardware.devices of 2 and more", lambda tree: at(tree, "teaching.source") == "online" and _ranks(tree)),
    ("teaching.fill", "a teacher whose outputs are cached", _where("teaching.source", "auto", "cached")),
    ("teaching.verify", "a teacher whose outputs are cached", _where("teaching.source", "auto", "cached")),
    ("teaching.cache_format", "a teacher whose outputs are cached", _where("teaching.source", "auto", "cached")),
    ("teaching.cache_limit_gb", "a teacher whose outputs are cached", _where("teaching.source", "auto", "cached")),
    ("hardware.channels_last", "a task of images", _domain(lambda domain: domain.augmented)),
    ("learner.network.importance", "strategy.order with prune", lambda tree: at(tree, "learner.network.prune") != 0),
    ("federation.partition.alpha", "strategy.partition=label, quantity or groups", _where("federation.partition.kind", "label", "quantity", "groups")),
    ("federation.proxy", "an arm in which its weights travel", lambda tree: _sends_teacher(tree)),
    ("learner.network", "an arm in which its weights travel", lambda tree: _sends_teacher(tree)),
    ("federation.aggregation.trim", "strategy.aggregation=trimmed_mean", _where("federation.aggregation.how", "trimmed_mean")),
    ("federation.aggregation", "a method that averages what clients send", lambda tree: at(tree, "federation.method") not in UNAVERAGED),
    ("federation.options.top_k", "strategy.encoding=top_k", _options(encoding=("top_k",))),
    ("federation.options.recluster", "clusters that are found by the server", _options(clustering=("gap", "greedy", "kmeans", None))),
    ("federation.options.smooth_noise", "strategy.smooth above 0, with strategy.smooth_grad=true", lambda tree: _smooths(tree)),
    ("federation.options.smooth", "strategy.smooth_grad=true", _options(smooth_grad=(True,))),
    ("federation.options.smooth_grad", "strategy.smooth above 0", lambda tree: at(tree, "federation.options.smooth") != 0),
    ("federation.options.beta", "strategy.gate=logistic", _options(gate=("logistic", None))),
    ("federation.options.statistics", "a gate", _options(gate=("logistic", "hard", None))),
    ("federation.options.energy", "a gate", _options(gate=("logistic", "hard", None))),
    ("federation.options.energy_norm", "a gate on the disagreement", _options(gate=("logistic", "hard", None), energy=("auto", "disagreement", None))),
)  # fmt: skip
"""Key of a stage, what reads it, and whether this stage does."""


class StageCollector:
    """A lab that takes what a strategy asks for: nothing is loaded, built or looked up. asked: the stages, in order.

    known_of: what says what is known of data, as Lab.known_of; None: nothing is."""

    def __init__(self, known_of: Callable[[dict[str, Any]], dict[str, Any]] | None = None) -> None:
        self._known_of = known_of
        self.asked: list[Any] = []
        self.stages: list[Stage] = []
        self.unread: dict[str, str] = {}  # key of a config that a stage has and does not read -> what it is for

    def get(self, stage: Stage) -> Result:
        stage = stage.started(self.get)
        tree = self._read(stage)
        self.asked.append(tree)
        if stage.listed:
            self.stages.append(stage)
        said = json.dumps(
            tree, sort_keys=True, default=str
        ).encode()  # a digest: the tree names those of the stages that it builds upon
        return Result(hashlib.sha256(said).hexdigest(), stage, {})

    def parameters(self, learner: dict[str, Any], data: dict[str, Any]) -> int:
        return 0

    def known_of(self, data: dict[str, Any]) -> dict[str, Any]:
        if self._known_of is not None:
            return self._known_of(data)
        return {"classes": MANY, "names": None, "types": None, "modality_of": {}, "normalize": None}

    def choose(self, what: str, candidates: dict[str, Result], *, worst: bool = False) -> str:
        self.asked.append([what, worst])
        return next(iter(candidates))

    def _read(self, stage: Stage) -> dict[str, Any]:
        """What a stage reads."""
        tree = _plain({item.name: getattr(stage, item.name) for item in fields(stage)})
        tree["taught"] = stage.taught
        if "objective" in tree:
            tree["objective"] = {name: term for name, term in tree["objective"].items() if term.get("weight") != 0}
            for name in set(stage.objective) - set(tree["objective"]):
                self.unread[f"objective.{name}"] = f"an objective.{name}.weight above 0"
        for path, reader in [(path, reader) for path, reader, reads in RULES if not reads(tree)]:
            *parents, last = path.split(".")
            node = at(tree, ".".join(parents))
            if isinstance(node, dict) and last in node:
                own = {"teaching": "teacher", "federation": "strategy", "learner": "strategy"}.get(parents[0])
                self.unread[f"{own}.{last}" if own else path] = reader
                del node[last]
        return tree


def _plain(value: Any) -> Any:
    """A copy in JSON types; a finished stage is what it was asked for."""
    if isinstance(value, Result):
        return value.fingerprint
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def refuse_unused(jobs: Sequence[Job], unjudged: Sequence[str] = ()) -> None:
    """Raises ConfigProblems for what was typed (or said in an experiment of the user's) and no job with it would use.

    Of several jobs (`-m strategy=alone,vanilla objective.kd.temperature=2`) it is enough that one uses it. Of an option of a
    group it is enough that one of the keys in its file is used. unjudged: words that came with kdrun, in a table of its.
    """
    waiting: dict[str, list[str]] = {word: [] for word in unjudged}
    for job in jobs:
        told: dict[str, list[str]] = {}
        for key, said in job.given.items():
            if waiting.get(said, [said]):
                told.setdefault(said, []).append(key)
        judged = {said: keys for said, keys in told.items() if all(key.partition(".")[0] in PARTS for key in keys)}
        with job.allowing():
            judged = {said: keys for said, keys in judged.items() if not _beside(job, said)}
            found = unused(job.config, [key for keys in judged.values() for key in keys], job.given)
        for said, keys in judged.items():
            waiting[said] = _told(said, found[keys[0]], job) if all(key in found for key in keys) else []
    problems = Problems()
    for lines in waiting.values():
        if lines:
            problems.add(*lines)
    problems.stop()


def _beside(job: Job, said: str) -> bool:
    """Whether a word (`teacher=mlp_64`) chooses an option that the strategy lets stand though it uses none of it."""
    from kdrun.targets import locate

    group = said.partition("=")[0].partition("@")[0]
    if group not in job.choices:
        return False
    with contextlib.suppress(Exception):  # what cannot be located is told by whoever runs it
        return group in getattr(locate(job.config["strategy"]["_target_"], "strategy"), "beside", ())
    return False


def _told(said: str, why: list[str], job: Job) -> list[str]:
    """`objective.kd.weight=1: strategy=alone does not use it`, and what is used instead."""
    kind = job.config["strategy"]["_target_"].rpartition(".")[2]
    name = job.choices.get("strategy")
    return [f"{said}: {why[0].replace(kind, f'strategy={name}') if name else why[0]}", *why[1:]]


def unused(cell: dict[str, Any], keys: Iterable[str], given: Collection[str] = ()) -> dict[str, list[str]]:
    """Dotted key -> why, in lines, of those keys that change no stage of this config whatever their value. given: all that were typed;
    a learner's own key that was not follows that of the run."""
    first = _asked(cell)
    if first is None:
        return {}
    return {key: _why(cell, key, first) for key in keys if _changes_nothing(cell, key, first, given)}


def _why(cell: dict[str, Any], key: str, first: StageCollector) -> list[str]:
    """Who does not use the key; what does, or what the strategy has in its place."""
    from kdrun.targets import locate

    kind = locate(cell["strategy"]["_target_"], "strategy")
    names = [key, key.partition(".")[2]]  # student.trainer.epochs, and as the run has it: trainer.epochs
    for table, first_line, second in (
        (getattr(kind, "instead", {}), f"{kind.__name__} does not use it", "{}"),
        (first.unread, "nothing in this job uses it", "it is for {}"),
    ):
        found = [known for known in table for name in names if f"{name}.".startswith(f"{known}.")]
        if found:
            return [first_line, second.format(table[max(found, key=len)])]
    return [f"no stage of {kind.__name__} depends on it"]


def stages_of(cell: dict[str, Any], known_of: Callable[[dict[str, Any]], dict[str, Any]] | None = None) -> list[Stage]:
    """The stages that a strategy and its controls ask for; of one that decides by results, those before it does. known_of: see StageCollector."""
    lab = StageCollector(known_of)
    with contextlib.suppress(Exception):
        ask_all(cell, lab)
    return lab.stages


def ask_all(cell: dict[str, Any], lab: StageCollector) -> None:
    """Asks a lab for the stages of a strategy and of its controls."""
    from kdrun.targets import build

    strategy, cast = build(cell["strategy"], "strategy"), Cast(cell)
    strategy.run(lab, cast)
    for name in strategy.controls:
        strategy.control(name, lab, cast)


def _asked(cell: dict[str, Any]) -> StageCollector | None:
    """All that the strategy and its controls ask for; None where that cannot be known without running them."""
    lab = StageCollector()
    try:
        ask_all(cell, lab)
    except Exception:  # a strategy that looks at results (of the user's), or one whose own checks refuse this config
        return None
    return lab


def _changes_nothing(cell: dict[str, Any], key: str, first: StageCollector, given: Collection[str]) -> bool:
    if not isinstance(at(cell, key.rpartition(".")[0]), dict):
        return True  # a key of an option's file that was taken out again, as by `objective=seal ~objective.ela`
    below = list(leaves(at(cell, key), key, lists=False))
    return bool(below) and all(_leaf_changes_nothing(cell, path, value, first, given) for path, value in below)


def _leaf_changes_nothing(
    cell: dict[str, Any], path: str, value: Any, first: StageCollector, given: Collection[str]
) -> bool:
    """Whether all other values that the strategy takes give the same stages; False where it takes none."""
    taken = False
    for other in _others(cell, path, value):
        changed = copy.deepcopy(cell)
        for place in (path, *followers(cell, path, given)):
            put_at(changed, place, other)
        found = _asked(changed)
        if found is not None and found.asked != first.asked:
            return False
        taken = taken or found is not None
    return taken


def _others(cell: dict[str, Any], path: str, value: Any) -> Iterator[Any]:
    """Values that a key might have instead: the default of an option, others of its type."""
    root, _, name = path.partition(".")
    if isinstance(value, dict) and value:
        return
    if name == "_target_" and root == "strategy":
        return
    if root == "strategy" and "." not in name:
        from kdrun.targets import signature

        found = signature(cell["strategy"]["_target_"])
        parameter = found.parameters.get(name) if found else None
        try:
            default = ast.literal_eval(parameter.default) if parameter and parameter.default else value
        except ValueError:
            default = value
        if default != value:
            yield default
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value + 1, value / 2 if isinstance(value, float) else value + 2)
    elif isinstance(value, str):
        yield f"{value}_"
    elif isinstance(value, list):
        yield from ([value[:-1], [*value, *value[-1:]]] if value else [["x"], [1]])
        yield from ([other, *value[1:]] for item in value[:1] for other in _others(cell, "", item))
    elif isinstance(value, dict):
        yield {"x": 1}
    elif value is None:
        yield from (1, "x", [1])
