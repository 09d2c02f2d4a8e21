"""Topics of Wikipedia articles by their first paragraph, in English (`kdrun fetch wiki_topics`; text: Wikipedia, CC BY-SA 4.0)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from kdrun.data.fetch import default_cache, needed, place
from kdrun.data.source import TRAIN, text_hash
from kdrun.domains.text.source import Texts, digests
from kdrun.problems import UserError

TARGETS = ("wiki_topics",)

FILE = "summaries_en-us.json"
NO_TOPIC = "Uncategorized"


def wiki_topics(root: str | Path | None = None, *, cache: str | Path | None = None) -> Texts:
    """The introductions of 9,033 articles and which of 11 topics they are of; the 1,000 without a topic are left out.

    root: folder with summaries_en-us.json instead of what `kdrun fetch wiki_topics` brings.
    """
    path = Path(root) / FILE if root else needed("wiki_topics", cache or default_cache())[FILE]
    try:
        articles = json.loads(path.read_bytes())
        rows = [(one["extract"], one["topic"]) for one in articles.values()]
    except FileNotFoundError:
        raise UserError(f"data.root has no {FILE}", "leave data.root out and: kdrun fetch wiki_topics") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not the file of kdrun fetch wiki_topics: {error!r}") from None
    ids = np.array([place for place, (_, topic) in enumerate(rows) if topic != NO_TOPIC], np.int64)
    texts, topics = zip(*(rows[place] for place in ids), strict=True)
    classes = tuple(sorted(set(topics)))
    return Texts(
        x=digests(texts),
        y=np.array([classes.index(topic) for topic in topics], np.int64),
        split=np.full(len(ids), TRAIN, np.int8),
        ids=ids,
        classes=classes,
        name="wiki_topics",
        source_hash=text_hash(json.dumps(row) for row in zip(texts, topics, strict=True)),
        texts=texts,
        asked=("extract",),
        determined=True,
    )


wiki_topics.reads = place("wiki_topics")
