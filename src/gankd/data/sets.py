"""The table of data sets: each name that `data.name` takes, and all that other files know about it.

A new data set is its reader, the reader's test and one line here. Importing this table imports no reader.
"""

from dataclasses import dataclass
from typing import Literal

from gankd.errors import ConfigError


@dataclass(frozen=True)
class Archive:
    """A file at a fixed address."""

    url: str
    sha256: str
    """Checksum of the file as published; other libraries give the same one."""
    bytes: int
    """Size, so that no transfer is longer."""

    @property
    def name(self) -> str:
        """Name of the file on disk."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Download:
    """Files that `gankd data fetch` downloads."""

    archives: tuple[Archive, ...]
    unpacks_to: str = ""
    """Folder that the archive unpacks to, for a reader that does not read the archive itself."""
    name: str = ""
    """Name for `gankd data fetch`; default: the name of the data set."""


@dataclass(frozen=True)
class ByHand:
    """Files behind a form, or only on a file-sharing service."""

    address: str
    take: str
    """The files to take from there."""


@dataclass(frozen=True)
class DataSet:
    """One row: a reader, its texts, and facts that commands use if they are given."""

    reader: str
    """module:function in `gankd.data`, called as function(path, **settings); an embedded set has no path."""
    summary: str
    """One line for `gankd list recipes`."""
    data: str = ""
    """Target of --data in words; empty: the set is embedded and reads no files."""
    takes: tuple[str, ...] = ("size",)
    """Settings of `DataConfig` that the reader takes by name; others that only some readers take are refused."""
    shape: tuple[int, int, int] | None = None
    """Channels, side and outputs as published (1 output: values), for estimates of cost."""
    files: tuple[tuple[str, str], ...] = ()
    """Recognised files: (regular expression of the whole name, format in words)."""
    markers: tuple[tuple[str, str], ...] = ()
    """Recognised folders: (name of an entry, format in words)."""
    pictures: Literal["no", "in folder", "in table"] = "no"
    """Image files that `gankd data show` decodes one by one: all below the folder, or those that a table lists."""
    origin: Download | ByHand | None = None

    @property
    def embedded(self) -> bool:
        """The set comes with the package or its dependencies."""
        return not self.data


def _archives(base: str, files: dict[str, tuple[str, int]]) -> tuple[Archive, ...]:
    return tuple(Archive(base + name, digest, size) for name, (digest, size) in files.items())


OWN = ("task", "label", "size", "channels", "fit", "low", "high", "duplicates")
"""Settings that readers of the user's own images take."""
ARRAYS = (*OWN, "group")
"""Those that readers of files of arrays take."""
FILES = (*ARRAYS, "val", "test", "skip_broken")
"""Those that readers of image files take."""

