"""General texts beside the data: which are read, and what of them is told before and after training."""

import json
import math
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from kdrun.cli import main
from kdrun.domains.language.general import FIRST, MOST, content_of, general_texts
from kdrun.domains.load import content_hash, load_data
from kdrun.job.compose import compose
from kdrun.problems import UserError

WORDS = (
    "model=gui_agent", "student=lm_w32", "data.train=60", "data.val=8", "data.test=8", "data.language.max_new=4", "hardware=cpu", "tracker=none",
    "seed=0", "trainer.epochs=1",
)  # fmt: skip


def cell(*words):
    return compose([*WORDS, "strategy=alone", *words]).cells[0]


def test_texts_are_a_further_test_set_that_nothing_is_learned_from(tmp_path):
    (tmp_path / "one.txt").write_text("An owl saw the river. It was cold, and the fog was thick.")
    (tmp_path / "two.txt").write_text("Bread and soup, a hammer and a saw.")
    named = f"data.language.texts={tmp_path}"
    with_texts, without = cell(named), cell()
    module = load_data(with_texts["data"], with_texts["paths"])
    plain = load_data(without["data"], without["paths"])
    assert module.before == ("texts",) and plain.before == () and "texts" not in plain.extra_tests
    rows = module.samples("texts")
    read = [module.tokenizer.made.decode(rows.tokens[place], skip_special_tokens=True) for place in range(len(rows))]
    assert any("owl" in text for text in read) and module.identities("texts").tolist() == [FIRST, FIRST + 1]
    assert module.samples("train").tokens.flat.tolist() == plain.samples("train").tokens.flat.tolist()
    before = content_hash(with_texts["data"], with_texts["paths"])
    assert before != content_hash(without["data"], without["paths"])
    (tmp_path / "two.txt").write_text("Other words.")
    assert content_hash(with_texts["data"], with_texts["paths"]) != before


def test_which_texts_there_are(tmp_path):
    assert len(general_texts("made_corpus", tmp_path)) == MOST and content_of("made_corpus") == "made_corpus"
    with pytest.raises(UserError, match=r"data\.language\.texts"):
        general_texts(str(tmp_path), tmp_path)
    with pytest.raises(UserError, match=r"data\.language\.texts=wiki_intro"):
        cell("data.language.texts=wiki_intro")


def test_perplexity_of_texts_before_and_after(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("An owl saw the river. It was cold, and the fog was thick.")
    (tmp_path / "mine_length.py").write_text("def reward(texts):\n    return [float(len(text)) for text in texts]\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    words = [*WORDS, "strategy=grpo", "strategy.controls=[alone]", "strategy.lr=1e-3", "data.language.texts=text.txt"]
    assert main([*words, "reward._target_=mine_length.reward", "targets.mine_length=true"]) == 0
    panel = capsys.readouterr().out
    assert "on texts, perplexity (before:" in panel
    (record,) = [json.loads(path.read_text()) for path in Path("outputs/runs").glob("*/record.json")]
    alone, student = (record["summary"]["arms"][arm]["further"]["texts"] for arm in ("alone", "student"))
    assert alone["metric"] == "perplexity" and "before" not in alone  # it begins with random weights
    assert student["before"] == pytest.approx(alone["mean"], rel=1e-5) and math.isfinite(student["mean"])
    assert "success" not in next(s for s in record["stages"] if s["role"] == "student")["further"]["texts"]
