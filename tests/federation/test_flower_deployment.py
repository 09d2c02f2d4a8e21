"""A SuperLink and two SuperNodes as processes of their own on the loopback: the same apps, the same bits."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from kdrun.federation.flower import deployment
from kdrun.learning.report import Interrupted
from kdrun.problems import UserError

from .flower_grid import asked
from .plays import Silent, mlp, plain, play

PROGRAMS = Path(sys.executable).parent
OPTIONS = {"private": [mlp(16, dropout=0.3)], "proxy": mlp(8), "clients": 2, "rounds": 2, "eval_every": 2}


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Machines:
    """Processes that are ended with all that they started, whatever happens."""

    def __init__(self, folder: Path):
        self.folder, self.started = folder, []
        self.environment = {
            **os.environ,
            "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            "FLWR_HOME": str(folder / "flower-home"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
            "OMP_NUM_THREADS": "1",
        }

    def start(self, program: str, *words: str) -> subprocess.Popen:
        log = open(self.folder / f"machine-{len(self.started)}.log", "w")  # noqa: SIM115 - for the process
        command = [str(PROGRAMS / program), *words]
        self.started.append(
            subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        )
        log.close()
        return self.started[-1]

    def end(self) -> None:
        for process in reversed(self.started):
            for number in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(process.pid, number)
                    time.sleep(0.3)
                except ProcessLookupError:
                    break
            process.wait(10)

    def logs(self) -> str:
        return "\n".join(path.read_text()[-2000:] for path in sorted(self.folder.glob("machine-*.log")))


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.skipif(not (PROGRAMS / "flower-superlink").exists(), reason="Flower's programs are not beside this Python")
def test_two_machines_and_a_superlink_end_with_the_same_bits(tmp_path):
    one = play(tmp_path / "one", "energy_gated", **OPTIONS)
    port, machines, report = free_port(), Machines(tmp_path), Silent()
    engine = {
        "name": "flower",
        "superlink": f"127.0.0.1:{port}",
        "timeout": 100.0,
        "paths": {"cache": str(tmp_path / "no such folder")},
    }
    try:
        link = machines.start(
            "flower-superlink", "--insecure", "--port", str(port), "--disable-runtime-dependency-installation"
        )
        reached(port, link, machines)
        for number in range(2):
            config = f"partition-id={number} folder='node-{number}' cache='{tmp_path / 'cache'}'"
            machines.start(
                "flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}", "--port", str(free_port()),
                "--node-config", config,
            )  # fmt: skip
        try:
            other = play(tmp_path / "other", "energy_gated", report, engine=engine, **OPTIONS)
        except Exception as error:
            error.add_note(machines.logs())
            raise
    finally:
        machines.end()
    assert json.loads(json.dumps(plain(one))) == json.loads(json.dumps(plain(other)))
    assert "incidents" not in other
    for name in ("best.safetensors", "last.safetensors", "metrics.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes(), name
    assert not list((tmp_path / "other").glob("**/client-*")), "private networks stay where they are"
    for number in range(2):
        for which in ("best", "last"):
            name = f"client-0{number}.{which}.safetensors"
            (left,) = tmp_path.glob(f"node-{number}/*/client-0{number}/{name}")
            assert left.read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert [row["epoch"] for row in report.told] == [0, 1, 1] and report.epochs == [1]


def reached(port: int, process: subprocess.Popen, machines: Machines, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while socket.socket().connect_ex(("127.0.0.1", port)):
        assert process.poll() is None and time.monotonic() < until, machines.logs()
        time.sleep(0.2)


def question(work: Path, superlink: str = "127.0.0.1:1"):
    found = asked(work, "energy_gated", **OPTIONS)
    found.federation["engine"]["superlink"] = superlink
    return found


def test_no_superlink_there(tmp_path):
    with pytest.raises(UserError, match=r"superlink=127.0.0.1:1: no SuperLink there"):
        deployment.deploy(question(tmp_path), Silent())


def test_the_app_is_its_config_and_kdruns_own_apps(tmp_path):
    import tomllib

    found = question(tmp_path)
    app = deployment.write_app(found, tmp_path)
    assert [path.name for path in app.iterdir()] == ["pyproject.toml"]
    project = tomllib.loads((app / "pyproject.toml").read_text())
    assert project["project"]["dependencies"] == []
    config = project["tool"]["flwr"]["app"]["config"]
    assert json.loads(config["request"]) == {**found.to_json(), "work": str(tmp_path.absolute())}
    for place in project["tool"]["flwr"]["app"]["components"].values():
        module, _, name = place.partition(":")
        assert hasattr(__import__(module, fromlist=[name]), name)


class Process:
    """As a `flwr run` that ends when told."""

    def __init__(self):
        self.ended = None

    def poll(self):
        return self.ended


def followed(folder: Path, events: list, report=None, ended=None):
    folder.mkdir(exist_ok=True)
    (folder / deployment.EVENTS).write_text("".join(json.dumps(event) + "\n" for event in events))
    (folder / deployment.SAID).write_text("Flower says\n\nrun failed: no such app\n")
    process = Process()
    process.ended = ended
    return deployment._followed(folder, process, report or Silent())


def test_what_the_server_tells_is_passed_on(tmp_path, monkeypatch):
    (tmp_path / "outcome.json").write_text('{"label": "x"}')
    folder, report = tmp_path / "flower", Silent()
    events = [["rows", [{"epoch": 0}]], ["epoch", "x", 0, 2, {"accuracy": 0.5}], ["done"]]
    assert followed(folder, events, report) == {"label": "x"}
    assert report.told == [{"epoch": 0}] and report.epochs == [0]
    with pytest.raises(UserError) as error:
        followed(folder, [["failed", "UserError", ["no data", "kdrun fetch x"], "Traceback"]])
    assert error.value.lines == ["no data", "kdrun fetch x"]
    with pytest.raises(RuntimeError, match="client 2 in round 0: gone"):
        followed(folder, [["failed", "BadUpdate", ["client 2 in round 0: gone"], ""]])
    with pytest.raises(RuntimeError, match="KeyError"):
        followed(folder, [["failed", "KeyError", ["'x'"], "Traceback\nKeyError: 'x'"]])
    with pytest.raises(Interrupted):
        followed(folder, [["note", "saving"], ["failed", "Interrupted", [""], ""]], Silent(1))
    assert (folder / deployment.STOP).exists()
    monkeypatch.setattr(deployment, "LINGER", 0.0)
    with pytest.raises(RuntimeError, match="no such app"):
        followed(folder, [], ended=1)


def test_a_server_that_is_still_at_work_is_stopped_first(tmp_path, monkeypatch):
    from filelock import FileLock

    monkeypatch.setattr(deployment, "PATIENCE", 0.5)
    report, told = Silent(), []
    report.note = told.append
    with (
        FileLock(tmp_path / deployment.LOCK, thread_local=False),
        pytest.raises(UserError, match="does not stop"),
    ):
        deployment._stop_earlier(tmp_path, report)
    assert len(told) == 1 and (tmp_path / deployment.STOP).exists()
    deployment._stop_earlier(tmp_path, report)
