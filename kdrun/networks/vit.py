"""Vision transformers for small images, after Dosovitskiy et al. 2021 (arXiv 2010.11929), and DeiT's distillation token."""

import torch
from torch import Tensor, nn
from torch.nn import functional

SEMANTICS = 1


class Attention(nn.Module):
    """Self-attention of several heads. forward: float [B, L, width] -> [B, L, width]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention, then two linear layers with GELU, each behind a layer norm and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class VisionTransformer(nn.Module):
    """Patches as tokens, learned positions, `depth` blocks, layer norm, and a linear layer on the class token.

    patch: side of a patch in pixels. width: of a token, a multiple of heads. distilled: whether there is a second token with a linear layer
    of its own, which learns from a teacher (DeiT, Touvron et al. 2021, arXiv 2012.12877, section 4).
    num_classes, in_channels, image_size (side, or height and width): of the data.

    forward: float [B, in_channels, H, W] -> logits [B, num_classes]; where distilled {"logits": the mean of the next two, as in DeiT's code
    at evaluation (the paper adds their softmax), "class_token", "distillation_token"}, each [B, num_classes].
    Raises ValueError where patches do not cover the image, or heads do not divide the width.
    """

    def __init__(
        self,
        patch: int = 4,
        width: int = 192,
        depth: int = 12,
        heads: int = 3,
        distilled: bool = False,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 32,
    ) -> None:
        super().__init__()
        height, breadth = (image_size, image_size) if isinstance(image_size, int) else image_size
        if height % patch or breadth % patch:
            raise ValueError(f"patches of {patch} x {patch} do not cover images of {height} x {breadth}")
        if width % heads:
            raise ValueError(f"width must be a multiple of heads, got {width} and {heads}")
        count = 2 if distilled else 1
        self.patches = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.tokens = nn.Parameter(torch.zeros(1, count, width))
        self.positions = nn.Parameter(torch.zeros(1, count + (height // patch) * (breadth // patch), width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head_dist = nn.Linear(width, num_classes) if distilled else None
        self.head = nn.Linear(width, num_classes)
        for parameter in (self.tokens, self.positions):
            nn.init.trunc_normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        patches = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.tokens.expand(images.shape[0], -1, -1), patches], dim=1) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        said = self.head(tokens[:, 0])
        if self.head_dist is None:
            return said
        distilled = self.head_dist(tokens[:, 1])
        return {"logits": (said + distilled) / 2, "class_token": said, "distillation_token": distilled}
