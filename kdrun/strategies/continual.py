"""strategy=continual: the student learns tasks one after another, and nothing is kept of the samples of earlier ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from kdrun.lab.stages.evaluate import Evaluate
from kdrun.lab.stages.importance import Importance
from kdrun.problems import UserError
from kdrun.schema import Teacher, defaults
from kdrun.strategies.base import Strategy
from kdrun.strategies.cast import Cast, distil, merged, supervised
from kdrun.strategies.recalling import Recalling
from kdrun.strategies.task_sequence import CLASSES, FEW, TYPES, check_tasks, divided, members, name_of

if TYPE_CHECKING:
    from kdrun.lab.lab import Lab
    from kdrun.lab.stages.base import Result
    from kdrun.lab.stages.fit import Fit

FINE_TUNING, LWF, EWC, REPLAY, OLORA = "fine_tuning", "lwf", "ewc", "replay", "olora"
LOW_RANK = "kdrun.networks.low_rank.LowRank"
PSEUDO, INSTRUCTIONS, MOINCL = ASKING = ("pseudo", "instructions", "moincl")
METHODS = (FINE_TUNING, LWF, EWC, OLORA, REPLAY, *ASKING)
LABELS = {
    FINE_TUNING: "fine-tuning",
    LWF: "LwF",
    EWC: "EWC",
    OLORA: "O-LoRA",
    REPLAY: "replay of kept samples",
    PSEUDO: "pseudo targets (PTGM)",
    INSTRUCTIONS: "instructions (IKD)",
    MOINCL: "PTGM and IKD (MoInCL)",
}
ALL = "all tasks"
PARAMETER_BYTES = 4
SCENARIOS = ("class", "task")


@dataclass(frozen=True)
class Continual(Strategy):
    """Tasks arrive one at a time; the network of each begins with the weights after the one before. There is an output for every class (or
    token) of the data from the beginning.

    tasks           a number: the classes, or the types of questions, are divided into so many, as evenly as they can be; or lists of numbers of
                    classes: [[0, 1], [2, 3, 4]], or of types of questions: [[image_answer], [audio_answer]]; or keys of data in which the
                    tasks differ (domain-incremental): [{view: grey}, {view: edges}]; null: 5 of classes, one for each type of questions
    class_order     seed of a random order in which classes or types are divided among a number of tasks; null: sorted
    scenario        class: nothing says at test time which task a sample is from; task: it is known, so that labels and metrics are over the
                    classes of that task alone (van de Ven and Tolias 2019, arXiv 1904.07734)
    method          fine_tuning: nothing is done against forgetting; lwf: the network of the task before teaches on samples of the new
                    one (Li and Hoiem 2016, arXiv 1606.09282); ewc: weights that mattered are held (Kirkpatrick et al. 2017, arXiv
                    1612.00796); olora: after the first task an addition of low rank to the weights trains alone, apart from those
                    before (Wang et al. 2023, arXiv 2310.14152); replay: some samples of earlier tasks are kept, which none of the others
                    does; pseudo, instructions, moincl: of questions, see kdrun.strategies.recalling
    lwf_weight      of soft targets, beside labels with the weight 1; temperature: of these, which are over classes of earlier tasks
    ewc_weight      of half the squared distance of weights, each times its Fisher information, a mean over samples
    fisher_samples  training samples by which that is measured at the end of a task
    olora_weight    of the overlap of an addition with those before (objectives.olora); olora_rank: of each addition; olora_scale: factor of
                    what is added (alpha / rank of LoRA); all inferred
    replay_bytes    what the samples that are kept may take together; null: as much as the weights of the network, which lwf keeps
    pseudo_weight   of the answers of the network before to questions of earlier types (inferred); pseudo_kept: share of them that is
                    learned from, those that it finds likeliest (inferred)
    instruction_weight       of the divergence from the network before on what it writes to instructions without an input (inferred)
    instruction_temperature  of that (inferred); instructions: wordings of each earlier type (inferred)
    written_tokens  most tokens of what the network before writes (inferred)

    Each task is a stage with an optimizer and a schedule of its own, and the epochs of the trainer. Its best epoch is chosen on
    validation samples of that task alone. The result is the network after the last task, its parts are the tasks, its main metric the mean
    over their test sets; see score_matrix.transfer_of for the others. Inputs are normalised by the moments of the whole training split;
    where tasks differ in keys of data, by those of the first task.
    """

    method: str = "lwf"
    tasks: int | list[Any] | None = None
    class_order: int | None = None
    scenario: str = "class"
    lwf_weight: float = 1.0
    temperature: float = 2.0
    ewc_weight: float = 10.0
    fisher_samples: int = 200
    olora_weight: float = 0.5
    olora_rank: int = 8
    olora_scale: float = 2.0
    replay_bytes: int | None = None
    pseudo_weight: float = 1.0
    pseudo_kept: float = 0.8
    instruction_weight: float = 1.0
    instruction_temperature: float = 1.0
    instructions: int = 32
    written_tokens: int = 32

    arms: ClassVar[dict[str, str]] = {"alone": "all tasks at once", **LABELS}
    variants: ClassVar = {name: {"method": name} for name in METHODS}
    against: ClassVar[str] = FINE_TUNING
    instead: ClassVar[dict[str, str]] = {
        "teacher": "the network of the task before teaches (strategy.method=lwf)",
        "assistants": "the network of the task before teaches (strategy.method=lwf)",
        "objective": "strategy.method says what stands beside labels; strategy.lwf_weight and strategy.ewc_weight how much of it",
        "data.restrict": "strategy.tasks says which samples a stage has",
        "data.questions": "strategy.tasks says which samples a stage has",
    }
    data_options: ClassVar = ("tasks",)
    choices: ClassVar = {"method": METHODS, "scenario": SCENARIOS}
    ranges: ClassVar = {
        "class_order": (lambda seed: seed >= 0, "a seed of at least 0"),
        "lwf_weight": (lambda weight: weight >= 0, "a weight of at least 0"),
        "ewc_weight": (lambda weight: weight >= 0, "a weight of at least 0"),
        "olora_weight": (lambda weight: weight >= 0, "a weight of at least 0"),
        "olora_rank": (lambda rank: rank >= 1, "at least 1"),
        "olora_scale": (lambda scale: scale > 0, "above 0"),
        "temperature": (lambda temperature: temperature > 0, "above 0"),
        "fisher_samples": (lambda samples: samples >= 1, "at least one sample"),
        "pseudo_weight": (lambda weight: weight >= 0, "a weight of at least 0"),
        "pseudo_kept": (lambda share: 0 < share <= 1, "a share above 0, 1 at most"),
        "instruction_weight": (lambda weight: weight >= 0, "a weight of at least 0"),
        "instruction_temperature": (lambda temperature: temperature > 0, "above 0"),
        "instructions": (lambda wordings: wordings >= 1, "at least one wording of each type"),
        "written_tokens": (lambda tokens: tokens >= 1, "at least one token"),
        "replay_bytes": (lambda size: size >= 1, "at least one byte; null: as much as the weights of the network"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        check_tasks(self.tasks)
        if self.class_order is not None and isinstance(self.tasks, list):
            raise UserError(f"strategy.class_order={self.class_order}: strategy.tasks says which classes each task has")
        if self.by_keys and self.scenario == "task":
            raise UserError(
                "strategy.scenario=task: tasks that differ in keys of data have the same classes", "leave it out"
            )
        if self.by_keys and REPLAY in (self.method, *self.controls):
            raise UserError(
                "strategy.method=replay: samples of earlier tasks are kept where tasks are parts of one data set",
                "strategy.tasks=5, or lists of classes or types",
            )
        if self.by_keys and (asking := [name for name in ASKING if name in (self.method, *self.controls)]):
            raise UserError(*_of_types(asking[0]))

    @property
    def by_keys(self) -> bool:
        """Whether tasks differ in keys of data, not in classes or types."""
        return isinstance(self.tasks, list) and isinstance(self.tasks[0], dict)

    def check(self, cast: Cast) -> None:
        key = cast.domain.divided
        if key is None:
            if not self.by_keys:
                raise UserError(
                    f"strategy.tasks={self.tasks}: data.task={cast.domain.name} is not divided by classes",
                    "tasks may differ in keys of data: strategy.tasks=[{KEY: VALUE}, {KEY: OTHER}]",
                )
            return
        if cast.config["data"].get(key[0]):
            raise UserError(
                f"data.{key[0]}: strategy.tasks says which {key[1]} each task has", f"leave data.{key[0]} out"
            )
        if key[1] != TYPES and (asking := [name for name in ASKING if name in (self.method, *self.controls)]):
            raise UserError(*_of_types(asking[0]))
        if self.scenario == "task" and key[1] != CLASSES:
            raise UserError(
                "strategy.scenario=task: a question says what it is about", "leave it out: it is for data with classes"
            )

    def run(self, lab: Lab, cast: Cast, role: str = "student") -> Result:
        """Every task in turn, then all networks on the test sets of all tasks."""
        tasks, after, importance = self._tasks(lab, cast), {}, None
        for name in tasks:
            start = next(reversed(after.values()), None)
            if start is not None and self.method == EWC and self.ewc_weight:
                importance = lab.get(self._importance(cast, role, start, importance))
            after[name] = lab.get(self._stage(lab, cast, role, name, list(tasks), start, importance))
        return lab.get(Evaluate(role, after, self._data(lab, cast), start=after[name]))

    def control(self, name: str, lab: Lab, cast: Cast) -> Result:
        """alone is one stage on all tasks at once, which no learner of one after another is expected to beat; the others are methods."""
        if name != "alone":
            return super().control(name, lab, cast)
        if self.by_keys:
            raise UserError(
                "strategy.controls: alone (all tasks at once) is there where tasks are parts of one data set"
            )
        together = lab.get(supervised(cast.student, role=f"alone_{ALL.replace(' ', '_')}"))
        return lab.get(Evaluate(name, {ALL: together}, self._data(lab, cast), start=together))

    def label(self, cast: Cast) -> str:
        return f"student {cast.student.config['name']}, {LABELS[self.method]}"

    def student_epochs(self, cast: Cast) -> int:
        count = len(self.tasks) if isinstance(self.tasks, list) else self.tasks or FEW
        return count * cast.student.trainer["epochs"]

    def _stage(
        self,
        lab: Lab,
        cast: Cast,
        role: str,
        name: str,
        names: list[str],
        start: Result | None,
        importance: Result | None,
    ) -> Fit:
        """How a task is learned. start: the network after the one before; None: it is the first."""
        keys, number, student = self._tasks(lab, cast), names.index(name), cast.student
        data, role, labels = keys[name], f"{role}_task{number + 1}", self._labels(cast, keys[name])
        if self.method == REPLAY and start is not None:  # samples of earlier tasks have labels of other classes
            size = self.replay_bytes or PARAMETER_BYTES * lab.parameters(student.identity, student.stage(None)["data"])
            node, _ = divides = cast.domain.divided
            data = merged(data, {node: {"replay": members(keys, names[:number], divides), "replay_bytes": size}})
            return supervised(student, start=start, role=role, data=data)
        if self.method == OLORA:
            network = {"_target_": LOW_RANK, "base": student.config["network"], "rank": self.olora_rank}
            network |= {"tasks": number + 1, "scale": self.olora_scale}
            student = replace(student, config={**student.config, "network": network})
            if start is not None and self.olora_weight:
                labels = {**labels, OLORA: {"weight": self.olora_weight}}
        plain = replace(supervised(student, start=start, role=role, data=data), objective=labels)
        if start is None:
            return plain
        if self.method in ASKING:
            old = members(keys, names[:number], cast.domain.divided)
            return self._recalling().stage(lab, cast, plain, old) or plain
        if self.method == LWF and self.lwf_weight:
            classes = not self.by_keys and cast.domain.divided[1] == CLASSES
            old = members(keys, names[:number], cast.domain.divided) if classes else []
            return self._taught(cast, role, data, start, labels, old)
        if self.method == EWC and self.ewc_weight:
            return replace(plain, objective={**labels, "ewc": {"weight": self.ewc_weight}}, importance=importance)
        return plain

    def _labels(self, cast: Cast, keys: dict[str, Any]) -> dict[str, Any]:
        """The objective of labels of a task with these keys of data."""
        if self.scenario == "class":
            return cast.supervision
        return {name: {**term, "only": keys["restrict"]["classes"]} for name, term in cast.supervision.items()}

    def _taught(
        self, cast: Cast, role: str, data: dict[str, Any], start: Result, labels: dict[str, Any], old: list[int]
    ) -> Fit:
        """Soft targets of the network before, over the classes that it has learned; it knows nothing of the others."""
        only = {"only": old} if len(old) > 1 else {}
        terms = {**labels, "kd": {"weight": self.lwf_weight, "temperature": self.temperature, **only}}
        # On samples of classes that it has never seen it is no better than a guess, and is not meant to be.
        teaching = {**defaults(Teacher), "unchecked": True}
        settings = {"objective": terms, "teaching": teaching, "data": data, "sees": {}}
        return distil(cast.student, start, start=start, role=role, **settings)

    def _recalling(self) -> Recalling:
        return Recalling(
            pseudo_weight=self.pseudo_weight if self.method != INSTRUCTIONS else 0.0,
            kept=self.pseudo_kept,
            instruction_weight=self.instruction_weight if self.method != PSEUDO else 0.0,
            temperature=self.instruction_temperature,
            instructions=self.instructions,
            tokens=self.written_tokens,
        )

    def _importance(self, cast: Cast, role: str, learned: Result, before: Result | None) -> Importance:
        return Importance(
            f"importance_{learned.stage.role}",
            learned.stage.data,
            {name: term for name, term in learned.stage.objective.items() if name != EWC},
            cast.config["hardware"],
            learned.stage.seed,
            learned,
            self.fisher_samples,
            before,
        )

    def _data(self, lab: Lab, cast: Cast) -> dict[str, dict[str, Any]]:
        """Task -> its data config."""
        return {name: cast.student.stage(keys)["data"] for name, keys in self._tasks(lab, cast).items()}

    def _tasks(self, lab: Lab, cast: Cast) -> dict[str, dict[str, Any]]:
        """Task -> keys of data in which it differs from the run's. Raises UserError where classes are too few."""
        data = cast.student.stage(None)["data"]
        if self.by_keys:
            first = lab.known_of(cast.student.stage(self.tasks[0])["data"])["normalize"]
            same = {} if first is None else {"normalize": first}
            return {name_of(number, keys): {**same, **keys} for number, keys in enumerate(self.tasks, 1)}
        node, by = cast.domain.divided
        groups = divided(self.tasks, by, lab.known_of(data), self.class_order)
        if self.scenario == "task" and (short := [group for group in groups if len(group) < 2]):
            raise UserError(f"strategy.scenario=task: a task of class {short[0][0]} alone has nothing to tell apart")
        known = {"known": True} if self.scenario == "task" else {}
        named = (
            f"task {n}" if by == CLASSES else f"task {n} ({', '.join(group)})" for n, group in enumerate(groups, 1)
        )
        return {name: {node: {by: group, **known}} for name, group in zip(named, groups, strict=True)}


def _of_types(method: str) -> tuple[str, str]:
    """A refusal."""
    return (
        f"strategy.method={method}: the network before is asked questions of earlier types",
        "it is for tasks that are types of questions: model=multimodal",
    )
