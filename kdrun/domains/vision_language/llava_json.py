"""Your own conversations on images, in the JSON of LLaVA (LLaVA-1.5's 558k captions and 665k conversations, too).

    [{"id": "...", "image": "coco/train2017/000000033471.jpg",
      "conversations": [{"from": "human", "value": "<image>\\nWhat is this?"}, {"from": "gpt", "value": "A bus."}, ...]}]

Also as JSON lines. "image" may be a list and have another of the names in PICTURES; it is absent for text alone. Beyond LLaVA
an entry may have a "type" (of its question, by which scores are told apart), "choices" (of a multiple choice) and "answers" (all
that are accepted). Keys that are not read are counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from posixpath import normpath
from typing import Any

from kdrun.data.folders import existing
from kdrun.data.text_keys import blank
from kdrun.domains.vision_language.files import (
    SHIFT,
    UNREAD,
    Corpus,
    Entry,
    assembled,
    each,
    look_at,
    read_json,
    text_of,
    texts_of,
    with_tests,
)
from kdrun.domains.vision_language.image_names import below
from kdrun.domains.vision_language.source import Conversations, Turn, check_part
from kdrun.problems import UserError

TARGETS = ("llava_json",)

PLACE = "<image>"
PICTURES = re.compile(r"(image|img|pic|picture|photo)s?([_-]?(path|file|url|uri|name|file_?name)s?)?", re.IGNORECASE)
"""What an entry may call the names of its pictures."""
NUMBERED = re.compile(r"(image|img|pic|picture|photo|coco)[_-]?ids?", re.IGNORECASE)
"""What an entry may call a picture that it does not name by its file."""
OTHER_PLACES = re.compile(
    r"<\|?(?:im(?:a)?ge?|picture|video)(?:[_ -]?(?:\d+|pad|placeholder|here|start))?\|?>", re.IGNORECASE
)
"""What other programs write for PLACE."""
READ = frozenset(("id", "conversations", "type", "choices", "answers"))
"""Keys of an entry that are read beside those, or that are known to say nothing."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".mp4", ".mov", ".avi", ".mkv", ".webm")
ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}


def llava_json(
    root: str | Path | None = None,
    file: str | None = None,
    images: str | None = None,
    part: str = "questions",
    captions: str | None = None,
    captions_images: str | None = None,
    val_file: str | None = None,
    test_file: str | None = None,
    size: int = 96,
    limit_broken: float = 0.01,
    tests: dict | None = None,
    *,
    cache: str | Path | None = None,
) -> Conversations:
    """Conversations of `root/file` about images in `root/images`.

    file             JSON or JSON lines of conversations
    images           folder of images; null: root
    part             questions: those of `file`; captions: those of `captions`, for the first stage
    captions_images  folder of their images; null: as `images`
    val_file, test_file
                     files of their own for validation and test; without them these are taken by image
    size             pixels of a side; images are filled up to a square
    limit_broken     largest share of samples that may be left out for a missing or broken image
    tests            further test sets: name -> a source of conversations with its `_target_`

    Files and folders are relative to `root`, and images lie below it.
    Places of images are moved to the front of the first question; there must be as many as images. Without a file for
    validation or test, the text of what is held out for them is in the corpus that a tokenizer may be made from.
    """
    if root is None or file is None:
        raise UserError("data=llava_json needs data.root=FOLDER and data.file=FILE, a JSON of conversations in it")
    check_part(part)
    if part == "captions" and captions is None:
        raise UserError(
            "data.part=captions needs data.captions=FILE, the conversations of the first stage",
            "pretrain=null leaves the first stage out",
        )
    root = existing(root)
    folder = _below(root, images, "images")
    given = {"file": file, "captions": captions, "val_file": val_file, "test_file": test_file}
    left_out: dict[str, Counter[str]] = {key: Counter() for key in given}
    unread: dict[str, Counter[str]] = {key: Counter() for key in given}
    entries: dict[str, list[Entry]] = {}
    for number, (key, name) in enumerate(given.items()):
        inside = _below(root, captions_images, "captions_images") if key == "captions" and captions_images else folder
        usual = "caption" if key == "captions" else None
        read = partial(_entry, number << SHIFT, inside, usual, left_out[key], unread[key])
        entries[key] = [] if name is None else each(read_json(root / name, key), root / name, read)
        if name is not None and not entries[key]:
            raise UserError(f"data.{key}={root / name} holds no conversation; left out: {dict(left_out[key])}")
    found = look_at(root, (image for part in entries.values() for entry in part for image in entry.images), size, cache)
    splits = {"train": entries["file"], "val": entries["val_file"], "test": entries["test_file"]}
    used = ("captions",) if part == "captions" else ("file", "val_file", "test_file")
    report = sum((left_out[key] for key in used), Counter())
    if part == "captions":
        held_out = {
            found.number.get(image) for key in ("val_file", "test_file") for e in entries[key] for image in e.images
        }
        train = [
            e for e in entries["captions"] if held_out.isdisjoint(found.number.get(image, -1) for image in e.images)
        ]
        report["image of val or test"] = len(entries["captions"]) - len(train)
        splits = {"train": train}
    return with_tests(
        assembled(
            "llava_json",
            splits,
            found,
            limit_broken=limit_broken,
            corpus=Corpus([entries["file"], entries["captions"]]),
            parts=[part],
            report={**report, UNREAD: dict(sum((unread[key] for key in used), Counter()))},
        ),
        tests or {},
    )


