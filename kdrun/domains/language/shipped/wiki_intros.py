"""Introductions of Wikipedia articles, in English (`kdrun fetch wiki_topics`; text: Wikipedia, CC BY-SA 4.0)."""

from __future__ import annotations

import json
from pathlib import Path

from kdrun.data.fetch import default_cache, needed, place
from kdrun.domains.language.source import Documents
from kdrun.domains.language.source import documents as documents_of
from kdrun.problems import UserError

TARGETS = ("wiki_intros",)

FILE = "summaries_en-us.json"


def wiki_intros(root: str | Path | None = None, *, cache: str | Path | None = None) -> Documents:
    """The introductions of 10,033 articles, a document each.

    root: folder with summaries_en-us.json instead of what `kdrun fetch wiki_topics` brings.
    """
    path = Path(root) / FILE if root else needed("wiki_topics", cache or default_cache())[FILE]
    try:
        texts = [article["extract"] for article in json.loads(path.read_bytes()).values()]
    except FileNotFoundError:
        raise UserError(f"data.root has no {FILE}", "leave data.root out and: kdrun fetch wiki_topics") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not the file of kdrun fetch wiki_topics: {error!r}") from None
    return documents_of(texts, "wiki_intros", determined=True)


wiki_intros.reads = place("wiki_topics")
