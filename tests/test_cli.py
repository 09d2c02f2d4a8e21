"""What is typed and what comes back: text, exit codes, and what must not have been imported for it."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from forked import Forked, run

from kdrun import cli

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "lightning", "torchmetrics", "wandb"}
QUICK = (
    "seed=0",
    "teacher=mlp_64",
    "student=mlp_8",
    "trainer.epochs=2",
    "data.limit.train=200",
    "hardware=cpu",
    "card=false",
)


def kdrun(*words, cwd, **options):
    return subprocess.run(
        [sys.executable, "-m", "kdrun", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        **options,
    )


def forked(*words, cwd):
    """The same in a process that has torch imported."""
    return run([sys.executable, "-m", "kdrun", *words], folder=cwd)


def imported_after(*words) -> set[str]:
    code = f"import sys; from kdrun.cli import main; main({list(words)!r}); print('MODULES', *sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return set(done.stderr.rpartition("MODULES")[2].split())


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["ls"], ["ls", "strategy"], ["__complete", "str"], ["pln"]]
)
def test_light_commands_import_neither_hydra_nor_torch(words):
    assert not imported_after(*words) & (HEAVY | {"hydra", "omegaconf", "rich", "numpy"})


@pytest.mark.parametrize("words", [["strategyy=vanilla"], ["--cfg", "job"], ["trainer.epochs=abc"]])
def test_config_commands_do_not_import_torch(words):
    assert not imported_after(*words) & HEAVY


def test_importing_kdrun_is_light():
    done = subprocess.run(
        [sys.executable, "-c", "import sys, kdrun; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    assert not set(done.stdout.split()) & (HEAVY | {"hydra", "numpy", "rich"})


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["pln"], ["pln", "plan"]),
        (["strategyy=vanilla"], ["strategyy", "closest: strategy"]),
        (["strategy=vanila"], ["vanila", "closest: vanilla", "alone"]),
        (["trainer.epoch=5"], ["trainer.epoch", "trainer.epochs"]),
        (["+trainer.epoch=5"], ["trainer.epoch", "trainer.epochs"]),
        (["trainer.epochs=abc"], ["trainer.epochs", "abc", "whole number"]),
        (["seed=0,1"], ["seed=0,1", "-m"]),
        (["seed=1", "seeds=3"], ["seed=1", "seeds=3"]),
        (["experiment=foo"], ["foo", "temperature"]),
        (["student.network._target_=mylab.nets.Mine"], ["mylab.nets.Mine", "targets.mylab=true"]),
        (["student.network._target_=kdrun.networks.resnet.ResNett"], ["ResNett", "ResNet"]),
        (["student.network.widht=3"], ["widht", "width"]),
        (["ls", "strategi"], ["strategi", "strategy"]),
        (["show", "nothing"], ["no runs"]),
        (["--jsn"], ["--jsn", "--json"]),
        (["fetch", "fashion"], ["fashion", "fashion_mnist"]),
        (["completion", "tcsh"], ["bash"]),
    ],
)
def test_a_mistake_names_key_value_and_what_is_allowed(words, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert all(text in error for text in named), error
    assert len(error.splitlines()) <= 20
    assert "Traceback" not in error


def test_all_problems_are_told_together(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["trainer.epochs=abc", "strategy=vanila", "+student.foo=1"]) == 2
    error = capsys.readouterr().err
    assert "3 problems" in error
    assert all(word in error for word in ("abc", "vanila", "student.foo"))


def test_wandb_agents_may_write_two_dashes():
    args = cli.parse(["--trainer.epochs=5", "--seed=1", "-m", "--conf", "a", "--conf=b"])
    assert (args.overrides, args.multirun, args.conf_dirs) == (["trainer.epochs=5", "seed=1"], True, ["a", "b"])


def test_completion(capsys):
    assert cli.main(["__complete", "strategy=va"]) == 0
    assert capsys.readouterr().out.split() == ["strategy=vanilla"]
    cli.main(["__complete", "trainer.ep"])
    assert capsys.readouterr().out.split() == ["trainer.epochs="]
    cli.main(["__complete", "seed=1,strategy"])
    assert capsys.readouterr().out.split() == []


def test_the_bash_script_is_bash(capsys):
    cli.main(["completion", "bash"])
    subprocess.run(["bash", "-n"], input=capsys.readouterr().out, text=True, check=True)


def test_teacher_and_student_win_over_the_family(capsys):
    from kdrun.job.compose import compose

    job = compose(["model=mlp_ladder", "teacher=resnet20"])
    assert job.choices["teacher"] == "resnet20"
    assert job.choices["student"].startswith("mlp")


def test_a_network_of_ones_own(tmp_path, monkeypatch, capsys):
    (tmp_path / "conf" / "student").mkdir(parents=True)
    (tmp_path / "conf" / "student" / "mine.yaml").write_text(
        "# my network\nnetwork:\n  _target_: mylab_cli.nets.Mine\n  width: 7\n"
    )
    (tmp_path / "conf" / "kdrun.yaml").write_text("targets: {mylab_cli: true}\n")
    (tmp_path / "mylab_cli").mkdir()
    (tmp_path / "mylab_cli" / "nets.py").write_text(
        "from torch import nn\n"
        "class Mine(nn.Sequential):\n"
        "    def __init__(self, num_classes: int, width: int = 4):\n"
        "        super().__init__(nn.Flatten(), nn.LazyLinear(width), nn.ReLU(), nn.Linear(width, num_classes))\n".replace(
            "nn.LazyLinear(width)", "nn.Linear(64, width)"
        )
    )
    listed = kdrun("ls", "student", "--conf", "./conf", cwd=tmp_path)
    assert "mine" in listed.stdout and "my network" in listed.stdout
    wrong = kdrun("--conf", "./conf", "student=mine", "student.network.widht=3", cwd=tmp_path)
    assert wrong.returncode == 2 and "width" in wrong.stderr
    done = forked("--conf", "./conf", *QUICK, "student=mine", "tracker=none", "--json", "-q", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["summary"]["arms"]["student"]["n"] == 1


def records(folder: Path) -> dict[str, dict]:
    found = {}
    for path in folder.glob("outputs/store/stages/??/*/record.json"):
        record = json.loads(path.read_text())
        found[record["fingerprint"]] = {key: record[key] for key in ("val", "test", "history")}
    return found


@pytest.mark.slow
def test_killed_and_started_again_equals_undisturbed_and_nothing_is_fitted_twice(tmp_path):
    words = [*QUICK, "trainer.epochs=10", "trainer.checkpoint_seconds=0", "tracker=none"]
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    calm.mkdir()
    rough.mkdir()
    assert forked(*words, cwd=calm).returncode == 0
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        with open(tmp_path / number.name, "wb") as said:
            process = Forked([sys.executable, "-m", "kdrun", *words], cwd=rough, stdout=said, stderr=said)
        started = time.time()
        while time.time() - started < 60 and not any(
            path.stat().st_mtime > started for path in rough.glob("outputs/store/unfinished/*/checkpoint.pt")
        ):
            time.sleep(0.02)
        process.send_signal(number)
        code = process.wait(timeout=60)
        if number != signal.SIGKILL:
            assert code in (0, 128 + number), (tmp_path / number.name).read_text()
    last = forked(*words, cwd=rough)
    assert last.returncode == 0, last.stderr
    assert records(calm) == records(rough)
    (run,) = [path for path in (rough / "outputs" / "runs").iterdir() if path.is_dir()]
    record = json.loads((run / "record.json").read_text())
    assert record["status"] == "done"
    assert len(record["attempts"]) >= 2
    again = forked(*words, cwd=rough)
    assert again.returncode == 0
    assert again.stdout.count("(found in the store)") == 3


def test_a_failing_run_has_its_traceback_in_the_log_and_exit_code_1(tmp_path):
    done = forked(*QUICK, "trainer.optimizer.lr=1e30", "tracker=none", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    (log,) = tmp_path.glob("outputs/runs/*/run.log")
    assert "Traceback" in log.read_text()
    assert "FloatingPointError" in log.read_text().splitlines()[-1]
    shown = kdrun("runs", cwd=tmp_path)
    assert "diverged" in shown.stdout


def test_plan_trains_nothing_and_says_what_would_be(tmp_path):
    done = forked("plan", *QUICK, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert [stage["status"] for stage in plan["stages"]] == ["new", "new", "new"]
    student = next(stage for stage in plan["stages"] if stage["teacher"])
    assert student["terms"]["kd"]["identity"] == 0 and student["terms"]["kd"]["gradient"] > 0
    assert not (tmp_path / "outputs" / "store" / "stages").exists()


@pytest.mark.parametrize(("options", "shown"), [([], 0), (["default"], 1)])
def test_warnings_of_libraries_are_shown_only_where_python_was_asked_for_them(options, shown, monkeypatch):
    monkeypatch.setattr(sys, "warnoptions", options)
    monkeypatch.setattr(cli, "_work", lambda args: lambda args: warnings.warn("will be changed", stacklevel=1) or 0)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert cli.main(["ls"]) == 0
    assert len(seen) == shown


def test_closing_the_pipe_is_not_an_error():
    process = subprocess.run(
        f"{sys.executable} -m kdrun ls | head -1", shell=True, capture_output=True, text=True, cwd=ROOT
    )
    assert process.stderr == "", process.stderr


def test_the_environment_is_not_needed(tmp_path):
    clean = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    assert kdrun("--cfg", "job", cwd=tmp_path, env=clean).returncode == 0


def test_where_nothing_is_typed_the_default_job_runs_and_is_named(monkeypatch, capsys):
    from kdrun import run as running
    from kdrun.verbs.run import FIRST

    jobs = []
    monkeypatch.setattr(running, "run_job", lambda job, **options: jobs.append(job) or 0)
    assert cli.main([]) == 0 and cli.main(["seed=0"]) == 0
    assert f"kdrun {FIRST}" in capsys.readouterr().err
    assert jobs[0].choices["experiment"] == FIRST.partition("=")[2] and not jobs[1].choices.get("experiment")
