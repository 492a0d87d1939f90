"""Training of the part of a loss that learns from the teacher before the student starts."""

import inspect
from collections.abc import Callable

from gankd.losses.distillation.spec import LossModule
from gankd.runs import Stage
from gankd.training.criterion import blamed_on
from gankd.training.lesson import DistillConfig
from gankd.training.rows import Signals
from gankd.training.supervised import make_optimizer


def pretrain(part: LossModule, inputs: Callable[[int], Signals], config: DistillConfig, stage: Stage) -> None:
    """Train a loss's part that learns from the teacher, then freeze it; `inputs` gives those of each step."""
    names = tuple(inspect.signature(part.pretraining).parameters)
    updates = max(1, round(part.pretrain * config.updates))
    optimizer, schedule = make_optimizer(part.pretrained, config, updates)
    for step in stage.steps(updates, module=part.pretrained, optimizer=optimizer, schedule=schedule):
        part.pretrained.train()
        found = inputs(step) | {"progress": step / updates}
        with blamed_on(type(part).__name__):
            loss = part.pretraining(*[found[name] for name in names])

        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        stage.report(config.batch_size, loss=loss.detach())
    part.pretrained.requires_grad_(False)
