import collections
import hashlib
import json
import struct
import tarfile
import zipfile

import pytest
from text_support import COMMON

from kdrun.data import clients, fetch
from kdrun.data.fetch import Fetchable, FetchFailed
from kdrun.data.text_keys import normalised
from kdrun.domains.translation.build import text_module
from kdrun.domains.translation.shipped.ui_de_en import FILES, ui_de_en
from kdrun.domains.translation.shipped.ui_strings import EXTRACTS, read_table
from kdrun.problems import UserError


def catalogue(entries):
    """A .mo file."""
    keys = sorted(entries)
    texts = [key.encode() for key in keys] + [entries[key].encode() for key in keys]
    start = 28 + 16 * len(keys)
    tables, content = b"", b""
    for text in texts:
        tables += struct.pack("<2I", len(text), start + len(content))
        content += text + b"\0"
    return struct.pack("<7I", 0x950412DE, 0, len(keys), 28, 28 + 8 * len(keys), 0, 0) + tables + content


def page(*paragraphs):
    return "<html><p>no id</p>" + "".join(f'<p id="{name}" dir="auto">{text}</p>' for name, text in paragraphs)


SWITCH = (
    '<span id="s" class="switchinline"><span hidden="true" id="m" class="MAC"><span class="emph">Mac</span></span>'
    '<span hidden="true" id="d"><span class="emph">Linux</span></span></span>'
)
OF_A_PROGRAM = '<span class="switchinline"><span hidden="true" class="CALC">Calc</span></span>'
ROOMS = ["kitchen", "bath", "hall", "attic", "garden", "garage", "cellar", "porch", "office", "nursery"]
STATES = ["is on", "is off", "is open now", "is closed again", "is not available", "needs a battery"]


def strings(language):
    """Components of Home Assistant with 60 sentences, some with placeholders."""
    return {
        "title": "Lamp",
        "entity": {
            f"{room}_{number}": f"{'The' if language == 'en' else 'Das'} {{name}} {room} {state}"
            + ("." if language == "en" else "!")
            for room in ROOMS
            for number, state in enumerate(STATES)
        },
        "none": None,
        "multi": {"line": "one two\nthree\tfour\\n"},
    }


MEMBERS = {
    "homeassistant/components/lamp/translations/en.json": json.dumps(strings("en")).encode(),
    "homeassistant/components/lamp/translations/de.json": json.dumps(strings("de")).encode(),
    "homeassistant/components/lamp/translations/fr.json": b"not JSON",
    "./usr/share/libreoffice/help/en-US/text/a/x.html": page(
        ("par_id1", f"Press <b>{SWITCH}</b> &amp; wait<br>here"),
        ("par_id2", f"only {OF_A_PROGRAM}"),
        ("hd_id3", "Same id"),
        ("hd_id3", "again, other text"),
        ("bm_id9", "no paragraph"),
    ).encode(),
    "./usr/share/libreoffice/help/de/text/a/x.html": page(
        ("par_id1", "Drücken Sie Linux &amp; warten<br>hier"), ("hd_id3", "Gleich"), ("hd_id3", "noch einmal")
    ).encode(),
    "./usr/lib/libreoffice/program/resource/de/LC_MESSAGES/sw.mo": catalogue(
        {
            "": "Language: de\n",
            "menu\x04~Open the file": "Datei ö~ffnen hier",
            "row\0%d rows of it": "Zeile\0%d Zeilen davon",
        }
    ),
}


def tables():
    made = {}
    for file, name in zip(
        FILES, ("homeassistant", "libreoffice_help_en", "libreoffice_help_de", "libreoffice_ui"), strict=True
    ):
        found = {path: content for path, content in MEMBERS.items() if EXTRACTS[name].members.search(path)}
        made[file] = (name, EXTRACTS[name].table(found))
    return made


