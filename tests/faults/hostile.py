"""Hostile inputs, made by code: each cause in several variants, tried by the command line within limits.

A cause is a function that writes files into a folder and gives the words of a command that must refuse them, in one
line and with exit code 2. `try_all` runs them in this process, which is a child of the tests with its memory limited.
"""

import io
import json
import os
import pickle
import random
import resource
import signal
import struct
import sys
import tarfile
import time
import traceback
import zipfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from gankd.cli import main
from gankd.config import to_dict
from gankd.recipes import RECIPES
from gankd.stops import STOPS
from gankd.storage import hashed_json, save_state, save_weights
from gankd.tasks import Classification, task_to_dict
from gankd.training.gan import GanConfig
from gankd.virtual import VirtualConfig

Words = list[str]
Cause = Callable[[Path, random.Random], Words]
MEMORY = 1 << 30
"""Bytes that a case may take beyond what the process had before."""
SECONDS = 20
"""Time of a case, on a busy machine."""
CAUSES: dict[str, Cause] = {}


def cause(function: Cause) -> Cause:
    CAUSES[function.__name__.replace("_", " ")] = function
    return function


def plan(folder: Path, name: str = "folder", *more: str) -> Words:
    return ["plan", name, "--data", str(folder), "--size", "16", "--out", str(folder.parent / "run"), *more]


# --- images -------------------------------------------------------------------------------------------------


def photos(folder: Path, count: int = 12) -> Path:
    """Two classes of good images."""
    for number in range(count):
        path = folder / "photos" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), number, np.uint8)).save(path)
    return folder / "photos"


def with_image(folder: Path, content: bytes, suffix: str = ".png") -> Words:
    (photos(folder) / "cat" / f"bad{suffix}").write_bytes(content)
    return plan(folder / "photos")


def png(width: int, height: int, data: bytes, kind: int = 2, depth: int = 8) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


@cause
def image_of_noise(folder: Path, chance: random.Random) -> Words:
    return with_image(folder, chance.randbytes(300), chance.choice([".png", ".jpg", ".gif", ".webp", ".bmp", ".tif"]))


