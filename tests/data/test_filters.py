"""Generated texts that are left out."""

import pytest

from kdrun.data.filters import TextFilter


@pytest.mark.parametrize(
    ("options", "text", "why"),
    [
        ({}, "", None),
        ({"shortest": 1}, " ", "empty"),
        ({"shortest": 3}, "two words", "fewer than 3 words"),
        ({"longest": 3}, "four of them here", "more than 3 words"),
        ({"repeated": 0.4}, "a b c d a b c d", None),  # one of five places
        ({"repeated": 0.4}, "a b c d a b c d a b c d", "repeated"),  # five of nine
        ({"repeated": 0.0}, "a a a", None),
    ],
)
def test_why_a_text_is_left_out(options, text, why):
    assert TextFilter(**options).why_not(text) == why


def test_rows_of_several_texts_keep_their_places_and_what_is_left_out_is_counted():
    rows = [
        {"id": 1, "text": ["", "a b"], "tokens": [[0], [5, 6]]},
        {"id": 2, "text": ["", "a"], "tokens": [[0], [5]]},
        {"id": 3, "text": "a b"},
        {"id": 4, "text": ""},
    ]
    kept, left = TextFilter(shortest=2).kept(rows)
    assert kept == [{"id": 1, "text": [None, "a b"], "tokens": [None, [5, 6]]}, {"id": 3, "text": "a b"}]
    assert left == {"fewer than 2 words": 4}
