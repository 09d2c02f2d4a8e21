from types import SimpleNamespace

import pytest
import torch

from kdrun.networks.output import logits_of

LOGITS = torch.zeros(2, 3)


@pytest.mark.parametrize(
    "output",
    [LOGITS, {"logits": LOGITS, "loss": None}, SimpleNamespace(logits=LOGITS), (LOGITS, torch.ones(1)), [LOGITS]],
    ids=["tensor", "mapping", "object", "tuple", "list"],
)
def test_logits_are_found(output):
    assert logits_of(output) is LOGITS


@pytest.mark.parametrize("output", [{"scores": LOGITS}, (), None, "logits", SimpleNamespace(logits=None)])
def test_anything_else_is_named(output):
    with pytest.raises(TypeError, match=type(output).__name__):
        logits_of(output)


def test_the_keys_of_a_mapping_are_shown():
    with pytest.raises(TypeError, match="keys scores"):
        logits_of({"scores": LOGITS})
