"""Widths of decoder-only language models of transformers that can be chosen: embedding channels, neurons of feed-forward networks, attention
heads and layers (Star Elastic, arXiv 2605.07182; Nemotron Elastic, arXiv 2511.16664; Minitron, arXiv 2407.14679)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdrun.networks.elastic_experts import importance_hook, masked_gate, resized
from kdrun.networks.huggingface import keep_layers
from kdrun.problems import UserError, closest, listed

SEMANTICS = 1

KINDS = ("llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen3_moe")
"""`model_type` of configurations whose networks are put together in this way."""
AXES = EMBEDDING, FFN, HEADS, LAYERS = ("embedding", "ffn", "heads", "layers")
EXPERTS = "experts"
"""Stands in the place of FFN where a network has experts."""
TOUCHED: dict[str, tuple[str | None, ...]] = {
    "embed_tokens.weight": (None, EMBEDDING),
    "lm_head.weight": (None, EMBEDDING),
    "norm.weight": (EMBEDDING,),
    "input_layernorm.weight": (EMBEDDING,),
    "post_attention_layernorm.weight": (EMBEDDING,),
    **{f"{name}_proj.weight": (HEADS, EMBEDDING) for name in "qkv"},
    **{f"{name}_proj.bias": (HEADS,) for name in "qkv"},
    "o_proj.weight": (EMBEDDING, HEADS),
    "o_proj.bias": (EMBEDDING,),
    **{f"{name}_norm.weight": (None,) for name in "qk"},
    **{f"{name}_proj.weight": (FFN, EMBEDDING) for name in ("gate", "up")},
    **{f"{name}_proj.bias": (FFN,) for name in ("gate", "up")},
    "down_proj.weight": (EMBEDDING, FFN),
    "down_proj.bias": (EMBEDDING,),
    "gate.weight": (EXPERTS, EMBEDDING),
    "experts.gate_up_proj": (EXPERTS, None, EMBEDDING),
    "experts.down_proj": (EXPERTS, EMBEDDING, None),
}
"""The end of a parameter's name -> the axis of each of its dimensions."""
ABLATED = 64
"""Samples at most for which layers are left out one by one, which takes a pass for each layer."""
TOKENS, ROWS, BYTES = 64, 8, 4
"""Tokens of a row by which multiply-adds are counted; rows of the data's length whose keys and values are in `memory`; bytes of a number."""


@dataclass
class Axis:
    """Units that are kept or left out together, those of all layers in the same number.

    axis   its name
    units  how many there are (of heads: those of keys and values, each with the query heads that share it)
    rows   (layers,) where each layer has a ranking of its own, else ()
    allowed  numbers of units that may be kept, rising
    """

    axis: str
    units: int
    rows: tuple[int, ...]
    allowed: Sequence[int]

    def width(self, share: float) -> int:
        """The smallest number of units that may be kept and is at least this share of them."""
        return next(count for count in self.allowed if count >= share * self.units - 1e-9)


