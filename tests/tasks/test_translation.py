"""Translation against slow references, and whole small jobs on a toy corpus: what counts, resumes and is printed."""

from __future__ import annotations

import json
import math
import sys
import tempfile

import numpy as np
import pytest
import torch
from forked import run
from text_support import COMMON, ROWS
from torch import nn

from kdrun.domains.translation.build import text_module
from kdrun.domains.translation.parallel_text import parallel_text
from kdrun.domains.translation.task import TextShares, TokenScores, Translation
from kdrun.files import read_json
from kdrun.job.cells import make_lab
from kdrun.learning.learner import LearnerModule
from kdrun.learning.microbatches import micro_batches
from kdrun.learning.report import Report
from kdrun.networks.build import build_network
from kdrun.objectives.terms import build_objective

pytest.importorskip("sentencepiece")
pytest.importorskip("sacrebleu")

NODE = {"_target_": "kdrun.domains.translation.networks.transformer.Transformer", "width": 16, "encoder_layers": 1, "decoder_layers": 1,
        "heads": 2, "feedforward": 32, "dropout": 0.0, "share": "all"}  # fmt: skip
WORD_KD = {"ce": {"weight": 0.5, "label_smoothing": 0.1}, "kd": {"weight": 0.5, "temperature": 1.0}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    for language, side in (("de", 0), ("en", 1)):
        (folder / f"all.{language}").write_text("".join(row[side] + "\n" for row in ROWS))
    return folder


@pytest.fixture(scope="module")
def module(folder):
    pairs = parallel_text(folder / "all.de", folder / "all.en")
    return text_module(pairs, {**COMMON, "vocabulary": 330, "test_fraction": 0.1}, folder / "cache")


@pytest.fixture(scope="module")
def batch(module):
    return next(iter(module.train_loader(512, seed=0)))


def network(module, seed=0):
    return build_network(NODE, module.spec, seed)


def word_kd(logits, taught, batch) -> float:
    """The loss of arXiv 2605.09924, token by token in Python floats: 0.5 smoothed cross-entropy + 0.5 KL, per token."""
    total, tokens = 0.0, 0
    for row in range(len(logits)):
        for position in range(logits.shape[1]):
            if not batch["mask"][row, position]:
                continue
            tokens += 1
            log_q = logits[row, position].double().log_softmax(-1).tolist()
            log_p = taught[row, position].double().log_softmax(-1).tolist()
            right = int(batch["targets"][row, position])
            gold = -(0.9 * log_q[right] + 0.1 * sum(log_q) / len(log_q))
            divergence = sum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True))
            total += 0.5 * gold + 0.5 * divergence
    return total / tokens


def test_the_loss_is_the_papers_per_valid_token(module, batch):
    task, objective = Translation(module), build_objective(WORD_KD)
    with torch.no_grad():
        student, teacher = (task.predict(network(module, seed).eval(), batch["inputs"]) for seed in (0, 1))
        total, _ = objective(task.tensors(batch, student, teacher), batch["size"])
    assert task.count(batch) == batch["size"] == int(batch["mask"].sum())
    assert float(total) == pytest.approx(word_kd(student.logits, teacher.logits, batch), rel=1e-5)


