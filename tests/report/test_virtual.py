"""The report's section on a virtual teacher, checked on known facts."""

import base64
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from gankd.commands import vkd
from gankd.commands.stages import report
from gankd.config import override
from gankd.recipes import Recipe
from gankd.report.plots import group_chart, heat_map
from gankd.report.virtual import label_share, virtual_section
from gankd.tasks import Classification

QUICK = ("virtual.when=after", "virtual.polish=8", "virtual.views=1", "virtual.batch_size=32")


def test_label_share_is_one_less_the_share_that_labels_leave() -> None:
    """Eta squared from group means and spreads equals that from the rows: 1 - within / total."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 5 + [2] * 7 + [3])  # group 1 is empty, group 3 has one row
    rows = torch.rand(13, 4, generator=generator, dtype=torch.float64) + 0.3 * labels[:, None]
    own = {int(label): rows[labels == label] for label in labels.unique()}
    within = sum(float((x - x.mean(0)).square().sum()) for x in own.values())
    total = float((rows - rows.mean(0)).square().sum())
    facts = {
        "mean_p": torch.zeros(4, 4, dtype=torch.float64),
        "sd_p": torch.zeros(4, dtype=torch.float64),
        "count": labels.bincount(minlength=4),
    }
    for label, x in own.items():
        facts["mean_p"][label] = x.mean(0)
        facts["sd_p"][label] = x.var(0).sum().sqrt() if len(x) > 1 else 0.0
    assert label_share(facts) == pytest.approx(1 - within / total)


def test_label_share_of_values_is_that_of_their_read_out() -> None:
    value = torch.tensor([0.2, 0.4], dtype=torch.float64)
    facts = {"value_p": value, "mean_p": torch.rand(2, 9), "sd_p": torch.full((2,), 0.1).double()}
    facts["count"] = torch.tensor([101, 101])
    assert label_share(facts) == pytest.approx(2.02 / (2.02 + 2.0))  # 202 * 0.1 ** 2; 2 * 100 * 0.1 ** 2


def pixels(svg: str) -> NDArray[np.float64]:
    (data,) = re.findall(r'href="data:image/png;base64,([^"]+)"', svg)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA"), dtype=float)


def matrix(svg: str) -> list[float]:
    """Where the picture lies: width of a pixel, two numbers, height of a pixel, left and top."""
    found = re.search(r"<image [^>]*matrix\(([^)]+)\)", svg)
    assert found is not None
    return [float(number) for number in found[1].split()]


def test_heat_map_is_logarithmic_and_upright() -> None:
    """One pixel per number; half as dark at the geometric mean of the ends, and rows and columns keep their order."""
    svg = heat_map(
        "m", [[1.0, 0.1, 0.01], [0.001, 0.01, 0.01]], (0.01, 1.0), ["a", "b"], ["x", "y", "z"], "class", "alt"
    )
    dark = pixels(svg)[..., 3] / 255
    assert dark == pytest.approx(np.array([[1, 0.5, 0], [0, 0, 0]]), abs=0.01)
    wide, flat_x, flat_y, high = matrix(svg)[:4]
    assert wide > 0 < high  # neither mirrored ...
    assert flat_x == flat_y == 0  # ... nor turned
    places = {name: float(y) for y, name in re.findall(r'<text [^>]*y="([\d.]+)"[^>]*>([ab])</text>', svg)}
    assert places["a"] < places["b"]  # the names as well
    assert 'aria-label="alt, 2 labels by 3"' in svg


def test_heat_map_fills_its_frame_however_many_classes() -> None:
    """A pixel's width rounded to a tenth, as other numbers of a figure are, would put 200 of them 10 pixels off."""
    extents = []
    for count in (100, 200):
        names = ["n"] * count
        extents.append(count * matrix(heat_map("m", np.ones((count, count)), (0.1, 1.0), names, names, "class", ""))[0])
    assert extents[0] == pytest.approx(extents[1], abs=2)


