"""How much one has to read to follow an update from the loop to the gradient."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import gankd
from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.models import build_net
from gankd.models.contract import ImageModel
from gankd.runs import Stage
from gankd.seeds import rng
from gankd.tasks import Classification, Regression, Task
from gankd.training.distill import distill
from gankd.training.lesson import DistillConfig, Fakes, Lesson

ROOT = Path(gankd.__file__).parent
NOT_READ = {"config.py", "losses/distillation/label.py", "models/cnn.py", "models/resnet.py", "models/parts.py"}
"""`require` and the label loss, whose names say all, and the two networks."""


class Traced(Stage):
    """One update, with the files of gankd that run in it."""

    def __init__(self) -> None:
        super().__init__("traced")
        self.files: set[str] = set()

    def steps(self, total: int, **state: Any) -> Iterator[int]:
        before = sys.getprofile()
        sys.setprofile(self._note)
        try:
            yield 0
        finally:
            sys.setprofile(before)

    def report(self, images: int, **terms: torch.Tensor) -> None:
        sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(ROOT):
            self.files.add(str(path.relative_to(ROOT)))


@pytest.mark.parametrize("task", [Classification(num_classes=3), Regression(low=0.0, high=2.0)])
def test_an_update_is_read_in_eight_files_and_1500_lines(task: Task) -> None:
    images = torch.randint(256, (24, 1, 16, 16), dtype=torch.uint8, generator=rng(0, "images"))
    data = LabelledImages(images, task.sample_labels(24, torch.arange(3), "uniform", rng(0, "labels")), task)

    def network(name: str) -> ImageModel:
        net = build_net(name, in_channels=1, image_size=16, num_outputs=task.head_size, seed=0)
        return ImageModel.for_data(net, data)

    stage, config = Traced(), DistillConfig(updates=4, batch_size=8, augment=("shift",))
    engine, lesson = Engine(torch.device("cpu"), bf16=False, channels_last=False), Lesson("KD", network("resnet8"))
    fakes = Fakes(data.images, data.labels)
    distill(network("cnn4"), data, data, config, engine, 0, lesson=lesson, fakes=fakes, stage=stage)
    read = stage.files - NOT_READ
    assert {"training/distill.py", "training/criterion.py", "losses/distillation/kd.py"} <= read
    assert len(read) <= 8, " ".join(sorted(read))
    assert sum(len((ROOT / name).read_text().splitlines()) for name in read) <= 1500
