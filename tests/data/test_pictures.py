"""One rule for the pixels of an image file, whichever reader reads it."""

import re
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, features

from kdrun.data.pictures import SUFFIXES, BrokenImage, opened, upright
from kdrun.domains.images.image_folder import image_folder
from kdrun.domains.vision_language.files import look_at
from kdrun.domains.vision_language.images import read_image
from kdrun.problems import UserError

SIZE = 6


def folder_reader(path):
    images = image_folder(path.parent.parent, cache=path.parent.parent.parent / "cache")
    if not len(images):
        raise BrokenImage("unreadable")
    return images.x[images.names.index(f"a/{path.name}")]


READERS = {"image_folder": folder_reader, "conversations": lambda path: read_image(path, SIZE)}


def drawn(mode, colour, **info):
    picture = Image.new(mode, (SIZE, SIZE), colour)
    picture.info.update(info)
    return picture


def palette(transparency):
    picture = Image.new("P", (SIZE, SIZE), 1)
    picture.putpalette([10, 20, 30, 200, 100, 50] + [0] * 762)
    picture.info["transparency"] = transparency
    return picture


def deep(values, kind):
    return Image.fromarray(np.full((SIZE, SIZE), values, kind))


WHITE, HALF = [255, 255, 255], [152, 157, 162]
CASES = {
    "colour": (drawn("RGB", (50, 60, 70)), "x.png", [50, 60, 70]),
    "grey": (drawn("L", 90), "x.png", [90, 90, 90]),
    "black and white": (drawn("1", 1), "x.png", WHITE),
    "clear": (drawn("RGBA", (50, 60, 70, 0)), "x.png", WHITE),
    "half clear": (drawn("RGBA", (50, 60, 70, 128)), "x.png", HALF),
    "clear in webp": (drawn("RGBA", (50, 60, 70, 0)), "x.webp", WHITE),
    "clear grey": (drawn("LA", (50, 0)), "x.png", WHITE),
    "opaque grey": (drawn("LA", (50, 255)), "x.png", [50, 50, 50]),
    "clear entry of a palette": (palette(1), "x.png", WHITE),
    "opaque entry of a palette": (palette(0), "x.png", [200, 100, 50]),
    "degrees in a palette": (palette(bytes([255, 0])), "x.png", WHITE),
    "clear entry of a gif": (palette(1), "x.gif", WHITE),
    "clear colour": (drawn("RGB", (50, 60, 70)), "x.png", WHITE, {"transparency": (50, 60, 70)}),
    "another clear colour": (drawn("RGB", (50, 60, 70)), "x.png", [50, 60, 70], {"transparency": (1, 2, 3)}),
    "clear grey value": (drawn("L", 90), "x.png", WHITE, {"transparency": 90}),
    "cyan, magenta, yellow, black": (drawn("CMYK", (255, 0, 0, 0)), "x.tif", [0, 255, 255]),
    "16 bits": (deep(128 * 256 + 255, np.uint16), "x.png", [128] * 3),
    "16 bits in tiff": (deep(128 * 256, np.uint16), "x.tif", [128] * 3),
    "32 bits of which 8 are used": (deep(77, np.int32), "x.tif", [77] * 3),
    "32 bits of which 16 are used": (deep(77 * 256 + 3, np.int32), "x.tif", [77] * 3),
    "floats up to 1": (deep(0.5, np.float32), "x.tif", [128] * 3),
    "floats up to 255": (deep(77.4, np.float32), "x.tif", [77] * 3),
    "floats up to 65535": (deep(77 * 256.0, np.float32), "x.tif", [77] * 3),
    "black floats": (deep(0.0, np.float32), "x.tif", [0] * 3),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("case", CASES)
def test_all_readers_show_the_same(case, reader, tmp_path):
    picture, name, expected, *options = CASES[case]
    path = tmp_path / "root" / "a" / name
    path.parent.mkdir(parents=True)
    picture.save(path, **({"lossless": True} if name.endswith("webp") else {}), **(options[0] if options else {}))
    pixels = READERS[reader](path)
    assert pixels.shape == (3, SIZE, SIZE)
    assert pixels[:, 2, 3].tolist() == expected


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("values", "kind", "said"),
    [
        (-5, np.int32, "values from -5 to -5"),
        (70_000, np.int32, "values from 70000 to 70000"),
        (1e6, np.float32, "values from 1e[+]06"),
        (-0.5, np.float32, "values from -0.5"),
        (np.nan, np.float32, "not finite"),
    ],
)
def test_what_would_have_to_be_clipped_is_refused(values, kind, said, reader, tmp_path):
    path = tmp_path / "root" / "a" / "x.tif"
    path.parent.mkdir(parents=True)
    deep(values, kind).save(path)
    Image.new("RGB", (SIZE, SIZE)).save(path.with_name("y.png"))
    if reader == "image_folder":
        images = image_folder(tmp_path / "root", cache=tmp_path / "cache")
        assert images.unreadable == ("a/x.tif",)
        assert re.search(said, "; ".join(images.notes))
        return
    with pytest.raises(BrokenImage, match=said):
        READERS[reader](path)


