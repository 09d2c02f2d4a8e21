"""kdrun diagnose on a small run of two seeds, and what is drawn of it."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from kdrun import api, cli
from kdrun.diagnostics import kept, pairs
from kdrun.domains import load
from kdrun.domains.load import load_data
from kdrun.verbs.diagnose import SHARES

WORDS = ("data=digits", "data.limit.train=200", "data.labelled=80", "teacher=mlp_64", "student=mlp_8", "trainer.epochs=3", "hardware=cpu",
         "hardware.threads=1", "card=false", "tracker=none", "seeds=2", "seeds.vary=[student,teacher]", "jobs=1")  # fmt: skip


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diagnosed")
    assert cli.main([*WORDS, f"paths.outputs={folder}", f"paths.store={folder / 'store'}", "-q"]) == 0
    return folder


@pytest.fixture
def diagnosed(outputs, capsys):
    """(exit code, output, problems) of `kdrun diagnose ...`."""

    def asked(*words):
        capsys.readouterr()
        code = cli.main(["diagnose", *words, "--outputs", str(outputs)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return asked


def test_numbers_are_those_of_the_loaded_networks(outputs, diagnosed):
    code, out, _ = diagnosed("last", "--json", "--force")
    (found,) = json.loads(out)
    pair = found["pairs"][1]
    assert code == 0 and [each["seed"] for each in found["pairs"]] == [0, 1]
    view = api.RunView.find("last", outputs)
    config = view.config_of(1)
    module = load_data(config["data"], config["paths"])
    student, teacher = (api.load(view, arm, seed=1) for arm in ("student", "teacher"))
    batch = module.samples("test").batch(torch.arange(len(module.samples("test"))).numpy())
    with torch.no_grad():
        ours, theirs = (network(batch["inputs"]) for network in (student, teacher))
    slow = functional.kl_div(theirs.log_softmax(1), ours.log_softmax(1), reduction="batchmean", log_target=True)
    assert pair["k_hat"] == pytest.approx(float(slow), rel=1e-4)
    test = functional.cross_entropy(ours, batch["targets"], reduction="none").clamp(max=5).mean()
    labelled = module.samples("train").labelled.nonzero().flatten().numpy()
    known = module.samples("train").batch(labelled)
    with torch.no_grad():
        losses = functional.cross_entropy(student(known["inputs"]), known["targets"], reduction="none").clamp(max=5)
    assert pair["student"]["gap"] == pytest.approx(float(test - losses.mean()), rel=1e-4)
    assert (pair["student"]["samples"], pair["teacher"]["samples"]) == (80, 80)
    assert pair["student"]["features"]["width"] == 8 and pair["student"]["sharpness"]["ascent"] > 0
    assert pair["slack"] == pytest.approx(pair["bound"] - pair["student"]["gap"])
    shares = {name: value for name, value in pair["agreement"].items() if name != "disagree"}
    assert sum(shares.values()) == pytest.approx(1.0)
    teachers = found["ensemble"]["teacher"]
    assert teachers["members"] == 2 and teachers["loss"] == pytest.approx(teachers["bias"] + teachers["variance"])


def test_a_panel_of_eighty_columns_that_says_whose_bound_it_is(diagnosed):
    code, out, _ = diagnosed()
    assert code == 0 and max(map(len, out.splitlines())) <= 80
    for word in ("generalisation gap", "K_hat", "sharpness", "rank", "variance over seeds", "not the paper's"):
        assert word in out


def test_what_was_measured_is_not_measured_again(outputs, diagnosed, monkeypatch):
    _, before, _ = diagnosed()
    monkeypatch.setattr(pairs, "_measure", lambda subject: pytest.fail("measured again"))
    assert diagnosed()[1] == before
    with pytest.raises(pytest.fail.Exception):
        diagnosed("seed=1")  # of another question


def test_several_runs_have_a_line_each_and_those_without_a_pair_are_told(outputs, diagnosed, capsys):
    name = api.RunView.find("last", outputs).id
    assert (
        cli.main(
            [
                *WORDS,
                "strategy=alone",
                "trainer.epochs=1",
                "seeds=1",
                f"paths.outputs={outputs}",
                f"paths.store={outputs / 'store'}",
                "-q",
            ]
        )
        == 0
    )
    other = api.RunView.find("last", outputs).id
    code, _, err = diagnosed(name, other, "-q")
    assert code == 0 and "is left out" in err and "teacher" in err and name[:8] not in err
    code, _, err = diagnosed(other)
    assert code == 2 and "no stage 'teacher'" in err and len(err.splitlines()) <= 4


def test_a_run_that_cannot_be_measured_takes_no_other_along(outputs, diagnosed):
    first = next(path for path in sorted((outputs / "runs").iterdir()) if "vanilla" in path.name)
    bad, unfinished, orphan = (outputs / "runs" / f"{name}-00000000" for name in ("gone", "halfway", "orphan"))
    record = json.loads((first / "record.json").read_text())
    for folder, change in (
        (bad, {"stages": [{**stage, "fingerprint": "f" * 64} for stage in record["stages"]]}),
        (unfinished, {"stages": record["stages"][:1], "status": "interrupted"}),
        (orphan, {"stages": [one for one in record["stages"] if (one["role"], one["seed"]) != ("teacher", 1)]}),
    ):
        folder.mkdir()
        (folder / "record.json").write_text(json.dumps({**record, **change}))
    try:
        code, out, err = diagnosed(first.name, bad.name, unfinished.name)
        assert code == 3 and "K_hat" in out and "not in the store" in err and "no arm 'student'" in err
        code, _, err = diagnosed(unfinished.name)
        assert code == 2 and "it is interrupted; to continue it: kdrun rerun halfway-00000000" in err
        code, _, err = diagnosed(orphan.name)
        assert code == 2 and "has no teacher of seed 1" in err and "kdrun rerun orphan-00000000" in err
        table = outputs / "tables" / "mini"
        table.mkdir(parents=True)
        jobs = [{"label": name, "run": name, "status": "done"} for name in (first.name, "elsewhere-11111111")]
        (table / "table.json").write_text(json.dumps({"jobs": jobs}))
        code, out, err = diagnosed("mini")
        assert code == 3 and "K_hat" in out and "elsewhere-11111111 is left out: its run is not here" in err
    finally:
        for folder in (bad, unfinished, orphan):
            shutil.rmtree(folder)


def named_otherwise(stages, names):
    """Stages whose fingerprints of role and seed are those of another role and seed."""
    known = {(one["role"], one["seed"]): one["fingerprint"] for one in stages}
    return [{**one, "fingerprint": known[names.get(key := (one["role"], one["seed"]), key)]} for one in stages]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda stages: named_otherwise(stages, {("teacher", 0): ("alone", 0), ("alone", 0): ("teacher", 0)}),
            "its record names as alone/seed=0 the network that taught student",
        ),
        (
            lambda stages: named_otherwise(stages, {("teacher", 0): ("teacher", 1), ("teacher", 1): ("teacher", 0)}),
            "its record names as teacher/seed=1 the network that taught student",
        ),
        (
            lambda stages: [
                {**one, "teacher": one["teacher"] and {**one["teacher"], "also": [{"fingerprint": "f" * 64}]}}
                for one in stages
            ],
            "its record lacks the network that taught student",
        ),
        (lambda stages: {"a": 1}, "is damaged: its stages are not a list of entries"),
        (lambda stages: [1, 2], "is damaged: its stages are not a list of entries"),
        (
            lambda stages: [{k: v for k, v in one.items() if k != "fingerprint"} for one in stages],
            "entries with fingerprint, role",
        ),
    ],
    ids=["swapped", "seeds", "also", "dict", "numbers", "nameless"],
)
def test_a_record_that_was_changed_is_told_in_two_lines(outputs, diagnosed, change, said):
    first = next(path for path in sorted((outputs / "runs").iterdir()) if "vanilla" in path.name)
    record = json.loads((first / "record.json").read_text())
    folder = outputs / "runs" / "changed-00000000"
    folder.mkdir()
    try:
        (folder / "record.json").write_text(json.dumps({**record, "stages": change(record["stages"])}))
        code, _, err = diagnosed(folder.name)
    finally:
        shutil.rmtree(folder)
    assert code == 2 and said in err and folder.name in err and len(err.splitlines()) == 2


def test_what_is_not_a_diagnosis_is_measured_again(outputs, diagnosed):
    run = next(path for path in sorted((outputs / "runs").iterdir()) if "vanilla" in path.name)
    diagnosed(run.name)
    whole = kept.read(run)
    (pair, *others) = whole["pairs"]
    for damaged in (
        {**whole, "pairs": [{**pair, "student": {}}, *others]},
        {**whole, "pairs": [{name: value for name, value in pair.items() if name != "k_hat"}, *others]},
        {**whole, "pairs": [{**pair, "k_hat": "much"}, *others]},
        {name: value for name, value in whole.items() if name != "ensemble"},
        {**whole, "pairs": []},
        [whole],
    ):
        kept.keep(run, damaged)
        assert kept.read(run) is None
    _, again, _ = diagnosed(run.name, "--json")
    assert json.loads(again)[0]["pairs"] == whole["pairs"] and kept.read(run) == whole


def test_data_that_have_changed_are_not_measured(outputs, diagnosed, monkeypatch):
    first = next(path.name for path in sorted((outputs / "runs").iterdir()) if "vanilla" in path.name)
    monkeypatch.setattr(load, "content_hash", lambda data, paths: "another")
    code, _, err = diagnosed(first, "--force")
    assert code == 2 and "have changed since student/seed=0" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("which=first",), "best or last"),
        (("arm=stud",), "closest: student"),
        (("arm=teacher",), "not held against itself"),
        (("seed=9",), "no seed 9"),
        (("sed=1",), "closest: seed"),
        (("seed=-1",), "at least 0"),
        (("nowhere",), "nowhere"),
        (("/",), "this is a folder: the name of one of the runs, sweeps or tables is wanted"),
    ],
    ids=lambda value: str(value[0]),
)
def test_mistakes_are_told_in_few_lines(outputs, diagnosed, words, said):
    first = sorted(path.name for path in (outputs / "runs").iterdir() if "vanilla" in path.name)[0]
    code, _, err = diagnosed(*(words if words in (("nowhere",), ("/",)) else (first, *words)))
    assert code == 2 and said in err and 1 <= len(err.splitlines()) <= 4


def test_a_regression_has_no_distribution(tmp_path, capsys):
    words = (
        "data=diabetes",
        "teacher=mlp_16",
        "student=mlp_8",
        "objective=mse_kd",
        "trainer.optimizer.lr=0.01",
        "trainer.epochs=20",
    )
    assert (
        cli.main(
            [
                *words,
                "seed=0",
                "hardware=cpu",
                "tracker=none",
                "card=false",
                f"paths.outputs={tmp_path}",
                "jobs=1",
                "-q",
            ]
        )
        == 0
    )
    capsys.readouterr()
    assert cli.main(["diagnose", "--outputs", str(tmp_path)]) == 2
    assert "classifiers" in capsys.readouterr().err


def test_it_is_drawn_with_one_point_for_each_run(outputs, diagnosed, capsys):
    pytest.importorskip("matplotlib")
    name = sorted(path.name for path in (outputs / "runs").iterdir() if "vanilla" in path.name)[0]
    (outputs / "runs" / name / kept.FILE).unlink(missing_ok=True)
    assert cli.main(["plot", name, "kind=generalisation", "--outputs", str(outputs)]) == 2
    assert "kdrun diagnose" in capsys.readouterr().err
    diagnosed(name)
    assert cli.main(["plot", name, "kind=generalisation", "--outputs", str(outputs), "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert [path.rpartition("/")[2] for path in files] == ["generalisation.png", "generalisation.svg"]
    assert "reconstructed bound" in (outputs / "runs" / name / "plots" / "generalisation.svg").read_text()


def test_points_are_hollow_over_their_bound():
    from kdrun.plots.generalisation import Point

    assert Point("a", 0.1, 0.2, 0.0, 0.3, 0).inside and not Point("a", 0.1, 0.4, 0.0, 0.3, 0).inside


DOCS = Path(__file__).parents[2] / "docs" / "diagnostics.md"
COMMANDS = [
    line.partition(" #")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", DOCS.read_text(), re.S)
    for line in block.splitlines()
]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_of_the_page_run(outputs, line, capsys):
    first = sorted(path.name for path in (outputs / "runs").iterdir() if "vanilla" in path.name)[0]
    command, verb, *words = shlex.split(line)
    words = [first if word == "last" else word for word in words] or [first]
    assert command == "kdrun" and cli.main([verb, *words, "--outputs", str(outputs)]) == 0, capsys.readouterr().err


def test_points_of_a_sweep_that_differ_in_the_seed_alone_are_one_point(tmp_path):
    from types import SimpleNamespace

    from kdrun.plots.generalisation import points_of

    features = {"width": 4, "rank": 3, "effective": 2.5}
    parts = []
    for seed, gap in enumerate((0.1, 0.3)):
        own = {
            "fingerprint": "a",
            "which": "best",
            "train": 0.1,
            "test": 0.2,
            "gap": gap,
            "sharpness": {"gaussian": 0.0, "ascent": 0.0},
            "features": features,
        }
        agreement = {name: 0.2 for _, name in SHARES}
        pair = {"seed": seed, "k_hat": 0.2, "k_reverse": 0.2, "agreement": agreement, "bound": 0.5, "slack": 0.5 - gap}
        found = {"pairs": [{**pair, "samples": 9, "student": own, "teacher": own}], "ensemble": {"why": "one seed"}}
        (tmp_path / str(seed)).mkdir()
        kept.keep(tmp_path / str(seed), {"run": "a", "arm": "student", "teacher": "teacher", **found})
        parts.append(SimpleNamespace(dir=tmp_path / str(seed)))
    run = SimpleNamespace(dir=tmp_path / "0", parts=parts)
    (point,) = points_of(SimpleNamespace(name="sweep"), [("a", run)])
    assert (point.gap, point.bound, point.inside) == (pytest.approx(0.2), 0.5, True)


def test_another_choice_does_not_replace_what_figures_are_drawn_from(outputs, diagnosed):
    run = next(
        path.name
        for path in sorted((outputs / "runs").iterdir())
        if path.name.startswith("vanilla-mlp_64-mlp_8-digits")
    )
    diagnosed(run)
    kept = outputs / "runs" / run / "diagnosis.json"
    before = kept.read_bytes()
    code, out, _ = diagnosed(run, "seed=1", "which=last", "--json")
    assert code == 0 and kept.read_bytes() == before
    assert (
        json.loads(out)[0]["pairs"]
        == json.loads((kept.parent / "diagnosis-seed=1-which=last.json").read_text())["pairs"]
    )


def test_teachers_that_taught_at_once_are_the_mean_of_their_probabilities():
    random = torch.Generator().manual_seed(0)
    ids, targets = torch.arange(6), torch.tensor([0, 1, 2, 0, 1, 2])

    def measured(name, rise):
        test, training = torch.randn(2, 6, 3, generator=random)
        figures = {"fingerprint": name, "which": "best", "sharpness": {"gaussian": rise}, "features": {}}
        return pairs.Measured(test, targets, ids, (training, targets, ids), figures)

    networks = [measured("a", 1.0), measured("b", 3.0)]
    both = pairs._together(networks)
    likely = sum(one.logits.softmax(1) for one in networks) / 2
    assert torch.allclose(both.logits.exp().float(), likely) and both.figures["networks"] == 2
    wanted = -likely[ids, targets].log().clamp(min=-5).mean()
    assert both.figures["test"] == pytest.approx(float(wanted), rel=1e-6)
    assert both.figures["sharpness"] == {"gaussian": 2.0} and both.figures["fingerprint"] == "a+b"
    assert pairs._together(networks[:1]) is networks[0]
    with pytest.raises(pairs.UserError, match="different samples"):
        pairs._together([networks[0], pairs.replace(networks[1], ids=ids.flip(0))])
