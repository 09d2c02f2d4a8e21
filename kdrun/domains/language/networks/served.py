"""A language model that a server of another program runs (vLLM, SGLang, llama.cpp), as a teacher."""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn

from kdrun.domains.language.endpoint import DIALECTS, Endpoint
from kdrun.domains.language.tokens import existing
from kdrun.problems import UserError, listed

SEMANTICS = 2
PROBE = "The quick brown fox, 1234 times, jumps over: (a) lazy dogs!"
"""What the server's tokens are compared with the data's on."""
REPEATS = 0.1
"""By how much a log-probability may differ when a server is asked again: it computes a row beside others, with keys and values in half precision."""
LEAST = 1e-12
"""Probability that is at least left for all tokens together that a server says nothing of."""


class ServedLanguageModel(nn.Module):
    """Log-probabilities of the `top` likeliest next tokens, from an HTTP server; the rest is spread evenly over all other tokens.

    That sum is right and nothing is known of how it is spread: objectives of the likeliest tokens and a rest (objective=word_kd_topk,
    k at most `top`) can be learned from it, others are refused. It is never trained: give teacher.weights=own.

    url: of the server, such as http://localhost:8000, with or without /v1. model: the name that it is served under.
    api: vllm (/v1/completions with prompt_logprobs), sglang (/generate with input_ids), llama_cpp (/completion with n_probs, one request
        for each token, each of which reads one token where the server keeps its cache).
    tokenizer: folder of the model's tokenizer, or smollm2; it has to be the data's (data.language.tokenizer).
    top: tokens asked for at every position; vLLM gives 20 at most unless started with --max-logprobs.
    in_flight: requests at a time. timeout: seconds that an answer may take. retries: of a request that failed for a reason that may pass,
        after 0.5, 1, 2 ... seconds. key: sent as a bearer token; as ${oc.env:NAME} it is in no record.
    vocabulary, eos, max_length: of the data.

    network(input_ids int64 [B, L], attention_mask) -> float32 [B, L, vocabulary]; masks as of HuggingFaceCausalLM. Before the first
    answer the server is looked at: does it answer, has it this model, are its tokens the data's, does it tell as many as asked for.
    Raises UserError with what to do where not.
    """

    repeats = REPEATS

    def __init__(
        self,
        url: str,
        model: str,
        tokenizer: str | None = None,
        api: str = "vllm",
        top: int = 20,
        in_flight: int = 8,
        timeout: float = 60.0,
        retries: int = 8,
        key: str | None = None,
        vocabulary: int | None = None,
        eos: int | None = None,
        max_length: int | None = None,
    ) -> None:
        super().__init__()
        if api not in DIALECTS:
            raise UserError(f"network.api={api}: servers are spoken to as {listed(DIALECTS)}")
        for name, value, least in (("top", top, 1), ("in_flight", in_flight, 1), ("retries", retries, 0)):
            if not isinstance(value, int) or value < least:
                raise UserError(f"network.{name} must be a whole number of at least {least}, got {value}")
        if tokenizer is None:
            raise UserError(
                "a served model needs network.tokenizer, the folder of its tokenizer, so that its tokens can be compared",
                "teacher.network.tokenizer=FOLDER data.language.tokenizer=FOLDER",
            )
        self.tokenizer = existing(tokenizer)
        if vocabulary is not None and vocabulary != self.tokenizer.size:
            raise UserError(
                f"network.tokenizer={tokenizer} has {self.tokenizer.size} tokens, the data's has {vocabulary}",
                f"a served teacher reads the data's tokens: data.language.tokenizer={tokenizer}",
            )
        self.endpoint = Endpoint(url, model, DIALECTS[api], top, timeout, retries, key)
        self.vocabulary, self.eos, self.in_flight = self.tokenizer.size, self.tokenizer.eos, in_flight
        self.tells = min(top, self.vocabulary)
        self.place = nn.Parameter(torch.ones(1), requires_grad=False)  # says on which device outputs are wanted
        self._checked = False

    @torch.no_grad()
    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        shape = (*input_ids.shape, self.vocabulary)
        if input_ids.is_meta or self.place.is_meta:
            return torch.empty(shape, device="meta")
        if self.training and torch.is_grad_enabled():
            raise UserError("a served network is never trained", "teacher.weights=own")
        if not self._checked:
            self.check()
        documents = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
        pieces = list(_pieces(input_ids.cpu(), documents.cpu()))
        logits = torch.zeros(shape)
        with ThreadPoolExecutor(self.in_flight) as pool:
            answers = pool.map(lambda piece: self.endpoint.told(piece[2], self.eos), pieces)
            for (row, first, ids), told in zip(pieces, answers, strict=True):
                logits[row, first : first + len(ids)] = torch.stack([self.row(each) for each in told])
        return logits.to(self.place.device)

    def row(self, told: Mapping[int, float]) -> torch.Tensor:
        """float32 [vocabulary]: log-probabilities of what a server told of one position, all other tokens alike."""
        known = {token: value for token, value in told.items() if 0 <= token < self.vocabulary}
        rest = max(1.0 - math.fsum(map(math.exp, known.values())), LEAST)
        row = torch.full((self.vocabulary,), math.log(rest / max(self.vocabulary - len(known), 1)))
        row[list(known)] = torch.tensor(list(known.values()), dtype=torch.float32)
        return row

    def check(self) -> None:
        """Raises UserError where the server, its model, its tokens or their number are not as they have to be."""
        self.endpoint.check_model()
        ids = self.tokenizer.encode([PROBE])[0][0]
        texts = self.endpoint.texts(ids, self.eos)
        ours = [self.tokenizer.made.decode([token]) for token in ids]
        for place, (theirs, own) in enumerate(zip(texts, ours, strict=True)):
            if theirs is not None and theirs.strip() != own.strip():
                raise UserError(
                    f"{self.endpoint.name} has other tokens: id {ids[place]} is {theirs!r} there and {own!r} in network.tokenizer",
                    "give the tokenizer of the served model, as data.language.tokenizer, too",
                )
        fewest = min(map(len, self.endpoint.told(ids, self.eos)))
        if fewest < self.tells:
            raise UserError(
                f"{self.endpoint.name} tells fewer than the network.top={self.tells} tokens of a position that are asked for",
                "a lower teacher.network.top, or a server with a higher bound (vLLM: --max-logprobs, 20 unless said otherwise)",
            )
        self._checked = True


def _pieces(ids: torch.Tensor, documents: torch.Tensor):
    """(row, first position, ids) of each document of each row."""
    for row in range(len(ids)):
        for number in documents[row].unique().tolist():
            if number:
                places = (documents[row] == number).nonzero().flatten()
                yield row, int(places[0]), ids[row, places].tolist()
