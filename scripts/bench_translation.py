"""Speed of translation in kdrun: CPU seconds on one thread, medians over interleaved repeats in one process.

    python scripts/bench_translation.py [--repeats 3] [--sentences 200]

Prints, on random weights of the size of nmt_t128 (2 + 2 layers of width 128, 8,000 tokens) with a beam of 5:
  beam    sentences per CPU second of kdrun's beam search and of transformers' generate, on the same network of
          transformers and the same batches, and of kdrun's own Transformer (needs the extra hf)
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec

import torch

from kdrun.decoding.beam import Search, decode
from kdrun.networks.seq2seq import HuggingFaceSeq2Seq
from kdrun.networks.transformer import Transformer

VOCABULARY, PAD, BOS, EOS = 8000, 0, 1, 2
WIDTH, LAYERS, HEADS, FEEDFORWARD, BEAM = 128, 2, 4, 512, 5
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
        best = decode(network, [sentences[row] for row in rows], bos=BOS, eos=EOS, pad=PAD, search=Search(beam=BEAM))
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
            max_new_tokens=int(Search().longest(torch.tensor(source.shape[1]))) + 1,
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
        print("beam: nothing to compare with, transformers is not installed: pip install 'kdrun[hf]'")
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sentences", type=int, default=200)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    beam(arguments.repeats, arguments.sentences)
