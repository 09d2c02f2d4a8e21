"""The data that an export or a card loads again: those of the run, in the view of the stage."""

import json

from kdrun.hardware.exports import subjects


def test_a_tokenizer_that_is_given_stays_where_the_stage_names_its_content_alone(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("kdrun.domains.load.load_data", lambda data, paths: seen.append(data))
    monkeypatch.setattr("kdrun.federation.shares.data_of_part", lambda module, *rest: module)
    view = {"limit": {"train": 5}, "tokens": {"vocabulary": 8000, "max_length": 32}}
    (tmp_path / "record.json").write_text(json.dumps({"parts": {"data": {"view": view}}}))
    tokens = {"vocabulary": 8000, "max_length": 48, "tokenizer": "folder"}
    data = {"task": "text_classification", "limit": {"train": 9}, "tokens": tokens}
    subjects._module(tmp_path, {"data": data, "paths": {}}, 0, None, {})
    assert seen[0]["tokens"] == {"vocabulary": 8000, "max_length": 32, "tokenizer": "folder"}
    assert seen[0]["limit"] == {"train": 5}
