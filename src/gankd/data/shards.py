"""WebDataset shards: plain .tar files in which the files of a sample follow one another under one name."""

import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Unpack

from gankd.console import followed
from gankd.data.columns import LABEL_COLUMNS, labelled, refuse_half_split
from gankd.data.files import IMAGE_SUFFIXES, READ, R, Source, in_threads, splits_of_pictures
from gankd.data.images import Splits
from gankd.data.layout import parts_of_files
from gankd.data.own import JOINED, Choices, FileSettings, Item, counted, shown, with_part
from gankd.errors import DataError
from gankd.regular import require_regular

LABEL_MEMBERS = (".cls", ".json", ".txt")
"""Endings of members with the label, in order of preference; a .json member has it under a name of `LABEL_COLUMNS`."""
MOST_BYTES = 1 << 20
"""Largest member that is read as a label."""


def load_shards(path: str | Path, **settings: Unpack[FileSettings]) -> Splits:
    """Read WebDataset shards: a .tar file, or a folder of them.

    The members `0001.jpg` and `0001.cls` (or `0001.txt`, or `0001.json` with a key `label`) are one sample. Labels in
    `.cls` are classes. Shards whose names speak of a split ("train-000.tar") are that split. Nothing is written to
    disk; links, and members of other kinds, are passed over.

    Args:
        path: the file, or the folder.
        settings: those of `Choices`.

    Raises:
        ConfigError: a setting is out of range. DataError: a shard, a label or an image cannot be used.
    """
    path = Path(path)
    choices = Choices(**settings)
    paths = _find(path)
    parts = parts_of_files(path, paths) if path.is_dir() else [None]
    samples, items, classes = _read_shards(path, dict(zip(paths, parts, strict=True)), choices)
    refuse_half_split(items)
    for part, other in choices.other_paths.items():
        more, its_items, its_classes = _read_shards(other, dict.fromkeys(_find(other)), choices)
        items, samples, classes = with_part(items, its_items, part, other), [*samples, *more], classes and its_classes
    if choices.task == "auto" and classes:
        choices = replace(choices, task="classification")
    what = "folder" if path.is_dir() else "file"
    return splits_of_pictures(path, items, _Members(samples), choices, what=what)


def _read_shards(
    path: Path, part_of: Mapping[Path, str | None], choices: Choices
) -> tuple[list["_Sample"], list[Item], bool]:
    """Samples and items of shards with their splits, and True if all labels are classes by their kind."""
    samples = _listed(list(part_of))
    if not samples:
        raise DataError(
            f"{shown(path)}: expected images in the shards, such as 0001.jpg with 0001.cls, got none; "
            "give WebDataset shards"
        )
    texts = _labels(samples, choices.label)
    items = [
        labelled(
            f"{sample.shard.name}/{sample.image.name}",
            sample.shard,
            text,
            part_of[sample.shard],
            sample.where,
            _group(sample, choices.group_name),
        )
        for sample, (text, _) in zip(samples, texts, strict=True)
    ]
    return samples, items, all(suffix == ".cls" for _, suffix in texts)


def unlabelled_members(path: Path) -> tuple[list[Item], "_Members"]:
    """Items and pictures of all images in a shard or a folder of shards, whether they have labels or not."""
    samples = _listed(_find(path))
    items = [Item(f"{each.shard.name}/{each.image.name}", each.shard, "", each.where, None) for each in samples]
    return items, _Members(samples)


def _find(path: Path) -> list[Path]:
    expected = "expected a .tar file, or a folder of them"
    if not path.exists():
        raise DataError(f"no file {shown(path)}; {expected}; check the path")
    if path.is_file():
        return [path]
    paths = sorted(path.glob("*.tar")) or sorted(path.rglob("*.tar"))
    if not paths:
        packed = next(path.rglob("*.tar.*"), None)
        remedy = f"decompress {shown(packed.name)} and the others" if packed else "check the path"
        raise DataError(f"no .tar files in {shown(path)}; {expected}; {remedy}")
    return paths


@dataclass(slots=True)
class _Member:
    """A regular file in a shard."""

    name: str
    offset: int
    size: int


@dataclass(slots=True)
class _Sample:
    """An image with the members that may hold its label."""

    shard: Path
    image: _Member
    others: dict[str, _Member] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """Place of the sample, for messages."""
        return f"{shown(self.shard)} {shown(self.image.name)}"


def _listed(shards: list[Path]) -> list[_Sample]:
    """Samples of all shards that hold an image, in the order of the shards."""
    return [sample for shard in followed("list shards", shards, len(shards), images=0) for sample in _samples(shard)]


