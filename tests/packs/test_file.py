"""Packs as files: the images come out bit for bit, and a damaged or hostile file is refused in one line."""

import json
import os
import resource
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gankd.commands.pack import inspect_pack, pack
from gankd.errors import CheckpointError
from gankd.packs.audit import Pairs
from gankd.packs.file import Pack, loss_from_strangers
from gankd.recipes import Recipe
from gankd.recipes.arms import arm_named
from gankd.recipes.cgan_kd import arm_images
from gankd.recipes.experiment import Experiment
from gankd.recipes.stages import declare
from gankd.report.pack import Inspected, write_pack_page
from gankd.runs import Run
from gankd.storage import load_state, save_state
from gankd.tasks import Classification

Made = tuple[Recipe, Path, Path]
"""Settings and folder of a run, and its pack."""


def packed(run: tuple[Recipe, Path], factory: pytest.TempPathFactory) -> Made:
    path = factory.mktemp("pack") / "small.safetensors"
    pack(*run, path)
    return *run, path


@pytest.fixture(scope="module")
def digits(digits_run: tuple[Recipe, Path], tmp_path_factory: pytest.TempPathFactory) -> Made:
    return packed(digits_run, tmp_path_factory)


@pytest.fixture(scope="module")
def angles(angles_run: tuple[Recipe, Path], tmp_path_factory: pytest.TempPathFactory) -> Made:
    return packed(angles_run, tmp_path_factory)


@pytest.fixture(params=["digits", "angles"])
def made(request: pytest.FixtureRequest) -> Made:
    found: Made = request.getfixturevalue(request.param)
    return found


def test_images_labels_and_outputs_are_those_of_the_run(made: Made) -> None:
    recipe, folder, path = made
    experiment = Experiment.open(recipe, Run(folder))
    arm = arm_named(recipe, "adjusted")
    chosen = arm_images(experiment, arm, declare(experiment, [arm]))
    order = chosen.index.argsort()
    found = Pack.load(path)
    assert len(found) == len(chosen)
    assert torch.equal(found.images(), chosen.images()[order])  # bit for bit
    assert torch.equal(found.labels[found.index], chosen.source.labels[chosen.index[order]])
    task = found.task
    exact = chosen.teacher_outputs[order].float()
    near = task.shares(found.outputs), task.shares(exact)
    torch.testing.assert_close(*near, atol=0.03, rtol=0)
    torch.testing.assert_close(found.adjusted.float(), chosen.labels[order].float(), atol=0.05, rtol=0)


def test_a_pack_is_read_as_it_was_written(made: Made, tmp_path: Path) -> None:
    first = Pack.load(made[2])
    first.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == made[2].read_bytes()
    assert Pack.load(tmp_path / "again.safetensors").fingerprint == first.fingerprint
    assert made[2].stat().st_size < 400_000


def test_the_page_shows_the_audit_and_warns_of_its_own_images(made: Made) -> None:
    html = made[2].with_suffix(".html").read_text()
    for words in ("These are real training images", "differential privacy is not promised", "made again from seed"):
        assert words in html
    assert "<script" not in html
    assert "http" not in html.replace("http://www.w3.org", "")


def test_inspection_in_words(made: Made) -> None:
    recipe, _, path = made
    shown = inspect_pack(path)
    for words in (f"recipe {recipe.name}", "not in the pack: cnn8", "audit", "next: gankd student"):
        assert words in shown.text
    assert json.loads(json.dumps(shown.to_dict()))["card"]["audit"]["members"] == 80
    assert max(map(len, shown.text.splitlines())) <= 120


# --- files from strangers -----------------------------------------------------------------------------------


@pytest.fixture
def digits_pack(digits: Made, tmp_path: Path) -> Path:
    """A copy of a pack of classes that a test may change."""
    return Path(shutil.copy(digits[2], tmp_path / "p.safetensors"))


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        Pack.load(path)
    text = str(caught.value)
    assert text.isprintable(), text
    assert path.name in text
    return text


