import io
import json

import pytest
import torch
from text_support import COMMON, ROWS

from kdrun.domains.translation.build import text_module
from kdrun.domains.translation.parallel_text import parallel_text
from kdrun.files import plain
from kdrun.problems import UserError


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for language, side in (("de", 0), ("en", 1)):
        (folder / f"all.{language}").write_text("".join(row[side] + "\n" for row in ROWS))
    return folder


@pytest.fixture(scope="module")
def build(files):
    def build(extra=(), pairs=None, **changes):
        if extra:
            path = files / "extra.tsv"
            path.write_text("".join(f"{source}\t{target}\n" for source, target in [*ROWS, *extra]))
            pairs = parallel_text(path)
        pairs = pairs or parallel_text(files / "all.de", files / "all.en")
        return text_module(pairs, {**COMMON, "vocabulary": 330, "test_fraction": 0.1, **changes}, files / "cache")

    return build


@pytest.fixture(scope="module")
def module(build):
    return build()


def test_what_is_known_of_it(module):
    spec = module.spec
    assert spec.kind == "parallel_text" and spec.languages == ("de", "en") and spec.name == "parallel_text"
    assert (spec.pad, spec.bos, spec.eos, spec.unk) == (0, 1, 2, 3)
    assert spec.vocabulary % 8 == 0 and 0 <= spec.vocabulary - module.tokenizer.size < 8
    assert spec.sizes == {"train": 124, "val": 6, "test": 14} and sum(spec.sizes.values()) == len(ROWS)
    assert not module.random and not module.replayed and module.views == 1 and module.extra_tests == ()
    assert module.train_ids.dtype == torch.int64 and len(module.train_ids) == 124


def test_ids_lead_back_to_the_text(module):
    for split in ("train", "val", "test"):
        ids = module.samples(split).ids.tolist()
        assert module.sources(split) == [ROWS[number][0] for number in ids]
        assert module.references(split) == [ROWS[number][1] for number in ids]
        assert module.references_of(module.samples(split).ids.flip(0)) == module.references(split)[::-1]
        for batch in module.eval_loader(split, 100):
            texts = module.decode([row[mask] for row, mask in zip(batch["targets"], batch["mask"], strict=True)])
            assert texts == [ROWS[number][1] for number in batch["ids"].tolist()]
            assert module.decode(batch["inputs"]["source"]) == [ROWS[number][0] for number in batch["ids"].tolist()]


def test_inputs_by_id_are_the_loaders_tokens(module):
    for batch in module.train_loader(200, seed=3):
        again = module.inputs(batch["ids"])
        for key in ("ids", "targets", "mask"):
            assert torch.equal(again[key], batch[key])
        assert all(torch.equal(again["inputs"][key], batch["inputs"][key]) for key in batch["inputs"])
        assert torch.equal(module.lengths(batch["ids"]), batch["mask"].sum(dim=1))
        assert torch.equal(module.train_ids[module.trained(batch["ids"])], batch["ids"])
    with pytest.raises(KeyError, match="not a training sample"):
        module.inputs(module.samples("test").ids[:2])


def test_what_is_to_be_translated(module):
    made = module.encode(["Die rote Lampe ist an.", "", "Tür"])
    assert made["source"].shape == made["source_mask"].shape and made["source"].dtype == torch.int64
    assert made["source_mask"].sum(dim=1).tolist()[1] == 1
    assert module.decode(made["source"]) == ["Die rote Lampe ist an.", "", "Tür"]
    long = module.encode(["Tür " * 500])
    assert long["source"].shape[1] == module.spec.max_length and long["source"][0, -1] == module.spec.eos


def test_the_tokenizer_sees_the_training_split_alone(build, module):
    held_out = "ÄÖÜÄÖÜ" * 3
    test = module.samples("test").ids.tolist()
    changed = [
        (f"{source} {held_out}", target) if n in test else (source, target) for n, (source, target) in enumerate(ROWS)
    ]
    pairs = parallel_text_of(changed, build)
    other = build(pairs=pairs)
    assert other.samples("test").ids.tolist() == test
    assert other.spec.tokenizer == module.spec.tokenizer
    assert build(limit={"train": 60, "val": None, "test": None}).spec.tokenizer != module.spec.tokenizer


