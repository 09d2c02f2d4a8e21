"""A server of a tiny language model on a port of this machine, that answers in the form of vLLM, SGLang and llama.cpp's server."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
from transformers import LlamaConfig, LlamaForCausalLM


class Served:
    """model: what answers. requests: paths asked for. failing: how many of the next are answered with 503; key: the token that is wanted.
    noise: by how much it does not repeat itself."""

    def __init__(self, tokenizer, most: int = 20, key: str | None = None):
        torch.manual_seed(0)
        fields = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        self.model = LlamaForCausalLM(LlamaConfig(vocab_size=tokenizer.size, **fields)).eval()
        self.tokenizer, self.most, self.key = tokenizer, most, key
        self.requests, self.failing, self.busy, self.busiest, self.noise = [], 0, 0, 0, 0.0
        self.chat = None  # (last message of a chat) -> what is answered
        self.lock = threading.Lock()
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                served.answer(self, {})

            def do_POST(self):
                served.answer(self, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def log_message(self, *said):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        self.server.shutdown()
        self.server.server_close()

    def answer(self, handler, body):
        with self.lock:
            self.requests.append(handler.path)
            self.busy += 1
            self.busiest = max(self.busiest, self.busy)
            fails, self.failing = self.failing > 0, max(self.failing - 1, 0)
        try:
            code, said = (503, {"error": "busy"}) if fails else self.said(handler, body)
        finally:
            with self.lock:
                self.busy -= 1
        content = json.dumps(said).encode()
        handler.send_response(code)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def said(self, handler, body):
        if self.key and handler.headers.get("Authorization") != f"Bearer {self.key}":
            return 401, {"error": "a key is needed"}
        if handler.path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": "tiny-model", "object": "model"}]}
        if handler.path == "/v1/completions":
            return 200, {
                "choices": [{"text": "", "prompt_logprobs": self.vllm(body["prompt"], body["prompt_logprobs"])}]
            }
        if handler.path == "/generate":
            return 200, {"text": "", "meta_info": self.sglang(body["input_ids"], body["top_logprobs_num"])}
        if handler.path == "/v1/chat/completions" and self.chat is not None:
            message = {"role": "assistant", "content": self.chat(body["messages"][-1]["content"])}
            return 200, {
                "object": "chat.completion",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            }
        if handler.path == "/completion":
            logs = self.logs(body["prompt"])[-1]
            entries = [
                {"id": t, "token": self.text(t), "logprob": value} for t, value in self.top(logs, body["n_probs"])
            ]
            biased = logs.clone()
            for token, bias in body.get("logit_bias", ()):
                biased[token] += bias
            taken = int(biased.argmax())
            text = self.text(taken)
            if text.endswith("\ufffd"):  # the server waits for the rest of a character, and says nothing of its part
                return 200, {"content": text}
            place = {"id": taken, "token": text, "logprob": float(logs[taken]), "top_logprobs": entries}
            return 200, {"content": text, "completion_probabilities": [place]}
        return 404, {"error": "no such path"}

    @torch.no_grad()
    def logs(self, ids):
        logs = torch.log_softmax(self.model(input_ids=torch.tensor([ids])).logits[0], -1)
        return logs + self.noise * (2 * torch.rand_like(logs) - 1)

    def top(self, row, count):
        values, ids = row.topk(min(count, self.most))
        return list(zip(ids.tolist(), values.tolist(), strict=True))

    def text(self, token):
        return self.tokenizer.made.decode([token])

    def vllm(self, ids, count):
        logs, found = self.logs(ids), [None]
        for place, token in enumerate(ids[1:]):
            likely = [*self.top(logs[place], count), (token, float(logs[place, token]))]
            found.append({str(t): {"logprob": v, "rank": 1, "decoded_token": self.text(t)} for t, v in likely})
        return found

    def sglang(self, ids, count):
        logs = self.logs(ids)
        own = [[None, ids[0], self.text(ids[0])]]
        own += [[float(logs[place, token]), token, self.text(token)] for place, token in enumerate(ids[1:])]
        top = [None] + [
            [[v, t, self.text(t)] for t, v in self.top(logs[place], count)] for place in range(len(ids) - 1)
        ]
        return {"input_token_logprobs": own, "input_top_logprobs": top}
