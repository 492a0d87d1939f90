"""Virtual teachers trained alongside and after the teacher: the teacher stays as it is, the generator learns."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.models import build_net
from gankd.models.contract import ImageModel
from gankd.runs import Stage
from gankd.seeds import rng
from gankd.tasks import Classification, Regression, Task
from gankd.training.supervised import SupervisedConfig, train_supervised
from gankd.virtual.gan import KnowledgeGan, VirtualConfig, label_means
from gankd.virtual.teacher import Bank, VirtualTeacher
from gankd.virtual.training import Watcher, polish

CLASSES, VALUES = Classification(num_classes=3), Regression(low=-10.0, high=30.0)
PLAIN = Engine(torch.device("cpu"), bf16=False, channels_last=False)
CONFIG = SupervisedConfig(updates=40, batch_size=8, lr=1e-2, augment=("shift",))


def toy(task: Task, count: int = 48) -> LabelledImages:
    """Brightness tells the label."""
    labels = task.sample_labels(count, torch.arange(3), "uniform", rng(0, "toy labels"))
    level = task.hard_labels(labels).float() * (60 if task.kind == "classification" else 180)
    noise = torch.randint(40, (count, 1, 8, 8), generator=rng(0, "toy"))
    return LabelledImages((level[:, None, None, None] + noise).to(torch.uint8), labels, task)


def network(task: Task, data: LabelledImages) -> ImageModel:
    net = build_net("cnn8", in_channels=1, image_size=8, num_outputs=task.head_size, seed=1)
    return ImageModel.for_data(net, data)


def taught(watcher: Watcher | None = None, stage: Stage | None = None) -> dict[str, Tensor]:
    data = toy(CLASSES)
    model = network(CLASSES, data)
    torch.manual_seed(7)
    train_supervised(model, data, data, CONFIG, PLAIN, 3, stage, beside=watcher)
    return model.state_dict()


def virtual_config(**settings: Any) -> VirtualConfig:
    given: dict[str, Any] = {"warmup": 8, "every": 2, "polish": 30, "batch_size": 32, "bins": 10}
    return VirtualConfig(**(given | settings))


def test_the_teacher_is_bit_identical_with_a_generator_beside_it(tmp_path: Path) -> None:
    """T1, A14. Red if a gradient flows back, or global random numbers are used."""
    without = taught()
    gan = KnowledgeGan(CLASSES, virtual_config(), seed=0)
    watched = taught(Watcher(gan, CLASSES, CONFIG.updates, tmp_path))
    assert gan.steps == (40 - 8) // 2
    assert all(torch.equal(without[name], watched[name]) for name in without)
    state, outputs = torch.get_rng_state(), torch.zeros(4, 3, requires_grad=True)
    for _ in range(2):
        gan.observe(outputs * 2, torch.tensor([0, 1, 2, 0]))
    assert gan.steps == 17
    assert torch.equal(torch.get_rng_state(), state)
    assert outputs.grad is None


def test_snapshots_are_kept_along_the_way(tmp_path: Path) -> None:
    gan = KnowledgeGan(CLASSES, virtual_config(), seed=0)
    taught(Watcher(gan, CLASSES, CONFIG.updates, tmp_path))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"{step:06d}.safetensors" for step in range(12, 41, 4)]  # none before it begins
    last = VirtualTeacher.load(tmp_path / names[-1])
    assert last.facts == {"updates": 40}
    z = torch.randn(5, gan.ema.z_dim, generator=rng(1))
    labels = torch.tensor([0, 1, 2, 0, 1])
    torch.testing.assert_close(last.draw(labels, z), 4 * gan.ema(z, labels), atol=0.02, rtol=0.01)  # float16


def test_a_resumed_pair_ends_as_the_undisturbed_one(tmp_path: Path) -> None:
    def pair(folder: Path, stop: int | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
        gan = KnowledgeGan(CLASSES, virtual_config(), seed=0)
        stage = Stage("pair", folder, checkpoint_seconds=0.0)
        if stop is not None:
            steps = stage.steps

            def interrupted(total: int, **state: Any) -> Any:
                for step in steps(total, **state):
                    if step == stop:
                        raise KeyboardInterrupt
                    yield step

            stage.steps = interrupted  # type: ignore[method-assign]
            with pytest.raises(KeyboardInterrupt):
                taught(Watcher(gan, CLASSES, CONFIG.updates, folder), stage)
            return pair(folder, None)
        model = taught(Watcher(gan, CLASSES, CONFIG.updates, folder), stage)
        return model, {name: value for name, value in gan.state_dict().items() if isinstance(value, Tensor)}

    for undisturbed, resumed in zip(pair(tmp_path / "a", None), pair(tmp_path / "b", 23), strict=True):
        assert all(torch.equal(undisturbed[name], resumed[name]) for name in undisturbed)


def test_polishing_fits_the_stored_outputs(tmp_path: Path) -> None:
    """Two modes per class: only a generator of means would put every sample between them."""
    labels = torch.arange(600) % 3
    side = torch.randint(2, (600,), generator=rng(0)).float() * 2 - 1
    logits = 8 * torch.nn.functional.one_hot(labels, 3).float()
    logits += 4 * side[:, None] * torch.nn.functional.one_hot((labels + 1) % 3, 3)
    bank = Bank(logits, labels)
    gan = KnowledgeGan(CLASSES, virtual_config(polish=600, batch_size=128, lr=2e-3, ema=0.99), seed=0)
    polish(gan, bank, Stage("polish", tmp_path))
    probs = (logits / 4).softmax(1)
    torch.testing.assert_close(gan.means(), label_means(probs, labels, 3)[0])
    draws = gan.draw(labels, rng(1)).softmax(1)
    next_class = draws[torch.arange(600), (labels + 1) % 3]
    for x, least in ((probs[torch.arange(600), (labels + 1) % 3], 0.99), (next_class, 0.9)):
        middle = (x.max() + x.min()) / 2
        # 1 for two points, 0.87 for anything between them equally often, 0.80 for a Gaussian
        assert (x - middle).abs().mean() / (x - middle).square().mean().sqrt() > least
        assert 0.4 < (x > middle).float().mean() < 0.6
    assert 0.85 < next_class.std() / probs[torch.arange(600), (labels + 1) % 3].std() < 1.15
