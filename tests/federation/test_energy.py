"""Energies and gates against sums written out over samples and classes."""

import math

import pytest
import torch

from kdrun.federation.energy import Running, energy, gate, moments, squared_error


def softmax(row, temperature):
    top = max(row)
    powers = [math.exp((value - top) / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def entropy(p):
    return -sum(a * math.log(a) for a in p)


def slow(private, proxy, kind, norm, temperature):
    found = []
    for f, g in zip(private.tolist(), proxy.tolist(), strict=True):
        p, q = softmax(f, temperature), softmax(g, temperature)
        if kind == "free_energy":
            found.append(-temperature * math.log(sum(math.exp(value / temperature) for value in g)))
        elif kind == "entropy":
            found.append(entropy(q) / math.log(len(q)))
        else:
            below = math.log(len(q)) if norm == "log_classes" else entropy(p) + entropy(q) + 1e-8
            found.append(0.5 * (kl(p, q) + kl(q, p)) / below)
    return torch.tensor(found)


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(7, 5, generator=generator), 3 * torch.randn(7, 5, generator=generator)


@pytest.mark.parametrize("kind", ["disagreement", "free_energy", "entropy"])
@pytest.mark.parametrize("norm", ["entropy", "log_classes"])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_energies_are_the_sums_written_out(logits, kind, norm, temperature):
    torch.testing.assert_close(
        energy(*logits, kind, norm, temperature), slow(*logits, kind, norm, temperature), rtol=1e-4, atol=1e-5
    )


def test_disagreement_is_nothing_where_both_agree_and_the_same_both_ways(logits):
    private, proxy = logits
    assert energy(private, private + 3).abs().max() < 1e-6
    torch.testing.assert_close(energy(private, proxy), energy(proxy, private))


def test_the_squared_error():
    assert squared_error(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [2.5]])).tolist() == [4.0, 0.25]


@pytest.mark.parametrize("kind", ["surprise", "squared_error"])
def test_an_unknown_energy_is_refused(logits, kind):
    with pytest.raises(ValueError, match="expected one of"):
        energy(*logits, kind)


@pytest.mark.parametrize("beta", [0.0, 1.0, 3.0])
def test_the_logistic_gate_is_the_formula(beta):
    values = torch.tensor([0.1, 0.4, 2.0, 0.3])
    mean = sum(values.tolist()) / 4
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values.tolist()) / 4)
    expected = [1 / (1 + math.exp(beta * (value - mean) / (deviation + 1e-8))) for value in values.tolist()]
    torch.testing.assert_close(gate(values, beta=beta), torch.tensor(expected))


def test_the_other_gates():
    values = torch.tensor([1.0, 2.0, 6.0])
    assert gate(values, "off").tolist() == [1, 1, 1]
    assert gate(values, "constant").tolist() == [0.5] * 3
    assert gate(values, "hard").tolist() == [1, 1, 0]  # their mean is 3
    assert gate(values, "hard", statistics=(torch.tensor(1.5), torch.tensor(1.0))).tolist() == [1, 0, 0]
    assert gate(values, beta=0.0).tolist() == [0.5] * 3
    assert gate(torch.tensor([4.0])).tolist() == [0.5]  # a single sample is its own mean


def test_gradients_flow_through_values_and_not_through_statistics():
    values = torch.tensor([1.0, 2.0, 6.0], requires_grad=True)
    mean, deviation = moments(values)
    assert not mean.requires_grad
    gate(values)[0].backward()
    trust = torch.sigmoid(-(values.detach()[0] - mean) / deviation)
    torch.testing.assert_close(values.grad, torch.tensor([float(-trust * (1 - trust) / deviation), 0.0, 0.0]))


def test_running_statistics_are_those_of_a_mixture_and_can_be_kept():
    running, batches = (
        Running(momentum=0.25),
        [torch.tensor([1.0, 3.0]), torch.tensor([10.0]), torch.tensor([0.0, 4.0, 5.0])],
    )
    weighted: list[tuple[float, float]] = []
    for batch in batches:
        kept = 0.75 if weighted else 0.0
        weighted = [(value, weight * kept) for value, weight in weighted]
        weighted += [(value, (1 - kept) / len(batch)) for value in batch.tolist()]
        mean, deviation = running.update(batch)
        expected = sum(value * weight for value, weight in weighted)
        assert float(mean) == pytest.approx(expected)
        spread = sum(weight * (value - expected) ** 2 for value, weight in weighted)
        assert float(deviation) == pytest.approx(math.sqrt(spread), rel=1e-5)
    other = Running(momentum=0.25)
    other.load_state_dict(running.state_dict())
    again, here = other.update(batches[0]), running.update(batches[0])
    assert torch.equal(again[0], here[0]) and torch.equal(again[1], here[1])
    assert Running().state_dict() == {}
