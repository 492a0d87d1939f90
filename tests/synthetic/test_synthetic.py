import hashlib
import itertools
import json
import shutil
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gankd.errors import CheckpointError, ConfigError, DataError, GankdError, ModelError, RunError
from gankd.seeds import rng
from gankd.storage import digest, read_json, write_hashed_json
from gankd.synthetic import SelectConfig, SyntheticSet, generate, select
from gankd.tasks import Classification, Regression, Task

CLASSES = Classification(num_classes=4)
ANGLES = Regression(low=0, high=90, unit="degrees")
COUNT = 1500  # five blocks of 256 and one of 220


class Killed(Exception):
    pass


class Painter:
    """A generator whose images carry their label and noise; counts its calls and can be killed."""

    def __init__(self, die_at: int = 10**9) -> None:
        self.calls, self.die_at = 0, die_at

    def __call__(self, labels: Tensor, /, *, generator: torch.Generator) -> Tensor:
        if self.calls == self.die_at:
            raise Killed
        self.calls += 1
        noise = torch.randint(0, 256, (len(labels), 2, 3, 4), generator=generator, dtype=torch.uint8)
        noise[:, 0, 0, 0] = labels.to(torch.uint8)
        return noise


def score(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """A teacher that is less sure of darker images, and ratios that grow with brightness."""
    brightness = images.float().mean((1, 2, 3)) / 255 - 0.5
    logits = 3 * torch.nn.functional.one_hot(labels, 4).float() + 20 * brightness[:, None] * torch.arange(4)
    return logits, 20 * brightness


def score_angles(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    brightness = images.float().mean((1, 2, 3)) / 255 - 0.5
    return labels + 50 * brightness, 20 * brightness


def labels_of(task: Task) -> Tensor:
    real = torch.arange(4) if isinstance(task, Classification) else torch.linspace(0, 90, 40)
    return task.sample_labels(COUNT, real, "balanced", torch.Generator().manual_seed(0))


def make(folder: Path, painter: Painter | None = None, seed: int = 1, **more: Any) -> SyntheticSet:
    return generate(folder, painter or Painter(), score, CLASSES, labels_of(CLASSES), seed, {"gan": "abc"}, **more)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> SyntheticSet:
    return make(tmp_path_factory.mktemp("classes"), shard_size=512)


@pytest.fixture(scope="module")
def angles(tmp_path_factory: pytest.TempPathFactory) -> SyntheticSet:
    folder = tmp_path_factory.mktemp("angles")
    return generate(folder, Painter(), score_angles, ANGLES, labels_of(ANGLES), 1, {}, shard_size=512)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_what_was_scored_is_what_is_read(pool: SyntheticSet) -> None:
    labels = labels_of(CLASSES)
    assert len(pool) == COUNT
    assert pool.shape == (2, 3, 4)
    assert pool.task == CLASSES
    assert pool.provenance == {"gan": "abc"}
    assert torch.equal(pool.labels, labels)
    assert torch.equal(pool.images()[:, 0, 0, 0].long(), labels)
    logits, log_ratio = score(pool.images(), labels)
    torch.testing.assert_close(pool.log_ratio, log_ratio)
    assert pool.teacher_outputs().dtype == torch.float16
    torch.testing.assert_close(pool.teacher_outputs().float(), logits, atol=0.02, rtol=1e-3)
    torch.testing.assert_close(pool.disagreement, CLASSES.disagreement(logits, labels), atol=0.03, rtol=0)
    index = torch.tensor([1499, 3, 3, 511, 512, 1024, 0])
    assert torch.equal(pool.images(index), pool.images()[index])
    assert torch.equal(pool.teacher_outputs(index), pool.teacher_outputs()[index])
    assert pool.images(index[:0]).shape == (0, 2, 3, 4)


def test_content_depends_on_the_seed_and_not_on_the_shard_size(pool: SyntheticSet, tmp_path: Path) -> None:
    whole, other = make(tmp_path / "whole"), make(tmp_path / "other", seed=2)
    assert len(list((tmp_path / "whole").glob("images-*.npy"))) == 1
    assert torch.equal(whole.images(), pool.images())
    assert torch.equal(whole.log_ratio, pool.log_ratio)
    assert torch.equal(whole.teacher_outputs(), pool.teacher_outputs())
    assert not torch.equal(whole.images(), other.images())
    assert whole.fingerprint() != other.fingerprint()


@pytest.mark.parametrize(("die_at", "left_to_do"), [(0, 6), (1, 6), (3, 4), (5, 2)])
def test_interrupted_generation_resumes_and_gives_the_same_bytes(
    pool: SyntheticSet, tmp_path: Path, die_at: int, left_to_do: int
) -> None:
    with pytest.raises(Killed):
        make(tmp_path, Painter(die_at), shard_size=512)
    if die_at >= 2:
        with pytest.raises(CheckpointError, match="unfinished"):
            SyntheticSet(tmp_path)
    (tmp_path / ".images-00001.npy.leftover").touch()
    painter = Painter()
    seen: list[tuple[int, int]] = []
    make(tmp_path, painter, shard_size=512, progress=lambda done, total: seen.append((done, total)))
    assert painter.calls == left_to_do
    assert seen[-1] == (COUNT, COUNT)
    assert digests(tmp_path) == digests(pool.folder)
    make(tmp_path, painter, shard_size=512)
    assert painter.calls == left_to_do  # a finished set is not made again


def test_resuming_makes_damaged_shards_anew(pool: SyntheticSet, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        make(tmp_path, Painter(die_at=5), shard_size=512)
    (tmp_path / "log_ratio-00001.npy").write_bytes(b"short")
    painter = Painter()
    make(tmp_path, painter, shard_size=512)
    assert painter.calls == 4
    assert digests(tmp_path) == digests(pool.folder)


def test_a_folder_is_not_taken_for_a_set_with_other_settings(pool: SyntheticSet, tmp_path: Path) -> None:
    shutil.copytree(pool.folder, tmp_path / "copy")
    with pytest.raises(CheckpointError, match="other seed"):
        make(tmp_path / "copy", seed=9, shard_size=512)
    with pytest.raises(CheckpointError, match="other labels"):
        generate(
            tmp_path / "copy",
            Painter(),
            score,
            CLASSES,
            labels_of(CLASSES).flip(0),
            1,
            {"gan": "abc"},
            shard_size=512,
        )


def test_the_manifest_of_a_large_set_is_not_written_for_each_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation = sys.modules["gankd.synthetic.generate"]
    written: list[int] = []

    def counted(path: Path, state: dict[str, Any]) -> None:
        written.append(len(state["shards"]))
        write_hashed_json(path, state)

    monkeypatch.setattr(generation, "write_hashed_json", counted)
    monkeypatch.setattr(generation, "KEPT", 2)
    make(tmp_path, shard_size=256)  # six files
    assert written == [1, 2, 3, 4, 6]


def test_damage_is_found_and_named(pool: SyntheticSet, tmp_path: Path) -> None:
    def broken(name: str) -> Path:
        return Path(shutil.copytree(pool.folder, tmp_path / name))

    folder = broken("truncated")
    path = folder / "images-00001.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"images-00001\.npy has \d+ bytes instead of \d+"):
        SyntheticSet(folder)

    folder = broken("missing")
    (folder / "labels-00002.npy").unlink()
    with pytest.raises(CheckpointError, match=r"labels-00002\.npy is missing"):
        SyntheticSet(folder)

    folder = broken("changed")
    content = bytearray((folder / "images-00000.npy").read_bytes())
    content[-1] ^= 1
    (folder / "images-00000.npy").write_bytes(content)
    changed = SyntheticSet(folder)
    for read in (changed.images, lambda: changed.images(torch.tensor([3])), changed.check):
        with pytest.raises(CheckpointError, match=r"images-00000\.npy has changed.*hash differs"):
            read()
    changed.labels  # noqa: B018  # the others can be read


def test_a_selection_reads_no_image(pool: SyntheticSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(pool.folder, tmp_path / "pool"))
    expected = select(pool, SelectConfig(count=100), 0)
    for path in folder.glob("images-*"):
        path.write_bytes(bytes(path.stat().st_size))
    chosen = select(SyntheticSet(folder), SelectConfig(count=100), 0)
    assert torch.equal(chosen.index, expected.index)
    assert chosen.report == expected.report
    with pytest.raises(CheckpointError, match="hash differs"):
        chosen.images()


def test_many_images_are_mapped(pool: SyntheticSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = torch.randperm(len(pool), generator=rng(0, "some"))[:900]
    plain = pool.images(index)
    monkeypatch.setenv("GANKD_CACHE", str(tmp_path))
    monkeypatch.setattr("gankd.data.store.available_memory", lambda: 0)
    assert torch.equal(pool.images(index), plain)
    assert torch.equal(pool.images(), pool.images(torch.arange(len(pool))))
    assert len(list(tmp_path.glob("*/images.npy"))) == 2  # both of all images are one


def test_a_newer_or_damaged_manifest_is_refused(pool: SyntheticSet, tmp_path: Path) -> None:
    def broken(name: str) -> Path:
        return Path(shutil.copytree(pool.folder, tmp_path / name))

    folder = broken("newer")
    manifest = read_json(folder / "manifest.json")
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(CheckpointError, match="has format 99"):
        SyntheticSet(folder)
    for changed in ({}, {**manifest, "shards": []}, {**manifest, "shape": 3}):
        (folder / "manifest.json").write_text(json.dumps({"format": manifest["format"], **changed}))
        with pytest.raises(CheckpointError, match="damaged"):
            SyntheticSet(folder)
    with pytest.raises(CheckpointError, match="no synthetic set"):
        SyntheticSet(tmp_path)


def test_pickles_are_never_loaded(pool: SyntheticSet, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pool.folder, tmp_path / "copy"))
    path = folder / "labels-00000.npy"
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    manifest = read_json(folder / "manifest.json")
    manifest["shards"][0]["labels"] = {"bytes": path.stat().st_size, "blake2b": digest(path)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="cannot be read"):
        _ = SyntheticSet(folder).labels


def test_a_full_disk_is_noticed_before_the_first_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    painter = Painter()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 0, 10))
    with pytest.raises(RunError, match=r"GB and the disk has .* GB free"):
        make(tmp_path, painter, shard_size=512)
    assert painter.calls == 1
    assert list(tmp_path.iterdir()) == []


def test_broken_networks_are_named(tmp_path: Path) -> None:
    def run(sampler: Any = None, scorer: Any = score) -> None:
        generate(tmp_path, sampler or Painter(), scorer, CLASSES, labels_of(CLASSES), 0, {})

    with pytest.raises(ModelError, match="uint8"):
        run(sampler=lambda labels, generator: torch.zeros(len(labels), 3, 4, 4))
    with pytest.raises(ModelError, match="4\\) logits"):
        run(scorer=lambda images, labels: (torch.zeros(len(labels), 3), torch.zeros(len(labels))))
    with pytest.raises(ModelError, match="log-ratios must be"):
        run(scorer=lambda images, labels: (torch.zeros(len(labels), 4), torch.zeros(len(labels), 1)))
    with pytest.raises(ModelError, match="outputs are not finite for 1024"):
        run(scorer=lambda images, labels: (torch.full((len(labels), 4), torch.nan), torch.zeros(len(labels))))
    with pytest.raises(DataError, match="class label 7"):
        generate(tmp_path, Painter(), score, CLASSES, torch.tensor([7]), 0, {})
    with pytest.raises(DataError, match="at least one label"):
        generate(tmp_path, Painter(), score, CLASSES, torch.empty(0).long(), 0, {})


def test_selecting_reads_scores_and_never_generates(tmp_path: Path) -> None:
    painter = Painter()
    made = make(tmp_path, painter, shard_size=512)
    calls = painter.calls
    for share, rho in itertools.product((0.2, 0.5, 1.0), (0.5, 0.9)):
        select(made, SelectConfig(accept_share=share, rho=rho), seed=0)
    assert painter.calls == calls


def test_steps_of_a_selection_by_hand(pool: SyntheticSet) -> None:
    chosen = select(pool, SelectConfig(accept_share=0.4, rho=0.8), seed=0)
    groups = pool.labels
    for group in range(4):
        mine = groups == group
        assert chosen.accepted[mine].double().mean().item() == pytest.approx(0.4, abs=0.06)
        taken = pool.disagreement[mine & chosen.accepted].double()
        limit = np.quantile(taken.numpy(), 0.8)
        assert chosen.report["thresholds"][group] == pytest.approx(limit)
        assert torch.equal(chosen.consistent[mine & chosen.accepted], taken <= limit)
        assert chosen.report["acceptance"][group] == pytest.approx(chosen.accepted[mine].double().mean().item())
    assert not (chosen.consistent & ~chosen.accepted).any()
    assert torch.equal(chosen.index.sort().values, chosen.consistent.nonzero()[:, 0])
    # The ratio grows with brightness, so what is kept must be brighter.
    assert pool.log_ratio[chosen.accepted].mean() > pool.log_ratio[~chosen.accepted].mean() + 0.5
    assert torch.equal(chosen.images(), pool.images()[chosen.index])
    assert torch.equal(chosen.labels, pool.labels[chosen.index])  # classes keep their label by default
    assert torch.equal(chosen.teacher_outputs, pool.teacher_outputs()[chosen.index])
    counts = chosen.report["counts"]
    assert counts == {
        "generated": COUNT,
        "accepted": int(chosen.accepted.sum()),
        "consistent": int(chosen.consistent.sum()),
        "kept": len(chosen),
    }
    assert chosen.report["labels_generated"] == [375.0] * 4
    json.dumps(chosen.report, allow_nan=False)


@pytest.mark.parametrize("subsample", ["budget", "running_max", "none"])
@pytest.mark.parametrize("rule", ["none", "published", "per_group", "real_calibrated"])
@pytest.mark.parametrize("adjust", ["auto", "none", "argmax", "soft", "prediction"])
def test_all_combinations_are_legal(
    pool: SyntheticSet, angles: SyntheticSet, subsample: Any, rule: Any, adjust: Any
) -> None:
    config = SelectConfig(subsample=subsample, filter=rule, adjust=adjust, burn_in=20, cap_quantile=0.99)
    for made in (pool, angles):
        real = torch.rand(200, generator=torch.Generator().manual_seed(0)) * made.disagreement.max() + 0.1
        chosen = select(made, config, 0, real, torch.zeros(200, dtype=torch.int64))
        assert 0 < len(chosen) == len(chosen.labels) <= COUNT
        if subsample == "none" and rule == "none":
            assert len(chosen) == COUNT
        json.dumps(chosen.report, allow_nan=False)


def test_adjusted_labels(pool: SyntheticSet, angles: SyntheticSet) -> None:
    def adjusted(made: SyntheticSet, adjust: Any) -> tuple[Tensor, Tensor]:
        chosen = select(made, SelectConfig(adjust=adjust), 0)
        return chosen.labels, chosen.teacher_outputs

    labels, outputs = adjusted(pool, "argmax")
    assert torch.equal(labels, outputs.argmax(1))
    labels, outputs = adjusted(pool, "soft")
    torch.testing.assert_close(labels, outputs.float().softmax(1))
    labels, outputs = adjusted(angles, "auto")
    assert torch.equal(labels, ANGLES.clipped(outputs))
    assert (labels != outputs).any()
    assert labels.dtype == torch.float32
    assert (labels != labels.round()).any()
    chosen = select(angles, SelectConfig(adjust="none"), 0)
    assert torch.equal(chosen.labels, angles.labels[chosen.index])


def test_published_quantiles_are_the_defaults(pool: SyntheticSet, angles: SyntheticSet) -> None:
    config = SelectConfig(subsample="none")
    assert len(select(pool, config, 0)) == pytest.approx(0.9 * COUNT, abs=4)
    chosen = select(angles, config, 0)
    assert len(chosen) == pytest.approx(0.7 * COUNT, abs=4)  # values clipped to the range are ties
    assert len(set(chosen.report["thresholds"])) == 1  # one for all labels


def test_smaller_counts_are_balanced_prefixes(pool: SyntheticSet) -> None:
    everything = select(pool, SelectConfig(), 0)
    for count in (1, 10, 100, 400):
        some = select(pool, SelectConfig(count=count), 0)
        assert torch.equal(some.index, everything.index[:count])
        per_class = pool.labels[some.index].bincount(minlength=4)
        assert per_class.max() - per_class.min() <= 1
        assert some.report["missing"] == 0
    short = select(pool, SelectConfig(count=10_000), 0)
    assert torch.equal(short.index, everything.index)
    assert short.report["missing"] == 10_000 - len(everything)
    assert torch.equal(short.accepted, everything.accepted)


@pytest.mark.parametrize(
    "changes", [{}, {"rho": 0.5}, {"subsample": "none"}, {"filter": "none"}, {"accept_share": 0.2}]
)
@pytest.mark.parametrize("which", ["pool", "angles"])
def test_at_least_the_kept_share_of_a_pool_is_left(
    which: str, changes: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    config, found = SelectConfig(**changes), request.getfixturevalue(which)
    left = len(select(found, config, 0)) / COUNT
    assert left > config.kept_share - 0.01
    if config.rho is not None or config.filter == "none" or which == "angles":  # a default rho of classes keeps more
        assert left == pytest.approx(config.kept_share, abs=0.01)


def test_seed_decides_the_rejection_alone(pool: SyntheticSet) -> None:
    config = SelectConfig(accept_share=0.3)
    assert torch.equal(select(pool, config, 0).index, select(pool, config, 0).index)
    assert not torch.equal(select(pool, config, 0).index, select(pool, config, 1).index)
    everything = SelectConfig(accept_share=1.0)
    assert torch.equal(select(pool, everything, 0).index, select(pool, everything, 1).index)


def test_what_cannot_be_selected_is_refused(pool: SyntheticSet) -> None:
    with pytest.raises(ConfigError, match="held-out real"):
        select(pool, SelectConfig(filter="real_calibrated"), 0)
    strict = SelectConfig(filter="real_calibrated")
    with pytest.raises(DataError, match="none of 1500 generated images"):
        select(pool, strict, 0, torch.full((30,), -1.0), torch.zeros(30, dtype=torch.int64))
    for bad in ({"accept_share": 0}, {"rho": 2}, {"count": 0}, {"burn_in": 0}, {"cap_quantile": 0}):
        with pytest.raises(GankdError, match=next(iter(bad))):
            SelectConfig(**bad)  # type: ignore[arg-type]
