"""Speed of language models in kdrun: CPU seconds on one thread, medians over interleaved repeats in one process.

    python scripts/bench_language.py [--repeats 5] [--steps 25] [--batch 16] [--part step] [--part cached] [--part policy]

Llamas from nothing (a student of width 64, a teacher of width 128, two layers each) on rows of made-up tokens. Prints:
  step    tokens per second of a distillation step (half labels, half soft targets) in kdrun and in a loop written by hand, on the same
          packed rows
  cached  the same step with the 16 likeliest tokens of a cached teacher, against its online teacher: speed, bytes on disk for each token,
          and what both students reach on validation. The teacher is trained for it first
  policy  a step on what the student writes itself (generalised Jensen-Shannon divergence) in kdrun, in a loop written by hand around
          transformers' generate, and in TRL's DistillationTrainer where TRL is there (pip install trl==1.16.0 accelerate datasets)
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from kdrun.data.host import moved
from kdrun.domains.language import rows
from kdrun.domains.language.module import LanguageDataModule
from kdrun.domains.language.networks.causal_lm import HuggingFaceCausalLM
from kdrun.domains.language.spec import LanguageSpec
from kdrun.domains.language.task import CausalLanguage
from kdrun.learning import topk
from kdrun.learning.callbacks import Keeping
from kdrun.learning.learner import LearnerModule
from kdrun.learning.report import Report
from kdrun.learning.rollouts import Rollouts
from kdrun.learning.teacher import FrozenTeacher
from kdrun.learning.trainer import Epochs, make_trainer
from kdrun.ledger.ledger import Ledger, clocks
from kdrun.objectives.terms import build_objective

VOCABULARY, PAD, EOS, FIRST = 4000, 0, 1, 2
USED, SUCCESSORS = 400, 8
"""Tokens that texts are of, and how many may follow each of them."""
BATCH = 16
LENGTH, SKIPPED = 128, 5  # the first steps are not timed
PROMPT, ANSWER = 32, 32
"""Tokens of prompts, and of what is written behind them."""
K = 16
HARDWARE = {"device": "cpu", "devices": 1, "precision": "fp32", "threads": 1}
WORD_KD = {"ce": {"weight": 0.5}, "kd": {"weight": 0.5, "temperature": 1.0}}
WORD_KD_TOPK = {"ce": {"weight": 0.5}, "kd_topk": {"weight": 0.5, "k": K}}
JSD = {"jsd": {"weight": 1.0, "beta": 0.5}}
OPTIONS = {"monitor": "loss", "mode": "min", "log_every": 20, "seconds": 1e9, "identity": {}, "epochs": 1}


def texts(count: int, length: int | None = None) -> list[rows.Piece]:
    """Rows of a chain of tokens in which each has a few likely successors. length: of each; None: they differ."""
    draw = np.random.default_rng(0)
    follow = draw.integers(FIRST, FIRST + USED, (FIRST + USED, SUCCESSORS))
    shares = 1 / np.arange(1, SUCCESSORS + 1)
    chosen = draw.choice(SUCCESSORS, (count, LENGTH), p=shares / shares.sum())
    found = []
    for number in range(count):
        size = length or int(draw.integers(16, LENGTH // 2))
        ids = [EOS, int(draw.integers(FIRST, FIRST + USED))]
        for place in range(size - len(ids)):
            ids.append(int(follow[ids[-1], chosen[number, place]]))
        found.append(rows.Piece(number * rows.PIECES, ids, [rows.NOT_PREDICTED, *[4] * (size - 1)]))
    return found


def corpus(steps: int, length: int | None = None) -> LanguageDataModule:
    """About so many batches of training rows: packed ones of several documents, or one of `length` tokens each."""
    train = steps * BATCH if length else round(steps * BATCH * LENGTH / (LENGTH / 4 + 8))
    found = texts(train + 64, length)
    split = {"train": found[:train], "val": found[train : train + 32], "test": found[train + 32 :]}
    samples = {name: rows.separate(pieces, PAD) for name, pieces in split.items()}
    if length is None:
        samples["train"] = rows.packed(split["train"], LENGTH, PAD)
    sizes = {name: len(part) for name, part in samples.items()}
    spec = LanguageSpec("bench", VOCABULARY, PAD, EOS, EOS, sizes, LENGTH, "0" * 64)
    ids = {name: np.array([piece.number // rows.PIECES for piece in pieces]) for name, pieces in split.items()}
    tokenizer = SimpleNamespace(ends=frozenset({EOS}))
    return LanguageDataModule(SimpleNamespace(notes=()), tokenizer, spec, samples, [], ids)


def llama(width: int, seed: int = 0) -> HuggingFaceCausalLM:
    torch.manual_seed(seed)
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": True}
    config = {"model_type": "llama", "hidden_size": width, "num_hidden_layers": 2, "intermediate_size": 4 * width}
    return HuggingFaceCausalLM(config=config | heads, vocabulary=VOCABULARY, pad=PAD, eos=EOS, max_length=LENGTH)


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=3e-3)


class Clock(Keeping):
    """kdrun's own callback, which also counts tokens and time from the first timed step to the end of the last one."""

    tokens, begun, ended = 0, 0.0, 0.0

    def on_train_batch_start(self, trainer, learner, batch, batch_idx):
        if batch_idx == SKIPPED:
            self.begun, self.tokens = time.process_time(), 0
        self.tokens += batch["size"]
        super().on_train_batch_start(trainer, learner, batch, batch_idx)

    def on_train_batch_end(self, trainer, learner, *rest):
        super().on_train_batch_end(trainer, learner, *rest)
        self.ended = time.process_time()


