"""Which client has which samples, how its inputs look, and which of its labels are wrong. No torch.

All of it is a function of the arguments alone: the same seeds give the same clients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdrun.data import randomness
from kdrun.data.splits import quantile_bins
from kdrun.problems import UserError, closest, listed

KINDS = ("label", "iid", "quantity", "groups")
SPLITS = ("train", "val", "test")
DRAWS = 10_000
"""Proportions that are drawn before a partition counts as impossible: a second or two."""


@dataclass(frozen=True)
class Shares:
    """Positions (int64, ascending) of each client's samples in the splits of a data module; entry i is client i's."""

    train: tuple[np.ndarray, ...]
    val: tuple[np.ndarray, ...]
    test: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.train)


def shares(
    targets: Mapping[str, np.ndarray],
    clients: int,
    kind: str,
    alpha: float,
    seed: int,
    minimum: int = 8,
    groups: int = 1,
    mixing: float = 0.0,
) -> Shares:
    """Every sample of every split to exactly one client.

        label     of each class, proportions over clients from Dirichlet(alpha) (as in arXiv 2102.02079, section IV-A1)
        quantity  of all samples, proportions from Dirichlet(alpha)
        iid       equal proportions of all samples
        groups    classes are cut into disjoint `groups` of about the same size, clients too (see group_of); within a group each
                  class is dealt out as by label. Then each client gives the share `mixing` of its samples away, and gets as many
                  of what all gave (arXiv 2605.11165): its proportion of a class is (1 - mixing) times that of its group and
                  `mixing` times its share of all samples

    The proportions are the same in all three splits, so that a client is tested on its own distribution. They are drawn again
    until each client has `minimum` training samples and one of val and of test.

    targets: int64 [n] per split, or float [n]: then ten quantiles of those of training are the classes.
    alpha: > 0; small is uneven. iid ignores it. seed: of the proportions and of who gets which sample.
    Raises UserError for an unknown kind, and where no draw gives each client enough.
    """
    if kind not in KINDS:
        raise UserError(f"partition={kind}: expected one of {listed(KINDS)}{closest(kind, KINDS)}")
    if clients < 1 or minimum < 1 or not 0 < alpha < np.inf:
        raise UserError(f"clients={clients} alpha={alpha} minimum={minimum}: each has to be above 0")
    if kind == "groups" and not (1 <= groups <= clients and 0 <= mixing <= 1):
        raise UserError(
            f"groups={groups} mixing={mixing}: from 1 to {clients} groups, each has a client, and a share of samples"
        )
    least = {"train": minimum, "val": 1, "test": 1}
    for split in SPLITS:
        if (have := len(targets[split])) < clients * least[split]:
            raise UserError(
                f"clients={clients}: {have} {split} samples are too few for {least[split]} of each client",
                f"at most {min(len(targets[each]) // least[each] for each in SPLITS)} clients",
            )
    rows = _groups(targets, kind)
    if kind == "groups" and len(rows["train"]) < groups:
        raise UserError(
            f"groups={groups}: there are {len(rows['train'])} classes", "each group of clients has a class at least"
        )
    counts = np.array([len(those) for those in rows["train"]])
    generator = np.random.Generator(np.random.PCG64(randomness.key("shares", kind, seed)))
    for _ in range(DRAWS):
        if kind == "iid":
            proportions = np.full((1, clients), 1 / clients)
        elif kind == "groups":
            proportions = _grouped(counts, clients, groups, alpha, mixing, generator)
        else:
            proportions = generator.dirichlet(np.full(clients, alpha), len(rows["train"]))
        ends = {split: _ends(rows[split], proportions) for split in SPLITS}
        if all((np.diff(ends[split], axis=1, prepend=0).sum(axis=0) >= least[split]).all() for split in SPLITS):
            return Shares(**{split: _dealt(rows[split], ends[split], split, seed) for split in SPLITS})
    raise UserError(
        f"alpha={alpha:g} with clients={clients}: in {DRAWS:,} draws there was always a client with fewer than {minimum} "
        "training samples, or none of val or test",
        "a larger alpha or fewer clients make it possible",
    )


def group_of(client: int, clients: int, groups: int) -> int:
    """The group of a client: neighbours in number are together, so that each group has all kinds of networks that are dealt out
    one after another."""
    return client * groups // clients


def _grouped(
    counts: np.ndarray, clients: int, groups: int, alpha: float, mixing: float, generator: np.random.Generator
) -> np.ndarray:
    """float64 [classes, clients]: proportions of kind=groups, from the number of training samples of each class [classes]."""
    inside = np.zeros((len(counts), clients))
    for group, classes in enumerate(np.array_split(generator.permutation(len(counts)), groups)):
        members = [client for client in range(clients) if group_of(client, clients, groups) == group]
        inside[np.ix_(classes, members)] = generator.dirichlet(np.full(len(members), alpha), len(classes))
    sizes = counts @ inside / counts.sum()
    return (1 - mixing) * inside + mixing * sizes


def _groups(targets: Mapping[str, np.ndarray], kind: str) -> dict[str, list[np.ndarray]]:
    """Per split, the positions of each group that is dealt out by proportions of its own; the same groups in all splits."""
    if kind not in ("label", "groups"):
        return {split: [np.arange(len(targets[split]))] for split in SPLITS}
    labels = {split: np.asarray(targets[split]) for split in SPLITS}
    if labels["train"].dtype.kind == "f":
        labels = {split: quantile_bins(values, labels["train"]) for split, values in labels.items()}
    classes = np.unique(np.concatenate(list(labels.values())))
    return {split: [np.flatnonzero(labels[split] == one) for one in classes] for split in SPLITS}


def _ends(groups: list[np.ndarray], proportions: np.ndarray) -> np.ndarray:
    """int64 [G, clients]: where each client's part of each group ends; every part within one sample of its proportion."""
    reached = np.cumsum(proportions, axis=1)
    reached[:, -1] = 1
    return np.rint(np.array([[len(rows)] for rows in groups]) * reached).astype(np.int64)


