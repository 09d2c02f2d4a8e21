"""Beam search over a sequence-to-sequence network, many sentences at a time; greedy search is a beam of one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from torch import nn

from kdrun.networks.modes import evaluating
from kdrun.problems import UserError

STOPS = ("beam", "proven", "first")


class Decodable(Protocol):
    """What beam search asks of a network.

    A network that can produce only so many tokens says so in an attribute `max_length` (None or absent: no limit).
    """

    def encode(self, source: torch.Tensor, source_mask: torch.Tensor) -> Any:
        """A memory with one row per source."""
        ...

    def decode_step(self, last_tokens: torch.Tensor, memory: Any, cache: Any) -> tuple[torch.Tensor, Any]:
        """Logits [n, V] after last_tokens [n], and the next cache; n is a multiple of the memory's rows, and the
        rows of one source lie side by side. The cache is None at first."""
        ...

    def reorder(self, state: Any, index: torch.Tensor) -> Any:
        """The rows `index` of a memory or of a cache; an index may occur several times or not at all."""
        ...


@dataclass(frozen=True)
class BeamSearch:
    """How to search. The defaults are those by which the EKD paper chooses checkpoints, and fairseq's for the rest.

    beam: hypotheses kept per sentence; 1 is greedy search.
    length_penalty: a finished hypothesis scores log-probability / tokens ** length_penalty, end token included.
    max_factor, max_extra: at most int(max_factor * x + max_extra) tokens before the end, x = real source tokens.
    min_length: at least so many tokens before the end.
    stop: when a sentence is done. "beam": as soon as `beam` hypotheses have finished (as in fairseq). "first": as
        soon as one has. "proven": only when no live hypothesis can still win. With the others as well a sentence is
        done when that is proven, since nothing can change any more.
    n_best: hypotheses returned per sentence, at most.
    """

    beam: int = 5
    length_penalty: float = 1.0
    max_factor: float = 1.2
    max_extra: int = 10
    min_length: int = 1
    stop: str = "beam"
    n_best: int = 1

    def __post_init__(self) -> None:
        wrong = [
            (self.beam < 1, f"beam={self.beam}: must be at least 1"),
            (not 1 <= self.n_best <= self.beam, f"n_best={self.n_best}: must be between 1 and beam={self.beam}"),
            (self.max_factor < 0, f"max_factor={self.max_factor}: must not be negative"),
            (not 0 <= self.min_length <= self.max_extra, f"min_length={self.min_length}: from 0 to {self.max_extra}"),
            (self.stop not in STOPS, f"stop={self.stop}: one of {', '.join(STOPS)}"),
        ]
        if lines := [line for bad, line in wrong if bad]:
            raise UserError(*lines)

    def longest(self, source_tokens: torch.Tensor) -> torch.Tensor:
        """Largest number of tokens before the end, int64 of the shape of source_tokens."""
        return (source_tokens.double() * self.max_factor + self.max_extra).long()


@dataclass(frozen=True)
class Hypothesis:
    """One output: its tokens without start and end, and its score under the length penalty.

    A score of -inf marks a sentence for which the network gave no finite probability to any output.
    """

    tokens: list[int]
    score: float


def decode(
    network: nn.Module,
    sources: Sequence[Sequence[int]],
    *,
    bos: int,
    eos: int,
    pad: int,
    search: BeamSearch | None = None,
    max_tokens: int = 2048,
    max_sentences: int = 256,
) -> list[list[Hypothesis]]:
    """The best hypotheses of each source, best first, in the order given.

    sources: token ids as the network was trained on them (with the end token, if it was).
    max_tokens, max_sentences: limits of one batch; tokens are those of the source with its padding (rows x longest).
        Sentences of like length are put together. Memory goes with max_sentences * beam * vocabulary.

    What a sentence becomes does not depend on the others, but for the rounding of matrix products. The network is put
    in eval mode for the time of the call and runs on the device of its parameters.
    """
    search = search or BeamSearch()
    found: list[list[Hypothesis]] = [[] for _ in sources]
    device = next(network.parameters()).device
    with evaluating(network), torch.inference_mode():
        for rows in batches([len(source) for source in sources], max_tokens, max_sentences):
            width = max(1, *(len(sources[row]) for row in rows))
            source = torch.full((len(rows), width), pad)
            mask = torch.zeros(len(rows), width, dtype=torch.bool)
            for number, row in enumerate(rows):
                source[number, : len(sources[row])] = torch.tensor(sources[row], dtype=torch.int64)
                mask[number, : len(sources[row])] = True
            never = {pad, bos} - {eos}
            best = beam_search(
                cast(Decodable, network),
                source.to(device),
                mask.to(device),
                bos=bos,
                eos=eos,
                never=never,
                search=search,
            )
            for row, hypotheses in zip(rows, best, strict=True):
                found[row] = hypotheses
    return found


def batches(lengths: Sequence[int], max_tokens: int, max_sentences: int = 256) -> list[list[int]]:
    """Indices in batches within both limits (see decode), longest first; a longer sentence is a batch of its own."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    found: list[list[int]] = []
    for index in order:
        # Longest first: the first of a batch says how wide it is.
        rows = len(found[-1]) + 1 if found else math.inf
        if rows > max_sentences or rows * max(1, lengths[found[-1][0]]) > max_tokens:
            found.append([])
        found[-1].append(index)
    return found


