"""kdrun chat RUN --image X.png "question": what the student of a run answers, and nothing else on standard output."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kdrun import kinds
from kdrun.problems import UserError
from kdrun.verbs.arguments import Arguments
from kdrun.verbs.asked import asked_network, asked_run, check_tokenizer
from kdrun.verbs.lines import print_line, read_lines
from kdrun.verbs.runs import read_words
from kdrun.words import whole_number

OPTIONS = ("arm", "seed", "which", "max_extra")


def main(args: Arguments) -> int:
    """Print the answer to the question, or to each line of standard input where none is given."""
    run, question, options = read_words(args.words, args.overrides, OPTIONS)
    view = asked_run(args, run, "not vision_language, causal_lm or answers: it cannot be asked")
    if kinds.find(view.config["data"].get("task", "classification")).continues:  # a language model
        return talk(view, args, question, options)
    missing = [path for path in args.image if not Path(path).expanduser().is_file()]
    if missing:
        raise UserError(f"--image {missing[0]}: there is no such file")
    network = asked_network(view, options, "teacher" if args.teacher else "student")
    answer = Answers(view, network, args.image, whole_number(options, "max_extra", least=1))
    for line in [question] if question else read_lines():
        if unknown := answer.unknown(line):
            print(f"kdrun: words that the network never saw: {', '.join(unknown)}", file=sys.stderr)
        print_line(answer(line) if line.strip() else "")
    return 0


def talk(view: Any, args: Arguments, question: str, options: dict[str, str]) -> int:
    """Print a language model's answers, by the chat template of its tokenizer."""
    from kdrun.verbs.generate import Continuations

    if args.image:
        raise UserError(f"{view.id} is a language model: it sees no pictures")
    arm = options.get("arm", "teacher" if args.teacher else "student")
    answers = Continuations(view, {**options, "arm": arm}, whole_number(options, "max_extra", least=1))
    for line in [question] if question else read_lines():
        print_line(answers((("user", line.strip()),)) if line.strip() else "")
    return 0


class Answers:
    """Greedy answers of a network to questions about the same pictures, each a line of text.

    view     the run: its config says how pictures and text become inputs
    network  as api.load gives it
    images   paths; the pictures come before the question in this order
    most     tokens of an answer at most; None: as the run was tested with
    Raises UserError for a picture that cannot be read.
    """

    def __init__(self, view: Any, network: Any, images: Iterable[str] = (), most: int | None = None):
        import numpy as np

        from kdrun.domains.vision_language.task import VisionLanguage

        self.network, self.module = network, prompts_of(view, network)
        size = self.module.spec.image_size
        pixels = [_pixels(path, size) for path in images]
        self.pixels = np.stack(pixels) if pixels else np.zeros((0, 3, size, size), np.uint8)
        decoding = view.config["trainer"]["decoding"]
        self.task = VisionLanguage(self.module, decoding if most is None else {**decoding, "max_extra": most})

    def __call__(self, question: str) -> str:
        (text,) = self.task.answer(self.network, self.module.encode_prompt(question.strip(), self.pixels))
        return " ".join(text.split())

    def unknown(self, question: str) -> list[str]:
        """Words and marks of a question that the tokenizer has no tokens for."""
        return self.module.encoder.tokenizer.unknown(question)


def prompts_of(view: Any, network: Any) -> Any:
    """A data module that makes prompts for this network and reads its answers.

    It has no samples where the tokenizer is at hand, so that a question costs no data set; else it is that of the run.
    Raises UserError where the tokenizer is not the one that the network was trained with.
    """
    from kdrun.domains.load import load_data

    config, paths = view.config["data"], view.config["paths"]
    wanted = network.kdrun["tokenizer"]
    given = (config.get("vision") or {}).get("tokenizer")
    with TemporaryDirectory() as folder:
        path = given or _kept_tokenizer(Path(paths["cache"]), wanted, Path(folder))
        module = load_data(config, paths) if path is None else _without_data(config, str(path), paths["cache"])
    check_tokenizer(view, module, network)
    return module


def _pixels(path: str, size: int) -> Any:
    from kdrun.data.pictures import BrokenImage
    from kdrun.domains.vision_language.images import read_image

    try:
        return read_image(Path(path).expanduser(), size)
    except BrokenImage as error:
        raise UserError(f"--image {path}: {error}") from None


def _kept_tokenizer(cache: Path, sha256: str, folder: Path) -> Path | None:
    """A tokenizer that was made for some data and is still kept, written into a folder."""
    from kdrun.data import kept

    for path in sorted((cache / "text").glob("*.json")):
        content = kept.read(path)
        if content is not None and hashlib.sha256(content).hexdigest() == sha256:
            (folder / "tokenizer.json").write_bytes(content)
            return folder / "tokenizer.json"
    return None


def _without_data(config: dict[str, Any], tokenizer: str, cache: str) -> Any:
    """The data module of this config without its samples."""
    from kdrun.domains.load import separate
    from kdrun.domains.vision_language.build import vision_module
    from kdrun.domains.vision_language.source import Conversations, Sample, Turn

    _, common = separate(config)
    common = {**common, **common["vision"], "tokenizer": tokenizer, "labelled": None, "unlabelled": None}
    asked = (Sample(0, (), (Turn("?", "!"),), "chat"),)
    return vision_module(
        Conversations("chat", {"train": (), "val": (), "test": asked}, _NoImages(), (), ""), common, cache
    )


class _NoImages:
    """An image store without images."""

    size, source_hash = 0, ""

    def __len__(self) -> int:
        return 0

    def pixels(self, indices: Any) -> Any:
        raise IndexError("there are no images")
