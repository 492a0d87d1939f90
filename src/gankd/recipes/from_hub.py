"""Teachers and generators of the Hugging Face Hub in the settings of a run."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from gankd.errors import CheckpointError, HubError
from gankd.hub import is_hub, pull, pull_network, pulled_file, the_one
from gankd.models import is_own
from gankd.recipes.config import Recipe, TeacherConfig
from gankd.storage import read_card

PIPELINE = "model_index.json"
IN_PIPELINE = (".json", ".txt", ".safetensors")
VARIANTS = (".fp16.", ".bf16.", ".non_ema.")
"""Parts of the names of weights that a pipeline has besides those that it reads by default."""
SETS = ("generator.safetensors", ".npz", ".h5", ".hdf5")


def pulled(recipe: Recipe) -> Recipe:
    """The recipe with files of this machine for what is on the hub, downloaded where they are not yet here.

    A run keeps these settings, so it goes on with the same files whatever becomes of the repository.

    Raises:
        HubError: they cannot be had. CheckpointError: a repository holds something that cannot be used here.
    """
    teacher, generator = recipe.teacher, recipe.gan.external
    if is_hub(teacher.model):
        recipe = replace(recipe, teacher=pulled_teacher(teacher))
    elif is_hub(teacher.weights):
        recipe = replace(recipe, teacher=replace(teacher, weights=str(pulled_file(str(teacher.weights)))))
    if generator is not None and is_hub(generator):
        recipe = replace(recipe, gan=replace(recipe.gan, external=pulled_generator(generator)))
    return recipe


def pulled_teacher(config: TeacherConfig) -> TeacherConfig:
    """Settings of a teacher whose model is on the hub: a graph of ONNX, weights of gankd, or of timm.

    Its normalisation, size and classes are those that the repository names, where the settings have no others.
    """
    name, files = config.model, pull_network(config.model)
    path = next(iter(files.values()))
    if path.suffix == ".onnx":
        return replace(config, model=str(path))
    card = read_card(path)
    if card:
        network = str(card.get("model", ""))
        if not network or is_own(network):
            raise CheckpointError(
                f"{name} is a network of its author's own code ({network}), which is not run; if you have that code: "
                f"teacher.model={network or 'my_nets:Net'} teacher.weights={name}"
            )
        return replace(config, model=network, weights=str(path))
    described = _json(files["config.json"]) if "config.json" in files else {}
    architecture = described.get("architecture")
    if not isinstance(architecture, str):
        of = "of transformers" if "architectures" in described else "whose architecture it does not name"
        raise CheckpointError(
            f"{name} is a network {of}; give its architecture as teacher.model (timm:NAME, module:name) and "
            f"teacher.weights={name}, or export it to ONNX"
        )
    return _of_timm(config, architecture, described, path)


def _of_timm(config: TeacherConfig, architecture: str, described: dict[str, Any], path: Path) -> TeacherConfig:
    own: Any = described.get("pretrained_cfg")
    own = own if isinstance(own, dict) else {}
    found: dict[str, Any] = {"model": f"timm:{architecture}", "weights": str(path)}
    for setting in ("mean", "std"):
        if getattr(config, setting) is None and isinstance(own.get(setting), list):
            found[setting] = tuple(map(float, own[setting]))
    size = own.get("input_size")
    if config.input_size is None and isinstance(size, list) and len(size) == 3 and size[1] == size[2]:
        found["input_size"] = int(size[1])
    names = described.get("label_names")
    if not config.class_names and isinstance(names, list) and len(names) > 1:
        found["class_names"] = tuple(map(str, names))
    return replace(config, **found)


def pulled_generator(name: str) -> str:
    """Text for `gan.external`: the folder of a pipeline, a generator of gankd, or a file of labelled images."""

    def choose(files: list[str]) -> list[str]:
        if PIPELINE in files:
            chosen = [file for file in files if file.endswith(IN_PIPELINE)]
            return [file for file in chosen if not any(part in file for part in VARIANTS)]
        return [the_one(files, SETS, name)]

    asked = pull(name, choose)
    if PIPELINE in asked:
        return f"diffusers:{asked[PIPELINE].parent}"
    return str(next(iter(asked.values())))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (ValueError, OSError, RecursionError) as error:
        raise HubError(f"{path} is not readable JSON ({error})") from None
    return found if isinstance(found, dict) else {}
