"""The nearest-neighbour test for copies, against plain loops and cases solved by hand."""

import pytest
import torch
from torch import Tensor

from gankd.generators import copies
from gankd.generators.copies import nearest


def images(count: int, seed: int, side: int = 4) -> Tensor:
    return torch.randint(
        0, 256, (count, 1, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


@pytest.mark.parametrize("references", [1, 2, 3, 50])
def test_distances_are_those_of_plain_loops(references: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "IMAGES", 7)
    monkeypatch.setattr(copies, "REFERENCES", 6)
    own, other = images(20, 1), images(references, 2)
    found = nearest(own, other)
    for number, image in enumerate(own):
        plain = torch.tensor([((image.double() - one.double()) / 255).square().sum().sqrt().item() for one in other])
        ordered = plain.sort().values
        assert found.first[number].item() == pytest.approx(ordered[0].item(), rel=1e-5)
        assert found.index[number] == plain.argmin()
        if references > 1:
            assert found.second[number].item() == pytest.approx(ordered[1].item(), rel=1e-5)


def test_a_copy_is_three_times_nearer_to_one_reference_than_to_the_next() -> None:
    line = torch.tensor([0, 90, 240], dtype=torch.uint8).view(3, 1, 1, 1)  # points on a line
    at = torch.tensor([22, 23, 67, 68, 90, 255], dtype=torch.uint8).view(-1, 1, 1, 1)
    # 22 / 68 < 1/3 < 23 / 67; from the other side 23 / 67 and 22 / 68; the reference itself; 15 / 165
    assert nearest(at, line).copies.tolist() == [True, False, False, True, True, True]


def test_exact_copies_are_found_among_large_numbers() -> None:
    """A matrix product alone would round the distance of a copy of a bright image to something else than 0."""
    references = images(300, 3, side=32) // 4 + 190
    found = nearest(references[40:60].clone(), references)
    assert found.first.abs().max() == 0
    assert torch.equal(found.index, torch.arange(40, 60))
    assert found.percent == 100.0


def test_independent_images_are_not_copies_and_twins_are() -> None:
    references = images(100, 4)
    assert nearest(images(200, 5), references).percent == 0.0
    assert nearest(references[:5], torch.cat([references, references])).percent == 100.0  # two equal references