def test_extracts():
    made = {file: read_table(content) for file, (_, content) in tables().items()}
    interface = made["homeassistant.en-de.tsv"]
    assert ("lamp.entity.bath_0", "The {name} bath is on.", "Das {name} bath is on!") in interface
    assert ("lamp.multi.line",) + ("one two\nthree\tfour\\n",) * 2 in interface and len(interface) == 62
    assert made["libreoffice_help.en.tsv"] == [
        ("a/x#hd_id3.0", "Same id"),
        ("a/x#hd_id3.1", "again, other text"),
        ("a/x#par_id1.0", "Press Linux & wait\nhere"),
    ]
    assert made["libreoffice_ui.en-de.tsv"] == [
        ("sw:", "%d rows of it", "%d Zeilen davon"),
        ("sw:", "row", "Zeile"),
        ("sw:menu", "~Open the file", "Datei ö~ffnen hier"),
    ]


def entry():
    files = tuple(
        {
            "name": file,
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "extract": f"kdrun.domains.translation.shipped.ui_strings:{name}",
        }
        for file, (name, content) in tables().items()
    )
    packages = (
        {"client": "wheel", "name": "lamps", "version": "1", "python": "3.14.2", "gives": [FILES[0]]},
        {"client": "debian", "name": "office", "version": "4:7", "gives": list(FILES[1:])},
    )
    return Fetchable("made_up", "made up", "data set", "MIT", 1000, files, packages)


def archives(folder, members=None):
    """A wheel with the one half and a tar file with the other."""
    members = members or MEMBERS
    with zipfile.ZipFile(folder / "lamps-1.whl", "w") as archive:
        for path, content in members.items():
            if path.startswith("homeassistant"):
                archive.writestr(path, content)
    for path, content in members.items():
        if path.startswith("."):
            (folder / "tree" / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / "tree" / path).write_bytes(content)
    with tarfile.open(folder / "office.tar.gz", "w:gz") as archive:
        archive.add(folder / "tree", ".")
    return folder


def whole(cache):
    for file, (_, content) in tables().items():
        assert (entry().folder(cache) / file).read_bytes() == content
    return True


@pytest.fixture
def bring(tmp_path, monkeypatch):
    """Clients that copy made-up archives; `bring.asked` says for what."""
    (tmp_path / "mirror").mkdir()
    archives(tmp_path / "mirror")
    asked = []

    def bring(package, folder, told):
        asked.append(package["name"])
        name = {"lamps": "lamps-1.whl", "office": "office.tar.gz"}[package["name"]]
        if not (tmp_path / "mirror" / name).exists():
            raise clients.ClientFailed(f"{name} is gone")
        (folder / name).write_bytes((tmp_path / "mirror" / name).read_bytes())

    monkeypatch.setattr(clients, "bring", bring)
    bring.asked, bring.mirror = asked, tmp_path / "mirror"
    return bring


def test_tables_are_made_of_several_archives_which_are_not_kept(bring, tmp_path):
    assert fetch.fetch(entry(), tmp_path / "c") and whole(tmp_path / "c")
    assert bring.asked == ["lamps", "office"]
    kept = {path.name for path in (tmp_path / "c").rglob("*") if path.is_file()}
    assert kept == {*FILES, "about.json", "fetch-made_up.lock"}
    assert fetch.fetch(entry(), tmp_path / "c") is False


def test_what_one_attempt_finished_the_next_does_not_repeat(bring, tmp_path):
    away = (bring.mirror / "office.tar.gz").rename(tmp_path / "away")
    with pytest.raises(FetchFailed) as caught:
        fetch.fetch(entry(), tmp_path / "c")
    text = str(caught.value)
    assert "office.tar.gz is gone" in text and FILES[0] not in text and FILES[1] in text
    assert "pinned is the content of lamps 1 (wheel), office 4:7 (debian)" in text and "--from PATH" in text
    away.rename(bring.mirror / "office.tar.gz")
    assert fetch.fetch(entry(), tmp_path / "c") and whole(tmp_path / "c")
    assert bring.asked == ["lamps", "office", "office"]


