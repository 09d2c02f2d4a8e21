"""Scores of answers against slow references and cases counted by hand."""

from __future__ import annotations

import itertools
import random

import pytest

from kdrun.domains.vision_language.scores import (
    QuestionOnly,
    binary_scores,
    chosen,
    normalised,
    pair_scores,
    rightness,
    type_table,
    vqa_accuracy,
    yes_or_no,
)
from kdrun.domains.vision_language.source import Sample, Turn


def sample(answer, prompt="what?", id=0, type="colour", images=(0,), **more):
    return Sample(id, images, (Turn(prompt, answer),), type, **more)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Red  cube.", "red cube"),
        (" two\n", "2"),
        ("None", "0"),
        ("a t-shirt", "t shirt"),
        ("red, green", "red green"),
        ("red,green", "red green"),
        ("1,000", "1000"),
        ("1,000 red/blue", "1000 redblue"),
        ("2.5 m.", "2.5 m"),
        (".5", ".5"),
        ("10:30", "10:30"),
        ("dont", "don't"),
        ("It's Here!", "it's here"),
        ("its", "its"),
        ("an", ""),
        ("", ""),
    ],
)
def test_answers_are_compared_without_case_punctuation_articles_and_number_words(text, expected):
    assert normalised(text) == expected
    assert normalised(expected) == expected


def leave_one_out(text, answers):
    """The definition: each person's answer is left out in turn, three of the others have to say it for a whole point."""
    scores = []
    for left_out in range(len(answers)):
        others = [answer for index, answer in enumerate(answers) if index != left_out]
        scores.append(min(sum(normalised(answer) == normalised(text) for answer in others) / 3, 1))
    return sum(scores) / len(scores)


def test_vqa_accuracy_is_the_mean_over_leaving_each_answer_out():
    for matches, expected in zip(range(11), [0, 0.3, 0.6, 0.9, *[1.0] * 7], strict=True):
        answers = ["Two"] * matches + [f"other {number}" for number in range(10 - matches)]
        assert vqa_accuracy("2", answers) == pytest.approx(expected) == leave_one_out("2", answers)
    drawn = random.Random(0)
    for _ in range(50):
        answers = [drawn.choice(["red", "the red", "blue", "green"]) for _ in range(drawn.randint(2, 13))]
        assert vqa_accuracy("red", answers) == pytest.approx(leave_one_out("red", answers))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("yes", "yes"),
        ("No.", "no"),
        ("Yes, there is no other.", "yes"),
        ("There is not a dog in the image.", "no"),
        ("There isn't.", "no"),
        ("I think yes", "yes"),
        ("A dog. No cat.", None),
        ("nothing", None),
        ("", None),
    ],
)
def test_yes_and_no_are_found_in_sentences(text, expected):
    assert yes_or_no(text) == expected


def test_pope_scores_counted_by_hand():
    pairs = [("yes", "yes")] * 3 + [("yes", "no")] + [("no", "yes")] * 2 + [("no", "no")] * 3 + [(None, "yes")]
    found = binary_scores(pairs)
    assert found == pytest.approx(
        {"accuracy": 0.6, "precision": 3 / 4, "recall": 3 / 6, "f1": 2 * 0.75 * 0.5 / 1.25, "yes": 0.4}
    )
    assert binary_scores([("no", "no")]) == {"accuracy": 1, "precision": None, "recall": None, "f1": None, "yes": 0}
    assert set(binary_scores([]).values()) == {None}


def test_f1_is_the_harmonic_mean_on_random_answers():
    drawn = random.Random(1)
    pairs = [(drawn.choice(["yes", "no", None]), drawn.choice(["yes", "no"])) for _ in range(200)]
    found = binary_scores(pairs)
    assert found["f1"] == pytest.approx(
        2 * found["precision"] * found["recall"] / (found["precision"] + found["recall"])
    )


def test_mme_counts_pictures_of_which_both_answers_are_right():
    found = pair_scores(["a", "a", "b", "b", "c", "c"], [1, 1, 1, 0, 0, 0])
    assert found == pytest.approx({"accuracy": 3 / 6, "accuracy_plus": 1 / 3, "score": 50 + 100 / 3})
    assert pair_scores([], []) == {"accuracy": None, "accuracy_plus": None, "score": None}


