"""data.protocol=published: all samples are trained on, the last epoch counts, and nothing is chosen by validation."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

import kdrun
from kdrun.domains.load import load_data
from kdrun.job.compose import compose
from kdrun.lab.dry import DryLab
from kdrun.lab.lab import Lab
from kdrun.present.results import judged_rows
from kdrun.problems import UserError

PUBLISHED = "data.protocol=published"
WORDS = ("strategy=vanilla", "teacher=mlp_64", "student=mlp_8", "seed=0", "trainer.epochs=4", "hardware=cpu")


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return tmp_path_factory.mktemp("protocol") / "outputs"


@pytest.fixture(scope="module")
def view(outputs):
    # so high a rate that the last epoch is not the best
    return kdrun.run(
        *WORDS, PUBLISHED, "trainer.optimizer.lr=1.5", "tracker=none", "card=false", f"paths.outputs={outputs}"
    )


def modules(*words, tmp_path):
    return [
        load_data(compose(list(all_words)).config["data"], {"cache": str(tmp_path)})
        for all_words in (words, (*words, PUBLISHED))
    ]


def test_validation_is_a_part_of_training_and_test_is_not(tmp_path):
    held_out, published = modules("data=digits", tmp_path=tmp_path)
    val, train = (set(held_out.samples(split).ids.tolist()) for split in ("val", "train"))
    assert set(published.train_ids.tolist()) == val | train
    assert set(published.samples("val").ids.tolist()) == val
    assert not set(published.samples("test").ids.tolist()) & (val | train)
    assert published.spec.sizes["train"] == held_out.spec.sizes["train"] + held_out.spec.sizes["val"]
    assert published.spec.sizes["val"] == held_out.spec.sizes["val"] == published.audit()["samples"]["val"]
    assert "published protocol" in published.audit()["summary"] and published.trained_on()["protocol"] == "published"
    rows = published.rows("train")
    pixels = np.asarray(published.source.x[rows], np.float64) / 255
    if published.source.x.dtype == np.uint8:
        assert published.spec.mean == pytest.approx([pixels.mean()], abs=1e-6)


def test_the_last_epoch_counts_and_whoever_reads_the_run_is_told(view):
    for stage in view.record["stages"]:
        assert stage["val"]["epoch_best"] == 3 and stage["val"]["best"] == stage["val"]["last"]
        assert stage["test"]["best"] == stage["test"]["last"] and stage["seen"]["protocol"] == "published"
    accuracies = [entry["accuracy"] for stage in view.record["stages"] for entry in stage.get("history", [])]
    assert not accuracies or max(accuracies) >= accuracies[-1]
    summary = view.record["summary"]
    assert summary["headline"]["which"] == "last"
    ((name, text),) = judged_rows(summary)
    assert name == "judged by" and "data.protocol=published" in text
    assert "published protocol" in view.record["audit"]["summary"]


def test_a_table_says_it(view):
    from kdrun.tables.metrics import measure

    found = measure(view.record, "student", "accuracy")
    assert "data.protocol=published" in found.remark and found.validation is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("data=digits", "data.labelled=200"), "data.labelled"),
        (("data=made_topics",), "data.task=text_classification"),
        (("data=diabetes",), "data.task=regression"),
    ],
)
def test_what_needs_validation_samples_is_refused(words, said, tmp_path):
    with pytest.raises(UserError, match=re.escape(PUBLISHED)) as raised:
        load_data(compose([*words, PUBLISHED]).config["data"], {"cache": str(tmp_path)})
    assert said in str(raised.value)


def test_nothing_is_searched_for_or_chosen_by_validation():
    from kdrun.sweep.objectives import check_jobs, read_objectives

    job = compose([*WORDS, PUBLISHED])
    with pytest.raises(UserError, match="chosen by validation"):
        check_jobs(read_objectives(["accuracy"]), [job])
    some = {"a": SimpleNamespace(stage=SimpleNamespace(data=job.config["data"]), record={})}
    for kind in (Lab, DryLab):
        with pytest.raises(UserError, match="chosen by validation"):
            kind.choose(SimpleNamespace(assumed=[]), "best view", some)
    with pytest.raises(UserError, match="chosen by validation"):
        kdrun.plan("strategy=federated", "data=digits", PUBLISHED, "hardware=cpu")


def test_jobs_without_it_keep_their_hash():
    assert (
        compose([*WORDS]).hash == compose([*WORDS, "data.protocol=held_out"]).hash != compose([*WORDS, PUBLISHED]).hash
    )