def test_another_version_serves_if_the_strings_are_the_same(bring, tmp_path):
    archives(bring.mirror, {**MEMBERS, "homeassistant/components/lamp/manifest.json": b"new"})
    assert fetch.fetch(entry(), tmp_path / "c") and whole(tmp_path / "c")
    other = json.dumps({**strings("en"), "title": "Another"}).encode()
    archives(bring.mirror, {**MEMBERS, "homeassistant/components/lamp/translations/en.json": other})
    with pytest.raises(FetchFailed, match=r"homeassistant.en-de.tsv from lamps 1 \(wheel\) has another content"):
        fetch.fetch(entry(), tmp_path / "d")


@pytest.mark.parametrize("form", ["archives", "tables", "unpacked"])
def test_from_what_the_user_has(form, tmp_path):
    given = tmp_path / "given"
    given.mkdir()
    if form == "tables":
        for file, (_, content) in tables().items():
            (given / file).write_bytes(content)
    elif form == "archives":
        archives(given)
    else:
        for path, content in MEMBERS.items():
            (given / path).parent.mkdir(parents=True, exist_ok=True)
            (given / path).write_bytes(content)
    assert fetch.fetch(entry(), tmp_path / "c", given) and whole(tmp_path / "c")


def test_a_damaged_member_is_said(tmp_path):
    broken = {**MEMBERS, "homeassistant/components/lamp/translations/en.json": b"{"}
    with pytest.raises(FetchFailed, match="is damaged"):
        fetch.fetch(entry(), tmp_path / "c", archives(tmp_path, broken))
    (tmp_path / "d").mkdir()
    with pytest.raises(FetchFailed, match="is damaged"):
        fetch.fetch(entry(), tmp_path / "c", archives(tmp_path / "d", {list(MEMBERS)[-1]: b"\xde\x12\x04\x95"}))


