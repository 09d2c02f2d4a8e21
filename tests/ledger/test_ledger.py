"""Counters that are faked: sums over tries, what is unknown stays unknown, and FLOPs by hand."""

from kdrun.ledger.ledger import Ledger, training_flops


class Fake:
    def __init__(self, name, value=0.0):
        self.name, self.value = name, value

    def read(self):
        return self.value


def test_tries_add_up_and_what_came_after_the_checkpoint_is_lost():
    reader = Fake("joules", 100.0)
    first = Ledger([reader])
    reader.value = 130.0
    saved = first.state()
    reader.value = 170.0  # killed here: 40 joules with no state to show for them
    second = Ledger([reader])
    second.resume(saved)
    reader.value = 175.0
    assert second.totals() == {"joules": 35.0}
    assert second.tries == 2


def test_unknown_stays_unknown_and_is_never_zero():
    reader = Fake("joules", None)
    ledger = Ledger([reader, Fake("seconds")])
    assert ledger.totals() == {"joules": None, "seconds": 0.0}
    reader.value = 5.0  # the sensor comes back: what was missed is not known
    assert ledger.totals()["joules"] is None


def test_a_reader_that_an_earlier_try_did_not_have_is_unknown():
    ledger = Ledger([Fake("seconds"), Fake("joules")])
    ledger.resume({"totals": {"seconds": 4.0}, "tries": 1})
    assert ledger.totals() == {"seconds": 4.0, "joules": None}


def test_flops_of_a_stage_by_hand():
    found = training_flops(student=10, samples=5, teacher=100, taught=7)
    assert (found["student"], found["teacher"], found["total"]) == (150, 700, 850)
    assert training_flops(10, 5, None, 0)["total"] == 150
    assert training_flops(10, 5, None, 0, written=4)["total"] == 190
    assert training_flops(10, 5, None, 7)["total"] is None
    assert training_flops(None, 5, 100, 7)["total"] is None
