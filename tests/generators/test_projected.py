import torch
from torch import Tensor

from gankd.generators.projected import COARSEST, FeatureDiscriminator
from gankd.tasks import Classification, Regression

SHAPES = [(6, 16, 16), (8, 4, 4)]


def critic(task: Classification | Regression) -> FeatureDiscriminator:
    torch.manual_seed(0)
    return FeatureDiscriminator(task, SHAPES, width=8, label_input="learned", embedding_width=5)


def maps(count: int) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(count, *shape) for shape in SHAPES]


def test_one_score_per_image_and_map() -> None:
    net = critic(Classification(num_classes=3))
    assert net(maps(4), torch.tensor([0, 1, 2, 0])).shape == (4, 2)


def test_every_map_is_judged_by_its_own_head() -> None:
    net, labels = critic(Classification(num_classes=3)).eval(), torch.tensor([0, 1])
    first, second = maps(2)
    before, after = net([first, second], labels), net([first, second + 1], labels)
    torch.testing.assert_close(before[:, 0], after[:, 0])
    assert (before[:, 1] - after[:, 1]).abs().min() > 1e-4


def test_label_enters_as_an_inner_product_with_the_pooled_features() -> None:
    """score(x, a) - score(x, b) = <h(x), P(e(a) - e(b))>, h = sum over places / sqrt(width)."""
    net = critic(Classification(num_classes=3)).eval()
    given = maps(1)
    a, b = torch.tensor([0]), torch.tensor([2])
    found = net(given, a) - net(given, b)
    for number, features in enumerate(given):
        places = net.heads[number](features)
        assert places.shape[2:] == (COARSEST, COARSEST)
        pooled = sum(places[0, :, y, x] for y in range(COARSEST) for x in range(COARSEST)) / 8**0.5
        expected = pooled @ net.projections[number](net.embedding(a) - net.embedding(b))[0]
        torch.testing.assert_close(found[0, number], expected)


def test_close_values_get_close_scores() -> None:
    net, given = critic(Regression(low=0, high=10)).eval(), maps(1)
    here, near, far = (net(given, torch.tensor([value])) for value in (5.0, 5.01, 9.0))
    assert (here - near).abs().max() < 0.1 * (here - far).abs().max()
