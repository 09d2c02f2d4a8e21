"""A teacher that reads other prompts than its student: its rows, what it says of each token of an answer, and runs with it."""

import json

import numpy as np
import pytest
import torch
from language_support import COMMON, module_of

pytest.importorskip("transformers")

import kdrun
from kdrun.domains.language.files import chats
from kdrun.domains.language.prompts import prompts
from kdrun.domains.language.source import documents
from kdrun.domains.language.templates import Templates, check_template
from kdrun.domains.task import Prediction
from kdrun.problems import UserError

SAID = ["the cat sat", "a dog sang", "naïve 東京 🙂", "on the mat again", "rain and fog came"]
CHATS = [
    (
        ("user", f"say {SAID[n % 5]}"),
        ("assistant", SAID[n % 5]),
        ("user", f"and {SAID[(n + 2) % 5]}?"),
        ("assistant", f"{SAID[(n + 2) % 5]} {n}"),
    )[2 * (n % 2) :]
    for n in range(30)
]
HINTS = [{"hint": f"it ends with {n}"} for n in range(30)]
SPLIT = np.maximum(np.arange(30) % 10 - 7, 0).astype(np.int8)
OTHER = {"prompt": "{prompt} ({hint}, {answer})", "system": "You know {hint}."}


@pytest.fixture(scope="module", params=[True, False], ids=["packed", "single"])
def modules(request, tmp_path_factory):
    """(data module of the student, that of the teacher, its view of batches)."""
    source, cache = documents(CHATS, "chats", split=SPLIT, fields=HINTS), tmp_path_factory.mktemp("cache")
    settings = {"duplicates": "keep", "max_length": 160, "pack": request.param}
    learned = module_of(cache, source, **settings)
    module = module_of(cache, source, **settings, **OTHER)
    return learned, module, module.view_of(learned)


