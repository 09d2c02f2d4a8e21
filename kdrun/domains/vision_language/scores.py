"""How answers about pictures are scored: functions on text, by the rules of VQA, POPE, MME and multiple choice. No torch."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdrun.domains.vision_language.source import Sample

ANNOTATORS = 10
"""From so many answers on they are those of people asked one by one (VQA); fewer are simply all that is accepted."""

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
ARTICLES = {"a", "an", "the"}
COUNTED = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(COUNTED)}
SHORT_FORMS = """
    ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he's how'd how'll how's i'm i've isn't
    it'd it'll ma'am might've mightn't must've mustn't needn't o'clock oughtn't shan't she's should've shouldn't that'd
    that's there'd there're there's they'd they'll they're they've wasn't we've weren't what'll what're what's what've
    when's where'd where's where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd
    you'll you're you've
"""
CONTRACTIONS = {word.replace("'", ""): word for word in SHORT_FORMS.split()}
"""Without its apostrophe -> with it. Where the short form is a word of its own (its, well, were) it is not here."""

YES_NO = {"yes", "no"}


@lru_cache(maxsize=65536)
def normalised(text: str) -> str:
    """An answer as the evaluation of VQA compares it: lower case, no punctuation but inside of numbers, no articles,
    number words as digits, contractions with their apostrophe.

    A punctuation mark that touches a space vanishes, any other becomes a space ("t-shirt" is "t shirt"); all vanish
    where a comma stands between digits ("1,000" is "1000"). A full stop stays before a digit ("2.5").
    """
    text = " ".join(text.lower().split())
    thousands = re.search(r"\d,\d", text) is not None
    made = text
    for mark in PUNCTUATION:
        if mark in text:
            touches = f"{mark} " in text or f" {mark}" in text
            made = made.replace(mark, "" if touches or thousands else " ")
    words = (NUMBERS.get(word, word) for word in re.sub(r"\.(?!\d)", "", made).split())
    return " ".join(CONTRACTIONS.get(word.replace("'", ""), word) for word in words if word not in ARTICLES)


def vqa_accuracy(text: str, answers: Sequence[str]) -> float:
    """Share in 0..1: min(matches / 3, 1), averaged over leaving out each of the people's answers (Goyal et al. 2017).

    With ten answers: 0, 0.3, 0.6, 0.9, 1 for 0, 1, 2, 3, 4 that match.
    """
    said = normalised(text)
    matches = sum(normalised(answer) == said for answer in answers)
    others = len(answers) - matches
    return (matches * min((matches - 1) / 3, 1.0) + others * min(matches / 3, 1.0)) / len(answers)


@lru_cache(maxsize=65536)
def yes_or_no(text: str) -> str | None:
    """What a text answers to a question for yes or no; None where it answers neither.

    Its first word decides if that is one of the two, else a negation in the first sentence, else a "yes" in it. (POPE's
    own script takes everything without a negation for a yes, nonsense too.)
    """
    words = re.findall(r"[a-z']+", text.lower().partition(".")[0])
    if words and words[0] in YES_NO:
        return words[0]
    if any(word in ("no", "not") or word.endswith("n't") for word in words):
        return "no"
    return "yes" if "yes" in words else None


def binary_scores(pairs: Iterable[tuple[str | None, str]]) -> dict[str, float | None]:
    """Scores of (said, true) pairs of "yes" and "no", where yes is what is to be found (Li et al. 2023, POPE).

    {"accuracy", "precision", "recall", "f1", "yes": share of answers that are yes}. Something else than yes or no (None)
    is wrong, and no yes. None for what is not defined: a precision without a single yes.
    """
    counts = Counter(pairs)
    total = sum(counts.values())
    hits, said = counts["yes", "yes"], counts["yes", "yes"] + counts["yes", "no"]
    true = sum(number for (_, truth), number in counts.items() if truth == "yes")
    return {
        "accuracy": _share(hits + counts["no", "no"], total),
        "precision": _share(hits, said),
        "recall": _share(hits, true),
        "f1": _share(2 * hits, said + true),
        "yes": _share(said, total),
    }


def pair_scores(groups: Iterable[Any], right: Iterable[float]) -> dict[str, float | None]:
    """MME (Fu et al. 2023): questions in groups by picture, a positive and a negative one each.

    {"accuracy": share of right questions, "accuracy_plus": share of pictures with all right, "score": 100 * their sum}
    """
    found: dict[Any, list[float]] = defaultdict(list)
    for group, share in zip(groups, right, strict=True):
        found[group].append(share)
    shares = [share for group in found.values() for share in group]
    single = _share(sum(shares), len(shares))
    both = _share(sum(min(group) >= 1 for group in found.values()), len(found))
    return {
        "accuracy": single,
        "accuracy_plus": both,
        "score": None if single is None or both is None else 100 * (single + both),
    }


def chosen(text: str, choices: Sequence[str]) -> int | None:
    """Which of the choices a text names, by letter or by its words; None where it names none, or more than one.

    Letters: "B", "(b)", "B.", "B) the red one", "The answer is B". A bare "a" before other words is an article.
    """
    votes = set(_letters(text, len(choices)))
    said = normalised(text)
    words = [normalised(choice) for choice in choices]
    same = [number for number, choice in enumerate(words) if choice == said]
    votes |= set(same or _mentioned(said, words))
    return votes.pop() if len(votes) == 1 else None


def rightness(sample: Sample, text: str) -> float:
    """Share in 0..1 that a text is right as the answer to the last question of a sample.

    multiple choice    the same choice as the reference, by letter or text
    ten answers        `vqa_accuracy`
    yes or no          the same of the two, also in a sentence
    otherwise          equal to an accepted answer after `normalised`
    """
    answer = sample.turns[-1].answer
    if sample.choices:
        wanted = chosen(answer, sample.choices)
        if wanted is None:  # the reference names no choice: only its own words can be right
            return float(normalised(text) == normalised(answer))
        return float(chosen(text, sample.choices) == wanted)
    if len(sample.answers) >= ANNOTATORS:
        return vqa_accuracy(text, sample.answers)
    accepted = {normalised(one) for one in (*sample.answers, answer)}
    if accepted <= YES_NO:
        return float(yes_or_no(text) in accepted)
    return float(normalised(text) in accepted)


def type_table(
    rows: Iterable[Mapping[str, Any]],
    samples: Iterable[Sample],
    guess: QuestionOnly | None = None,
    judged: Callable[[Sample, str], float] = rightness,
) -> dict[str, dict[str, Any]]:
    """Question type -> scores of what was answered, from rows {"id", "text", "right", "type"} of a test set.

    {"n", "accuracy"}, and with `guess` the accuracy of "question_only"; where all references are yes or no also those of
    `binary_scores`, and for types of MME (named mme...) those of `pair_scores`. judged: how an answer is scored. KeyError for a row without its sample.
    """
    by_id = {sample.id: sample for sample in samples}
    groups: dict[str, list[tuple[Mapping[str, Any], Sample]]] = defaultdict(list)
    for row in rows:
        groups[row["type"]].append((row, by_id[row["id"]]))
    table: dict[str, dict[str, Any]] = {}
    for name, found in sorted(groups.items()):
        right = [row["right"] for row, _ in found]
        entry: dict[str, Any] = {"n": len(found)}
        if truths := _truths([sample for _, sample in found]):
            entry |= binary_scores((yes_or_no(row["text"]), true) for (row, _), true in zip(found, truths, strict=True))
        if name.lower().startswith("mme"):
            entry |= pair_scores((sample.images for _, sample in found), right)
        entry["accuracy"] = sum(right) / len(right)
        if guess is not None:
            shares = [judged(sample, guess(sample)) for _, sample in found]
            entry["question_only"] = sum(shares) / len(shares)
        table[name] = entry
    return table


class QuestionOnly:
    """Answers without the picture: the commonest training answer to the same words, else to the same type, else at all.

    For multiple choice, the commonest that names one of the choices. Of equally common ones the first in training.
    """

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._by_question: dict[str, Counter[str]] = defaultdict(Counter)
        self._by_type: dict[str, Counter[str]] = defaultdict(Counter)
        self._all: Counter[str] = Counter()
        for sample in samples:
            for turn in sample.turns:
                self._by_question[turn.prompt][turn.answer] += 1
                self._by_type[turn.type or sample.type][turn.answer] += 1
                self._all[turn.answer] += 1

    def __call__(self, sample: Sample) -> str:
        tables = (self._by_question.get(sample.turns[-1].prompt), self._by_type.get(sample.type), self._all)
        for table in tables:
            if table and (best := _commonest(table, sample.choices)) is not None:
                return best
        return ""

    @property
    def majority(self) -> str:
        """The commonest answer of all."""
        return _commonest(self._all, ()) or ""


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _truths(samples: Sequence[Sample]) -> list[str] | None:
    """Yes or no for each sample; None where one of them is another question."""
    truths = [normalised(sample.turns[-1].answer) for sample in samples]
    fits = all(truth in YES_NO and not sample.choices for truth, sample in zip(truths, samples, strict=True))
    return truths if fits else None


def _commonest(table: Counter[str], choices: Sequence[str]) -> str | None:
    if not choices:
        return max(table, key=table.__getitem__, default=None)
    fitting = [answer for answer, _ in table.most_common() if chosen(answer, choices) is not None]
    return fitting[0] if fitting else None


ALONE = re.compile(r"\(?([a-z])\)?[.:]?")
LEADING = re.compile(r"(?:\(([a-z])\)|([a-z])[.):])\s+\S")
NAMED = re.compile(r"\b(?:answer|option|choice)(?:\s+is)?\s*:?\s+\(?([a-z])\)?\s*(?:[.,;:]|$)")


def _letters(text: str, number: int) -> list[int]:
    """Indices below `number` that a text names by letter."""
    text = text.strip().lower()
    found = [match.group(1)] if (match := ALONE.fullmatch(text)) else []
    if match := LEADING.match(text):
        found.append(match.group(1) or match.group(2))
    found += NAMED.findall(text)
    return [index for letter in found if (index := ord(letter) - ord("a")) < number]


def _mentioned(said: str, choices: Sequence[str]) -> list[int]:
    """Indices of choices whose words stand in the text, without those that are part of a longer one there."""
    found = [number for number, choice in enumerate(choices) if choice and f" {choice} " in f" {said} "]
    return [
        number
        for number in found
        if not any(other != number and f" {choices[number]} " in f" {choices[other]} " for other in found)
        or choices.count(choices[number]) > 1
    ]
