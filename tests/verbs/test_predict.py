"""kdrun predict: what networks of texts, pairs, pictures and rows say of inputs of the user's own."""

import io
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kdrun import api, cli, kinds
from kdrun.domains.load import load_data
from kdrun.verbs import predict

TEXTS = {"_target_": "kdrun.domains.text.files.text_file", "task": "text_classification", "val_fraction": 0.2}


class Says(torch.nn.Module):
    """Logits that depend on the inputs alone, one row each; what was asked is kept."""

    def __init__(self, module, outputs):
        super().__init__()
        self.kdrun, self.outputs, self.asked = module.spec.metadata(), outputs, []

    def forward(self, inputs=None, input_ids=None, attention_mask=None, token_type_ids=None):
        self.asked.append(inputs if input_ids is None else input_ids)
        rows = inputs.flatten(1).sum(1) if input_ids is None else (input_ids * attention_mask).sum(1) % 7 - 3.0
        return rows[:, None] * torch.linspace(-1, 1, self.outputs) if self.outputs > 1 else rows[:, None]


@pytest.fixture
def ask(monkeypatch, tmp_path, capsys):
    """(exit code, lines of output, lines of problems) of `kdrun predict ...` on a network that is not trained."""

    def asked(data, *words, stdin=b"", outputs=2):
        paths = {"cache": str(tmp_path / "cache")}
        module = load_data(data, paths)
        asked.network, asked.module = Says(module, outputs), module
        config = {"data": data, "paths": paths}
        view = SimpleNamespace(id="a-run", status="done", config=config, config_of=lambda seed: config)
        monkeypatch.setattr(api.RunView, "find", lambda run, folder: view)
        monkeypatch.setattr(api, "load", lambda *arguments, **named: asked.network)
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(stdin)))
        code = cli.main(["predict", "a-run", *map(str, words)])
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err.splitlines()

    return asked


@pytest.fixture
def texts(tmp_path):
    rows = "".join(f"some text {n} here,{('bad', 'good')[n % 2]}\n" for n in range(40))
    (tmp_path / "texts.csv").write_text("review,label\n" + rows)
    return {**TEXTS, "root": str(tmp_path / "texts.csv"), "text": "review", "tokens": {"vocabulary": 300}}


def test_a_line_of_output_for_each_line_and_bad_ones_are_told(ask, texts):
    pytest.importorskip("tokenizers")
    stdin = b"text 3\n\ntext 5 here\n" + b"caf\xe9\n" + b"text 3"
    code, lines, problems = ask(texts, stdin=stdin)
    assert code == 2 and len(lines) == 5 and lines[1] == lines[3] == "" and lines[0] == lines[4]
    assert problems == [
        "kdrun: line 2: an empty text",
        "kdrun: line 4: not UTF-8 (invalid continuation byte at byte 3)",
    ]
    label, share = lines[2].split("\t")
    assert label in ("bad", "good") and 0.5 <= float(share) <= 1


def test_padding_and_blocks_change_nothing_and_json_has_every_class(ask, texts, tmp_path):
    pytest.importorskip("tokenizers")
    (tmp_path / "new.csv").write_text("id,Review\n1,text 3\n2,a much longer text 5 here\n")
    code, lines, problems = ask(texts, tmp_path / "new.csv", "as=json")
    assert code == 0 and not problems
    rows = list(map(json.loads, lines))
    assert [row["input"].rpartition(" ")[2] for row in rows] == ["2", "3"]
    for row in rows:
        assert sum(row["probabilities"].values()) == pytest.approx(1) and set(row["probabilities"]) == {"bad", "good"}
        assert row["probability"] == max(row["probabilities"].values()) == row["probabilities"][row["class"]]
    single = ask(texts, "as=json", stdin=b"text 3\n")[1]
    assert json.loads(single[0])["probabilities"] == pytest.approx(rows[0]["probabilities"])


def test_columns_that_a_file_lacks(ask, texts, tmp_path):
    pytest.importorskip("tokenizers")
    (tmp_path / "new.csv").write_text("id,Reviw\n1,text\n")
    code, lines, problems = ask(texts, tmp_path / "new.csv")
    assert code == 2 and not lines and "no column review; closest: reviw" in problems[0].replace(",", ";")