def network(rows, masks, vocabulary=300, width=8):
    """Logits float64 [B, L, V] that depend on all tokens of the document up to each, with no regard to its row."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64)
    out = torch.randn(width, vocabulary, generator=generator, dtype=torch.float64)
    found = torch.zeros(*rows.shape, vocabulary, dtype=torch.float64)
    for row in range(len(rows)):
        state, before = torch.zeros(width, dtype=torch.float64), 0
        for place in range(rows.shape[1]):
            if (number := int(masks[row, place])) != before:
                state, before = torch.zeros(width, dtype=torch.float64), number
            state = torch.tanh(0.9 * state.roll(1) + table[rows[row, place]])
            found[row, place] = state @ out
    return found


def texts_of(learned, batch):
    """(document, places in the row of the batch, tokens) of each document of a batch, by its place."""
    numbers = batch["inputs"]["attention_mask"].long()
    for row, place in enumerate(learned.trained(batch["ids"]).tolist()):
        for number, (document, _) in enumerate(learned.samples("train").origins.of(place), 1):
            places = (numbers[row] == number).nonzero().flatten().tolist()
            yield row, document, places


def test_what_a_teacher_says_of_answers_is_what_it_says_of_the_chat_with_its_own_prompt(modules):
    learned, module, view = modules
    compared = 0
    for batch in learned.train_loader(8, 0):
        seen = view.seen(batch)
        told = view.told(Prediction(network(seen["inputs"]["input_ids"], seen["inputs"]["attention_mask"])), seen)
        for row, document, places in texts_of(learned, batch):
            chat = Templates(**OTHER).filled(CHATS[document], HINTS[document], "")
            whole = module.tokenizer.turns(chat)
            alone = network(torch.tensor([whole.ids]), torch.ones(1, len(whole.ids)))[0]
            expected = [alone[place - 1] for answer in whole.answers for place in answer]
            tokens = [whole.ids[place] for answer in whole.answers for place in answer]
            here = [place for place in places if batch["mask"][row, place]]
            assert batch["targets"][row, here].tolist() == tokens
            torch.testing.assert_close(told.logits[row, here], torch.stack(expected))
            compared += len(tokens)
    assert compared > 150


class Writer(torch.nn.Linear):
    """Writes a number, a sign and the end behind each prompt."""

    def __init__(self, end):
        super().__init__(1, 1)
        self.end = end

    def generate(self, ids, real, most, ends, temperature, generator, keep_end):
        self.asked = [row[mask].tolist() for row, mask in zip(ids, real, strict=True)]
        return [[65 + row, 70, self.end] for row in range(len(ids))]


def test_of_what_the_student_wrote_it_reads_its_own_prompt_and_that(modules):
    learned, module, view = modules
    task, batch = learned.task(), next(iter(learned.train_loader(8, 0)))

    own = {
        **batch,
        **task.own_samples(Writer(learned.tokenizer.eos), batch, torch.Generator(), prompt=0.5, temperature=0.0),
    }
    seen = view.seen(own)
    told = view.told(Prediction(network(seen["inputs"]["input_ids"], seen["inputs"]["attention_mask"])), seen)
    for row, document, places in texts_of(learned, own):
        here = [place for place in places if own["mask"][row, place]]
        wrote = own["targets"][row, here].tolist()
        assert len(wrote) == 3 and wrote[1:] == [70, learned.tokenizer.eos]
        chat = Templates(**OTHER).filled(CHATS[document], HINTS[document], "")
        begun = module.tokenizer.prompt(chat[:-1])
        alone = network(torch.tensor([[*begun, *wrote]]), torch.ones(1, len(begun) + 3))[0]
        torch.testing.assert_close(told.logits[row, here], alone[len(begun) - 1 : -1])


def test_a_teacher_goes_on_from_its_own_prompts(modules):
    learned, module, view = modules
    positions = np.arange(3)
    begun = prompts(learned.samples("train"), positions, 0.5, chats=True)
    for place, (ours, theirs) in enumerate(zip(begun, view.begun(positions, begun), strict=True)):
        for (document, _), own, other in zip(learned.samples("train").origins.of(place), ours, theirs, strict=True):
            chat = Templates(**OTHER).filled(CHATS[document], HINTS[document], "")
            assert own.ids == module.tokenizer.prompt(CHATS[document][:-1]) and own.room == other.room
            assert other.ids == module.tokenizer.prompt(chat[:-1])
    writer = Writer(module.tokenizer.eos)
    rows = module.task({"prompt": 0.5, "temperature": 0.0}).targets_of(
        writer, learned.samples("train"), positions, view
    )
    assert writer.asked == [prompt.ids for row in view.begun(positions, begun) for prompt in row]
    assert learned.relabelled(rows).samples("train").ids.tolist() == [row["id"] for row in rows]


def test_templates_have_columns_before_parts_of_the_chat_and_braces_twice():
    filled = Templates("{{{prompt}}} {answer}", None).filled(CHATS[0], {"answer": "{prompt}"}, "")
    assert filled[-2:] == (("user", "{and naïve 東京 🙂?} {prompt}"), CHATS[0][-1]) or filled[0][1].startswith("{")
    with_system = Templates(None, "now {system}").filled((("system", "old"), *CHATS[0]), {}, "")
    assert with_system == (("system", "now old"), *CHATS[0])


@pytest.mark.parametrize("template", ["{prompt", "{}", "{prompt!r}", "{hint:>3}", "}"])
def test_a_template_that_is_none_is_refused_by_its_key(template):
    with pytest.raises(UserError, match=r"teacher\.prompt"):
        check_template("teacher.prompt", template)


def test_a_column_that_a_row_lacks_is_named_with_its_row(tmp_path):
    rows = [{"prompt": f"say {n}", "completion": f"{n}", "hint": n} for n in range(30)]
    del rows[4]["hint"]
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = chats(tmp_path / "chats.jsonl")
    assert source.fields[3] == {"hint": "3"} and source.fields[4] == {}
    with pytest.raises(UserError) as caught:
        module_of(tmp_path, source, prompt="{prompt} {hnt}")
    assert "id 0 ('say 0" in caught.value.lines[0] and "closest: hint" in caught.value.lines[0]
    with pytest.raises(UserError, match=r"id 4 .* has no column 'hint'"):
        module_of(tmp_path, source, prompt="{prompt} {hint}")
    with pytest.raises(UserError, match="texts, which have no prompt"):
        module_of(tmp_path, **{"prompt": "x"})


LLAMA = "{model_type: llama, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32, initializer_range: 0.3}"
WORDS = (
    "model=lm_small", "teacher=lm_w32", "student=lm_w32", f"teacher.network.config={LLAMA}", f"student.network.config={LLAMA}",
    "data.chats=true", "data.samples=90", "data.language.vocabulary=300", "data.language.max_length=128", "trainer.epochs=2", "trainer.batch_size=8",
    "data.language.prompts=0", "teacher.trainer.epochs=4", "teacher.trainer.batch_size=4", "teacher.trainer.optimizer.lr=0.02",
    "tracker=none", "seed=0", "hardware=cpu",
)  # fmt: skip


def test_a_run_with_a_teacher_that_is_shown_the_answer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = "teacher.prompt='{prompt} ({answer})'"
    view = kdrun.run(*WORDS, "objective=jsd", "strategy=on_policy", shown, "strategy.controls=[]", quiet=True)
    assert view.record["summary"]["arms"]["student"]


def test_a_prompt_that_is_the_same_changes_nothing_that_is_said_of_answers(tmp_path):
    source = documents(CHATS, "chats", split=SPLIT)
    settings = {"duplicates": "keep", "max_length": 160}
    learned, module = (module_of(tmp_path, source, **settings, **more) for more in ({}, {"prompt": "{prompt}"}))
    for batch in learned.train_loader(8, 0):
        view = module.view_of(learned)
        seen, mask = view.seen(batch), batch["mask"]
        plain, told = (network(*inputs.values()) for inputs in (batch["inputs"], seen["inputs"]))
        assert torch.equal(view.told(Prediction(told), seen).logits[mask], plain[mask])


def test_what_a_column_says_is_in_the_fingerprint(tmp_path):
    from kdrun.domains.language.domain import DOMAIN

    sources = [
        documents(CHATS, "chats", split=SPLIT, fields=[{"hint": f"{word} {n}"} for n in range(30)]) for word in "ab"
    ]
    plain, told, unnamed = (
        [DOMAIN.content_hash(source, {"language": {**COMMON, **more}}) for source in sources]
        for more in ({}, {"prompt": "{hint}"}, {"prompt": "{prompt}!"})
    )
    assert plain[0] == plain[1] and told[0] != told[1] and unnamed[0] == unnamed[1] != plain[0]
