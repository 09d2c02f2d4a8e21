"""A table whose data or device is not here is planned, estimated and explained; nothing is started."""

from __future__ import annotations

import json

from tables.support import SPEC, kdrun, request_of, write_spec

from kdrun.tables.cost import estimate, lacking
from kdrun.tables.spec import compose_jobs

ABSENT = SPEC.replace("data=digits", "data=cifar100").replace(
    "trainer.epochs=2", "trainer.epochs=4, trainer.batch_size=50"
)
SIZED = ABSENT + "requires: {data: [cifar100], note: ask for it, shape: [3, 8, 8], classes: 10, train: 120}\n"


def test_the_plan_says_what_is_missing_and_what_it_would_cost(tmp_path, capsys):
    twice = "  - {id: again, label: T once more, overrides: [objective.kd.temperature=4]}\ncolumns:"
    write_spec(tmp_path, SIZED.replace("columns:", twice))
    assert kdrun(tmp_path, "table", "mini") == 0
    text = capsys.readouterr().out
    for part in ("3 jobs: 3 new; 0 to run", "missing here:", "data.root=FOLDER", "ask for it", "nothing was started"):
        assert part in text, part
    assert "10 stages, 120 steps" in text and not (tmp_path / "out").exists()


def test_the_same_as_json(tmp_path, capsys):
    write_spec(tmp_path, ABSENT + "requires: {data: [cifar100]}\n")
    assert kdrun(tmp_path, "table", "mini", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["estimate"] is None and len(found["jobs"]) == 3 and "cifar-100-binary.tar.gz" in found["missing"][0]


def test_an_estimate_counts_every_stage_once(tmp_path):
    request = request_of(tmp_path, SIZED)
    _, composed = compose_jobs(request, request.conf)
    found = estimate(request.spec.requires, composed)
    # one teacher, three students alone, twice three taught ones; 4 epochs of 3 steps
    assert (found["stages"], found["steps"]) == (10, 120) and found["seconds"] > 0
    teacher, student = 2 * (192 * 64 + 64 * 10), 2 * (192 * 8 + 8 * 10)
    assert found["flops"] == 4 * 120 * (3 * teacher + 9 * 3 * student + 6 * teacher)


def test_a_device_that_is_not_here(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    request = request_of(tmp_path, SPEC + "requires: {device: cuda, note: rent one}\n")
    _, composed = compose_jobs(request, request.conf)
    lines = lacking(request.spec.requires, composed)
    assert len(lines) == 2 and "cuda" in lines[0] and lines[1] == "rent one"


def test_what_is_here_is_not_missing(tmp_path):
    request = request_of(tmp_path, SPEC + "requires: {data: [digits], device: cpu, note: never shown}\n")
    _, composed = compose_jobs(request, request.conf)
    assert lacking(request.spec.requires, composed) == []