def parallel_text_of(rows, build):
    import numpy as np

    from kdrun.domains.translation.source import Pairs

    source, target = (list(side) for side in zip(*rows, strict=True))
    return Pairs("x", ("de", "en"), source, target, np.zeros(len(rows), np.int8), np.arange(len(rows)))


def test_over_long_pairs_leave_training_and_are_cut_elsewhere(build):
    rows = [*ROWS, ("Wort " * 60 + "a", "Short and one."), ("Kurz und zwei.", "word " * 60 + "b")]
    pairs = parallel_text_of(rows, build)
    module = build(pairs=pairs, max_length=40)
    assert module.found["dropped"] == {"too long": 2} and not {144, 145} & set(module.train_ids.tolist())
    assert module.samples("train").lengths.max() <= 40
    pairs.split[-2:] = 2
    module = build(pairs=pairs, max_length=40)
    assert module.found["cut"] == {"test": {"pairs": 2, "source": 1, "target": 1}}
    assert module.spec.sizes["test"] == 2 and module.sources("test")[0] == rows[144][0]  # text is never cut
    batch = next(iter(module.eval_loader("test", 1000)))
    assert batch["targets"].shape[1] == 40 and (batch["targets"] == module.spec.eos).any(dim=1).all()
    assert "1 sources and 1 targets of test were cut" in module.audit()["summary"]
    with pytest.raises(UserError, match=r"no pair is left for training; \d+ are longer than data.text.max_length=2"):
        build(max_length=2)


def test_audit(build, module):
    found = module.audit()
    assert plain(found) == json.loads(json.dumps(found))
    assert found["samples"] == module.spec.sizes and not found["shared"] and not found["dropped"]
    assert found["unknown"]["test"] == {"source": 0.0, "target": 0.0} and found["copied"]["train"] == 0
    assert found["near"]["test"]["normalised"] == 0 and found["near"]["test"]["one_word"] > 0.9
    assert found["lengths"]["train"]["target_words"] > 4 and found["lengths"]["train"]["target_tokens"] > 5
    assert found["summary"].startswith("no pair is in two splits; ")


def test_audit_of_what_splits_share(build):
    rows = [*ROWS, ("gleich", "gleich"), ROWS[0], ROWS[0], ("neu", "fresh one here")]
    pairs = parallel_text_of(rows, build)
    pairs.split[-2:] = 2
    pairs.split[-4] = 1
    kept = build(pairs=pairs, duplicates="keep").audit()
    assert kept["shared"] == {"train/test": 1} and kept["duplicates"]["train"] == 1 and kept["copied"]["val"] == 1
    assert "1 pairs of test are also in train" in kept["summary"] and "repeated: 1 in train" in kept["summary"]
    removed = build(pairs=pairs).audit()
    assert removed["removed"] == {"train": 2} and not removed["shared"]
    assert "2 removed from train" in removed["summary"]


def test_a_tokenizer_of_the_users_own(build, files):
    import sentencepiece

    out = io.BytesIO()
    text = [text for row in ROWS for text in row]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_writer=out, vocab_size=53, minloglevel=2
    )
    path = files / "own.model"
    path.write_bytes(out.getvalue())
    module = build(tokenizer=str(path))
    assert module.spec.vocabulary == 53 and module.spec.pad == module.spec.eos  # neither widened nor changed
    for batch in module.train_loader(150, seed=0):
        ends = ((batch["targets"] == module.spec.eos) & batch["mask"]).sum(dim=1)
        assert (ends == 1).all()


def test_what_is_refused(build):
    with pytest.raises(UserError, match=r"data.text.duplicates=both: remove or keep"):
        build(duplicates="both")
    with pytest.raises(UserError, match=r"data.text.max_length=1"):
        build(max_length=1)
    with pytest.raises(UserError, match=r"data.text.tokenizer=/absent"):
        build(tokenizer="/absent")


def test_lowercase_holds_for_what_is_translated(build, files):
    module = build(pairs=parallel_text(files / "all.de", files / "all.en", lowercase=True))
    assert module.sources("train")[0].islower()
    assert module.decode(module.encode(["Die ROTE Lampe"])["source"]) == ["die rote lampe"]


def test_sources_and_spec_need_no_torch():
    import subprocess
    import sys

    code = (
        "import sys; from kdrun.domains.translation import build, parallel_text, spec; "
        "from kdrun.domains.translation.shipped import corpora, ui_de_en; "
        "print([name for name in ('torch', 'lightning', 'sentencepiece') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