def _samples(shard: Path) -> Iterator[_Sample]:
    """Samples of one shard that hold an image, in the order of the images."""
    images: dict[str, _Member] = {}
    others: dict[str, dict[str, _Member]] = {}
    for member in _members(shard):
        folder, slash, name = member.name.rpartition("/")
        stem, dot, suffix = name.partition(".")  # as WebDataset does: a name ends at its first dot
        key, suffix = f"{folder}{slash}{stem}", f"{dot}{suffix}".lower()
        if suffix in LABEL_MEMBERS:
            others.setdefault(key, {})[suffix] = member
        elif suffix in IMAGE_SUFFIXES:
            if key in images:
                raise DataError(
                    f"{shown(shard)}: two images of one sample, {shown(images[key].name)} and {shown(member.name)}; "
                    "keep one, or give them names of their own"
                )
            images[key] = member
    for key, image in images.items():
        yield _Sample(shard, image, others.get(key, {}))


def _members(shard: Path) -> Iterator[_Member]:
    try:
        require_regular(shard)
        end = 0
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if member.isreg() and not member.issparse():
                    yield _Member(member.name, member.offset_data, member.size)
                archive.members = []  # type: ignore[attr-defined]  # otherwise every header stays in memory
        if shard.stat().st_size <= end:  # cut off between two members, which tarfile takes for its end
            raise ValueError("it ends without the mark of its end")
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        reason = shown(" ".join(str(getattr(error, "strerror", None) or error).split()))
        raise DataError(
            f"{shown(shard)} is not a plain .tar file, or a damaged one ({reason}); decompress it or write it again"
        ) from None


def _read(shard: Path, member: _Member) -> bytes:
    with shard.open("rb") as file:
        file.seek(member.offset)
        content = file.read(member.size)
    if len(content) < member.size:
        raise ValueError("the shard ends within this file")
    return content


def _labels(samples: list[_Sample], chosen: tuple[str, ...]) -> list[tuple[str, str]]:
    """Label of each sample as text, and the ending of the member that holds it."""
    without = [sample for sample in samples if not sample.others]
    if without:
        raise DataError(
            f"{without[0].where}: no label; expected a member {', '.join(LABEL_MEMBERS)} of the same name "
            f"({len(without):,} of {counted(len(samples), 'image')} have none)"
        )
    return [_label(sample, chosen) for sample in samples]


def _label(sample: _Sample, chosen: tuple[str, ...]) -> tuple[str, str]:
    suffix = next(suffix for suffix in LABEL_MEMBERS if suffix in sample.others)
    member = sample.others[suffix]
    where = f"{shown(sample.shard)} {shown(member.name)}"
    if member.size > MOST_BYTES:
        raise DataError(f"{where}: expected a label, got {member.size:,} bytes; leave the member out")
    try:
        text = _read(sample.shard, member).decode("utf-8-sig").strip()
        if suffix == ".json":
            text = _from_json(json.loads(text), chosen)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: no label can be read ({shown(' '.join(str(error).split()))}); correct it") from None
    return text, suffix


def _group(sample: _Sample, key: str | None) -> str | None:
    """Group of a sample, if its .json member has this key."""
    if key is None or ".json" not in sample.others:
        return None
    stored = json.loads(_read(sample.shard, sample.others[".json"]))
    found = stored.get(key) if isinstance(stored, dict) else None
    return None if found is None else str(found)


def _from_json(stored: Any, chosen: tuple[str, ...]) -> str:
    """Label from the content of a .json member: a number or text, or an object with one, under the `chosen` names."""
    if isinstance(stored, dict):
        usual = next((name for name in LABEL_COLUMNS if name in stored), None)
        names = chosen or (() if usual is None else (usual,))
        if not names or not all(name in stored for name in names):
            known = ", ".join(chosen or LABEL_COLUMNS)
            raise ValueError(f"expected a key {known}, got {', '.join(map(str, stored)) or 'none'}")
        if len(names) > 1:
            return JOINED.join(_from_json(stored[name], ()) for name in names)
        stored = stored[names[0]]
    if stored is None:
        return ""
    if not isinstance(stored, str | int | float):
        raise ValueError(f"expected a number or text, got {type(stored).__name__}")
    return str(stored)


@dataclass
class _Members:
    """Pictures inside shards, each read when its turn comes."""

    samples: list[_Sample]

    @property
    def paths(self) -> list[Path]:
        """See `Pictures`."""
        return list(dict.fromkeys(sample.shard for sample in self.samples))

    def visit(self, function: Callable[[int, Source], R], what: str = READ) -> list[R | str]:
        """See `Pictures`."""

        def attempt(pair: tuple[int, _Sample]) -> R:
            return function(pair[0], _read(pair[1].shard, pair[1].image))

        return in_threads(attempt, enumerate(self.samples), what, len(self.samples))
