"""Teachers on a server: what is asked and told, what is checked before, what fails and is tried again, and a run from end to end."""

import json

import pytest
import torch

pytest.importorskip("transformers")

from served_model import Served

from kdrun.domains.language import endpoint, tokens
from kdrun.domains.language.networks.served import ServedLanguageModel
from kdrun.domains.language.shipped.made_corpus import made_corpus
from kdrun.domains.language.source import written
from kdrun.problems import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a tokenizer of the made-up texts."""
    made = tokens.trained(
        [written(text) for text in made_corpus(100).documents], 300, tmp_path_factory.mktemp("cache")
    ).made
    path = tmp_path_factory.mktemp("tokenizer")
    made.save_pretrained(path)
    return path


@pytest.fixture
def server(folder, monkeypatch):
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.01)
    with Served(tokens.existing(folder)) as served:
        yield served


def network(server, folder, **options):
    return ServedLanguageModel(server.url, "tiny-model", str(folder), **{"top": 8, "retries": 2, **options}).eval()


@pytest.mark.parametrize("api", ["vllm", "sglang", "llama_cpp"])
def test_logits_are_what_the_model_says_in_the_top_and_one_rest(api, server, folder):
    teacher = network(server, folder, api=api)
    ids = torch.tensor([[0, 7, 9, 11, 0, 20], [5, 6, 0, 0, 0, 0]])
    documents = torch.tensor([[1, 1, 1, 1, 2, 2], [1, 1, 0, 0, 0, 0]])
    said = torch.log_softmax(teacher(ids, documents), -1)
    for row, places in ((0, slice(0, 4)), (0, slice(4, 6)), (1, slice(0, 2))):
        live = server.logs(ids[row, places].tolist())
        for told, real in zip(said[row, places], live, strict=True):
            top = real.topk(8)
            torch.testing.assert_close(told[top.indices], top.values, atol=1e-5, rtol=0)
            assert told.exp().sum() == pytest.approx(1.0, abs=1e-5)
            others = told.masked_fill(torch.zeros_like(told, dtype=torch.bool).scatter(0, top.indices, True), 0)
            assert len(others[others != 0].unique()) <= 2  # the next token of the text, and all others alike
        following = ids[row, places][1:, None]
        torch.testing.assert_close(
            said[row, places][:-1].gather(1, following), live[:-1].gather(1, following), atol=1e-5, rtol=0
        )
    assert not teacher(ids, documents)[1, 2:].any()


def test_llama_cpp_says_what_comes_next_where_that_is_a_part_of_a_character(server, folder):
    part = next(token for token in range(300) if server.text(token).endswith("\ufffd"))
    teacher = network(server, folder, api="llama_cpp")
    said, live = (
        torch.log_softmax(teacher(torch.tensor([[9, part, part, 11]]))[0], -1),
        server.logs([9, part, part, 11]),
    )
    for told, real in zip(said, live, strict=True):
        top = real.topk(8)
        torch.testing.assert_close(told[top.indices], top.values, atol=1e-5, rtol=0)


def test_what_may_pass_is_tried_again_and_no_more_than_so_many_are_in_flight(server, folder):
    teacher = network(server, folder, in_flight=2)
    teacher.check()
    server.failing, before = 2, len(server.requests)
    teacher(torch.full((6, 4), 9))
    assert len(server.requests) == before + 8 and server.busiest <= 2
    server.failing = 100
    with pytest.raises(UserError, match="does not answer /v1/completions, after 3 tries") as raised:
        teacher(torch.full((1, 4), 9))
    assert "HTTP 503" in raised.value.lines[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "tiny-mode"}, "has no model tiny-mode; closest: tiny-model"),
        ({"top": 40}, "tells fewer than the network.top=40"),
        ({"api": "vlm"}, "network.api=vlm"),
        ({"url": "localhost:8000"}, "is no address"),
        ({"url": "http://127.0.0.1:9", "retries": 9}, "does not answer /v1/models, after 5 tries"),
        ({"tokenizer": None}, "needs network.tokenizer"),
        ({"vocabulary": 5}, "300 tokens, the data's has 5"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_learned(options, message, server, folder):
    given = {"url": server.url, "model": "tiny-model", "tokenizer": str(folder), **options}
    with pytest.raises(UserError, match=message):
        ServedLanguageModel(**given).check()


def test_another_tokenizer_than_the_servers_is_noticed(server, folder, tmp_path):
    texts = [f"quick brown foxes number {n}" for n in range(50)]
    tokens.trained(texts, 300, tmp_path).made.save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="has other tokens: id"):
        network(server, tmp_path / "other").check()


def test_a_key_is_sent(folder, monkeypatch):
    with Served(tokens.existing(folder), key="secret-token") as served:
        with pytest.raises(UserError, match="refuses /v1/models"):
            network(served, folder).check()
        network(served, folder, key="secret-token").check()


def test_a_student_learns_from_a_server_and_nothing_is_asked_twice(server, folder, tmp_path, monkeypatch):
    import kdrun

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEACHER_KEY", "secret-token")
    server.key = "secret-token"
    words = "strategy=vanilla model=lm_small data.samples=60 student=lm_w32 teacher=served teacher.weights=own objective=word_kd_topk "
    words += "objective.kd_topk.k=8 trainer.epochs=1 hardware=cpu tracker=none teacher.network.model=tiny-model "
    overrides = [
        *words.split(),
        f"teacher.network.url={server.url}",
        f"teacher.network.tokenizer={folder}",
        f"data.language.tokenizer={folder}",
        "teacher.network.key=${oc.env:TEACHER_KEY}",
        "teacher.network.top=8",
        "teacher.verify=0",
    ]
    # An untrained model of a test is no better than a guess, which is refused elsewhere.
    monkeypatch.setattr("kdrun.learning.preflight.check_guess", lambda *given: None)
    monkeypatch.setattr("kdrun.learning.stored.check_guess", lambda *given: None)
    monkeypatch.setattr("kdrun.lab.teachers.check_guess", lambda *given: None)
    kdrun.run(*overrides, "seed=0")
    asked = len(server.requests)
    assert asked > 60
    kdrun.run(*overrides, "seed=1", "teacher.network.url=http://127.0.0.1:9", "teacher.network.in_flight=3")
    assert len(server.requests) == asked, "a second student reads what the first one's teacher said"
    again, server.noise = [word for word in overrides if "verify" not in word], 0.03
    kdrun.run(*again, "teacher.verify=4", "seed=2")  # which token is the last of the likeliest changes as well
    server.noise = 0.5
    with pytest.raises(Exception, match=r"DamagedCache.*at most 0\.12"):
        kdrun.run(*again, "teacher.verify=4", "seed=3")
    with pytest.raises(Exception, match="tells its 8 likeliest tokens, the objective wants all"):
        kdrun.run(*(word for word in overrides if not word.startswith("objective")), "objective=word_kd", "seed=0")
    records = [path.read_text() for path in (tmp_path / "outputs").rglob("*.json")]
    assert records and not any("secret-token" in text for text in records)
    assert any(json.loads(text) for text in records)
