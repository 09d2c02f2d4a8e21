"""What grew before a loss was no longer finite."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def growth(names: Sequence[str], weighted: Tensor, end: int) -> str:
    """The term that grew most before the first step whose total is not finite, in words; empty where no such step is known.

    names: of the terms; weighted: float [steps, terms], their values times their weights in the last steps; end: the number of
    steps done after these.
    """
    finite = weighted.isfinite().all(1)
    if finite.all() or not finite[0]:
        return ""
    last = int(finite.logical_not().nonzero()[0]) - 1
    first = weighted[0].abs().clamp(min=1e-12)
    term = int((weighted[last].abs() / first).argmax())
    name, before, after = names[term], float(weighted[0, term]), float(weighted[last, term])
    start = end - len(weighted) + 1
    if last == 0:
        return f"; {name} times its weight was {after:.3g} at step {start}"
    how = "grew" if abs(after) > abs(before) else "changed"
    return (
        f"; {name} times its weight {how} from {before:.3g} at step {start} to {after:.3g} at step {start + last}: try a smaller "
        f"trainer.optimizer.lr, trainer.clip=1 or a smaller objective.{name}.weight"
    )
