"""Beam search against every possible output, against a slow search in plain Python, and at its edges."""

import math
from itertools import product

import pytest
import torch
from torch import nn

from kdrun.decoding.beam import BeamSearch, Hypothesis, batches, beam_search, decode, largest
from kdrun.domains.translation.networks.transformer import Transformer
from kdrun.problems import UserError

PAD, BOS, EOS = 0, 1, 2
SPECIAL = {"bos": BOS, "eos": EOS, "pad": PAD}


class Oracle(nn.Module):
    """Random logits for every (source, prefix), the same in every batch; more_end is added to that of the end."""

    def __init__(self, vocabulary: int = 7, more_end: float = 0.0, spread: float = 2.0, seed: int = 0) -> None:
        super().__init__()
        self.vocabulary, self.more_end, self.spread, self.seed = vocabulary, more_end, spread, seed
        self.where = nn.Parameter(torch.zeros(1))
        self.known: dict = {}
        self.rows: list[int] = []

    def logits(self, source: tuple[int, ...], prefix: tuple[int, ...]) -> torch.Tensor:
        key = (source, prefix)
        if key not in self.known:
            generator = torch.Generator().manual_seed(hash((self.seed, key)) % 2**31)
            self.known[key] = torch.randn(self.vocabulary, generator=generator) * self.spread
            self.known[key][EOS] += self.more_end
        return self.known[key]

    def encode(self, source, source_mask):
        return [tuple(row[real].tolist()) for row, real in zip(source, source_mask, strict=True)]

    def decode_step(self, last_tokens, memory, cache):
        self.rows.append(len(last_tokens))
        before = cache or [()] * len(last_tokens)
        prefixes = [(*prefix, token) for prefix, token in zip(before, last_tokens.tolist(), strict=True)]
        each = len(prefixes) // len(memory)
        found = [self.logits(memory[row // each], prefix[1:]) for row, prefix in enumerate(prefixes)]
        return torch.stack(found), prefixes

    def reorder(self, state, index):
        return [state[row] for row in index.tolist()]


class Fixed(Oracle):
    """The same logits at every step."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__(len(logits))
        self.fixed = torch.tensor(logits)

    def logits(self, source, prefix):
        return self.fixed


def slow(network: Oracle, source: list[int], search: BeamSearch) -> list[Hypothesis]:
    """The same search of one sentence in plain Python, without any way to end earlier than search.stop says."""
    longest = int(len(source) * search.max_factor + search.max_extra)
    live, finished = [((), 0.0)], []
    for step in range(longest + 1):
        candidates = []
        for prefix, score in live:
            logits = network.logits(tuple(source), prefix).tolist()
            total = math.log(sum(map(math.exp, logits)))
            for token, logit in enumerate(logits):
                if token == EOS:
                    allowed = step >= search.min_length or step == longest
                else:
                    allowed = step < longest and token not in (PAD, BOS)
                if allowed:
                    candidates.append((score + logit - total, prefix, token))
        candidates = sorted(candidates, reverse=True)[: 2 * search.beam]
        for score, prefix, token in candidates[: search.beam]:
            if token == EOS and (len(finished) < search.beam or search.stop == "proven"):
                finished.append(Hypothesis(list(prefix), score / (step + 1) ** search.length_penalty))
        live = [((*prefix, token), score) for score, prefix, token in candidates if token != EOS][: search.beam]
        if (search.stop == "beam" and len(finished) >= search.beam) or (search.stop == "first" and finished):
            break
    return sorted(finished, key=lambda hypothesis: -hypothesis.score)[: search.n_best]


def same(found: list[Hypothesis], expected: list[Hypothesis]) -> bool:
    assert [hypothesis.tokens for hypothesis in found] == [hypothesis.tokens for hypothesis in expected]
    assert [h.score for h in found] == pytest.approx([h.score for h in expected], abs=1e-4)
    return True


SOURCES = [[5, 3, 2], [4, 2], [6, 6, 3, 5, 2], [2], [3, 4, 5, 6, 3, 4, 2], [5, 5, 2]]


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0, 2.0])
def test_a_wide_beam_finds_the_best_of_all_outputs(penalty):
    network = Oracle(vocabulary=6)
    longest = 3
    search = BeamSearch(40, penalty, max_factor=0, max_extra=longest, min_length=0, stop="proven", n_best=5)
    for source, found in zip(SOURCES, decode(network, SOURCES, search=search, **SPECIAL), strict=True):
        everything = []
        for tokens in (t for length in range(longest + 1) for t in product([3, 4, 5], repeat=length)):
            steps = [(tokens[:i], token) for i, token in enumerate((*tokens, EOS))]
            total = sum(network.logits(tuple(source), p).log_softmax(0)[token].item() for p, token in steps)
            everything.append(Hypothesis(list(tokens), total / len(steps) ** penalty))
        assert same(found, sorted(everything, key=lambda hypothesis: -hypothesis.score)[:5])


@pytest.mark.parametrize("stop", ["beam", "proven", "first"])
@pytest.mark.parametrize("penalty", [-1.0, 0.0, 1.0, 2.0])
@pytest.mark.parametrize(("beam", "n_best"), [(1, 1), (2, 2), (4, 1), (5, 3)])
def test_equals_a_slow_search(stop, penalty, beam, n_best):
    for seed, more_end in enumerate((-3.0, -1.0, 0.0, 0.0, 1.0, 2.0, 3.0)):
        network = Oracle(9, more_end, spread=1.0 + seed % 2, seed=seed)
        search = BeamSearch(beam, penalty, 1.2, 4, min_length=seed % 3, stop=stop, n_best=n_best)
        found = decode(network, SOURCES, search=search, **SPECIAL)
        assert all(same(*pair) for pair in zip(found, [slow(network, s, search) for s in SOURCES], strict=True))


def test_a_live_hypothesis_that_can_only_just_win_is_waited_for():
    class Scripted(Oracle):
        def logits(self, source, prefix):
            first = [0.3, 0.0, 0.18, 0.5, 0.02]  # an end now, or a token after which the end is certain
            return torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0] if prefix else first).log()

    # With this penalty a score is log-probability * tokens: log(0.18) < 2 * log(0.5), but not < 3 * log(0.5).
    [[best]] = decode(Scripted(5), [[3]], search=BeamSearch(2, -1.0, min_length=0), **SPECIAL)
    assert best.tokens == [3] and best.score == pytest.approx(2 * math.log(0.5))


def test_the_company_and_the_order_of_sentences_change_nothing():
    network = Oracle(30)
    search = BeamSearch(beam=4, n_best=2)
    together = decode(network, SOURCES, search=search, **SPECIAL)
    assert decode(network, SOURCES, search=search, **SPECIAL) == together
    assert decode(network, SOURCES[::-1], search=search, **SPECIAL) == together[::-1]
    assert [decode(network, [source], search=search, **SPECIAL)[0] for source in SOURCES] == together
    assert decode(network, SOURCES, search=search, max_tokens=6, max_sentences=2, **SPECIAL) == together


def test_a_transformer_finds_the_same_in_any_batch():
    torch.manual_seed(0)
    network = Transformer(500, PAD, 16, 2, 2, 2, 32, share="none")
    generator = torch.Generator().manual_seed(0)
    sources = [torch.randint(3, 500, (n,), generator=generator).tolist() for n in (3, 9, 1, 6, 12, 5, 2)]
    together = decode(network, sources, **SPECIAL)
    assert network.training and all(module.training for module in network.modules())
    for source, found in zip(sources, together, strict=True):
        [alone] = decode(network, [source], **SPECIAL)
        assert same(found, alone)
        # The score is that of teacher forcing.
        target = torch.tensor([[BOS, *found[0].tokens]])
        source_mask = torch.ones(1, len(source), dtype=torch.bool)
        logs = network.eval()(torch.tensor([source]), source_mask, target).log_softmax(-1)[0]
        total = logs.gather(1, torch.tensor([*found[0].tokens, EOS])[:, None]).mean().item()
        assert found[0].score == pytest.approx(total, abs=1e-4)
        network.train()


def test_a_beam_of_one_is_greedy():
    network = Oracle(20)
    search = BeamSearch(beam=1, min_length=0)
    for source, [best] in zip(SOURCES, decode(network, SOURCES, search=search, **SPECIAL), strict=True):
        tokens, longest = [], int(1.2 * len(source) + 10)
        while len(tokens) < longest:
            logits = network.logits(tuple(source), tuple(tokens)).clone()
            logits[[PAD, BOS]] = -math.inf
            if (token := int(logits.argmax())) == EOS:
                break
            tokens.append(token)
        assert best.tokens == tokens


def test_the_end_at_once_is_an_empty_output_unless_more_is_asked_for():
    network = Fixed([0.0, 0.0, 5.0, 1.0, 0.0])
    [[best]] = decode(network, [[3, 2]], search=BeamSearch(min_length=0), **SPECIAL)
    assert best.tokens == [] and best.score == pytest.approx(network.fixed.log_softmax(0)[EOS].item())
    assert decode(network, [[3, 2]], search=BeamSearch(min_length=3), **SPECIAL)[0][0].tokens == [3, 3, 3]


def test_what_never_ends_is_ended_at_the_largest_length_of_its_source():
    network = Fixed([0.0, 0.0, -50.0, 1.0, 0.0])
    found = decode(network, [[3] * 10, [3]], search=BeamSearch(beam=2), **SPECIAL)
    assert [len(best.tokens) for [best] in found] == [22, 11]
    network.max_length = 16  # positions the network has; the start token takes one
    assert [len(h[0].tokens) for h in decode(network, [[3] * 10, [3]], **SPECIAL)] == [15, 11]


def test_sentences_that_are_done_leave_the_batch():
    network = Oracle(9, more_end=3.0)
    found = decode(network, SOURCES, search=BeamSearch(beam=2, stop="first"), **SPECIAL)
    assert network.rows[0] == len(SOURCES) and network.rows[1] == 2 * len(SOURCES)
    assert network.rows[1:] == sorted(network.rows[1:], reverse=True) and network.rows[-1] < 2 * len(SOURCES)
    assert len(network.rows) == max(len(best.tokens) for [best] in found) + 1


@pytest.mark.parametrize("bad", [-math.inf, math.nan, math.inf])
def test_logits_that_are_no_numbers_end_a_sentence_without_an_output(bad):
    class Broken(Oracle):
        def logits(self, source, prefix):
            found = super().logits(source, prefix)
            return torch.full_like(found, bad) if source[0] == 4 else found

    broken, whole = Broken(9), Oracle(9)
    found = decode(broken, SOURCES, **SPECIAL)
    assert found[1] == [Hypothesis([], -math.inf)]
    expected = decode(whole, SOURCES, **SPECIAL)
    assert found[:1] + found[2:] == expected[:1] + expected[2:]


def test_a_beam_wider_than_the_vocabulary_has_no_other_hypotheses_than_there_are():
    network = Oracle(5)
    search = BeamSearch(beam=20, max_factor=0, max_extra=2, min_length=0, stop="proven", n_best=20)
    for hypotheses in decode(network, SOURCES, search=search, **SPECIAL):
        outputs = {tuple(hypothesis.tokens) for hypothesis in hypotheses}
        assert outputs == {(), (3,), (4,), (3, 3), (3, 4), (4, 3), (4, 4)} and len(hypotheses) == 7


def test_start_and_padding_are_not_produced_but_an_end_with_the_id_of_padding_is():
    likely = Fixed([9.0, 9.0, 0.0, 1.0])
    assert set(decode(likely, [[3]], **SPECIAL)[0][0].tokens) == {3}
    [[best]] = decode(Fixed([3.0, 1.0, 2.0, 1.0]), [[3]], bos=0, eos=0, pad=0, search=BeamSearch(1, min_length=0))
    assert best.tokens == [] and best.score > -1


def test_nothing_to_translate():
    assert decode(Oracle(), [], **SPECIAL) == []
    torch.manual_seed(0)
    [[best]] = decode(Transformer(50, PAD, 8, 1, 1, 2, 8), [[]], **SPECIAL)
    assert math.isfinite(best.score)


def test_beam_search_leaves_out_what_the_mask_does():
    network = Oracle(9)
    source, mask = torch.tensor([[4, 2, 7, 7], [5, 3, 6, 2]]), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]).bool()
    found = beam_search(network, source, mask, bos=BOS, eos=EOS, never={PAD, BOS})
    assert found == decode(network, [[4, 2], [5, 3, 6, 2]], **SPECIAL)


def test_batches_hold_both_limits_and_every_sentence_once():
    lengths = [*torch.randint(30, (200,), generator=torch.Generator().manual_seed(0)).tolist(), 500]
    found = batches(lengths, max_tokens=100, max_sentences=12)
    assert sorted(index for rows in found for index in rows) == list(range(201))
    assert found[0] == [200]
    assert all(len(rows) * max(lengths[row] for row in rows) <= 100 and len(rows) <= 12 for rows in found[1:])
    spread = [max(lengths[row] for row in rows) - min(lengths[row] for row in rows) for rows in found]
    assert sum(spread) <= 30
    assert batches([], 10) == []


@pytest.mark.parametrize("vocabulary", [10, 1281, 4000])
def test_the_largest_are_those_of_topk(vocabulary):
    values = torch.randn(7, vocabulary, generator=torch.Generator().manual_seed(0))
    values[2] = -math.inf
    values[3, 5:] = -math.inf
    found, index = largest(values, 10)
    assert torch.equal(found, values.topk(10).values)
    assert torch.equal(values.gather(1, index), found)
    assert all(len(set(row)) == 10 for row in index.tolist())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"beam": 0}, "beam=0"),
        ({"n_best": 6}, "n_best=6"),
        ({"max_factor": -1.0}, "max_factor"),
        ({"min_length": 11}, "min_length=11"),
        ({"stop": "never"}, "stop=never: one of beam, proven, first"),
    ],
)
def test_wrong_settings_are_said(options, said):
    with pytest.raises(UserError, match=said):
        BeamSearch(**options)
