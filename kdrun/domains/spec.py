"""What networks, weights files and exports know of a data set: Spec.

Nothing heavy is imported here: `kdrun check` and `kdrun ls` ask domains, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from kdrun.problems import UserError, listed


@dataclass(frozen=True)
class Blank:
    """Inputs of two samples as networks take them, with nothing on them; shape: of their logits; what: they are called."""

    inputs: Any
    shape: tuple[int, ...]
    what: str


class Spec:
    """What networks, weights files and exports know of a data set. A subclass is a frozen dataclass, without torch.

    Its fields are at least `name` (label of the data set) and `sizes` (samples per split, after limits).

    kind          what weights files call the kind of data
    per_position  outputs are for each position of a sequence, [B, L, V] of `vocabulary` tokens; else one of `outputs` numbers
                  for each sample, [B, outputs]
    keywords      networks are called with their inputs as keyword arguments
    distribution  outputs are logits of a distribution
    binary        of two classes a network may give one logit, that of the second
    says          what the last dimension of an output is
    unit          what one row of a batch is
    compared      entries of `metadata` that have to be as they were trained, also where a network is trained further
    unchanged     those that further training may change, and a network that is used as it is needs
    chosen        entry -> (what it is for people, how it is chosen)
    unsaved       fields that no weights file keeps
    among         numbers of the classes that every sample is known to be of; None: it may be of any
    """

    name: str
    sizes: dict[str, int]
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    kind: ClassVar[str] = ""
    per_position: ClassVar[bool] = False
    keywords: ClassVar[bool] = False
    distribution: ClassVar[bool] = True
    binary: ClassVar[Any] = False
    says: ClassVar[str] = "classes"
    unit: ClassVar[Any] = "sample"
    compared: ClassVar[tuple[str, ...]] = ()
    unchanged: ClassVar[tuple[str, ...]] = ()
    chosen: ClassVar[Mapping[str, tuple[str, str]]] = {}
    unsaved: ClassVar[tuple[str, ...]] = ("name", "sizes")
    among: ClassVar[Any] = None

    @property
    def about(self) -> str:
        """One line for people."""
        return self.name

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes of a sample; () where there are none."""
        return ()

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the tensors that networks are called with, in order."""
        return ("inputs",)

    @property
    def free_axes(self) -> dict[str, dict[int, str]]:
        """Input, in the order of `input_names` -> axis -> name, of axes that may have any length in an exported graph."""
        return {name: {0: "batch"} for name in self.input_names}

    def metadata(self) -> dict[str, Any]:
        """What a weights file keeps, in JSON types, so that its network can be built and used without the data: "kind", "data" (its
        name) and the fields, without those of `unsaved` and those that may be None and are."""
        saved = [(one, getattr(self, one.name)) for one in fields(self) if one.name not in self.unsaved]
        kept = {one.name: value for one, value in saved if value is not None or one.default is MISSING}
        lists = {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()}
        return {"kind": self.kind, "data": self.name, **lists}

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> Spec:
        """The spec that a weights file was written with; sizes are those of no data set."""
        kept = [one for one in fields(cls) if one.name not in cls.unsaved]
        values = {one.name: metadata[one.name] for one in kept if one.default is MISSING or one.name in metadata}
        tuples = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        make: Any = cls
        return make(name=metadata["data"], sizes={}, **tuples)

    def arguments(self) -> dict[str, Any]:
        """What networks may ask for by the name of a parameter, and only the data know."""
        raise NotImplementedError

    def blank(self) -> Blank:
        """What a network is tried on before anything is trained."""
        raise NotImplementedError

    def check(self, metadata: Mapping[str, Any], path: Path, as_trained: bool = False) -> None:
        """Raises UserError where a weights file's metadata are of other data than these (normalisation is compared elsewhere).

        as_trained: the network is not trained further.
        """
        own = self.metadata()
        for name in (*self.compared, *(self.unchanged if as_trained else ())):
            theirs, ours = (self.comparable(name, node.get(name)) for node in (metadata, own))
            if name in metadata and theirs != ours:
                self.differs(name, theirs, ours, path, metadata)

    def in_units_of(self, metadata: Mapping[str, Any]) -> Spec:
        """These data with targets in the units that a network of this metadata learned them in."""
        return self

    def output_turn(self, metadata: Mapping[str, Any]) -> tuple[float, float] | None:
        """(scale, shift) that turn outputs of such a network into outputs in the units of these data; None where these are the same."""
        return None

    def comparable(self, name: str, value: Any) -> Any:
        """An entry of metadata as it is compared."""
        return list(value) if isinstance(value, tuple | list) else value

    def differs(self, name: str, theirs: Any, ours: Any, path: Path, metadata: Mapping[str, Any]) -> None:
        """Raises UserError for an entry of metadata that is another one."""
        what, hint = self.chosen.get(name, (name, ""))
        theirs, ours = (listed(map(str, value)) if isinstance(value, list) else str(value) for value in (theirs, ours))
        raise UserError(
            f"{path} was trained with another {what}: {theirs}, {self.name} has {ours}", *([hint] if hint else [])
        )

    def described(self) -> dict[str, Any]:
        """What the user of an exported file has to know: "outputs" (their meaning), and how inputs are made."""
        return {"outputs": f"logits of the {self.says}"}

    def usual_normalisations(self) -> dict[str, dict[str, list[float]]]:
        """Name -> {"mean", "std"} that published weights for such inputs were trained with, to be tried where weights do badly."""
        return {}

    def corrupted(self, inputs: Any, ids: Any, seed: int) -> Mapping[str, Any]:
        """Name of a corruption -> its five levels, each a function without arguments that gives the corrupted inputs.

        inputs: float32 [n, ...], normalised; ids: int64 [n]. {} where inputs of this kind are not corrupted for scorecards.
        """
        return {}
