"""What a plan says of a federation against what it does."""

from dataclasses import replace

import pytest

from kdrun.federation.plan import planned

from .plays import mlp, play, request, workshop


@pytest.mark.parametrize(("method", "further"), [("fedmd", {}), ("fedct", {}), ("clustered", {"server": mlp(16)})])
def test_bytes_of_predictions_and_samples_are_those_of_the_run(tmp_path, method, further):
    asked = request(tmp_path / "plan", method, **further)
    asked = replace(asked, federation={"participation": 1.0, **asked.federation})
    told = planned(asked, workshop(tmp_path / "cache").data(asked.data))
    outcome = play(tmp_path / "run", method, **further)
    sent = outcome["bytes"]["up"] + outcome["bytes"]["down"]
    assert told["bytes"] == pytest.approx(sent, rel=0.1)
    assert told["partition"]["samples"] == [client["samples"]["train"] for client in outcome["clients"]]
    if method != "clustered":  # whose server takes steps as well
        assert told["steps"] >= outcome["cost"]["steps"]