@cause
def postscript_called_png(folder: Path, chance: random.Random) -> Words:
    return with_image(folder, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n", ".png")


@cause
def vector_graphics_called_jpg(folder: Path, chance: random.Random) -> Words:
    return with_image(folder, b'<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>', ".jpg")


@cause
def image_bomb(folder: Path, chance: random.Random) -> Words:
    side = chance.randrange(12_000, 60_000)
    return with_image(folder, png(side, side, bytes(1000)))


@cause
def image_cut_short(folder: Path, chance: random.Random) -> Words:
    buffer = io.BytesIO()
    Image.fromarray(np.frombuffer(chance.randbytes(64 * 64 * 3), np.uint8).reshape(64, 64, 3)).save(buffer, "png")
    content = buffer.getvalue()
    return with_image(folder, content[: chance.randrange(20, len(content) // 2)])


@cause
def image_of_no_pixels(folder: Path, chance: random.Random) -> Words:
    return with_image(folder, png(0, chance.randrange(9), b""))


@cause
def empty_image(folder: Path, chance: random.Random) -> Words:
    return with_image(folder, b"", chance.choice([".png", ".jpg"]))


@cause
def image_that_is_a_pipe(folder: Path, chance: random.Random) -> Words:
    os.mkfifo(photos(folder) / "cat" / "pipe.png")
    return plan(folder / "photos")


@cause
def image_that_is_a_device(folder: Path, chance: random.Random) -> Words:
    (photos(folder) / "cat" / "zero.png").symlink_to(chance.choice(["/dev/zero", "/dev/full", "/dev/urandom"]))
    return plan(folder / "photos")


# --- arrays -------------------------------------------------------------------------------------------------


def npz(folder: Path, **arrays: Any) -> Words:
    np.savez(folder / "set.npz", **arrays)
    return plan(folder / "set.npz", "npz")


def images(count: int = 20) -> Any:
    return np.zeros((count, 16, 16, 3), np.uint8)


@cause
def array_of_objects(folder: Path, chance: random.Random) -> Words:
    return npz(folder, images=images(), labels=np.array([print] * 20, dtype=object))


def npz_member(folder: Path, member: bytes) -> Words:
    with zipfile.ZipFile(folder / "set.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("images.npy", member)
        file.writestr("labels.npy", member)
    return plan(folder / "set.npz", "npz")


def npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


@cause
def array_larger_than_its_file(folder: Path, chance: random.Random) -> Words:
    count = chance.randrange(10**6, 10**12)
    return npz_member(folder, npy(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({count}, 16, 16, 3), }}"))


@cause
def array_header_that_nests(folder: Path, chance: random.Random) -> Words:
    return npz_member(folder, npy("(" * chance.randrange(100, 9000)))


@cause
def array_header_that_is_code(folder: Path, chance: random.Random) -> Words:
    return npz_member(folder, npy(f"__import__('os').mkdir({str(folder / 'ran')!r})"))


@cause
def zip_bomb(folder: Path, chance: random.Random) -> Words:
    zeros = bytes(1 << 20)
    with zipfile.ZipFile(folder / "set.npz", "w", zipfile.ZIP_DEFLATED) as file:
        with file.open("images.npy", "w", force_zip64=True) as member:
            count = 3000
            member.write(npy(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({count * 1024}, 32, 32), }}"))
            for _ in range(chance.randrange(60, 100)):
                member.write(zeros)
        file.writestr("labels.npy", b"")
    return plan(folder / "set.npz", "npz")


@cause
def labels_that_are_not_finite(folder: Path, chance: random.Random) -> Words:
    labels = np.linspace(0, 1, 20)
    labels[chance.randrange(20)] = chance.choice([np.nan, np.inf, -np.inf])
    return npz(folder, images=images(), labels=labels)


@cause
def arrays_of_other_lengths(folder: Path, chance: random.Random) -> Words:
    return npz(folder, images=images(), labels=np.arange(chance.choice([0, 1, 19, 21, 1000])))


@cause
def images_of_odd_shape(folder: Path, chance: random.Random) -> Words:
    shape = chance.choice([(20,), (20, 3), (20, 0, 0, 3), (0, 16, 16, 3), (20, 16, 16, 3, 3)])
    return npz(folder, images=np.zeros(shape, np.uint8), labels=np.arange(shape[0]) % 2)


@cause
def npz_of_noise(folder: Path, chance: random.Random) -> Words:
    (folder / "set.npz").write_bytes(chance.choice([b"PK\x03\x04", b""]) + chance.randbytes(400))
    return plan(folder / "set.npz", "npz")


# --- tables and archives ------------------------------------------------------------------------------------


def table(folder: Path, *lines: str) -> Words:
    photos(folder)
    (folder / "set.csv").write_text("\n".join(lines))
    return plan(folder / "set.csv", "table")


@cause
def path_that_leads_elsewhere(folder: Path, chance: random.Random) -> Words:
    there = chance.choice(["../../../etc/passwd", "/etc/passwd", "http://a.example/b.png", "file:///etc/passwd", "\0"])
    return table(folder, "path,label", *(f"photos/cat/{number}.png,1" for number in (0, 2, 4)), f"{there},2")


@cause
def table_that_is_not_text(folder: Path, chance: random.Random) -> Words:
    (folder / "set.csv").write_bytes(b"path,label\n\xff\xfe" + chance.randbytes(200))
    return plan(folder / "set.csv", "table")


@cause
def cell_of_megabytes(folder: Path, chance: random.Random) -> Words:
    return table(folder, "path,label", f'"{"x" * chance.randrange(200_000, 900_000)}",1')


@cause
def labels_that_are_numbers_beyond_all(folder: Path, chance: random.Random) -> Words:
    value = chance.choice(["1e999", "-1e999", "nan", "9" * 5000])
    return table(
        folder,
        "path,label",
        *(f"photos/cat/{number}.png,0.{number}" for number in (0, 2, 4)),
        f"photos/dog/1.png,{value}",
    )


@cause
def table_that_is_a_pipe(folder: Path, chance: random.Random) -> Words:
    os.mkfifo(photos(folder) / "labels.csv")
    return plan(folder / "photos")


@cause
def parquet_of_noise(folder: Path, chance: random.Random) -> Words:
    (folder / "set.parquet").write_bytes(
        b"PAR1" + chance.randbytes(300) + struct.pack("<I", chance.randrange(2**32)) + b"PAR1"
    )
    return plan(folder / "set.parquet", "table")


@cause
def idx_that_promises_too_much(folder: Path, chance: random.Random) -> Words:
    (folder / "mnist").mkdir()
    for part in ("train", "t10k"):
        sizes = struct.pack(">iiii", 0x803, chance.randrange(10**6, 2**31), 28, 28)
        (folder / "mnist" / f"{part}-images-idx3-ubyte").write_bytes(sizes)
        (folder / "mnist" / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">ii", 0x801, 2**31 - 1))
    return plan(folder / "mnist", "idx")


def tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))


class Harmful:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder / "ran"),)