class Decoder:
    """The axes of a network.

    network     with a model of transformers as `model`; is looked at, not changed
    axes        those that may be narrowed; None: all
    max_length  tokens of a row

    All layers are as wide as each other, so that what is cut out is an ordinary model of transformers.
    Raises UserError for a network that is put together otherwise, or an axis that there is not.
    """

    costs = ("parameters", "memory", "macs", "latency")

    def __init__(self, network: nn.Module, axes: Sequence[str] | None = None, max_length: int | None = None):
        model = network.model
        kind = getattr(model.config, "model_type", None)
        wrong = [name for name, _ in model.named_parameters() if _ending(name) not in TOUCHED]
        if kind not in KINDS or wrong:
            raise UserError(
                f"strategy=elastic: cannot take {type(model).__name__} apart" + (f" ({wrong[0]})" if wrong else ""),
                f"language models that can be: model_type {listed(KINDS)}, without lora",
            )
        if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
            raise UserError(
                "network.checkpointing=true: masks of a forward pass are gone when it is computed again",
                "strategy=elastic needs teacher.network.checkpointing=false",
            )
        config, layers = model.config, model.config.num_hidden_layers
        mixed = {hasattr(layer.mlp, EXPERTS) for layer in _layers(model)}
        if len(mixed) > 1:
            raise UserError("strategy=elastic: some layers have experts and some have none", "all of them, or none")
        self.inner = EXPERTS if mixed == {True} else FFN
        names = [self.inner if axis == FFN else axis for axis in AXES]
        axes = axes and [self.inner if axis == FFN else axis for axis in axes]
        if unknown := [axis for axis in axes or () if axis not in names]:
            raise UserError(f"strategy.axes: no axis {unknown[0]!r}{closest(unknown[0], names)}; all: {listed(names)}")
        inside = config.num_local_experts if self.inner == EXPERTS else config.intermediate_size
        self.sizes = {EMBEDDING: config.hidden_size, self.inner: inside}
        self.sizes |= {HEADS: config.num_key_value_heads, LAYERS: layers}
        self._shared = config.num_attention_heads // config.num_key_value_heads
        allowed = {axis: range(1, size + 1) for axis, size in self.sizes.items()}
        # transformers takes a width that is no multiple of the number of heads for a mistake
        heads = [n for n in allowed[HEADS] if config.hidden_size % (n * self._shared) == 0 and HEADS in (axes or AXES)]
        allowed[HEADS] = heads or [self.sizes[HEADS]]
        step = math.lcm(*(n * self._shared for n in allowed[HEADS]))
        allowed[EMBEDDING] = range(step, config.hidden_size + 1, step) or [config.hidden_size]
        sent = config.num_experts_per_tok if self.inner == EXPERTS else 0
        allowed[self.inner] = range(max(sent, 1), inside + 1)
        rows = {self.inner: (layers,), HEADS: (layers,)}
        chosen = [axis for axis in names if axes is None or axis in axes]
        self.groups = {axis: Axis(axis, self.sizes[axis], rows.get(axis, ()), allowed[axis]) for axis in chosen}
        self._length = max_length or TOKENS
        ids = torch.zeros(1, self._length, dtype=torch.int64)
        self.example = {"input_ids": ids, "attention_mask": torch.ones_like(ids, dtype=torch.bool)}
        self._head = _layers(model)[0].self_attn.head_dim
        self._parameters: Counter[tuple[str, ...]] = Counter()
        self._matrices: Counter[tuple[str, ...]] = Counter()
        for name, parameter in model.named_parameters():
            touched = tuple(axis for axis in TOUCHED[_ending(name)] if axis) + ((LAYERS,) if ".layers." in name else ())
            self._parameters[touched] += parameter.numel()
            if parameter.dim() == 2 and not name.endswith("embed_tokens.weight"):
                self._matrices[touched] += parameter.numel()
            if parameter.dim() == 3:  # of all experts those that a token is sent to
                self._matrices[EMBEDDING, LAYERS] += parameter.numel() * sent // inside
        if config.tie_word_embeddings:
            self._matrices[EMBEDDING,] += model.get_output_embeddings().weight.numel()

    def prepare(self, network: nn.Module, budgets: int) -> None:
        """Nothing has to be made for masks."""

    # what it computes

    @contextmanager
    def masked(self, network: nn.Module, masks: Mapping[str, Tensor] | None, row: int | Tensor = 0) -> Iterator[None]:
        """Inside, a network computes with these masks: axis -> [*rows, units]; None: all ones, which is left out.

        Masked are what is written into the residual stream (by embedding, channel and layer), the heads' outputs before and the
        neurons before the matrices that read them. A root mean square over D channels of which a share f is kept is that over the kept ones
        with eps * f and the output times sqrt(f).
        """
        if masks is None:
            yield
            return
        model = network.model
        with ExitStack() as stack:
            stream = masks.get(EMBEDDING)
            if stream is not None:
                stack.enter_context(_scaled_output(model.get_input_embeddings(), stream))
                for norm in _norms(model):
                    stack.enter_context(_narrow_norm(norm, stream.mean()))
            for number, layer in enumerate(_layers(model)):
                writes = [
                    each for each in (stream, masks[LAYERS][number] if LAYERS in masks else None) if each is not None
                ]
                for writer in (layer.self_attn.o_proj, layer.mlp):
                    for factor in writes:
                        stack.enter_context(_scaled_output(writer, factor))
                if HEADS in masks:
                    heads = masks[HEADS][number].repeat_interleave(self._shared * self._head)
                    stack.enter_context(scaled_input(layer.self_attn.o_proj, heads))
                if EXPERTS in masks:
                    stack.enter_context(masked_gate(layer.mlp.gate, masks[EXPERTS][number]))
                if FFN in masks:
                    stack.enter_context(scaled_input(layer.mlp.down_proj, masks[FFN][number]))
            yield

    def rank(self, network: nn.Module, forward: Callable[[Any], Any], batches: Iterable[Any]) -> dict[str, Tensor]:
        """Axis -> importance float64 [*rows, units] of each unit, for what `forward` computes of these batches.

        embedding  sum of |RMSNorm(x)_i| over tokens and norms          ffn  sum of |a_i|, a what the last matrix reads
        heads      sum of the Euclidean norms of a head's output (of all query heads that share keys)
        experts    mean of g_e |f_e| over the tokens that are sent to expert e, f_e its output and g_e its weight (elastic_experts)
        layers     sum of (M - M_j)^2 over that of M^2, M the logits and M_j those without layer j
        """
        sums: dict[tuple[str, int], Tensor] = {}
        last: list[Tensor] = []
        layers, norms = _layers(network.model), _norms(network.model)

        def add(axis: str, row: int, values: Tensor) -> None:
            sums[axis, row] = sums.get((axis, row), 0) + values.detach().double().flatten(0, -2).sum(0).cpu()

        def experts(row: int) -> Callable[..., None]:
            def both(total: Tensor, count: Tensor) -> None:
                add(EXPERTS, row, total[None])
                add("sent", row, count[None])

            return importance_hook(both)

        def per_head(values: Tensor) -> Tensor:
            return values.unflatten(-1, (self.sizes[HEADS], -1)).float().norm(dim=-1)

        handles = [norms[-1].register_forward_hook(lambda module, inputs, output: last.append(output.detach()))]
        for norm in norms:
            handles.append(norm.register_forward_hook(lambda module, inputs, output: add(EMBEDDING, 0, output.abs())))
        for number, layer in enumerate(layers):
            handles += [
                layer.mlp.experts.register_forward_pre_hook(experts(number))
                if self.inner == EXPERTS
                else layer.mlp.down_proj.register_forward_pre_hook(
                    lambda module, inputs, row=number: add(FFN, row, inputs[0].abs())
                ),
                layer.self_attn.o_proj.register_forward_pre_hook(
                    lambda module, inputs, row=number: add(HEADS, row, per_head(inputs[0]))
                ),
            ]
        kept: list[tuple[Any, Tensor]] = []
        try:
            for batch in batches:
                last.clear()
                forward(batch)
                if sum(len(states) for _, states in kept) < ABLATED:
                    kept.append((batch, last[0]))
        finally:
            for handle in handles:
                handle.remove()
        scores = {EMBEDDING: sums[EMBEDDING, 0]}
        scores |= {axis: torch.stack([sums[axis, row] for row in range(len(layers))]) for axis in (self.inner, HEADS)}
        if self.inner == EXPERTS:
            scores[EXPERTS] /= torch.stack([sums["sent", row] for row in range(len(layers))]).clamp(min=1)
        scores[LAYERS] = self._ablated(network, forward, kept) if LAYERS in self.groups else None
        return {axis: scores[axis] for axis in self.groups}

    def _ablated(self, network: nn.Module, forward: Callable[[Any], Any], kept: list[tuple[Any, Tensor]]) -> Tensor:
        """float64 [layers]: what leaving out each layer changes of the logits of these (batch, last states)."""
        weight = network.model.get_output_embeddings().weight.detach().float()
        gram = weight.T @ weight  # |W d|^2 = d' W'W d, without logits of a whole vocabulary
        norm, count, last = _norms(network.model)[-1], self.sizes[LAYERS], []

        def square(states: Tensor) -> float:
            states = states.flatten(0, -2).float()
            return float(((states @ gram) * states).sum())

        changed, whole = torch.zeros(count, dtype=torch.float64), sum(square(states) for _, states in kept)
        handle = norm.register_forward_hook(lambda module, inputs, output: last.append(output.detach()))
        try:
            for number in range(count):
                mask = torch.ones(count, device=gram.device)
                mask[number] = 0
                for batch, states in kept:
                    last.clear()
                    with self.masked(network, {LAYERS: mask}):
                        forward(batch)
                    changed[number] += square(last[0] - states)
        finally:
            handle.remove()
        return changed / max(whole, 1e-12)

    # what it costs

    def cost(self, counts: Mapping[str, Tensor | float], what: str) -> Tensor | float:
        """Parameters; multiply-adds of a row of TOKENS tokens; or bytes of parameters and of keys and values of ROWS rows, of the network
        with so many units of each axis."""
        share = {axis: counts.get(axis, size) / size for axis, size in self.sizes.items()}
        attention = self.sizes[LAYERS] * share[LAYERS] * self.sizes[HEADS] * share[HEADS] * self._head
        if what == "macs":  # the product of queries and keys, and that of weights and values
            return TOKENS * summed(self._matrices, share) + 2 * TOKENS**2 * self._shared * attention
        if what == "memory":
            return BYTES * (summed(self._parameters, share) + 2 * ROWS * self._length * attention)
        return summed(self._parameters, share)

    def features(self, counts: Mapping[str, Tensor | float]) -> list[Tensor | float]:
        """What the latency of a row is a sum over: a constant, layers, and of shares e, f, h, l of the four axes what attention (l e h),
        feed-forward networks (l e f; of experts also l e, a token is sent to as many as ever) and output layer (e) multiply."""
        e, f, h, l = (counts.get(axis, size) / size for axis, size in self.sizes.items())  # noqa: E741
        return [1.0, l, l * e * h, l * e * f, e, *([l * e] if self.inner == EXPERTS else [])]

    def cut(self, network: nn.Module, kept: Mapping[str, Sequence[Any]]) -> None:
        """Takes all but these units out of a network, in place. kept: axis -> numbers of units, of an axis with rows those of each layer."""
        model, config = network.model, network.model.config
        layers = kept.get(LAYERS, range(self.sizes[LAYERS]))
        places = {number: place for place, number in enumerate(layers)}
        keep_layers(model, list(layers))
        rows = {axis: [kept[axis][number] for number in places] for axis in (self.inner, HEADS) if axis in kept}
        stack = _layers_path(model)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                row = int(name.removeprefix(stack).split(".")[1]) if name.startswith(f"{stack}.") else None
                for dimension, axis in enumerate(TOUCHED[_ending(name)]):
                    if axis in kept:
                        units = torch.tensor(kept[axis] if row is None or axis == EMBEDDING else rows[axis][row])
                        parameter.data = selected(parameter.data, dimension, units, self.sizes[axis])
        size = {axis: len(rows[axis][0] if axis in rows else units) for axis, units in kept.items()}
        config.head_dim = self._head  # which is no longer the width shared among the heads
        config.hidden_size = size.get(EMBEDDING, config.hidden_size)
        config.intermediate_size = size.get(FFN, config.intermediate_size)
        if EXPERTS in size:
            config.num_local_experts = size[EXPERTS]
        config.num_key_value_heads = size.get(HEADS, config.num_key_value_heads)
        config.num_attention_heads = config.num_key_value_heads * self._shared
        for module in model.modules():
            resize(module)


