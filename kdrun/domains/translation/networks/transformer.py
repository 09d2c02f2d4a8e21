"""The encoder-decoder Transformer of Vaswani et al. 2017 (arXiv 1706.03762), in the shape used for IWSLT-14 De-En."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

SEMANTICS = 1

KeysValues = tuple[torch.Tensor, torch.Tensor]  # each [rows, heads, length, width / heads]
Cache = list[KeysValues]  # self-attention of each decoder layer over the tokens so far


@dataclass(frozen=True)
class EncodedSources:
    """What the decoder reads of b encoded sources.

    layers: keys and values [b, heads, S, width / heads] of the cross-attention of each decoder layer.
    mask: bool [b, 1, 1, S], True where a position may be attended to.
    """

    layers: list[KeysValues]
    mask: torch.Tensor


class Transformer(nn.Module):
    """Sequence-to-sequence network with sinusoidal positions and embeddings scaled by sqrt(width).

    vocabulary: entries of the target's (or the joint) vocabulary; source_vocabulary where the source has its own.
    pad: its embedding starts at zero, no more: what is padding is said by source_mask, so pad may equal eos.
    width, encoder_layers, decoder_layers, heads, feedforward: sizes; heads divide the width, which is even.
    dropout: on embeddings and on every sublayer's output; attention_dropout: on attention weights;
        activation_dropout: between the two linear maps of the feed-forward layers.
    norm: "post" puts layer norm after each residual sum (the paper, and fairseq's transformer_iwslt_de_en), "pre"
        before each sublayer and once at the end of both stacks (steadier where there are many layers).
    share: "decoder" ties the decoder's input embedding and the output projection; "all" ties the encoder's to them
        as well and needs a joint vocabulary; "none" ties nothing.

    The defaults are the senior teacher of Evolving Knowledge Distillation (arXiv 2605.09924): 39,469,056 parameters
    at fairseq's separate IWSLT-14 dictionaries (8,848 German and 6,632 English entries). Taken from its scripts:
    sizes, dropout, share. Inferred from fairseq's architecture of that name: post-norm, ReLU, no dropout on attention
    weights and activations, the initial distributions. Positions count from 0 over real tokens, so that padding on
    either side of a source changes nothing.

    network(source int64 [b, S], source_mask bool [b, S] (True: real token), target int64 [b, T]) -> logits [b, T, V].
    A source with no real token is read as a fixed empty memory; it gives finite logits however much padding it has.
    """

    def __init__(
        self,
        vocabulary: int,
        pad: int | None = None,
        width: int = 512,
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        heads: int = 4,
        feedforward: int = 1024,
        dropout: float = 0.3,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        norm: str = "post",
        share: str = "decoder",
        source_vocabulary: int | None = None,
    ) -> None:
        super().__init__()
        if width % heads or width % 2:
            raise ValueError(f"width must be even and a multiple of heads={heads}, got {width}")
        if norm not in ("post", "pre"):
            raise ValueError(f'norm must be "post" or "pre", got {norm!r}')
        if share not in ("decoder", "all", "none"):
            raise ValueError(f'share must be "decoder", "all" or "none", got {share!r}')
        if share == "all" and source_vocabulary not in (None, vocabulary):
            raise ValueError(f"share=all needs one joint vocabulary, got {source_vocabulary} and {vocabulary} entries")
        self.width = width
        self.target_embedding = _embedding(vocabulary, width, pad)
        self.source_embedding = (
            self.target_embedding if share == "all" else _embedding(source_vocabulary or vocabulary, width, pad)
        )
        self.output = nn.Linear(width, vocabulary, bias=False)
        if share == "none":
            nn.init.normal_(self.output.weight, std=width**-0.5)
        else:
            self.output.weight = self.target_embedding.weight
        self.dropout = nn.Dropout(dropout)
        sizes = Sizes(width, heads, feedforward, dropout, attention_dropout, activation_dropout, norm == "pre")
        self.encoder = nn.ModuleList(EncoderLayer(sizes) for _ in range(encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(sizes) for _ in range(decoder_layers))
        self.encoder_norm = nn.LayerNorm(width) if norm == "pre" else nn.Identity()
        self.decoder_norm = nn.LayerNorm(width) if norm == "pre" else nn.Identity()

    def forward(self, source: torch.Tensor, source_mask: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Logits [b, T, V] for the token after each position of target [b, T], given the ones before (no cache)."""
        return self.output(self._states(source, source_mask, target))

    def hidden(
        self, source: torch.Tensor, source_mask: torch.Tensor, target: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        """(states [b, T, width], output weight [V, width], no bias), whose product are the logits of `forward`."""
        return self._states(source, source_mask, target), self.output.weight, None

    def _states(self, source: torch.Tensor, source_mask: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        memory = self.encode(source, source_mask)
        positions = torch.arange(target.shape[1], device=target.device)
        x = self._embed(self.target_embedding, target, positions)
        for layer, keys_values in zip(self.decoder, memory.layers, strict=True):
            x, _ = layer(x, keys_values, memory.mask)
        return self.decoder_norm(x)

    def encode(self, source: torch.Tensor, source_mask: torch.Tensor) -> EncodedSources:
        """Reads source [b, S]; see `Memory`."""
        some = source_mask.any(1, keepdim=True)
        # Softmax over nothing is NaN. A row without real tokens attends to its padding, and is then set to zero: all
        # its keys are equal, and so are its values, so that what the decoder reads does not depend on their number.
        mask = (source_mask | ~some)[:, None, None, :]
        positions = (source_mask.cumsum(1) - 1).clamp(min=0)
        x = self._embed(self.source_embedding, source, positions)
        for layer in self.encoder:
            x = layer(x, mask)
        x = self.encoder_norm(x) * some[:, :, None]
        return EncodedSources([layer.cross_attention.keys_values(x) for layer in self.decoder], mask)

    def decode_step(
        self, last_tokens: torch.Tensor, memory: EncodedSources, cache: Cache | None = None
    ) -> tuple[torch.Tensor, Cache]:
        """Logits [n, V] for the token after last_tokens int64 [n], and the cache that the next step needs.

        n is a multiple k of the memory's rows: the k rows of one source (the hypotheses of a beam) lie side by side.
        cache: None at the first step.
        """
        start = 0 if cache is None else cache[0][0].shape[2]
        positions = torch.full((1,), start, device=last_tokens.device)
        x = self._embed(self.target_embedding, last_tokens[:, None], positions)
        longer: Cache = []
        for number, layer in enumerate(self.decoder):
            past = None if cache is None else cache[number]
            x, own = layer(x, memory.layers[number], memory.mask, past)
            longer.append(own)
        return self.output(self.decoder_norm(x[:, 0])), longer

    def reorder(self, state: EncodedSources | Cache, index: torch.Tensor) -> EncodedSources | Cache:
        """The rows `index` int64 of a memory (rows are sources) or of a cache (rows are hypotheses)."""
        if isinstance(state, EncodedSources):
            return EncodedSources(self.reorder(state.layers, index), state.mask[index])
        return [(keys.index_select(0, index), values.index_select(0, index)) for keys, values in state]

    def _embed(self, embedding: nn.Embedding, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Scaled embeddings plus sinusoids; positions are int64 of the shape of tokens or of its last dimension."""
        x = embedding(tokens) * math.sqrt(self.width)
        return self.dropout(x + sinusoids(positions, self.width, tokens.shape[1]).to(x.dtype))


def sinusoids(positions: torch.Tensor, width: int, length: int) -> torch.Tensor:
    """Sine and cosine halves [*positions, width] in float32, wavelengths from 2 pi to 10000 * 2 pi.

    Computed anew each time: a table kept as a buffer would be rounded when a network is cast to bfloat16, and would
    bound the length. positions of shape [b, S] are below `length` and are looked up in a table of that many rows.
    """
    if positions.dim() > 1:
        table = sinusoids(torch.arange(length, device=positions.device), width, length)
        return functional.embedding(positions, table)
    half = width // 2
    exponents = torch.arange(half, device=positions.device) * (-math.log(10000.0) / max(half - 1, 1))
    angles = positions[:, None] * exponents.exp()
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class Sizes(NamedTuple):
    """Of a layer, as of the Transformer; pre: norm before each sublayer."""

    width: int
    heads: int
    feedforward: int
    dropout: float
    attention_dropout: float
    activation_dropout: float
    pre: bool

    def residual(self) -> Residual:
        return Residual(self.width, self.dropout, self.pre)

    def inner(self) -> nn.Sequential:
        """The feed-forward sublayer."""
        hidden = nn.Linear(self.width, self.feedforward)
        return nn.Sequential(
            hidden, nn.ReLU(), nn.Dropout(self.activation_dropout), nn.Linear(self.feedforward, self.width)
        )


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward layer, each in a residual sum."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.attention = SelfAttention(sizes.width, sizes.heads, sizes.attention_dropout)
        self.attention_residual = sizes.residual()
        self.feedforward = sizes.inner()
        self.feedforward_residual = sizes.residual()

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """x [b, S, width], mask bool [b, 1, 1, S] -> [b, S, width]."""
        found, _ = self.attention(self.attention_residual.before(x), mask=mask)
        x = self.attention_residual.after(x, found)
        return self.feedforward_residual.after(x, self.feedforward(self.feedforward_residual.before(x)))


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the source, and a feed-forward layer, each in a residual sum."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.attention = SelfAttention(sizes.width, sizes.heads, sizes.attention_dropout)
        self.attention_residual = sizes.residual()
        self.cross_attention = CrossAttention(sizes.width, sizes.heads, sizes.attention_dropout)
        self.cross_residual = sizes.residual()
        self.feedforward = sizes.inner()
        self.feedforward_residual = sizes.residual()

    def forward(
        self, x: torch.Tensor, memory: KeysValues, mask: torch.Tensor, past: KeysValues | None = None
    ) -> tuple[torch.Tensor, KeysValues]:
        """x [n, T, width] -> the same shape, and the self-attention's keys and values over past and present.

        memory and mask have b rows, of which n is a multiple (see Transformer.decode_step). T is 1 where there is a
        past.
        """
        y = self.attention_residual.before(x)
        found, own = self.attention(y, causal=y.shape[1] > 1, past=past)
        x = self.attention_residual.after(x, found)
        x = self.cross_residual.after(x, self.cross_attention(self.cross_residual.before(x), memory, mask))
        return self.feedforward_residual.after(x, self.feedforward(self.feedforward_residual.before(x))), own


class Residual(nn.Module):
    """x + dropout(sublayer(x)), with layer norm before the sublayer (pre) or after the sum."""

    def __init__(self, width: int, dropout: float, pre: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.pre = pre

    def before(self, x: torch.Tensor) -> torch.Tensor:
        """What the sublayer reads."""
        return self.norm(x) if self.pre else x

    def after(self, x: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
        """The sum with what the sublayer found."""
        total = x + self.dropout(found)
        return total if self.pre else self.norm(total)


class Attention(nn.Module):
    """What both kinds of attention share: heads, dropout on the weights, the output projection."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.output = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def split(self, x: torch.Tensor) -> torch.Tensor:
        """[b, length, width] -> [b, heads, length, width / heads]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def attend(self, queries: torch.Tensor, keys_values: KeysValues, **options) -> torch.Tensor:
        """queries [b, heads, T, width / heads] -> [b, T, width]."""
        dropout = self.dropout if self.training else 0.0
        found = functional.scaled_dot_product_attention(queries, *keys_values, dropout_p=dropout, **options)
        return self.output(found.transpose(1, 2).flatten(2))


class SelfAttention(Attention):
    """Attention of a sequence to itself, with one projection to queries, keys and values."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__(width, heads, dropout)
        self.queries_keys_values = _projection(width, 3)

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor | None = None,
        causal: bool = False,
        past: KeysValues | None = None,
    ) -> tuple[torch.Tensor, KeysValues]:
        """x [b, T, width] -> [b, T, width], and the keys and values over past and present."""
        queries, keys, values = (self.split(part) for part in self.queries_keys_values(x).chunk(3, dim=-1))
        if past is not None:
            keys, values = torch.cat([past[0], keys], dim=2), torch.cat([past[1], values], dim=2)
        return self.attend(queries, (keys, values), attn_mask=mask, is_causal=causal), (keys, values)


class CrossAttention(Attention):
    """Attention of the decoder to the encoded source."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__(width, heads, dropout)
        self.queries = _projection(width, 1)
        self.memory = _projection(width, 2)

    def keys_values(self, encoded: torch.Tensor) -> KeysValues:
        """encoded [b, S, width] -> keys and values [b, heads, S, width / heads]."""
        keys, values = self.memory(encoded).chunk(2, dim=-1)
        return self.split(keys), self.split(values)

    def forward(self, x: torch.Tensor, memory: KeysValues, mask: torch.Tensor) -> torch.Tensor:
        """x [n, T, width], memory and mask of b rows, n = k * b -> [n, T, width].

        The k hypotheses of one source are k queries to the same keys: nothing is copied for a beam.
        """
        together = x.reshape(mask.shape[0], -1, x.shape[-1])
        return self.attend(self.split(self.queries(together)), memory, attn_mask=mask).reshape(x.shape)


def _projection(width: int, parts: int) -> nn.Linear:
    """A linear map to `parts` vectors; each part starts as fairseq's queries, keys and values do."""
    linear = nn.Linear(width, parts * width)
    for part in linear.weight.chunk(parts):
        nn.init.xavier_uniform_(part, gain=2**-0.5)
    return linear


def _embedding(entries: int, width: int, pad: int | None) -> nn.Embedding:
    embedding = nn.Embedding(entries, width)
    nn.init.normal_(embedding.weight, std=width**-0.5)
    if pad is not None:
        # No padding_idx: it would stop this row's gradient, also where the id is a real token (pad == eos).
        with torch.no_grad():
            embedding.weight[pad] = 0.0
    return embedding
