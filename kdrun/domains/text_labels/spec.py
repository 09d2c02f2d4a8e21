"""What a network and a task have to know about texts with several labels. No torch, no numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from kdrun.domains.text.spec import ClassifiedTextSpec


@dataclass(frozen=True)
class LabelledTextSpec(ClassifiedTextSpec):
    """As ClassifiedTextSpec, but any number of classes applies to a text; an output is the logit of one."""

    kind: ClassVar[str] = "text_labels"
    distribution: ClassVar[bool] = False
    says: ClassVar[str] = "labels"
    binary: ClassVar[bool] = False

    def described(self) -> dict[str, Any]:
        outputs = "a logit of each label, whose sigmoid is its probability; it applies from 0 on"
        return {**super().described(), "outputs": outputs}