@cause
def archive_with_a_pickle(folder: Path, chance: random.Random) -> Words:
    bad = pickle.dumps(Harmful(folder), chance.randrange(2, 6))
    names = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "batches.meta"]
    tar(folder / "cifar-10-python.tar.gz", {f"cifar-10-batches-py/{name}": bad for name in names})
    return ["plan", "cifar10", "--data", str(folder / "cifar-10-python.tar.gz"), "--out", str(folder / "run")]


@cause
def archive_that_leads_elsewhere(folder: Path, chance: random.Random) -> Words:
    tar(folder / "cifar-10-binary.tar.gz", {chance.choice(["../../x", "/tmp/x", "a/../../b"]): b"x" * 3073})
    return ["plan", "cifar10", "--data", str(folder / "cifar-10-binary.tar.gz"), "--out", str(folder / "run")]


@cause
def archive_of_noise(folder: Path, chance: random.Random) -> Words:
    path = folder / chance.choice(["cifar-10-binary.tar.gz", "cifar-10-python.tar.gz"])
    path.write_bytes(b"\x1f\x8b\x08" + chance.randbytes(500))
    return ["plan", "cifar10", "--data", str(path), "--out", str(folder / "run")]


@cause
def h5_of_noise(folder: Path, chance: random.Random) -> Words:
    (folder / "set.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + chance.randbytes(600))
    return plan(folder / "set.h5", "rc49")


# --- checkpoints --------------------------------------------------------------------------------------------


def sampled(path: Path) -> Words:
    return ["sample", str(path), "--labels", "0", "--out", str(path.parent / "grid.png")]


def weights(path: Path) -> Words:
    return ["teach", "digits", "--set", f"teacher.weights={path}", "--out", str(path.parent / "run")]


def generator_file(folder: Path, shape: Sequence[Any] = (1, 8, 8), classes: Any = 10, **config: Any) -> Words:
    task = task_to_dict(Classification(num_classes=10)) | {"num_classes": classes}
    stored = {"format": 1, "task": task, "shape": shape, "labels": torch.arange(10), "state": {"x": torch.zeros(3)}}
    save_state(folder / "generator.safetensors", {**stored, "config": to_dict(GanConfig()) | config})
    return sampled(folder / "generator.safetensors")


@cause
def generator_of_great_width(folder: Path, chance: random.Random) -> Words:
    name = chance.choice(["width_g", "z_dim", "embedding_width"])
    config: dict[str, Any] = {name: chance.choice([4096, 8192, 10**6, 10**30, -1, True, 2.5])}
    return generator_file(folder, **config)


@cause
def generator_of_many_classes(folder: Path, chance: random.Random) -> Words:
    return generator_file(folder, classes=chance.choice([10**7, 10**12, 2**62, 2**70]))


@cause
def generator_of_great_images(folder: Path, chance: random.Random) -> Words:
    shape = chance.choice([(10**6, 8, 8), (1, 2**20, 2**20), (1, 8), (1, -8, -8), ("a", 8, 8), 3])
    return generator_file(folder, shape=shape)  # type: ignore[arg-type]


@cause
def generator_that_names_code(folder: Path, chance: random.Random) -> Words:
    (folder / "evil.py").write_text(f"import os; os.mkdir({str(folder / 'ran')!r})")
    os.chdir(folder)
    return generator_file(folder, external="evil:Net")


@cause
def generator_of_other_content(folder: Path, chance: random.Random) -> Words:
    content = chance.choice(
        [{"task": 3, "state": 3}, {"task": {}, "state": {}}, {"task": {}, "state": {}, "config": 4}]
    )
    save_state(folder / "generator.safetensors", content)
    return sampled(folder / "generator.safetensors")


@cause
def safetensors_with_a_deep_tree(folder: Path, chance: random.Random) -> Words:
    deep = chance.choice(["[", '{"list": [']) * chance.randrange(50_000, 100_000)
    save_file({"00000": torch.zeros(1)}, folder / "g.safetensors", {"gankd": "1", "tree": deep})
    return sampled(folder / "g.safetensors")


@cause
def safetensors_with_a_false_header(folder: Path, chance: random.Random) -> Words:
    length = chance.choice([2**63, 10**9, 8, 0])
    header = b'{"x":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    (folder / "g.safetensors").write_bytes(struct.pack("<Q", length or len(header)) + header)
    return sampled(folder / "g.safetensors")


@cause
def checkpoint_that_is_a_pickle(folder: Path, chance: random.Random) -> Words:
    path = folder / chance.choice(["net.pt", "net.pth"])
    path.write_bytes(pickle.dumps(Harmful(folder), chance.randrange(2, 6)))
    return weights(path)


@cause
def checkpoint_with_code_inside(folder: Path, chance: random.Random) -> Words:
    torch.save({"state_dict": Harmful(folder)}, folder / "net.pt")
    return weights(folder / "net.pt")


@cause
def checkpoint_of_noise(folder: Path, chance: random.Random) -> Words:
    path = folder / chance.choice(["net.pt", "net.safetensors"])
    path.write_bytes(chance.randbytes(chance.randrange(600)))
    return weights(path)


@cause
def weights_of_another_network(folder: Path, chance: random.Random) -> Words:
    save_weights(folder / "net.safetensors", {f"w{n}": torch.zeros(2) for n in range(chance.randrange(1, 9))}, {})
    return weights(folder / "net.safetensors")


# --- settings -----------------------------------------------------------------------------------------------


def configured(folder: Path, text: str | bytes) -> Words:
    path = folder / "settings.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return ["plan", "digits", "--config", str(path), "--out", str(folder / "run")]


@cause
def settings_that_nest(folder: Path, chance: random.Random) -> Words:
    return configured(folder, f"x = {chance.choice(['[', '{a='])}" * 1 + "[" * chance.randrange(2000, 90_000))


@cause
def settings_of_noise(folder: Path, chance: random.Random) -> Words:
    return configured(folder, b"\xff" + chance.randbytes(200))


@cause
def settings_beyond_all(folder: Path, chance: random.Random) -> Words:
    name = chance.choice(["gan.steps", "gan.width_g", "gan.z_dim", "synth.pool", "teacher.members", "virtual.width"])
    group, setting = name.split(".")
    return configured(
        folder, f"[{group}]\n{setting} = {chance.choice(['1e30', '10' + '0' * 40, 'true', '-1', 'nan', '[]'])}"
    )


@cause
def temperature_at_its_limit(folder: Path, chance: random.Random) -> Words:
    return configured(folder, f"[virtual]\ntemperature = {chance.choice(['1e-9', '0', '-1', '1e9', 'inf', 'nan'])}")


@cause
def settings_that_are_a_pipe(folder: Path, chance: random.Random) -> Words:
    os.mkfifo(folder / "settings.toml")
    return ["plan", "digits", "--config", str(folder / "settings.toml")]


@cause
def model_that_ends_the_process(folder: Path, chance: random.Random) -> Words:
    name = chance.choice(["sys:exit", "builtins:exit", "builtins:quit", "antigravity:nothing", "os:nothing"])
    return ["plan", "digits", "--set", f"student.model={name}", "--out", str(folder / "run")]


# --- losses -------------------------------------------------------------------------------------------------


def with_loss(folder: Path, text: str) -> Words:
    return ["plan", "digits", "--loss", text, "--out", str(folder / "run")]


@cause
def expression_that_nests(folder: Path, chance: random.Random) -> Words:
    return with_loss(folder, chance.choice(["(", "-", "KD+(", "KD(T=["]) * chance.randrange(500, 20_000))


@cause
def expression_that_is_long(folder: Path, chance: random.Random) -> Words:
    return with_loss(folder, "+".join(["KDD"] * chance.randrange(2000, 9000)))


@cause
def expression_that_is_code(folder: Path, chance: random.Random) -> Words:
    code = [
        f"__import__('os').mkdir({str(folder / 'ran')!r})",
        "KD(T=__import__('os'))",
        "KD if KD else KD",
        "[KD for KD in KD]",
        "KD(**{'T': 1})",
        "lambda: KD",
        "KD(T=9**9**9)",
    ]
    return with_loss(folder, chance.choice(code))


@cause
def weight_beyond_all(folder: Path, chance: random.Random) -> Words:
    return with_loss(folder, f"{chance.choice(['1e999', '-1', '9' * 400, 'True', 'nan'])}*KD")


@cause
def setting_of_a_loss_beyond_all(folder: Path, chance: random.Random) -> Words:
    return with_loss(folder, f"KD(T={chance.choice(['1e999', 'True', '[]', 'None', '(1,)', 'b'])})")


# --- run folders --------------------------------------------------------------------------------------------


def run_folder(folder: Path, text: str) -> Words:
    (folder / "run").mkdir()
    (folder / "run" / "run.json").write_text(text)
    return ["report", str(folder / "run")]


def stored(**changes: Any) -> dict[str, Any]:
    recipe = to_dict(RECIPES["digits"]())
    for name, value in changes.items():
        group, _, setting = name.partition("_")
        recipe[group] = {**recipe[group], setting: value} if setting else value
    return {"recipe": recipe, "arms": None, "version": "0.1.0", "in_memory": False, "code": {}}


@cause
def run_that_names_code(folder: Path, chance: random.Random) -> Words:
    (folder / "evil.py").write_text(f"import os; os.mkdir({str(folder / 'ran')!r})")
    os.chdir(folder)
    where = chance.choice([{"student_model": "evil:N"}, {"student_loss": "evil:n"}, {"gan_external": "evil:N"}])
    return run_folder(folder, json.dumps(stored(**where)))


@cause
def run_file_that_nests(folder: Path, chance: random.Random) -> Words:
    return run_folder(folder, chance.choice(["[", '{"recipe":']) * 100_000)


@cause
def run_file_of_other_content(folder: Path, chance: random.Random) -> Words:
    return run_folder(
        folder, chance.choice(["", "null", "[]", "3", '{"recipe": 3, "arms": 4}', '{"recipe": {}, "arms": [[]]}'])
    )


@cause
def run_with_settings_beyond_all(folder: Path, chance: random.Random) -> Words:
    name, value = chance.choice(
        [("gan_width_g", 10**9), ("seeds", 10**9), ("teacher_updates", "x"), ("gan_steps", None)]
    )
    return run_folder(folder, json.dumps(stored(**{name: value})))


@cause
def run_with_a_changed_byte(folder: Path, chance: random.Random) -> Words:
    text = hashed_json(stored(), indent=2)
    place = text.index('"updates": ') + 11
    return run_folder(folder, text[:place] + "7" + text[place + 1 :] + "\n")


@cause
def arms_of_other_content(folder: Path, chance: random.Random) -> Words:
    bad = [[{"name": "a", "loss": 3}], [{"nome": "a"}], ["no such arm"], [{"name": "a", "updates": 1e30}], ["x.toml"]]
    words = run_folder(folder, json.dumps({**stored(), "arms": chance.choice(bad)}))
    return ["resume", words[1]]


@cause
def run_file_that_is_a_pipe(folder: Path, chance: random.Random) -> Words:
    (folder / "run").mkdir()
    os.mkfifo(folder / "run" / "run.json")
    return ["report", str(folder / "run")]


# --- exchanged files ----------------------------------------------------------------------------------------


def virtual_file(folder: Path, state: Any = None, classes: Any = 10, **config: Any) -> Words:
    task = task_to_dict(Classification(num_classes=10)) | {"num_classes": classes}
    content = {"format": 1, "kind": "virtual teacher", "task": task, "config": to_dict(VirtualConfig()) | config}
    content |= {
        "generator": {"x": torch.zeros(3)} if state is None else state,
        "means": torch.zeros(10, 10),
        "facts": {},
    }
    save_state(folder / "virtual.safetensors", content)
    return ["vkd", "student", "digits", "--from", str(folder / "virtual.safetensors"), "--out", str(folder / "run")]


@cause
def virtual_teacher_of_great_width(folder: Path, chance: random.Random) -> Words:
    return virtual_file(
        folder, **{chance.choice(["width", "z_dim"]): chance.choice([8192, 30_000, 10**9, 0, -1, True])}
    )


@cause
def virtual_teacher_at_no_temperature(folder: Path, chance: random.Random) -> Words:
    return virtual_file(folder, temperature=chance.choice([1e-9, 0.0, -1.0, 1e9, float("nan"), float("inf")]))


@cause
def virtual_teacher_of_many_classes(folder: Path, chance: random.Random) -> Words:
    return virtual_file(folder, classes=chance.choice([10**6, 10**12, 2**63]))


@cause
def virtual_teacher_of_other_content(folder: Path, chance: random.Random) -> Words:
    return virtual_file(folder, state=chance.choice([{}, {"x": 3}, [], {"table.rows": torch.zeros(1)}, "text"]))


# --- trying -------------------------------------------------------------------------------------------------


class TooLong(BaseException):
    """A case took more than its time."""


def _ring(*_: object) -> None:
    raise TooLong


def tried(words: Words, folder: Path) -> str:
    """What is wrong with how gankd refused these words; empty: nothing."""
    out, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in STOPS}
    signal.signal(signal.SIGALRM, _ring)
    signal.alarm(SECONDS)
    code: Any = 0
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main(words)
    except SystemExit as end:
        code = end.code
    except TooLong:
        return f"took more than {SECONDS} s"
    except BaseException:
        return "raised " + traceback.format_exc()[-700:]
    finally:
        signal.alarm(0)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    said = err.getvalue()
    last = said.splitlines()[-1] if said else ""
    if (folder / "ran").exists():
        return "ran code"
    if code != 2 or not last.startswith("gankd: "):
        return f"code {code}, said {said[-300:]!r} {out.getvalue()[-300:]!r}"
    if "out of memory" in last or "allocate" in last:
        return f"took too much memory: {last}"
    return f"a line of {len(last)} characters: {last[:200]}" if len(last) > 2000 else ""


def try_all(root: Path, variants: int, names: Sequence[str]) -> dict[str, str]:
    """Try each cause in so many variants; problems by cause and variant."""
    problems = {}
    home = os.getcwd()
    for name in names:
        for number in range(variants):
            folder = root / f"{name} {number}".replace(" ", "-")
            folder.mkdir()
            try:
                problem = tried(CAUSES[name](folder, random.Random(f"{name} {number}")), folder)
            finally:
                os.chdir(home)
            if problem:
                problems[f"{name} {number}"] = problem
    return problems


if "ROOT" in globals():  # run by the tests in a process of its own
    torch.set_num_threads(1)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    begun = time.monotonic()
    found = try_all(Path(globals()["ROOT"]), globals()["VARIANTS"], globals()["NAMES"] or list(CAUSES))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    report = {"problems": found, "causes": len(CAUSES), "seconds": time.monotonic() - begun, "peak_mb": peak}
    Path(globals()["ROOT"], "report.json").write_text(json.dumps(report))
    sys.exit(0)
