"""Parquet tables: image files inside, paths of image files, or a column per pixel."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gankd.console import followed
from gankd.data.arrays import Array, Images, Stream, label_texts, refuse_strange, splits_of_arrays
from gankd.data.columns import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    SPLIT_COLUMN,
    PixelColumns,
    Row,
    find_column,
    group_column,
    items_of_rows,
    label_columns,
    labelled,
    pixel_columns,
    refuse_half_split,
    refuse_other_paths,
)
from gankd.data.files import READ, Files, R, Source, in_threads, splits_of_pictures
from gankd.data.images import Splits
from gankd.data.layout import parts_of_files
from gankd.data.own import Choices, Item, TaskChoice, joined, shown, with_part
from gankd.errors import DataError
from gankd.regular import require_regular

BLOCK = 256
"""Rows in memory at once."""


def load_parquet(path: Path, choices: Choices) -> Splits:
    """Read a Parquet file, or a folder of such files that are named by their split; see `load_table`.

    Raises:
        ConfigError: a range of classes. DataError: the files, a label or an image cannot be used, or pyarrow is not
            installed.
    """
    shards = _find(path)
    others = {part: _find(other) for part, other in choices.other_paths.items()}
    first, every = shards[0], [*shards, *(shard for more in others.values() for shard in more)]
    strange = next((shard for shard in every if shard.names != first.names), None)
    if strange is not None:
        raise DataError(
            f"{shown(strange.path)}: expected the columns of {shown(first.path.name)}, got {strange.listed}; "
            "give files of one set"
        )
    if columns := pixel_columns(first.names, first.where, choices.label):
        refuse_other_paths(path, choices)
        items = [item for shard in shards for item in shard.items(columns.labels, columns.split, choices.task)]
        pixels = [shard.pixels(columns) for shard in shards]
        return splits_of_arrays(path, items, pixels, choices, class_names=first.class_names(columns.labels, items))

    image = find_column(first.names, (*IMAGE_COLUMNS, "img"), first.where)
    labels = label_columns(first.names, choices.label, first.where, (*LABEL_COLUMNS, "fine_label"))
    split = first.names.index(SPLIT_COLUMN) if SPLIT_COLUMN in first.names else None
    group = group_column(first.names, choices.group_name, first.where)
    named = first.holds_paths(image)

    def items_of(some: list[_Shard]) -> list[Item]:
        if named:
            return [item for shard in some for item in shard.named_items(image, labels, split, choices.task, group)]
        return [item for shard in some for item in shard.items(labels, split, choices.task, group)]

    items = items_of(shards)
    refuse_half_split(items)
    for part, more in others.items():
        for shard in more:
            shard.part = None  # whatever its name: all of it is this split
        items = with_part(items, items_of(more), part, choices.other_paths[part])
    pictures = Files([item.path for item in items]) if named else _Embedded(every, image)
    names = first.class_names(labels, items)
    what = "folder" if path.is_dir() else "table"
    return splits_of_pictures(path, items, pictures, choices, what=what, class_names=names)


def _find(path: Path) -> list["_Shard"]:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise DataError(f'{shown(path)} is Parquet, which needs pyarrow; pip install "gankd[parquet]"') from None
    if path.is_file():
        return [_Shard(path, None)]
    paths = sorted(path.glob("*.parquet")) or sorted(path.rglob("*.parquet"))
    if not paths:
        raise DataError(f"no .parquet files in {shown(path)}; expected files such as train-00000-of-00001.parquet")
    return [_Shard(each, part) for each, part in zip(paths, parts_of_files(path, paths), strict=True)]


class _Shard:
    """One file, read a block of rows at a time."""

    def __init__(self, path: Path, part: str | None) -> None:
        from pyarrow import parquet

        self.path, self.part, self.where = path, part, shown(path)
        with _refusing(path):
            require_regular(path)
        with _refusing(path), parquet.ParquetFile(path) as file:
            self.schema: Any = file.schema_arrow
            self.count: int = file.metadata.num_rows
        self.names = [name.lower() for name in self.schema.names]

    @property
    def listed(self) -> str:
        """The columns, for error messages."""
        return ", ".join(map(shown, self.names[:20]))

    def blocks(self, *columns: int) -> Iterator[list[Any]]:
        """Arrow arrays of these columns."""
        from pyarrow import parquet

        with _refusing(self.path), parquet.ParquetFile(self.path) as file:
            for batch in file.iter_batches(BLOCK, columns=[self.schema.names[index] for index in columns]):
                yield [batch.column(self.schema.names[index]) for index in columns]

    def texts(self, column: int, task: TaskChoice = "auto") -> list[str]:
        """Labels or splits as text."""
        import pyarrow as pa

        name, kind = shown(self.schema.names[column]), self.schema.field(column).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        if not (text or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            raise DataError(
                f"{self.where}: expected numbers or text in {name}, got {shown(str(kind))}; save one label per image"
            )
        with _refusing(self.path):
            found: list[Any] = [value for (block,) in self.blocks(column) for value in block.to_pylist()]
        if None in found:
            raise DataError(f"{self.where}: {name}[{found.index(None)}]: no label; fill it in or remove the row")
        if not found:
            raise DataError(f"{self.where} has no rows; leave it out")
        return found if text else label_texts(f"{self.where}: {name}", np.array(found), task)

    def rows(
        self, labels: list[int], split: int | None, task: TaskChoice, group: int | None
    ) -> Iterator[tuple[int, str, str | None, str | None]]:
        """(row, label, split, group) of each image."""
        found = joined([self.texts(label, task) for label in labels])
        parts = self.texts(split) if split is not None else [self.part] * len(found)
        groups = self.texts(group) if group is not None else [None] * len(found)
        return zip(range(len(found)), found, parts, groups, strict=True)

    def items(self, labels: list[int], split: int | None, task: TaskChoice, group: int | None = None) -> list[Item]:
        """Items of images inside the table."""
        return [
            labelled(f"{self.path.name}[{row}]", self.path, text, part, f"{self.where} row {row}", own)
            for row, text, part, own in self.rows(labels, split, task, group)
        ]

    def holds_paths(self, image: int) -> bool:
        """True if images are paths of files, False if they are files in the table.

        Raises:
            DataError: neither.
        """
        import pyarrow as pa

        kind = self.schema.field(image).type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            return True
        if pa.types.is_struct(kind):
            kind = kind.field("bytes").type if kind.get_field_index("bytes") >= 0 else kind
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise DataError(
                f"{self.where}: expected paths, bytes of image files, or a struct of bytes and path in "
                f"{shown(self.schema.names[image])}, got {shown(str(kind))}; save images as PNG in a binary column"
            )
        return False

    def named_items(
        self, image: int, labels: list[int], split: int | None, task: TaskChoice, group: int | None
    ) -> list[Item]:
        """Items of images that are files below the table's folder."""
        paths = self.texts(image)
        return items_of_rows(
            self.path,
            [
                Row(f"row {row}", paths[row], text, part, own)
                for row, text, part, own in self.rows(labels, split, task, group)
            ],
        )

    def pixels(self, columns: PixelColumns) -> Images:
        """uint8 (N, H, W, 1) of a column per pixel."""
        shape = (self.count, columns.side, columns.side, 1)

        def blocks() -> Iterator[Array]:
            for block in self.blocks(*columns.pixels):
                levels = np.stack([column.to_numpy(zero_copy_only=False) for column in block], 1)
                if levels.dtype.kind not in "iu" or levels.min() < 0 or levels.max() > 255:
                    raise DataError(
                        f"{self.where}: expected integers from 0 to 255 in the pixel columns, got {levels.dtype}"
                        + (f" {levels.min():g} to {levels.max():g}" if levels.dtype.kind in "iuf" else "")
                        + "; save grey levels as uint8"
                    )
                yield levels.astype(np.uint8).reshape(-1, *shape[1:])

        return Images(f"{self.where}: pixels", Stream(shape, np.dtype(np.uint8), blocks), self.path)

    def class_names(self, labels: list[int], items: list[Item]) -> tuple[str, ...]:
        """Class names from Hugging Face's description of the columns; empty without one."""
        try:
            told = json.loads((self.schema.metadata or {})[b"huggingface"])["info"]["features"]
            (label,) = labels
            names = told[self.schema.names[label]]["names"]
        except (KeyError, ValueError, TypeError):
            return ()
        if not isinstance(names, list) or len({str(name) for name in names}) < len(names):
            return ()
        refuse_strange(items, len(names), "its list of classes")
        return tuple(shown(str(name)) for name in names)


