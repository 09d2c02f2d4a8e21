"""Teachers that are brought: how they see samples, what they must reach, and that both are asked on every use."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

import kdrun
from kdrun.problems import UserError

HALF = "teacher.normalize={mean: [0.5], std: [0.5]}"
OWN = {"mean": [0.5], "std": [0.5]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("teachers")


@pytest.fixture(scope="module")
def words(folder):
    return (
        "hardware=cpu",
        "tracker=none",
        "card=false",
        "seed=0",
        f"paths.outputs={folder}/outputs",
    )


@pytest.fixture(scope="module")
def brought(folder, words):
    """A network that learned from pixels in -1..1: as a file of kdrun's own, and as a bare state_dict; its accuracy."""
    view = kdrun.run(
        "strategy=alone", "student=cnn_small", "trainer.epochs=6", "data.normalize={mean: [0.5], std: [0.5]}", *words
    )
    stage = view.stages[-1]
    shutil.copy(f"{stage['path']}/best.safetensors", folder / "own.safetensors")
    torch.save(load_file(folder / "own.safetensors"), folder / "bare.pt")
    return stage


@pytest.fixture
def distilled(folder, words, brought):
    def run(file: str, *more: str, **options):
        given = ("strategy=vanilla", "teacher=cnn_small", "student=mlp_16", "trainer.epochs=1")
        return kdrun.run(*given, f"teacher.weights={folder / file}", *words, *more, **options)

    return run


def teacher_of(view) -> dict:
    (stage,) = [stage for stage in view.stages if stage["role"] == "teacher"]
    return stage


@pytest.mark.parametrize("words_of", [("own.safetensors",), ("own.safetensors", HALF), ("bare.pt", HALF)])
def test_a_teacher_is_evaluated_taught_from_and_loaded_as_it_was_trained(distilled, brought, words_of):
    view = distilled(*words_of)
    stage = teacher_of(view)
    assert stage["val"]["best"]["accuracy"] == brought["val"]["best"]["accuracy"] > 0.8
    assert stage["test"] == brought["test"]
    assert view.summary["teacher"]["best"] == brought["test"]["best"]["accuracy"]
    student = next(stage for stage in view.stages if stage["role"] == "student")
    assert student["teacher"]["accuracy"] == pytest.approx(stage["val"]["best"]["accuracy"], abs=1e-6)
    loaded = kdrun.load(view, "teacher")
    assert {name: loaded.kdrun[name] for name in OWN} == OWN
    assert kdrun.load(view).kdrun["mean"] != OWN["mean"]


def test_cards_and_exports_have_the_teachers_own_normalisation(distilled, brought, folder, capsys):
    from kdrun.cli import main

    view = distilled("bare.pt", HALF)
    code = main(["export", view.id, "arm=teacher", "format=safetensors", f"paths.outputs={folder}/outputs"])
    assert code == 0, capsys.readouterr()
    (config,) = view.path.glob("exports/*/safetensors-fp32/config.json")
    found = json.loads(config.read_text())
    assert main(["card", view.id, "arms=teacher", "calls=20", "samples=20", f"paths.outputs={folder}/outputs"]) == 0
    cards = json.loads((view.path / "card" / "cards.json").read_text())
    (card,) = [card for card in cards if card["arm"] == "teacher"]
    assert card["quality"]["torch_value"] == pytest.approx(brought["test"]["best"]["accuracy"], abs=1e-6)
    assert {name: found["normalisation"][name] for name in OWN} == {name: found["spec"][name] for name in OWN} == OWN


def test_weights_that_fit_another_normalisation_far_better_say_so(distilled, brought, capsys):
    for _ in range(2):  # also where all is in the store
        view = distilled("bare.pt", quiet=False)
        said = capsys.readouterr().out
        assert "with inputs normalised to -1..1; to use that:" in said and f"'{HALF}'" in said
        assert view.summary["remarks"][-1] == f"'{HALF}'"
    otherwise = json.loads((view.path / "record.json").read_text())["summary"]["remarks"][0]
    assert f"{brought['val']['best']['accuracy']:.4f}" in otherwise
    assert not distilled("bare.pt", HALF).summary.get("remarks")


def test_a_file_that_says_how_it_sees_is_not_contradicted(distilled, folder):
    with pytest.raises(UserError) as caught:
        distilled("own.safetensors", "teacher.normalize={mean: [0.4], std: [0.5]}")
    assert "teacher.normalize={mean: [0.4], std: [0.5]}" in caught.value.lines[0]
    assert "{mean: [0.5], std: [0.5]}" in caught.value.lines[0] and "teacher.normalize" in caught.value.lines[1]


def test_a_student_goes_on_under_the_normalisation_that_the_message_names(folder, words, brought):
    given = (
        "strategy=alone",
        "student=cnn_small",
        f"student.weights={folder}/own.safetensors",
        "trainer.epochs=1",
    )
    with pytest.raises(UserError) as caught:
        kdrun.run(*given, *words)
    override = caught.value.lines[1].strip("'")
    assert override == "data.normalize={mean: [0.5], std: [0.5]}"
    assert kdrun.run(*given, override, *words).accuracy() > 0.8


