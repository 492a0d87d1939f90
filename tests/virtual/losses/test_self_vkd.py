"""Self-distillation: formula and ramp, gradients, the guard, checkpoints, and the feedback loop to avoid."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gankd.errors import ConfigError
from gankd.losses.distillation.kd import kd_loss
from gankd.losses.distillation.soft_targets import soft_targets
from gankd.seeds import rng
from gankd.storage import load_state, save_state
from gankd.tasks import Classification
from gankd.virtual.losses.self_vkd import SelfVKD

CLASSES = Classification(num_classes=4)
LABELS = torch.arange(6) % 4


def built(num_images: int = 64, **settings: object) -> SelfVKD:
    torch.manual_seed(0)
    return SelfVKD(torch.zeros(num_images, dtype=torch.int64), CLASSES, **settings)  # type: ignore[arg-type]


def logits(seed: int, count: int = 6) -> Tensor:
    return torch.randn(count, 4, generator=rng(seed, "logits")) + 4 * torch.eye(4)[torch.arange(count) % 4]


def train(loss: SelfVKD, steps: range, total: int = 1000) -> list[Tensor]:
    return [loss(logits(step, 16), torch.arange(16) % 4, step / total, rng(step, "draw")) for step in steps]


def with_means(loss: SelfVKD) -> Tensor:
    """Loss with known samples: those of a generator that has not begun are its class means."""
    means = torch.rand(4, 4, generator=rng(0, "means")).softmax(1)
    loss.knowledge.gan.set_means(means, torch.ones(4))
    return means


@pytest.mark.parametrize(
    ("start", "progress", "ramp"), [(0.1, 0.0, 0.0), (0.1, 0.1, 0.0), (0.1, 0.55, 0.5), (0, 0.2, 0.2)]
)
def test_both_forms_follow_their_formulas_on_the_ramp(start: float, progress: float, ramp: float) -> None:
    """Red with KL the other way round, without T^2, or with a student softened in soft1."""
    student = logits(1)
    loss = built(start=start).eval()
    q = with_means(loss)[LABELS]
    p = (student / 4).softmax(1)
    found = loss(student, LABELS, progress, rng(0, "draw"))
    torch.testing.assert_close(found, ramp * 16 * (q * (q / p).log()).sum(1), rtol=1e-4, atol=1e-6)
    loss = built(start=start, form="soft1", T=1.0).eval()
    q = with_means(loss)[LABELS]
    found = loss(student, LABELS, progress, rng(0, "draw"))
    torch.testing.assert_close(found, -ramp * (q * student.log_softmax(1)).sum(1), rtol=1e-4, atol=1e-6)


def test_the_student_learns_from_draws_once_the_generator_has_begun() -> None:
    loss = built(start=0.0)
    train(loss, range(150))
    assert loss.knowledge.gan.ready
    loss.eval()
    student = logits(3)
    draw = loss.knowledge.draw(LABELS, rng(7, "draw"))
    found = loss(student, LABELS, 0.5, rng(7, "draw"))
    torch.testing.assert_close(found, 0.5 * kd_loss(student, draw, 4.0))
    assert (loss(student, LABELS, 0.5, rng(8, "draw")) - found).abs().max() > 1e-4  # other noise, another target


def test_nothing_flows_between_student_and_generator() -> None:
    """T2. Red without no_grad around sampling, or without detach where outputs are observed."""
    loss = built(start=0.0)
    student = logits(1, 16).requires_grad_()
    for step in range(150):
        value = loss(student, torch.arange(16) % 4, 0.5, rng(step, "draw"))
    assert loss.knowledge.gan.steps > 10
    gradients = [student.grad]
    assert gradients == [None]  # steps of the generator sent nothing to the student
    assert not any(parameter.requires_grad for parameter in loss.parameters())  # no optimiser takes them for its own
    loss.eval().requires_grad_(True)  # and even if one did
    value = loss(student, torch.arange(16) % 4, 0.5, rng(0, "draw"))
    value.sum().backward()
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in loss.parameters())


def test_it_learns_from_right_outputs_in_training_alone() -> None:
    student = torch.tensor([[5.0, 0, 0, 0], [0, 5.0, 0, 0]])
    labels = torch.zeros(2, dtype=torch.int64)
    right, wrong = (student / 4).softmax(1)
    for correct_only, expected in ((True, right), (False, (right + wrong) / 2)):
        loss = built(correct_only=correct_only)
        loss.eval()(student, labels, 0.0, rng(0, "draw"))
        assert loss.knowledge.gan.observed == 0
        loss.train()(student, labels, 0.0, rng(0, "draw"))
        assert loss.knowledge.gan.observed == 1
        loss.knowledge.gan._learn()  # what waits for the updates to come
        torch.testing.assert_close(loss.knowledge.gan.means()[0], expected)


def test_a_resumed_training_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    """T7. Red when a buffer of the guard, or the mean over steps of the generator, is not stored."""
    whole = built()
    expected = train(whole, range(190))
    part = built()
    train(part, range(170))
    save_state(tmp_path / "x.safetensors", part.state_dict())
    resumed = built()
    resumed.load_state_dict(load_state(tmp_path / "x.safetensors"))
    for ours, theirs in zip(train(resumed, range(170, 190)), expected[170:], strict=True):
        assert torch.equal(ours, theirs)
    for name, value in whole.named_buffers():
        assert torch.equal(value, resumed.get_buffer(name)), name
    assert resumed.before.isfinite().all()


def drift(loss: SelfVKD, passes: list[tuple[float, float]]) -> list[float]:
    """The guard's factor after each pass over the data, of 50 updates, with outputs of this scale and of this share
    of the label's place given to others.
    """
    factors, step = [], 0
    for scale, swap in passes:
        outputs = scale * torch.eye(4)[torch.arange(16) % 4]
        outputs = torch.lerp(outputs, outputs.roll(1, 1), swap)
        for _ in range(50):
            loss(outputs, torch.arange(16) % 4, 0.5, rng(step, "draw"))
            step += 1
        factors.append(loss.factor.item())
    return factors


def test_the_guard_halves_the_weight_when_outputs_flatten_and_labels_do_not_follow() -> None:
    """F9. Red if either comparison is reversed."""
    flatter = [(8.0 - k, 0.0) for k in range(7)]  # ever softer, so the label loss grows too
    guarded = built(800)
    assert drift(guarded, flatter[:3]) == [1, 1, 1]
    assert guarded.problems == {}
    assert drift(guarded, flatter[3:]) == [0.5, 0.5, 0.5, 0.25]
    assert guarded.problems["F9"].endswith("its weight is halved to 0.25")
    assert set(drift(built(800), flatter[::-1])) == {1.0}  # ever sharper
    assert set(drift(built(800), [(6.0, 0.0)] * 5)) == {1.0}  # neither
    paid = [(scale, 1.0) for scale, _ in flatter]  # all wrong and ever softer, which is better on the labels
    assert set(drift(built(800), paid)) == {1.0}
    broken = [*flatter[:3], (9.0, 0.0), *flatter[:2]]  # two passes in a row are not three
    assert set(drift(built(800), broken)) == {1.0}
    loss = built(800).eval()
    with_means(loss)
    before = loss(logits(0), LABELS, 0.5, rng(0, "draw"))
    loss.factor.fill_(0.5)
    torch.testing.assert_close(loss(logits(0), LABELS, 0.5, rng(0, "draw")), before / 2)


def fed_back(temperature: float, classes: int = 100, share: float = 0.8, rounds: int = 300) -> float:
    """Mass on the label after rounds of: a student at the optimum of soft1, then its outputs, softened, as targets."""
    target = torch.full((1, classes), 1 / classes, dtype=torch.float64)
    label = torch.zeros(1, dtype=torch.int64)
    for _ in range(rounds):
        student = share * target
        student[:, 0] += 1 - share
        outputs = student.log().requires_grad_()
        total = (1 - share) * torch.nn.functional.cross_entropy(outputs, label)
        total = total + share * soft_targets(outputs, target.log(), T=1.0).sum()
        (gradient,) = torch.autograd.grad(total, outputs)
        assert gradient.abs().max() < 1e-12  # it is the optimum
        target = (outputs.detach() / temperature).softmax(1)  # what a generator at this temperature learns
    return target[0, 0].item()


def test_soft1_loses_the_class_when_it_feeds_on_softened_outputs() -> None:
    """T11: the fixed point of m = normalise(((1 - a) onehot + a m)^(1 / T))."""
    assert fed_back(4.0) == pytest.approx(0.023, abs=5e-4)  # 0.01 is uniform
    assert fed_back(1.0) == pytest.approx(1.0, abs=1e-6)


def test_kd_sharpens_in_every_round_when_it_feeds_on_softened_outputs() -> None:
    """The optimum of CE + T^2 KL has its own softened output above the target: T (m' - m) = 1 - s > 0."""
    margin, previous, label = 0.0, 0.0, torch.zeros(1, dtype=torch.int64)
    for _ in range(5):
        draw = torch.tensor([[margin, 0.0, 0.0, 0.0]], dtype=torch.float64)
        low, high = 0.0, 60.0
        for _ in range(60):  # the logit of the label at which the gradient vanishes
            middle = torch.tensor([[(low + high) / 2, 0.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
            total = torch.nn.functional.cross_entropy(middle, label) + kd_loss(middle, draw, 4.0).sum()
            (gradient,) = torch.autograd.grad(total, middle)
            low, high = (low, (low + high) / 2) if gradient[0, 0] > 0 else ((low + high) / 2, high)
        margin = low
        mass = math.exp(margin / 4) / (math.exp(margin / 4) + 3)
        assert mass > previous
        previous = mass


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"form": "soft1"}, "SelfVKD: form soft1 needs T=1, .* got 4.0"),
        ({"form": "soft"}, "SelfVKD: form must be kd or soft1, got 'soft'"),
        ({"T": 0.0}, r"SelfVKD: T must lie in \(0, 100\], got 0.0"),
        ({"start": 1.0}, r"SelfVKD: start must lie in \[0, 1\), got 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        built(**settings)  # type: ignore[arg-type]