def test_negative_correlations_are_drawn() -> None:
    """A bar to the left of zero: the axis has a negative tick, which it lacked when it began at 0."""
    assert "−1" in group_chart("g", ["a", "b"], {"x": [-1.0, 1.0]}, "rank correlation")
    assert "−" not in group_chart("g", ["a", "b"], {"x": [0.5, 1.0]}, "rank correlation")


@pytest.fixture(scope="module")
def taught(digits_run: tuple[Recipe, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    """A run with only a teacher and a virtual teacher."""
    recipe, finished = digits_run
    folder = tmp_path_factory.mktemp("taught")
    (teacher,) = finished.glob("teacher-*")
    shutil.copytree(teacher, folder / teacher.name)
    return override(recipe, QUICK), folder


def test_inspection_ends_with_a_page_of_it(taught: tuple[Recipe, Path]) -> None:
    recipe, folder = taught
    found = vkd.inspect(recipe, folder)
    assert found.report == folder / "report.html"
    assert found.text.endswith(f"report: {found.report}")
    assert found.to_dict()["report"] == str(found.report)
    page = found.report.read_text()
    section = virtual_section(found, Classification(num_classes=10))
    assert f"Virtual teacher: {section['counts'][0]} gates passed" in page
    assert "gankd vkd inspect" in page
    assert page.count('<svg role="img"') == 4 + 3  # its own; the teacher's loss and metric, and the labels
    part = re.compile(r'<section id="virtual">.*?</section>', re.DOTALL)
    assert part.findall(report(recipe, folder).read_text()) == part.findall(page)  # measured again, with equal results


def test_worst_classes_are_named_in_order(taught: tuple[Recipe, Path]) -> None:
    found = vkd.inspect(*taught)
    rank = found.virtual.facts["rank"]
    rank[:] = 1.0
    rank[[7, 2]] = torch.tensor([0.25, -0.5], dtype=torch.float64)
    found.virtual.facts["count"][3] = 0
    rank[3] = -1.0  # which says nothing: it has no outputs
    charts = virtual_section(found, Classification(num_classes=10))["charts"]
    assert "least for 2 (-0.50), 7 (0.25)," in charts[-1]["text"]
    assert "Median 1.00" in charts[-1]["text"]


def test_a_page_trains_nothing(
    digits_run: tuple[Recipe, Path], angles_run: tuple[Recipe, Path], tmp_path: Path
) -> None:
    """No virtual teacher there; and settings that none can have, which raise when it is asked for."""
    for (recipe, finished), setting in ((digits_run, "virtual.polish=8"), (angles_run, "virtual.when=beside")):
        folder = Path(shutil.copytree(finished, tmp_path / recipe.name))
        before = {path.name for path in folder.iterdir()}
        assert 'id="virtual"' not in report(override(recipe, [setting]), folder).read_text()
        assert {path.name for path in folder.iterdir()} == before


def test_one_from_elsewhere_is_not_shown_as_of_this_run(taught: tuple[Recipe, Path]) -> None:
    recipe, folder = taught
    vkd.train(recipe, folder)
    text = report(override(recipe, ["student.virtual=another.safetensors"]), folder).read_text()
    assert 'id="virtual"' not in text
    assert "Virtual teacher: " not in text


def test_a_virtual_teacher_that_cannot_be_read_is_a_note(taught: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, finished = taught
    vkd.inspect(recipe, finished)
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    (bank,) = folder.glob("virtual-*/bank.safetensors")
    bank.unlink()
    text = report(recipe, folder).read_text()
    assert 'id="virtual"' not in text
    assert "<li>Virtual teacher: " in text


def test_values_have_their_own_charts(angles_run: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, finished = angles_run
    (teacher,) = finished.glob("teacher-*")
    shutil.copytree(teacher, tmp_path / teacher.name)
    found = vkd.inspect(override(recipe, QUICK), tmp_path)
    assert found.report is not None
    text = found.report.read_text()
    assert "Place of outputs among samples" in text
    assert "standard deviation, degrees" in text
    assert "Gaussian per class" not in text