def kdrun_loop(module, student, source: Any, objective: dict[str, Any], rollout: dict[str, Any] | None = None) -> float:
    """CPU seconds per token of the learner under its Lightning trainer, with everything a run has on; source: of teacher outputs."""
    task, built = CausalLanguage(module), build_objective(objective)
    task.prepare(built.wanted)
    learner = LearnerModule(student, task, built, optimizer=adam, teacher=source)
    if rollout:
        learner.backend.rollout = Rollouts(task, 0, share=1.0, **rollout)
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock(Path(folder), Report(), "bench", ledger=Ledger(clocks()), **OPTIONS)
        trainer = make_trainer(HARDWARE, callbacks=[clock], max_epochs=1)
        trainer.fit(learner, Epochs(module.train_loader(BATCH, 0), learner), module.eval_loader("val", BATCH))
    return (clock.ended - clock.begun) / clock.tokens


def hand_loop(module, student, teacher: Any, epochs: int = 1) -> float:
    """CPU seconds per token of the loop a person would write; teacher=None trains on labels alone."""
    update, steps, tokens = adam(student.parameters()), 0, 0
    student.train()
    for epoch in range(epochs):
        for batch in module.train_loader(BATCH, epoch):
            if steps == SKIPPED:
                started, tokens = time.process_time(), 0
            mask, steps, tokens = batch["mask"], steps + 1, tokens + batch["size"]
            logits = student(**batch["inputs"])[mask]
            loss = functional.cross_entropy(logits, batch["targets"][mask])
            if teacher is not None:
                with torch.no_grad():
                    taught = teacher(**batch["inputs"])[mask]
                pair = (functional.log_softmax(x, -1) for x in (logits, taught))
                loss = 0.5 * loss + 0.5 * functional.kl_div(*pair, reduction="batchmean", log_target=True)
            update.zero_grad(set_to_none=True)
            loss.backward()
            update.step()
    return (time.process_time() - started) / tokens


