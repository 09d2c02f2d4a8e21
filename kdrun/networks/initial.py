"""First weights that several networks have in common."""

from torch import nn


def he_normal(network: nn.Module, convolution: type[nn.Module] = nn.Conv2d) -> None:
    """Draws the weights of all convolutions for rectifiers, with the variance that keeps gradients (He et al. 2015, arXiv 1502.01852)."""
    for module in network.modules():
        if isinstance(module, convolution):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