def test_every_flipped_byte_is_noticed(digits_pack: Path) -> None:
    content = bytearray(digits_pack.read_bytes())
    for place in range(0, len(content), len(content) // 60):
        content[place] ^= 1
        digits_pack.write_bytes(content)
        refusal(digits_pack)
        content[place] ^= 1
    digits_pack.write_bytes(content)
    Pack.load(digits_pack)


@pytest.mark.parametrize("kind", ["missing", "empty", "cut", "folder", "pipe", "text", "pickle", "student", "huge"])
def test_what_is_not_a_pack(digits_pack: Path, kind: str, digits_run: tuple[Recipe, Path]) -> None:
    content = digits_pack.read_bytes()
    digits_pack.unlink()
    if kind == "folder":
        digits_pack.mkdir()
    elif kind == "pipe":
        os.mkfifo(digits_pack)
    elif kind == "huge":
        with digits_pack.open("wb") as file:
            file.truncate(600 * 2**20)
    elif kind == "student":
        shutil.copy(next(digits_run[1].glob("student-real-0-*/model.safetensors")), digits_pack)
    elif kind != "missing":
        digits_pack.write_bytes(
            {"empty": b"", "cut": content[:5000], "text": b"hello " * 99, "pickle": b"\x80\x04" + content}[kind]
        )
    assert "pack" in refusal(digits_pack)


Change = Callable[[dict[str, Any]], object]
HOSTILE: dict[str, tuple[Change, str]] = {
    "a generator of a million channels": (lambda c: c["config"].update(width_g=10**6), "8192, got 1000000"),
    "a generator of 8,192 channels": (lambda c: c["config"].update(width_g=8192), "its generator is damaged: "),
    "a latent of 8,192 numbers": (lambda c: c["config"].update(z_dim=8192), "its generator is damaged: "),
    "another architecture": (lambda c: c["config"].update(architecture="sagan"), "makes images of 16 pixels or more"),
    "an unknown setting": (lambda c: c["config"].update(depth=3), "depth"),
    "a generator that is code": (lambda c: c["config"].update(external="evil:make"), "code or files"),
    "a missing weight": (lambda c: c["generator"].popitem(), "its generator"),
    "a weight that is not a number": (
        lambda c: c["generator"]["input.weight"].fill_(torch.nan),
        "a weight is not finite",
    ),
    "weights that are plain numbers": (lambda c: c.update(generator={"input.weight": 3}), "its generator is damaged: "),
    "a billion classes": (lambda c: c["task"].update(num_classes=10**9), "1,000,000,000 classes"),
    "one class less": (lambda c: c["task"].update(num_classes=9), "outside 0..8"),
    "names that move the cursor": (lambda c: c["task"].update(class_names=["\x1b[2J"] * 10), "cannot be printed"),
    "too few names": (lambda c: c["task"].update(class_names=["a"]), "names 1 of 10"),
    "images of a kilometre": (lambda c: c.update(shape=[1, 10**6, 10**6]), "8 to 256 pixels"),
    "a shape of words": (lambda c: c.update(shape=["a", "b", "c"]), "shape"),
    "positions that fall": (lambda c: c.update(index=c["index"].flip(0)), "must rise"),
    "positions outside": (lambda c: c["index"][-1:].fill_(32_000), "must rise within"),
    "negative positions": (lambda c: c["index"][:1].fill_(-1), "must rise within"),
    "labels outside": (lambda c: c["labels"][:1].fill_(200), "outside 0..9"),
    "labels that are floats": (lambda c: c.update(labels=c["labels"].float()), "labels must be"),
    "outputs of other images": (lambda c: c["outputs"].update(codes=c["outputs"]["codes"][1:]), "teacher outputs"),
    "a student that is code": (lambda c: c["student"].update(model="evil:Net"), "not a network of gankd"),
    "a loss that is code": (lambda c: c["student"].update(loss="evil:Loss"), "names code or files"),
    "a loss that writes files": (lambda c: c["student"].update(loss="ExchangeVKD(folder='/tmp/x')"), "names code"),
    "a setting of paths": (lambda c: c["student"].update(virtual="/etc/passwd"), "it sets virtual"),
    "a seed of text": (lambda c: c.update(seed="0"), "seed"),
    "an audit of text": (lambda c: c["card"].update(audit="all is well"), "its card"),
    "no card": (lambda c: c.pop("card"), "card"),
    "a card of lists": (lambda c: c.update(card=[1, 2]), "pack"),
    "a virtual teacher of text": (lambda c: c.update(virtual="x"), "pack"),
    "an adjustment that is unknown": (lambda c: c.update(adjust="magic"), "magic"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_every_part_is_checked(digits_pack: Path, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a right hash, as whoever wrote the file can give it."""
    (tmp_path / "evil.py").write_text("raise SystemExit('code of the file ran')")
    monkeypatch.chdir(tmp_path)
    content = load_state(digits_pack)
    change, words = HOSTILE[name]
    change(content)
    save_state(digits_pack, content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    text = refusal(digits_pack)
    assert words in text
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KB


def test_deep_nesting_is_refused(digits_pack: Path) -> None:
    tree = "[" * 50_000 + "]" * 50_000
    header = json.dumps({"__metadata__": {"gankd": "1", "tree": tree}}).encode()
    digits_pack.write_bytes(len(header).to_bytes(8, "little") + header)
    refusal(digits_pack)


def test_a_class_name_of_markup_stays_text(digits_pack: Path) -> None:
    found = Pack.load(digits_pack)
    names = tuple(f"<script>{number}</script>" for number in range(10))
    replace(found, task=Classification(num_classes=10, class_names=names)).save(digits_pack)
    found, page = Pack.load(digits_pack), digits_pack.with_suffix(".html")
    images = found.images()
    pairs = Pairs(generated=images[:1], real=images[:1], ratio=(0.5,))
    write_pack_page(Inspected(digits_pack, found), images, pairs, page)
    assert "&lt;script&gt;3" in page.read_text()
    assert "<script" not in page.read_text()


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("0.2*Label + 0.8*KD(T=4)", True),
        ("DKD@virtual(draws=8)", True),
        ("evil:Loss", False),
        ("evil.Loss", False),
        ("(KD).x", False),
        ("KD(T=4.).x", False),
        ("KD(name='x')", False),
        ('PeerVKD(net="evil:Net")', False),
        ("", False),
    ],
)
def test_losses_from_strangers(text: str, safe: bool) -> None:
    assert loss_from_strangers(text) == safe
