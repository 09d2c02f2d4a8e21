"""Launchers run frozen jobs for real; Slurm is a few scripts that do what sbatch and srun would do.

Most tests put a stand-in where the worker is, so that a job takes milliseconds: what is tested is what happens to it.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdrun.problems import UserError
from kdrun.sweep.launchers import check, launch
from kdrun.tracking.registry import plan_run, read_run

STAND_IN = '''
"""A worker whose jobs do what their overrides say."""
import os, signal, sys, time, types
from pathlib import Path

def run_frozen(folder, *, force=False):
    from kdrun.job.progress import Signals
    from kdrun.nodes import place_of
    from kdrun.tracking.registry import open_folder
    place = place_of({"nodes": int(os.environ.get("SLURM_NNODES", 1)), "devices": 1})
    if place is not None:
        (Path(folder) / f"node {place.rank} of {place.count}, {place.launch}").touch()
        if not place.first:
            return 0
    run = open_folder(Path(folder))
    words = run.record["overrides"]
    with Signals() as signals:
        if "kill parent" in words:
            os.kill(os.getppid(), signal.SIGKILL)
        if "kill" in words or "kill parent" in words:
            os.kill(os.getpid(), signal.SIGKILL)
        while "wait" in words and run.attempt == 1:
            time.sleep(0.02)
            if signals.received:
                run.fail(KeyboardInterrupt())
                run.close()
                return 128 + signals.received
        while "hang" in words:
            time.sleep(1)
        if "raise" in words:
            run.fail(ValueError("as asked"))
            run.close()
            return 1
        run.finish(audit={"cwd": os.getcwd(), "path": sys.path, "force": force})
        run.close()
        return 0

module = types.ModuleType("kdrun.sweep.worker")
module.run_frozen = run_frozen
sys.modules["kdrun.sweep.worker"] = module

import kdrun.sweep.launched
kdrun.sweep.launched.QUEUE_SECONDS = kdrun.sweep.launched.DISK_SECONDS = 0.5
'''

SBATCH = r"""
import os, re, subprocess, sys
from pathlib import Path
folder = Path(os.environ["FAKE_SLURM"])
script = Path(sys.argv[1]).read_text()
number = 4711 + len(list(folder.glob("*.sh")))
saved = folder / f"{number}.sh"
saved.write_text(script)
array = re.search(r"--array=0-(\d+)", script)
for task in range(int(array[1]) + 1) if array else [None]:
    own = {"SLURM_JOB_ID": str(number), "FAKE_SCRIPT": str(saved)}
    if task is not None:
        own |= {"SLURM_ARRAY_JOB_ID": str(number), "SLURM_ARRAY_TASK_ID": str(task)}
    name = str(number) if task is None else f"{number}_{task}"
    subprocess.Popen([sys.executable, str(folder / "start.py"), name], env=os.environ | own, start_new_session=True,
                     stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print("Submitted batch job", number)
"""

START = r"""
import os, subprocess, sys
from pathlib import Path
queue = Path(os.environ["FAKE_SLURM"]) / "queue"
queue.mkdir(exist_ok=True)
(queue / sys.argv[1]).touch()
while True:
    subprocess.run(["bash", os.environ["FAKE_SCRIPT"]])
    again = queue / f"{sys.argv[1]}.again"
    if not again.exists():
        break
    again.unlink()
(queue / sys.argv[1]).unlink()
"""

SRUN = r"""
import os, re, subprocess, sys
from pathlib import Path
words = sys.argv[1:]
while words[0].startswith("-"):
    words = words[2:] if words[0] in ("--output", "--error") else words[1:]
nodes = re.search(r"--nodes=(\d+)", Path(os.environ["FAKE_SCRIPT"]).read_text())
if nodes and int(nodes[1]) > 1:
    every = {"SLURM_NTASKS": nodes[1], "SLURM_NNODES": nodes[1], "SLURM_LOCALID": "0", "SLURM_STEP_ID": "0"}
    own = [os.environ | every | {"SLURM_PROCID": str(n), "SLURM_NODEID": str(n)} for n in range(int(nodes[1]))]
    tasks = [subprocess.Popen(words, env=each) for each in own]
    sys.exit(max(task.wait() for task in tasks))
os.environ |= {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
os.execv(words[0], words)
"""

SQUEUE = r"""
import os
from pathlib import Path
queue = Path(os.environ["FAKE_SLURM"]) / "queue"
print(*(path.name for path in queue.glob("*") if "again" not in path.name), sep="\n")
"""

SCONTROL = r"""
import os, sys
from pathlib import Path
(Path(os.environ["FAKE_SLURM"]) / "queue" / f"{sys.argv[2]}.again").touch()
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    folder = tmp_path / "stand in"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "squeue": SQUEUE, "scontrol": SCONTROL}.items():
        (folder / name).write_text(f"#!{sys.executable}\n{text}")
        (folder / name).chmod(0o755)
    (folder / "start.py").write_text(START)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    return folder


@pytest.fixture(autouse=True)
def nothing_left(tmp_path):
    yield
    deadline = time.monotonic() + 10
    while (left := processes(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, left


def processes(folder: Path) -> dict[int, str]:
    """Processes with the folder in their environment or their command, this one left out; zombies have neither."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            text = b"".join((path / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:
            continue
        if int(path.name) != os.getpid() and str(folder).encode() in text:
            found[int(path.name)] = text.partition(b"\0")[0].decode()
    return found


def freeze(outputs: Path, jobs: dict[int, list[str]]) -> dict[int, Path]:
    """Run folders of jobs with these overrides, as the stand-in reads them."""
    folders = {}
    for number, words in jobs.items():
        run = plan_run(outputs, "job", f"{number:02x}" * 32)
        run.update(overrides=words)
        run.close()
        folders[number] = run.dir
    return folders


def statuses(folders: dict[int, Path]) -> dict[int, str]:
    return {number: read_run(folder).status for number, folder in folders.items()}


@pytest.mark.parametrize(
    ("launcher", "setting", "named"),
    [
        ("submitit_slrm", None, ["submitit_slrm", "closest: submitit_slurm", "ray"]),
        ("joblib", None, ["hydra/launcher=joblib", "jobs=N"]),
        ("ray_aws", None, ["ray_aws", "hydra.launcher.ray.init.address"]),
        ("submitit_local", "hydra.launcher.mem_bg=2", ["mem_bg", "closest: mem_gb"]),
        ("submitit_local", "hydra.launcher.mem_gb=two", ["hydra.launcher.mem_gb=two", "Integer"]),
        ("submitit_local", "hydra.launcher.mem_gb=1,2", ["one value"]),
        ("submitit_local", "hydra.launcher._target_=os.system", ["_target_"]),
        ("submitit_local", "hydra.launcher.partition=gpu", ["partition", "timeout_min"]),
        ("ray", "hydra.launcher.ray.inti.num_cpus=2", ["ray.inti.num_cpus", "ray.init.KEY"]),
        ("ray", "hydra.launcher.ray.init=3", ["hydra.launcher.ray.init=3"]),
        ("submitit_local", "hydra.launcher.nodes=2", ["hydra.launcher.nodes=2", "one node", "hardware.devices=N"]),
        ("submitit_local", "hydra.launcher.tasks_per_node=2", ["tasks_per_node=2", "one process"]),
    ],
)
def test_a_wrong_launcher_or_setting_is_named_with_what_is_allowed(launcher, setting, named):
    with pytest.raises(UserError) as caught:
        check(launcher, [setting] if setting else [])
    assert all(text in str(caught.value) for text in named), str(caught.value)


def test_settings_of_every_kind_are_taken(slurm):
    check("ray", ["hydra.launcher.ray.init.num_cpus=2", "+hydra.launcher.ray.remote.num_gpus=0.5"])
    words = ["partition=gpu", "mem_gb=8", "setup=[module load cuda]", 'additional_parameters={"mail-type": "END"}']
    check("submitit_slurm", [f"hydra.launcher.{word}" for word in words])


@pytest.mark.parametrize(
    ("launcher", "settings", "asked"),
    [
        ("submitit_local", [], {"gpus_per_node": 2}),
        ("submitit_slurm", ["gpus_per_node=4"], {"gpus_per_node": 4}),
        ("submitit_slurm", ["gres=gpu:2"], {"gres": "gpu:2"}),
        ("submitit_slurm", ['additional_parameters={"gpus": 2}'], {"additional_parameters": {"gpus": 2}}),
        ("ray", [], {"ray.remote.num_gpus": 2}),
    ],
)
def test_a_job_is_given_as_many_gpus_as_it_has_devices(slurm, launcher, settings, asked):
    assert check(launcher, [f"hydra.launcher.{word}" for word in settings], devices=2) == asked


def test_fewer_gpus_than_devices_are_refused_before_anything_is_submitted(slurm):
    with pytest.raises(UserError) as caught:
        check("submitit_slurm", ["hydra.launcher.gpus_per_node=1"], devices=2)
    assert "gpus_per_node=1" in str(caught.value) and "2 GPUs (hardware.devices)" in str(caught.value)


def test_a_sweep_for_gpus_is_planned_and_submitted_from_a_machine_without_them(stand_in, slurm, tmp_path, capsys):
    from kdrun.cli import main

    words = "data=digits student=mlp_8 teacher=mlp_64 hardware=gpu hardware.devices=2 tracker=none seed=0,1"
    launcher = ["hydra/launcher=submitit_slurm", f"paths.outputs={tmp_path}/outputs", "energy.reader=nvml"]
    assert main(["-m", *words.split(), *launcher, "-q"]) == 0
    assert "#SBATCH --gpus-per-node=2\n" in (slurm / "4711.sh").read_text()
    capsys.readouterr()


def test_a_job_over_nodes_is_given_them(slurm):
    asked = check("submitit_slurm", ["hydra.launcher.partition=gpu"], devices=4, nodes=2)
    assert (asked["nodes"], asked["tasks_per_node"], asked["gpus_per_node"]) == (2, 1, 4)
    for launcher, settings, said in (
        ("submitit_slurm", ["hydra.launcher.nodes=3"], "nodes=3"),
        ("submitit_local", [], "starts a job on one node"),
    ):
        with pytest.raises(UserError, match=said):
            check(launcher, settings, devices=4, nodes=2)


def test_slurm_without_slurm_and_an_engine_that_is_not_installed(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="no sbatch and srun here"):
        check("submitit_slurm")
    check("ray")
    monkeypatch.setattr("kdrun.sweep.launchers.find_spec", lambda package: None)
    with pytest.raises(UserError, match="pip install ray"):
        check("ray")


def test_check_loads_no_engine():
    code = "import sys; from kdrun.sweep.launchers import check; check('ray'); check('submitit_local'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "ray", "submitit", "numpy", "rich"} & set(done.stdout.split())


@pytest.mark.slow
def test_submitit_trains_from_the_frozen_configs_with_a_module_of_the_current_folder(tmp_path, monkeypatch):
    from kdrun.sweep.plan import freeze as freeze_plan
    from kdrun.sweep.plan import make_plan

    folder = tmp_path / "it's here"
    conf = folder / "conf" / "student"
    conf.mkdir(parents=True)
    network = "from torch import nn\n\n\ndef tiny(num_classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))\n"
    (folder / "my_networks.py").write_text(network)
    (conf / "mine.yaml").write_text("network:\n  _target_: my_networks.tiny\n")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    common = ["student=mine", "targets.my_networks=true", "strategy=alone", "hardware=cpu", "tracker=none"]
    quick = ["trainer.epochs=1", "data.limit.train=100", "paths.outputs=outputs"]
    plan = make_plan([[*common, *quick, "seed=0"]], ["conf"], deep=False)
    todo = freeze_plan(plan)
    (conf / "mine.yaml").write_text("network:\n  _target_: my_networks.another\n")
    assert launch({p.number: p.folder for p in todo}, "submitit_local", [], plan.folder) == 0
    plan.points[0].look()
    assert plan.points[0].status == "done" and plan.points[0].record["summary"]["arms"]["alone"]["n"] == 1
    assert sorted(path.name for path in folder.iterdir() if path.name != "__pycache__") == [
        "conf",
        "my_networks.py",
        "outputs",
    ]
    assert (plan.folder / "launcher" / "1" / "launcher.log").is_file()


def test_submitit_keeps_the_results_beside_a_job_whose_process_died(stand_in, tmp_path):
    folders = freeze(tmp_path / "outputs", {5: ["kill"], 7: ["raise"], 9: []})
    events = []
    words = ["hydra.launcher.timeout_min=2"]
    assert launch(folders, "submitit_local", words, tmp_path / "sweep", True, events.append) == 0
    assert statuses(folders) == {5: "interrupted", 7: "failed", 9: "done"}
    ends = {event["number"]: event["status"] for event in events if event["kind"] == "end"}
    assert ends == statuses(folders)
    seen = read_run(folders[9]).record["audit"]
    assert seen["cwd"] == os.getcwd() and os.getcwd() in seen["path"] and seen["force"] is True
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir()) == ["launcher"]


def test_an_engine_that_cannot_start_is_a_message_with_its_log(stand_in, tmp_path):
    folders = freeze(tmp_path / "outputs", {0: []})
    with pytest.raises(UserError) as caught:
        launch(folders, "submitit_local", ["hydra.launcher.submitit_folder=/proc/none/%j"], tmp_path / "sweep")
    assert "FileNotFoundError" in str(caught.value) and "launcher.log" in str(caught.value)
    assert statuses(folders) == {0: "planned"}


def start_launch(folders: dict[int, Path], launcher: str, settings: list[str], sweep: Path) -> subprocess.Popen:
    """`launch` in a process of its own, which prints the code."""
    given = {number: str(folder) for number, folder in folders.items()}
    code = f"""if True:
        import json
        from pathlib import Path
        from kdrun.sweep.launchers import launch
        folders = {{number: Path(folder) for number, folder in {given!r}.items()}}
        print(json.dumps(launch(folders, {launcher!r}, {settings!r}, Path({str(sweep)!r}))))
    """
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_jobs_on_this_machine_save_and_end_when_kdrun_is_stopped_or_killed(stand_in, tmp_path, number):
    folders = freeze(tmp_path / "outputs", {0: ["wait"], 1: [], 2: ["wait"]})
    process = start_launch(folders, "submitit_local", [], tmp_path / "sweep")
    wait_for(lambda: statuses(folders) == {0: "running", 1: "done", 2: "running"})
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    wait_for(lambda: not processes(tmp_path))
    found = statuses(folders)
    assert found == {0: "interrupted", 1: "done", 2: "interrupted"}
    assert all(read_run(folders[job]).record["error"]["type"] == "KeyboardInterrupt" for job in (0, 2))  # they saved
    if number == signal.SIGINT:
        assert json.loads(output) == 130


def test_a_second_ctrl_c_ends_jobs_that_do_not_stop(stand_in, tmp_path):
    folders = freeze(tmp_path / "outputs", {0: ["hang"]})
    process = start_launch(folders, "submitit_local", [], tmp_path / "sweep")
    wait_for(lambda: statuses(folders) == {0: "running"})
    process.send_signal(signal.SIGINT)
    wait_for(lambda: (tmp_path / "sweep/launcher/1/stop").exists())
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=10)
    assert json.loads(output) == 130 and statuses(folders) == {0: "interrupted"}


def test_slurm_gets_our_python_the_settings_and_the_frozen_folders(stand_in, slurm, tmp_path):
    folders = freeze(tmp_path / "outputs", {0: [], 1: ["kill"]})
    words = ["partition=gpu", "timeout_min=90", "gpus_per_node=1", "array_parallelism=1", "account=lab", "mem_gb=8"]
    sweep = tmp_path / "temperature-0a1b2c3d"
    assert launch(folders, "submitit_slurm", [f"hydra.launcher.{word}" for word in words], sweep) == 0
    assert statuses(folders) == {0: "done", 1: "interrupted"}
    script = (slurm / "4711.sh").read_text()
    for flag in (
        "job-name=temperature-0a1b2c3d",
        "partition=gpu",
        "time=90",
        "gpus-per-node=1",
        "array=0-1%1",
        "mem=8GB",
    ):
        assert f"#SBATCH --{flag}\n" in script, script
    assert re.search(
        rf"{re.escape(sys.executable)} -u -m submitit.core._submit {re.escape(str(sweep))}/launcher/1/", script
    )
    submitted = json.loads((sweep / "launcher/1/submitted.json").read_text())
    assert submitted == {str(folders[0]): "4711_0", str(folders[1]): "4711_1"}


def test_slurm_starts_a_job_over_two_nodes_on_both(stand_in, slurm, tmp_path):
    folders = freeze(tmp_path / "outputs", {0: []})
    assert launch(folders, "submitit_slurm", [], tmp_path / "sweep", devices=4, nodes=2) == 0
    script = (slurm / "4711.sh").read_text()
    for flag in ("nodes=2", "ntasks-per-node=1", "gpus-per-node=4"):
        assert f"#SBATCH --{flag}\n" in script, script
    told = sorted(path.name for path in folders[0].glob("node *"))
    assert told == ["node 0 of 2, slurm-4711-0", "node 1 of 2, slurm-4711-0"] and statuses(folders) == {0: "done"}


def test_slurm_jobs_go_on_after_ctrl_c_are_not_submitted_twice_and_survive_a_preemption(stand_in, slurm, tmp_path):
    folders = freeze(tmp_path / "outputs", {4: ["wait"]})
    first = start_launch(folders, "submitit_slurm", [], tmp_path / "sweep")
    wait_for(lambda: statuses(folders) == {4: "running"})
    first.send_signal(signal.SIGINT)
    output, said = first.communicate(timeout=30)
    assert json.loads(output) == 130 and "go on without this process" in said and "scancel 4711" in said
    assert statuses(folders) == {4: "running"}

    second = start_launch(folders, "submitit_slurm", [], tmp_path / "sweep")
    wait_for(lambda: (tmp_path / "sweep/launcher/2/launcher.log").exists())
    # Slurm announces a preemption by the signal that submitit asked for: the state is saved, the job is queued again.
    os.kill(read_run(folders[4]).record["attempts"][-1]["pid"], signal.SIGUSR2)
    wait_for(lambda: statuses(folders) == {4: "done"})
    output, _ = second.communicate(timeout=30)
    assert json.loads(output) == 0
    assert [attempt["status"] for attempt in read_run(folders[4]).record["attempts"]] == ["interrupted", "done"]
    assert len(list(slurm.glob("*.sh"))) == 1


@pytest.mark.slow
def test_ray_keeps_the_results_beside_jobs_and_workers_that_died(stand_in, tmp_path, monkeypatch):
    import tempfile

    folders = freeze(tmp_path / "outputs", {0: [], 1: ["kill"], 2: ["kill parent"], 3: []})
    settings = ["ray.init.num_cpus=2", "ray.remote.max_retries=0", "ray.init.include_dashboard=false"]
    with tempfile.TemporaryDirectory() as short:  # paths of sockets have at most 107 characters
        monkeypatch.setenv("RAY_TMPDIR", short)
        monkeypatch.setenv("HOME", short)
        assert launch(folders, "ray", [f"hydra.launcher.{word}" for word in settings], tmp_path / "sweep") == 0
    assert statuses(folders) == {0: "done", 1: "interrupted", 2: "interrupted", 3: "done"}
