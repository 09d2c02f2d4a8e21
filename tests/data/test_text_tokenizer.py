import io
import json
import random

import pytest

from kdrun.data import tokenizer as room
from kdrun.data.tokenizer import existing, trained
from kdrun.problems import UserError

SENTENCES = [f"the {colour} lamp in room {n} is on" for colour in ("red", "blue", "grüne") for n in range(20)]
STRANGE = ["", " ", "a  b\tc", "漢字 🙂 é é", "<unk></s><pad>", "x\x00y", "İstanbul ß"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return trained(SENTENCES, 320, tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("text", [SENTENCES[5], *STRANGE])
def test_nothing_is_lost(made, text):
    (ids,) = made.encode([text])
    assert ids[-1] == made.eos and made.unk not in ids and made.decode([ids]) == [text]


def test_special_tokens_and_decoding(made):
    assert (made.pad, made.bos, made.eos, made.unk) == (0, 1, 2, 3) and len(made.byte_ids) == 256
    (ids,) = made.encode(["the lamp"])
    rest = made.encode(["room"])[0]
    assert made.decode([[made.bos, *ids, *rest], [*ids[:-1], made.pad, made.size + 3, -1], []]) == ["the lamp"] * 2 + [
        ""
    ]
    assert made.encode([]) == [] and made.decode([]) == []
    # Text that looks like a special token is text.
    assert not {made.pad, made.bos, made.eos} & set(made.encode(["<s></s><pad>"])[0][:-1])


def test_it_depends_on_the_text_and_the_settings_alone(made, tmp_path, monkeypatch):
    shuffled = random.Random(3).sample(SENTENCES, len(SENTENCES))
    again = trained(iter(shuffled), 320, tmp_path)
    assert again.sha256 == made.sha256
    assert trained(SENTENCES, 300, tmp_path).sha256 != made.sha256 != trained(SENTENCES[1:], 320, tmp_path).sha256
    assert len(list((tmp_path / "text").iterdir())) == 3

    def never(**options):
        raise AssertionError("trained again")

    monkeypatch.setattr(room._library().SentencePieceTrainer, "train", never)
    assert trained(SENTENCES, 320, tmp_path).sha256 == made.sha256


def test_what_is_kept_is_checked(made, tmp_path):
    trained(SENTENCES, 320, tmp_path)
    (path,) = (tmp_path / "text").iterdir()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert trained(SENTENCES, 320, tmp_path).sha256 == made.sha256
    path.write_bytes(b"")
    assert trained(SENTENCES, 320, tmp_path).sha256 == made.sha256


def test_a_small_text_gives_fewer_pieces(tmp_path):
    assert 256 < trained(["a b", "c"], 4000, tmp_path).size < 4000
    with pytest.raises(UserError, match=r"data.text.vocabulary=100: at least 268"):
        trained(SENTENCES, 100, tmp_path)


def test_a_long_line_is_not_left_out(tmp_path):
    made = trained(["ab" * 20_000], 300, tmp_path)
    assert "ab" * 8 in made.decode([made.encode(["ab" * 20_000])[0]])[0]
    assert len(made.encode(["ab" * 64])[0]) < 64


def test_an_existing_sentencepiece_model(tmp_path):
    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_writer=out, vocab_size=32, model_type="unigram", minloglevel=2
    )
    path = tmp_path / "their.model"
    path.write_bytes(out.getvalue())
    made = existing(path)
    assert made.pad == made.eos == 2 and made.bos == 1  # it has no padding
    (ids,) = made.encode([SENTENCES[0]])
    assert made.decode([[made.bos, *ids, made.pad]]) == [SENTENCES[0]]
    assert made.unk in made.encode(["漢"])[0]


def test_what_is_no_tokenizer(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        existing(tmp_path / "absent.model")
    (tmp_path / "x.model").write_bytes(b"hello")
    with pytest.raises(UserError, match="is no SentencePiece model"):
        existing(tmp_path / "x.model")


def test_a_tokenizers_file(tmp_path):
    library = pytest.importorskip("tokenizers")
    model = library.Tokenizer(library.models.BPE(unk_token="<unk>"))
    model.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<pad>", "<s>", "</s>", "<unk>"],
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
    )
    model.train_from_iterator(SENTENCES, trainer)
    path = tmp_path / "tokenizer.json"
    model.save(str(path))
    made = existing(path)
    assert (made.pad, made.bos, made.eos, made.unk) == (0, 1, 2, 3) and made.size == model.get_vocab_size()
    (ids,) = made.encode(["grüne 漢字"])
    assert ids[-1] == made.eos and made.decode([[made.bos, *ids, 5, 6]]) == ["grüne 漢字"]
    path.write_text("{}")
    with pytest.raises(UserError, match="is no file of Hugging Face's tokenizers"):
        existing(path)


def test_the_folder_of_a_hugging_face_model(tmp_path):
    transformers = pytest.importorskip("transformers")
    library = pytest.importorskip("tokenizers")
    words = sorted({word for sentence in SENTENCES for word in sentence.split()})
    vocabulary = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", *words])}
    model = library.Tokenizer(library.models.WordLevel(vocabulary, unk_token="<unk>"))
    model.pre_tokenizer = library.pre_tokenizers.WhitespaceSplit()
    model.post_processor = library.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(tmp_path)
    made = existing(tmp_path)
    assert (made.pad, made.eos, made.unk, made.bos) == (0, 1, 2, 0)  # like T5 it starts from padding
    for side in ("source", "target"):
        (ids,) = made.encode(["the red lamp"], side)
        assert ids[-1] == made.eos and ids.count(made.eos) == 1 and made.decode([ids]) == ["the red lamp"]
    before = made.sha256
    (tmp_path / "config.json").write_text(json.dumps({"decoder_start_token_id": 2}))
    again = existing(tmp_path)
    assert again.bos == 2 and again.sha256 == before


def test_marian_has_a_vocabulary_for_each_side(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("sacremoses")
    import sentencepiece

    for name, texts in (("source", SENTENCES), ("target", [text[::-1] for text in SENTENCES])):
        with open(tmp_path / f"{name}.spm", "wb") as out:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts), model_writer=out, vocab_size=34, minloglevel=2
            )
    pieces = {"</s>": 0, "<unk>": 1}
    for name in ("source", "target"):
        model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / f"{name}.spm"))
        for number in range(model.vocab_size()):
            pieces.setdefault(model.id_to_piece(number), len(pieces))
    pieces["<pad>"] = len(pieces)
    (tmp_path / "vocab.json").write_text(json.dumps(pieces))
    transformers.MarianTokenizer(
        str(tmp_path / "source.spm"), str(tmp_path / "target.spm"), str(tmp_path / "vocab.json")
    ).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "marian", "decoder_start_token_id": pieces["<pad>"]})
    )
    made = existing(tmp_path)
    assert (made.eos, made.unk) == (0, 1) and made.bos == made.pad == pieces["<pad>"]
    text = SENTENCES[0][::-1]
    source, target = made.encode([text], "source")[0], made.encode([text], "target")[0]
    assert source != target and made.decode([target]) == [text]
