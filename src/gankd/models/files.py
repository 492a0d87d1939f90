"""Trained networks as one file for other programs: weights under their own names, and a card."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from gankd.config import require
from gankd.errors import CheckpointError, TrustError
from gankd.hub import pulled_file
from gankd.models import build_net, is_own
from gankd.models.contract import Ensemble, ImageModel
from gankd.models.weights import load_weights
from gankd.own_code import IN_MEMORY
from gankd.sizes import is_size
from gankd.storage import fitting, read_card, save_weights
from gankd.tasks import Task, task_from_dict, task_to_dict

LARGEST = 4096
"""Side in pixels of the largest images that a card may ask for."""


def card_of(model: ImageModel, name: str, task: Task, facts: dict[str, Any] | None = None) -> dict[str, Any]:
    """Plain data that describe input and output of a network, for its file.

    `output = offset + factor * net((image / 255 - mean) / std)`, with images of `channels` and `size`, a side or
    height and width as in 48x64.

    Args:
        model: a single network, not an ensemble.
        name: a zoo name or module:name.
        task: task of the outputs.
        facts: plain data to store in the card.
    """
    assert not isinstance(model.net, Ensemble)
    return {
        "model": name,
        "channels": model.mean.numel(),
        "size": model.size,
        "mean": model.mean.flatten().tolist(),
        "std": model.std.flatten().tolist(),
        "offset": model.offset,
        "factor": model.factor,
        "task": task_to_dict(task),
        **(facts or {}),
    }


def save_model(path: Path, model: ImageModel, name: str, task: Task, facts: dict[str, Any] | None = None) -> None:
    """Write weights under the network's own names, so that any program can load them, and a card with all the rest.

    Args:
        path: ends in .safetensors.
        model, name, task, facts: as for `card_of`; the card is JSON in the header of the file.
    """
    save_weights(path, model.net.state_dict(), card_of(model, name, task, facts))


def load_model(path: Path | str, *, trust: bool = False, network: nn.Module | None = None) -> tuple[ImageModel, Task]:
    """Inverse of `save_model`: the network in eval mode, which takes uint8 images (N, C, H, W), and its task.

    Args:
        path: the file, or hf:user/name.
        trust: import the module that the card names if the network is the author's own (module:name). Only for files
            whose author you trust: the module runs with your rights.
        network: gets the weights, in place of one that is built by the card's name; needed for students that were
            trained from networks in memory.

    Raises:
        CheckpointError: the file is missing or damaged, or has no card. TrustError: its card names code.
        ModelError: its network cannot be built here.
    """
    path = pulled_file(path)
    card, weights = read_card(path), load_weights(path)
    try:
        task = task_from_dict(card["task"])
        own = network is None and is_own(card["model"])
        if own and card["model"].startswith(IN_MEMORY):
            raise CheckpointError(
                f"{path} was trained from a network in memory; give one like it: load_model(path, network=...)"
            )
        if own and not trust:
            raise TrustError(
                f"{path} names the network {card['model']!r}, code that is not part of gankd and is not run unasked; "
                "if you trust the file and that module: load_model(path, trust=True)"
            )
        name, channels, size = str(card["model"]), int(card["channels"]), card["size"]
        require(
            isinstance(size, int | str) and is_size(size),
            f"{path}: the card's size must lie in 1..{LARGEST}, got {size}",
        )

        def make() -> torch.nn.Module:
            return build_net(name, in_channels=channels, image_size=size, num_outputs=task.head_size, seed=0)

        # The author's own may be anything.
        problem = f"{path} does not hold its network"
        net = network or (make() if is_own(name) else fitting(make, weights, problem))
        net.load_state_dict(weights)
        mean, std = torch.tensor(card["mean"]), torch.tensor(card["std"])
        model = ImageModel(net, size=size, mean=mean, std=std, offset=card["offset"], factor=card["factor"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path} was not written by gankd export ({type(error).__name__} {reason})") from None
    return model.eval(), task