def test_the_same_loss_without_all_logits_at_once(module, batch):
    """objective=word_kd_vocabulary against objective=word_kd: values and gradients."""
    pieces = {"vocabulary_ce_kd": {"weight": 1.0, "ce": 0.5, "kd": 0.5, "label_smoothing": 0.1, "chunk": 3}}
    found = []
    for config in (WORD_KD, pieces):
        task, objective, student = Translation(module), build_objective(config), network(module, 0).eval()
        task.prepare(objective.wanted)
        with torch.no_grad():
            teacher = task.predict(network(module, 1).eval(), batch["inputs"])
        total, _ = objective(task.tensors(batch, task.predict(student, batch["inputs"]), teacher), batch["size"])
        total.backward()
        found.append((float(total.detach()), [p.grad for p in student.parameters()]))
        assert (teacher.logits is None) == (config is pieces)
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("junk", [0, 2, 5])
def test_what_stands_in_padding_changes_nothing(module, batch, junk):
    """Also where the padding is the end token, as in tokenizers without a padding token of their own."""
    task, objective, student = Translation(module), build_objective({"ce": {"weight": 1.0}}), network(module).eval()
    inputs = {**batch["inputs"]}
    assert not batch["mask"].all()
    inputs["source"] = inputs["source"].where(inputs["source_mask"], torch.tensor(junk))
    reads = torch.cat([torch.ones_like(batch["mask"][:, :1]), batch["mask"][:, :-1]], dim=1)
    inputs["target"] = inputs["target"].where(reads, torch.tensor(junk))
    other = {**batch, "inputs": inputs, "targets": batch["targets"].where(batch["mask"], torch.tensor(junk))}
    values = []
    for one in (batch, other):
        total, _ = objective(task.tensors(one, task.predict(student, one["inputs"]), None), one["size"])
        student.zero_grad()
        total.backward()
        values.append((float(total.detach()), student.target_embedding.weight.grad.clone()))
    assert values[0][0] == pytest.approx(values[1][0], rel=1e-6)
    torch.testing.assert_close(values[0][1], values[1][1], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_accumulation_is_exact_in_tokens(module, batch, parts):
    task, objective = Translation(module), build_objective({"ce": {"weight": 1.0}})
    gradients = []
    for count in (1, parts):
        student = network(module)
        for chunk in micro_batches(batch, count):
            total, _ = objective(task.tensors(chunk, task.predict(student, chunk["inputs"]), None), batch["size"])
            total.backward()
        gradients.append([p.grad.clone() for p in student.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_together_are_one_rank_in_tokens(module, world):
    """Each rank divides by its even share of the tokens of the whole batch; averaging gives the mean over tokens."""
    task, objective = Translation(module), build_objective({"ce": {"weight": 1.0}})

    def gradients(loader, share):
        student = network(module)
        batch = next(iter(loader))
        total, _ = objective(task.tensors(batch, task.predict(student, batch["inputs"]), None), batch["size"] / share)
        total.backward()
        return [p.grad for p in student.parameters()]

    whole = gradients(module.train_loader(512, seed=0), 1)
    ranks = [gradients(module.train_loader(512, seed=0, rank=rank, world=world), world) for rank in range(world)]
    for expected, *parts in zip(whole, *ranks, strict=True):
        torch.testing.assert_close(sum(parts) / world, expected, rtol=1e-4, atol=1e-6)


def test_token_scores_are_sums_over_valid_tokens(module, batch):
    scores, logits = TokenScores(), torch.randn(*batch["targets"].shape, module.spec.vocabulary)
    half = len(logits) // 2
    for rows in (slice(0, half), slice(half, None)):
        scores.update(logits[rows], batch["targets"][rows], batch["mask"][rows])
    log_q, losses, right = logits.log_softmax(-1), [], 0
    for row, position in batch["mask"].nonzero().tolist():
        token = int(batch["targets"][row, position])
        losses.append(-float(log_q[row, position, token]))
        right += int(logits[row, position].argmax()) == token
    found = scores.compute()
    assert float(found["loss"]) == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert float(found["token_accuracy"]) == pytest.approx(right / len(losses))
    scores.update(torch.full_like(logits, math.nan), batch["targets"], batch["mask"])
    assert math.isnan(scores.compute()["loss"])
    assert math.isnan(TokenScores().compute()["loss"])


class Echo(nn.Module):
    """Generates the reference: teacher-forced logits are random, the search is replaced by `translate`."""

    def __init__(self, vocabulary):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.vocabulary = vocabulary

    def forward(self, source, source_mask, target):
        return torch.zeros(*target.shape, self.vocabulary) + self.weight


def test_evaluation_meets_every_reference_once_whatever_the_ranks(module, monkeypatch):
    task = Translation(module)
    source_of = {tuple(row): text for row, text in zip(encoded(module), module.references("test"), strict=True)}
    monkeypatch.setattr(task, "translate", lambda network, sources, final: [source_of[tuple(s)] for s in sources])
    metrics, seen = task.metrics(), 0
    for rank in range(5):  # the test split has 14 pairs; with a small budget some batches have fewer rows than ranks
        for batch in module.eval_loader("test", 40, rank=rank, world=5):
            task.evaluate(metrics, Echo(module.spec.vocabulary), batch, final=True)
            seen += int(batch["mask"].any(dim=1).sum())
    found = metrics.compute()
    assert seen == len(module.references("test")) == 14
    assert set(found) == set(Translation.METRICS)
    assert float(found["bleu"]) == pytest.approx(1.0) and float(found["chrf"]) == pytest.approx(1.0)
    assert float(found["loss"]) == pytest.approx(math.log(module.spec.vocabulary), rel=1e-5)


def encoded(module):
    made = module.encode(module.sources("test"))
    return [row[real].tolist() for row, real in zip(made["source"], made["source_mask"], strict=True)]


def test_scores_are_shares_and_the_copy_baseline_is_there(module):
    text = TextShares()
    text.update(["The red lamp is on."], ["The red lamp is on."])
    assert float(text.compute()["bleu"]) == pytest.approx(1.0)
    baseline = Translation(module).baselines()["copying the source"]
    assert 0 <= baseline["bleu"] < 0.2 and 0 < baseline["chrf"] < 0.6
    assert "tok:13a" in Translation(module).notes()["bleu"]


def test_a_guess_by_frequency_is_what_a_teacher_must_beat(module, batch):
    targets = batch["targets"][batch["mask"]]
    counts = torch.bincount(targets).double()
    expected = -sum(float(c / counts.sum()) * math.log(float(c / counts.sum())) for c in counts if c)
    assert Translation(module).trivial([targets[:5], targets[5:]]) == pytest.approx(expected)


def test_a_learner_takes_steps_on_text(module):
    """The learner asks nothing of the task that only images have."""
    learner = LearnerModule(network(module), Translation(module), build_objective({"ce": {"weight": 1.0}}))
    assert learner.positions == 0 and learner.teacher is None


TOY = ("model=nmt_transformer", "student=nmt_t32", "teacher=nmt_t64", "data=parallel_text", "data.source=all.de",
       "data.target=all.en", "data.text.vocabulary=330", "data.test_fraction=0.1", "trainer.batch_size=256", "seed=0",
       "trainer.schedule.warmup_steps=10", "trainer.optimizer.lr=0.01", "tracker=none", "card=false", "hardware=cpu")  # fmt: skip


def kdrun(*words, cwd, text=""):
    with tempfile.TemporaryFile() as typed:
        typed.write(text.encode())
        typed.seek(0)
        return run([sys.executable, "-m", "kdrun", *words], folder=cwd, stdin=typed)


@pytest.fixture(scope="module")
def trained(folder):
    done = kdrun(*TOY, "trainer.epochs=14", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("outputs/runs/*/record.json")
    return folder, read_json(path), done.stdout


@pytest.mark.slow
def test_a_whole_job_learns_and_says_what_copying_gives(trained):
    _, record, shown = trained
    summary, student = record["summary"], next(s for s in record["stages"] if s["role"] == "student")
    assert (summary["metric"], record["status"]) == ("bleu", "done")
    baseline = summary["baselines"]["copying the source"]["bleu"]
    assert summary["arms"]["student"]["best"]["mean"] > max(0.05, 3 * baseline)
    assert "copying the source" in shown and "test BLEU" in shown and "tok:13a" in shown
    assert student["cost"]["tokens"] > 14 * 124 * 5
    assert set(student["test"]["best"]) == {"bleu", "chrf", "loss", "token_accuracy"}


def test_translate_prints_a_line_for_every_line(trained):
    folder, _, _ = trained
    lines = ["Die rote Lampe ist an.", "", "Die alte Bank fehlt."]
    done = kdrun("translate", "last", text="\n".join(lines) + "\n", cwd=folder)
    assert done.returncode == 0, done.stderr
    found = done.stdout.splitlines()
    assert len(found) == 3 and found[1] == "" and found[0].startswith("The ") and found[2].startswith("The ")
    refused = kdrun("translate", "bem=3", cwd=folder)
    assert refused.returncode == 2 and "closest: beam" in refused.stderr


def test_a_run_keeps_its_translations_and_they_can_be_scored_again(trained, monkeypatch, capsys):
    import types

    from kdrun.cli import main
    from kdrun.domains.translation.scores import scores
    from kdrun.learning.resampling import read_samples

    folder, record, _ = trained
    monkeypatch.chdir(folder)
    student = next(stage for stage in record["stages"] if stage["role"] == "student")
    rows = read_samples(student["path"])
    totals = np.sum([row["counts"] for row in rows], axis=0)
    assert scores(totals)["bleu"] / 100 == pytest.approx(student["test"]["best"]["bleu"])
    alone = record["summary"]["differences"]["alone"]
    assert alone["resampled"]["bleu"]["mean"] == pytest.approx(alone[alone["resampled"]["bleu"]["which"]]["mean"])
    assert alone["resampled"]["bleu"]["samples"] == len(rows)

    assert main(["translate", "last", "comet=none.ckpt"]) == 2 and "no such file" in capsys.readouterr().err
    asked = []

    class Model:
        def predict(self, samples, **options):
            asked.extend(samples)
            return types.SimpleNamespace(system_score=0.5)

    library = types.SimpleNamespace(load_from_checkpoint=lambda path, local_files_only: Model())
    monkeypatch.setitem(sys.modules, "comet", library)
    (folder / "model.ckpt").touch()
    assert main(["translate", "last", "comet=model.ckpt"]) == 0
    assert f"COMET 0.5000   student/seed=0 of {record['id']}, {len(rows)} sentences" in capsys.readouterr().out
    assert [sample["mt"] for sample in asked] == [row["text"] for row in rows]
    assert all(sample["src"].startswith(("Die", "Der", "Das")) for sample in asked[:3])


def answered(monkeypatch, capsys, content, *words):
    """(exit code, lines of standard output, standard error) of `kdrun translate last` on these bytes."""
    import io
    import types

    from kdrun.cli import main

    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(content)))
    code = main(["translate", "last", *words])
    printed = capsys.readouterr()
    return code, printed.out.splitlines(), printed.err


@pytest.mark.parametrize(
    ("content", "filled"),
    [
        (b"", []),
        (b"\xef\xbb\xbf", []),
        (b"\n", [False]),
        (b"\n\n \t\n", [False] * 3),
        (b"\r\n\r\n", [False] * 2),
        (b"\xef\xbb\xbf\n", [False]),
        ("\ufeffDie alte Bank fehlt.\r\n\r\nDie Tür\r\n".encode(), [True, False, True]),
        ("Die alte\rBank\u2028fehlt.\x0c\x85".encode(), [True]),
        (b"Die\x00Bank\n" * 2, [True] * 2),
    ],
)
def test_every_line_of_standard_input_has_one_of_output(trained, monkeypatch, capsys, content, filled):
    monkeypatch.chdir(trained[0])
    code, lines, errors = answered(monkeypatch, capsys, content)
    assert (code, errors) == (0, "")
    assert [bool(line.strip()) for line in lines] == filled


def test_input_that_is_no_utf8_is_refused_by_line(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained[0])
    code, lines, errors = answered(monkeypatch, capsys, b"good\nb\xe4d\n")
    assert code == 2 and not lines and "line 2: not UTF-8" in errors and "iconv" in errors
    assert answered(monkeypatch, capsys, "ö".encode("utf-16"))[0] == 2


def test_what_a_network_makes_is_printed_as_one_line_of_utf8(monkeypatch):
    import io

    from kdrun.verbs.lines import print_line

    written = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", written)
    print_line("Tür\nauf\u2028\rzu")
    assert written.buffer.getvalue().decode() == "Tür auf zu\n"


class Silent(Report):
    """stop_at: from which call of stop_requested on to ask for a stop."""

    def __init__(self, stop_at=None):
        self.stop_at, self.asked = stop_at, 0

    def stop_requested(self):
        self.asked += 1
        return self.stop_at is not None and self.asked >= self.stop_at


def lab_of(root, config, report):
    paths = {**config["paths"], "store": str(root)}
    return make_lab(paths, {**config["hardware"], "device": "cpu"}, report, lambda item: None)


@pytest.mark.slow
def test_a_stage_on_text_that_is_cut_ends_with_the_same_weights(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    from kdrun.job.compose import compose
    from kdrun.learning.report import Interrupted
    from kdrun.strategies.cast import Cast, supervised

    config = compose([*TOY, "trainer.epochs=3", "strategy=alone", "trainer.checkpoint_seconds=1000"]).cells[0]
    stage = supervised(Cast({**config, "hardware": {**config["hardware"], "device": "cpu"}}).student)
    whole = lab_of(tmp_path / "whole", config, Silent()).get(stage)
    for stop_at in (2, 5, 9):
        root = tmp_path / f"cut{stop_at}"
        with pytest.raises(Interrupted):
            lab_of(root, config, Silent(stop_at)).get(stage)
        again = lab_of(root, config, Silent()).get(stage)
        files = [read_json(one.path / "manifest.json")["files"]["best.safetensors"] for one in (whole, again)]
        assert files[0] == files[1], json.dumps(again.record["val"])


def test_a_monitor_the_task_does_not_have_is_a_mistake(folder):
    done = kdrun("plan", *TOY, "trainer.monitor=accuracy", cwd=folder)
    assert done.returncode == 2
    assert "trainer.monitor=accuracy" in done.stderr and "bleu" in done.stderr


def test_a_source_of_ones_own_may_leave_out_text_but_not_the_task(folder):
    from kdrun.domains.load import load_data
    from kdrun.problems import UserError

    node = {
        "_target_": "kdrun.domains.translation.parallel_text.parallel_text",
        "source": f"{folder}/all.de",
        "target": f"{folder}/all.en",
    }
    paths = {"cache": str(folder / "cache")}
    assert load_data({**node, "task": "translation", "text": {"vocabulary": 330}}, paths).spec.max_length == 128
    with pytest.raises(UserError, match=r"data\.task=translation"):
        load_data(node, paths)
    with pytest.raises(UserError, match=r"data\.task=classification"):
        load_data({"_target_": "kdrun.domains.images.shipped.digits.digits", "task": "translation"}, paths)