@dataclass
class _Sentence:
    row: int  # in the answer
    finished: list[Hypothesis] = field(default_factory=list)


@torch.inference_mode()
def beam_search(
    network: Decodable,
    source: torch.Tensor,
    source_mask: torch.Tensor,
    *,
    bos: int,
    eos: int,
    never: Sequence[int] | set[int] = (),
    search: BeamSearch | None = None,
) -> list[list[Hypothesis]]:
    """The best hypotheses of each row of source int64 [b, S] with source_mask bool [b, S], best first.

    never: tokens that are not to be produced (padding, start). Modes are the caller's business.

    At every step the 2 * beam best continuations of a sentence are looked at: those among the first `beam` that end
    finish, and the first `beam` that do not end live on. Sentences that are done leave the batch.
    """
    search = search or BeamSearch()
    beam, penalty = search.beam, search.length_penalty
    excluded = torch.tensor(sorted(never), dtype=torch.int64, device=source.device)
    sentences = [_Sentence(row) for row in range(source.shape[0])]
    answers: list[list[Hypothesis]] = [[] for _ in sentences]
    # All bookkeeping is on the CPU: one small copy from and to the device per step, and no other waiting for it.
    longest = search.longest(source_mask.sum(1).cpu())
    if limit := getattr(network, "max_length", None):
        longest = longest.clamp(max=limit - 1)  # the start token takes a place as well
    scores = torch.zeros(len(sentences), 1)  # log-probability of each live hypothesis; one at first: the empty one
    history = torch.zeros(len(sentences), 1, 0, dtype=torch.int64)
    last = torch.full((len(sentences),), bos, device=source.device)
    memory, cache = network.encode(source, source_mask), None
    step = 0
    while sentences:
        logits, cache = network.decode_step(last, memory, cache)
        forced = longest <= step
        values, tokens = _continuations(
            logits, scores.shape, eos, excluded, 2 * beam, step < search.min_length, forced if forced.any() else None
        )
        values = values + scores[:, :, None]
        values, order = values.flatten(1).topk(min(2 * beam, values[0].numel()))
        parents = order // tokens.shape[2]
        tokens = tokens.flatten(1).gather(1, order)

        ending = (tokens == eos) & (values > -math.inf)
        normalised = values.double() / (step + 1) ** penalty
        for number, place in ending[:, :beam].nonzero().tolist():
            finished = sentences[number].finished
            if len(finished) < beam or search.stop == "proven":
                found = history[number, parents[number, place]].tolist()
                finished.append(Hypothesis(found, normalised[number, place].item()))

        # The first `beam` that do not end, in their order: a stable sort moves the others behind.
        kept = ending.to(torch.int8).sort(dim=1, stable=True).indices[:, :beam]
        alive = torch.where(ending, -math.inf, values).gather(1, kept)
        scores, parents, tokens = alive, parents.gather(1, kept), tokens.gather(1, kept)
        done = _done(sentences, search, scores[:, 0].double(), step + 1, longest, forced)
        for number in done.nonzero().flatten().tolist():
            sentence = sentences[number]
            # Of equal scores the one that finished first.
            best = sorted(sentence.finished, key=lambda hypothesis: -hypothesis.score)[: search.n_best]
            answers[sentence.row] = best or [Hypothesis([], -math.inf)]

        old_beam, step = history.shape[1], step + 1
        history = torch.cat([history.take_along_dim(parents[:, :, None], 1), tokens[:, :, None]], dim=2)
        rows = torch.arange(len(sentences))
        if done.any():
            rows = (~done).nonzero().flatten()
            sentences = [sentences[row] for row in rows.tolist()]
            scores, history, longest = scores[rows], history[rows], longest[rows]
            parents, tokens = parents[rows], tokens[rows]
            memory = network.reorder(memory, rows.to(source.device))
        if not sentences:
            break
        last = tokens.flatten().to(source.device)
        index = (rows[:, None] * old_beam + parents).flatten()
        if not torch.equal(index, torch.arange(logits.shape[0])):
            cache = network.reorder(cache, index.to(source.device))
    return answers


