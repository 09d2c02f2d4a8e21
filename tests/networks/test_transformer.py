"""The Transformer against an implementation in loops, and what padding, caches and ties must never change."""

import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kdrun.domains.translation.networks.transformer import Transformer, sinusoids
from kdrun.ledger.flops import on_meta, parameters

VOCABULARY, PAD = 23, 0
KINDS = [("post", "decoder"), ("pre", "decoder"), ("post", "all"), ("post", "none")]


def made(norm: str = "post", share: str = "decoder", dropout: float = 0.0, **options) -> Transformer:
    torch.manual_seed(0)
    sizes = {"width": 12, "encoder_layers": 2, "decoder_layers": 2, "heads": 3, "feedforward": 20, **options}
    network = Transformer(VOCABULARY, PAD, dropout=dropout, norm=norm, share=share, **sizes)
    for name, parameter in network.named_parameters():
        if "norm" in name or "bias" in name:  # so that none of them is at 0 or 1
            nn.init.normal_(parameter, mean=0.5, std=0.5)
    return network


def batch(seed: int = 0):
    """Five sources of 1 to 6 tokens padded to 6, with pads of random ids, and five targets of 5."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(VOCABULARY, (5, 6), generator=generator)
    mask = torch.arange(6) < torch.tensor([6, 1, 4, 5, 2])[:, None]
    return source, mask, torch.randint(VOCABULARY, (5, 5), generator=generator)


# The reference: one sentence, one position, one head at a time, in Python floats where it can be.


def reference(network: Transformer, source: list[int], target: list[int], norm: str) -> torch.Tensor:
    """Logits [T, V] in float64 from the network's weights."""
    weights = {name: value.double() for name, value in network.state_dict().items()}

    def linear(name, x):
        return weights[f"{name}.weight"] @ x + weights.get(f"{name}.bias", 0.0)

    def normalise(name, x):
        centred = x - x.mean()
        return centred / torch.sqrt((centred**2).mean() + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def embed(name, token, position):
        width, half = network.width, network.width // 2
        x = weights[f"{name}.weight"][token] * math.sqrt(width)
        wave = [position / 10000 ** (i / (half - 1)) for i in range(half)]
        return x + torch.tensor([math.sin(w) for w in wave] + [math.cos(w) for w in wave], dtype=torch.float64)

    def attend(query, keys, values):
        heads = network.encoder[0].attention.heads
        size, found = len(query) // heads, []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            scores = [math.exp(float(query[part] @ key[part]) / math.sqrt(size)) for key in keys]
            found.append(sum(s / sum(scores) * value[part] for s, value in zip(scores, values, strict=True)))
        return torch.cat(found)

    def residual(name, x, sublayer):
        """x: list of vectors; sublayer: list -> list."""
        if norm == "pre":
            return [a + b for a, b in zip(x, sublayer([normalise(name, a) for a in x]), strict=True)]
        return [normalise(name, a + b) for a, b in zip(x, sublayer(x), strict=True)]

    def self_attention(name, causal):
        def sublayer(x):
            queries, keys, values = zip(*(linear(f"{name}.queries_keys_values", a).chunk(3) for a in x), strict=True)
            ends = [i + 1 if causal else len(x) for i in range(len(x))]
            return [
                linear(f"{name}.output", attend(q, keys[:e], values[:e])) for q, e in zip(queries, ends, strict=True)
            ]

        return sublayer

    def cross_attention(name, encoded):
        keys, values = zip(*(linear(f"{name}.memory", a).chunk(2) for a in encoded), strict=True)
        return lambda x: [linear(f"{name}.output", attend(linear(f"{name}.queries", a), keys, values)) for a in x]

    def feedforward(name):
        return lambda x: [linear(f"{name}.3", linear(f"{name}.0", a).clamp(min=0)) for a in x]

    x = [embed("source_embedding", token, position) for position, token in enumerate(source)]
    for number in range(len(network.encoder)):
        name = f"encoder.{number}"
        x = residual(f"{name}.attention_residual.norm", x, self_attention(f"{name}.attention", causal=False))
        x = residual(f"{name}.feedforward_residual.norm", x, feedforward(f"{name}.feedforward"))
    encoded = [normalise("encoder_norm", a) for a in x] if norm == "pre" else x
    x = [embed("target_embedding", token, position) for position, token in enumerate(target)]
    for number in range(len(network.decoder)):
        name = f"decoder.{number}"
        x = residual(f"{name}.attention_residual.norm", x, self_attention(f"{name}.attention", causal=True))
        x = residual(f"{name}.cross_residual.norm", x, cross_attention(f"{name}.cross_attention", encoded))
        x = residual(f"{name}.feedforward_residual.norm", x, feedforward(f"{name}.feedforward"))
    x = [normalise("decoder_norm", a) for a in x] if norm == "pre" else x
    return torch.stack([linear("output", a) for a in x])


@pytest.mark.parametrize(("norm", "share"), KINDS)
def test_equals_the_reference(norm, share):
    network = made(norm, share).double().eval()
    source, mask, target = batch()
    logits = network(source=source, source_mask=mask, target=target)
    for row in range(len(source)):
        expected = reference(network, source[row][mask[row]].tolist(), target[row].tolist(), norm)
        torch.testing.assert_close(logits[row], expected, rtol=1e-6, atol=1e-6)  # the sinusoids are float32


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_the_future_changes_nothing_before_it(norm):
    network = made(norm)
    source, mask, target = batch()
    before = network(source, mask, target)
    changed = target.clone()
    changed[:, 3:] = (changed[:, 3:] + 1) % VOCABULARY
    after = network(source, mask, changed)
    torch.testing.assert_close(after[:, :3], before[:, :3], rtol=0, atol=1e-6)
    assert (after[:, 3:] - before[:, 3:]).abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("training", [True, False])
def test_a_row_is_the_same_alone_and_in_a_padded_batch(norm, training):
    network = made(norm).train(training)
    source, mask, target = batch()
    together = network(source, mask, target)
    for row in range(len(source)):
        real = source[row][mask[row]][None]
        alone = network(real, torch.ones_like(real, dtype=torch.bool), target[row : row + 1, :4])
        torch.testing.assert_close(alone[0], together[row, :4], rtol=0, atol=1e-5)


def test_what_stands_in_padding_and_on_which_side_changes_nothing():
    network = made()
    source, mask, target = batch()
    expected = network(source, mask, target)
    other = torch.where(mask, source, (source + 5) % VOCABULARY)
    torch.testing.assert_close(network(other, mask, target), expected, rtol=0, atol=1e-6)
    shift = [(6 - int(row.sum())) for row in mask]
    left = torch.stack([row.roll(by) for row, by in zip(source, shift, strict=True)])
    left_mask = torch.stack([row.roll(by) for row, by in zip(mask, shift, strict=True)])
    torch.testing.assert_close(network(left, left_mask, target), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_a_source_of_padding_only_is_finite_and_its_length_does_not_matter(norm):
    network = made(norm)
    source, mask, target = batch()
    mask[1] = False
    logits = network(source, mask, target)
    logits.sum().backward()
    assert logits.isfinite().all() and all(p.grad.isfinite().all() for p in network.parameters())
    short = network(source[1:2, :2], mask[1:2, :2], target[1:2])
    torch.testing.assert_close(short[0], logits[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_steps_with_a_cache_equal_teacher_forcing(norm):
    network = made(norm).eval()
    source, mask, target = batch()
    logits = network(source, mask, target)
    memory, cache = network.encode(source, mask), None
    for position in range(target.shape[1]):
        step, cache = network.decode_step(target[:, position], memory, cache)
        torch.testing.assert_close(step, logits[:, position], rtol=0, atol=1e-5)


def test_hypotheses_of_a_beam_move_with_their_cache_and_leave_with_their_source():
    network = made().eval()
    source, mask, target = batch()
    hypotheses = torch.stack([target, target.roll(1, 0), target.roll(2, 0)], 1)  # [5, 3, 5]
    memory = network.encode(source, mask)
    _, cache = network.decode_step(hypotheses[:, :, 0].flatten(), memory)
    _, cache = network.decode_step(hypotheses[:, :, 1].flatten(), memory, cache)
    sources, chosen = torch.tensor([3, 0]), torch.tensor([[2, 2], [0, 1]])  # two sources, two hypotheses of each
    memory = network.reorder(memory, sources)
    cache = network.reorder(cache, (sources[:, None] * 3 + chosen).flatten())
    kept = hypotheses[sources[:, None], chosen]
    step, _ = network.decode_step(kept[:, :, 2].flatten(), memory, cache)
    for row, index in enumerate(sources.tolist()):
        for place in range(2):
            expected = network(source[index][None], mask[index][None], kept[row, place][None])[0, 2]
            torch.testing.assert_close(step[row * 2 + place], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("norm", "share"), KINDS)
def test_gradients_reach_every_parameter(norm, share):
    network = made(norm, share, dropout=0.1, attention_dropout=0.1, activation_dropout=0.1).train()
    source, mask, target = batch()
    network(source, mask, target).logsumexp(-1).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize(("share", "tables"), [("all", 1), ("decoder", 2), ("none", 3)])
def test_tied_weights_are_one_parameter(share, tables):
    network = made(share=share)
    shaped = [parameter for parameter in network.parameters() if tuple(parameter.shape) == (VOCABULARY, 12)]
    assert len(shaped) == tables
    assert (network.output.weight is network.target_embedding.weight) == (share != "none")
    assert (network.source_embedding.weight is network.target_embedding.weight) == (share == "all")
    assert sum(p.numel() for p in on_meta(network).parameters()) == parameters(network)


@pytest.mark.parametrize(("width", "count", "published"), [(128, 6337536, 6), (256, 15022080, 15), (512, 39469056, 39)])
def test_sizes_of_the_paper(width, count, published):
    """Only separate dictionaries with a tied decoder give all three published figures, which are whole millions.

    A joint vocabulary of 10,000 pieces would give 5.6, 13.6 and 36.7 (share=all) or 6.9, 16.2 and 41.8 (decoder).
    """
    with torch.device("meta"):
        network = Transformer(6632, pad=1, width=width, source_vocabulary=8848)
        untied = Transformer(6632, pad=1, width=width, source_vocabulary=8848, share="none")
    assert parameters(network) == count
    assert round(count / 1e6) == published and (published == 6 or abs(count / 1e6 / published - 1) < 0.03)
    assert round(parameters(untied) / 1e6) != published


def test_operations_are_counted_without_memory():
    width, wide, layers, rows, length, target_length = 16, 24, 2, 3, 7, 5
    network = made(width=width, feedforward=wide, heads=2, share="all")
    with torch.device("meta"):
        source, target = (
            torch.empty(rows, length, dtype=torch.int64),
            torch.empty(rows, target_length, dtype=torch.int64),
        )
        mask = torch.empty(rows, length, dtype=torch.bool)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        on_meta(network).eval()(source=source, source_mask=mask, target=target)
    projections = 2 * width * width
    encoder = length * (4 * projections + 4 * width * wide) + 4 * length * length * width
    decoder = target_length * (6 * projections + 4 * width * wide) + length * 2 * projections
    decoder += 4 * target_length * target_length * width + 4 * target_length * length * width
    expected = rows * (layers * (encoder + decoder) + target_length * 2 * width * VOCABULARY)
    assert counter.get_total_flops() == expected


def test_bfloat16_is_close_and_does_not_round_positions():
    network = made(share="all").eval()
    source, mask, target = batch()
    expected = network(source, mask, target)
    logits = network.to(torch.bfloat16)(source, mask, target)
    assert logits.dtype == torch.bfloat16 and (logits.float() - expected).abs().mean() < 0.05 * expected.std()
    assert not torch.equal(*sinusoids(torch.tensor([300, 301]), 12, 0))


def test_the_embedding_of_a_pad_that_is_also_a_token_learns():
    network = made()
    assert not network.source_embedding.weight[PAD].any()
    source, mask, target = torch.full((1, 3), PAD), torch.ones(1, 3, dtype=torch.bool), torch.full((1, 2), PAD)
    network(source, mask, target).logsumexp(-1).sum().backward()
    assert network.source_embedding.weight.grad[PAD].any()


def test_the_initial_weights_are_spread_as_in_fairseq():
    torch.manual_seed(0)
    width = 256
    network = Transformer(2000, PAD, width=width, encoder_layers=1, decoder_layers=1)
    assert network.target_embedding.weight[1:].std().item() == pytest.approx(width**-0.5, rel=0.01)
    bound = math.sqrt(6 / (2 * width))
    for weight, scale in (
        (network.encoder[0].attention.queries_keys_values.weight, 2**-0.5),
        (network.decoder[0].cross_attention.memory.weight, 2**-0.5),
        (network.decoder[0].cross_attention.output.weight, 1.0),
    ):
        assert weight.abs().max().item() == pytest.approx(bound * scale, rel=0.01)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"width": 10}, "multiple of heads=3"),
        ({"width": 15}, "even"),
        ({"norm": "middle"}, "'middle'"),
        ({"share": "most"}, "'most'"),
        ({"share": "all", "source_vocabulary": 11}, "joint vocabulary"),
    ],
)
def test_what_cannot_be_built_is_said(options, said):
    with pytest.raises(ValueError, match=said):
        made(**options)
