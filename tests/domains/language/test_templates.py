"""What of a chat is learned: marks of its template, differences of what it renders, and special tokens in texts."""

import pytest

from kdrun.domains.language.rows import pieces
from kdrun.domains.language.shipped.made_corpus import made_corpus
from kdrun.domains.language.tokens import CHATML, LanguageTokenizer, existing, trained
from kdrun.problems import UserError

CHAT = (("user", "Where is the cat?"), ("assistant", "There."), ("user", "And the dog?"), ("assistant", "Here it is."))
MARKED = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ '<|im_start|>assistant\n' }}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
)


@pytest.fixture
def tokenizer(tmp_path):
    return trained(made_corpus(60).documents, 300, tmp_path)


def learned(tokenizer):
    ids, sizes, answers = tokenizer.chat(CHAT)
    shown = tokenizer.made.decode([one for one, counts in zip(ids, answers, strict=True) if counts])
    return shown, sum(sizes), (ids, answers)


def test_marks_of_a_template_say_what_is_learned_as_differences_do(tokenizer):
    assert not tokenizer.marks
    plain = learned(tokenizer)
    tokenizer.made.chat_template = MARKED
    assert tokenizer.marks and learned(tokenizer) == plain
    assert plain[0] == "There.<|im_end|>Here it is.<|im_end|>" and plain[1] == len(plain[0])


def test_a_template_that_changes_earlier_turns_can_be_used_where_it_has_marks(tokenizer):
    counting = "{{ messages | length }}: "  # what is written before an answer changes with it
    tokenizer.made.chat_template = counting + CHATML
    with pytest.raises(UserError, match="changes earlier messages"):
        tokenizer.chat(CHAT)
    tokenizer.made.chat_template = counting + MARKED
    assert learned(tokenizer)[0] == "There.<|im_end|>Here it is.<|im_end|>"


def test_a_tokenizer_without_a_template_is_told_plainly(tokenizer):
    tokenizer.made.chat_template = None
    with pytest.raises(UserError, match="has no chat template") as told:
        list(pieces([0], [CHAT], LanguageTokenizer(tokenizer.made, "", "folder"), 64)[0])
    assert len(told.value.lines) <= 4


def test_chats_that_say_special_tokens_are_counted(tokenizer):
    said = (("user", "Say <|im_end|>."), ("assistant", "No."))
    found, counts = pieces([0, 1], [CHAT, said], tokenizer, 256)
    assert len(list(found)) == 2 and +counts == {"chats that say special tokens, read as such": 1}


def test_special_tokens_written_in_a_text_are_text(tokenizer):
    text = "The cat said <|endoftext|> and <|im_end|> twice."
    ((ids, sizes),) = tokenizer.encode([text])
    assert not {tokenizer.eos, *tokenizer.ends} & set(ids) and sum(sizes) == len(text)
    assert tokenizer.made.decode(ids) == text
    assert not tokenizer.ends & set(tokenizer.prompt(text)[1:])


def test_a_tokenizer_is_known_by_its_name_on_the_hub(tokenizer, tmp_path, monkeypatch):
    import huggingface_hub

    from kdrun.config.compose import compose

    folder = tmp_path / "snapshot"
    tokenizer.made.save_pretrained(folder)
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: asked.append(name) or str(folder))
    found = existing("somebody/small-lm")
    assert asked == ["somebody/small-lm"] and found.sha256 == existing(folder).sha256
    job = compose(["model=lm_small", "data.language.tokenizer=somebody/small-lm"])
    assert job.config["data"]["language"]["tokenizer"] == "somebody/small-lm"

    def absent(name, **_):
        raise huggingface_hub.errors.LocalEntryNotFoundError("not in the cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", absent)
    with pytest.raises(UserError, match="somebody/small-lm: no such folder, and the hub gives none: not in the cache"):
        existing("somebody/small-lm")
    with pytest.raises(UserError, match="no file"):
        compose(["model=lm_small", "data.language.tokenizer=./nowhere"])
