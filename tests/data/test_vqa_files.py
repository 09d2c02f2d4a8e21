"""Evaluations are read from files laid out as their authors publish them; every config names its reader."""

import inspect
import json
from pathlib import Path

import pytest
import yaml
from PIL import Image
from vision_support import SHARED, conversations, mixed, module_of, tiny_tower

from kdrun import targets
from kdrun.domains.vision_language.domain import Vision
from kdrun.domains.vision_language.vqa_files import LETTER, SHORT, gqa, mme, pope, scienceqa, textvqa
from kdrun.problems import UserError
from kdrun.schema import defaults

CONF = Path(__file__).parents[2] / "conf" / "data"
NAMES = ("llava_json", "textvqa", "gqa", "scienceqa", "mme", "pope")


def picture(path, shade=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(path)


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def only_test(made):
    assert made.samples["train"] == made.samples["val"] == [] and len(made.corpus) == 0
    return made.samples["test"]


def textvqa_files(root, answers):
    picture(root / "train_images" / "003a8ae2ef43b901.jpg")
    row = {"question": "what is the brand?", "image_id": "003a8ae2ef43b901", "question_id": 34602, "answers": answers}
    write(root / "TextVQA_0.5.1_val.json", {"dataset_name": "textvqa", "data": [row | {"set_name": "val"}]})


def test_textvqa(tmp_path):
    textvqa_files(tmp_path, ["nokia"] * 4 + ["nokia phone"] * 5 + ["toshiba"])
    (sample,) = only_test(textvqa(tmp_path, cache=tmp_path / "cache"))
    assert sample.turns[0].prompt == "what is the brand?" + SHORT and sample.turns[0].answer == "nokia phone"
    assert len(sample.answers) == 10 and sample.images == (0,) and sample.type == "textvqa"
    textvqa_files(tmp_path, [])
    with pytest.raises(UserError, match="entry 0: it has no 'answers'"):
        textvqa(tmp_path, cache=tmp_path / "cache")


def test_gqa(tmp_path):
    picture(tmp_path / "images" / "n161313.jpg")
    row = {
        "semantic": [],
        "question": "Is it overcast?",
        "imageId": "n161313",
        "isBalanced": True,
        "answer": "no",
        "types": {"detailed": "weatherVerify", "semantic": "global", "structural": "verify"},
        "fullAnswer": "No, it is clear.",
    }
    write(tmp_path / "testdev_balanced_questions.json", {"201307251": row, "20": row | {"question": "First?"}})
    first, second = only_test(gqa(tmp_path, suffix="", cache=tmp_path / "cache"))
    assert first.turns[0].prompt == "First?" and second.turns[0].answer == "no" and second.type == "gqa_verify"
    assert first.images == second.images == (0,)


def scienceqa_files(root):
    usual = {
        "choices": ["north", "south"],
        "hint": "",
        "image": None,
        "subject": "natural science",
        "task": "closed choice",
    }
    problems = {
        "10": usual | {"question": "Which way?", "answer": 1, "split": "test", "image": "image.png"},
        "9": usual | {"question": "Why?", "answer": 0, "split": "train", "hint": "Look."},
        "11": usual | {"question": "How?", "answer": 0, "split": "val"},
    }
    write(root / "problems.json", problems)
    picture(root / "images" / "test" / "10" / "image.png")
    return problems


def test_scienceqa(tmp_path):
    problems = scienceqa_files(tmp_path)
    made = scienceqa(tmp_path, cache=tmp_path / "cache")
    (train,), (val,), (test,) = (made.samples[name] for name in ("train", "val", "test"))
    assert train.turns[0].prompt == "Context: Look.\nWhy?\nA. north\nB. south" + LETTER and train.images == ()
    assert test.turns[0].answer == "B" and test.choices == ("north", "south") and test.images == (0,)
    assert test.type == "natural_science" and len({train.id, val.id, test.id}) == 3 and len(made.corpus) == 2
    few = scienceqa(tmp_path, only_images=True, cache=tmp_path / "cache")
    assert few.samples["train"] == [] and few.samples["test"] == [test]
    write(tmp_path / "problems.json", problems | {"10": problems["10"] | {"answer": 2}})
    with pytest.raises(UserError, match="'answer' is 2, not the number of one of 2 choices"):
        scienceqa(tmp_path, cache=tmp_path / "cache")


def test_mme(tmp_path):
    ask = "Is it {}? Please answer yes or no."
    lines = f"{ask.format('red')}\tYes\n{ask.format('blue')}\tNo\n"
    write(tmp_path / "color" / "000000000285.txt", lines)
    picture(tmp_path / "color" / "000000000285.jpg", 1)
    write(tmp_path / "artwork" / "questions_answers_YN" / "10002.txt", lines)
    picture(tmp_path / "artwork" / "images" / "10002.png", 2)
    samples = only_test(mme(tmp_path, suffix="", cache=tmp_path / "cache"))
    assert [sample.type for sample in samples] == ["mme_artwork"] * 2 + ["mme_color"] * 2
    assert [sample.images for sample in samples] == [(0,), (0,), (1,), (1,)]
    assert samples[3].turns[0].prompt == ask.format("blue") and samples[3].turns[0].answer == "No"
    write(tmp_path / "color" / "000000000285.txt", "Is it?\tperhaps\n")
    with pytest.raises(UserError, match=r"285\.txt, line 1: expected a question and Yes or No"):
        mme(tmp_path, cache=tmp_path / "cache")
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="holds no questions of MME"):
        mme(tmp_path / "none")


