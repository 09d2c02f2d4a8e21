"""What is made from files is made once, and again when they, the options or the code have changed."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from kdrun.data import audit as data_audit
from kdrun.data import columns, fetch, keeping
from kdrun.domains.images import image_folder
from kdrun.domains.images import module as image_module
from kdrun.domains.language import files, rows
from kdrun.domains.load import content_hash, load_data
from kdrun.domains.text import files as text_files
from kdrun.domains.text.tokens import TextTokenizer
from kdrun.domains.translation import audit as translation_audit
from kdrun.domains.translation import build, parallel_text
from kdrun.domains.vision_language import audit as vision_audit
from kdrun.domains.vision_language import build as vision_build
from kdrun.domains.vision_language import llava_json
from kdrun.problems import UserError


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Whatever their size."""
    monkeypatch.setattr(keeping, "LEAST", 1)
    monkeypatch.setattr(columns, "LONG", 10)
    monkeypatch.setattr(columns, "INLINE", 256)


def texts(folder, count=60, name="texts.jsonl", word="word"):
    path = folder / name
    path.write_text("".join(json.dumps({"text": f"{word} {n} is followed by {n + 1}"}) + "\n" for n in range(count)))
    return path


def chats(folder, count=60):
    path = folder / "chats.jsonl"
    turns = [{"role": "user", "content": "ask {n}"}, {"role": "assistant", "content": "say {n} and {n}"}]
    lines = [json.dumps({"messages": turns, "topic": "t"}).replace("{n}", str(n)) for n in range(count)]
    path.write_text("\n".join(lines))
    return path


def language(path, kind="text_corpus", **settings):
    node = {"_target_": f"kdrun.domains.language.files.{kind}", "root": str(path), "task": "causal_lm"}
    return {**node, "language": {"vocabulary": 300, "max_length": 32, **settings}}


def counted(monkeypatch, module, name):
    """A list that grows by one with each call of a function."""
    calls, function = [], getattr(module, name)

    def call(*arguments, **options):
        calls.append(name)
        return function(*arguments, **options)

    monkeypatch.setattr(module, name, call)
    return calls