def interleaved(repeats: int, ways: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Results of each way; who comes first alternates."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats):
        for name in list(ways)[:: 1 if repeat % 2 else -1]:
            found[name].append(ways[name]())
    return found


def ratio(found: dict[str, list[float]], slow: str, fast: str) -> str:
    """How many times as fast `fast` is: median over repeats of the ratios, and their range."""
    ratios = sorted(a / b for a, b in zip(found[slow], found[fast], strict=True))
    return f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"


def step(repeats: int, steps: int) -> None:
    module, teacher = corpus(steps), llama(128).eval()
    frozen = FrozenTeacher(teacher, CausalLanguage(module), "t")
    ways = {
        "hand": lambda: hand_loop(module, llama(64), teacher),
        "kdrun": lambda: kdrun_loop(module, llama(64), frozen, WORD_KD),
    }
    found = interleaved(repeats, ways)
    speed = {name: 1 / statistics.median(values) for name, values in found.items()}
    print(
        f"step: hand {speed['hand']:.0f} tokens/s, kdrun {speed['kdrun']:.0f}; speed of the hand loop {ratio(found, 'hand', 'kdrun')}"
    )


@torch.no_grad()
def validated(module, network) -> float:
    """Mean cross-entropy of validation in nats per token."""
    network.eval()
    losses = [
        functional.cross_entropy(network(**b["inputs"])[b["mask"]], b["targets"][b["mask"]], reduction="sum")
        for b in module.eval_loader("val", BATCH)
    ]
    return float(sum(losses)) / int(module.samples("val").predicted.sum())


def cached(repeats: int, steps: int) -> None:
    module, teacher = corpus(steps), llama(128)
    hand_loop(module, teacher, None, epochs=max(1, 100 // steps))
    frozen, students = FrozenTeacher(teacher.eval(), CausalLanguage(module), "t"), {}
    with tempfile.TemporaryDirectory() as folder:
        stored = topk.TopCache(Path(folder), module, K, {})
        started = time.process_time()
        stored.build(topk.TopTeacher(frozen, K), torch.device("cpu"), lambda done: None, moved)
        built = time.process_time() - started
        stored.finish()

        def trained(name: str, source: Any, objective: dict[str, Any]) -> float:
            students[name] = llama(64)
            return kdrun_loop(module, students[name], source, objective)

        ways = {
            "online": lambda: trained("online", frozen, WORD_KD),
            "online, top": lambda: trained("online, top", topk.TopTeacher(frozen, K), WORD_KD_TOPK),
            "cached": lambda: trained("cached", topk.CachedTop(stored, "t"), WORD_KD_TOPK),
            "alone": lambda: trained("alone", None, {"ce": {"weight": 1.0}}),
        }
        found = interleaved(repeats, ways)
        size = sum(path.stat().st_size for path in Path(folder).glob("*.npy"))
    tokens = int(module.samples("train").lengths.sum())
    losses = {name: validated(module, student) for name, student in students.items()}
    print(
        f"cached: speed of the online teacher {ratio(found, 'online', 'cached')}; {size / tokens:.1f} bytes a token "
        f"({topk.cache_bytes(module, K) / tokens:.1f} planned, float32 logits {4 * VOCABULARY}); built in {built:.1f} s for {tokens} tokens"
    )
    shown = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
    print(f"cached: nats per token on validation after an epoch: {shown}; teacher {validated(module, teacher):.4f}")


def jsd_by_hand(logits: torch.Tensor, taught: torch.Tensor) -> torch.Tensor:
    q, p = (functional.log_softmax(x, -1) for x in (logits, taught))
    m = torch.logsumexp(torch.stack([q, p]), 0) - float(np.log(2))
    pair = (functional.kl_div(m, x, reduction="batchmean", log_target=True) for x in (p, q))
    return 0.5 * sum(pair)


def policy_by_hand(module, student, teacher) -> float:
    """CPU seconds per step of transformers' generate, two forward passes and a step."""
    update, steps, started = adam(student.parameters()), 0, 0.0
    for batch in module.train_loader(BATCH, 0):
        if steps == SKIPPED:
            started = time.process_time()
        steps += 1
        prompts = batch["inputs"]["input_ids"][:, :PROMPT]
        student.model.eval()
        with torch.no_grad():
            drawn = {"do_sample": True, "top_k": 0, "max_new_tokens": ANSWER, "eos_token_id": EOS, "pad_token_id": PAD}
            written = student.model.generate(prompts, attention_mask=torch.ones_like(prompts), **drawn)
            taught = teacher.model(input_ids=written[:, :-1]).logits[:, PROMPT - 1 :]
        student.model.train()
        logits = student.model(input_ids=written[:, :-1]).logits[:, PROMPT - 1 :]
        ended = (written[:, PROMPT:] == EOS).cumsum(1)
        mask = (ended == 0) | ((ended == 1) & (written[:, PROMPT:] == EOS))
        update.zero_grad(set_to_none=True)
        jsd_by_hand(logits[mask], taught[mask]).backward()
        update.step()
    return (time.process_time() - started) / (steps - SKIPPED)


def policy_of_trl(steps: int, student, teacher) -> float:
    """CPU seconds per step of TRL's DistillationTrainer on as many prompts of as many tokens."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import DistillationConfig, DistillationTrainer

    words = {f"w{number}": number for number in range(VOCABULARY)}
    cutter = Tokenizer(models.WordLevel(words, unk_token=f"w{PAD}"))
    cutter.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=cutter, eos_token=f"w{EOS}", pad_token=f"w{PAD}")
    tokenizer.padding_side = "left"
    prompts = [" ".join(f"w{token}" for token in piece.ids[:PROMPT]) for piece in texts(steps * BATCH, PROMPT + ANSWER)]
    times: dict[str, float] = {}

    class Timer(TrainerCallback):
        def on_step_begin(self, args, state, control, **rest):
            if state.global_step == SKIPPED:
                times["begun"] = time.process_time()

        def on_step_end(self, args, state, control, **rest):
            times["ended"] = time.process_time()

    with tempfile.TemporaryDirectory() as folder:
        settings = DistillationConfig(
            output_dir=folder, use_cpu=True, bf16=False, report_to="none", save_strategy="no", logging_steps=10_000,
            per_device_train_batch_size=BATCH, max_steps=steps, max_completion_length=ANSWER, beta=0.5, disable_tqdm=True,
            learning_rate=3e-3, gradient_checkpointing=False,
        )  # fmt: skip
        trainer = DistillationTrainer(
            student.model,
            teacher.model,
            settings,
            Dataset.from_dict({"prompt": prompts}),
            processing_class=tokenizer,
            callbacks=[Timer()],
        )
        trainer.train()
    return (times["ended"] - times["begun"]) / (steps - SKIPPED)


def policy(repeats: int, steps: int) -> None:
    module, rollout = corpus(steps, PROMPT + ANSWER), {"prompt": PROMPT / (PROMPT + ANSWER), "temperature": 1.0}
    frozen = FrozenTeacher(llama(128).eval(), CausalLanguage(module), "t")
    tokens = BATCH * (PROMPT + ANSWER - 1)
    ways = {
        "hand": lambda: policy_by_hand(module, llama(64), llama(128).eval()),
        "kdrun": lambda: tokens * kdrun_loop(module, llama(64), frozen, JSD, rollout),
    }
    if find_spec("trl") is None:
        print("policy: TRL is not installed, so the loop by hand alone is compared")
    else:
        ways["trl"] = lambda: policy_of_trl(steps, llama(64), llama(128).eval())
    found = interleaved(repeats, ways)
    shown = ", ".join(f"{name} {1e3 * statistics.median(values):.0f} ms" for name, values in found.items())
    print(f"policy: CPU time of a step: {shown}")
    for other in (name for name in found if name != "kdrun"):
        print(f"policy: speed of {other} {ratio(found, other, 'kdrun')}")


PARTS = {"step": step, "cached": cached, "policy": policy}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=25, help=f"of an epoch; the first {SKIPPED} are not timed")
    parser.add_argument("--part", choices=tuple(PARTS), action="append")
    parser.add_argument("--batch", type=int, default=BATCH, help="rows of a batch")
    arguments = parser.parse_args()
    BATCH = arguments.batch
    torch.set_num_threads(1)
    for name in arguments.part or PARTS:
        PARTS[name](arguments.repeats, arguments.steps)
