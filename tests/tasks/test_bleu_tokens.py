"""BLEU counts words as the target language has them, and a run that cannot count them says so before it trains."""

import os
from types import ModuleType

import pytest

from kdrun.cli import main
from kdrun.domains.translation.scores import corpus_scores, signatures, tokenize_for
from kdrun.problems import UserError

pytest.importorskip("sacrebleu")

COLOURS = ("红", "red"), ("绿", "green"), ("蓝", "blue"), ("白", "white"), ("旧", "old"), ("新", "new")
THINGS = ("灯", "lamp"), ("门", "door"), ("钟", "clock"), ("墙", "wall"), ("盒子", "box"), ("长椅", "bench")
ENDS = ("今天开着。", "is on today."), ("昨天坏了。", "was broken yesterday."), ("现在在那边。", "is over there now.")
ROWS = [(f"The {c2} {t2} {e2}", f"这个{c}色的{t}{e}") for c, c2 in COLOURS for t, t2 in THINGS for e, e2 in ENDS]
WORDS = ("model=nmt_transformer", "strategy=alone", "student=nmt_t32", "data=parallel_text", "data.source=a.txt", "data.target=b.txt",
         "data.source_language=en", "data.text.vocabulary=400", "data.max_ratio=1.8", "data.val_fraction=0.1", "data.test_fraction=0.1",
         "trainer.batch_size=256", "seed=0", "trainer.epochs=1", "trainer.decoding.beam=1",
         "trainer.decoding.max_factor=0.5", "trainer.decoding.max_extra=1", "tracker=none", "card=false", "hardware=cpu")  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDRUN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SACREBLEU", str(tmp_path / "sacrebleu"))
    monkeypatch.setattr("sacrebleu.utils.SACREBLEU_DIR", str(tmp_path / "sacrebleu"))
    for number, name in enumerate(("a.txt", "b.txt")):
        (tmp_path / name).write_text("".join(f"{row[number]}\n" for row in ROWS))
    return tmp_path


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("en", "13a"), ("de-AT", "13a"), ("hi", "13a"), ("vi", "13a"), ("xx", "13a"),
        ("zh", "zh"), ("zh-TW", "zh"), ("zho_Hans", "zh"), ("Chinese", "zh"), ("yue", "zh"),
    ],
)  # fmt: skip
def test_the_language_says_how_words_are_told_apart(language, expected):
    assert tokenize_for("auto", language) == expected
    assert tokenize_for("char", language) == "char"


@pytest.mark.parametrize(
    ("language", "name", "said"),
    [
        ("ja", "ja-mecab", "pip install 'sacrebleu[ja]'"),
        ("ko-KR", "ko-mecab", "pip install 'sacrebleu[ko]'"),
        *((code, "flores200", "BLEU(tokenize='flores200')") for code in ("th", "lo", "km", "my", "bo", "khm_Khmr")),
    ],
)
def test_what_is_not_here_is_named_with_what_to_do(folder, monkeypatch, language, name, said):
    monkeypatch.setattr(
        "kdrun.domains.translation.scores.find_spec", lambda module: None if "mecab" in module.lower() else module
    )
    with pytest.raises(UserError) as told:
        tokenize_for("auto", language)
    text = "\n".join(told.value.lines)
    assert name in text and said in text and "data.text.bleu=char" in text
    monkeypatch.setattr("kdrun.domains.translation.scores.find_spec", lambda module: ModuleType(module))
    (folder / "sacrebleu" / "models").mkdir(parents=True)
    (folder / "sacrebleu" / "models" / "flores200sacrebleuspm").touch()
    assert tokenize_for("auto", language) == name


def test_a_script_that_the_language_does_not_explain_is_asked_about():
    targets = [target for _, target in ROWS]
    with pytest.raises(UserError, match=r"(?s)the target language is en, but .*% of .*data.target_language"):
        tokenize_for("auto", "en", targets)
    assert tokenize_for("zh", "en", targets) == tokenize_for("auto", "zh", targets) == "zh"


def test_one_wrong_character_costs_little():
    references = [target for _, target in ROWS]
    hypotheses = [f"{text[:-2]}吧。" for text in references]
    assert corpus_scores(hypotheses, references)["bleu"] < 5  # each sentence is one word
    assert corpus_scores(hypotheses, references, "zh")["bleu"] > 60
    assert "tok:zh" in signatures("zh")["bleu"] and "tok:13a" in signatures()["bleu"]


def test_a_run_on_chinese_targets(folder):
    import kdrun

    run = kdrun.run(*WORDS, "data.target_language=zh-Hans")
    assert "tok:zh" in run.record["summary"]["notes"]["bleu"]
    assert run.record["audit"]["dropped"] == {} and sum(run.record["audit"]["samples"].values()) == len(ROWS)
    assert 8 < run.record["audit"]["lengths"]["train"]["target_words"] < 20
    (stage,) = run.record["stages"]
    assert stage["val"]["best"]["bleu"] >= 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data.target_language=ja"], "sacreBLEU's tokeniser ja-mecab"),
        (["data.target_language=th"], "sacreBLEU's tokeniser flores200"),
        (["data.target_language=cs"], "the target language is cs, but"),
        (["data.target_language=zh", "data.text.bleu=zhh"], "data.text.bleu"),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "run"])
def test_a_run_that_cannot_count_words_says_so_before_it_starts(folder, monkeypatch, capsys, verb, words, said):
    monkeypatch.setattr(
        "kdrun.domains.translation.scores.find_spec", lambda module: None if "mecab" in module.lower() else module
    )
    assert main([verb, *WORDS, *words]) == 2
    printed = capsys.readouterr()
    assert said in printed.err and "Traceback" not in printed.err
    assert not list(folder.glob("outputs/store/*/*/record.json")) and not os.path.exists("outputs/store/stages")


def test_what_selects_the_epoch_counts_the_same_words(folder):
    from kdrun.domains.load import load_data

    node = {
        "_target_": "kdrun.domains.translation.parallel_text.parallel_text", "task": "translation", "source": "a.txt", "target": "b.txt",
        "source_language": "en", "target_language": "zh", "text": {"vocabulary": 400},
    }  # fmt: skip
    task = load_data(node, {"cache": str(folder / "cache")}).task()
    text = task.metrics()["text"]
    references = task.module.references("val")
    text.update([f"{line[:-2]}吧。" for line in references], references)
    assert text.compute()["bleu"] > 0.6
    assert task.baselines()["copying the source"]["bleu"] < 0.05
