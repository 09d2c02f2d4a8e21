"""Sentences without translation and questions without answers: nothing of what is hidden is left, and batches say what has a label."""

import numpy as np
import pytest
import torch
from PIL import Image
from text_support import COMMON as TEXT
from text_support import ROWS
from vision_support import COMMON as VISION
from vision_support import conversations, mixed, tiny_tower

from kdrun.data.mixing import MixedLoader
from kdrun.domains.translation.build import text_module
from kdrun.domains.translation.parallel_text import parallel_text
from kdrun.domains.translation.source import Pairs
from kdrun.domains.translation.transfer import unlabelled_sentences
from kdrun.domains.vision_language.build import vision_module
from kdrun.domains.vision_language.transfer import hidden, unlabelled_pictures
from kdrun.objectives.objective_term import labelled_positions
from kdrun.problems import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("texts")


@pytest.fixture
def text(folder):
    def build(rows=ROWS, **changes):
        path = folder / "all.tsv"
        path.write_text("".join(f"{source}\t{target}\n" for source, target in rows))
        config = {**TEXT, "vocabulary": 330, "test_fraction": 0.1, **changes}
        return text_module(parallel_text(path), config, folder / "cache")

    return build


def epochs(loader, count=1):
    found = []
    for epoch in range(count):
        loader.set_epoch(epoch)
        found += list(loader)
    return found


def test_a_hidden_translation_is_nowhere(text):
    made, whole = text(labelled=40), text()
    train = made.samples("train")
    assert len(train) == len(whole.samples("train")) and int(train.labelled.sum()) == 40
    references = made.references("train")
    assert [bool(reference) for reference in references] == train.labelled.tolist()
    assert set(made.lengths(train.ids[~train.labelled]).tolist()) == {1}
    assert made.references("test") == whole.references("test")
    assert "40 of" in made.audit()["summary"] and made.trained_on()["labelled"] == 40
    assert sum(len(batch["ids"]) for batch in made.eval_loader("train", 500)) == 40, "metrics are over labels"


def test_other_hidden_translations_give_the_same_bits(tmp_path):
    """Splits are by groups of alike targets; these are given, so that they stay as they are."""
    groups = [target for _, target in ROWS]
    config = {**TEXT, "vocabulary": 330, "test_fraction": 0.1, "labelled": 40, "duplicates": "keep"}

    def build(targets):
        sources, ids = [source for source, _ in ROWS], np.arange(len(ROWS))
        pairs = Pairs("toy", ("de", "en"), sources, targets, np.zeros(len(ROWS), np.int8), ids, groups=groups)
        return text_module(pairs, config, tmp_path)

    one = build(groups)
    train = one.samples("train")
    others = list(groups)
    for number in train.ids[~train.labelled].tolist():
        others[number] = "quite something else"
    two = build(others)
    assert one.spec == two.spec, "the tokenizer too"
    for first, second in zip(epochs(one.train_loader(300, 0)), epochs(two.train_loader(300, 0)), strict=True):
        assert torch.equal(first["targets"], second["targets"]) and first["sizes"] == second["sizes"]
        assert all(torch.equal(first["inputs"][key], second["inputs"][key]) for key in first["inputs"])


def test_a_sentence_without_translation_has_the_first_position_alone(text):
    made = text(labelled=40)
    for batch in epochs(made.train_loader(300, 1)):
        where = labelled_positions(batch, batch["mask"])["labelled"]
        assert batch["sizes"] == {"mask": int(batch["mask"].sum()), "labelled": int(where.sum())}
        assert (batch["mask"][~batch["labelled"]].sum(1) == 1).all() and batch["mask"][~batch["labelled"]][:, 0].all()
        assert batch["size"] == batch["sizes"]["mask"]


def test_budgets_of_tokens_are_shared_between_both_kinds(text):
    made = text(labelled=40)
    made.labelled_share = 0.5
    plain, mixed_loader = made._loader(400, 2, 0, 1), made.train_loader(400, 2)
    assert isinstance(mixed_loader, MixedLoader) and len(mixed_loader) == len(plain)
    found = epochs(mixed_loader, 30)
    counts = torch.bincount(torch.cat([batch["ids"] for batch in found]))
    train = made.samples("train")
    for which in (train.labelled, ~train.labelled):
        seen = counts[train.ids[which]]
        assert int(seen.min()) > 0 and int(seen.max() - seen.min()) <= 1
    assert all(0 < batch["sizes"]["labelled"] < batch["sizes"]["mask"] for batch in found)
    alone = epochs(made.train_loader(400, 2, labels_only=True))
    assert len(alone) == len(plain) and all(batch["labelled"].all() for batch in alone)
    halves = [epochs(made.train_loader(400, 2, rank=rank, world=2)) for rank in range(2)]
    for whole, *both in zip(epochs(mixed_loader), *halves, strict=True):
        assert all(part["sizes"] == whole["sizes"] for part in both)
        assert sorted(torch.cat([part["ids"] for part in both]).tolist()) == sorted(whole["ids"].tolist())