def test_a_set_in_several_ranges_is_refused(tmp_path):
    """Each by itself could be scaled, but not all in the same way."""
    (tmp_path / "root" / "a").mkdir(parents=True)
    for name, values in (("dark", 0.25), ("black", 0.0), ("light", 200.0)):
        deep(values, np.float32).save(tmp_path / "root" / "a" / f"{name}.tif")
    with pytest.raises(UserError, match=r"a/dark.tif has values in 0..1; a/light.tif has values in 0..255"):
        image_folder(tmp_path / "root", cache=tmp_path / "cache")
    (tmp_path / "root" / "a" / "light.tif").unlink()
    assert image_folder(tmp_path / "root", cache=tmp_path / "cache").x[:, 0, 0, 0].tolist() == [0, 64]


def test_conversations_in_several_ranges_are_refused(tmp_path):
    for name, values in (("dark", 0.25), ("light", 200.0)):
        deep(values, np.float32).save(tmp_path / f"{name}.tif")
    with pytest.raises(UserError, match="several ranges"):
        look_at(tmp_path, ["dark.tif", "light.tif"], SIZE, tmp_path / "cache")
    assert len(look_at(tmp_path, ["dark.tif"], SIZE, tmp_path / "cache").store) == 1


def test_a_shape_that_is_in_alpha_alone_is_seen(tmp_path):
    shape = np.zeros((SIZE, SIZE, 4), np.uint8)
    shape[1:3, 1:3, 3] = 255
    path = tmp_path / "root" / "a" / "x.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(shape).save(path)
    for reader in READERS.values():
        assert (reader(path)[:, 1:3, 1:3] == 0).all() and reader(path).max() == 255


@pytest.mark.parametrize("kind", ["x.jpg", "x.png", "x.tif"])
def test_orientation_is_followed(kind, tmp_path):
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 255  # white on the left; turned clockwise it is white above
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "root" / "a" / kind
    path.parent.mkdir(parents=True)
    Image.fromarray(pixels).save(path, exif=exif, **({"quality": 100} if kind == "x.jpg" else {}))
    seen = image_folder(tmp_path / "root", cache=tmp_path / "cache").x[0, 0]
    assert seen.shape == (16, 8) and seen[:7].min() > 200 and seen[9:].max() < 50
    assert read_image(path, 16)[0, 2, 8] > 200 and read_image(path, 16)[0, 14, 8] < 50


@pytest.mark.parametrize("suffix", [".jfif", ".JPE", ".jp2", ".avif", ".apng", ".tga", ".pbm", ".ico", ".dib"])
def test_common_kinds_are_read(suffix, tmp_path):
    needed = {".jp2": "jpg_2000", ".avif": "avif"}.get(suffix)
    if needed and not features.check(needed):
        pytest.skip(f"this Pillow was built without {needed}")
    assert suffix.lower() in SUFFIXES
    path = tmp_path / "root" / "a" / f"x{suffix}"
    path.parent.mkdir(parents=True)
    kind = {".jfif": "JPEG", ".JPE": "JPEG", ".apng": "PNG"}.get(suffix)
    Image.new("1" if suffix == ".pbm" else "RGB", (16, 16), 1 if suffix == ".pbm" else (200, 200, 200)).save(path, kind)
    assert image_folder(tmp_path / "root", cache=tmp_path / "cache").x.min() > 190


def test_nothing_that_would_run_a_program_is_read(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    with pytest.raises(BrokenImage, match="not read"), opened(path):
        pass


def test_an_image_in_memory_is_not_changed():
    picture = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.asarray(upright(picture)).min() == 255
    assert picture.mode == "RGBA"


def test_of_several_frames_the_first_is_read_and_told(tmp_path):
    (tmp_path / "root" / "a").mkdir(parents=True)
    frames = [Image.new("L", (SIZE, SIZE), grey) for grey in (10, 200)]
    frames[0].save(tmp_path / "root" / "a" / "x.gif", save_all=True, append_images=frames[1:])
    images = image_folder(tmp_path / "root", cache=tmp_path / "cache")
    assert images.x.max() == 10 and "1 files with several frames, of which the first is read" in images.notes


def png(depth, kind, row, clear):
    """A PNG of one row of pixels in which one colour is declared transparent; Pillow writes none of these."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    width = len(row) * 8 // depth // (3 if kind == 2 else 1)
    header = struct.pack(">IIBBBBB", width, 1, depth, kind, 0, 0, 0)
    parts = [(b"IHDR", header), (b"tRNS", clear), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize(
    ("depth", "kind", "row", "clear", "wanted"),
    [
        (2, 0, bytes([0b00011011]), b"\0\1", [0, 255, 170, 255]),
        (4, 0, bytes([0x35]), b"\0\3", [255, 85]),
        (8, 0, bytes([3, 5]), b"\0\3", [255, 5]),
        (16, 0, b"\x12\x34\x15\x35", b"\x12\x34", [255, 0x15]),
        (16, 2, b"\x12\x34" * 3 + b"\x15\x35" * 3, b"\x12\x34" * 3, [255, 0x15]),
    ],
)
def test_a_transparent_colour_is_white_at_every_depth(depth, kind, row, clear, wanted, tmp_path):
    (tmp_path / "a.png").write_bytes(png(depth, kind, row, clear))
    with opened(tmp_path / "a.png") as image:
        assert np.asarray(upright(image))[0].tolist() == [[value] * 3 for value in wanted]


def test_a_dark_file_of_sixteen_bits_stays_dark(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5\n3 1\n65535\n" + np.array([0, 100, 255], ">u2").tobytes())
    with opened(tmp_path / "a.pgm") as image:
        assert np.asarray(upright(image)).max() == 0