def same(one, other):
    """Whether two batches are the same to the bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return all(same(one[name], other[name]) for name in {*one, *other}) if isinstance(one, dict) else one == other


def batches(module):
    return [batch for split in ("train", "val", "test") for batch in module.eval_loader(split, 8)]


def pairs(folder, count=60):
    """The config of two files of lines."""
    for language, word in (("de", "Satz"), ("en", "sentence")):
        lines = [f"{word} {chr(97 + n % 26)}{chr(97 + n // 26)} {word} {n}" for n in range(count)]
        (folder / f"train.{language}").write_text("\n".join(lines))
    node = {"_target_": "kdrun.domains.translation.parallel_text.parallel_text", "task": "translation"}
    files = {"source": str(folder / "train.de"), "target": str(folder / "train.en")}
    return {**node, **files, "text": {"vocabulary": 300}}


def conversations(folder, count=60):
    """The config of conversations on images, two of them on the same."""
    (folder / "images").mkdir()
    for number in range(count // 2):
        Image.new("RGB", (8, 8), (number, 100, 50)).save(folder / "images" / f"{number}.png")
    turns = [{"from": "human", "value": "<image>\nWhat is {n}?"}, {"from": "gpt", "value": "It is {n}."}]
    rows = [{"id": str(n), "image": f"{n // 2}.png", "conversations": turns} for n in range(count)]
    text = ",".join(json.dumps(row).replace("{n}", str(number)) for number, row in enumerate(rows))
    (folder / "talk.json").write_text(f"[{text}]")
    node = {"_target_": "kdrun.domains.vision_language.llava_json.llava_json", "task": "vision_language", "size": 16}
    files = {"root": str(folder), "file": "talk.json", "images": "images"}
    return {**node, **files, "vision": {"tower": None, "image_tokens": 4, "size": 16, "max_length": 64}}


def table(folder, count=60):
    """The config of a table of texts with classes."""
    path = folder / "table.csv"
    path.write_text(
        "text,label\n" + "".join(f"word {n} is {'odd' if n % 2 else 'even'},{n % 2}\n" for n in range(count))
    )
    node = {"_target_": "kdrun.domains.text.files.text_file", "task": "text_classification", "root": str(path)}
    return {**node, "tokens": {"vocabulary": 300, "max_length": 16}}


def images(folder, count=60):
    """The config of a folder of images in two classes."""
    for number in range(count):
        path = folder / "pictures" / ("light", "dark")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 100, 50)).save(path)
    return {"_target_": "kdrun.domains.images.image_folder.image_folder", "root": str(folder / "pictures")}


CASES = {
    "texts": (lambda folder: language(texts(folder)), (files, "documents"), (rows, "pieces")),
    "chats": (lambda folder: language(chats(folder), "chats"), (files, "documents"), (rows, "pieces")),
    "pairs": (pairs, (parallel_text, "assembled"), (build, "_encoded")),
    "conversations": (conversations, (llava_json, "assembled"), (vision_build, "encoded")),
    "table": (table, (text_files, "read_files"), (TextTokenizer, "encode")),
    "images": (images, (image_folder, "image_files"), (image_module, "_moments")),
}
"""What makes files and a config of data; the function that reads them, and one that takes a pass over all samples."""
LOOKS = ((translation_audit, "_near"), (vision_audit, "_unknown"), (data_audit, "audit"))
"""Functions of audits."""


@pytest.mark.parametrize("case", CASES)
def test_data_are_read_made_into_tokens_and_looked_at_once(tmp_path, monkeypatch, case):
    make, *functions = CASES[case]
    config, paths = make(tmp_path), {"cache": str(tmp_path / "cache")}
    calls = [counted(monkeypatch, *function) for function in functions]
    looks = [counted(monkeypatch, module, name) for module, name in LOOKS]
    first = load_data(config, paths)
    audit, so_far = first.audit(), [len(each) for each in (*calls, *looks)]
    assert min(so_far[:2]) > 0
    second = load_data(config, paths)
    hashed = content_hash(config, paths)
    assert second.audit() == audit and [len(each) for each in (*calls, *looks)] == so_far
    monkeypatch.setattr(keeping, "LEAST", 1 << 40)  # as it is without files
    plain = load_data(config, paths)
    assert len(calls[0]) == 2 * so_far[0]
    assert content_hash(config, paths) == hashed and json.loads(json.dumps(plain.audit())) == audit
    for module in (first, second):
        assert module.spec == plain.spec
        assert len(batches(module)) == len(batches(plain))
        assert all(same(*pair) for pair in zip(batches(module), batches(plain), strict=True))


def test_arrays_and_texts_of_large_sets_stay_in_their_files(tmp_path):
    config, paths = language(texts(tmp_path)), {"cache": str(tmp_path / "cache")}
    for module in (load_data(config, paths), load_data(config, paths)):
        assert isinstance(module.samples("train").tokens.flat, np.memmap)
        assert isinstance(module.source.documents, columns.StoredTexts)
        assert module.source.documents[-1] == "word 59 is followed by 60" == [*module.source.documents][-1]
        assert module.source.documents[3:5] == ["word 3 is followed by 4", "word 4 is followed by 5"]


def test_a_file_that_has_changed_is_read_again_and_one_that_was_touched_is_not(tmp_path, monkeypatch):
    path, paths = texts(tmp_path), {"cache": str(tmp_path / "cache")}
    read = counted(monkeypatch, files, "documents")
    before = content_hash(language(path), paths)
    os.utime(path, ns=(1, 1))
    assert content_hash(language(path), paths) == before and len(read) == 1
    stat = path.stat()
    path.write_text(path.read_text().replace("word 7", "bird 7"))  # as many bytes, at the same time
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert content_hash(language(path), paths) != before and len(read) == 2
    assert "bird 7 is followed by 8" in list(load_data(language(path), paths).source.documents)


def test_a_file_that_comes_into_a_folder_is_read(tmp_path, monkeypatch):
    folder = tmp_path / "texts"
    (folder / "below").mkdir(parents=True)
    texts(folder)
    config, paths = language(folder), {"cache": str(tmp_path / "cache")}
    assert len(load_data(config, paths).source) == 60
    texts(folder / "below", 20, "more.jsonl", "other")
    assert len(load_data(config, paths).source) == 80
    (folder / "texts.jsonl").unlink()
    assert len(load_data(config, paths).source) == 20


def test_other_options_of_the_tokenizer_and_of_the_split_are_other_rows(tmp_path, monkeypatch):
    path, paths = texts(tmp_path), {"cache": str(tmp_path / "cache")}
    read, cut = counted(monkeypatch, files, "documents"), counted(monkeypatch, rows, "pieces")
    sizes = [
        load_data(config, paths).spec.vocabulary
        for config in (language(path), language(path, vocabulary=280), language(path), language(path, vocabulary=280))
    ]
    assert sizes[0] == sizes[2] != sizes[1] == sizes[3]
    assert len(read) == 1 and len(cut) == 6
    load_data({**language(path), "split_seed": 1}, paths)
    assert len(read) == 1 and len(cut) == 9


def test_an_own_tokenizer_that_has_changed_cuts_again(tmp_path, monkeypatch):
    path, paths = texts(tmp_path), {"cache": str(tmp_path / "cache")}
    for vocabulary in (300, 270):
        made = load_data(language(path, vocabulary=vocabulary), paths).tokenizer.made
        made.save_pretrained(tmp_path / str(vocabulary))
    folder = tmp_path / "mine"
    (tmp_path / "300").rename(folder)
    cut = counted(monkeypatch, rows, "pieces")
    first = load_data(language(path, tokenizer=str(folder)), paths)
    load_data(language(path, tokenizer=str(folder)), paths)
    assert len(cut) == 3
    for file in (tmp_path / "270").iterdir():
        file.replace(folder / file.name)
    second = load_data(language(path, tokenizer=str(folder)), paths)
    assert len(cut) == 6 and second.tokenizer.sha256 != first.tokenizer.sha256


def test_what_changes_while_it_is_read_is_used_and_not_kept(tmp_path, monkeypatch):
    path, paths = texts(tmp_path), {"cache": str(tmp_path / "cache")}
    function = files.documents

    def interrupted(*arguments, **options):
        texts(tmp_path, word="later")
        return function(*arguments, **options)

    monkeypatch.setattr(files, "documents", interrupted)
    assert load_data(language(path), paths).source.documents[0].startswith("word")
    monkeypatch.setattr(files, "documents", function)
    assert load_data(language(path), paths).source.documents[0].startswith("later")


def test_a_damaged_file_and_one_that_is_gone_are_made_again(tmp_path, monkeypatch):
    path, paths = texts(tmp_path), {"cache": str(tmp_path / "cache")}
    hashed = load_data(language(path), paths).source.content_hash
    read = counted(monkeypatch, files, "documents")
    for damage in (lambda file: file.write_bytes(b"x" + file.read_bytes()[1:]), lambda file: file.unlink()):
        (file,) = (tmp_path / "cache" / "decoded").glob("source-*/*.text")
        before = len(read)
        damage(file)
        assert load_data(language(path), paths).source.content_hash == hashed
        assert len(read) == before + 1


WRITER = """
import os, signal, sys
from kdrun.data import audit as data_audit
from kdrun.data import columns, fetch, keeping
from kdrun.domains.load import content_hash
keeping.LEAST, columns.LONG = 1, 10
config, cache, kill = __CONFIG__, sys.argv[1], sys.argv[2] == "kill"
if kill:
    write = columns.write_texts
    def killed(path, texts):
        write(path, texts)
        os.kill(os.getpid(), signal.SIGKILL)
    columns.write_texts = killed
