import torch
from torch import Tensor, nn

from gankd.bench.model_card import model_card


class Tiny(nn.Module):
    """One convolution (2 -> 5, 3x3, padded), batch norm, one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.head = nn.Linear(5, 7)
        self.seen: list[tuple[torch.dtype, tuple[int, ...]]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append((images.dtype, tuple(images.shape)))
        hidden = self.norm(self.conv(images.float() / 255))
        logits: Tensor = self.head(hidden.mean((2, 3)))
        return logits


def test_counts_by_hand() -> None:
    model = Tiny()
    card = model_card(model, (2, 6, 4), "tiny")
    parameters = (2 * 5 * 9 + 5) + (5 + 5) + (5 * 7 + 7)
    assert card["name"] == "tiny"
    assert card["parameters"] == parameters
    assert card["macs"] == 6 * 4 * 2 * 5 * 9 + 5 * 7
    # Running mean and variance are float32, the batch counter is one int64.
    assert card["size_kib"] == (4 * (parameters + 5 + 5) + 8) / 1024
    assert card["latency_ms"] > 0
    assert set(model.seen) == {(torch.uint8, (1, 2, 6, 4))}


def test_leaves_the_model_and_the_threads_as_they_were() -> None:
    model = Tiny().train()
    model.norm.eval()  # a frozen part stays frozen
    before = {name: value.clone() for name, value in model.state_dict().items()}
    threads = torch.get_num_threads()
    model_card(model, (2, 6, 4), "tiny")
    assert torch.get_num_threads() == threads
    assert model.training
    assert model.head.training
    assert not model.norm.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
