"""Speed of translation in kdrun: CPU seconds on one thread, medians over interleaved repeats in one process.

    python scripts/bench_translation.py [--repeats 3] [--sentences 200]

Prints, on random weights of the size of nmt_t128 (2 + 2 layers of width 128, 8,000 tokens) with a beam of 5:
  beam    sentences per CPU second of kdrun's beam search and of transformers' generate, on the same network of
          transformers and the same batches, and of kdrun's own Transformer (needs the extra hf)
  step    target tokens per second of a distillation step (nmt_t32 taught by nmt_t64, half smoothed labels, half soft
          targets) in kdrun and in a loop written by hand, on the same batches; who comes first alternates
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch.nn import functional

from kdrun.data.ragged import Ragged
from kdrun.decoding.beam import BeamSearch, decode
from kdrun.domains.translation.loader import TextSamples
from kdrun.domains.translation.module import TextDataModule
from kdrun.domains.translation.networks.seq2seq import HuggingFaceSeq2Seq
from kdrun.domains.translation.networks.transformer import Transformer
from kdrun.domains.translation.spec import TextSpec
from kdrun.domains.translation.task import Translation
from kdrun.learning.callbacks import Keeping
from kdrun.learning.learner import LearnerModule
from kdrun.learning.report import Report
from kdrun.learning.teacher import FrozenTeacher
from kdrun.learning.trainer import Epochs, make_trainer
from kdrun.ledger.ledger import Ledger, clocks
from kdrun.objectives.terms import build_objective

VOCABULARY, PAD, BOS, EOS = 8000, 0, 1, 2
WIDTH, LAYERS, HEADS, FEEDFORWARD, BEAM = 128, 2, 4, 512, 5
WORDS, TOKENS, SKIPPED = 4000, 1024, 5  # of the corpus for steps; the first steps are not timed
HARDWARE = {"device": "cpu", "devices": 1, "precision": "fp32", "threads": 1}
WORD_KD = {"ce": {"weight": 0.5, "label_smoothing": 0.1}, "kd": {"weight": 0.5, "temperature": 1.0}}
LENGTHS = (8, 16, 24, 32, 40)  # source tokens; batches of one length, so that both searches have the same limit
NO_END = -30.0  # added to the end's logit: every output is as long as is allowed, and both searches do the same work


def sources(number: int) -> list[list[int]]:
    """`number` sentences, equally many of each length."""
    draw = random.Random(0)
    lengths = [length for length in LENGTHS for _ in range(number // len(LENGTHS))]
    return [[draw.randrange(3, VOCABULARY) for _ in range(length - 1)] + [EOS] for length in lengths]


def marian() -> HuggingFaceSeq2Seq:
    torch.manual_seed(0)
    layers = {"encoder_layers": LAYERS, "decoder_layers": LAYERS}
    heads = {"encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS}
    widths = {"d_model": WIDTH, "encoder_ffn_dim": FEEDFORWARD, "decoder_ffn_dim": FEEDFORWARD}
    config = {"model_type": "marian", "init_std": 0.09, **layers, **heads, **widths}
    network = HuggingFaceSeq2Seq(config=config, vocabulary=VOCABULARY, pad=PAD, bos=BOS, eos=EOS).eval()
    network.model.final_logits_bias[0, EOS] = NO_END
    return network


def batches_of(sentences: list[list[int]]) -> list[list[int]]:
    """Rows of the sentences of each length."""
    return [[row for row, one in enumerate(sentences) if len(one) == length] for length in LENGTHS]


def searched(network: torch.nn.Module, sentences: list[list[int]]) -> list[list[int]]:
    """What kdrun's beam search finds in the same batches."""
    found: list[list[int]] = [[] for _ in sentences]
    for rows in batches_of(sentences):
        best = decode(
            network, [sentences[row] for row in rows], bos=BOS, eos=EOS, pad=PAD, search=BeamSearch(beam=BEAM)
        )
        for row, hypotheses in zip(rows, best, strict=True):
            found[row] = hypotheses[0].tokens
    return found


def generated(network: HuggingFaceSeq2Seq, sentences: list[list[int]], early_stopping: bool) -> list[list[int]]:
    """What transformers' generate finds, batch by batch as kdrun puts them together."""
    found: list[list[int]] = [[] for _ in sentences]
    for rows in batches_of(sentences):
        source = torch.tensor([sentences[row] for row in rows])
        output = network.model.generate(
            source,
            attention_mask=torch.ones_like(source),
            num_beams=BEAM,
            max_new_tokens=int(BeamSearch().longest(torch.tensor(source.shape[1]))) + 1,
            min_new_tokens=1,
            suppress_tokens=[PAD, BOS],
            forced_eos_token_id=EOS,
            early_stopping=early_stopping,
            do_sample=False,
        )
        for row, tokens in zip(rows, output[:, 1:].tolist(), strict=True):
            found[row] = tokens[: tokens.index(EOS)] if EOS in tokens else tokens
    return found


