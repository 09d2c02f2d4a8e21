"""Texts with several labels each: files, scores, and a whole job on made-up sentences."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from kdrun import kinds
from kdrun.cli import main
from kdrun.domains.task import Prediction
from kdrun.domains.text_labels.files import labelled_texts
from kdrun.domains.text_labels.module import LabelledTextModule
from kdrun.domains.text_labels.task import TextLabels
from kdrun.problems import UserError

pytest.importorskip("transformers")

NOUNS, COLOURS = ["cat", "dog", "bird"], ["red", "blue", "green", "grey", "white", "black", "brown", "pink"]


def rows(count):
    """A sentence names up to two animals, which are its labels."""
    drawn = np.random.default_rng(0)
    made = []
    for _ in range(count):
        names = sorted(drawn.choice(NOUNS, drawn.integers(0, 3), replace=False).tolist())
        made.append((f"{' '.join(names)} {drawn.choice(COLOURS)} {drawn.choice(COLOURS)}", names))
    return made


def write(path, count=200):
    path.write_text("text,labels\n" + "".join(f"{text},{'|'.join(names)}\n" for text, names in rows(count)))
    return path


def test_one_column_and_several_give_the_same_samples(tmp_path):
    made, known = labelled_texts(write(tmp_path / "a.csv", 20)), rows(20)
    assert made.classes == ("bird", "cat", "dog") and made.y.dtype == np.float32
    named = [[made.classes[place] for place in np.flatnonzero(row)] for row in made.y]
    assert named == [names for _, names in known] and made.y.sum(1).min() == 0
    lines = "".join(json.dumps({"text": text, "labels": names}) + "\n" for text, names in known)
    (tmp_path / "a.jsonl").write_text(lines)
    cells = "".join(f"{text},{','.join(str(int(name in names)) for name in made.classes)}\n" for text, names in known)
    (tmp_path / "b.csv").write_text("text,bird,cat,dog\n" + cells)
    for other in (
        labelled_texts(tmp_path / "a.jsonl"),
        labelled_texts(tmp_path / "b.csv", label=["bird", "cat", "dog"]),
    ):
        assert other.content_hash == made.content_hash
    assert set(made.strata) <= {0, 1, 2, 3}


def test_what_is_said_of_labels_that_do_not_fit(tmp_path):
    (tmp_path / "a.csv").write_text("text,x,y\na,1,0\nb,0,maybe\n")
    with pytest.raises(UserError, match="'maybe' in column y, in line 3: neither 1 nor 0"):
        labelled_texts(tmp_path / "a.csv", label=["x", "y"])
    (tmp_path / "train.csv").write_text("text,labels\na,cat|dog\nb,\n")
    (tmp_path / "test.csv").write_text("text,labels\nc,cat\nd,cats|dog\n")
    with pytest.raises(UserError, match=r"label 'cats' in line 3 is in no training row.*closest: cat"):
        labelled_texts(tmp_path / "train.csv", test_root=tmp_path / "test.csv")
    (tmp_path / "none.csv").write_text("text,labels\na,\nb,\n")
    with pytest.raises(UserError, match="no row has a label"):
        labelled_texts(tmp_path / "none.csv")


def test_scores_are_those_of_scikit_learn(tmp_path):
    source = labelled_texts(write(tmp_path / "a.csv", 20))
    common = {"name": "a", "vocabulary": 9, "pad": 0, "sizes": {}, "max_length": 9, "tokenizer": ""}
    task = TextLabels(LabelledTextModule.spec_of(source, np.ones(20, bool), **common))
    logits = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    targets = (torch.randn(40, 3, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    batch = {"ids": torch.arange(40), "targets": targets, "mask": torch.arange(40) < 37}
    metrics = task.metrics()
    task.update(metrics, Prediction(logits), batch)
    scores, said, true = metrics.compute(), logits[:37] > 0, targets[:37]
    assert set(scores) == set(task.METRICS)
    assert scores["f1_micro"].item() == pytest.approx(f1_score(true, said, average="micro"))
    assert scores["f1"].item() == pytest.approx(f1_score(true, said, average="macro"))
    assert scores["exact_match"].item() == pytest.approx(accuracy_score(true, said))
    assert scores["auroc"].item() == pytest.approx(roc_auc_score(true, logits[:37], average="macro"))
    kept = task.rows(Prediction(logits), batch)
    (sums,) = kinds.find("text_labels").sums(kept[0]).values()
    assert sums.score(sums.numbers(kept).sum(0)[None])[0] == pytest.approx(scores["f1_micro"].item())
    assert sum(row["right"] for row in task.rights(Prediction(logits), batch)) == round(
        37 * scores["exact_match"].item()
    )


def test_a_job_and_its_predictions(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.csv")
    words = f"""model=text_small data=csv_labels data.root={tmp_path / "a.csv"} objective=bce_kd data.labelled=60 teacher.data.labelled=null
        data.tokens.vocabulary=300 teacher=text_w32 teacher.trainer.epochs=8 trainer.epochs=2 trainer.batch_size=16
        trainer.optimizer.lr=5e-3 seeds=1 hardware=cpu tracker=none paths.cache={tmp_path / "cache"}"""
    assert main(words.split()) == 0
    (path,) = (tmp_path / "outputs" / "runs").glob("*/record.json")
    record = json.loads(path.read_text())
    cards = json.loads((path.parent / "card" / "cards.json").read_text())
    (card,) = [card for card in cards if card["arm"] == "student"]
    assert card["safety"] is None and card["notes"]["safety"] == "no class is the one of a sample"
    assert record["summary"]["metric"] == "f1_micro"
    student = next(stage for stage in record["stages"] if stage["role"] == "student")
    assert student["first_step"].keys() == {"bce", "bernoulli_kd"}
    (tmp_path / "lines.txt").write_text("cat dog red red\n")
    capsys.readouterr()
    assert main(["predict", "last", str(tmp_path / "lines.txt"), "as=json", "arm=teacher"]) == 0
    (answer,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert set(answer["labels"]) <= set(NOUNS) and answer["probabilities"].keys() == set(NOUNS)
    assert answer["class"] == "|".join(answer["labels"])
