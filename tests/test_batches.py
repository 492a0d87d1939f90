"""Batches that fit the cache: their size by hand, and that every image is taken once in its place."""

import pytest
import torch
from torch import nn

from gankd.batches import batch_size, in_batches

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("bytes_per_image", "size"),
    [(32 * 32 * 16 * 2, 128), (32 * 32 * 64 * 2, 32), (8 * 8 * 32 * 4, 512), (10**9, 32), (1, 1024), (0, 1024)],
)
def test_a_layers_output_takes_four_mebibytes(bytes_per_image: int, size: int) -> None:
    assert batch_size(bytes_per_image) == size


@pytest.mark.parametrize(("values", "size"), [(8192, 128), (1, 1024), (10**5, 32)])
@pytest.mark.parametrize("count", [1, 64, 65, 1500])
def test_every_image_is_taken_once_and_the_largest_layer_decides(values: int, size: int, count: int) -> None:
    class Wide(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, None].expand(-1, values)

    wide, x, sizes = nn.Sequential(Wide(), nn.AdaptiveMaxPool1d(1)), torch.arange(float(count)), []

    def call(part: slice) -> torch.Tensor:
        sizes.append(len(x[part]))
        return wide(x[part])[:, 0]

    assert torch.equal(torch.cat(in_batches(call, count, CPU)), x)
    full, rest = divmod(max(count - 64, 0), size)
    assert sizes == [min(count, 64), *[size] * full, *[rest] * (rest > 0)]


def test_an_error_leaves_no_hook_behind() -> None:
    with pytest.raises(ValueError, match="no"):
        in_batches(lambda part: int("no"), 3, CPU)
    assert not torch.nn.modules.module._global_forward_hooks


def test_a_gpu_takes_large_batches() -> None:
    parts = in_batches(lambda part: part, 2000, torch.device("cuda"))
    assert parts == [slice(0, 1024), slice(1024, 2048)]
