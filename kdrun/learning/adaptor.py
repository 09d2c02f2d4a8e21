"""What brings the student's features to the sizes of the teacher's: it trains along and is in no weights that are kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional

from kdrun.domains.task import Prediction
from kdrun.learning import seeds
from kdrun.networks.build import seeded
from kdrun.networks.capture import OUTPUT
from kdrun.objectives.objective_term import Term
from kdrun.objectives.terms import Objective
from kdrun.problems import UserError, closest, listed

Shapes = Mapping[str, Sequence[tuple[int, ...]]]
"""Path or glob (see networks/capture.py) -> shape of what each of its modules gives, without the batch."""

CONVOLUTIONS = {2: nn.Conv1d, 3: nn.Conv2d, 4: nn.Conv3d}
NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm2d, 4: nn.BatchNorm3d}
MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}
POOLS = {1: functional.adaptive_avg_pool1d, 2: functional.adaptive_avg_pool2d, 3: functional.adaptive_avg_pool3d}


class Adaptor(nn.Module):
    """Of one pair. Between widths: a linear layer for features [B, D] and [B, L, D], a convolution of kernel 1 for [B, C, H, W]
    and [B, C, D, H, W] (FitNets, arXiv 1412.6550, section 2.2); none where they are equal and kind is "auto", or kind is "none".
    "conv_bn_relu": that convolution, batch normalisation and ReLU, the regressor of RepDistiller and mdistiller.

    resize: between grids (H and W, or L): "pool" averages over areas, "interpolate" is (bi)linear, "auto" pools where the student
    has more in every direction and interpolates elsewhere, "none" leaves them.
    Raises ValueError for shapes (without the batch) that the kind is not for.
    """

    def __init__(self, own: tuple[int, ...], theirs: tuple[int, ...], kind: str = "auto", resize: str = "auto"):
        super().__init__()
        self.resize, self.layer = resize, None
        self.grid = len(own) >= 3
        if kind == "none":
            return
        if len(own) != len(theirs):
            raise ValueError(f"features of shapes {[*own]} and {[*theirs]} are not of one kind")
        if kind in (("linear",) if self.grid else ("conv", "conv_bn_relu")):
            what = "images [C, H, W]" if self.grid else "vectors [D] or [L, D]"
            raise ValueError(f"adaptor={kind} is not for {what}, got {[*own]}")
        axis = 0 if self.grid else -1
        if kind != "auto" or own[axis] != theirs[axis]:
            make = CONVOLUTIONS[len(own)] if self.grid else nn.Linear
            self.layer = make(own[axis], theirs[axis], **({"kernel_size": 1} if self.grid else {}))
        if kind == "conv_bn_relu":
            self.layer = nn.Sequential(self.layer, NORMS[len(own)](theirs[0]), nn.ReLU())

    def forward(self, features: Tensor, like: Tensor) -> Tensor:
        """The student's features, as large as those of the teacher."""
        larger = features.numel() * len(like) > like.numel() * len(features)
        if larger:
            features = self._resized(features, like)
        if self.layer is not None:
            features = self.layer(features)
        return features if larger else self._resized(features, like)

    def _resized(self, features: Tensor, like: Tensor) -> Tensor:
        if self.resize == "none" or features.dim() != like.dim() or features.dim() < 3:
            return features
        channels_last = not self.grid
        own, theirs = ((x.transpose(1, 2) if channels_last else x) for x in (features, like))
        size = theirs.shape[2:]
        if own.shape[2:] == size:
            return features
        shrinks = all(mine >= other for mine, other in zip(own.shape[2:], size, strict=True))
        if self.resize == "pool" or (self.resize == "auto" and shrinks):
            own = POOLS[len(size)](own, size)
        else:
            own = functional.interpolate(own, size=size, mode=MODES[len(size)], align_corners=False)
        return own.transpose(1, 2) if channels_last else own


