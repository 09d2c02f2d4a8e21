"""Tasks of a sequence by types of questions, about inputs of several modalities: samples, encoders, network, and a run."""

import json
import math
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import kdrun
from kdrun import kinds
from kdrun.domains.vision_language.build import vision_module
from kdrun.domains.vision_language.descriptions import Cider
from kdrun.domains.vision_language.networks.encoders import PIECES, build_encoder
from kdrun.domains.vision_language.networks.multimodal import Multimodal
from kdrun.domains.vision_language.shipped import speech
from kdrun.domains.vision_language.shipped.modalities import modalities
from kdrun.domains.vision_language.shipped.signals import MODALITIES
from kdrun.domains.vision_language.source import InputStore
from kdrun.job.compose import compose
from kdrun.objectives.terms import build_objective
from kdrun.problems import UserError
from kdrun.schema import defaults
from kdrun.strategies.cast import Cast
from kdrun.strategies.continual import Continual
from kdrun.strategies.unused import StageCollector

WORDS = ("model=multimodal", "strategy=continual", "tracker=none", "card=false")
LANGUAGE = {"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
LANGUAGE |= {"intermediate_size": 16, "tie_word_embeddings": True}


def module_of(tmp_path, source=None, **questions):
    from kdrun.domains.vision_language.domain import Vision
    from kdrun.domains.vision_language.question_subset import QuestionSubset
    from kdrun.schema import Data

    limit = {"train": None, "val": None, "test": None}
    config = {**defaults(Data), "limit": limit, "unlabelled": None, **defaults(Vision), "tower": "random_features"}
    config |= {"questions": {**defaults(QuestionSubset), **questions}}
    return vision_module(source or modalities(train=6, val=3, test=3), config, tmp_path / "cache")


def network_of(module):
    known = {
        name: value for name, value in module.spec.arguments().items() if name in Multimodal.__init__.__annotations__
    }
    torch.manual_seed(0)
    return Multimodal(language=LANGUAGE, **known)


# inputs


def test_a_source_says_the_same_of_its_first_samples_whatever_sizes_are_asked_for():
    small, large = modalities(train=3, val=2, test=2), modalities(train=5, val=2, test=2)
    told = {sample.id: sample for sample in large.samples["train"]}
    for sample in small.samples["train"]:
        other = told[sample.id]
        assert (sample.turns, sample.type) == (other.turns, other.type)
        assert np.array_equal(small.images.raw(sample.images[0]), large.images.raw(other.images[0]))
    assert isinstance(small.images, InputStore) and small.source_hash != large.source_hash
    ids = [sample.id for samples in large.samples.values() for sample in samples]
    assert len(set(ids)) == len(ids) == 3 * 2 * 9


def test_answers_say_what_is_drawn():
    source = modalities(("video",), train=40, val=1, test=1)
    for sample in source.samples["train"]:
        frames = source.images.raw(sample.images[0]).astype(float)
        bright = frames.max(1) > 150  # the thing is brighter than what is behind it
        columns = [np.argwhere(frame)[:, 1].mean() for frame in bright if frame.any()]
        if "direction" in sample.turns[0].prompt and sample.turns[0].answer in ("left", "right"):
            assert (columns[-1] > columns[0]) == (sample.turns[0].answer == "right")


SPEECH = pytest.mark.skipif(find_spec("espeakng_loader") is None, reason="needs the extra speech")


@pytest.mark.parametrize("name", [pytest.param(name, marks=SPEECH if name == "speech" else ()) for name in MODALITIES])
def test_an_encoder_gives_as_many_features_of_every_modality_and_each_depends_on_its_piece(name):
    encoder, source = build_encoder("random_features"), modalities((name,), train=4, val=1, test=1)
    raw = torch.from_numpy(np.stack([source.images.raw(number) for number in range(4)]))
    features = encoder(name, raw)
    assert features.shape == (4, encoder.tokens, encoder.width) and features.min() == 0
    assert torch.equal(features, build_encoder("random_features")(name, raw))
    assert PIECES[name][0](raw).shape == (4, encoder.tokens, PIECES[name][1])
    assert not torch.equal(features[0], features[1]) and not any(p.requires_grad for p in encoder.parameters())


def test_the_spectrum_of_a_tone_is_where_its_frequency_is():
    time = torch.arange(4000) / 4000
    low, high = (torch.round(20000 * torch.sin(2 * torch.pi * f * time)).to(torch.int16) for f in (250, 1500))
    bands = PIECES["audio"][0](torch.stack([low, high]))[:, 5].argmax(-1)
    assert bands[0] < bands[1]


@SPEECH
def test_spoken_words_are_told_apart_by_their_spectra_and_the_same_in_every_process():
    rate, said = speech.spoken()
    assert len(said) == len(speech.WORDS) * 4 and {float(np.abs(wave).max()) for wave in said.values()} == {1.0}
    assert all(0.1 < len(wave) / rate < 1.2 for wave in said.values())
    slow, quick = (np.mean([len(w) for (_, _, pace), w in said.items() if pace == name]) for name in speech.PACES)
    assert slow > 1.5 * quick
    deep, bright = (
        np.median([_fundamental(wave, rate) for (_, voice, _), wave in said.items() if voice == name])
        for name in speech.VOICES
    )
    assert bright > 1.5 * deep
    module = "kdrun.domains.vision_language.shipped.modalities"
    script = f"import {module} as m; print(m.modalities(['speech'], 2, 1, 1).content_hash)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == modalities(["speech"], 2, 1, 1).content_hash


def _fundamental(wave, rate):
    """The pitch of a voice in Hz, where its autocorrelation is largest."""
    own = np.correlate(wave[: rate // 2], wave[: rate // 2], "full")[len(wave[: rate // 2]) - 1 :]
    low, high = rate // 300, rate // 60
    return rate / (low + own[low:high].argmax())


def test_speech_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(UserError, match="pip install espeakng-loader"):
        kinds.find("vision_language").check_here(compose([*WORDS, "data.modalities=[speech]"]).config["data"])


def test_a_modality_that_is_none_names_the_nearest():
    with pytest.raises(UserError, match="no modality 'speach'; closest: speech"):
        modalities(("image", "speach"))


def test_a_tokenizer_knows_no_spoken_words_where_none_are_spoken():
    assert not any("seven" in text for text in modalities(("image",), 1, 1, 1).corpus)


# samples of a task


class Spoiled:
    """A store that refuses all inputs but those of some modality."""

    def __init__(self, store, allowed):
        self.store, self.allowed, self.modalities = store, allowed, store.modalities
        self.source_hash = store.source_hash

    def __len__(self):
        return len(self.store)

    def modality(self, number):
        return self.store.modality(number)

    def raw(self, number):
        assert number in self.allowed, "an input of another task is read"
        return self.store.raw(number)


def spoiled(kind):
    """A source whose inputs of other types than `kind` cannot be read."""
    from dataclasses import replace

    source = modalities(train=6, val=3, test=3)
    used = {number for samples in source.samples.values() for s in samples if s.type == kind for number in s.images}
    return replace(source, images=Spoiled(source.images, used))


def batches(module, split):
    return list(module.eval_loader(split, 4))


def test_a_task_has_questions_of_its_types_in_all_splits_and_reads_no_input_of_others(tmp_path):
    module = module_of(tmp_path, spoiled("audio_answer"), types=["audio_answer"])
    whole = module_of(tmp_path)
    assert module.spec.sizes == {"train": 6, "val": 3, "test": 3} and module.spec.types == ("audio_answer",)
    assert module.spec.vocabulary == whole.spec.vocabulary and module.spec.tokenizer == whole.spec.tokenizer
    for split in ("train", "val", "test"):
        assert all(set(batch["inputs"]["modality"].tolist()) == {1} for batch in batches(module, split))


def test_a_memory_has_as_many_bytes_as_it_may_in_equal_parts(tmp_path):
    one = 3 * 32 * 32 + 80  # an image and its texts
    module = module_of(
        tmp_path, types=["audio_answer"], replay=["image_answer", "image_description"], replay_bytes=6 * one
    )
    kinds = [sample.type for sample in module.chosen["train"]]
    assert [kinds.count(kind) for kind in ("audio_answer", "image_answer", "image_description")] == [6, 3, 3]
    assert {sample.type for sample in module.chosen["test"]} == {"audio_answer"}


@pytest.mark.parametrize(
    ("questions", "lines"),
    [
        ({"types": ["audio_answr"]}, "no questions of type 'audio_answr'.*audio_answer"),
        ({"types": ["audio_answer"], "replay": ["audio_answer"]}, "among the types that are used anyway"),
        (
            {"types": ["audio_answer"], "replay": ["image_answer"], "replay_bytes": 80},
            "no room for one question of type",
        ),
    ],
)
def test_types_that_are_not_there_are_refused(tmp_path, questions, lines):
    with pytest.raises(UserError, match=lines):
        module_of(tmp_path, **questions)


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ({"modalities": ["image", "smell"]}, "smell"),
        ({"modalities": []}, "there are: image"),
        ({"modalities": ["image", "image"]}, "each once"),
        ({"train": 0}, "data.train=0"),
    ],
)
def test_a_source_refuses_what_it_has_not(options, lines):
    with pytest.raises(UserError, match=lines):
        modalities(**options)


# the network


def test_each_modality_has_a_projector_that_samples_of_others_leave_alone(tmp_path):
    module = module_of(tmp_path)
    network = network_of(module)
    (batch,) = list(module_of(tmp_path, types=["audio_answer"]).eval_loader("train", 8))
    network(**batch["inputs"]).square().mean().backward()
    touched = {name for name, projector in network.projectors.items() if projector[0].weight.grad is not None}
    assert touched == {"audio"} and network.model.get_input_embeddings().weight.grad is not None


def test_a_mixed_batch_says_of_each_sample_what_it_says_of_it_alone(tmp_path):
    module = module_of(tmp_path)
    network = network_of(module).eval()
    samples = module.samples("train")
    places = np.array([0, 14, 26, 3])
    together = samples.batch(places)
    with torch.no_grad():
        logits = network(**together["inputs"])
        for row, place in enumerate(places):
            alone = samples.batch(np.array([place]))
            length = alone["inputs"]["input_ids"].shape[1]
            torch.testing.assert_close(network(**alone["inputs"])[0], logits[row, :length], rtol=1e-4, atol=1e-4)


def test_an_exported_graph_computes_the_same_whatever_the_modalities_are(tmp_path):
    module = module_of(tmp_path)
    network = network_of(module).eval()
    inputs = module.samples("train").batch(np.array([0, 14, 26, 3]))["inputs"]
    with torch.no_grad(), network.exporting():
        exported = network(**inputs)
    with torch.no_grad():
        real = inputs["attention_mask"]  # what stands at padding is nobody's
        torch.testing.assert_close(exported[real], network(**inputs)[real], rtol=1e-4, atol=1e-5)


def test_generation_goes_on_as_the_teacher_forced_pass_says(tmp_path):
    module = module_of(tmp_path)
    network = network_of(module).eval()
    prompts = module.prompts(module.samples("test").ids[:2])
    (first, *_), _ = network.generate(**prompts, max_new=3, eos=-1)
    with torch.no_grad():
        logits = network(**{**prompts, "attention_mask": prompts["attention_mask"]})
    assert int(logits[0, -1].argmax()) == first


# stages


def asked(*words, **changed):
    cell = compose([*WORDS, *words]).cells[0]
    cast, lab = Cast(cell), StageCollector()
    Continual(**changed).run(lab, cast)
    return lab.stages


def test_lists_of_types_are_tasks_each_of_which_begins_with_the_network_before():
    tasks = [["image_answer"], ["audio_answer", "audio_description"]]
    first, second = asked(tasks=tasks, method="fine_tuning")
    assert first.data["questions"]["types"] == ["image_answer"]
    assert second.data["questions"]["types"] == ["audio_answer", "audio_description"]
    assert second.start.stage is first and not second.taught


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    words = ["data.train=12", "data.val=4", "data.test=5", "trainer.epochs=1", "seeds=1", "hardware=cpu"]
    tasks = "strategy.tasks=[[image_answer],[audio_description]]"
    network = ["student.network.language.hidden_size=16", "student.network.language.num_hidden_layers=1"]
    places = [f"paths.outputs={folder}/out", f"paths.cache={folder}/cache"]
    return kdrun.run(*WORDS, *words, tasks, *network, "strategy.controls=[fine_tuning]", *places)


def test_a_result_has_a_part_for_each_task(finished):
    stage = next(stage for stage in finished.record["stages"] if stage.get("matrix"))
    assert [part["name"] for part in stage["tasks"]] == ["task 1 (image_answer)", "task 2 (audio_description)"]
    assert stage["matrix"]["columns"] == [part["name"] for part in stage["tasks"]]
    assert np.array(stage["matrix"]["metrics"]["accuracy"]).shape == (3, 2)
    assert json.dumps(stage["matrix"])


# what the network before is asked


ASKS = {"recalled": ["audio_description"], "instructed": ["audio_description", "image_answer"], "instructions": 3}


def test_inputs_are_asked_again_by_types_of_their_modality_and_wordings_have_no_input(tmp_path):
    """Nothing of the types that are asked is read: all inputs but those of the task's own type would fail."""
    source = spoiled("audio_answer")
    asked = module_of(tmp_path, source, types=["audio_answer"], answered=False, **ASKS)
    recalled = [sample for sample in asked.chosen["train"] if sample.images]
    own = [sample for sample in source.samples["train"] if sample.type == "audio_answer"]
    assert [sample.images for sample in recalled] == [sample.images for sample in own]
    assert all(
        s.turns[0].prompt in source.instructions["audio_description"] and not s.turns[0].answer for s in recalled
    )
    assert len(asked.chosen["train"]) == 6 + 2 * 3
    list(asked.train_loader(4, 0))


def test_an_input_of_another_modality_is_not_asked(tmp_path):
    asked = module_of(tmp_path, types=["video_answer"], recalled=["audio_description", "video_description"])
    kinds = [sample.type for sample in asked.chosen["train"]]
    assert kinds.count("video_description") == 6 and "audio_description" not in kinds


def rows_of(module, text="a steady pure tone at a low pitch"):
    return [{"id": sample.id, "text": text} for sample in module.chosen["train"]]


def test_answers_of_the_network_before_are_in_masks_of_their_own_and_what_it_did_not_answer_is_left_out(tmp_path):
    asked = module_of(tmp_path, types=["audio_answer"], answered=False, **ASKS)
    module = module_of(tmp_path, types=["audio_answer"], **ASKS)
    rows = rows_of(asked)[1:]
    learned = module.relabelled(rows)
    assert learned.spec.sizes["train"] == 6 + 5 + 6 and learned.samples("train").labelled is None
    (batch,) = list(learned.train_loader(32, 0))
    masks = [batch[name] for name in ("own_mask", "recalled_mask", "instructed_mask")]
    assert torch.equal(sum(mask.int() for mask in masks), batch["mask"].int())
    assert [int(mask.any(1).sum()) for mask in masks] == [6, 5, 6]
    assert {name: batch["sizes"][name] for name in ("own_mask", "recalled_mask")} == {
        "own_mask": int(masks[0].sum()),
        "recalled_mask": int(masks[1].sum()),
    }
    own = next(iter(module_of(tmp_path, types=["audio_answer"]).train_loader(32, 0)))
    answered = {
        int(n): targets[mask].tolist() for n, targets, mask in zip(own["ids"], own["targets"], own["mask"], strict=True)
    }
    again = zip(batch["ids"], batch["targets"], batch["own_mask"], strict=True)
    assert {int(n): targets[mask].tolist() for n, targets, mask in again if mask.any()} == answered


def test_a_network_says_how_likely_its_own_answers_are(tmp_path):
    asked = module_of(tmp_path, types=["audio_answer"], answered=False, **ASKS)
    network, task = network_of(asked).eval(), asked.task({"max_extra": 4})
    rows = task.targets_of(network, asked.samples("train"), np.arange(12))
    assert [("score" in row) for row in rows] == [True] * 6 + [False] * 6
    place, row = 0, rows[0]
    batch = asked.relabelled(rows).samples("train").batch(np.array([place]))
    with torch.no_grad():
        logs = torch.log_softmax(network(**batch["inputs"]), -1)[0]
    told = [float(logs[at, token]) for at, token in enumerate(batch["targets"][0].tolist()) if batch["mask"][0, at]]
    assert row["score"] == pytest.approx(sum(told) / len(told), rel=1e-4)


def test_the_likeliest_share_of_each_type_is_kept():
    from kdrun.data.filters import TextFilter

    rows = [{"id": n, "text": "x", "type": "ab"[n % 2], "score": -float(n)} for n in range(10)]
    rows += [{"id": 10, "text": "y", "type": "a"}, {"id": 11, "text": "", "type": "a", "score": 0.0}]
    kept, left = TextFilter(shortest=1, likeliest=0.5).kept(rows)
    assert [row["id"] for row in kept] == [0, 1, 2, 3, 4, 5, 10] and left == {"unlikely": 4, "empty": 1}


TASKS = [["image_answer"], ["audio_answer"], ["audio_description"]]


def test_the_stages_of_moincl():
    first, second, asked_of, third = (
        stage for stage in asked(tasks=TASKS, method="moincl") if not stage.role.endswith("task2_asked")
    )
    assert not first.generated and set(first.objective) == {"ce"}
    assert set(third.objective) == {"ce", "pseudo", "instructions"} and third.teacher.stage is second
    assert third.generated.stage is asked_of and asked_of.teacher.stage is second
    assert asked_of.data["questions"]["answered"] is False and asked_of.filters["likeliest"] == 0.8


def test_without_weight_the_stages_are_those_of_fine_tuning():
    plain = asked(tasks=TASKS, method="fine_tuning")
    for method in ("pseudo", "instructions", "moincl"):
        assert asked(tasks=TASKS, method=method, pseudo_weight=0.0, instruction_weight=0.0) == plain


@pytest.mark.parametrize("method", ["pseudo", "instructions", "moincl"])
def test_questions_are_asked_where_there_are_types(method):
    words = ["data=digits", "student=mlp_8", "strategy=continual", f"strategy.method={method}", "tracker=none"]
    with pytest.raises(UserError, match="types of questions"):
        compose(words)


def test_a_network_that_answers_nothing_is_told(tmp_path):
    module = module_of(tmp_path, types=["audio_answer"], **ASKS)
    rows = [row for row, sample in zip(rows_of(module), module.chosen["train"], strict=True) if not sample.images]
    with pytest.raises(UserError, match="of 6 answers of the network before"):
        module.relabelled(rows)


SIZES = (
    "data.train=32",
    "data.val=4",
    "data.test=5",
    "trainer.epochs=4",
    "trainer.batch_size=4",
    "seeds=1",
    "hardware=cpu",
)


def trained(folder, *words):
    """A run of moincl in a folder of its own, so that nothing of another one is taken over."""
    tasks = ("strategy.tasks=[[audio_answer],[audio_description]]", "strategy.method=moincl")
    network = ("student.network.language.hidden_size=16", "student.network.language.num_hidden_layers=1")
    return kdrun.run(
        *WORDS, *SIZES, *tasks, *network, *words, f"paths.outputs={folder}/out", f"paths.cache={folder}/cache"
    )


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("held"), "strategy.controls=[pseudo,fine_tuning]")


