"""The trained networks of a run, to call from Python."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from gankd.bench.compare import chosen_by_validation
from gankd.errors import ConfigError
from gankd.generators.external import Generator
from gankd.models.contract import ImageModel
from gankd.recipes.arms import Arm
from gankd.recipes.experiment import Experiment
from gankd.recipes.generated import finished_generator
from gankd.recipes.stages import Cell, declare
from gankd.recipes.students import restore_student
from gankd.recipes.teacher import finished_teacher


@dataclass(frozen=True)
class Trained:
    """Networks of an experiment, each restored when first asked for, in eval mode on the run's device.

    Teacher and student take uint8 images (N, C, H, W), or floats in [0, 1] of that shape, and give logits (N, K) or
    values (N,) in label units; their attribute `net` is the network itself, for images that are normalised already.
    """

    experiment: Experiment
    arms: Sequence[Arm]

    def cell(self, arm: str | None = None, seed: int | None = None) -> Cell | None:
        """The student that is best on validation images, of this arm and seed if given; None if none is finished.

        Without an arm it is of the arm whose students are best on average, controls included.
        """
        seeds, task = range(self.experiment.recipe.seeds), self.experiment.splits.task
        stages = declare(self.experiment, self.arms, seeds).students
        wanted = arm or chosen_by_validation(self.experiment, self.arms).best
        done = {cell: stage.result or {} for cell, stage in stages.items() if stage.done}
        mine = [cell for cell in done if cell[0] == wanted and seed in (None, cell[1])]
        sign = 1 if task.higher_is_better else -1
        return max(mine, key=lambda cell: sign * done[cell]["val"][task.metric], default=None)

    @cached_property
    def student(self) -> ImageModel:
        """The student that `export` would write.

        Raises:
            ConfigError: none is finished.
        """
        cell = self.cell()
        if cell is None:
            raise ConfigError(f"no finished student in {self.experiment.run.folder}; train one with student or run")
        (arm,) = (arm for arm in self.arms if arm.name == cell[0])
        return restore_student(self.experiment, arm, declare(self.experiment, [arm], [cell[1]]).students[cell])

    @cached_property
    def teacher(self) -> ImageModel:
        """The run's teacher.

        Raises:
            ConfigError: no arm needed it.
        """
        return finished_teacher(self.experiment, self.experiment.recipe.teacher)

    @cached_property
    def generator(self) -> Generator:
        """The generator: `sample(labels, generator=torch.Generator())` gives uint8 images (N, C, H, W).

        Raises:
            ConfigError: no arm needed it.
        """
        return finished_generator(self.experiment, self.experiment.recipe.gan)
