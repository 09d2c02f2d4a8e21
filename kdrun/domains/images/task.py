"""Images (or any other array) in, one of C classes out."""

from typing import Any

import torch
from torch import nn
from torchmetrics import MetricCollection

from kdrun.data.host import moved
from kdrun.domains.guess import Guess, largest_share
from kdrun.domains.images.spec import DataSpec
from kdrun.domains.scores import ClassificationScores, StepScores, rank_of_target
from kdrun.domains.task import Batch, Prediction, Task, Tensors
from kdrun.networks.capture import captured, classifier, only_call
from kdrun.networks.modes import evaluating
from kdrun.networks.output import called, logits_of, named_outputs

FEATURES = {"student_features", "teacher_features"}
CLASSIFIERS = {"student_classifier", "teacher_classifier"}


class Classification(Task, kind="classification"):
    """Single-label classification with the classes of a DataSpec.

    A batch is {"inputs": float [B, *shape], "targets": int64 [B], ...}; every position counts, so there is no mask.
    """

    SCORES: type = ClassificationScores
    """Called with the number of classes: the metric of logits [B, C] and targets [B]."""

    def __init__(self, spec: DataSpec) -> None:
        self.spec = spec
        self.classes = len(spec.classes)
        self._features = self._classifier = False
        self._wanted: frozenset[str] = frozenset()

    def prepare(self, wanted: frozenset[str]) -> None:
        self._wanted = wanted
        self._features, self._classifier = bool(FEATURES & wanted), bool(CLASSIFIERS & wanted)

    def predict(self, network: nn.Module, inputs: Any) -> Prediction:
        """One forward pass. Raises ValueError where the logits are not [B, C] with the data's C.

        Of two classes a network may give one logit o, for the second: it is read as the pair (0, o), whose softmax is the
        sigmoid of o, and whose cross-entropy the binary one.
        """
        count = self.size(inputs)
        if self._features:
            with captured(network) as found:
                output = called(network, inputs)
            features = {"features": only_call(network, found)}
        else:
            output, features = called(network, inputs), {}
        logits = self._of_classes(logits_of(output), count)
        named = named_outputs(output)
        for name, tensor in named.items():
            if {f"student_{name}", f"teacher_{name}"} & self._wanted:
                features.setdefault(name, self._of_classes(tensor, count))
        expected = (count, self.classes)
        if logits.shape != expected:
            raise ValueError(
                f"{type(network).__name__} returned logits of shape {tuple(logits.shape)}, expected {expected}: "
                f"{self.spec.name} has {self.classes} classes"
            )
        layer = classifier(network) if self._classifier else None
        return Prediction(
            logits,
            features=features,
            scored=self._scored(named),
            classifier=None if layer is None else (layer.weight, layer.bias),
        )

    def _scored(self, named: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What StepScores takes of a network's named outputs: those of the shapes that it has for them."""
        steps, firing = named.get("steps"), named.get("firing")
        found = {"steps": steps} if steps is not None and steps.dim() == 3 and steps.shape[2] == self.classes else {}
        return found | ({"firing": firing} if firing is not None and firing.dim() == 2 else {})

    def _of_classes(self, tensor: torch.Tensor, samples: int) -> torch.Tensor:
        """The tensor; the pair (0, o) in place of one logit o for each sample where there are two classes."""
        single = self.classes == 2 and tensor.shape == (samples, 1)
        return torch.cat([torch.zeros_like(tensor), tensor], dim=1) if single else tensor

    def feature_width(self, network: nn.Module) -> int:
        """D of the features [B, D] that objectives compare.

        Raises UserError where a forward pass does not use the classifier, or gives it anything else than [B, D].
        """
        device = next(network.parameters()).device
        with torch.no_grad(), evaluating(network), captured(network) as found:
            called(network, moved(self.spec.blank().inputs, device))
        return only_call(network, found).shape[1]

    def tensors(self, batch: Batch, student: Prediction, teacher: Prediction | None) -> Tensors:
        """student_logits and teacher_logits [B, C], student_features and teacher_features [B, D] where they were asked for, and
        so student_classifier and teacher_classifier (weight [C, D], bias [C] or None), targets [B], mask (None: all count). What a
        network gives beside its logits, by name: its outputs at each step [B, T, C] as student_steps."""
        named = {f"student_{name}": tensor for name, tensor in student.features.items()}
        named |= {f"teacher_{name}": tensor for name, tensor in (teacher.features if teacher else {}).items()}
        return {
            **named,
            "student_classifier": student.classifier,
            "teacher_classifier": None if teacher is None else teacher.classifier,
            "student_features": student.features.get("features"),
            "teacher_features": None if teacher is None else teacher.features.get("features"),
            "student_logits": student.logits,
            "teacher_logits": None if teacher is None else teacher.logits,
            "targets": batch["targets"],
            "mask": student.mask,
        }

    def metrics(self) -> MetricCollection:
        return MetricCollection({"scores": self.SCORES(self.classes), "steps": StepScores()})

    def update(self, metrics: MetricCollection, prediction: Prediction, batch: Batch) -> None:
        """Adds one batch; the logits are taken in float32 whatever the network computes in."""
        metrics["scores"].update(self.known(prediction.logits), batch["targets"])
        metrics["steps"].update(batch["targets"], **prediction.scored)

    def right(self, prediction: Prediction, batch: Batch) -> torch.Tensor:
        """As `accuracy` counts it."""
        return rank_of_target(self.known(prediction.logits), batch["targets"]) < 1

    def judged(self, prediction: Prediction, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        logits, targets = super().judged(prediction, batch)
        return self.known(logits), targets

    def known(self, logits: torch.Tensor) -> torch.Tensor:
        """Detached float32 logits [B, C] without the classes (-inf) that no sample can be of (`among` of the spec)."""
        logits, among = logits.detach().float(), self.spec.among
        if among is None:
            return logits
        kept = torch.full_like(logits, -torch.inf)
        kept[:, among] = logits[:, among]
        return kept

    def outcomes(self, prediction: Prediction) -> list[dict[str, Any]]:
        rows = self.known(prediction.logits).softmax(1).tolist()
        named = [dict(zip(self.spec.labels, row, strict=True)) for row in rows]
        best = [max(one, key=one.__getitem__) for one in named]
        return [
            {"class": label, "probability": one[label], "probabilities": one}
            for label, one in zip(best, named, strict=True)
        ]

    def trivial(self, targets: list[torch.Tensor], right: list[torch.Tensor] | None = None) -> Guess:
        """Accuracy of always naming the largest class."""
        return largest_share(targets, "always naming the largest class", right)