print(content_hash(config, {"cache": cache}), "torch" in sys.modules)
"""


def writer(config, cache, kill):
    code = WRITER.replace("__CONFIG__", repr(config))
    options = {"stdout": subprocess.PIPE, "text": True, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
    return subprocess.Popen([sys.executable, "-c", code, str(cache), kill], **options)


def test_a_writer_that_is_killed_leaves_nothing_and_two_at_once_make_the_same(tmp_path):
    config, cache = language(texts(tmp_path)), tmp_path / "cache"
    dead = writer(config, cache, "kill")
    dead.communicate()
    assert dead.returncode == -signal.SIGKILL
    assert not list((cache / "decoded").glob("source-*/about.json"))
    both = [writer(config, cache, "live") for _ in range(2)]
    hashes = {process.communicate()[0] for process in both}
    assert hashes == {content_hash(config, {"cache": str(tmp_path / "other")}) + " False\n"}
    assert len(list((cache / "decoded").glob("source-*"))) == 1


@pytest.mark.parametrize("make", [conversations, images])
def test_a_picture_that_has_changed_is_looked_at_again(tmp_path, make):
    config, paths = make(tmp_path), {"cache": str(tmp_path / "cache")}
    before = content_hash(config, paths)
    path = next(tmp_path.rglob("7.png"))
    content, stat = path.read_bytes(), path.stat()
    os.utime(path, ns=(1, 1))
    assert content_hash(config, paths) == before
    Image.new("RGB", (8, 8), (250, 0, 0)).save(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert content_hash(config, paths) != before
    path.write_bytes(content)
    assert content_hash(config, paths) == before


@pytest.mark.parametrize(
    ("fetched", "module", "name"),
    [
        ("ui_de_en", "translation.shipped.ui_de_en", "ui_de_en"),
        ("wiki_topics", "text.shipped.wiki_topics", "wiki_topics"),
        ("wiki_topics", "language.shipped.wiki_intros", "wiki_intros"),
    ],
)
def test_what_was_fetched_is_kept_by_its_files_whether_they_lie_in_the_cache_or_at_a_root(
    fetched, module, name, tmp_path
):
    entry = fetch.find(fetched)
    if not entry.present(fetch.default_cache()):
        pytest.skip(f"kdrun fetch {fetched}")
    node = {"_target_": f"kdrun.domains.{module}.{name}"}
    here = keeping.source_key(node, fetch.default_cache())
    assert here is not None and keeping.source_key(node, tmp_path) is None  # nothing is fetched there
    folder = tmp_path / "copy"
    shutil.copytree(entry.folder(fetch.default_cache()), folder)
    before = keeping.source_key({**node, "root": str(folder)}, tmp_path)
    path = next(path for path in sorted(folder.rglob("*")) if path.is_file())
    path.write_bytes(path.read_bytes() + b" ")
    assert before != keeping.source_key({**node, "root": str(folder)}, tmp_path)


@pytest.mark.parametrize("make", [conversations, images])
def test_of_many_files_one_that_is_written_over_is_seen_at_once(tmp_path, monkeypatch, make):
    """Above HASHED files their stamps stand for them, in every look of a process."""
    config, paths = make(tmp_path), {"cache": str(tmp_path / "cache")}
    apart = content_hash(config, paths)
    monkeypatch.setattr(keeping, "HASHED", 10)
    before = content_hash(config, paths)
    assert before == apart == content_hash(config, paths)
    path = next(tmp_path.rglob("7.png"))
    Image.new("RGB", (8, 8), (250, 0, 0)).save(path)
    after = content_hash(config, paths)
    assert after != before
    path.rename(path.with_name("other.png"))
    if make is images:
        assert content_hash(config, paths) not in (before, after)
    else:
        with pytest.raises(UserError, match=r"[12] of"):
            content_hash(config, paths)


def test_a_link_to_itself_among_pictures_is_no_picture(tmp_path):
    config, paths = images(tmp_path), {"cache": str(tmp_path / "cache")}
    before = content_hash(config, paths)
    loop = tmp_path / "pictures" / "light" / "loop.png"
    loop.symlink_to(loop)
    assert content_hash(config, paths) == before
