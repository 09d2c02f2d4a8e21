"""strategy=sequence_kd: what a teacher translates is data in the store, from which the student learns."""

import json
from dataclasses import replace

import pytest
from text_support import ROWS

from kdrun.domains.load import read_generated
from kdrun.files import Damaged
from kdrun.job.cells import make_lab
from kdrun.job.compose import compose
from kdrun.job.plan import make_plan
from kdrun.learning.report import Interrupted, Report
from kdrun.problems import UserError
from kdrun.strategies.cast import Cast, generate, supervised

WORDS = (
    "strategy=sequence_kd", "strategy.beam=2", "model=nmt_transformer", "teacher=nmt_t32", "student=nmt_t32", "data=parallel_text",
    "data.source=all.de", "data.target=all.en", "data.text.vocabulary=330", "trainer.epochs=1", "trainer.batch_size=512",
    "seed=0", "tracker=none", "card=false", "hardware=cpu",
)  # fmt: skip


class Stopping(Report):
    """Asks to stop after the first block."""

    def stop_requested(self):
        return True


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("toy")
    for language, side in (("de", 0), ("en", 1)):
        (folder / f"all.{language}").write_text("".join(row[side] + "\n" for row in ROWS))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield compose([*WORDS, f"paths.outputs={folder / 'outputs'}"])


def lab_of(cell, report=None):
    return make_lab(cell["paths"], {**cell["hardware"], "device": "cpu"}, report or Report(), lambda item: None)


def test_generated_targets_are_a_stage(config):
    (cell,) = config.cells
    assert [stage["label"] for stage in make_plan(config)["stages"]][1:3] == ["generated/seed=0", "student/seed=0"]
    cast = Cast({**cell, "hardware": {**cell["hardware"], "device": "cpu"}})
    teacher = lab_of(cell).get(supervised(cast.teacher))
    with pytest.raises(Interrupted):
        lab_of(cell, Stopping()).get(generate(cast, teacher, beam=2))
    (state,) = (lab_of(cell).store.root / "unfinished").glob("*/generated.part")
    first = state.read_text()
    state.write_text(first + '{"id": 3, "te')  # killed while it wrote
    lab = lab_of(cell)
    decodes = lab.get(generate(cast, teacher, beam=2))
    rows = read_generated(**decodes.data_file())
    known = lab.workshop.data(cell["data"])
    assert [row["id"] for row in rows] == known.train_ids.tolist()
    assert "".join(json.dumps(row) + "\n" for row in rows).startswith(first)
    stage = replace(supervised(cast.student), generated=decodes)
    alone = supervised(cast.student)
    assert stage.taught and stage.parts(lab.context) != alone.parts(lab.context)
    assert lab.get(stage).record["val"]["last"] != lab.get(alone).record["val"]["last"]
    path = decodes.path / "data.jsonl"
    path.write_text(path.read_text().replace('"text": "', '"text": "x', 1))
    with pytest.raises(Damaged, match="changed since they were stored"):
        read_generated(**decodes.data_file())


def test_data_of_other_kinds_have_nothing_to_generate():
    with pytest.raises(UserError, match=r"data.task=classification"):
        compose(["strategy=sequence_kd", "seed=0"])