class Adaptors(nn.Module):
    """All adaptors of a stage. terms: of the objective that capture something; features: between the inputs of both last layers;
    pairs: one per pair of a term, by its name."""

    def __init__(
        self,
        terms: Sequence[Term] = (),
        features: nn.Linear | None = None,
        pairs: Mapping[str, Sequence[Adaptor]] | None = None,
    ):
        super().__init__()
        self.terms, self.features = tuple(terms), features
        self.pairs = nn.ModuleDict({name: nn.ModuleList(adaptors) for name, adaptors in (pairs or {}).items()})

    def captured(
        self, student: Prediction, teacher: Prediction | None, view: str | None = None
    ) -> dict[str, tuple[list[Tensor], list[Tensor]]]:
        """Term -> (the student's features, adapted; those of the teacher), pair by pair, from both predictions; of terms that look at this view.

        teacher: None in a step that asks no teacher; the student's are then as they are.
        """
        both = {}
        for term in (term for term in self.terms if term.view == view):
            ours = [x for path in term.pairs.student for x in captured_at(path, student)]
            theirs = (
                [x for path in term.pairs.teacher for x in captured_at(path, teacher)] if teacher is not None else []
            )
            if theirs and term.name in self.pairs:
                ours = [fit(x, y) for fit, x, y in zip(self.pairs[term.name], ours, theirs, strict=True)]
            both[term.name] = (ours, [x.detach() for x in theirs])
        return both


def captured_at(path: str, prediction: Prediction, key: str = "") -> list[Tensor]:
    """What modules gave that a path or glob names, or what the task gives where it is `output:NAME`. key: of the config, for
    the message that it gives nothing of this name."""
    if not path.startswith(OUTPUT):
        return prediction.captured[path]
    name = path.removeprefix(OUTPUT)
    outputs = {"logits": prediction.logits, "hidden": prediction.hidden, **prediction.features}
    if outputs.get(name) is None:
        given = [key for key, tensor in outputs.items() if tensor is not None]
        raise UserError(
            f"{key + '=' if key else ''}{path}: this task gives no {name}{closest(name, given)}",
            f"it gives: {listed(given)}",
        )
    return [outputs[name]]


def make_adaptors(
    objective: Objective,
    student: Shapes,
    teachers: Sequence[Shapes],
    features: tuple[int, Iterable[int]] | None,
    seed: int,
) -> Adaptors | None:
    """The adaptors that an objective needs, functions of the run's seed; None where it needs none.

    student, teachers: what each network gives at the paths that the objective captures.
    features: widths of the last layer's input, of the student and of the teachers; None where they are not compared.
    Raises UserError where shapes do not go together.
    """
    last = None if features is None else _between_last_layers(*features, seed)
    pairs = {
        term.name: [
            _adaptor(term, number, ours, theirs, seed)
            for number, (ours, theirs) in enumerate(zip(*_shapes(term, student, teachers), strict=True))
        ]
        for term in objective.active
        if term.pairs is not None and term.pairs.adapts
    }
    terms = [term for term in objective.active if term.pairs is not None]
    return Adaptors(terms, last, pairs) if last is not None or terms else None


def _shapes(term: Term, student: Shapes, teachers: Sequence[Shapes]) -> tuple[list[tuple], list[tuple]]:
    """Shapes of the pairs of a term, in their order."""
    ours = [shape for path in term.pairs.student for shape in student[path]]
    sides = [[shape for path in term.pairs.teacher for shape in shapes[path]] for shapes in teachers]
    theirs = sides[0]
    if any(side != theirs for side in sides):
        raise UserError(f"objective.{term.name}: teachers whose features differ in shape cannot teach at once")
    if len(ours) != len(theirs):
        raise UserError(
            f"objective.{term.name} captures {len(ours)} modules of the student and {len(theirs)} of the teacher: it compares "
            "them in pairs"
        )
    return ours, theirs


def _adaptor(term: Term, number: int, own: tuple[int, ...], theirs: tuple[int, ...], seed: int) -> Adaptor:
    try:
        with seeded(seeds.derive(seed, f"adaptor.{term.name}.{number}")):
            return Adaptor(own, theirs, term.pairs.adaptor, term.pairs.resize)
    except ValueError as error:
        raise UserError(
            f"objective.{term.name}: {error}",
            f"objective.{term.name}.adaptor=none, where its loss needs no equal shapes",
        ) from None


def _between_last_layers(own: int, teachers: Iterable[int], seed: int) -> nn.Linear | None:
    """A linear layer from the student's features to the width of its teachers'; None where they are as wide."""
    widths = set(teachers)
    if len(widths) > 1:
        raise UserError(
            f"teachers with features of widths {', '.join(map(str, sorted(widths)))} cannot teach at once",
            "choose networks of one width, or objective.feature.weight=0",
        )
    if not widths or widths == {own}:
        return None
    with seeded(seeds.derive(seed, "adaptor")):
        return nn.Linear(own, widths.pop())