def _continuations(
    logits: torch.Tensor,
    shape: Sequence[int],
    eos: int,
    never: torch.Tensor,
    most: int,
    no_end: bool,
    forced: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and tokens [*shape, k] of the k <= most best continuations of each hypothesis, on the CPU.

    Whatever is not a number counts as -inf. forced: bool [sentences], True where only the end may follow.
    """
    logs = logits.float().log_softmax(-1)  # over all tokens: what is not allowed keeps its share
    end = logs[:, eos, None].clone()
    logs.index_fill_(1, never, -math.inf)
    if no_end:
        logs[:, eos] = -math.inf
    values, tokens = largest(logs, min(most, logs.shape[1]))
    values = torch.cat([values, end], dim=1).nan_to_num(nan=-math.inf, neginf=-math.inf)
    values, tokens = values.cpu().view(*shape, -1), tokens.cpu().view(*shape, -1)
    values, end = values[:, :, :-1], values[:, :, -1]
    if forced is not None:
        values = values.masked_fill(forced[:, None, None], -math.inf)
        values[:, :, 0] = torch.where(forced[:, None], end, values[:, :, 0])
        tokens[:, :, 0] = torch.where(forced[:, None], eos, tokens[:, :, 0])
    return values, tokens


def largest(values: torch.Tensor, most: int, group: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """values.topk(most) of [n, V] over V; on a CPU three times as fast where V is in the thousands.

    The `most` largest lie in the `most` groups whose maxima are largest, and a maximum is cheaper than a sort.
    """
    groups = values.shape[1] // group
    if values.device.type != "cpu" or groups < 2 * most:
        return values.topk(most, dim=1)
    even = groups * group
    grouped = values[:, :even].unflatten(1, (groups, group))
    chosen = grouped.amax(2).topk(most, dim=1).indices
    index = (chosen[:, :, None] * group + torch.arange(group)).flatten(1)
    index = torch.cat([index, torch.arange(even, values.shape[1]).expand(len(values), -1)], dim=1)
    found, place = values.gather(1, index).topk(most, dim=1)
    return found, index.gather(1, place)


def _done(
    sentences: list[_Sentence],
    search: BeamSearch,
    best_alive: torch.Tensor,
    length: int,
    longest: torch.Tensor,
    forced: torch.Tensor,
) -> torch.Tensor:
    """bool [sentences]: nothing is left to wait for. best_alive: log-probability of the best live hypothesis [b]."""
    # Log-probabilities only fall. What is alive ends after length + 1 to longest + 1 tokens, and its score is largest
    # at one of these two.
    soonest, latest = (
        best_alive / (tokens.double() ** search.length_penalty) for tokens in (torch.tensor(length + 1), longest + 1)
    )
    attainable = torch.maximum(soonest, latest).tolist()
    enough = {"beam": search.beam, "first": 1, "proven": math.inf}[search.stop]
    found = []
    for sentence, bound in zip(sentences, attainable, strict=True):
        finished = sorted((hypothesis.score for hypothesis in sentence.finished), reverse=True)
        proven = len(finished) >= search.n_best and finished[search.n_best - 1] >= bound
        found.append(len(finished) >= enough or proven or bound == -math.inf)
    return torch.tensor(found) | forced