def test_without_weight_of_both_terms_trained_weights_are_those_of_fine_tuning_bit_for_bit(held, tmp_path):
    without = ("strategy.pseudo_weight=0", "strategy.instruction_weight=0", "strategy.controls=[]")
    runs = {"with": held, "without": trained(tmp_path, *without)}

    def weights(run, role):
        (stage,) = [stage for stage in runs[run].record["stages"] if stage["role"] == role]
        tensors = load_file(Path(stage["path"], "last.safetensors"))
        assert Path(stage["path"]).is_relative_to(tmp_path) == (run == "without")
        return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}

    assert weights("without", "student_task2") == weights("with", "fine_tuning_task2")
    assert weights("with", "student_task2") != weights("with", "fine_tuning_task2")


def test_both_terms_have_their_part_of_the_second_task(held):
    stage = next(stage for stage in held.record["stages"] if stage["role"] == "student_task2")
    assert set(stage["first_step"]) == {"ce", "pseudo", "instructions"}
    made = next(stage for stage in held.record["stages"] if stage["role"] == "student_task2_asked")
    assert 0 < made["generated"]["rows"] < 32 + 8 and sum(made["generated"]["left_out"].values()) > 0


def test_the_divergence_on_instructions_is_0_before_the_first_step_and_a_mean_over_what_was_written_after_it(tmp_path):
    asked, module = (module_of(tmp_path, types=["audio_answer"], answered=given, **ASKS) for given in (False, True))
    learned = module.relabelled(rows_of(asked))
    (batch,), task = list(learned.train_loader(64, 0)), learned.task()
    before, network = network_of(module), network_of(module)
    term = {"_target_": "kdrun.objectives.kd.kd", "weight": 1.0, "temperature": 1.0, "over": "instructed"}
    objective = build_objective({"instructions": term})

    def value():
        with torch.no_grad():
            said = task.predict(before, batch["inputs"])
        return objective(task.tensors(batch, task.predict(network, batch["inputs"]), said), batch["sizes"])[0]

    start = value()
    assert start == 0
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    network(**batch["inputs"])[batch["own_mask"]].square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        old, new = (
            torch.log_softmax(one(**batch["inputs"]), -1)[batch["instructed_mask"]] for one in (before, network)
        )
    reference = sum((o.exp() * (o - n)).sum() for o, n in zip(old, new, strict=True)) / len(old)
    assert value().item() == pytest.approx(reference.item(), rel=1e-4) and reference > 0


