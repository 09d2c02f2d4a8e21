"""Pieces of text at whose ends two tokenizers agree, against all pairs of prefixes; and tokens that both have."""

import numpy as np
import pytest

pytest.importorskip("transformers")

from kdrun.domains.language import alignment, tokens

TEXTS = ["the cat sat on the mat", "a naïve café, 東京 and 🙂🙂 again", "  two  spaces\nand lines", "x"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    cache = tmp_path_factory.mktemp("tokenizers")
    large, small = ["the cat sat on the mat and the hat"] * 9 + TEXTS, ["a hat again and again"] * 5
    return tokens.trained(large, 300, cache), tokens.trained(small, 270, cache)


def test_spans_are_between_ends_that_both_have(pair):
    for text in TEXTS:
        (ours, left), (theirs, right) = (one.encode([text])[0] for one in pair)
        found = alignment.spans(left, right)
        assert sum(span[1] for span in found) == len(ours) and sum(span[3] for span in found) == len(theirs)
        ends = [set(np.cumsum(sizes).tolist()) for sizes in (left, right)]
        for first, count, other, more in found:
            here, there = sum(left[:first]), sum(right[:other])
            assert here == there
            until = here + sum(left[first : first + count])
            assert until == there + sum(right[other : other + more])
            assert not {end for end in ends[0] & ends[1] if here < end < until}, "a shorter piece would do"


def test_one_tokenizer_gives_spans_of_one_token(pair):
    for text in TEXTS[:1]:
        ids, sizes = pair[0].encode([text])[0]
        assert alignment.spans(sizes, sizes) == [(place, 1, place, 1) for place in range(len(ids))]


def test_tokens_of_both_have_one_content(pair):
    ours, theirs = (alignment.contents(one) for one in pair)
    both = alignment.columns(ours, theirs)
    assert all(theirs[number] == ours[place] for place, number in enumerate(both) if number >= 0)
    assert both[pair[0].eos] == pair[1].eos and both[pair[0].pad] == -1
    assert len(both) == pair[0].size
    assert (both >= 0).sum() >= 256, "all single bytes are tokens of both"
    assert all(number == place for place, number in enumerate(alignment.columns(ours, ours)) if number >= 0)


def test_contents_add_up_to_the_text(pair):
    for one in pair:
        content = alignment.contents(one)
        for text in TEXTS:
            assert b"".join(content[number] for number in one.encode([text])[0][0]).decode() == text


def test_rows_beyond_the_tokens_have_no_content():
    both = alignment.columns(["eos", b"a", None, b"b", b"a"], [b"b", "eos", b"c", None, None])
    assert both.tolist() == [1, -1, -1, 0, -1]
