"""Quality of a generator while it is trained, judged by the teacher, and when further training is pointless."""

import torch

from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.errors import TrainingError
from gankd.generators.external import Generator
from gankd.generators.health import PrincipalAxes, frechet_distance, variance_ratio
from gankd.models.contract import ImageModel, predict_with_features
from gankd.runs import Stage
from gankd.seeds import BLOCK, rng


class HealthCheck:
    """Judges a generator by the teacher, against real images of the same labels."""

    def __init__(self, teacher: ImageModel, real: LabelledImages, engine: Engine, seed: int, count: int = 1024) -> None:
        self.teacher, self.engine, self.seed, self.task = teacher, engine, seed, real.task
        self.real_labels = real.labels.cpu()
        outputs, features = predict_with_features(teacher, real.images, engine)
        self.axes = PrincipalAxes(features)  # few numbers per image, so that a covariance can be estimated
        self.real_features = self.axes(features).cpu()
        self.real_score = self.task.metrics(outputs.cpu(), self.real_labels)[self.task.metric]
        labels = self.task.sample_labels(count, self.real_labels, "empirical", rng(seed, "health labels"))
        self.labels = labels

    def __call__(self, generator: Generator) -> dict[str, float]:
        """teacher: top-1 (%) or mean |teacher - label| on fakes; variance_ratio; frechet."""
        # The same labels and noise at every check: differences come from the generator.
        images = torch.cat(
            [
                generator.sample(chunk, generator=rng(self.seed, "health", block))
                for block, chunk in enumerate(self.labels.split(BLOCK))
            ]
        )
        outputs, features = predict_with_features(self.teacher, images, self.engine)
        features = self.axes(features).cpu()  # (N, A)
        groups, real_groups = self.task.groups(self.labels), self.task.groups(self.real_labels)
        return {
            "teacher": self.task.metrics(outputs.cpu(), self.labels)[self.task.metric],
            "variance_ratio": variance_ratio(features, groups, self.real_features, real_groups),
            "frechet": frechet_distance(features, self.real_features),
        }


COLLAPSED = 0.1
"""A generator whose features vary less than this share of the real ones within a label makes copies."""


def refuse_collapse(stage: Stage, done: float) -> None:
    """Stop a run whose last two checks found copies, past a fifth of it (`done`, a share).

    Raises:
        TrainingError: the generator has collapsed.
    """
    ratios = [line["variance_ratio"] for line in stage.history if "variance_ratio" in line]
    recent = ratios[-2:]  # one check may be unlucky
    if done > 0.2 and len(recent) == 2 and all(ratio < COLLAPSED for ratio in recent):
        raise TrainingError(
            f"gan: the generator collapsed: within a label its images vary {recent[-1]:.2f} times as much as real ones "
            f"(two checks below {COLLAPSED}); the last good checkpoint is kept; lower gan.lr_d, or try "
            "gan.loss=relativistic with gan.penalty=r1r2, or gan.diff_augment"
        )
