"""What has to stay true of my loss and my network."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from mylab.losses import top
from mylab.networks import Small


def test_equal_networks_have_no_loss_and_the_teacher_no_gradient():
    logits = torch.randn(4, 10, dtype=torch.float64)
    assert top(logits, logits).abs().max() < 1e-12
    student = torch.randn(4, 10, requires_grad=True)
    top(student, logits.float()).sum().backward()
    assert student.grad.abs().sum() > 0


def test_of_all_classes_it_is_the_divergence_of_whole_distributions():
    student, teacher = torch.randn(2, 4, 10, dtype=torch.float64)
    p, q = (teacher / 4).softmax(1), (student / 4).softmax(1)
    torch.testing.assert_close(top(student, teacher, classes=10), 16 * (p * (p.log() - q.log())).sum(1))


def test_the_network_gives_a_logit_for_each_class():
    assert Small(num_classes=10, in_channels=1)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
