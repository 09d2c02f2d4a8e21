"""The data that an export or a card loads again: those of the run, in the view of the stage."""

import json

from kdrun.hardware.exports import subjects


def test_a_tokenizer_that_is_given_stays_where_the_stage_names_its_content_alone(tmp_path):
    view = {"limit": {"train": 5}, "tokens": {"vocabulary": 8000, "max_length": 32}}
    (tmp_path / "record.json").write_text(json.dumps({"parts": {"data": {"view": view}}}))
    tokens = {"vocabulary": 8000, "max_length": 48, "tokenizer": "folder"}
    data, _ = subjects._config(
        tmp_path, {"data": {"task": "text_classification", "limit": {"train": 9}, "tokens": tokens}}, "student"
    )
    assert data["tokens"] == {"vocabulary": 8000, "max_length": 32, "tokenizer": "folder"}
    assert data["limit"] == {"train": 5}


def test_samples_without_labels_are_read_again_and_a_teacher_has_its_own(tmp_path):
    source = {"_target_": "kdrun.domains.text.files.unlabelled_texts"}
    (tmp_path / "record.json").write_text(json.dumps({"parts": {"data": {"view": {"unlabelled": source}}}}))
    data = {"task": "text_classification", "unlabelled": {**source, "root": "more.txt"}}
    config = {
        "data": data,
        "teacher": {"data": {"unlabelled": {**source, "root": "other.txt"}}},
        "student": {},
        "assistants": {},
    }
    found = {
        role: subjects._config(tmp_path, config, role)[0]["unlabelled"] for role in ("student", "alone", "teacher")
    }
    assert {role: node["root"] for role, node in found.items()} == {
        "student": "more.txt",
        "alone": "more.txt",
        "teacher": "other.txt",
    }
    assert all(node["_target_"] == source["_target_"] for node in found.values())
