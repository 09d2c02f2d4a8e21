"""kdrun plan of language models whose data and weights are not here."""

import json

import pytest

pytest.importorskip("transformers")

from kdrun.cli import main


def planned(capsys, *words):
    assert main(["plan", "model=qwen_paper", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_sizes_memory_and_hours_come_from_the_fields_of_published_networks(capsys):
    found = planned(capsys)
    assert found["notes"] == [
        "Qwen/Qwen2.5-0.5B-Instruct: 494 M parameters",
        "Qwen/Qwen2.5-7B-Instruct: 7,616 M parameters",
    ]
    student, alone = found["estimate"]
    assert (student["name"], alone["name"]) == ("student", "alone")  # the teacher is as it is, and takes no training
    tokens = 207865 * 1200 * 2
    assert alone["flops"]["total"] == pytest.approx(6 * 494e6 * tokens, rel=1e-3)
    assert student["flops"]["total"] - alone["flops"]["total"] == pytest.approx(2 * 7.616e9 * tokens, rel=1e-3)


def test_additions_train_alone_and_a_network_without_fields_is_told(capsys):
    pytest.importorskip("peft")
    whole, low = (planned(capsys, *words)["estimate"][0] for words in ((), ("student.network.lora={rank: 8}",)))
    assert low["memory_gb"]["optimizer"] < whole["memory_gb"]["optimizer"] / 20
    assert main(["plan", "model=qwen_paper", "student.network.model=Qwen/Qwen3-0.6B"]) == 2
    assert "extra.planned.networks has no fields of it" in capsys.readouterr().err
