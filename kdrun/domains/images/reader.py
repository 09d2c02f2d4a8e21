"""Image files of the user's own for a trained network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdrun.domains.images.image_folder import decode_image
from kdrun.domains.images.spec import DataSpec
from kdrun.domains.inputs import Reader, UserInput, text_lines
from kdrun.problems import UserError


class ImageReader(Reader):
    """Image files, brought to the size and the channels that the network learned from; of standard input a path a line.

    Raises UserError where samples are no images of one or three channels and equal sides, or a view of them.
    """

    def __init__(self, spec: DataSpec, config: Mapping[str, Any], paths: Mapping[str, str]):
        channels, height, width = spec.shape if len(spec.shape) == 3 else (0, 0, 0)
        if channels not in (1, 3) or config.get("view") is not None:
            raise UserError(f"kdrun predict reads pictures in grey or in colour; {spec.name} has {spec.about}")
        if height != width:
            raise UserError(f"kdrun predict reads pictures of equal sides; {spec.name} has {height} x {width} pixels")
        self.spec, self.size, self.grey = spec, width, channels == 1

    def read(self, path: Path | None) -> Iterator[UserInput]:
        if path is not None:
            yield self._image(str(path), path)
            return
        for line in text_lines(None):
            name = "" if line.problem else line.value.strip()
            yield self._image(f"{line.where} ({name})", Path(name).expanduser()) if name else line_without_path(line)

    def _image(self, where: str, path: Path) -> UserInput:
        image = decode_image(path, self.size, self.grey)
        return UserInput(where, image.pixels, "" if image.pixels is not None else image.reason)

    def encode(self, values: list[np.ndarray]) -> Any:
        from kdrun.data.samples import normalised

        return normalised(np.stack(values), self.spec.mean, self.spec.std)


def line_without_path(line: UserInput) -> UserInput:
    """A line of standard input that names no file."""
    return UserInput(line.where, problem=line.problem or "no path of an image")
