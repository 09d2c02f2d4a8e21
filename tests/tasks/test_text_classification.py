"""Texts with classes: tokens, batches, networks, scores and a whole job on made-up sentences."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, matthews_corrcoef, precision_recall_fscore_support, roc_auc_score

from kdrun import kinds
from kdrun.domains.load import load_data
from kdrun.domains.task import Prediction
from kdrun.networks.build import build_network
from kdrun.problems import UserError

pytest.importorskip("transformers")

ENCODER = "kdrun.domains.text.networks.encoder.HuggingFaceEncoder"
TINY = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def load(tmp_path, **more):
    made = {"_target_": "kdrun.domains.text.shipped.made_topics.made_topics", "samples": 120}
    tokens = {"vocabulary": 400, "max_length": 24, **more.pop("tokens", {})}
    config = {**made, "task": "text_classification", "tokens": tokens, **more}
    return load_data(config, {"cache": str(tmp_path / "cache")})


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    return load(tmp_path_factory.mktemp("texts"))


def network(module, **options):
    return build_network({"_target_": ENCODER, "config": TINY, **options}, module.spec, seed=0)


def test_the_tokenizer_is_that_of_the_training_texts_and_the_same_again(module, tmp_path):
    again = load(tmp_path)
    assert again.spec == module.spec and again.tokenizer.sha256 == module.tokenizer.sha256
    assert torch.equal(
        again.samples("test").inputs(np.arange(5))["input_ids"],
        module.samples("test").inputs(np.arange(5))["input_ids"],
    )
    other = load(tmp_path, split_seed=1)
    assert other.tokenizer.sha256 != module.tokenizer.sha256


def test_padding_changes_nothing(module):
    made, samples = network(module).eval(), module.samples("train")
    order = np.argsort(samples.lengths)
    mixed = np.array([order[0], order[-1]])
    assert samples.lengths[mixed[0]] < samples.lengths[mixed[1]]
    with torch.no_grad():
        both = made(**samples.inputs(mixed))
        alone = torch.cat([made(**samples.inputs(mixed[:1])), made(**samples.inputs(mixed[1:]))])
    assert torch.allclose(both, alone, atol=1e-6)


def test_batches_are_of_similar_length_and_have_every_text_once(module):
    loader = module.train_loader(16, seed=0)
    batches = list(loader)
    ids = torch.cat([batch["ids"] for batch in batches])
    assert sorted(ids.tolist()) == sorted(module.train_ids.tolist())
    filled = sum(batch["inputs"]["attention_mask"].sum().item() for batch in batches)
    room = sum(batch["inputs"]["attention_mask"].numel() for batch in batches)
    assert filled / room > 0.85
    loader.set_epoch(1)
    assert [batch["ids"].tolist() for batch in loader] != [batch["ids"].tolist() for batch in batches]


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_a_batch_and_one_without_a_row_counts_nothing(module, world):
    whole = list(module.eval_loader("val", 4))
    parts = [list(module.eval_loader("val", 4, rank, world)) for rank in range(world)]
    for number, batch in enumerate(whole):
        ids = [
            row
            for rank in parts
            for row, real in zip(rank[number]["ids"].tolist(), rank[number]["mask"], strict=True)
            if real
        ]
        assert ids == batch["ids"].tolist() and all(rank[number]["size"] == batch["size"] for rank in parts)


def test_scores_are_those_of_scikit_learn(module):
    task = kinds.find("text_classification").task(module)
    logits = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(40) % 4
    mask = torch.arange(40) < 35
    metrics = task.metrics()
    for part in (slice(0, 20), slice(20, 40)):
        batch = {"targets": targets[part], "mask": mask[part]}
        task.update(metrics, Prediction(logits[part]), batch)
    scores, said = metrics.compute(), logits[:35].argmax(1)
    assert set(scores) == set(task.METRICS)
    assert scores["f1"].item() == pytest.approx(f1_score(targets[:35], said, average="macro"), abs=1e-6)
    assert scores["mcc"].item() == pytest.approx(matthews_corrcoef(targets[:35], said), abs=1e-6)
    assert scores["accuracy"].item() == pytest.approx((said == targets[:35]).float().mean().item())
    auc = roc_auc_score(targets[:35], logits[:35].softmax(1), multi_class="ovr", average="macro")
    assert scores["auroc"].item() == pytest.approx(auc, abs=1e-7)


def test_scores_of_classes_are_those_of_scikit_learn(module):
    task = kinds.find("text_classification").task(module)
    logits = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(40) % 3  # the last class does not occur
    mask = torch.arange(40) < 35
    rows = task.rows(Prediction(logits), {"ids": torch.arange(40), "targets": targets, "mask": mask})
    assert len(rows) == 35 and set(rows[0]) == {"id", "right", "target", "predicted"}
    scores = task.row_scores(rows, [])
    told = precision_recall_fscore_support(targets[:35], logits[:35].argmax(1), labels=range(4))
    for name, values in zip(("precision", "recall", "f1", "support"), told, strict=True):
        for label, value in zip(module.spec.classes, values, strict=True):
            assert scores.get(f"{name}/{label}", 0) == pytest.approx(value)
    assert f"recall/{module.spec.classes[3]}" not in scores and scores[f"support/{module.spec.classes[3]}"] == 0


def folder(module, tmp_path, **more):
    """A folder of a network and its tokenizer as transformers writes them."""
    import transformers

    config = transformers.BertConfig(**{**TINY, "vocab_size": module.spec.vocabulary, "num_labels": 7, **more})
    torch.manual_seed(1)
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path)
    module.tokenizer.model.no_truncation()
    names = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
    transformers.PreTrainedTokenizerFast(tokenizer_object=module.tokenizer.model, **names).save_pretrained(tmp_path)
    return str(tmp_path)


def test_a_folder_gives_tokenizer_and_network_with_a_new_layer_for_classes(module, tmp_path):
    place = folder(module, tmp_path / "model")
    again = load(tmp_path, tokens={"tokenizer": place})
    for split in ("train", "test"):
        assert torch.equal(
            again.samples(split).inputs(np.arange(9))["input_ids"],
            module.samples(split).inputs(np.arange(9))["input_ids"],
        )
    made = build_network({"_target_": ENCODER, "model": place}, again.spec, seed=0)
    assert made(**again.spec.blank().inputs).shape == (2, 4)


def test_a_student_of_some_layers_has_those_of_the_teacher(module, tmp_path):
    place = folder(module, tmp_path)
    whole, part = (
        build_network({"_target_": ENCODER, "model": place, "from_layers": layers}, module.spec, seed=0)
        for layers in (None, [0, 2])
    )
    ours, theirs = part.model.bert.encoder.layer, whole.model.bert.encoder.layer
    assert len(ours) == 2 and part.model.config.num_hidden_layers == 2
    for mine, other in zip(ours, (theirs[0], theirs[2]), strict=True):
        assert all(
            torch.equal(a, b) for a, b in zip(mine.state_dict().values(), other.state_dict().values(), strict=True)
        )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"config": None}, "either model"),
        ({"config": {"model_type": "brt"}}, "closest: bert"),
        ({"config": {**TINY, "hiden_size": 3}}, "closest: hidden_size"),
        ({"config": {**TINY, "vocab_size": 5000}}, "has a vocabulary of 5000"),
        ({"config": {**TINY, "pad_token_id": 3}}, "padding is token 3"),
        ({"config": {**TINY, "max_position_embeddings": 16}}, "data.tokens.max_length=16 or less"),
        ({"from_layers": [0, 3]}, "has the layers 0 to 2"),
        ({"config": None, "model": "/nowhere"}, "no folder /nowhere"),
    ],
)
def test_mistakes_of_networks(module, options, said):
    with pytest.raises(UserError, match=said):
        network(module, **options)


def test_weights_of_another_encoder_are_refused(module, tmp_path):
    place = folder(module, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
    with pytest.raises(UserError, match="missing keys"):
        build_network({"_target_": ENCODER, "model": place}, module.spec, seed=0)


def test_pairs_have_types_and_cut_texts_are_counted(tmp_path):
    rows = "one,two,label\n" + "".join(f"first {n} here,second {n} there,{n % 2}\n" for n in range(40))
    (tmp_path / "pairs.csv").write_text(rows)
    source = {
        "_target_": "kdrun.domains.text.files.text_file",
        "root": str(tmp_path / "pairs.csv"),
        "text": ["one", "two"],
    }
    tokens = {"vocabulary": 300, "max_length": 5}
    module = load_data({**source, "task": "text_classification", "tokens": tokens}, {"cache": str(tmp_path)})
    inputs = module.samples("train").inputs(np.arange(3))
    assert inputs["token_type_ids"].max() == 1 and inputs["input_ids"].shape == (3, 5)
    said = "40 of 40 texts are cut to 5 tokens: line 2, line 3, line 4, line 5, line 6 ..."
    assert any(said in note for note in module.audit()["notes"])
    assert build_network({"_target_": ENCODER, "config": TINY}, module.spec, seed=0)(**inputs).shape == (3, 2)


def test_hidden_labels_and_further_texts_are_training_samples_without_labels(tmp_path):
    (tmp_path / "more.txt").write_text("the cat is what she remembers\nnobody had seen a storm\n")
    module = load(
        tmp_path,
        labelled=40,
        unlabelled={"_target_": "kdrun.domains.text.files.unlabelled_texts", "root": str(tmp_path / "more.txt")},
    )
    train = module.samples("train")
    assert train.labelled.sum() == 40 and len(train) == module.spec.sizes["train"]
    assert (train.targets[~train.labelled] == -1).all() and (train.targets[train.labelled] >= 0).all()
    batch = next(iter(module.train_loader(16, seed=0)))
    assert batch["sizes"]["mask"] == 16 and batch["labelled"].shape == (16,)
    assert module.tokenizer.sha256 == load(tmp_path).tokenizer.sha256


def test_columns_are_typed_although_translation_has_a_node_of_that_name(tmp_path):
    from kdrun.config.compose import compose
    from kdrun.job.cells import expected

    words = ["model=text_small", "data=csv", f"data.root={tmp_path / 'r.csv'}", "tracker=none"]
    for said, known in (("data.text=review", "review"), ("data.text=[one,two]", ["one", "two"])):
        job = compose([*words, said, "data.label=stars"])
        assert job.config["data"]["text"] == known and expected(job.config)
    assert compose(["model=nmt_transformer", "data.text.vocabulary=500"]).config["data"]["text"]["vocabulary"] == 500
    with pytest.raises(UserError, match=r"data\.text"):
        compose(["data.text=review"])