def test_clients_are_asked_for_the_pinned_version(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(clients, "_run", lambda command, *rest: asked.append(command))
    monkeypatch.setattr(clients.shutil, "which", lambda name: f"/usr/bin/{name}")
    for package in entry().packages:
        clients.bring(package, tmp_path, lambda have: None)
    assert asked[0][-5:-2] == ["3.14.2", "-d", str(tmp_path)] or "3.14.2" in asked[0]
    assert "--python-version" in asked[0] and asked[1][-1] == "office=4:7*"


# The source, on a folder of made-up tables


@pytest.fixture
def root(tmp_path):
    for file, (_, content) in tables().items():
        (tmp_path / file).write_bytes(content)
    return tmp_path


def test_domains_and_directions(root):
    made = ui_de_en(root, cache=root / "cache")
    assert made.languages == ("de", "en") and made.extra == ("shift",) and made.source[0].startswith("Das ")
    assert collections.Counter(made.split.tolist()) == {0: 60, 3: 4}
    assert "The bath is on." in made.target and made.dropped == {"short": 3}
    turned = ui_de_en(root, direction="en-de", cache=root / "cache")
    assert (turned.source, turned.target) == (made.target, made.source) and turned.groups == made.groups
    other = ui_de_en(root, domain="libreoffice", cache=root / "cache")
    assert other.ids[other.split == 0].tolist() == made.ids[made.split == 3].tolist()
    assert (other.split == 3).sum() == 60
    assert {*other.target} >= {"Press Linux & wait", "Open the file", "rows of it"}
    everything = ui_de_en(root, domain="all", cache=root / "cache")
    assert len(everything) == 64 and everything.extra == ()


def test_a_direction_changes_no_split(root):
    config = {**COMMON, "vocabulary": 300, "val_fraction": 0.1, "test_fraction": 0.2}
    one, other = (
        text_module(ui_de_en(root, direction=direction, cache=root / "c"), config, root / "c")
        for direction in ("de-en", "en-de")
    )
    for split in ("train", "val", "test", "shift"):
        assert one.samples(split).ids.tolist() == other.samples(split).ids.tolist()
        assert one.sources(split) == other.references(split)
    assert one.extra_tests == ("shift",) and one.spec.tokenizer == other.spec.tokenizer


def test_what_is_cleaned_is_kept_and_checked(root):
    first = ui_de_en(root, cache=root / "cache")
    (path,) = (root / "cache" / "text").iterdir()
    path.write_bytes(path.read_bytes()[:-5])
    assert ui_de_en(root, cache=root / "cache").source_hash == first.source_hash


def test_short_sentences_alone(root):
    whole, short = (ui_de_en(root, max_words=words, cache=root / "cache") for words in (None, 4))
    rows = {number: row for row, number in enumerate(whole.ids.tolist())}
    longest = [max(len(text.split()) for text in pair) for pair in zip(short.source, short.target, strict=True)]
    assert 0 < len(short.ids) < len(whole.ids) and max(longest) <= 4
    assert short.dropped["longer"] == len(whole.ids) - len(short.ids) and "longer" not in whole.dropped
    assert [short.source[n] for n in range(9)] == [whole.source[rows[int(i)]] for i in short.ids[:9]]
    with pytest.raises(UserError, match="max_words=2: no pair is so short"):
        ui_de_en(root, max_words=2, cache=root / "cache")


def test_what_is_refused(root, tmp_path):
    with pytest.raises(UserError, match=r"data.domain=home: one of homeassistant, libreoffice, all"):
        ui_de_en(root, domain="home")
    with pytest.raises(UserError, match=r"data.direction=de_en.*closest: de-en"):
        ui_de_en(root, direction="de_en")
    (root / FILES[1]).unlink()
    with pytest.raises(UserError, match=r"has no .*libreoffice_help.en.tsv"):
        ui_de_en(root, cache=tmp_path)
    with pytest.raises(UserError, match="kdrun fetch ui_de_en"):
        ui_de_en(cache=tmp_path)


# The real one, where it is in the cache


@pytest.fixture(scope="module")
def real():
    cache = fetch.default_cache()
    if not fetch.find("ui_de_en").present(cache):
        pytest.skip("needs: kdrun fetch ui_de_en")
    return lambda **options: ui_de_en(cache=cache, **options)


def test_the_real_tables_are_what_is_pinned(real):
    assert fetch._whole(fetch.find("ui_de_en"), fetch.default_cache())


def test_the_real_corpus(real, tmp_path):
    pairs = real()
    assert collections.Counter(pairs.split.tolist()) == {0: 25_153, 3: 1_500}
    config = {**COMMON, "val_fraction": 0.0425, "test_fraction": 0.06}
    module = text_module(pairs, config, tmp_path)
    sizes = module.spec.sizes
    assert sizes == {"train": 22_551, "val": 997, "test": 1_509, "shift": 1_499}
    training = {normalised(text) for text in module.references("train")}
    german = {normalised(text) for text in module.sources("train")}
    for split in ("val", "test", "shift"):
        assert not training & {normalised(text) for text in module.references(split)}
        assert not german & {normalised(text) for text in module.sources(split)}
    found = module.audit()
    assert not found["shared"] and found["unknown"]["test"] == {"source": 0.0, "target": 0.0}
    assert all(near["normalised"] == 0 for near in found["near"].values())
    steps = [len(module.train_loader(4096, 0, rank, 2)) for rank in range(2)]
    assert steps[0] == steps[1] == 91


def test_the_real_corpus_in_all_domains(real):
    counts = {domain: (real(domain=domain).split == 0).sum() for domain in ("homeassistant", "libreoffice", "all")}
    assert counts == {"homeassistant": 25_153, "libreoffice": 43_714, "all": 68_867}