def test_pairs(ask, tmp_path):
    pytest.importorskip("tokenizers")
    rows = "".join(f"question {n},answer {n},{n % 2}\n" for n in range(40))
    (tmp_path / "pairs.csv").write_text("one,two,label\n" + rows)
    data = {**TEXTS, "root": str(tmp_path / "pairs.csv"), "text": ["one", "two"], "tokens": {"vocabulary": 300}}
    code, lines, problems = ask(data, "as=csv", stdin=b"question 3\tanswer 3\nquestion 4\n")
    assert code == 2 and lines[0] == "input,class,probability,probability of 0,probability of 1,problem"
    assert lines[1].startswith("line 1,") and lines[2].startswith('line 2,,,,,"one text')
    assert "with a tab between both" in problems[0]


def test_a_picture_is_read_as_the_pictures_of_a_folder(ask, tmp_path):
    from PIL import Image

    random = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(10):
            pixels = random.integers(256, size=(12, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{number}.png")
    target = "kdrun.domains.images.image_folder.image_folder"
    data = {"_target_": target, "task": "classification", "root": str(tmp_path / "images"), "size": 8}
    path = tmp_path / "images" / "cat" / "3.png"
    (tmp_path / "broken.png").write_bytes(b"no picture")
    code, lines, problems = ask(data, path, tmp_path / "broken.png")
    module, (inputs,) = ask.module, ask.network.asked
    place = module.source.names.index("cat/3.png")
    split = next(name for name in ("train", "val", "test") if place in module.rows(name))
    position = np.flatnonzero(module.rows(split) == place)
    assert torch.equal(inputs, module.samples(split).batch(position)["inputs"])
    assert code == 2 and lines[1] == "" and "broken.png: no image" in problems[0]
    code, again, _ = ask(data, stdin=f"{path}\n\n".encode())
    assert again == [lines[0], ""] and code == 2


def test_rows_of_a_table_give_numbers_in_the_unit_of_the_target(ask):
    pytest.importorskip("sklearn")
    data = {"_target_": "kdrun.domains.tabular.shipped.diabetes.diabetes", "task": "regression", "val_fraction": 0.2}
    source = load_data(data, {"cache": "."}).source
    rows = [
        ",".join(source.features),
        ",".join(map(repr, source.x[0].tolist())),
        ",".join(["x"] * len(source.features)),
    ]
    code, lines, problems = ask(data, stdin="\n".join(rows).encode(), outputs=1)
    spec = ask.module.spec
    expected = ((source.x[0] - np.array(spec.mean)) / np.array(spec.std)).sum() * spec.target_std + spec.target_mean
    assert float(lines[0]) == pytest.approx(expected, rel=1e-4) and lines[1] == "" and code == 2
    assert "line 3" in problems[0] and "'x' is no number" in problems[0]


def test_other_kinds_of_data_are_refused(monkeypatch, capsys):
    config = {"data": {"task": "translation"}}
    view = SimpleNamespace(id="a-run", status="done", config=config, config_of=lambda seed: config)
    monkeypatch.setattr(api.RunView, "find", lambda run, folder: view)
    assert cli.main(["predict", "a-run"]) == 2
    assert "kdrun translate asks a run that learned translation" in capsys.readouterr().err
    assert all("predict" not in kinds.find(name).commands for name in ("translation", "vision_language", "diagnosis"))


@pytest.mark.parametrize(
    ("words", "said"), [(("as=jsn",), "closest: json"), (("sed=1",), "no option 'sed'"), (("nowhere",), "no run")]
)
def test_mistakes_are_told_without_torch(words, said, tmp_path):
    program = "import sys; from kdrun.cli import main; code = main(sys.argv[1:]); print('torch' in sys.modules, code)"
    line = [sys.executable, "-c", program, "predict", *words, "--outputs", str(tmp_path)]
    made = subprocess.run(line, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert made.stdout.split() == ["False", "2"] and said in made.stderr, made.stderr


def test_blocks(texts, tmp_path):
    pytest.importorskip("tokenizers")
    module = load_data(texts, {"cache": str(tmp_path)})
    domain = kinds.find("text_classification")
    reader = domain.reader(module.spec, texts, {"cache": str(tmp_path)})
    inputs = [reader._checked(f"line {n}", [f"text {n} " + "here " * (n % 3)], "") for n in range(10)]
    network, task = Says(module, 2), domain.task(module)
    whole, parts = (list(predict.outcomes(network, task, reader, inputs, batch)) for batch in (10, 3))
    assert [one for one, _ in whole] == [one for one, _ in parts] == inputs
    for (_, one), (_, other) in zip(whole, parts, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"])