def pope_files(root):
    picture(root / "val2014" / "COCO_val2014_000000310196.jpg")
    row = {"question_id": 1, "image": "COCO_val2014_000000310196.jpg", "text": "Is there a snowboard?", "label": "yes"}
    lines = [json.dumps(row), json.dumps(row | {"question_id": 2, "text": "Is there a backpack?", "label": "no"})]
    write(root / "coco_pope_random.json", "\n".join(lines))
    write(root / "coco_pope_popular.json", lines[1])
    return row


def test_pope(tmp_path):
    row = pope_files(tmp_path)
    samples = only_test(pope(tmp_path, cache=tmp_path / "cache"))
    assert [sample.type for sample in samples] == ["pope_popular", "pope_random", "pope_random"]
    assert [sample.turns[0].answer for sample in samples] == ["No", "Yes", "No"]
    assert [sample.id for sample in samples] == [0, 1, 2] and {sample.images for sample in samples} == {(0,)}
    write(tmp_path / "coco_pope_popular.json", row | {"label": "maybe"})
    with pytest.raises(UserError, match="'label' is 'maybe'"):
        pope(tmp_path, cache=tmp_path / "cache")


def test_evaluates_what_learned_from_other_data(tmp_path, monkeypatch):
    tiny_tower(monkeypatch)
    pope_files(tmp_path)
    learned = module_of(tmp_path, conversations(mixed(9), mixed(3, 50), mixed(3, 60)), max_length=128)
    made = pope(tmp_path, size=32, cache=tmp_path / "cache")
    module = module_of(tmp_path, made, like=learned, max_length=128)
    assert module.spec.sizes == {"train": 0, "val": 0, "test": 3} and module.spec.tokenizer == learned.spec.tokenizer
    (batch,) = module.eval_loader("test", 4)
    assert batch["sizes"]["images"] == 3 and module.audit()["samples"]["test"] == 3
    again = targets.build(
        {"_target_": "kdrun.domains.vision_language.llava_json.llava_json", **_llava(tmp_path)},
        cache=str(tmp_path / "cache"),
    )
    assert len(again.samples["pope"]) == 3 and again.images.size == 32


def _llava(root):
    said = [{"from": "human", "value": "<image> Is it?"}, {"from": "gpt", "value": "Yes."}]
    write(root / "own.json", [{"image": "val2014/COCO_val2014_000000310196.jpg", "conversations": said}])
    tests = {"pope": {"_target_": "kdrun.domains.vision_language.vqa_files.pope", "root": str(root), "size": 32}}
    return {"root": str(root), "file": "own.json", "size": 32, "tests": tests}


@pytest.mark.parametrize("source", [textvqa, gqa, scienceqa, mme, pope], ids=lambda source: source.__name__)
def test_what_is_not_there(tmp_path, source):
    with pytest.raises(UserError, match="needs data"):
        source()
    with pytest.raises(UserError, match="there is no such folder"):
        source(tmp_path / "none")
    with pytest.raises(UserError, match="has no captions"):
        source(tmp_path, part="captions")
    with pytest.raises(UserError):
        source(tmp_path)


def test_a_missing_image_is_named(tmp_path):
    pope_files(tmp_path)
    (tmp_path / "val2014" / "COCO_val2014_000000310196.jpg").unlink()
    with pytest.raises(UserError, match="3 of 3 samples have missing or broken images"):
        pope(tmp_path, cache=tmp_path / "cache")


@pytest.mark.parametrize("name", NAMES)
def test_configs(name):
    config = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    accepted = inspect.signature(targets.locate(config["_target_"])).parameters
    assert name == config["name"] == config["_target_"].rpartition(".")[2] and config.pop("task") == "vision_language"
    assert config.pop("vision").keys() <= defaults(Vision).keys()
    own = {key: value for key, value in config.items() if key not in SHARED and key != "_target_"}
    assert own.keys() == accepted.keys() - {"cache"}
    for key, value in own.items():
        assert value == accepted[key].default or (value == "???" and key in ("root", "file"))