def test_what_a_teacher_generates_is_a_translation_of_all(text):
    """Sequence-level distillation needs no other mechanism."""
    made = text(labelled=40)
    rows = [{"id": number, "text": "The lamp is on."} for number in made.train_ids.tolist()]
    new = made.relabelled(rows)
    assert len(new.samples("train")) == len(made.samples("train")) and new.samples("train").labelled is None
    assert new.trained_on() == {"samples": len(rows)}
    assert "labelled" not in next(iter(new.train_loader(400, 0)))


def test_further_sentences_come_from_a_file(text, folder):
    made = text()
    path = folder / "more.de"
    path.write_text("Die gelbe Tasse fehlt.\n\n" + made.sources("test")[0] + "\n" + made.sources("train")[0] + "\n")
    other = unlabelled_sentences(path, made.pairs)
    both = text(unlabelled=other, labelled=40)
    train = both.samples("train")
    assert (
        len(train) == len(made.samples("train")) + 2
        and (train.ids[-2:] >= 1 << 40).all()
        and not train.labelled[-2:].any()
    )
    assert "1 of more.de left out: they are also in validation or test" in both.audit()["summary"]
    path.write_text(made.sources("test")[0] + "\n")
    with pytest.raises(UserError, match="no sentence is left"):
        text(unlabelled=unlabelled_sentences(path, made.pairs))
    with pytest.raises(UserError, match="labels of parallel_text are texts"):
        text(label_noise=0.4)
    with pytest.raises(UserError, match="training samples"):
        text(labelled=10_000)


@pytest.fixture
def vision(tmp_path, monkeypatch):
    tiny_tower(monkeypatch)

    def build(unlabelled=None, **changes):
        source = conversations(mixed(37), mixed(7, 100), mixed(6, 120))
        other = unlabelled(source) if unlabelled else None
        return vision_module(source, {**VISION, "unlabelled": other, **changes}, tmp_path / "cache")

    return build


def test_a_hidden_answer_is_nowhere(vision):
    made, whole = vision(labelled=15), vision()
    train = made.samples("train")
    assert train.ids.tolist() == whole.samples("train").ids.tolist() and int(train.labelled.sum()) == 15
    for sample, full, known in zip(made.chosen["train"], whole.chosen["train"], train.labelled.tolist(), strict=True):
        assert sample == (full if known else hidden(full))
        assert known or [turn.answer for turn in sample.turns] == [""]
    assert set(train.responses[~train.labelled.numpy()]) == {1}, "the first answer position, which asks for no answer"
    for batch in epochs(made.train_loader(8, 1)):
        where = labelled_positions(batch, batch["mask"])["labelled"]
        assert batch["sizes"]["labelled"] == int(where.sum()) and batch["sizes"]["mask"] == int(batch["mask"].sum())
    assert sum(len(batch["ids"]) for batch in made.eval_loader("train", 5)) == 15
    assert "15 of" in made.audit()["summary"]
    guesser = made.task().question_only
    assert "" not in guesser._all and sum(guesser._all.values()) <= sum(len(s.turns) for s in whole.chosen["train"])
    made.labelled_share = 0.25
    assert all(int(batch["labelled"].sum()) == 2 for batch in epochs(made.train_loader(8, 1), 3))


def test_further_pictures_come_from_a_folder_and_are_asked_questions_of_the_data(vision, tmp_path):
    random = np.random.default_rng(3)
    (tmp_path / "pictures").mkdir()
    for number in range(5):
        pixels = random.integers(256, size=(40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
    made = vision(lambda source: unlabelled_pictures(tmp_path / "pictures", source, cache=tmp_path / "cache"))
    train, plain = made.samples("train"), vision().samples("train")
    assert len(train) == len(plain) + 5 and train.labelled.tolist() == [True] * len(plain) + [False] * 5
    asked = {sample.turns[0].prompt for sample in vision().chosen["train"]}
    new = made.chosen["train"][-5:]
    assert {sample.turns[0].prompt for sample in new} <= asked and all(sample.id >= 1 << 50 for sample in new)
    batch = train.batch(np.arange(len(train)))
    assert int(batch["visual_mask"][-5:].sum()) == 5 * 4, "their pictures are in their slots"
    features = made.pictures(np.array([sample.images[0] for sample in new]))["image_features"]
    assert torch.equal(batch["inputs"]["image_features"][-5:], features)
