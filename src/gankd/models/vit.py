"""Vision transformers (Dosovitskiy et al., ICLR 2021; DeiT, Touvron et al., ICML 2021); their patch fits the image.

Weights have the names of timm's, so that its files of the same patch and image fit.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.errors import ModelError
from gankd.models.parts import form_of, read_out


def patch_side(height: int, width: int) -> int:
    """Side of a patch in pixels: 4 for images of about 32 px, 8 for 64, 16 from 92 px on as published; 2 below 16 px.

    Halved until it divides both sides of the image; the shorter decides.

    Raises:
        ModelError: a side of the image is odd.
    """
    short = min(height, width)
    patch = 2 if short < 16 else form_of(short) // 8
    while height % patch or width % patch:
        patch //= 2
    if patch == 1:
        raise ModelError(f"its patches need images with even sides, got {height}x{width}")
    return patch


class Attention(nn.Module):
    """Multi-head self-attention of tokens (N, T, C)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        rows, tokens, _ = x.shape
        query, key, value = self.qkv(x).view(rows, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # (N, heads, T, c)
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(x.shape))


class Mlp(nn.Module):
    """Two layers with four times the width between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Attention and perceptron, each on a layer norm of what it is added to."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, eps=1e-6), Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbedding(nn.Module):
    """Images (N, C, H, W) to one token per patch, (N, T, width)."""

    def __init__(self, in_channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """Vision transformer (DeiT, Touvron et al., ICML 2021): 12 blocks, patches of 4 px at 32 px to 16 px at 224 px."""

    def __init__(
        self,
        in_channels: int,
        image_size: int | tuple[int, int],
        num_outputs: int,
        *,
        width: int,
        depth: int,
        heads: int,
    ) -> None:
        super().__init__()
        high, wide = (image_size, image_size) if isinstance(image_size, int) else image_size
        patch = patch_side(high, wide)
        self.patch_embed = PatchEmbedding(in_channels, width, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (high // patch) * (wide // patch), width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, num_outputs)
        for weight in (self.cls_token, self.pos_embed, *(m.weight for m in self.modules() if isinstance(m, nn.Linear))):
            nn.init.trunc_normal_(weight, std=0.02)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch_embed(x)
        tokens = torch.cat([self.cls_token.to(patches).expand(len(x), -1, -1), patches], 1) + self.pos_embed
        return read_out(self.head, self.norm(self.blocks(tokens)[:, 0]))


NETWORKS = {
    "vit_tiny": partial(VisionTransformer, width=192, depth=12, heads=3),
    "vit_small": partial(VisionTransformer, width=384, depth=12, heads=6),
}
