"""Some files of an archive, put together in one tar file that is pinned by content. Standard library only.

The same files give the same bytes, whatever archive they came in: no times, no owners, in the order of their names.
"""

from __future__ import annotations

import io
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Bundle:
    """members: which files of an archive or folder it is made of; they keep their names, but not their folders."""

    members: re.Pattern[str]

    def table(self, found: dict[str, bytes]) -> bytes:
        """The tar file of {path: content}."""
        out = io.BytesIO()
        named = {path.rpartition("/")[2]: content for path, content in found.items()}
        with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for name, content in sorted(named.items()):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return out.getvalue()


def read_bundle(path: Path, wanted: set[str]) -> dict[str, bytes]:
    """{name: content} of the wanted files that are in a bundle. Raises tarfile.TarError where it is damaged."""
    with tarfile.open(path) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive if member.name in wanted}


# The names of pictures are code points; those with 1f3fb to 1f3ff are in a colour of skin.
_EMOJI = r"(^|/)img/{}/64/(?![^/]*1f3f[b-f])[^/]+\.png$"

EXTRACTS = {
    "emoji_twitter": Bundle(re.compile(_EMOJI.format("twitter"))),
    "emoji_google": Bundle(re.compile(_EMOJI.format("google"))),
}
"""What a file of fetchable.toml may name as its `extract`."""
