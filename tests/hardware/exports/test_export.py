"""Exported networks say what their networks say; wrong ones are found; nothing is made twice."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from export_support import DIABETES, DIGITS, MLP, RESNET, SCANS, SLICES, TRANSFORMER, subject_of
from text_support import ROWS

from kdrun.files import read_json
from kdrun.hardware.exports import measure
from kdrun.hardware.exports.artifact import Artifact
from kdrun.hardware.exports.compare import Comparison, Mismatch, compare, labels, require
from kdrun.hardware.exports.export import export
from kdrun.hardware.exports.load import load_export
from kdrun.networks.output import logits_of
from kdrun.problems import UserError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="module")
def mlp(folder):
    return subject_of(folder / "mlp", MLP, DIGITS)


@pytest.fixture(scope="module")
def resnet(folder):
    return subject_of(folder / "resnet", RESNET, DIGITS)


@pytest.fixture(scope="module")
def slices(folder):
    return subject_of(folder / "slices", SLICES, SCANS)


@pytest.fixture(scope="module")
def table(folder):
    return subject_of(folder / "table", MLP, DIABETES)


@pytest.fixture(scope="module")
def sentences(folder):
    pytest.importorskip("sentencepiece")
    text = folder / "text"
    text.mkdir()
    for language, side in (("de", 0), ("en", 1)):
        (text / f"all.{language}").write_text("".join(row[side] + "\n" for row in ROWS))
    data = {
        "_target_": "kdrun.domains.translation.parallel_text.parallel_text", "task": "translation", "source": str(text / "all.de"),
        "target": str(text / "all.en"), "val_fraction": 0.1, "test_fraction": 0.1, "text": {"vocabulary": 330},
    }  # fmt: skip
    return subject_of(text, TRANSFORMER, data)


def outputs(subject, *tensors):
    """What the network itself says, called as training calls it."""
    with torch.no_grad():
        if subject.sequences:
            return logits_of(subject.network(**dict(zip(subject.spec.input_names, tensors, strict=True)))).numpy()
        return logits_of(subject.network(*tensors)).numpy()


@pytest.mark.parametrize("name", ["mlp", "resnet", "slices", "table"])
@pytest.mark.parametrize("format", ["safetensors", "onnx"])
def test_an_export_in_fp32_says_what_the_network_says(request, folder, name, format):
    subject = request.getfixturevalue(name)
    artifact = export(subject, folder / name, format)
    session = artifact.session()
    for count in (1, 7):
        inputs = subject.inputs("test", count)
        said = session(*(one.numpy() for one in inputs))
        assert said.dtype == np.float32 and said.shape[0] == len(inputs[0])
        np.testing.assert_allclose(said, outputs(subject, *inputs), atol=1e-5)
    assert artifact.max_difference < artifact.tolerance and artifact.labels_agree in (1.0, None)
    assert set(artifact.compared["batches"]) > {1}
    assert session.threads["intra_op"] == 1


@pytest.mark.slow
def test_sequences_of_other_lengths_and_paddings_are_right(folder, sentences):
    artifact = export(sentences, folder / "sentences", "onnx")
    assert artifact.compared["way"] == "captured" and len(list(artifact.folder.glob("*.onnx*"))) == 1
    session, spec = artifact.session(), sentences.spec
    generator = torch.Generator().manual_seed(0)
    for rows, source_length, target_length in ((1, 4, 1), (2, 9, 6), (5, 3, 11)):
        source = torch.randint(4, spec.vocabulary, (rows, source_length), generator=generator)
        mask = torch.ones_like(source, dtype=torch.bool)
        mask[0, 2:] = False
        target = torch.randint(4, spec.vocabulary, (rows, target_length), generator=generator)
        said = session(source.numpy(), mask.numpy(), target.numpy())
        np.testing.assert_allclose(said, outputs(sentences, source, mask, target), atol=1e-4)
    assert measure.generation(sentences, 2)["tokens"] >= 4, "two sentences of a token and an end each, at least"
    whole = export(sentences, folder / "sentences", "onnx", "int8")
    assert whole.labels_agree >= 0.9 and whole.bytes < artifact.bytes


def test_captured_graphs_are_saved_and_read_back(folder, resnet):
    artifact = export(resnet, folder / "resnet", "torch_export")
    inputs = resnet.inputs("test", 5)
    np.testing.assert_allclose(artifact.session()(inputs[0].numpy()), outputs(resnet, *inputs), atol=1e-5)


@pytest.mark.parametrize("format, precision", [("safetensors", "bf16"), ("safetensors", "fp16"), ("onnx", "fp16")])
def test_half_precision_stays_within_its_tolerance_and_is_smaller(folder, resnet, format, precision):
    artifact = export(resnet, folder / "resnet", format, precision)
    assert (
        0
        < artifact.max_difference
        <= artifact.tolerance
        == pytest.approx({"fp16": 2e-2, "bf16": 5e-2}[precision] * artifact.compared["range"])
    )
    assert artifact.bytes < 0.75 * export(resnet, folder / "resnet", format).bytes
    inputs = resnet.inputs("val", 3)
    assert artifact.session()(inputs[0].numpy()).dtype == np.float32


def test_int8_is_calibrated_on_training_samples_only(tmp_path, resnet, monkeypatch):
    from kdrun.hardware.exports import quantise as room

    seen, real = [], room.quantise

    def watched(source, path, names, batches, products_only):
        kept = [tuple(one.copy() for one in batch) for batch in batches]
        seen.extend(row.tobytes() for (batch,) in kept for row in batch)
        real(source, path, names, kept, products_only)

    monkeypatch.setattr(room, "quantise", watched)
    artifact = export(resnet, tmp_path, "onnx", "int8", calibration=50)
    rows = {
        split: {
            row.tobytes() for row in resnet.module.samples(split).inputs(torch.arange(resnet.spec.sizes[split])).numpy()
        }
        for split in ("train", "val", "test")
    }
    assert len(seen) == 50 and set(seen) <= rows["train"]
    assert artifact.settings["calibration"] == {"split": "train", "samples": 50}
    kinds = {node.op_type for node in onnx.load(artifact.path).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    assert artifact.tolerance is None and artifact.labels_agree >= 0.9


def test_wrong_weights_are_found(tmp_path, resnet):
    artifact = export(resnet, tmp_path, "onnx")
    model = onnx.load(artifact.path)
    weight = max(model.graph.initializer, key=lambda one: int(np.prod(one.dims)))
    values = onnx.numpy_helper.to_array(weight).copy()
    values.flat[0] += 0.5
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, artifact.path)
    found = compare(resnet, artifact.session())
    assert found.max_difference > found.tolerance("fp32")
    with pytest.raises(Mismatch, match=r"outputs differ from the network's by [0-9.e+-]+, more than"):
        require(found, "fp32", "student as onnx fp32")
    assert Artifact.read(artifact.folder) is None, "a file with other content is not taken for what was exported"
    assert export(resnet, tmp_path, "onnx").sha256 == artifact.sha256, "and is made again"


def test_an_export_that_differs_leaves_nothing(tmp_path, resnet, monkeypatch):
    from kdrun.hardware.exports import graphs

    other = subject_of(tmp_path / "other", RESNET, DIGITS, seed=1)
    wrong = {"traced": lambda module, *rest: graphs.traced(other.bare(), *rest)}
    monkeypatch.setattr(graphs, "onnx_writers", lambda sequences: wrong)
    with pytest.raises(Mismatch):
        export(resnet, tmp_path / "files", "onnx")
    assert list((tmp_path / "files").iterdir()) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_that_are_no_numbers_are_never_within_a_tolerance(mlp, value):
    def session(*arrays):
        said = outputs(mlp, *map(torch.from_numpy, arrays)).copy()
        said[0, 0] = value
        return said

    found = compare(mlp, session)
    assert found.max_difference == np.inf
    with pytest.raises(Mismatch):
        require(found, "bf16", "student")


def test_labels_judge_int8_and_numbers_have_a_tolerance():
    close = Comparison(3.0, 10.0, 0.97, 100, (1, 32))
    require(close, "int8", "x")
    with pytest.raises(Mismatch, match=r"80.0 % of labels .* at least 90 %"):
        require(Comparison(0.01, 10.0, 0.8, 100, (1, 32)), "int8", "x")
    with pytest.raises(Mismatch):
        require(Comparison(1.5, 10.0, None, 100, (1, 32)), "int8", "x")
    assert labels(np.array([[0.1], [-2.0]])).tolist() == [True, False]
    assert labels(np.array([[0.1, 3.0], [2.0, 1.0]])).tolist() == [1, 0]


def test_what_is_there_is_not_made_again(tmp_path, resnet):
    first = export(resnet, tmp_path, "onnx")
    made = first.path.stat().st_mtime_ns
    again = export(resnet, tmp_path, "onnx")
    assert again.path.stat().st_mtime_ns == made and again == Artifact.read(first.folder)
    other = subject_of(tmp_path / "other", RESNET, DIGITS, seed=1)
    replaced = export(other, tmp_path, "onnx")
    assert replaced.sha256 != first.sha256 and replaced.source["weights"] != first.source["weights"]
    few = export(other, tmp_path, "onnx", "int8", calibration=20)
    assert export(other, tmp_path, "onnx", "int8", calibration=21).settings != few.settings


def test_a_folder_alone_gives_the_network_back(tmp_path, resnet):
    artifact = export(resnet, tmp_path, "safetensors")
    network, config = load_export(artifact.folder)
    assert type(network) is type(resnet.network) and not network.training
    for name, tensor in resnet.network.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor), name
    assert config["classes"] == list(resnet.spec.classes) and "normalised" in config["normalisation"]["note"]
    assert config["normalisation"]["mean"] == list(resnet.spec.mean) and config["source"]["run"] == "toy"
    text = (artifact.folder / "config.json").read_text() + (artifact.folder / "artifact.json").read_text()
    assert str(tmp_path) not in text, "what is shipped names no folder of this machine"
    path = artifact.folder / "config.json"
    path.write_text(json.dumps({**read_json(path), "network": {"_target_": "subprocess.run"}}))
    with pytest.raises(UserError, match="refused"):
        load_export(artifact.folder)
    path.write_text(json.dumps({**read_json(path), "network": {**RESNET, "width": 6}}))
    with pytest.raises(UserError, match="does not fit"):
        load_export(artifact.folder)
    with pytest.raises(UserError, match="no exported network here"):
        load_export(tmp_path)


def test_files_hold_no_lines_of_source(folder, resnet):
    for format in ("onnx", "torch_export"):
        content = export(resnet, folder / "resnet", format).path.read_bytes()
        assert b"site-packages" not in content and b"resnet.py" not in content


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named(tmp_path, mlp, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"pip install "):
        export(mlp, tmp_path, "onnx")


def test_what_cannot_be_exported_says_why(tmp_path, mlp, monkeypatch):
    from kdrun.hardware.exports import graphs

    with pytest.raises(UserError, match="onnx is written in fp32, fp16, int8"):
        export(mlp, tmp_path, "onnx", "bf16")

    def refuse(*anything):
        raise RuntimeError("operator aten::strange is not there\nand a page of what else")

    monkeypatch.setattr(graphs, "onnx_writers", lambda sequences: {"traced": refuse})
    with pytest.raises(UserError) as told:
        export(mlp, tmp_path, "onnx")
    assert told.value.lines == [
        "student as onnx fp32: cannot be exported", "traced: RuntimeError: operator aten::strange is not there",
    ]  # fmt: skip


def test_the_attention_of_torch_is_as_before_after_an_export(folder, mlp):
    own = torch.nn.functional.scaled_dot_product_attention
    export(mlp, folder / "again", "torch_export")
    assert torch.nn.functional.scaled_dot_product_attention is own


def test_a_session_stands_in_for_the_network_in_a_task(folder, resnet):
    session = export(resnet, folder / "resnet", "onnx").session()
    metrics, other = resnet.task.metrics(), resnet.task.metrics()
    for _, batch in resnet.batches("test", 100):
        resnet.task.evaluate(metrics, resnet.through(session), batch)
        with torch.no_grad():
            resnet.task.evaluate(other, resnet.network, batch)
    assert {name: float(value) for name, value in metrics.compute().items()} == pytest.approx(
        {name: float(value) for name, value in other.compute().items()}, abs=1e-4
    )


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_executorch_runs_what_it_was_given(tmp_path, resnet, precision):
    pytest.importorskip("executorch.runtime")
    artifact = export(resnet, tmp_path, "executorch", precision)
    inputs = resnet.inputs("test", 3)
    said = artifact.session()(inputs[0].numpy())
    assert (said.argmax(1) == outputs(resnet, *inputs).argmax(1)).mean() > 0.6


def test_without_executorch_its_extra_is_named(tmp_path, mlp, monkeypatch):
    for name in ("executorch", "executorch.exir"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"pip install executorch"):
        export(mlp, tmp_path, "executorch")


def test_a_text_classifier_runs_without_kdrun(tmp_path):
    """The script of docs/text.md, on what was exported, says what the network says."""
    pytest.importorskip("transformers")
    tiny = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    node = {"_target_": "kdrun.domains.text.networks.encoder.HuggingFaceEncoder", "config": tiny}
    data = {
        "_target_": "kdrun.domains.text.shipped.made_topics.made_topics",
        "samples": 60,
        "task": "text_classification",
    }
    subject = subject_of(tmp_path, node, data, tokens={"vocabulary": 300, "max_length": 12})
    made = export(subject, tmp_path / "exports", "onnx")
    page = (Path(__file__).parents[3] / "docs" / "text.md").read_text()
    (tmp_path / "script.py").write_text(page.split("```python\n")[1].split("```")[0])
    texts = [*subject.module.source.texts[:3], "short", "long " * 30]
    line = [sys.executable, tmp_path / "script.py", made.folder]
    said = subprocess.run(line, input="\n".join(texts), capture_output=True, text=True, check=True).stdout.splitlines()
    from kdrun.domains.text.loader import TextSamples

    ids, _, _ = subject.module.tokenizer.encode(texts, None, 12)
    rows = np.arange(len(texts))
    inputs = TextSamples(rows, ids, None, rows, subject.spec.pad, None).inputs(rows)
    named = [subject.spec.classes[place] for place in subject.task.predict(subject.network, inputs).logits.argmax(1)]
    assert said == [f"{label}\t{text}" for label, text in zip(named, texts, strict=True)]