CHOICES = ("a red cube", "a blue ball", "dark red", "red")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B", 1),
        ("(b)", 1),
        ("b.", 1),
        ("B) a blue ball", 1),
        ("(B) the blue ball", 1),
        ("The answer is B.", 1),
        ("Option C", 2),
        ("blue ball", 1),
        ("It is a blue ball.", 1),
        ("dark red", 2),
        ("it is dark red", 2),
        ("red", 3),
        ("a red cube", 0),  # the article is no letter
        ("A", 0),
        ("E", None),  # no such choice
        ("B) a red cube", None),  # letter and words disagree
        ("a red cube or a blue ball", None),
        ("A or B", None),
        ("green", None),
        ("", None),
    ],
)
def test_a_choice_is_named_by_letter_or_by_text_and_what_is_ambiguous_names_none(text, expected):
    assert chosen(text, CHOICES) == expected


def test_equal_choices_can_only_be_named_by_letter():
    assert chosen("red", ("red", "red")) is None and chosen("B", ("red", "red")) == 1


def test_rightness_follows_what_the_sample_is():
    assert rightness(sample("Red"), "the red.") == 1 and rightness(sample("red"), "dark red") == 0
    assert rightness(sample("yes"), "Yes, there is one.") == 1 and rightness(sample("no"), "none at all") == 0
    several = sample("sofa", answers=("sofa", "couch"))
    assert [rightness(several, text) for text in ("couch", "sofa", "chair")] == [1, 1, 0]
    asked = sample("2", answers=("two", "2", "three", *["4"] * 7))
    assert rightness(asked, "2") == pytest.approx(0.6) and rightness(asked, "four") == 1
    by_letter, by_text = (sample(answer, choices=("red", "blue")) for answer in ("B", "blue"))
    for one, text in itertools.product((by_letter, by_text), ("B", "blue", "b) blue")):
        assert rightness(one, text) == 1
    assert rightness(by_letter, "red") == rightness(by_letter, "red or blue") == 0
    assert rightness(sample("neither", choices=("red", "blue")), "neither") == 1
    last = Sample(0, (0,), (Turn("a?", "red"), Turn("b?", "blue")), "colour")
    assert rightness(last, "blue") == 1 and rightness(last, "red") == 0


def test_the_table_has_each_type_with_its_own_scores():
    samples = [
        sample("red", id=0),
        sample("blue", id=1),
        sample("yes", id=2, type="exist"),
        sample("no", id=3, type="exist"),
        sample("yes", id=4, type="mme/count", images=(7,)),
        sample("no", id=5, type="mme/count", images=(7,)),
    ]
    said = ["red", "red", "yes", "yes", "yes", "no"]
    rows = [
        {"id": one.id, "text": text, "right": rightness(one, text), "type": one.type}
        for one, text in zip(samples, said, strict=True)
    ]
    found = type_table(reversed(rows), samples)
    assert list(found) == ["colour", "exist", "mme/count"]
    assert found["colour"] == {"n": 2, "accuracy": 0.5}
    assert found["exist"] == pytest.approx(
        {"n": 2, "accuracy": 0.5, "precision": 0.5, "recall": 1, "f1": 2 / 3, "yes": 1}
    )
    assert (found["mme/count"]["accuracy_plus"], found["mme/count"]["score"]) == (1, 200)
    guess = QuestionOnly([sample("blue", "a?"), sample("yes", "b?", type="exist")])
    shares = {name: entry["question_only"] for name, entry in type_table(rows, samples, guess).items()}
    assert shares["colour"] == 0.5 and shares["exist"] == 0.5
    with pytest.raises(KeyError):
        type_table(rows, samples[:2])


def test_question_only_backs_off_from_question_to_type_to_all():
    guess = QuestionOnly(
        [
            *[sample("red", "colour of the cup?")] * 2,
            sample("blue", "colour of the cup?"),
            *[sample("blue", "colour of the hat?")] * 5,
            *[sample("yes", "is there a cup?", type="exist")] * 9,
            Sample(0, (), (Turn("hello", "hi"), Turn("and?", "bye")), "chat"),
        ]
    )
    assert guess(sample("?", "colour of the cup?")) == "red"
    assert guess(sample("?", "colour of the dog?")) == "blue"
    assert guess(sample("?", "how many?", type="count")) == "yes" == guess.majority
    assert guess(sample("?", "and?", type="chat")) == "bye"
    assert guess(sample("?", "colour of the dog?", choices=("green", "red"))) == "red"
    assert QuestionOnly([])(sample("?")) == "" == QuestionOnly([]).majority
