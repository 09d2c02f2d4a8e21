"""kdrun from Python: one real tiny run, what is read from it, and what must not change in the process that calls."""

import inspect
import signal
import subprocess
import sys
import threading

import pytest

import kdrun

QUICK = (
    "strategy=vanilla",
    "teacher=mlp_64",
    "student=mlp_8",
    "seed=0",
    "trainer.epochs=3",
    "hardware=cpu",
    "tracker=none",
    "card=false",
)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return tmp_path_factory.mktemp("api") / "outputs"


@pytest.fixture(scope="module")
def words(outputs):
    return (*QUICK, f"paths.outputs={outputs}")


@pytest.fixture(scope="module")
def view(words):
    return kdrun.run(*words)


def modules_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, kdrun; {code}; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_importing_and_listing_are_light():
    found = modules_after("dir(kdrun)")
    assert not found & {"torch", "hydra", "omegaconf", "numpy", "yaml", "rich", "pandas", "kdrun.api"}
    assert {"run", "plan", "sweep", "runs", "load", "RunView", "RunFailed", "UserError"} <= set(dir(kdrun))
    assert not modules_after("kdrun.RunFailed, kdrun.load, kdrun.plan") & {"torch", "hydra", "numpy"}


def test_functions_that_share_a_name_with_a_module_are_both():
    from kdrun.run import run_job
    from kdrun.sweep.plan import make_plan

    assert kdrun.run.run_job is run_job and kdrun.sweep.plan.make_plan is make_plan
    assert callable(kdrun.run) and callable(kdrun.sweep)
    assert list(inspect.signature(kdrun.sweep).parameters)[:3] == ["overrides", "conf_dirs", "jobs"]
    with pytest.raises(AttributeError, match="no attribute 'rnus'"):
        kdrun.rnus  # noqa: B018


def test_a_run_leaves_the_process_as_it_was_and_prints_nothing(view, words, capfd):
    import random

    import numpy as np
    import torch

    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    expected = torch.rand(1).item(), np.random.rand(), random.random()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    try:
        again = kdrun.run(*words)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == expected
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert capfd.readouterr() == ("", "")
    assert again.id == f"{view.id}-2" and again.accuracy() == view.accuracy()
    assert {stage["source"] for stage in again.stages} == {"store"}


def test_a_run_is_seen_as_its_record_shows_it(view, outputs):
    assert view.status == "done" and view.path.parent == outputs / "runs"
    assert view.config["student"]["name"] == "mlp_8" and "Distillation" in view.verdict
    arms = view.summary["arms"]
    assert view.accuracy() == arms["student"]["best"]["mean"]
    assert view.accuracy("alone", "last") == arms["alone"]["last"]["mean"] and view.accuracy("nobody") is None
    assert repr(view) == f"<Run {view.id}: done, test {view.accuracy():.4f}>"
    html = view._repr_html_()
    assert "<table>" in html and "student mlp_8, distilled" in html and view.verdict.split(":")[0] in html
    rows = view.metrics("student/seed=0")
    assert (
        set(rows["stage"]) == {"student/seed=0"} and "train/loss" in rows and list(rows["step"]) == sorted(rows["step"])
    )
    assert kdrun.RunView.find(view.id, outputs) == view


@pytest.mark.parametrize(("arm", "which"), [("student", "best"), ("alone", "last"), ("teacher", "best")])
def test_a_loaded_network_has_the_recorded_test_accuracy_on_raw_pixels(view, arm, which):
    import torch

    from kdrun.domains.load import load_data

    network = kdrun.load(view, arm, which=which)
    assert not network.training and all(not module.training for module in network.modules())
    known = network.kdrun
    data = load_data(view.config["data"], view.config["paths"])
    assert known["classes"] == list(data.spec.classes) and tuple(known["shape"]) == data.spec.shape
    rows = data.split == 2
    pixels = torch.from_numpy(data.images.x[rows]).float()
    pixels = pixels / 255 if data.images.x.dtype.kind == "u" else pixels
    mean, std = (torch.tensor(known[name])[:, None, None] for name in ("mean", "std"))
    with torch.no_grad():
        found = network((pixels - mean) / std).argmax(1)
    accuracy = (found.numpy() == data.images.y[rows]).mean()
    (stage,) = [stage for stage in view.stages if stage["label"] == known["stage"]]
    assert stage["role"] == arm and accuracy == pytest.approx(stage["test"][which]["accuracy"], abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"arm": "studnet"}, ["studnet", "closest: student", "alone"]),
        ({"seed": 3}, ["no seed 3", "it has: 0"]),
        ({"which": "worst"}, ["worst", "best or last"]),
    ],
)
def test_a_network_that_is_not_there_is_a_readable_error(view, arguments, named):
    with pytest.raises(kdrun.UserError) as caught:
        kdrun.load(view, **arguments)
    assert all(text in str(caught.value) for text in named)