def _reads(options: Mapping[str, Any]) -> list[Path]:
    """Files of conversations; their images are `watched` by the store."""
    root = Path(options.get("root") or ".").expanduser()
    names = (options.get(key) for key in ("file", "captions", "val_file", "test_file"))
    return [root / name for name in names if name]


llava_json.reads = _reads


def _below(root: Path, folder: str | None, key: str) -> str:
    """A folder relative to the root."""
    place = below(root, normpath(Path(folder or ".").expanduser()))
    if place is None:
        raise UserError(f"data.{key}={folder} is not below data.root={root}")
    return place


def _entry(
    first: int,
    folder: str,
    kind: str | None,
    left_out: Counter[str],
    unread: Counter[str],
    position: int,
    entry: Mapping,
) -> Entry | None:
    """One entry of a file; None, and counted, where it has no exchange. ValueError that says what is malformed."""
    images = _pictures(entry)
    others = [key for key in entry if key not in READ and not PICTURES.fullmatch(key)]
    unread.update(others)
    if not images and (named := [key for key in others if _names_a_picture(entry[key])]):
        raise ValueError(
            f"{named[0]!r} names a picture (or a film), and none is read from it: a picture is called 'image'"
        )
    if not images and (named := [key for key in others if NUMBERED.fullmatch(key) and entry[key] not in (None, "")]):
        raise ValueError(f"{named[0]!r} means a picture, and no file is named: write its name as 'image'")
    turns = _turns(entry, len(images), left_out, unread)
    if not images and (place := next((m[0] for turn in turns if (m := OTHER_PLACES.search(turn.prompt))), None)):
        raise ValueError(
            f"its text has a place for a picture ({place}) and it names none: {PLACE} is the place, 'image' the file"
        )
    if not turns:
        left_out["without an answer"] += 1
        return None
    choices, answers = texts_of(entry, "choices"), texts_of(entry, "answers")
    usual = "text" if not images else "question" if len(turns) == 1 else "conversation"
    own = entry.get("type") if isinstance(entry.get("type"), str) else None
    names = tuple((Path(folder) / normpath(image)).as_posix() for image in images)
    return Entry(first + position, names, turns, own or kind or usual, choices, answers)


def _pictures(entry: Mapping) -> list[str]:
    """The names of an entry's pictures, whichever of PICTURES it calls them by. ValueError where two keys disagree."""
    found: dict[str, list[str]] = {}
    for key, value in entry.items():
        if not PICTURES.fullmatch(key) or value is None or value == []:
            continue
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
            raise ValueError(f"{key!r} is neither the name of a file nor a list of such")
        found[key] = names
    if len(set(map(tuple, found.values()))) > 1:
        raise ValueError(f"{' and '.join(map(repr, found))} name different pictures")
    return next(iter(found.values()), [])


def _names_a_picture(value: object) -> bool:
    values = value if isinstance(value, list) else [value]
    return any(isinstance(one, str) and one.lower().endswith(SUFFIXES) for one in values)


def _turns(entry: Mapping, images: int, left_out: Counter[str], unread: Counter[str]) -> tuple[Turn, ...]:
    """The exchanges, without the places of images."""
    given = entry.get("conversations")
    if not isinstance(given, list):
        raise ValueError("it has no list of 'conversations'")
    further = {key for line in given if isinstance(line, Mapping) for key in line if key not in ("from", "value")}
    for key in further:
        if PICTURES.fullmatch(key) and any(isinstance(line, Mapping) and line.get(key) for line in given):
            raise ValueError(f"a turn has {key!r}: pictures are named by the entry, beside 'conversations'")
    unread.update(f"conversations.{key}" for key in further)
    said = []
    for number, line in enumerate(given):
        if not isinstance(line, Mapping):
            raise ValueError(f"turn {number} is not an object with 'from' and 'value'")
        role, text = text_of(line, "from"), text_of(line, "value")
        if role not in ROLES:
            raise ValueError(f"turn {number} is from {role!r}, not from 'human' or 'gpt'")
        said.append((ROLES[role], text))
    if said and said[0][0] == "gpt":  # as LLaVA does: some conversations begin in the middle
        said = said[1:]
        left_out["turns before the first question"] += 1
    for number, (role, _) in enumerate(said):
        if role != ("human", "gpt")[number % 2]:
            raise ValueError(f"'human' and 'gpt' do not take turns at turn {number}")
    if len(said) % 2:
        said = said[:-1]
        left_out["turns without an answer"] += 1
    if not said:
        return ()
    places = [text.count(PLACE) for role, text in said if role == "human"]
    if sum(places) != images or sum(places[1:]):
        where = "" if not sum(places[1:]) else f", {sum(places[1:])} of them behind the first question"
        hint = "" if sum(places) else f": write {PLACE} where each belongs"
        raise ValueError(f"it has {images} images, but {sum(places)} places {PLACE!r}{where}{hint}")
    prompts = [
        text.replace(PLACE, "").strip() if number == 0 else text.strip() for number, (_, text) in enumerate(said[::2])
    ]
    answers = [text.strip() for _, text in said[1::2]]
    empty = [blank(answer) for answer in answers]
    left_out["empty answers"] += sum(empty)
    pairs = zip(prompts, answers, strict=True)
    turns = tuple(Turn(prompt, answer) for prompt, answer in pairs)
    # What comes behind an empty answer may refer to it.
    return turns[: empty.index(True)] if any(empty) else turns
