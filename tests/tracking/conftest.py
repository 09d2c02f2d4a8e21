from __future__ import annotations

import json

import pytest
from tracking.support import FAKE_WANDB, STARTED


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path_factory):
    """No key, no netrc, no settings of the person who runs the tests; wandb stays away from the network."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("NETRC", str(home / ".netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


@pytest.fixture(autouse=True)
def no_process_left():
    yield
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.fixture
def fake_wandb(monkeypatch, tmp_path):
    """Puts a fake wandb before the real one in child processes. Returns (set behaviour, calls so far)."""
    folder = tmp_path / "fake"
    folder.mkdir()
    (folder / "wandb.py").write_text(FAKE_WANDB)
    calls = tmp_path / "calls.jsonl"
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("FAKE_WANDB_CALLS", str(calls))

    def behave(how: str) -> None:
        monkeypatch.setenv("FAKE_WANDB", how)

    def read() -> list[dict]:
        return [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []

    return behave, read
