"""Hints: the pair that is taken, a loop over the formula, and the zero."""

import pytest
import torch
from torch import Tensor, nn

from gankd.errors import ModelError
from gankd.losses.distillation.fitnet import FitNet
from gankd.seeds import rng


def maps(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn(shape, generator=rng(n, "maps")) for n, shape in enumerate(shapes)]


def test_a_flipped_sign_of_the_teacher_misses_the_loop_over_the_formula() -> None:
    """Teacher added instead of subtracted turns this red; so does the sum over channels in place of the mean."""
    student, teacher = maps((2, 3, 2, 2)), maps((2, 4, 2, 2))
    hint = FitNet(student, teacher)
    hint.regressor = nn.Conv2d(3, 4, 1, bias=False)
    weight = hint.regressor.weight[:, :, 0, 0].tolist()
    expected = []
    for s, t in zip(student[0].tolist(), teacher[0].tolist(), strict=True):
        total = 0.0
        for c in range(4):
            for y in range(2):
                for x in range(2):
                    total += (sum(weight[c][d] * s[d][y][x] for d in range(3)) - t[c][y][x]) ** 2
        expected.append(total / 16)
    torch.testing.assert_close(hint(student, teacher), torch.tensor(expected))


def test_zero_where_the_regressor_reaches_the_teacher_and_solved_by_hand_beside_it() -> None:
    student = [torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)]
    hint = FitNet(student, student)
    hint.regressor = nn.Identity()
    assert hint(student, student).item() == 0
    assert hint(student, [torch.tensor([4.0, -2.0]).view(1, 2, 1, 1)]).item() == (3**2 + 4**2) / 2


@pytest.mark.parametrize(("layer", "taken"), [(-2, 1), (-1, 2), (-3, 0), (0, 0), (2, 2)])
def test_the_layer_counts_pairs_from_either_end(layer: int, taken: int) -> None:
    student, teacher = maps((4, 2, 4, 4), (4, 3, 2, 2), (4, 4, 1, 1)), maps((4, 5, 4, 4), (4, 6, 2, 2), (4, 7, 1, 1))
    hint = FitNet(student, teacher, layer=layer)
    alone = FitNet(student[taken : taken + 1], teacher[taken : taken + 1], layer=layer)  # a single pair is taken anyway
    alone.load_state_dict(hint.state_dict())
    torch.testing.assert_close(hint(student, teacher), alone(student[taken : taken + 1], teacher[taken : taken + 1]))


@pytest.mark.parametrize("layer", [-3, 2, 7])
def test_a_layer_that_is_none_of_several_pairs_is_refused(layer: int) -> None:
    student = maps((4, 2, 4, 4), (4, 3, 2, 2))
    with pytest.raises(ModelError, match=rf"FitNet: layer must be in -2\.\.1 for 2 pairs .* got {layer}; change it"):
        FitNet(student, student, layer=layer)
