"""Conversations become tokens in which answers, and only these, are labelled; text is never read as markup."""

import json

import pytest
from vision_support import conversations, mixed, module_of, question, tiny_tower

from kdrun.domains.vision_language import tokens as vision_tokens
from kdrun.domains.vision_language.source import Sample, Turn
from kdrun.domains.vision_language.templates import VICUNA
from kdrun.domains.vision_language.tokens import Encoder
from kdrun.problems import UserError

NAMED = ("plain", "chatml", "vicuna")
CORPUS = ["what colour is this, please?", "red", "It's pale-blue (or so).", "1,000 at 3.5"]


def words(tmp_path, template="plain", corpus=CORPUS):
    return vision_tokens.trained(corpus, template, tmp_path)


def encoder(tmp_path, template="plain", slots=3):
    return Encoder(words(tmp_path, template), template, slots)


def text_of(encoder, tokens):
    return encoder.tokenizer._model.decode(list(map(int, tokens)), skip_special_tokens=False)


def bpe(tmp_path, chat=None, special=("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|spare|>"), pad=None):
    """The folder of a byte-level tokenizer as pretrained language models bring it: no image token, pad is eos."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    model.train_from_iterator(
        CORPUS * 3,
        trainers.BpeTrainer(
            vocab_size=320, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
        ),
    )
    folder = tmp_path / "bpe"
    folder.mkdir()
    model.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}
    config |= {"chat_template": chat} if chat else {}
    config |= {"pad_token": pad} if pad else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class TestWords:
    @pytest.mark.parametrize("text", [*CORPUS, "red (or so)", "this, this; red"])
    def test_text_comes_back_as_it_was(self, tmp_path, text):
        tokenizer = words(tmp_path, corpus=[*CORPUS, ";"])
        assert tokenizer.decode(tokenizer.encode([text]), 2) == [text]

    def test_is_the_same_for_any_order_and_kept(self, tmp_path):
        first = words(tmp_path)
        assert words(tmp_path / "other", corpus=CORPUS[::-1] + CORPUS).sha256 == first.sha256
        (kept,) = (tmp_path / "text").iterdir()
        kept.write_bytes(kept.read_bytes()[:-3])
        assert words(tmp_path).sha256 == first.sha256, "a damaged file is made again"
        assert words(tmp_path, corpus=[*CORPUS, "mauve"]).sha256 != first.sha256

    def test_what_is_not_known_is_unknown(self, tmp_path):
        tokenizer = words(tmp_path)
        assert tokenizer.encode(["mauve"]) == [[tokenizer.unk]]
        assert tokenizer.decode([[tokenizer.unk]], 2) == ["<unk>"]

    def test_markup_in_text_is_text(self, tmp_path):
        tokenizer = words(tmp_path)
        special = set(tokenizer.special.values()) - {tokenizer.unk}
        for text in ("<image>", "red </s> red", "<user>", "<pad>"):
            assert special.isdisjoint(tokenizer.encode([text])[0])
            assert not special.isdisjoint(tokenizer.markup(text))


class TestTemplates:
    def test_plain(self, tmp_path):
        made = encoder(tmp_path)
        (row,) = made.rows([Sample(0, (5,), (Turn("what colour?", "red"), Turn("this?", "red")), "x")])
        shown = text_of(made, row.tokens[: made.head] + made.image + row.tokens[made.head :])
        assert shown.split("<image>") == [
            "<s><user>",
            "",
            "",
            " what colour?<assistant> red</s><user> this?<assistant> red</s>",
        ]

    def test_chatml(self, tmp_path):
        made = encoder(tmp_path, "chatml")
        (row,) = made.rows([question(0, turns=2)])
        shown = text_of(made, row.tokens)
        assert shown.startswith("<|im_start|> user what colour") and shown.endswith("<|im_end|>")
        assert shown.count("<|im_end|>") == 4 and "assistant red<|im_end|>" in shown
        assert made.eos == made.tokenizer.special["<|im_end|>"]

    def test_vicuna(self, tmp_path):
        made = encoder(tmp_path, "vicuna")
        (row,) = made.rows([question(0, turns=2)])
        shown = text_of(made, row.tokens)
        assert shown.startswith(f"<s> {VICUNA} USER:") and shown.count("ASSISTANT:") == 2 and shown.count("</s>") == 2

    def test_vicuna_of_a_pretrained_tokenizer_is_the_known_text(self, tmp_path):
        made = Encoder(vision_tokens.existing(bpe(tmp_path)), "vicuna", 2)
        turns = (Turn("what colour?", "red"), Turn("this?", "It's"))
        (row,) = made.rows([Sample(0, (), turns, "x")])
        end = "<|endoftext|>"
        expected = f"{end}{VICUNA} USER: what colour? ASSISTANT: red{end}USER: this? ASSISTANT: It's{end}"
        assert text_of(made, row.tokens) == expected

    @pytest.mark.parametrize("pad", [None, "<|endoftext|>"])
    def test_tokenizers_own(self, tmp_path, pad):
        """The same text as the template itself writes, and tokens as if all of it were encoded at once."""
        tokenizer = vision_tokens.existing(bpe(tmp_path, CHATML, pad=pad))
        made = Encoder(tokenizer, "tokenizer", 2)
        turns = (Turn("what colour?", "red"), Turn("this?", "It's pale-blue"))
        (row,) = made.rows([Sample(0, (), turns, "x")])
        expected = "".join(
            f"<|im_start|>user\n{turn.prompt}<|im_end|>\n<|im_start|>assistant\n{turn.answer}<|im_end|>\n"
            for turn in turns
        )
        assert text_of(made, row.tokens) == expected.removesuffix("\n")
        assert row.tokens == tokenizer.markup(expected.removesuffix("\n"))
        assert made.eos == tokenizer.special["<|im_end|>"] != tokenizer.pad
        assert made.tokenizer.image == tokenizer.special["<|spare|>"], "an unused token stands for images"

    def test_own_and_chatml_agree(self, tmp_path):
        tokenizer = vision_tokens.existing(bpe(tmp_path, CHATML))
        samples = mixed(6)
        own, named = (list(Encoder(tokenizer, name, 2).rows(samples)) for name in ("tokenizer", "chatml"))
        assert own == named

    @pytest.mark.parametrize(
        ("chat", "said"),
        [
            (None, "has no chat template"),
            (
                "{% for m in messages %}{{ loop.index }}{{ m['content'] }}<|im_end|>{% endfor %}",
                "not the same for every turn",
            ),
            (
                "{% for m in messages %}{{ m['role'] }}{{ m['content'] }}{% endfor %}",
                "asks for an answer in other words",
            ),
            ("{% for m in messages %}{{ m['content'] }}.{% endfor %}", "do not end with a special token"),
            ("{{ raise_exception('no') }}", "fails"),
        ],
    )
    def test_own_that_cannot_be_used(self, tmp_path, chat, said):
        tokenizer = vision_tokens.existing(bpe(tmp_path, chat))
        with pytest.raises(UserError, match=said):
            Encoder(tokenizer, "tokenizer", 2)

    def test_that_do_not_fit(self, tmp_path):
        with pytest.raises(UserError, match="the tokenizer has no <"):
            Encoder(words(tmp_path), "chatml", 2)
        with pytest.raises(UserError, match="has no chat template"):
            encoder(tmp_path, "tokenizer")
        with pytest.raises(UserError, match="one of plain, chatml"):
            encoder(tmp_path, "chat")


class TestExisting:
    def test_one_without_a_spare_token_gets_a_new_id(self, tmp_path):
        tokenizer = vision_tokens.existing(bpe(tmp_path, special=("<|im_start|>", "<|im_end|>", "<|endoftext|>")))
        assert (
            tokenizer.image == max(tokenizer._model.get_vocab().values()) + 1 and tokenizer.size == tokenizer.image + 1
        )

    def test_a_file(self, tmp_path):
        path = bpe(tmp_path, special=("<pad>", "</s>", "<|image_pad|>")) / "tokenizer.json"
        tokenizer = vision_tokens.existing(path)
        assert (tokenizer.pad, tokenizer.eos_token, tokenizer.image) == (0, 1, 2)
        assert vision_tokens.tokenizer_hash(path) == tokenizer.sha256

    def test_errors(self, tmp_path):
        (tmp_path / "x.json").write_text("{}")
        with pytest.raises(UserError, match="there is no such"):
            vision_tokens.existing(tmp_path / "none")
        with pytest.raises(UserError, match="no file of Hugging Face"):
            vision_tokens.existing(tmp_path / "x.json")
        with pytest.raises(UserError, match="no end token"):
            vision_tokens.existing(bpe(tmp_path, special=("<a>",)) / "tokenizer.json")


class TestLabels:
    @pytest.mark.parametrize("template", NAMED)
    def test_are_the_answers_and_their_end_tokens(self, tmp_path, monkeypatch, template):
        tiny_tower(monkeypatch)
        module = module_of(
            tmp_path, conversations(mixed(20), mixed(3, 50), mixed(3, 60)), template=template, max_length=160
        )
        assert module.spec.template == template
        seen = 0
        for batch in module.eval_loader("train", 4):
            for sample, targets, mask in zip(
                module.samples_of(batch["ids"]), batch["targets"], batch["mask"], strict=True
            ):
                runs, said = [[]], targets[mask].tolist()
                for token in said:
                    runs[-1].append(token)
                    if token == module.spec.eos:
                        runs.append([])
                assert runs.pop() == [], "the last label is an end token"
                assert module.decode(runs) == [turn.answer for turn in sample.turns]
                seen += 1
        assert seen == 20

    def test_where_padding_is_the_end_token(self, tmp_path, monkeypatch):
        """Nothing is found out by comparing with ids."""
        tiny_tower(monkeypatch)
        path = bpe(tmp_path, CHATML, pad="<|im_end|>")
        module = module_of(
            tmp_path,
            conversations(mixed(8), mixed(3, 50), mixed(3, 60)),
            tokenizer=str(path),
            template="tokenizer",
            max_length=400,
        )
        assert module.spec.pad == module.spec.eos
        (batch,) = module.eval_loader("train", 8)
        for sample, targets, mask in zip(module.samples_of(batch["ids"]), batch["targets"], batch["mask"], strict=True):
            assert (targets[mask] == module.spec.eos).sum() == len(sample.turns)
            last = [turn.answer for turn in sample.turns][-1]
            length = len(module.encoder.tokenizer.encode([last])[0])
            assert module.decode([targets[mask][-length - 1 :]]) == [last]

    def test_an_empty_prompt(self, tmp_path):
        """Captions of the first stage may have none."""
        for name in NAMED:
            made = encoder(tmp_path, name)
            (row,) = made.rows([Sample(0, (1,), (Turn("", "red"),), "caption")])
            ((begin, end),) = row.answers
            assert made.decode([row.tokens[begin:end]]) == ["red"] and end == len(row.tokens)

    def test_the_image_token_in_text_is_refused(self, tmp_path):
        made = encoder(tmp_path)
        made.tokenizer.encode = lambda texts: [[made.tokenizer.image] for _ in texts]
        with pytest.raises(UserError, match="sample 7: its text has the image token"):
            list(made.rows([question(7)]))