DATA_SETS = {
    # --- embedded
    "digits": DataSet("digits:load_digits", "Ten classes of digits at 8x8", takes=(), shape=(1, 8, 10)),
    "rotated-digits": DataSet(
        "rotated_digits:load_rotated_digits", "The angle of a digit at 16x16", takes=(), shape=(1, 16, 1)
    ),
    "blobs": DataSet("blobs:load_blobs", "Place and size of a disc at 16x16: three values", takes=()),
    "turntable": DataSet("turntable:load_turntable", "The yaw of rendered solids", takes=("size", "per_label")),
    # --- the user's own images
    "folder": DataSet(
        "folder:load_folder",
        "The user's own images: class folders, or labels.csv",
        "the folder of your images",
        (*FILES, "layout"),
        markers=(("labels.csv", "image files with labels.csv"),),
        pictures="in folder",
    ),
    "npz": DataSet(
        "npz:load_npz",
        "The user's own images: arrays in an .npz file",
        "the .npz file of your arrays",
        ARRAYS,
        files=((r".*\.npz", "arrays in .npz"),),
    ),
    "table": DataSet(
        "table:load_table",
        "The user's own images: a CSV or parquet file that lists or holds them",
        "the CSV or parquet file that lists your images",
        FILES,
        files=((r".*\.parquet", "a Parquet table"), (r".*\.[ct]sv", "a CSV table")),
        pictures="in table",
    ),
    "webdataset": DataSet(
        "shards:load_shards",
        "The user's own images: WebDataset shards (.tar)",
        "the .tar file or folder of your shards",
        FILES,
        files=((r".*\.tar", "a WebDataset shard"),),
    ),
    "idx": DataSet(
        "idx:load_idx",
        "The user's own images: IDX files, as MNIST's",
        "the folder of your IDX files",
        ARRAYS,
        origin=Download(
            _archives(
                "https://ossci-datasets.s3.amazonaws.com/mnist/",
                {
                    "train-images-idx3-ubyte.gz": (
                        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                        9_912_422,
                    ),
                    "train-labels-idx1-ubyte.gz": (
                        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                        28_881,
                    ),
                    "t10k-images-idx3-ubyte.gz": (
                        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                        1_648_877,
                    ),
                    "t10k-labels-idx1-ubyte.gz": (
                        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                        4_542,
                    ),
                },
            ),
            name="mnist",
        ),
    ),
    # --- published sets
    "cifar10": DataSet(
        "cifar:load_cifar10",
        "CIFAR-10: the official archive, its folder, or the authors' .h5",
        "the archive or folder of CIFAR-10",
        shape=(3, 32, 10),
        files=(
            (r"cifar-?10_.*\.h(df)?5", "CIFAR-10 in h5"),
            (r"cifar-10-(python|binary)\.tar\.gz", "the archive of CIFAR-10"),
        ),
        markers=(
            ("cifar-10-batches-bin", "CIFAR-10, binary version"),
            ("cifar-10-batches-py", "CIFAR-10, python version"),
            ("data_batch_1.bin", "CIFAR-10, binary version"),
            ("data_batch_1", "CIFAR-10, python version"),
        ),
        origin=Download(
            _archives(
                "https://www.cs.toronto.edu/~kriz/",
                {
                    "cifar-10-binary.tar.gz": (
                        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                        170_052_171,
                    )
                },
            )
        ),
    ),
    "cifar100": DataSet(
        "cifar:load_cifar100",
        "CIFAR-100: the official archive or its folder",
        "the archive or folder of CIFAR-100",
        ("size", "coarse"),
        shape=(3, 32, 100),
        files=(
            (r"cifar-?100.*\.h(df)?5", "CIFAR-100 in h5"),
            (r"cifar-100-(python|binary)\.tar\.gz", "the archive of CIFAR-100"),
        ),
        markers=(
            ("cifar-100-binary", "CIFAR-100, binary version"),
            ("cifar-100-python", "CIFAR-100, python version"),
            ("train.bin", "CIFAR-100, binary version"),
        ),
        origin=Download(
            _archives(
                "https://www.cs.toronto.edu/~kriz/",
                {
                    "cifar-100-binary.tar.gz": (
                        "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
                        168_513_733,
                    )
                },
            )
        ),
    ),
    "tiny-imagenet": DataSet(
        "tiny_imagenet:load_tiny_imagenet",
        "Tiny-ImageNet-200: the official folder, or the authors' .h5",
        "the folder tiny-imagenet-200",
        shape=(3, 64, 200),
        markers=(("wnids.txt", "Tiny-ImageNet"),),
        pictures="in folder",
        origin=Download(
            _archives(
                "https://cs231n.stanford.edu/",
                {
                    "tiny-imagenet-200.zip": (
                        "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
                        248_100_043,
                    )
                },
            ),
            unpacks_to="tiny-imagenet-200",
        ),
    ),
    "imagenet100": DataSet(
        "imagenet100:load_imagenet100",
        "ImageNet-100: a list of 100 ids over a folder of ImageNet, or the authors' .h5",
        "the folder of ImageNet",
        ("size", "class_list"),
        shape=(3, 128, 100),
        files=((r"imagenet.*100class.*\.h(df)?5", "ImageNet-100 in h5"),),
        markers=(("imagenet100.txt", "ImageNet-100: a list of classes over a folder of ImageNet"),),
        origin=ByHand("https://image-net.org/download-images.php", "the ILSVRC 2012 training images, unpacked"),
    ),
    "rc49": DataSet(
        "rc49:load_rc49",
        "RC-49: the yaw of rendered chairs, from its .h5",
        "the .h5 file of RC-49",
        ("size", "per_label", "seed"),
        shape=(3, 64, 1),
        files=((r".*rc-?49.*\.h(df)?5", "RC-49 in h5"),),
        origin=ByHand("https://github.com/UBCDingXin/improved_CcGAN", "the file RC-49_64x64.h5"),
    ),
    "utkface": DataSet(
        "utkface:load_utkface",
        "UTKFace: ages, from the folder of faces, or the authors' .h5",
        "the folder of UTKFace",
        shape=(3, 64, 1),
        files=((r".*utkface.*\.h(df)?5", "UTKFace in h5"),),
        pictures="in folder",
        origin=ByHand("https://susanqq.github.io/UTKFace/", "the aligned and cropped faces, unpacked"),
    ),
    "steering": DataSet(
        "steering:load_steering",
        "Steering Angle: data.txt and frames, or the authors' .h5",
        "the folder with data.txt and the frames",
        ("size", "low", "high"),
        shape=(3, 64, 1),
        files=((r".*steering.*\.h(df)?5", "Steering Angle in h5"),),
        markers=(("data.txt", "frames of Steering Angle with data.txt"),),
        pictures="in folder",
        origin=ByHand("https://github.com/SullyChen/driving-datasets", "data.txt and its frames, unpacked"),
    ),
    # --- last, because its pattern also fits the .h5 files of published sets
    "h5": DataSet(
        "h5:load_h5",
        "The user's own images: arrays in an .h5 file",
        "the .h5 file of your arrays",
        ARRAYS,
        files=((r".*\.(h5|hdf5)", "arrays in h5"),),
    ),
}
"""All data sets. Where names of files fit several, the first one counts."""


def published_shape(name: str) -> tuple[int, int, int]:
    """Channels, side and outputs of a published or embedded set.

    Raises:
        ConfigError: the table does not say.
    """
    shape = DATA_SETS[name].shape
    if shape is None:
        raise ConfigError(f"the shape of {name} is not known in advance; add it to its line in gankd.data.sets")
    return shape
