"""Gates: unknown is not passed. Fronts: what is not known is compared with nothing."""

import itertools
import random

import pytest
from hardware.card.support import card

from kdrun.hardware.card import gates
from kdrun.hardware.card.pareto import axes_of, pareto

AXES = axes_of("accuracy")


def test_passed_failed_and_unknown():
    assert gates.gate(1.0, 2.0)["passed"] is True and gates.gate(2.0, 2.0)["passed"] is True
    assert gates.gate(2.1, 2.0)["passed"] is False
    assert gates.gate(None, 2.0)["passed"] is None and gates.gate(1.0, None)["passed"] is None
    drop = 0.96 - 0.94
    assert drop > 0.02 and gates.gate(drop, 0.02)["passed"] is True, "rounding fails nobody"


def test_all_gates_of_a_card():
    assert card()["passed"] is True
    assert card(drop=0.05)["passed"] is False
    assert card(p99=None, deploy={"deadline_ms": 5.0})["passed"] is None, "unknown is not passed"
    assert card(p99=None, drop=0.3, deploy={"deadline_ms": 5.0})["passed"] is False, "one failure is enough"
    assert card("teacher")["passed"] is None, "nothing was asked of it"
    assert card("teacher", p99=9.0, deploy={"deadline_ms": 5.0})["passed"] is False
    assert card(safety=None)["passed"] is None


def test_estimates_say_so_in_gates_that_they_decide():
    found = card(kind="estimate", p99=3.0, deploy={"deadline_ms": 5.0, "memory_mb": 60.0})["gates"]
    assert found["deadline"] == {"passed": True, "limit": 5.0, "value": 3.0, "estimate": True}
    assert found["memory"]["estimate"] and not found["worst_class"]["estimate"], "quality is measured here"


def test_a_missed_deadline_says_by_how_much_and_what_would_meet_it():
    limits = {"deadline_ms": 2.0, "memory_mb": 45.0}
    slow = card(p99=5.0, drop=0.05, deploy=limits)
    small = card(p99=1.5, precision="int8", deploy=limits)
    alone = card("alone", p99=1.0, value=0.95, deploy=limits)
    elsewhere = card(p99=0.1, target="h100", precision="fp16", deploy=limits)
    deadline, memory, worst = gates.misses(slow, [slow, small, alone, elsewhere])
    assert deadline == "p99 5 ms is 3 ms over the deadline of 2 ms; precision int8 meets it: 1.5 ms"
    assert memory == "50 MB is 5 MB over the cap of 45 MB"
    assert worst == (
        "class 8 is the worst: recall 80.00 %, 5.0 points below the teacher's worst class; 2 points are allowed"
    )
    assert "student alone meets it: 1 ms" in gates.misses(slow, [slow, alone, elsewhere])[0]
    assert "nothing on this card meets it" in gates.misses(slow, [slow, elsewhere])[0]
    estimate = card(kind="estimate", p99=5.0, deploy=limits)
    assert "(estimate)" in gates.misses(estimate, [estimate])[0]


def brute_force(points, axes):
    """On the front is what no other point dominates, by the definition."""

    def at_least(one, other, axis):
        return one[axis.name] >= other[axis.name] if axis.better == "max" else one[axis.name] <= other[axis.name]

    front = []
    for index, point in enumerate(points):
        dominated = False
        for other in points:
            if all(at_least(other, point, a) for a in axes) and any(not at_least(point, other, a) for a in axes):
                dominated = True
        if not dominated:
            front.append(index)
    return front


def test_the_front_is_what_nothing_dominates():
    drawn = random.Random(1)
    for _ in range(50):
        points = [
            {"quality": drawn.randint(0, 4) / 4, "p99_ms": drawn.randint(1, 4), "joules": drawn.randint(1, 4)}
            for _ in range(12)
        ]
        found = pareto(points, AXES)
        assert found.front == brute_force(points, AXES) and not found.left_out
        assert sorted([*found.front, *found.beaten_by]) == list(range(12))


def test_an_axis_that_one_point_lacks_is_left_out_and_said():
    points = [{"quality": 0.9, "p99_ms": 1.0, "joules": 3.0}, {"quality": 0.8, "p99_ms": 2.0, "joules": None}]
    found = pareto(points, AXES)
    assert found.front == [0] and found.beaten_by == {1: 0}
    assert found.left_out == {"joules": "energy per call is n/a for 1 of 2"}
    nothing = pareto([{"quality": 0.9, "p99_ms": None, "joules": None}] * 2, AXES)
    assert nothing.front == [] and nothing.left_out["p99_ms"] == "p99 latency is n/a for all of 2"


def test_a_point_without_quality_is_not_compared():
    points = [{"quality": None, "p99_ms": 0.1, "joules": None}, {"quality": 0.8, "p99_ms": 2.0, "joules": None}]
    found = pareto(points, AXES)
    assert found.front == [1] and found.unknown == [0]


def test_equal_points_are_both_on_the_front():
    point = {"quality": 0.9, "p99_ms": 1.0, "joules": 1.0}
    assert pareto([point, dict(point)], AXES).front == [0, 1]


@pytest.mark.parametrize(("metric", "first"), (("rmse", 0), ("r2", 1)))
def test_the_direction_is_that_of_the_metric(metric, first):
    points = [{"quality": 0.1, "p99_ms": 1.0, "joules": 1.0}, {"quality": 0.2, "p99_ms": 1.0, "joules": 1.0}]
    assert pareto(points, axes_of(metric)).front == [first]


def test_every_order_of_points_gives_the_same_front():
    points = [{"quality": q, "p99_ms": t, "joules": 1.0} for q, t in ((0.9, 3), (0.8, 1), (0.7, 2), (0.95, 9))]
    for order in itertools.permutations(range(4)):
        found = pareto([points[i] for i in order], AXES)
        assert {order[i] for i in found.front} == {0, 1, 3}


def test_energy_of_a_token_without_a_sensor_is_an_estimate_or_unknown():
    from kdrun.hardware.card.figures import token_energy

    found = token_energy({"joules": 0.32, "estimate": True}, 16, 2)
    assert found["joules_per_token"] == 0.01 and found["estimate"] is True and "16 tokens" in found["method"]
    assert token_energy(None, 16, 1) == {} and token_energy({"joules": 1.0, "estimate": False}, 16, 1) == {}


def test_one_sample_more_than_the_margin_decides_nothing():
    def gate(drop, samples):
        safety = {
            "worst_class": "8",
            "worst_class_recall": 0.8,
            "worst_class_drop": drop,
            "worst_class_samples": samples,
        }
        found = card(safety=safety)
        return found["gates"]["worst_class"]["passed"], gates.misses(found, [found]), gates.undecided(found)

    assert gate(1 / 45, 45)[0] is None, "one of 45 samples is 2.2 points, 2 are allowed"
    _, missed, undecided = gate(1 / 45, 45)
    assert not missed and "class 8 is the worst: recall 80.00 % of 45 samples, 2.2 points below" in undecided[0]
    assert gate(2 / 45, 45)[0] is False and gate(0.0, 45)[0] is True and gate(0.03, 10_000)[0] is False
    assert gate(0.02 + 1 / 10_000, 10_000)[0] is None
