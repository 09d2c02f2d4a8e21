"""Second starts on large data: what a command waits for before its first batch, on synthetic files of real shape, first and second time.

    python scripts/bench_data.py [--pairs 200000] [--conversations 40000] [--images 50000] [--texts 200000] [--classified 200000] [--only pairs] [--keep FOLDER]

Each start is a process of its own that does what a command does with its data: hash of the content, data module, audit, the order of an epoch
and its first batch of 32 samples (8 photos). Its imports are not counted. Seconds are of the processor; memory is the largest that was
its own while it ran (anonymous pages; mapped files may be dropped at any time and do not count).

  pairs          two files of lines, 25 words on a side                     (WMT: 4.5 million)
  conversations  JSON of LLaVA with a photo each, 2.5 turns                 (LLaVA-1.5: 665,000)
  images         a folder of photos in 1,000 classes, of the same few bytes (ImageNet: 1.28 million)
  texts          JSONL of 60 words each, in packed rows
  classified     CSV of texts of 60 words with one of 20 classes each

The last column is the second start at the size in brackets, from the same machine: a straight line through two sizes, the smaller one of a
quarter. The line below says by how much the memory of a first start grows with the files, by the same line: under 1, and data may be larger than
memory. What the files hold is made up, so first starts say little about other tokenizers.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

WORDS = 2_000
LAUNCHED = "--start"
FULL = {"pairs": 4_500_000, "conversations": 665_000, "images": 1_280_000, "texts": 4_500_000, "classified": 4_500_000}
USUAL = {"pairs": 200_000, "conversations": 40_000, "images": 50_000, "texts": 200_000, "classified": 200_000}


def sentences(count: int, words: int, seed: int) -> Iterator[str]:
    """Sentences of so many words on average, of which the most frequent come most often."""
    import numpy as np

    random = np.random.default_rng(seed)
    syllables = [a + b for a in "bdfgklmnprst" for b in ("a", "e", "i", "o", "u", "an", "er")]
    names = ["".join(random.choice(syllables, random.integers(1, 4))) for _ in range(WORDS)]
    weights = 1 / np.arange(1, WORDS + 1)
    edges = np.cumsum(weights / weights.sum())
    for first in range(0, count, 10_000):
        lengths = random.integers(words // 2, words * 3 // 2, min(10_000, count - first))
        chosen = np.searchsorted(edges, random.random(lengths.sum())).clip(max=WORDS - 1)
        ends = np.cumsum(lengths)
        for number, (end, length) in enumerate(zip(ends.tolist(), lengths.tolist(), strict=True), first):
            yield " ".join([*(names[place] for place in chosen[end - length : end].tolist()), str(number)])


def pairs(folder: Path, count: int) -> dict[str, Any]:
    for seed, language in enumerate(("de", "en")):
        with open(folder / f"train.{language}", "w", encoding="utf-8") as file:
            file.writelines(f"{sentence}\n" for sentence in sentences(count, 25, seed))
    node = {"_target_": "kdrun.domains.translation.parallel_text.parallel_text", "task": "translation"}
    return {**node, "source": str(folder / "train.de"), "target": str(folder / "train.en"), "test_fraction": 0.01}


def texts(folder: Path, count: int) -> dict[str, Any]:
    with open(folder / "texts.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in sentences(count, 60, 2))
    node = {"_target_": "kdrun.domains.language.files.text_corpus", "task": "causal_lm"}
    return {**node, "root": str(folder / "texts.jsonl"), "test_fraction": 0.01, "val_fraction": 0.01}


def classified(folder: Path, count: int) -> dict[str, Any]:
    with open(folder / "texts.csv", "w", encoding="utf-8") as file:
        file.write("text,label\n")
        file.writelines(f"{text},{number % 20}\n" for number, text in enumerate(sentences(count, 60, 2)))
    node = {"_target_": "kdrun.domains.text.files.text_file", "task": "text_classification"}
    return {**node, "root": str(folder / "texts.csv"), "test_fraction": 0.01, "val_fraction": 0.01}


def photo(number: int) -> bytes:
    """A JPEG of 8 pixels, each number another."""
    from PIL import Image

    content = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, number // 256 % 256, number // 65536)).save(content, "JPEG")
    return content.getvalue() + number.to_bytes(4, "little")  # what stands behind the end of an image is not read


def conversations(folder: Path, count: int) -> dict[str, Any]:
    said = sentences(5 * count, 20, 3)
    with open(folder / "talk.jsonl", "w", encoding="utf-8") as file:
        for number in range(count):
            name = folder / "images" / f"{number % 1000:03}" / f"{number}.jpg"
            name.parent.mkdir(parents=True, exist_ok=True)
            name.write_bytes(photo(number))
            turns = []
            for turn in range(2 + number % 2):
                place = "<image>\n" if not turn else ""
                turns += [{"from": "human", "value": place + next(said)}, {"from": "gpt", "value": next(said)}]
            image = name.relative_to(folder / "images").as_posix()
            file.write(json.dumps({"id": str(number), "image": image, "conversations": turns}) + "\n")
    node = {"_target_": "kdrun.domains.vision_language.llava_json.llava_json", "task": "vision_language", "size": 8}
    files = {"root": str(folder), "file": "talk.jsonl", "images": "images", "test_fraction": 0.01}
    return {**node, **files, "vision": {"tower": None, "image_tokens": 4, "size": 8, "max_length": 512}}


def images(folder: Path, count: int) -> dict[str, Any]:
    for part, share in (("train", 0.96), ("val", 0.04)):
        for number in range(int(count * share)):
            path = folder / "photos" / part / f"n{number % 1000:08}" / f"{part}_{number}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(photo(number))
    node = {"_target_": "kdrun.domains.images.image_folder.image_folder", "task": "classification"}
    return {**node, "root": str(folder / "photos"), "test_fraction": 0.01}


CASES: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "pairs": pairs,
    "conversations": conversations,
    "images": images,
    "texts": texts,
    "classified": classified,
}


def start(config: dict[str, Any], cache: str) -> dict[str, float]:
    """What a start takes, in this process: {"seconds", "wall", "gigabytes", "imports"}."""
    import threading

    began = time.perf_counter()
    import kdrun
    from kdrun.domains.load import content_hash, load_data
    from kdrun.learning import learner

    assert kdrun and learner
    imported, worked = time.perf_counter(), time.process_time()
    before, most, done = own_memory(), [0.0], threading.Event()

    def look() -> None:
        while not done.wait(0.05):
            most[0] = max(most[0], own_memory() - before)

    watching = threading.Thread(target=look, daemon=True)
    watching.start()
    paths = {"cache": cache}
    content_hash(config, paths)
    module = load_data(config, paths)
    module.audit()
    loader = module.train_loader({"translation": 1024, "classification": 8}.get(config["task"], 32), seed=0)
    loader.set_epoch(0)
    next(iter(loader))
    seconds, wall = time.process_time() - worked, time.perf_counter() - imported
    done.set()
    watching.join()
    return {
        "seconds": seconds,
        "wall": wall,
        "gigabytes": max(most[0], own_memory() - before),
        "imports": imported - began,
    }


def own_memory() -> float:
    """Gigabytes of this process's own pages."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1e6
    return 0.0


