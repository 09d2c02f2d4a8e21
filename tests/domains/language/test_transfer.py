"""Language models of which a part of the documents has references to learn from, and the teacher alone speaks on the rest."""

from dataclasses import replace

import numpy as np
import pytest
from language_support import module_of

from kdrun.domains.language.files import text_corpus
from kdrun.domains.language.shipped.made_corpus import made_corpus
from kdrun.objectives.objective_term import labelled_positions
from kdrun.problems import UserError


@pytest.mark.parametrize("pack", [True, False])
def test_rows_have_labels_or_none_and_no_row_has_both(tmp_path, pack):
    made, whole = module_of(tmp_path, labelled=20, pack=pack), module_of(tmp_path, pack=pack)
    samples = made.samples("train")
    labels = samples.labelled.numpy()
    assert 0 < labels.sum() < len(labels) and made.tokenizer.sha256 == whole.tokenizer.sha256
    assert samples.predicted.sum() == whole.samples("train").predicted.sum()
    if not pack:  # a row is of one document: those of the 20 documents that keep their labels
        assert len({int(number) >> 16 for number in samples.ids[samples.labelled]}) == 20
    assert samples.origins.of(len(samples) - 1) and len(samples.origins.starts) == len(samples) + 1
    assert made.samples("test").labelled is None and made.trained_on()["labelled"] == int(labels.sum())
    (batch, *_) = made.train_loader(8, seed=0)
    wanted = (batch["mask"] & batch["labelled"][:, None]).sum()
    assert batch["sizes"] == {"mask": batch["size"], "labelled": int(wanted)}
    assert labelled_positions(batch, batch["mask"])["labelled"].sum() == wanted
    alone = list(made.train_loader(8, seed=0, labels_only=True))
    assert all(bool(one["labelled"].all()) for one in alone) and len(alone) == len(made.train_loader(8, seed=0))


def test_further_texts_are_read_by_the_teacher_alone(tmp_path):
    path = tmp_path / "pool.txt"
    held_out = made_corpus(80).documents
    path.write_text("A pool of texts.\n\nIt is quiet there.\n\n" + "\n\n".join(held_out), encoding="utf-8")
    pool = text_corpus(path, separator="\n\n")
    made, plain = module_of(tmp_path, unlabelled=pool), module_of(tmp_path)
    samples = made.samples("train")
    assert made.tokenizer.sha256 == plain.tokenizer.sha256
    assert int(samples.labelled.sum()) == len(plain.samples("train"))
    assert any("also in validation or test" in note for note in made.audit()["notes"])
    texts = [made.tokenizer.made.decode(samples.tokens[row]) for row in np.flatnonzero(~samples.labelled.numpy())]
    assert "A pool of texts." in " ".join(texts)


def test_chats_and_texts_are_not_mixed_and_labels_of_texts_take_no_noise(tmp_path):
    with pytest.raises(UserError, match="it has chats, made_corpus has texts"):
        module_of(tmp_path, unlabelled=made_corpus(80, chats=True))
    with pytest.raises(UserError, match="has no classes"):
        module_of(tmp_path, label_noise=0.2)
    with pytest.raises(UserError, match="at least one sample"):
        module_of(tmp_path, replace(made_corpus(80)), labelled=0.001)
