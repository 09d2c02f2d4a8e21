"""kdrun export: what it prints, what it writes, and what it says of mistakes before anything heavy is imported."""

import json
import subprocess
import sys

import pytest

import kdrun
from kdrun.cli import main
from kdrun.hardware.exports.artifact import Artifact
from kdrun.problems import UserError
from kdrun.verbs.export import read_options

WORDS = ("strategy=vanilla", "model=mlp_ladder", "teacher=mlp_16", "student=mlp_8", "seed=0", "trainer.epochs=3", "hardware=cpu",
         "tracker=none", "card=false", "trainer.batch_size=64")  # fmt: skip


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return tmp_path_factory.mktemp("export") / "outputs"


@pytest.fixture(scope="module")
def run(outputs):
    return kdrun.run(*WORDS, f"paths.outputs={outputs}")


def test_a_table_and_the_paths(run, outputs, capsys):
    assert main(["export", run.id, "--outputs", str(outputs), "arm=student,alone", "format=safetensors"]) == 0
    printed = capsys.readouterr()
    for word in (
        "network",
        "format",
        "precision",
        "kB",
        "difference",
        "allowed",
        "labels, %",
        "student",
        "alone",
        "100.0",
    ):
        assert word in printed.out
    folders = [run.path / "exports" / f"{arm}-seed-0" / "safetensors-fp32" for arm in ("student", "alone")]
    assert [str(folder / "model.safetensors") for folder in folders] == printed.out.strip().splitlines()[-2:]
    assert all(Artifact.read(folder) is not None for folder in folders)


def test_json_says_the_same(run, outputs, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    words = ["format=onnx,safetensors", "precision=fp32,int8", f"to={tmp_path / 'files'}", "--json"]
    assert main(["export", "last", "--outputs", str(outputs), *words]) == 0
    told = json.loads(capsys.readouterr().out)
    made = [(one["format"], one["precision"]) for one in told["artifacts"]]
    assert made == [("onnx", "fp32"), ("safetensors", "fp32"), ("onnx", "int8")] and told["failed"] == []
    assert told["run"] == run.id and told["artifacts"][0]["labels_agree"] == 1.0
    assert (
        Artifact.read(tmp_path / "files" / "student-seed-0" / "onnx-int8").settings["calibration"]["split"] == "train"
    )


def test_what_could_not_be_made_is_told_with_exit_code_2(run, outputs, tmp_path, capsys, monkeypatch):
    for name in ("executorch", "executorch.exir"):
        monkeypatch.setitem(sys.modules, name, None)
    words = ["format=safetensors,executorch", f"to={tmp_path / 'files'}"]
    assert main(["export", "last", "--outputs", str(outputs), *words]) == 2
    printed = capsys.readouterr()
    assert "safetensors" in printed.out and "pip install executorch" in printed.err
    assert main(["export", "last", "--outputs", str(outputs), *words, "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert len(told["artifacts"]) == 1 and "pip install" in told["failed"][0]["problem"][0]


def test_all_leaves_out_what_there_is_not_and_writes_the_rest(run, outputs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("kdrun.verbs.export.installed_runtimes", lambda: ("torch", "onnxruntime", "executorch"))
    words = ["export", "last", "--outputs", str(outputs), "format=all", "precision=bf16", f"to={tmp_path / 'files'}"]
    assert main(words) == 0
    printed = capsys.readouterr()
    written = {path.parent.name for path in (tmp_path / "files").glob("*/*/artifact.json")}
    assert written == {"safetensors-bf16", "torch_export-bf16"}
    assert "onnx is not written in bf16: left out" in printed.err and "executorch is not" in printed.err
    # So is, of all, what this machine lacks a package for; nothing but that is exit code 2.
    for name in ("executorch", "executorch.exir"):
        monkeypatch.setitem(sys.modules, name, None)
    assert (
        main([*words[:4], "format=executorch,safetensors", "precision=all", f"to={tmp_path / 'more'}", "--json"]) == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert {(one["format"], one["precision"]) for one in told["artifacts"]} == {
        ("safetensors", "fp32"), ("safetensors", "bf16"), ("safetensors", "fp16")
    }  # fmt: skip
    assert any("student as executorch fp32: " in line for line in told["left_out"]) and told["failed"] == []
    assert main([*words[:4], "format=executorch", "precision=all", f"to={tmp_path / 'none'}"]) == 2
    assert "nothing could be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, said",
    [
        (["format=onyx"], "format=onyx: no such format; closest: onnx"),
        (["precision=fp8"], "precision=fp8: no such precision"),
        (["precision=in8"], "closest: int8"),
        (["fromat=onnx"], "no option 'fromat'; closest: format"),
        (["format=onnx", "precision=bf16"], "onnx is written in fp32, fp16, int8"),
        (["format=safetensors", "precision=int8"], "int8 can be had as: onnx, executorch"),
        (["seed=first"], "seed=first: a whole number"),
        (["which=middle"], "which=middle: best or last"),
        (["calibration=0"], "calibration=0: a whole number, at least 1"),
        (["format=onnx,"], "nothing between commas"),
    ],
)
def test_a_mistake_is_told_before_torch_is_there(words, said):
    code = f"import sys; from kdrun.cli import main; code = main({['export', *words]!r}); print(code, 'torch' in sys.modules)"
    if words == ["format=onyx"]:  # once in a process of its own, which imports nothing else
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.strip() == "2 False" and said in done.stderr
    with pytest.raises(UserError) as told:
        read_options(words)
    assert said in "\n".join(told.value.lines)


def test_pairs_that_do_not_go_together_are_left_out_of_two_lists():
    request = read_options(["format=safetensors,onnx", "precision=fp32,int8"])
    assert request.pairs == [("safetensors", "fp32"), ("onnx", "fp32"), ("onnx", "int8")]
    assert request.left_out == [("safetensors", "int8")]
    request = read_options(["format=safetensors", "precision=fp32,int8"])
    assert (request.pairs, request.left_out) == ([("safetensors", "fp32")], [("safetensors", "int8")])
    assert read_options([]).pairs == [("safetensors", "fp32"), ("onnx", "fp32")]
    assert read_options(["arm=[student,alone]", "seed=3"]).arms == ["student", "alone"]


def test_completion_knows_its_options(capsys):
    assert main(["__complete", "export", "format=onnx,e"]) == 0
    assert capsys.readouterr().out.split() == ["format=onnx,executorch"]
    assert main(["__complete", "export", "pre"]) == 0
    assert capsys.readouterr().out.split() == ["precision="]