def _dealt(groups: list[np.ndarray], ends: np.ndarray, split: str, seed: int) -> tuple[np.ndarray, ...]:
    order = randomness.key("dealt", split, seed)
    parts = [np.split(rows[randomness.order(order, rows)], end[:-1]) for rows, end in zip(groups, ends, strict=True)]
    return tuple(np.sort(np.concatenate(own)) for own in zip(*parts, strict=True))


def shift(inputs: Any, client: int, clients: int, strength: float) -> Any:
    """Inputs as one client sees them: a covariate shift that is the same for all of its samples, and depends on nothing else.

    Contrast and brightness move along a circle, client / clients of a turn, so that no two clients look alike; every second
    client's images are blurred; each has a faint texture of its own. With a = 2 pi client / clients and strength s:

        exp(s/2 cos a) * ((1 - b) x + b * mean of 3 x 3 pixels) + s/2 sin a + s/4 texture,   b = min(1, s/2) for odd clients

    inputs: float [B, C, H, W] normalised images, or rows [B, F], which are not blurred; an array or a tensor on the CPU, and
        what comes back is of the same kind. The texture is uniform with mean 0 and deviation 1, one value per pixel.
    strength: >= 0; 0 gives the inputs back as they are. Raises ValueError for no such client or strength.
    """
    if not 0 <= client < clients or not strength >= 0:
        raise ValueError(f"client {client} of {clients} with a shift of strength {strength}")
    if strength == 0:
        return inputs
    values = np.asarray(inputs)
    angle = 2 * np.pi * client / clients
    changed = values
    if values.ndim == 4 and client % 2:
        blurred = min(1.0, strength / 2)
        changed = (1 - blurred) * values + blurred * _mean_of_neighbours(values)
    pixels = np.arange(int(np.prod(values.shape[1:])))
    bits = randomness.bits(randomness.key("texture", client), pixels) >> np.uint64(11)
    texture = (12**0.5 * (bits / 2**53 - 0.5)).reshape(values.shape[1:])
    offset = strength / 2 * np.sin(angle) + strength / 4 * texture
    changed = (np.exp(strength / 2 * np.cos(angle)) * changed + offset).astype(values.dtype)
    return changed if isinstance(inputs, np.ndarray) else inputs.new_tensor(changed)


def _mean_of_neighbours(images: np.ndarray) -> np.ndarray:
    """Mean of each pixel and the eight around it; those beyond the border are as the nearest inside."""
    height, width = images.shape[-2:]
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    parts = [padded[..., row : row + height, column : column + width] for row in range(3) for column in range(3)]
    return sum(parts) / 9


def corrupted(targets: np.ndarray, classes: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(int64 [n] labels of which a fraction, rounded, is wrong; bool [n]: which were changed).

    Each wrong label is any of the other classes with equal probability. A larger fraction under the same seed changes the
    same labels, and more. Raises ValueError for a fraction outside 0..1, and where there is no other class.
    """
    if not 0 <= fraction <= 1 or classes < 2:
        raise ValueError(f"labels of {classes} classes cannot be corrupted with fraction {fraction}")
    positions = np.arange(len(targets))
    chosen = randomness.order(randomness.key("corrupted", seed), positions)[: round(fraction * len(targets))]
    step = 1 + randomness.bits(randomness.key("wrong", seed), chosen) % np.uint64(classes - 1)
    changed, flipped = targets.copy(), np.zeros(len(targets), bool)
    changed[chosen] = (targets[chosen] + step.astype(np.int64)) % classes
    flipped[chosen] = True
    return changed, flipped
