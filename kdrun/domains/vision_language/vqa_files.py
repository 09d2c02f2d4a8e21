"""Evaluations from their official files: TextVQA, GQA, ScienceQA, MME and POPE. Only ScienceQA has samples to train on.

Each is a source of its own, and a further test set of another one:

    data.tests.pope._target_=kdrun.domains.vision_language.vqa_files.pope data.tests.pope.root=FOLDER

`suffix` is what LLaVA-1.5 puts behind the questions of such a set; "" for networks that were not trained with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdrun.data import folders
from kdrun.data.source import SPLITS, part_of
from kdrun.domains.vision_language.files import Entry, assembled, each, look_at, read_json, text_of, texts_of
from kdrun.domains.vision_language.source import Conversations, Turn, check_part
from kdrun.problems import UserError

TARGETS = ("textvqa", "gqa", "scienceqa", "mme", "pope")

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
LETTERS = "ABCDEFGHIJ"
SUFFIXES = (".jpg", ".png", ".jpeg")


def textvqa(
    root: str | Path | None = None,
    file: str = "TextVQA_0.5.1_val.json",
    images: str = "train_images",
    size: int = 96,
    suffix: str = SHORT,
    part: str = "questions",
    limit_broken: float = 0.0,
    *,
    cache: str | Path | None = None,
) -> Conversations:
    """TextVQA (Singh et al. 2019): `{"data": [{"question_id", "image_id", "question", "answers": [10]}]}`, images at
    `images/<image_id>.jpg`. The validation file is what results are reported on; its answers are those of ten people."""
    root = _root(root, "textvqa", part)
    found = read_json(root / file, "file")
    if not isinstance(found, dict) or "data" not in found:
        raise UserError(f"{root / file} has no 'data': it is not a file of TextVQA")

    def read(position: int, entry: dict) -> Entry:
        answers = texts_of(entry, "answers")
        if not answers:
            raise ValueError("it has no 'answers': the test file of TextVQA has none, use that of validation")
        usual = max(answers, key=lambda answer: (answers.count(answer), -answers.index(answer)))
        image = f"{text_of(entry, 'image_id')}.jpg"
        return Entry(position, (image,), (Turn(text_of(entry, "question") + suffix, usual),), "textvqa", (), answers)

    entries = each(found["data"], root / file, read)
    return _evaluation("textvqa", {"test": entries}, root / images, size, limit_broken, cache)


def gqa(
    root: str | Path | None = None,
    file: str = "testdev_balanced_questions.json",
    images: str = "images",
    size: int = 96,
    suffix: str = SHORT,
    part: str = "questions",
    limit_broken: float = 0.0,
    *,
    cache: str | Path | None = None,
) -> Conversations:
    """GQA (Hudson and Manning 2019): `{question id: {"imageId", "question", "answer", "types": {"structural"}}}`, images at
    `images/<imageId>.jpg`. Types are the structural ones: verify, query, choose, logical, compare."""
    root = _root(root, "gqa", part)
    found = read_json(root / file, "file")
    if not isinstance(found, dict):
        raise UserError(f"{root / file} is no object of questions by id: it is not a file of GQA")

    def read(position: int, entry: dict) -> Entry:
        types = entry.get("types")
        kind = types.get("structural") if isinstance(types, dict) else None
        turn = Turn(text_of(entry, "question") + suffix, text_of(entry, "answer"))
        return Entry(position, (f"{text_of(entry, 'imageId')}.jpg",), (turn,), f"gqa_{kind}" if kind else "gqa")

    entries = each([found[key] for key in sorted(found)], root / file, read)
    return _evaluation("gqa", {"test": entries}, root / images, size, limit_broken, cache)


def scienceqa(
    root: str | Path | None = None,
    file: str = "problems.json",
    images: str = "images",
    only_images: bool = False,
    size: int = 96,
    suffix: str = LETTER,
    part: str = "questions",
    limit_broken: float = 0.01,
    *,
    cache: str | Path | None = None,
) -> Conversations:
    """ScienceQA (Lu et al. 2022): `{id: {"question", "choices", "answer", "hint", "image", "split", "subject"}}`, images at
    `images/<split>/<id>/<image>`. Its training and validation splits are there to train on. only_images: without the
    questions that have none. Types are the subjects."""
    root = _root(root, "scienceqa", part)
    found = read_json(root / file, "file")
    if not isinstance(found, dict):
        raise UserError(f"{root / file} is no object of problems by id: it is not a file of ScienceQA")
    keys = sorted(found, key=lambda key: (len(key), key))
    splits: dict[str, list[Entry]] = {"train": [], "val": [], "test": []}

    def read(position: int, entry: dict) -> Entry | None:
        image, split, choices = entry.get("image"), text_of(entry, "split"), texts_of(entry, "choices")
        part = next((name for name, number in SPLITS.items() if number == part_of(split)), None)
        if part is None:
            raise ValueError(f"'split' is {split!r}, not train, val or test")
        answer = entry.get("answer")
        if not isinstance(answer, int) or not 0 <= answer < min(len(choices), len(LETTERS)):
            raise ValueError(f"'answer' is {answer!r}, not the number of one of {len(choices)} choices")
        if only_images and not image:
            return None
        hint = entry.get("hint")
        prompt = f"Context: {hint}\n{text_of(entry, 'question')}" if hint else text_of(entry, "question")
        listed = "".join(f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
        subject = str(entry.get("subject") or "scienceqa").replace(" ", "_")
        names = (f"{split}/{keys[position]}/{image}",) if image else ()
        turn = Turn(prompt + listed + suffix, LETTERS[answer])
        made = Entry(position, names, (turn,), subject, choices)
        splits[part].append(made)
        return made

    each([found[key] for key in keys], root / file, read)
    return _evaluation("scienceqa", splits, root / images, size, limit_broken, cache)


def mme(
    root: str | Path | None = None,
    size: int = 96,
    suffix: str = SHORT,
    part: str = "questions",
    limit_broken: float = 0.0,
    *,
    cache: str | Path | None = None,
) -> Conversations:
    """MME (Fu et al. 2023): one folder for each category, with images and texts of the same name, either side by side or in
    `images` and `questions_answers_YN`; each text has two lines, a question and Yes or No behind a tab. Types are
    `mme_<category>`."""
    root = _root(root, "mme", part)
    entries: list[Entry] = []
    for category in folders.folders(root):
        parted = category / "questions_answers_YN"
        pictures = category / "images" if parted.is_dir() else category
        for text in sorted((parted if parted.is_dir() else category).glob("[!.]*.txt")):
            image = next(
                (p for s in SUFFIXES if (p := pictures / f"{text.stem}{s}").is_file()), pictures / f"{text.stem}.jpg"
            )
            name = image.relative_to(root).as_posix()
            for number, line in enumerate(_lines(text), start=1):
                question, tab, answer = line.rpartition("\t")
                if not tab or answer.strip().lower() not in ("yes", "no"):
                    raise UserError(f"{text}, line {number}: expected a question and Yes or No behind a tab")
                turn = Turn(question.strip() + suffix, answer.strip())
                entries.append(Entry(len(entries), (name,), (turn,), f"mme_{category.name.lower()}"))
    if not entries:
        raise UserError(f"data.root={root} holds no questions of MME: expected CATEGORY/*.txt")
    return _evaluation("mme", {"test": entries}, root, size, limit_broken, cache)


def pope(
    root: str | Path | None = None,
    files: str = "coco_pope_*.json",
    images: str = "val2014",
    size: int = 96,
    suffix: str = SHORT,
    part: str = "questions",
    limit_broken: float = 0.0,
    *,
    cache: str | Path | None = None,
) -> Conversations:
    """POPE (Li et al. 2023): lines of `{"question_id", "image", "text", "label": "yes" or "no"}`, one file for each way of
    choosing objects; images (of COCO) in `images`. Types are `pope_random`, `pope_popular` and `pope_adversarial`."""
    root = _root(root, "pope", part)
    paths = sorted(root.glob(files))
    if not paths:
        raise UserError(f"data.root={root} holds no {files}")
    entries: list[Entry] = []
    for path in paths:
        kind = f"pope_{path.stem.rpartition('_')[2]}"
        first = len(entries)

        def read(position: int, entry: dict, first: int = first, kind: str = kind) -> Entry:
            label = text_of(entry, "label").strip().lower()
            if label not in ("yes", "no"):
                raise ValueError(f"'label' is {label!r}, not yes or no")
            turn = Turn(text_of(entry, "text") + suffix, label.capitalize())
            return Entry(first + position, (text_of(entry, "image"),), (turn,), kind)

        found = read_json(path, "files")
        entries += each([found] if isinstance(found, dict) else found, path, read)
    return _evaluation("pope", {"test": entries}, root / images, size, limit_broken, cache)


for _source in (textvqa, gqa, scienceqa, mme, pope):
    _source.reads = ("root",)


def _root(root: str | Path | None, name: str, part: str) -> Path:
    check_part(part)
    if part == "captions":
        raise UserError(f"{name} has no captions: it has no data for a first stage", "pretrain=null")
    if root is None:
        raise UserError(f"data={name} needs data.root=FOLDER with its official files")
    return folders.existing(root)


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None


def _evaluation(
    name: str,
    splits: dict[str, Sequence[Entry]],
    images: Path,
    size: int,
    limit_broken: float,
    cache: str | Path | None,
) -> Conversations:
    found = look_at(images, (image for part in splits.values() for e in part for image in e.images), size, cache)
    corpus = [text for e in splits.get("train", ()) for turn in e.turns for text in (turn.prompt, turn.answer)]
    return assembled(name, splits, found, limit_broken=limit_broken, corpus=corpus)
