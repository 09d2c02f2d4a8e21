"""The data that an export or a card loads again: those of the run, in the view of the stage."""

import json

from kdrun.hardware.exports import subjects


def test_a_tokenizer_that_is_given_stays_where_the_stage_names_its_content_alone(tmp_path):
    view = {"limit": {"train": 5}, "tokens": {"vocabulary": 8000, "max_length": 32}}
    (tmp_path / "record.json").write_text(json.dumps({"parts": {"data": {"view": view}}}))
    tokens = {"vocabulary": 8000, "max_length": 48, "tokenizer": "folder"}
    data, _ = subjects._config(
        tmp_path, {"data": {"task": "text_classification", "limit": {"train": 9}, "tokens": tokens}}
    )
    assert data["tokens"] == {"vocabulary": 8000, "max_length": 32, "tokenizer": "folder"}
    assert data["limit"] == {"train": 5}
