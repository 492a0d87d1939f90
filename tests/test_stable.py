"""What docs/stable.md promises: names that were there stay, and files of earlier versions are read.

The files in tests/stable are as version 0.1 wrote them and are never written again. A release adds what is new:
`python tests/test_stable.py`.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import gankd
from gankd.cli.parser import COMMANDS
from gankd.commands.stages import stored_run
from gankd.models.exported import SUFFIXES, open_exported
from gankd.models.files import load_model
from gankd.recipes import RECIPES
from gankd.recipes.config import Recipe
from gankd.settings import settings_of

STABLE = Path(__file__).parent / "stable"
NAMES = STABLE / "names.json"


def names() -> dict[str, list[str]]:
    """All that programs and command lines of users may name."""
    options = [f"{command.name} {option.flags[0]}" for command in COMMANDS for option in command.options]
    return {
        "python": sorted(gankd.__all__),
        "settings": sorted(setting.name for setting in settings_of(Recipe)),
        "recipes": sorted(RECIPES),
        "commands": sorted({*(command.name for command in COMMANDS), *options}),
        "formats": sorted(SUFFIXES.values()),
    }


@pytest.mark.parametrize("kind", ["python", "settings", "recipes", "commands", "formats"])
def test_no_name_is_lost(kind: str) -> None:
    """A name is taken back only in a new minor version, with a line in CHANGELOG.md that says what to write instead."""
    kept = json.loads(NAMES.read_text())[kind]
    assert len(kept) > 3
    assert sorted(set(kept) - set(names()[kind])) == []


def test_exported_students_of_earlier_versions_are_read() -> None:
    image = np.arange(64, dtype=np.uint8).reshape(1, 1, 8, 8) * 3
    expected = json.loads((STABLE / "student.json").read_text())
    found = open_exported(STABLE / "student.safetensors")
    np.testing.assert_allclose(found.run(image)[0], expected["probabilities"], atol=1e-5)
    assert found.task.label_names == ("cat", "dog", "owl")
    assert found.limit is not None
    assert found.limit.limit == 0.5
    model, _ = load_model(STABLE / "student.safetensors")
    with torch.no_grad():
        np.testing.assert_allclose(model(torch.from_numpy(image))[0], expected["logits"], atol=1e-4)


def test_graphs_of_earlier_versions_are_read() -> None:
    pytest.importorskip("onnxruntime")
    image = np.arange(64, dtype=np.uint8).reshape(1, 1, 8, 8) * 3
    expected = json.loads((STABLE / "student.json").read_text())
    found = open_exported(STABLE / "student.onnx")
    np.testing.assert_allclose(found.run(image)[0], expected["probabilities"], atol=1e-5)


def test_settings_of_runs_of_earlier_versions_are_read(tmp_path: Path) -> None:
    shutil.copy(STABLE / "run.json", tmp_path)
    recipe, arms = stored_run(tmp_path)
    assert (recipe.name, recipe.gan.steps, recipe.student.loss) == ("digits", 1234, "Label + 0.8*DKD")
    assert arms is not None


if __name__ == "__main__":
    kept = json.loads(NAMES.read_text()) if NAMES.is_file() else {}
    merged = {kind: sorted({*kept.get(kind, ()), *found}) for kind, found in names().items()}
    NAMES.write_text(json.dumps(merged, indent=1) + "\n")
