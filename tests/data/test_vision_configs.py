"""Configs of sources of conversations: the size of images is said once."""

from pathlib import Path

import pytest

from kdrun.job.compose import compose

CONF = Path(__file__).parents[2] / "conf" / "data"
TEXTS = {path.stem: path.read_text() for path in CONF.glob("*.yaml")}
SIGNALS = "tower: random_features"  # inputs that are no images have no size
SOURCES = sorted(name for name, text in TEXTS.items() if "task: vision_language" in text and SIGNALS not in text)
NEEDED = {name: [f"data.{key}=x" for key in ("root", "file") if f"{key}: ???" in (CONF / f"{name}.yaml").read_text()] for name in SOURCES}  # fmt: skip


def data(*overrides: str) -> dict:
    return compose(["model=llava", *overrides, "pretrain=null"]).cells[0]["data"]


@pytest.mark.parametrize("name", SOURCES)
def test_networks_see_images_of_the_size_that_the_source_makes(name):
    found = data(f"data={name}", *NEEDED[name], "data.size=64")
    assert found["size"] == found["vision"]["size"] == 64


def test_the_papers_size_is_that_of_its_tower():
    found = data("model=llava_paper", *NEEDED["llava_json"], "data.vision.tokenizer=smollm2")
    assert found["size"] == found["vision"]["size"] == 384


def test_all_are_there():
    assert len(SOURCES) == 9