def launched(config: dict[str, Any], cache: Path) -> dict[str, float]:
    """`start` in a process of its own."""
    command = [sys.executable, __file__, LAUNCHED, json.dumps(config), str(cache)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(result.stderr[-2000:])
    return json.loads(result.stdout.splitlines()[-1])


def measured(name: str, count: int, folder: Path) -> list[dict[str, float]]:
    """First and second start on so many samples."""
    place = folder / f"{name}-{count}"
    place.mkdir(parents=True)
    config = CASES[name](place, count)
    size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) / 1e9
    return [{**launched(config, place / "cache"), "files": size} for _ in range(2)]


def report(name: str, count: int, folder: Path) -> None:
    small = measured(name, max(count // 4, 1_000), folder)
    first, second = measured(name, count, folder)
    slope = max(second["seconds"] - small[1]["seconds"], 0.0) / (count - max(count // 4, 1_000))
    full = second["seconds"] + slope * (FULL[name] - count)
    weight = max(second["gigabytes"] - small[1]["gigabytes"], 0.0) / (count - max(count // 4, 1_000))
    heavy = second["gigabytes"] + weight * (FULL[name] - count)
    print(
        f"{name:<14}{count:>10,}{first['seconds']:>9.1f} s{second['seconds']:>9.2f} s"
        f"{first['seconds'] / second['seconds']:>7.0f}x{first['gigabytes']:>8.2f} GB{second['gigabytes']:>8.2f} GB"
        f"{FULL[name]:>12,}{full:>7.1f} s{heavy:>7.2f} GB",
    )
    more, longer = (first[key] - small[0][key] for key in ("gigabytes", "files"))
    print(
        f"{'':<14}files of {first['files']:.3f} GB; a first start has {more / longer:.2f} GB of memory more for each further one",
        flush=True,
    )


def main() -> None:
    if LAUNCHED in sys.argv:
        config, cache = sys.argv[2:4]
        print(json.dumps(start(json.loads(config), cache)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, count in USUAL.items():
        parser.add_argument(f"--{name}", type=int, default=count, help=f"samples ({count:,})")
    parser.add_argument("--only", action="append", choices=list(CASES), help="only these; may be repeated")
    parser.add_argument("--keep", type=Path, help="folder for the files, which stay there; an empty one")
    options = parser.parse_args()
    print(
        f"{'':<14}{'samples':>10}{'first':>11}{'second':>11}{'ratio':>8}{'first':>11}{'second':>11}{'at':>12}{'second start':>19}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only or CASES:
            report(name, getattr(options, name), options.keep or Path(folder))


if __name__ == "__main__":
    main()