@dataclass
class _Embedded:
    """Pictures inside the tables; only a block of them is in memory."""

    shards: list[_Shard]
    column: int
    named: set[Path] = field(default_factory=set)
    """Files outside the tables that cells name instead of holding them, found while visiting."""

    @property
    def paths(self) -> list[Path]:
        """See `Pictures`."""
        return [*(shard.path for shard in self.shards), *sorted(self.named)]

    def visit(self, function: Callable[[int, Source], R], what: str = READ) -> list[R | str]:
        """See `Pictures`."""
        outcomes: list[R | str] = []
        total = sum(-(-shard.count // BLOCK) for shard in self.shards)
        blocks = ((shard, block) for shard in self.shards for (block,) in shard.blocks(self.column))
        for shard, block in followed(what, blocks, total, images=BLOCK):
            base = Path(os.path.abspath(shard.path.parent))  # below "." there would be "..", too
            cells = enumerate(block.to_pylist(), len(outcomes))

            def attempt(pair: tuple[int, Any], base: Path = base) -> R:
                source = _source(pair[1], base)
                if isinstance(source, Path):
                    self.named.add(source)
                return function(pair[0], source)

            outcomes += in_threads(attempt, cells)
        return outcomes


def _source(cell: Any, base: Path) -> Source:
    """File that a cell holds or names."""
    content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
    if content is not None:
        return bytes(content)
    if not path:
        raise ValueError("neither bytes nor a path")
    found = Path(os.path.normpath(base / path))
    if not found.is_relative_to(base):
        raise ValueError("a path outside the folder")
    return found


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Errors of pyarrow, in one line."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # the library may raise anything on a broken file
        reason = shown(" ".join(str(error).split())[:200]) or type(error).__name__
        raise DataError(f"{shown(path)} is not a Parquet file, or a damaged one ({reason}); write it again") from None
