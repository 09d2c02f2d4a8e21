"""Log-probabilities of next tokens from servers of language models over HTTP: requests, and how each kind of server is asked."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

from kdrun.problems import UserError, closest, listed

FIRST_WAIT = 0.5
"""Seconds before the first retry; twice as many before each further one."""
PASSING = (408, 425, 429, 500, 502, 503, 504)
"""HTTP statuses for which a request is tried again."""
FIRST_TRIES = 4
"""Tries after the first of what is asked first, at most: a wrong address is told soon, a server that was there is waited for longer."""

BIAS = 1e6
"""What is added to a logit so that llama.cpp's server takes this token."""

Told = dict[int, float]
"""Token id -> natural log-probability."""


@dataclass(frozen=True)
class Dialect:
    """How a kind of server is asked. ask(post, model, ids, top) gives, of each id but the first, (what is told of the position before it,
    its text or None); post(path, body) sends JSON."""

    ask: Callable[[Callable[[str, Any], Any], str, Sequence[int], int], list[tuple[Told, str | None]]]


def _vllm(post: Callable[[str, Any], Any], model: str, ids: Sequence[int], top: int) -> list[tuple[Told, str | None]]:
    body = {"model": model, "prompt": list(ids), "max_tokens": 1, "temperature": 0, "prompt_logprobs": top}
    places = post("/v1/completions", body)["choices"][0]["prompt_logprobs"][1:]
    return [
        (
            {int(token): entry["logprob"] for token, entry in place.items()},
            place.get(str(token_id), {}).get("decoded_token"),
        )
        for place, token_id in zip(places, ids[1:], strict=True)
    ]


def _sglang(post: Callable[[str, Any], Any], model: str, ids: Sequence[int], top: int) -> list[tuple[Told, str | None]]:
    body = {
        "input_ids": list(ids),
        "sampling_params": {"max_new_tokens": 1, "temperature": 0},
        "return_logprob": True,
        "logprob_start_len": 0,
        "top_logprobs_num": top,
        "return_text_in_logprobs": True,
    }
    told = post("/generate", body)["meta_info"]
    places = zip(told["input_token_logprobs"][1:], told["input_top_logprobs"][1:], strict=True)
    return [({int(t): value for value, t, *_ in (own, *likely)}, own[2]) for own, likely in places]


def _llama_cpp(
    post: Callable[[str, Any], Any], model: str, ids: Sequence[int], top: int
) -> list[tuple[Told, str | None]]:
    """A bias makes the server take the token that comes next, so that it says its probability too; biases leave probabilities as they are.

    It says nothing where what it took ends inside a character: then the first or the last id, one of which is the end of a text, is taken.
    """
    found = []
    for length in range(1, len(ids)):
        body = {"prompt": list(ids[:length]), "n_predict": 1, "n_probs": top, "temperature": 0, "cache_prompt": True}
        for taken in (ids[length], ids[-1], ids[0]):
            said = post("/completion", {**body, "model": model, "logit_bias": [[taken, BIAS]]})
            if "completion_probabilities" in said:
                break
        place = said["completion_probabilities"][0]
        likely = {entry["id"]: entry for entry in (place, *place["top_logprobs"])}
        told = {token: entry["logprob"] for token, entry in likely.items()}
        found.append((told, likely.get(ids[length], {}).get("token")))
    return found


DIALECTS = {"vllm": Dialect(_vllm), "sglang": Dialect(_sglang), "llama_cpp": Dialect(_llama_cpp)}


class Endpoint:
    """A server and the name of a model on it; see networks.served.ServedLanguageModel for the settings. where: the key that has its address."""

    def __init__(
        self,
        url: str,
        model: str,
        dialect: Dialect = DIALECTS["vllm"],
        top: int = 0,
        timeout: float = 60.0,
        retries: int = 4,
        key: str | None = None,
        where: str = "network.url",
    ) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        if not self.url.startswith(("http://", "https://")):
            raise UserError(f"{where}={url} is no address of a server, such as http://localhost:8000")
        self.model, self.dialect, self.top, self.timeout, self.retries = model, dialect, top, timeout, retries
        self._headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        self.name = f"the server at {self.url}"

    def told(self, ids: Sequence[int], end: int) -> list[Told]:
        """What is told of the token after each of these; `end` is sent behind them so that the last has one."""
        return [told for told, _ in self._asked([*ids, end])]

    def texts(self, ids: Sequence[int], end: int) -> list[str | None]:
        """What the server says that each of these ids is; None where it does not."""
        return [text for _, text in self._asked([end, *ids])]

    def _asked(self, ids: list[int]) -> list[tuple[Told, str | None]]:
        try:
            return self.dialect.ask(self._post, self.model, ids, self.top)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            kinds = [name for name, dialect in DIALECTS.items() if dialect is not self.dialect]
            raise UserError(
                f"{self.name} does not answer with log-probabilities as network.api has them ({type(error).__name__}: {error})",
                f"teacher.network.api={' or '.join(kinds)}, where it is such a server",
            ) from error

    def answer(self, messages: Sequence[dict[str, str]], most: int) -> str:
        """What the model says next in a chat, in at most so many tokens, each the likeliest. The same of all kinds of servers."""
        body = {"model": self.model, "messages": list(messages), "max_tokens": most, "temperature": 0}
        said = self._post("/v1/chat/completions", body)
        try:
            return str(said["choices"][0]["message"]["content"])
        except (KeyError, IndexError, TypeError) as error:
            raise UserError(
                f"{self.name} answers a chat with something else ({type(error).__name__}: {error})"
            ) from error

    def check_model(self) -> None:
        """Raises UserError where the server does not answer or has no such model."""
        served = [
            entry.get("id") for entry in self._sent("/v1/models", None, min(self.retries, FIRST_TRIES)).get("data", ())
        ]
        if served and self.model not in served:
            raise UserError(
                f"{self.name} has no model {self.model}{closest(self.model, served)}", f"it has {listed(served)}"
            )

    def _post(self, path: str, body: Any) -> Any:
        return self._sent(path, json.dumps(body).encode(), self.retries)

    def _sent(self, path: str, body: bytes | None, retries: int) -> Any:
        """The answer to a GET (body None) or a POST, tried again where the reason may pass."""
        request, said = urllib.request.Request(self.url + path, data=body, headers=self._headers), ""
        for attempt in range(retries + 1):
            if attempt:
                time.sleep(FIRST_WAIT * 2 ** (attempt - 1))
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                said = f"HTTP {error.code}: {error.read(300).decode(errors='replace').strip()}"
                if error.code not in PASSING:
                    raise UserError(f"{self.name} refuses {path}", said) from error
            except (OSError, HTTPException, json.JSONDecodeError) as error:
                said = f"{type(error).__name__}: {error}"
        raise UserError(f"{self.name} does not answer {path}, after {retries + 1} tries", said)
