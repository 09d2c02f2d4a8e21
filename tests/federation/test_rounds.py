"""The server's rounds with clients that only count: who is called, what is left out, what is recorded."""

import ast
from pathlib import Path

import numpy as np
import pytest

from kdrun.federation import server as server_module
from kdrun.federation.engine import InProcess
from kdrun.federation.faults import BadUpdate, Failure, Faults
from kdrun.federation.messages import Update
from kdrun.federation.methods.base import Method, ServerResources
from kdrun.federation.methods.options import MethodOptions
from kdrun.federation.server import Rules, Server
from kdrun.problems import UserError


class Counting(Method):
    """Clients add their number to what was sent."""

    TRAVELS = "proxy"
    terms = ()

    def initial(self, resources):
        return {"sum": np.zeros(2, np.float32)}


class Adder:
    def __init__(self, number):
        self.number, self.rounds = number, []

    def fit(self, broadcast):
        self.rounds.append(broadcast.round)
        if self.number == 4 and broadcast.round == 1:
            raise FloatingPointError("the labels term became nan")
        return Update({"sum": broadcast.arrays["sum"] + self.number}, 10, {"loss": float(self.number)})


def server(faults=None, clients=5, **rules):
    adders = [Adder(number) for number in range(clients)]
    faults = Faults.of(faults, clients)
    rules = {"rounds": 4, "on_bad": faults.on_bad, **rules}
    resources = ServerResources(None, None, type("Loop", (), {"seen": {}, "counted": {}})(), 1)
    return Server(
        Counting(MethodOptions()), InProcess(adders, faults), resources, Rules(clients, **rules), seed=3
    ), adders


def played(server):
    return [(list(server.collect()), server.close())[1] for _ in range(server.rules.rounds)]


def test_all_are_called_and_averaged():
    one, _ = server(clients=4)
    found = played(one)
    assert [row["called"] for row in found] == [row["came"] for row in found] == [4] * 4
    np.testing.assert_allclose(one.arrays["sum"], [6.0, 6.0])  # 1.5 a round
    assert found[0]["metrics"] == {"loss": 1.5}
    assert found[3]["bytes_up"] == 4 * found[0]["bytes_up"] == sum(one.up.values())


def test_a_share_is_drawn_anew_in_every_round_and_the_same_in_every_run():
    one, _ = server(participation=0.4, rounds=12)
    called = [(list(one.collect()), one.close())[0] for _ in range(12)]
    other, _ = server(participation=0.4, rounds=12)
    assert called == [(list(other.collect()), other.close())[0] for _ in range(12)]
    assert all(len(row) == 2 and row == sorted(row) for row in called)
    assert len({tuple(row) for row in called}) > 3 and set().union(*called) == set(range(5))
    assert len(server(participation=0.01)[0].chosen()) == 1


def test_every_fault_is_left_out_and_said():
    one, _ = server({"drop": {"0": [0, 2]}, "nan": [1], "shapes": [2], "scale": {3: 100}})
    found = played(one)
    assert found[0]["left_out"] == [
        [0, "it dropped out"],
        [1, "sum is not finite"],
        [2, "sum has the shape (2, 2), expected (2,)"],
    ]
    assert [4, "its training diverged: the labels term became nan"] in found[1]["left_out"]
    assert found[0]["came"] == 2
    assert one.left_out[0] == [(0, "it dropped out"), (2, "it dropped out")]
    assert one.down[0] == one.down[1] and one.answers[0] == 2 and one.calls[0] == 4
    assert one.up[0] < one.up[1]  # what is refused was sent all the same


def test_nobody_left_leaves_everything_as_it_was():
    one, _ = server({"nan": [0, 1, 2, 3, 4]})
    found = played(one)
    assert [row["came"] for row in found] == [0] * 4 and found[2]["metrics"] == {}
    assert one.arrays["sum"].tolist() == [0.0, 0.0]


def test_it_can_be_asked_to_stop():
    one, _ = server({"shapes": [2], "on_bad": "stop"})
    with pytest.raises(BadUpdate, match="client 2 in round 0: sum has the shape"):
        played(one)


def test_a_client_that_scales_is_stopped_by_the_median():
    mean, _ = server({"scale": {3: 1e6}})
    median, _ = server({"scale": {3: 1e6}}, how="median")
    played(mean), played(median)
    assert mean.arrays["sum"][0] > 1e6 > 20 > median.arrays["sum"][0]


def test_the_state_in_the_middle_of_a_round_goes_on_with_the_same_bits():
    calm, _ = server()
    played(calm)
    one, _ = server()
    for _ in range(7):
        collecting = one.collect()
        stopped = next(collecting, None)
        collecting.close()
        numbers = one.numbers()
        parts = {name: {k: v.clone() for k, v in tensors.items()} for name, (_, tensors) in one.parts().items()}
        other, _ = server()
        other.restore(numbers, parts)
        one = other
        if stopped is None:
            one.close()
    while one.round < 4:
        list(one.collect()), one.close()
    assert one.arrays["sum"].tobytes() == calm.arrays["sum"].tobytes()
    assert one.up == calm.up and one.left_out == calm.left_out


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        ({"nap": [1]}, "closest: nan"),
        ({"nan": [5]}, "clients are 0 to 4"),
        ({"on_bad": "leave"}, "closest: leave_out"),
        ({"flip": {1: 1.5}}, "no share"),
    ],
)
def test_mistaken_faults(faults, said):
    with pytest.raises(UserError, match=said):
        Faults.of(faults, 5)


def test_mistaken_rules():
    for wrong in ({"participation": 0}, {"how": "mean"}, {"rounds": 0}, {"trim": 0.6}):
        with pytest.raises(UserError):
            Rules(**{"clients": 3, "rounds": 2, **wrong})
    assert Failure("gone").reason == "gone"


def imported(path):
    """Top-level modules and kdrun's own that a file imports anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
        yield from names + ([node.module] if isinstance(node, ast.ImportFrom) else [])


def test_the_room_knows_no_strategy_no_trainer_and_no_transport():
    room = Path(server_module.__file__).parent
    files = [*room.glob("*.py"), *room.glob("methods/*.py")]
    assert len(files) > 15
    for path in files:
        for name in imported(path):
            assert not name.startswith(("kdrun.strategies", "kdrun.lab", "lightning", "flwr")), path
    for name in ("messages", "aggregate", "faults"):
        assert "torch" not in set(imported(room / f"{name}.py")), name
