import json

import numpy as np
import pytest

from kdrun.data.audit import audit
from kdrun.domains.images.source import Images
from kdrun.problems import UserError


def made(count=60, dtype=np.uint8):
    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, (count, 1, 5, 5), dtype=np.uint8).astype(dtype)
    split = np.repeat(np.array([0, 1, 2], np.int8), count // 3)
    return Images(x, np.arange(count) % 3, split, np.arange(count) + 1000, ("a", "b", "c"), "made", "0")


def test_nothing_to_find():
    images = made()
    found = audit(images, images.split)
    assert found["summary"] == "no sample is in two splits"
    assert found["samples"] == {"train": 20, "val": 20, "test": 20}
    json.dumps(found)


def test_duplicates_within_and_across():
    images = made()
    images.x[3] = images.x[0]  # train, label 0 like the original
    images.x[21] = images.x[0]  # val, label 0
    images.x[40] = images.x[0]  # test, label 1: contradicts
    images.x[41] = images.x[0]  # test, label 2
    found = audit(images, images.split)
    assert found["duplicates"] == {"train": 1, "val": 0, "test": 1}
    assert found["contradictions"] == 1  # the two test samples disagree
    assert found["shared"]["train/val"] == {"pairs": 2, "samples": 1, "contradictions": 0}
    assert found["shared"]["train/test"] == {"pairs": 4, "samples": 2, "contradictions": 4}
    assert found["shared"]["val/test"] == {"pairs": 2, "samples": 2, "contradictions": 2}
    assert "2 test samples are also in train, 4 pairs labelled differently" in found["summary"]


def test_unused_samples_do_not_count():
    images = made()
    images.x[40] = images.x[0]
    images.split[40] = -1
    assert audit(images, images.split)["summary"] == "no sample is in two splits"


def test_empty_classes():
    images = made()
    images.y[images.split == 2] = 1
    assert audit(images, images.split)["empty_classes"] == {"test": ["a", "c"]}
    images.y[images.split == 0] = 0
    with pytest.raises(UserError, match="no training sample of class b, c"):
        audit(images, images.split)


def test_labels_out_of_range_are_named():
    images = made()
    images.y[[5, 30, 50, 51]] = [3, -1, 9, 9]
    with pytest.raises(UserError) as caught:
        audit(images, images.split)
    assert "4 labels are not in 0..2: id 1005 has label 3, id 1030 has label -1" in str(caught.value)


def test_pixels_that_are_not_finite_are_named():
    images = made(dtype=np.float32)
    images.x[7, 0, 0, 0] = np.nan
    images.x[8, 0, 1, 1] = np.inf
    with pytest.raises(UserError, match="2 images hold NaN or infinite pixels: id 1007, id 1008"):
        audit(images, images.split)
    images.split[[7, 8]] = -1
    audit(images, images.split)


def test_one_duplicate_among_seventy_thousand_images_is_found():
    x = np.random.default_rng(0).integers(0, 256, (70000, 1, 28, 28), dtype=np.uint8)
    x[69_999] = x[3]
    images = Images(x, np.arange(70000) % 3, np.zeros(70000, np.int8), np.arange(70000), ("a", "b", "c"), "big", "0")
    assert audit(images, images.split)["duplicates"]["train"] == 1
