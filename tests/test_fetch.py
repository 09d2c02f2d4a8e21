"""`kdrun fetch` against clients that the test controls: no network, nothing installed."""

import gzip
import hashlib
import http.server
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import pytest

from kdrun.data import clients, fetch
from kdrun.data.fetch import Fetchable, FetchFailed
from kdrun.problems import UserError
from kdrun.verbs.fetch import main

CONTENT = {"a.bin": bytes(range(256)) * 500, "b.bin": b"second" * 1000}


def entry(**changes):
    files = tuple(
        {"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in CONTENT.items()
    )
    made = Fetchable(
        "thing",
        "a made-up thing",
        "data set",
        "MIT",
        1000,
        files,
        ({"client": "wheel", "name": "thing", "version": "1.0"},),
    )
    return replace(made, **changes)


def wheel(path, content=None):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (CONTENT if content is None else content).items():
            archive.writestr(f"thing/data/{name}.gz", gzip.compress(data))
    return path


@pytest.fixture
def pip(tmp_path, monkeypatch):
    """A `pip` whose next answers the test writes as shell-like steps: a module that runs a script."""
    folder = tmp_path / "fake"
    (folder / "pip").mkdir(parents=True)
    (folder / "pip" / "__init__.py").touch()
    (folder / "pip" / "__main__.py").write_text(
        "import os, shutil, sys, pathlib\n"
        "if '--version' in sys.argv: sys.exit(0)\n"
        "here = pathlib.Path(__file__).parent\n"
        "with open(here / 'calls', 'a') as file: file.write(' '.join(sys.argv[1:]) + '\\n')\n"
        "target = sys.argv[sys.argv.index('-d') + 1]\n"
        "exec((here / 'script').read_text())\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder))
    wheel(tmp_path / "thing-1.0-py3-none-any.whl")

    def script(text):
        (folder / "pip" / "script").write_text(text)

    script(f"shutil.copy({str(tmp_path / 'thing-1.0-py3-none-any.whl')!r}, target)")
    calls = folder / "pip" / "calls"
    return SimpleNamespace(script=script, calls=lambda: calls.read_text().splitlines() if calls.exists() else [])


def check_whole(cache, thing=None):
    thing = thing or entry()
    assert thing.present(cache)
    for name, content in CONTENT.items():
        assert (thing.folder(cache) / name).read_bytes() == content
    assert not list((cache / "fetched").glob(".*"))


def test_a_wheel_is_downloaded_never_installed(pip, tmp_path):
    told = []
    assert fetch.fetch(entry(), tmp_path / "c", told=lambda what, have: told.append((what, have)))
    check_whole(tmp_path / "c")
    (call,) = pip.calls()
    assert call.startswith("download --no-deps") and "--only-binary=:all:" in call and call.endswith("thing==1.0")
    assert told and told[0][0] == "thing 1.0 (wheel)"
    about = json.loads((entry().folder(tmp_path / "c") / "about.json").read_text())
    assert about["licence"] == "MIT"


def test_what_is_there_is_verified_and_not_fetched_again(pip, tmp_path):
    fetch.fetch(entry(), tmp_path / "c")
    assert fetch.fetch(entry(), tmp_path / "c") is False and len(pip.calls()) == 1
    path = entry().folder(tmp_path / "c") / "a.bin"
    path.write_bytes(bytes(len(CONTENT["a.bin"])))  # same length, other content
    assert fetch.fetch(entry(), tmp_path / "c") is True
    check_whole(tmp_path / "c")


def test_wrong_content_is_refused_and_nothing_appears(pip, tmp_path):
    wheel(tmp_path / "thing-1.0-py3-none-any.whl", {"a.bin": b"evil", "b.bin": CONTENT["b.bin"]})
    with pytest.raises(FetchFailed) as caught:
        fetch.fetch(entry(), tmp_path / "c")
    text = str(caught.value)
    assert "a.bin from thing 1.0 (wheel) has another content" in text and "--from PATH" in text
    assert not entry().present(tmp_path / "c") and not entry().folder(tmp_path / "c").exists()
    # What was right is kept: with the right archive only the rest is taken.
    wheel(tmp_path / "thing-1.0-py3-none-any.whl", {"a.bin": CONTENT["a.bin"]})
    assert fetch.fetch(entry(), tmp_path / "c")
    check_whole(tmp_path / "c")


def test_an_interrupted_download_is_repeated(pip, tmp_path):
    good = tmp_path / "thing-1.0-py3-none-any.whl"
    pip.script(
        f"open(target + '/thing-1.0-py3-none-any.whl', 'wb').write(open({str(good)!r}, 'rb').read()[:300]); sys.exit(1)"
    )
    with pytest.raises(FetchFailed, match="exit code 1"):
        fetch.fetch(entry(), tmp_path / "c")
    assert not entry().present(tmp_path / "c")
    pip.script(f"shutil.copy({str(good)!r}, target)")
    assert fetch.fetch(entry(), tmp_path / "c")
    check_whole(tmp_path / "c")


def test_a_cut_archive_that_looks_finished_is_damaged(pip, tmp_path):
    good = tmp_path / "thing-1.0-py3-none-any.whl"
    pip.script(f"open(target + '/thing-1.0-py3-none-any.whl', 'wb').write(open({str(good)!r}, 'rb').read()[:300])")
    with pytest.raises(FetchFailed, match="damaged"):
        fetch.fetch(entry(), tmp_path / "c")


def test_an_archive_that_came_before_the_kill_is_used(pip, tmp_path):
    thing = entry()
    work = thing.folder(tmp_path / "c").with_name("." + thing.folder(tmp_path / "c").name)
    (work / "downloads").mkdir(parents=True)
    wheel(work / "downloads" / "thing-1.0-py3-none-any.whl")
    assert fetch.fetch(thing, tmp_path / "c") and not pip.calls()
    check_whole(tmp_path / "c")


def test_the_clients_reason_is_one_line(pip, tmp_path):
    pip.script(
        "print('noise\\n' * 50 + 'ERROR: No matching distribution found for thing==1.0', file=sys.stderr); sys.exit(1)"
    )
    with pytest.raises(FetchFailed) as caught:
        fetch.fetch(entry(), tmp_path / "c")
    assert "No matching distribution" in caught.value.lines[1] and len(caught.value.lines) <= 4


def test_two_at_once_fetch_once(pip, tmp_path):
    pip.script(f"import time; time.sleep(0.5); shutil.copy({str(tmp_path / 'thing-1.0-py3-none-any.whl')!r}, target)")
    results = []
    threads = [threading.Thread(target=lambda: results.append(fetch.fetch(entry(), tmp_path / "c"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False, True] and len(pip.calls()) == 1


# --from


@pytest.mark.parametrize("form", ["folder", "gzipped", "wheel", "folder with the archive", "tar"])
def test_from_what_the_user_has(form, tmp_path):
    given = tmp_path / "mine"
    given.mkdir()
    if form == "wheel":
        given = wheel(given / "x.whl")
    elif form == "folder with the archive":
        wheel(given / "x.zip")
    else:
        for name, content in CONTENT.items():
            if form == "gzipped":
                (given / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (given / name).write_bytes(content)
        if form == "tar":
            given = shutil.make_archive(str(tmp_path / "packed"), "gztar", given)
    from pathlib import Path

    assert fetch.fetch(entry(packages=()), tmp_path / "c", Path(given))
    check_whole(tmp_path / "c")


def test_from_the_wrong_thing(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.bin").write_bytes(b"other")
    with pytest.raises(FetchFailed) as caught:
        fetch.fetch(entry(), tmp_path / "c", tmp_path / "mine")
    assert "does not hold all of thing" in caught.value.lines[0] and "another content" in caught.value.lines[1]
    with pytest.raises(UserError, match="no such file"):
        fetch.fetch(entry(), tmp_path / "c", tmp_path / "absent")


# Debian, with a fake apt-get and dpkg-deb


@pytest.fixture
def debian(tmp_path, monkeypatch):
    programs = tmp_path / "bin"
    programs.mkdir()

    def program(name, text):
        path = programs / name
        path.write_text(f"#!{sys.executable}\nimport os, shutil, sys\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    source = tmp_path / "content"
    source.mkdir()
    for name, content in CONTENT.items():
        (source / f"{name}.gz").write_bytes(gzip.compress(content))
    packed = shutil.make_archive(str(tmp_path / "data"), "tar", source)
    program(
        "dpkg-deb",
        "assert sys.argv[1] == '--fsys-tarfile'\nshutil.copyfileobj(open(sys.argv[2], 'rb'), sys.stdout.buffer)",
    )
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return SimpleNamespace(
        program=program, packed=packed, log=tmp_path / "log", packages=({"client": "debian", "name": "thing"},)
    )


def test_a_debian_package_and_its_lists(debian, tmp_path, monkeypatch):
    """A fresh system has no package lists: root brings them up to date once, anybody else is told to."""
    debian.program(
        "apt-get",
        f"open({str(debian.log)!r}, 'a').write(sys.argv[2] + '\\n')\n"
        f"known = 'update' in open({str(debian.log)!r}).read()\n"
        "if sys.argv[2] == 'download' and not known: sys.exit('E: Unable to locate package thing')\n"
        f"if sys.argv[2] == 'download': shutil.copy({debian.packed!r}, 'thing_1_all.deb')",
    )
    thing = entry(packages=debian.packages)
    monkeypatch.setattr(clients.os, "geteuid", lambda: 1000)
    with pytest.raises(FetchFailed, match="sudo apt-get update"):
        fetch.fetch(thing, tmp_path / "c")
    monkeypatch.setattr(clients.os, "geteuid", lambda: 0)
    assert fetch.fetch(thing, tmp_path / "c")
    assert debian.log.read_text().split() == ["download", "download", "update", "download"]
    check_whole(tmp_path / "c", thing)


def test_no_debian_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(clients.shutil, "which", lambda name: None)
    with pytest.raises(FetchFailed, match="no Debian-like system"):
        fetch.fetch(entry(packages=({"client": "debian", "name": "thing"},)), tmp_path / "c")


# Upstream


@pytest.fixture
def server():
    """Serves CONTENT gzipped, with ranges; cuts the first answer for a.bin in the middle."""
    packed = {f"/{name}.gz": gzip.compress(content, mtime=0) for name, content in CONTENT.items()}
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            content = packed[self.path]
            start = int(self.headers["Range"][6:-1]) if self.headers["Range"] else 0
            asked.append((self.path, start))
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            cut = self.path == "/a.bin.gz" and len(asked) == 1
            self.wfile.write(content[start : len(content) // 2 if cut else None])

        def log_message(self, *arguments):
            pass

    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield SimpleNamespace(address=f"http://127.0.0.1:{served.server_port}", asked=asked, packed=packed)
    served.shutdown()
    served.server_close()


def test_upstream_goes_on_where_it_was_cut(server, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    thing = entry(packages=(), upstream=(server.address,))
    with pytest.raises(FetchFailed, match="early"):
        fetch.fetch(thing, tmp_path / "c")
    assert fetch.fetch(thing, tmp_path / "c")
    half = len(server.packed["/a.bin.gz"]) // 2
    assert server.asked == [("/a.bin.gz", 0), ("/a.bin.gz", half), ("/b.bin.gz", 0)]
    check_whole(tmp_path / "c", thing)


def test_no_network_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(FetchFailed) as caught:
        fetch.fetch(entry(packages=(), upstream=("http://127.0.0.1:9",)), tmp_path / "c")
    assert len(caught.value.lines) == 3


# The registry and the verb


def test_the_registry_is_sound():
    entries = fetch.registry()
    assert {"fashion_mnist", "mnist_5k", "efficientnet_lite0", "efficientnet_lite1"} <= set(entries)
    for name, thing in entries.items():
        assert thing.about and thing.licence and thing.bytes > 0 and thing.files, name
        assert all(len(file["sha256"]) == 64 and file["bytes"] > 0 for file in thing.files)
        assert all(package["client"] in clients._CLIENTS for package in thing.packages)
    assert len({thing.folder("x") for thing in entries.values()}) == len(entries)


def arguments(*words, **options):
    return SimpleNamespace(words=list(words), options=options, json=options.pop("json", False), overrides=[])


def test_the_list(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KDRUN_CACHE", str(tmp_path))
    assert main(arguments()) == 0
    text = capsys.readouterr().out
    assert "fashion_mnist" in text and "absent" in text and "MIT (Zalando SE)" in text
    assert main(arguments(json=True)) == 0
    views = json.loads(capsys.readouterr().out)
    assert {view["name"]: view["present"] for view in views}["mnist_5k"] is False


def test_the_verb_fetches_and_shows_the_licence(pip, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KDRUN_CACHE", str(tmp_path / "c"))
    monkeypatch.setattr("kdrun.verbs.fetch.registry", lambda: {"thing": entry()})
    assert main(arguments("thing")) == 0
    shown = capsys.readouterr()
    assert "licence: MIT" in shown.err and "fetched and verified" in shown.out
    assert main(arguments("thing", json=True)) == 0
    view = json.loads(capsys.readouterr().out)
    assert view["present"] and view["fetched"] is False


def test_the_verb_fails_with_code_1_and_a_remedy(pip, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KDRUN_CACHE", str(tmp_path / "c"))
    monkeypatch.setattr("kdrun.verbs.fetch.registry", lambda: {"thing": entry()})
    pip.script("sys.exit(1)")
    assert main(arguments("thing")) == 1
    assert "--from PATH" in capsys.readouterr().err


def test_a_misspelt_name_and_a_lone_from(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="closest: fashion_mnist"):
        main(arguments("fashion_minst"))
    with pytest.raises(UserError, match="--from needs a name"):
        main(arguments(**{"from": "x"}))


def test_the_verb_imports_neither_torch_nor_rich():
    heavy = "('torch', 'rich', 'lightning', 'hydra', 'numpy')"
    code = f"import sys, kdrun.verbs.fetch; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_real_fashion_mnist_is_what_is_pinned():
    thing, cache = fetch.find("fashion_mnist"), fetch.default_cache()
    if not thing.present(cache):
        pytest.skip("needs: kdrun fetch fashion_mnist")
    assert fetch._whole(thing, cache)
