"""What networks share that read tokens from left to right: masks, positions, generation with a key/value cache."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import nn


def attention(mask: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """(mask, positions) for a language model of transformers, from bool [b, L], where tokens are real.

    Padding on the right is behind all that is real and a causal model never looks there: no mask, which is faster.
    """
    mask = mask.bool()
    if mask.is_meta:
        length = mask.shape[1]
        whole = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
        return whole.expand(mask.shape[0], 1, length, length), None
    if bool(mask[:, 0].all()) and not bool((mask[:, 1:] & ~mask[:, :-1]).any()):
        return None, None
    return mask, positions(mask)


def positions(mask: torch.Tensor) -> torch.Tensor:
    """int64 [b, L]: how many real tokens are before each, so that padding moves nothing."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def until(row: Sequence[int], ends: Collection[int], keep_end: bool = False) -> list[int]:
    """What stands before the first of `ends`; keep_end: with that one."""
    return list(row[: next((index for index, token in enumerate(row) if token in ends), len(row)) + keep_end])


def past_of(model: nn.Module) -> str:
    """What a network of transformers calls its key/value cache: transformers 5 renamed past_key_values to cache."""
    names = inspect.signature(inspect.unwrap(type(model).forward)).parameters
    return "cache" if "cache" in names else "past_key_values"


def left_padded_only(mask: torch.Tensor) -> torch.Tensor:
    """The mask as bool. Raises ValueError for a prompt padded on the right or an empty one."""
    mask = mask.bool()
    if not bool(mask[:, -1].all()):
        raise ValueError("prompts must be padded on the left: the last token of some prompts is padding")
    return mask


Step = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Any], tuple[torch.Tensor, Any]]
"""See `continued`."""


def mixed(first: Step, second: Step, share: float) -> Step:
    """A step of two networks: its logits are the logarithm of the mixture of their probabilities, of which the second has this share."""

    def step(ids: torch.Tensor, mask: torch.Tensor, places: torch.Tensor, past: Any) -> tuple[torch.Tensor, Any]:
        said = [one(ids, mask, places, own) for one, own in zip((first, second), past or (None, None), strict=True)]
        logs = torch.stack([torch.log_softmax(logits.float(), -1) for logits, _ in said])
        shares = torch.tensor([1 - share, share], device=logs.device).log()
        return torch.logsumexp(logs + shares[:, None, None], 0), [own for _, own in said]

    return step


@torch.no_grad()
def continued(
    step: Step,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    max_new: int,
    ends: Collection[int],
    choose: Callable[[torch.Tensor], torch.Tensor],
    keep_end: bool = False,
) -> list[list[int]]:
    """For each prompt the next tokens, one after another, up to `max_new`, without the end token, or with it (keep_end).

    step(ids, mask, positions, cache) -> (logits [b, V] behind the last id, cache). choose(logits) -> int64 [b].
    input_ids, attention_mask: prompts padded on the left, so that all of them go on at the same column.
    """
    if max_new < 1:
        raise ValueError(f"max_new must be at least 1, got {max_new}")
    mask = left_padded_only(attention_mask)
    end = torch.tensor(sorted(ends), device=input_ids.device)
    ids, place, past, made = input_ids, positions(mask), None, []
    running = torch.ones(len(input_ids), dtype=torch.bool, device=input_ids.device)
    for number in range(max_new):
        logits, past = step(ids, mask, place, past)
        token = choose(logits)
        made.append(token)
        running &= ~torch.isin(token, end)
        if number + 1 == max_new or not bool(running.any()):
            break
        ids, place = token[:, None], place[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
    return [until(row, ends, keep_end) for row in torch.stack(made, 1).tolist()]


def chooser(
    temperature: float = 0.0, generator: torch.Generator | None = None
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The likeliest token at temperature 0; else one drawn from softmax(logits / temperature)."""
    if temperature == 0:
        return lambda logits: logits.argmax(-1)

    def draw(logits: torch.Tensor) -> torch.Tensor:
        sums = torch.softmax(logits.float() / temperature, -1).cumsum(-1)
        # One number for a row; torch.multinomial takes one for each token, a fifth of the time of an on-policy step of a small network.
        place = torch.rand(len(sums), 1, generator=generator, device=sums.device) * sums[:, -1:]
        return torch.searchsorted(sums, place, right=True).clamp_(max=sums.shape[-1] - 1)[:, 0]

    return draw
