import numpy as np
import pytest

from kdrun.domains.vision_language.source import Conversations, ImageStore, Sample, Turn


class Blank:
    size = 4
    source_hash = "0" * 64

    def __len__(self):
        return 2

    def pixels(self, indices):
        return np.zeros((len(indices), 3, self.size, self.size), np.uint8)


def conversations(**samples):
    return Conversations("blank", samples, Blank(), ["one"], "0" * 64)


def test_a_source_has_three_splits_and_may_have_further_ones():
    sample = Sample(3, (0, 1), (Turn("what?", "this"), Turn("and?", "that")), "kind")
    found = conversations(train=[sample], val=[], test=[], style=[])
    assert found.further == ("style",) and found.report == {}
    assert sample.choices == sample.answers == ()
    with pytest.raises(ValueError, match="blank: no split test, val"):
        conversations(train=[sample])


def test_a_sample_says_something():
    with pytest.raises(ValueError, match="sample 7 has no turn"):
        Sample(7, (), (), "kind")


def test_what_an_image_store_is():
    assert isinstance(Blank(), ImageStore) and not isinstance([], ImageStore)