def beam(repeats: int, number: int) -> None:
    sentences = sources(number)
    torch.manual_seed(0)
    own = Transformer(VOCABULARY, PAD, WIDTH, LAYERS, LAYERS, HEADS, FEEDFORWARD, share="all").eval()
    ways: dict[str, Callable[[], list[list[int]]]] = {"kdrun, its own Transformer": lambda: searched(own, sentences)}
    if find_spec("transformers") is None:
        print("beam: nothing to compare with, transformers is not installed: pip install -e '.[hf]'")
    else:
        theirs = marian()
        ways |= {
            "kdrun, the network of transformers": lambda: searched(theirs, sentences),
            "generate(early_stopping=True)": lambda: generated(theirs, sentences, True),
            "generate()": lambda: generated(theirs, sentences, False),
        }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    tokens: dict[str, int] = {}
    for repeat in range(repeats + 1):  # the first is not counted
        for way, run in ways.items():
            started = time.process_time()
            tokens[way] = sum(map(len, run()))
            if repeat:
                seconds[way].append(time.process_time() - started)
    medians = {way: statistics.median(found) for way, found in seconds.items()}
    for way, median in medians.items():
        speed = f"{len(sentences) / median:6.1f} sentences/s, {tokens[way] / median:5.0f} tokens/s"
        ratios = [f"{medians[other] / median:.2f} x {other}" for other in medians if other.startswith("generate")]
        print(f"beam: {way:36} {speed}", *ratios, sep="; ")


def corpus(pairs: int) -> TextDataModule:
    """Pairs of random sentences without text: speed does not depend on what they say."""
    draw = np.random.default_rng(0)

    def side(count: int) -> Ragged:
        return Ragged.of([[*draw.integers(4, WORDS, draw.integers(4, 24)).tolist(), EOS] for _ in range(count)])

    sizes = {"train": pairs, "val": 8, "test": 8}
    spec = TextSpec("bench", WORDS, PAD, BOS, EOS, sizes, 64, "0" * 64, ("de", "en"), 3)
    samples = {name: TextSamples(np.arange(n), side(n), side(n), PAD, BOS) for name, n in sizes.items()}
    rows = dict.fromkeys(sizes, np.arange(0))  # no text
    return TextDataModule(SimpleNamespace(extra=()), rows, None, spec, samples, {})


class Quiet(Translation):
    """Validation without generation: the steps are timed."""

    def evaluate(self, metrics, network, batch, final=False):
        self.update(metrics, self.predict(network, batch["inputs"]), batch)
        metrics["text"].update(["a"], ["a"])


def adam(parameters) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.98), weight_decay=1e-4)


def hand_loop(module, student, teacher) -> float:
    """Target tokens per second of the loop a person would write."""
    update, tokens = adam(student.parameters()), 0
    student.train()
    for steps, batch in enumerate(module.train_loader(TOKENS, 0)):
        if steps == SKIPPED:
            started, tokens = time.perf_counter(), 0
        tokens += batch["size"]
        with torch.no_grad():
            taught = teacher(**batch["inputs"])
        logits, mask = student(**batch["inputs"])[batch["mask"]], batch["mask"]
        gold = functional.cross_entropy(logits, batch["targets"][mask], label_smoothing=0.1)
        soft = functional.kl_div(
            functional.log_softmax(logits, -1),
            functional.log_softmax(taught[mask], -1),
            reduction="batchmean",
            log_target=True,
        )
        update.zero_grad(set_to_none=True)
        (0.5 * gold + 0.5 * soft).backward()
        update.step()
    return tokens / (time.perf_counter() - started)


class Clock(Keeping):
    """kdrun's own callback, which also notes when the first timed step begins and the last one ends."""

    tokens, begun, ended = 0, 0.0, 0.0

    def on_train_batch_start(self, trainer, learner, batch, batch_idx):
        if batch_idx == SKIPPED:
            self.begun, self.tokens = time.perf_counter(), 0
        self.tokens += batch["size"]
        super().on_train_batch_start(trainer, learner, batch, batch_idx)

    def on_train_batch_end(self, trainer, learner, *rest):
        super().on_train_batch_end(trainer, learner, *rest)
        self.ended = time.perf_counter()


def kdrun_loop(module, student, teacher) -> float:
    """Target tokens per second of the learner under its Lightning trainer, with everything a run has on."""
    task = Quiet(module)
    frozen = FrozenTeacher(teacher, task, "t")
    learner = LearnerModule(student, task, build_objective(WORD_KD), optimizer=adam, teacher=frozen)
    options = {"monitor": "loss", "mode": "min", "log_every": 20, "seconds": 1e9, "identity": {}, "epochs": 1}
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock(Path(folder), Report(), "bench", ledger=Ledger(clocks()), **options)
        trainer = make_trainer(HARDWARE, callbacks=[clock], max_epochs=1)
        trainer.fit(learner, Epochs(module.train_loader(TOKENS, 0), learner), module.eval_loader("val", TOKENS))
    return clock.tokens / (clock.ended - clock.begun)


def step(repeats: int, pairs: int) -> None:
    module, speeds = corpus(pairs), {"hand": [], "kdrun": []}
    sizes = {"encoder_layers": 2, "decoder_layers": 2, "heads": 4, "dropout": 0.1, "share": "all"}
    for repeat in range(repeats):
        for who in ("hand", "kdrun") if repeat % 2 else ("kdrun", "hand"):
            torch.manual_seed(0)
            student, teacher = (Transformer(WORDS, PAD, w, feedforward=4 * w, **sizes) for w in (32, 64))
            loop = hand_loop if who == "hand" else kdrun_loop
            speeds[who].append(loop(module, student, teacher.eval()))
    hand, ours = (statistics.median(speeds[who]) for who in ("hand", "kdrun"))
    print(
        f"step: hand {hand:.0f} target tokens/s, kdrun {ours:.0f}, ratio {ours / hand:.3f}; "
        f"hand from {min(speeds['hand']):.0f} to {max(speeds['hand']):.0f}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sentences", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=3000)
    parser.add_argument("--part", choices=("beam", "step"), action="append")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if "step" in (arguments.part or ["step"]):
        step(arguments.repeats, arguments.pairs)
    if "beam" in (arguments.part or ["beam"]):
        beam(arguments.repeats, arguments.sentences)
