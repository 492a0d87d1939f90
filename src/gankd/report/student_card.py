"""Model card of an exported student, as a Markdown page beside its file."""

from typing import Any

from gankd.bench.shipment import Shipment
from gankd.data.images import Splits
from gankd.report.tables import EXPLAINED, METRIC_WORDS
from gankd.sizes import sides
from gankd.tasks import Task

ONNX = """```python
import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession("{file}")
pixels = np.asarray(Image.open("photo.jpg").convert("{mode}"))  # upright, of any size
image = pixels.reshape(1, *pixels.shape[:2], {channels}).transpose(0, 3, 1, 2)
(outputs,) = session.run(None, {{"image": image}})
```"""
TORCH_EXPORT = """```python
import torch

graph = torch.export.load("{file}").module()  # only of people you trust: such files can run code
outputs = graph(image)  # uint8 (N, {channels}, height, width)
```"""
SAFETENSORS = """```python
from gankd.models.files import load_model

model, task = load_model("{file}")
outputs = model(image)  # uint8 (N, {channels}, {high}, {wide}) to logits or values
```"""
EXECUTORCH = """```python
from executorch.runtime import Runtime

forward = Runtime.get().load_program("{file}").load_method("forward")
(outputs,) = forward.execute([image])  # uint8 (1, {channels}, height, width), sides up to 4096
```"""
SNIPPETS = {"onnx": ONNX, "torch-export": TORCH_EXPORT, "executorch": EXECUTORCH, "safetensors": SAFETENSORS}


def student_card(file: str, card: dict[str, Any], found: Shipment, splits: Splits, arms: str, limit: str) -> str:
    """The page.

    Args:
        file: name of the exported file.
        card: its card.
        found: its comparison with PyTorch.
        splits: the images.
        arms: table of every arm of the run on test images.
        limit: the guarantee in a sentence.
    """
    task, mode = splits.task, "L" if card["channels"] == 1 else "RGB"
    words = METRIC_WORDS.get(task.metric, task.metric)
    origin, licence = (str(splits.card.get(name, "not known")) for name in ("origin", "licence"))
    counts = f"{len(splits.train):,} training, {len(splits.val):,} validation and {len(splits.test):,} test images"
    high, wide = sides(card["size"])
    parts = [
        f"# {file}",
        f"Student `{card['model']}` of the arm `{card['arm']}`, seed {card['seed']}, trained with gankd. "
        f"It reads {'grey' if mode == 'L' else 'colour'} images and predicts {task.description}.",
        "## Use",
        f"`gankd predict {file} PHOTO...`, or in Python:",
        SNIPPETS[card["format"]].format(file=file, mode=mode, channels=card["channels"], high=high, wide=wide),
        _outputs(task, card),
        "## Measured",
        f"- {words} on {found.images:,} test images, with its 95 % interval over images: {found.text(task)}",
        f"- {limit}",
        "The same validation images chose the student, so the limit may promise a little too much: the share on test "
        "images is measured.",
        "## Controls",
        EXPLAINED,
        arms,
        "## Data",
        f"{origin}. Licence: {licence}. {counts}.",
        "## Intended use",
        "For images like those of the data: same kind of object, camera and preparation. Nothing was measured on other "
        "images, and nothing for groups of people or of objects apart from the labels. Check it on images of your own "
        "before you rely on it, and do not let it decide about people.",
    ]
    return "\n\n".join(parts).replace("\n\n- ", "\n- ") + "\n"


def _outputs(task: Task, card: dict[str, Any]) -> str:
    form = "square" if isinstance(card["size"], int) else "part of this form"
    size = f"The central {form} is cropped and resampled to {card['size']} pixels"
    inside = f"{size} in the graph" if card["format"] != "safetensors" else f"{size} by `gankd predict`"
    if not task.label_names:
        return f"{inside}. Outputs are values{f' in {task.metric_unit}' if task.metric_unit else ''}."
    names = ", ".join(task.label_names[:100]) + (" ..." if len(task.label_names) > 100 else "")
    return f"{inside}. Outputs are {'probabilities' if card['format'] != 'safetensors' else 'logits'} of: {names}."