# descriptions


def test_a_description_is_judged_by_the_words_it_has_in_common_with_its_reference():
    references = ["a red circle on the left", "a blue square on the left", "a red cross on the right"]
    score = Cider(references)
    assert score(references[0], references[0]) == pytest.approx(1.0)
    assert score("", references[0]) == score("a", references[0]) == 0  # every reference has "a"
    partly, better = (
        score("a red square on the right", references[0]),
        score("a red circle on the right", references[0]),
    )
    assert 0 < partly < better < 1
    # by hand: of single words "red" and "left" weigh log(3/2), "circle" log(3); a text of the first alone
    red, circle = math.log(3 / 2), math.log(3)
    assert score("red", references[0]) == pytest.approx(red / math.sqrt(2 * red**2 + circle**2) / 4)


def test_a_sample_with_a_description_is_scored_by_it(tmp_path):
    module = module_of(tmp_path)
    task = module.task()
    kinds = {sample.type: sample for sample in module.chosen["test"]}
    described, answered = kinds["image_description"], kinds["image_answer"]
    text = described.turns[0].answer
    assert task.rightness(described, text) == pytest.approx(1.0)
    assert 0 < task.rightness(described, " ".join(text.split()[:3])) < 1
    assert task.rightness(answered, answered.turns[0].answer) == 1 and task.rightness(answered, "a word") == 0
    assert "CIDEr" in task.notes()["accuracy"]