def test_an_accuracy_that_is_not_reached_stops_each_run_also_with_the_student_in_the_store(distilled):
    view = distilled("bare.pt", HALF)
    assert view.status == "done"
    for _ in range(2):
        with pytest.raises(
            kdrun.RunFailed, match=r"UnfitTeacher: teacher cnn_small reaches 0\.\d+ on validation, 0\.99"
        ):
            distilled("bare.pt", HALF, "teacher.accuracy=0.99", "teacher.tolerance=0.001")
    assert distilled("bare.pt", HALF, "teacher.accuracy=0.9").status == "done"


def test_the_error_names_the_normalisation_that_would_reach_it(distilled):
    with pytest.raises(kdrun.RunFailed) as caught:
        distilled("bare.pt", "teacher.accuracy=0.94")
    assert f"'{HALF}'" in str(caught.value)


def test_a_plan_says_that_a_teacher_is_unfit(folder, words, distilled):
    distilled("bare.pt", HALF)
    given = ("strategy=vanilla", "teacher=cnn_small", "student=mlp_16", "trainer.epochs=1")
    plan = kdrun.plan(*given, f"teacher.weights={folder}/bare.pt", HALF, "teacher.accuracy=0.99",
                      "teacher.tolerance=0.0", *words)  # fmt: skip
    assert any("0.9900 was stated" in line for line in plan["assumed"])


@pytest.mark.parametrize(
    ("words_of", "said"),
    [
        (("data=diabetes", "objective=mse_kd", "teacher.accuracy=0.9"), "data.task=regression has no accuracy"),
        (("model=nmt_transformer", "teacher.accuracy=0.9"), "data.task=translation has no accuracy"),
        (("model=nmt_transformer", "teacher.normalize={mean: [0.5], std: [0.5]}"), "gives networks tokens"),
    ],
)
def test_what_a_task_has_not_is_refused(words_of, said):
    from kdrun.job.compose import compose

    with pytest.raises(UserError, match=said):
        compose(["strategy=vanilla", *words_of])


def test_several_teachers_each_see_samples_in_their_own_way(folder, words, brought):
    """One learned from -1..1, one from the data's own normalisation: both teach as well as they are."""
    view = kdrun.run(
        "strategy=cascaded", "strategy.scheme=joint", "strategy.controls=[]", "strategy.stages_per_teacher=dft_only",
        "teacher=cnn_small", f"teacher.weights={folder}/bare.pt", HALF,
        "+assistants.mid.network={_target_: kdrun.networks.mlp.MLP, hidden: [64]}",
        "student=mlp_16", "trainer.epochs=1", *words,
    )  # fmt: skip
    student = next(stage for stage in view.stages if stage["role"] == "student")
    noted = {note["fingerprint"]: note["accuracy"] for note in (student["teacher"], *student["teacher"]["also"])}
    for role in ("teacher", "mid"):
        stage = next(stage for stage in view.stages if stage["role"] == role)
        assert noted[stage["fingerprint"]] == pytest.approx(stage["val"]["best"]["accuracy"], abs=1e-6)
    assert teacher_of(view)["test"] == brought["test"]
    with pytest.raises(kdrun.RunFailed, match="teacher mid reaches"):
        kdrun.run(
            "strategy=cascaded", "strategy.scheme=joint", "strategy.controls=[]", "strategy.stages_per_teacher=dft_only",
            "teacher=cnn_small", f"teacher.weights={folder}/bare.pt", HALF, "+assistants.mid.accuracy=1.0",
            "+assistants.mid.tolerance=0.0", "+assistants.mid.network={_target_: kdrun.networks.mlp.MLP, hidden: [64]}",
            "student=mlp_16", "trainer.epochs=1", *words,
        )  # fmt: skip


def test_a_teacher_or_start_with_another_tokenizer_is_refused(tmp_path, monkeypatch):
    """Another split gives another tokenizer of as many tokens: the shapes agree, and every word is another one."""
    from text_support import ROWS

    monkeypatch.chdir(tmp_path)
    for side, number in (("de", 0), ("en", 1)):
        (tmp_path / f"all.{side}").write_text("".join(f"{row[number]}\n" for row in ROWS))
    given = ("model=nmt_transformer", "student=nmt_t32", "data=parallel_text", "data.source=all.de", "data.target=all.en",
             "data.text.vocabulary=330", "data.test_fraction=0.1", "trainer.batch_size=256",
             "trainer.epochs=1", "tracker=none", "card=false", "hardware=cpu", "seed=0")  # fmt: skip
    view = kdrun.run("strategy=alone", *given)
    weights = f"{view.stages[-1]['path']}/best.safetensors"
    brought = ("strategy=vanilla", "teacher=nmt_t32", f"teacher.weights={weights}")
    for words in (brought, ("strategy=alone", f"student.weights={weights}")):
        with pytest.raises(UserError) as caught:
            kdrun.run(*words, *given, "data.val_fraction=0.3")
        assert "was trained with another tokenizer: sha256" in caught.value.lines[0]