def _ending(name: str) -> str:
    return ".".join(name.split(".")[-2:])


def _layers_path(model: nn.Module) -> str:
    return next(name for name, part in model.named_modules() if part is _layers(model))


def _layers(model: nn.Module) -> nn.ModuleList:
    return model.base_model.layers


def _norms(model: nn.Module) -> list[nn.Module]:
    """The normalisations over channels, the last one behind all layers."""
    inner = [norm for layer in _layers(model) for norm in (layer.input_layernorm, layer.post_attention_layernorm)]
    return [*inner, model.base_model.norm]


def summed(table: Mapping[tuple[str, ...], int], share: Mapping[str, Tensor | float]) -> Tensor | float:
    """The sum of counts, each times the shares of its axes that are kept."""
    total: Tensor | float = 0.0
    for axes, count in table.items():
        part: Tensor | float = float(count)
        for axis in axes:
            part = part * share[axis]
        total = total + part
    return total


@contextmanager
def _scaled_output(module: nn.Module, factor: Tensor) -> Iterator[None]:
    handle = module.register_forward_hook(lambda module, inputs, output: output * factor)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def scaled_input(module: nn.Module, factor: Tensor) -> Iterator[None]:
    """Inside, a module reads its input times a factor."""
    handle = module.register_forward_pre_hook(lambda module, inputs: (inputs[0] * factor,))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _narrow_norm(norm: nn.Module, share: Tensor) -> Iterator[None]:
    eps = norm.variance_epsilon
    norm.variance_epsilon = eps * share
    try:
        with _scaled_output(norm, share.sqrt()):
            yield
    finally:
        norm.variance_epsilon = eps


def selected(values: Tensor, dimension: int, units: Tensor, count: int) -> Tensor:
    """Those of `count` equal pieces of a dimension that are kept."""
    pieces = values.unflatten(dimension, (count, -1)).index_select(dimension, units.to(values.device))
    return pieces.flatten(dimension, dimension + 1).contiguous()


def resize(module: nn.Module) -> None:
    """What modules say of their own sizes, from their parameters."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = module.weight.shape
    elif hasattr(module, "gate") and hasattr(module, EXPERTS):
        resized(module)
    elif hasattr(module, "intermediate_size"):
        module.intermediate_size, module.hidden_size = module.gate_proj.weight.shape
    elif hasattr(module, "self_attn"):
        module.hidden_size = module.input_layernorm.weight.shape[0]
