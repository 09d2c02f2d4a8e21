"""Conversations about image files: which files can be used, their pixels on demand, and samples with what was left out.

Every file is read and decoded once to see that it is whole; what was found is kept in the cache and looked up as long as
name, size and time of change of every file are the same. Files of equal content are one image.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

from kdrun.data.columns import Parts
from kdrun.data.decoded import decoded, in_threads, stamp
from kdrun.data.fetch import default_cache
from kdrun.data.pictures import MACHINE, BrokenImage, opened, range_of, refuse_ranges
from kdrun.data.source import text_hash
from kdrun.domains.vision_language.image_names import MISSING, below, near
from kdrun.domains.vision_language.images import read_image
from kdrun.domains.vision_language.source import Conversations, JoinedImages, Sample
from kdrun.problems import UserError

THREADS = 8
CHECKED_AT = 32
"""Pixels at which a file is decoded to see whether it is whole: a JPEG is read to its end but not computed in full."""
LONG = 120
"""Characters of a name that are told."""
NAMED = 5
"""Images that a report or an error names."""
UNREAD = "keys not read"
"""Where a report counts the keys of entries that nothing was made of: key -> entries that have it."""
SHIFT = 40
"""Ids of samples are the number of their file of questions times 2^SHIFT, plus their position in it."""


Entry = Sample
"""One whose images are still names of files below the folder of images."""


class FileImages(Parts):
    """Image files, decoded when they are asked for (see conversations.ImageStore).

    paths, digests: of each image. size: pixels of a side. watched: paths that were looked at, also those of no image.
    """

    KEPT = ("paths", "digests", "size", "watched", "source_hash")

    def __init__(
        self, paths: Sequence[str | Path], digests: Sequence[str], size: int, watched: Sequence[str] | None = None
    ):
        self.paths, self.digests, self.size = list(map(str, paths)), list(digests), size
        self.watched = self.paths if watched is None else watched
        settings = f"format 3, {size} pixels, Pillow {version('pillow')}"
        self.source_hash = text_hash([settings, *digests])

    def __len__(self) -> int:
        return len(self.paths)

    def pixels(self, indices: np.ndarray) -> np.ndarray:
        """uint8 [n, 3, size, size]. RuntimeError for a file that was whole when it was looked at and is no more."""
        wanted = [self.paths[index] for index in np.asarray(indices).tolist()]
        if not wanted:
            return np.zeros((0, 3, self.size, self.size), np.uint8)
        with ThreadPoolExecutor(min(THREADS, len(wanted), os.cpu_count() or 1)) as pool:
            return np.stack(list(pool.map(self._read, wanted)))

    def _read(self, path: str) -> np.ndarray:
        try:
            return read_image(path, self.size)
        except BrokenImage as error:
            raise RuntimeError(f"{path} could be read when the data were looked at, but now: {error}") from error


@dataclass
class FilesSeen:
    """Files that were looked at.

    store   those that can be used
    number  name -> its number in the store
    broken  name -> why it cannot be used
    """

    store: FileImages
    number: dict[str, int]
    broken: dict[str, str] = field(default_factory=dict)


def look_at(folder: Path, names: Iterable[str], size: int, cache: str | Path | None) -> FilesSeen:
    """Every file of `names` (relative to `folder`): missing, broken, or an image of the store, in the order of names.

    Raises UserError where images of more than 8 bits are in several ranges (see pictures)."""
    if not isinstance(size, int) or size < 1:
        raise UserError(f"data.size={size}: height and width of images in pixels")
    names = list(dict.fromkeys(names))
    broken: dict[str, str] = {}
    seen: list[tuple[str | int, ...]] = []
    inside: dict[str, str] = {}
    for name in names:
        place = below(folder, name)
        if place is None:
            broken[name] = "it is not below the folder of images"
            continue
        try:
            seen.append((place, *stamp(folder / place)))
            inside[name] = place
        except (OSError, ValueError):
            broken[name] = f"{MISSING}{near(folder, name)}"
    seen = list(dict.fromkeys(seen))
    key = [4, version("pillow"), str(folder.resolve()), sorted(seen)]
    made = decoded(cache or default_cache(), "image_files", key, partial(_look, folder, [name for name, *_ in seen]))
    known = json.loads((made / "found.json").read_text())
    refuse_ranges((name, values) for name, (_, _, values) in known.items())
    numbers: dict[str, int] = {}
    number, paths, digests = {}, [], []
    for name, place in inside.items():
        digest, reason, _ = known[place]
        if reason is not None:
            broken[name] = reason
            continue
        if digest not in numbers:
            numbers[digest] = len(paths)
            paths.append(folder / place)
            digests.append(digest)
        number[name] = numbers[digest]
    watched = [str(folder / inside.get(name, name)) for name in names]
    return FilesSeen(FileImages(paths, digests, size, watched), number, broken)


def _look(folder: Path, names: list[str], target: Path) -> None:
    def one(name: str) -> tuple[str, str | None, str | None]:
        try:
            content = (folder / name).read_bytes()
            read_image(io.BytesIO(content), CHECKED_AT)
            with opened(io.BytesIO(content)) as image:
                values = range_of(image)
        except OSError as error:
            if error.errno in MACHINE:
                raise
            return "", error.strerror or str(error), None
        except BrokenImage as error:
            return "", str(error), None
        return hashlib.sha256(content).hexdigest(), None, values

    (target / "found.json").write_text(json.dumps(dict(zip(names, in_threads(one, names), strict=True))))


def assembled(
    name: str,
    splits: Mapping[str, Sequence[Entry]],
    found: FilesSeen,
    *,
    limit_broken: float,
    corpus: Sequence[str] = (),
    parts: Sequence[str] = (),
    report: Mapping[str, object] | None = None,
) -> Conversations:
    """The samples of `splits` whose images can all be used.

    limit_broken  largest share of the samples with images that may be lost for theirs
    parts         what besides samples and pixels determines the content
    report        what was left out before

    Raises UserError that names the first images where more are lost.
    """
    if not 0 <= limit_broken <= 1:
        raise UserError(f"data.limit_broken={limit_broken}: a share from 0 to 1")
    lost: Counter[str] = Counter()
    named: dict[str, str] = {}
    count = 0
    samples: dict[str, list[Sample]] = {"train": [], "val": [], "test": []}
    for split, entries in splits.items():
        kept = samples.setdefault(split, [])
        for entry in entries:
            count += bool(entry.images)
            bad = [image for image in entry.images if image not in found.number]
            if bad:
                reason = found.broken[bad[0]]
                lost["missing image" if reason.startswith(MISSING) else "broken image"] += 1
                named.setdefault(bad[0], reason)
                continue
            kept.append(replace(entry, images=tuple(found.number[image] for image in entry.images)))
    total, first = sum(lost.values()), [f"{_short(image)}: {reason}" for image, reason in named.items()][:NAMED]
    if total > limit_broken * count:
        raise UserError(
            f"{name}: {total} of {count} samples have missing or broken images, "
            f"more than data.limit_broken={limit_broken} allows",
            f"{'; '.join(first)}{' ...' if len(named) > NAMED else ''}",
            "check data.root and data.images, or raise data.limit_broken",
        )
    if not any(samples.values()):
        raise UserError(f"{name}: no sample is left; left out: {dict(lost) | dict(report or {})}")
    told: dict[str, object] = {**(report or {}), **lost, **({"images": first} if first else {})}
    digest = text_hash(_lines(samples, [found.store.source_hash, *parts]))
    return Conversations(
        name, samples, found.store, corpus, digest, {key: value for key, value in told.items() if value}
    )


def _short(name: str) -> str:
    return name if len(name) <= LONG else f"{name[:LONG]}... ({len(name)} characters)"


def _lines(samples: Mapping[str, Sequence[Sample]], first: Sequence[str]) -> Iterator[str]:
    yield from first
    for split, found in samples.items():
        yield split
        for sample in found:
            turns = [(turn.prompt, turn.answer) for turn in sample.turns]
            yield json.dumps([sample.id, sample.images, turns, sample.type, sample.choices, sample.answers])


class Corpus(Sequence[str]):
    """All text of entries, put together when it is asked for."""

    def __init__(self, groups: Sequence[Sequence[Entry]]):
        self._groups = groups
        self._texts: list[str] | None = None

    def _all(self) -> list[str]:
        if self._texts is None:
            turns = [turn for group in self._groups for entry in group for turn in entry.turns]
            self._texts = [text for turn in turns for text in (turn.prompt, turn.answer) if text]
        return self._texts

    def __len__(self) -> int:
        return len(self._all())

    def __getitem__(self, index):
        return self._all()[index]


def with_tests(conversations: Conversations, tests: Mapping[str, Conversations]) -> Conversations:
    """`conversations` with the test samples (validation samples, where there are none) of others as further test sets."""
    if not tests:
        return conversations
    samples = dict(conversations.samples)
    # A file that two sources have is one image here as well: else it could be in training and in a test set.
    known = {digest: place for place, digest in enumerate(getattr(conversations.images, "digests", ()))}
    for number, (name, other) in enumerate(tests.items(), start=1):
        if not isinstance(other, Conversations):
            raise UserError(f"data.tests.{name} is no source of conversations: give it a _target_")
        if name in samples:
            raise UserError(f"data.tests.{name}: {conversations.name} has a split of that name; take another")
        if other.images.size != conversations.images.size:
            raise UserError(
                f"data.tests.{name} has images of {other.images.size} pixels, {conversations.name} of "
                f"{conversations.images.size}: data.tests.{name}.size={conversations.images.size}"
            )
        start = len(conversations.images) + sum(len(tests[before].images) for before in list(tests)[: number - 1])
        places = list(range(start, start + len(other.images)))
        for place, digest in enumerate(getattr(other.images, "digests", ())):
            places[place] = known.setdefault(digest, places[place])
        samples[name] = [
            replace(
                sample,
                id=(number << (SHIFT + 4)) + sample.id,
                images=tuple(places[image] for image in sample.images),
            )
            for sample in other.samples["test"] or other.samples["val"]
        ]
    stores = [conversations.images, *(other.images for other in tests.values())]
    hashes = [conversations.source_hash, *(f"{name} {other.source_hash}" for name, other in tests.items())]
    report = {**conversations.report, **{name: other.report for name, other in tests.items() if other.report}}
    return replace(
        conversations, samples=samples, images=JoinedImages(stores), source_hash=text_hash(hashes), report=report
    )


def read_json(path: Path, key: str) -> object:
    """A JSON file, or one of JSON lines as a list. UserError that says what is wrong and where."""
    if not path.is_file():
        raise UserError(f"data.{key}={path}: there is no such file")
    try:
        with open(path, encoding="utf-8-sig") as file:
            if path.suffix.lower() in (".jsonl", ".ndjson"):
                return _json_lines(file, path)
            try:
                return json.load(file)
            except json.JSONDecodeError as error:
                if not error.msg.startswith("Extra data"):
                    raise
                file.seek(0)  # several values: JSON lines under another name
                return _json_lines(file, path)
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is no JSON: {error.msg}, line {error.lineno}, column {error.colno}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{path} is no JSON of samples: {str(error).partition(':')[0].partition(';')[0]}") from None
    except PermissionError:
        raise UserError(f"{path} cannot be read: permission denied") from None
    except RecursionError:
        raise UserError(f"{path} is no JSON of samples: it is nested too deeply") from None


def _json_lines(file: Iterable[str], path: Path) -> list[object]:
    found = []
    for number, line in enumerate(file, start=1):
        if line.strip():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise UserError(f"{path}, line {number}: no JSON: {error.msg}, column {error.colno}") from None
    return found


def each(found: object, path: Path, read: Callable[[int, dict], Entry | None], most: int = 3) -> list[Entry]:
    """`read(position, entry)` for every entry of a list; None leaves it out. One UserError for all that are malformed,
    with the numbers (from 0) of the first."""
    if not isinstance(found, list):
        raise UserError(f"{path} holds {_called(found)}, not a list of entries")
    entries, wrong = [], []
    for position, value in enumerate(found):
        try:
            if not isinstance(value, dict):
                raise ValueError(f"it is {_called(value)}, not an object")
            entry = read(position, value)
        except ValueError as error:
            wrong.append(f"entry {position}: {error}")
            continue
        if entry is not None:
            entries.append(entry)
    if wrong:
        more = [f"... and {len(wrong) - most} more"] if len(wrong) > most else []
        raise UserError(f"{path}: {len(wrong)} of {len(found)} entries are malformed", *wrong[:most], *more)
    return entries


def text_of(entry: Mapping[str, object], key: str) -> str:
    """A key of text. ValueError where it is absent or something else."""
    if key not in entry:
        raise ValueError(f"it has no {key!r}")
    value = entry[key]
    if not isinstance(value, str):
        raise ValueError(f"{key!r} is {_called(value)}, not text")
    return _whole(key, value)


def _whole(key: str, text: str) -> str:
    """ValueError where a text holds half a character: it was cut within an escape such as \\ud83d\\ude00."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{key!r} holds half a character ({text[error.start]!a}) at place {error.start}") from None
    return text


def texts_of(entry: Mapping[str, object], key: str) -> tuple[str, ...]:
    """A key with a list of text; () where it is absent or null."""
    value = entry.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{key!r} is not a list of text")
    return tuple(_whole(key, item) for item in value)


def _called(value: object) -> str:
    if value is None:
        return "null"
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    return names.get(type(value), "a number")
