"""README.md of a repository on the Hugging Face Hub: what the hub reads of it, and cards of teachers and generators."""

import json
from typing import Any

from gankd.data.images import Splits
from gankd.tasks import Task


def hub_page(page: str, task: Task, licence: str, name: str, command: str) -> str:
    """A card with the header that the hub reads, and how it is used from there.

    Args:
        page: the card in Markdown.
        task: of the labels.
        licence: of what is pushed, as the hub knows it (mit, cc-by-4.0); empty: not said.
        name: hf:user/name; empty where it goes into a folder.
        command: the command that uses it, without the name.
    """
    facts: dict[str, Any] = {"library_name": "gankd", "tags": ["gankd", "knowledge-distillation"]}
    if licence:
        facts["license"] = licence
    if task.label_names:
        facts["pipeline_tag"] = "image-classification"
    header = "\n".join(f"{name}: {json.dumps(value)}" for name, value in facts.items())
    title, _, rest = page.partition("\n")
    use = f"\n\n```sh\npip install 'gankd[hub]'\n{command.format(name=name)}\n```\n" if name else "\n"
    return f"---\n{header}\n---\n{title}{use}{rest}"


def teacher_card(model: str, splits: Splits, val: dict[str, float]) -> str:
    """Card of a teacher.

    Args:
        model: name of the network.
        splits: the images.
        val: its metrics on validation images.
    """
    measured = ", ".join(f"{name} {value:.4g}" for name, value in val.items())
    return "\n\n".join(
        [
            f"# Teacher {model}",
            f"Network `{model}`, a teacher of gankd, which predicts {splits.task.description}. On "
            f"{len(splits.val):,} validation images: {measured}.",
            _data(splits),
            "`gankd.load_model` returns it with its task. Nothing was measured on other images than those of the data.",
        ]
    )


def generator_card(splits: Splits, health: dict[str, Any]) -> str:
    """Card of a generator.

    Args:
        splits: the images that it was trained on.
        health: its last check while it was trained.
    """
    measured = ", ".join(f"{name} {value:.4g}" for name, value in health.items() if isinstance(value, float))
    _, high, wide = splits.train.shape
    return "\n\n".join(
        [
            "# Generator",
            f"It makes images of {high} x {wide} pixels from {splits.task.description}, to teach small networks with. "
            f"At its last check: {measured}.",
            _data(splits),
            "Its images resemble its training images, and some may be close to one of them: share it only if you could "
            "share those.",
        ]
    )


def _data(splits: Splits) -> str:
    origin, licence = (str(splits.card.get(name, "not known")) for name in ("origin", "licence"))
    return f"Trained on {len(splits.train):,} images. Data: {origin}. Licence of the data: {licence}."
