"""The cost in a stage's record comes from injected readers and from what was really computed."""

from kdrun.domains.load import load_data
from kdrun.learning.teaching import Workshop

from .stages import cell, make_lab, teach


class Steps:
    """A counter that grows by one with every look."""

    name = "looks"

    def __init__(self):
        self.value = 0.0

    def read(self):
        self.value += 1
        return self.value


def test_readers_are_injected(tmp_path):
    lab = make_lab(tmp_path)
    lab.workshop = Workshop(
        lambda config: load_data(config, lab.paths), lab.workshop.outputs, lab.store.lock, lambda: [Steps()]
    )
    cost = teach(lab).record["cost"]
    assert cost["looks"] >= 1
    assert "seconds" not in cost
    assert cost["tokens"] is None


def test_what_the_teacher_was_asked(tmp_path):
    train, val, epochs = 300, 201, 3
    online = teach(make_lab(tmp_path / "a"), "teacher.source=online").record
    flops = online["cost"]["flops"]
    forward = online["teacher"]["flops"]
    assert flops["teacher"] == forward * (val + epochs * train)
    assert flops["student"] == 3 * online["flops"] * epochs * train
    cached = teach(make_lab(tmp_path / "a"), "teacher.source=cached", "teacher.verify=0").record
    assert cached["cost"]["flops"]["teacher"] == forward * (val + train)
    again = teach(make_lab(tmp_path / "a"), "teacher.source=cached", "teacher.verify=0", "trainer.epochs=2",
                  "teacher.trainer.epochs=3").record  # fmt: skip
    assert again["cost"]["flops"]["teacher"] == 0  # the cache was there: no pre-flight, no outputs
    assert cell()["data"]["limit"]["train"] == train
