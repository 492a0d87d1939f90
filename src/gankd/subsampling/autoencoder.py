"""The sparse auto-encoder whose bottleneck the published density ratio for scalar labels reads."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.batches import in_batches
from gankd.engine import Engine
from gankd.generators.networks import start_sides, to_float
from gankd.tasks import Task


class SparseAutoencoder(nn.Module):
    """Images to a non-negative code, back to the image, and to the label (Ding et al., cDR-RS; cGAN-KD code).

    The published code is as wide as the image has pixels; here it has `code_width` entries, which a ratio network can
    learn from a few thousand images.
    """

    scale: Tensor

    def __init__(self, task: Task, shape: tuple[int, int, int], seed: int, code_width: int = 256) -> None:
        super().__init__()
        channels, height, width = shape
        self.start = start_sides(height, width)
        scales = (height // self.start[0]).bit_length() - 1
        widths = [32 * min(2**n, 4) for n in range(scales + 1)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            down: list[nn.Module] = [nn.Conv2d(channels, widths[0], 3, padding=1), nn.BatchNorm2d(widths[0]), nn.ReLU()]
            up: list[nn.Module] = []
            for a, b in pairwise(widths):
                down += [nn.Conv2d(a, b, 4, stride=2, padding=1), nn.BatchNorm2d(b), nn.ReLU()]
                up = [nn.ConvTranspose2d(b, a, 4, stride=2, padding=1), nn.BatchNorm2d(a), nn.ReLU(), *up]
            self.down, self.up = nn.Sequential(*down), nn.Sequential(*up)
            self.code = nn.Linear(widths[-1] * math.prod(self.start), code_width)
            self.expand = nn.Linear(code_width, widths[-1] * math.prod(self.start))
            self.output = nn.Conv2d(widths[0], channels, 3, padding=1)
            self.predictor = nn.Sequential(
                nn.Linear(code_width, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, task.head_size)
            )
        self.register_buffer("scale", torch.tensor(task.output_scale).float(), persistent=False)  # (2, ...)

    def encode(self, images: Tensor) -> Tensor:
        """uint8 images (N, C, H, W) to codes (N, code_width), each >= 0."""
        return F.relu(self.code(self.down(to_float(images)).flatten(1)))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 images to (reconstruction in [-1, 1], code, outputs in the task's units)."""
        code = self.encode(images)
        grid = F.relu(self.expand(code)).view(len(code), -1, *self.start)
        raw = self.predictor(code).float()
        outputs = self.scale[0] + self.scale[1] * (raw[:, 0] if raw.shape[1] == 1 else raw)
        return torch.tanh(self.output(self.up(grid))), code, outputs

    @torch.no_grad()
    def encode_in_batches(self, images: Tensor, engine: Engine) -> Tensor:
        """Codes of stored images in eval mode, float32."""
        self.eval()
        with engine.autocast():
            return torch.cat(
                in_batches(lambda part: self.encode(images[part].to(engine.device)).float(), len(images), engine.device)
            )

    @torch.no_grad()
    def predict_in_batches(self, images: Tensor, engine: Engine) -> Tensor:
        """Outputs for stored images in eval mode: logits (N, K), or values (N,) in label units."""
        self.eval()
        with engine.autocast():
            return torch.cat(
                in_batches(lambda part: self(images[part].to(engine.device))[2].float(), len(images), engine.device)
            )