def test_runs_are_filtered_and_a_list_without_pandas(view, outputs, monkeypatch):
    frame = kdrun.runs(outputs, strategy="vanilla", seed=[0, 1], status="done", **{"trainer.epochs": 3})
    assert view.id in set(frame["id"]) and frame[frame["id"] == view.id].iloc[0]["best"] == view.accuracy()
    assert len(kdrun.runs(outputs, status="failed")) == 0
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert view.id in [row["id"] for row in kdrun.runs(outputs, since="1h")]
    with pytest.raises(kdrun.UserError, match="closest: strategy"):
        kdrun.runs(outputs, strategi="vanilla")


def test_mistakes_and_failures_are_exceptions_that_say_where_to_look(words, outputs, capfd):
    with pytest.raises(kdrun.UserError, match="closest: strategy"):
        kdrun.run("strategyy=vanilla")
    with pytest.raises(kdrun.RunFailed) as caught:
        kdrun.run(*words, "trainer.optimizer.lr=1e30", "strategy=alone")
    error = caught.value
    assert error.run.id in str(error) and str(error.run.path / "run.log") in str(error)
    assert error.run.status == "diverged" and error.run.accuracy() is None
    assert kdrun.RunView.find(error.run.id, outputs).status == "diverged"
    with pytest.raises(kdrun.UserError, match="replay the augmentation"):  # a mistake that shows while it runs
        kdrun.run(*words, "data.augment.flip=true", "teacher.source=cached")
    assert capfd.readouterr() == ("", "")


def test_ctrl_c_saves_and_comes_through_and_the_same_call_goes_on(words, monkeypatch):
    import time

    from kdrun.job.progress import EventReport

    long = (*words, "trainer.epochs=4", "strategy=alone")
    epoch, told = EventReport.epoch, []

    def interrupt(self, label, number, *rest):
        epoch(self, label, number, *rest)
        told.append(number)
        if number == 1 and told.count(1) == 1:
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.01)  # the handler runs between two instructions of this thread

    monkeypatch.setattr(EventReport, "epoch", interrupt)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        kdrun.run(*long)
    assert signal.getsignal(signal.SIGINT) is before
    view = kdrun.run(*long)
    assert view.status == "done" and view.stages[0]["source"] == "resumed"
    assert [attempt["status"] for attempt in view.record["attempts"]] == ["interrupted", "done"]


def test_it_works_from_a_thread(words):
    found = []
    thread = threading.Thread(target=lambda: found.append(kdrun.run(*words)))
    thread.start()
    thread.join()
    assert found[0].status == "done"


@pytest.mark.slow
def test_plan_and_sweep(view, words, capfd):
    plan = kdrun.plan(*words)
    assert [stage["status"] for stage in plan["stages"]] == ["done"] * 3
    jobs = kdrun.sweep(*words, "trainer.optimizer.lr=1e30,0.05")
    assert [job.status for job in jobs] == ["diverged", "done"]
    assert [job.config["trainer"]["optimizer"]["lr"] for job in jobs] == [1e30, 0.05]
    with pytest.raises(kdrun.UserError, match="no launcher"):
        kdrun.sweep(*words, "hydra/launcher=jobli")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("call", [kdrun.run, kdrun.plan, kdrun.sweep])
def test_a_list_of_overrides_is_told(call):
    with pytest.raises(kdrun.UserError, match=r"overrides are texts, one by one"):
        call(["data=digits", "seed=0"])
