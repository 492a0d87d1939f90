"""Write the .npz files that `gankd results` reads, from the published sets.

    python examples/real_sets.py real --cifar100 cifar-100-binary.tar.gz --utkface UTKFace --steering driving_dataset

Each set is read by its own reader, resized to 32 pixels, and keeps the reader's split, which never divides a drive or
copies of a face between two parts. CIFAR-100 is reduced to its first 20 classes.
"""

import argparse
from pathlib import Path

import numpy as np

from gankd.recipes.config import DataConfig
from gankd.recipes.data import load_splits
from gankd.tasks import Classification

SETS = {
    "cifar100": ("cifar", DataConfig(name="cifar100", size=32, classes=20)),
    "utkface": ("faces", DataConfig(name="utkface", size=32)),
    "steering": ("steering", DataConfig(name="steering", size=32)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    for option in SETS:
        parser.add_argument(f"--{option}", metavar="PATH")
    given = vars(parser.parse_args())
    given["out"].mkdir(parents=True, exist_ok=True)
    for option, (name, config) in SETS.items():
        if given[option] is None:
            continue
        splits = load_splits(DataConfig(**{**vars(config), "root": given[option]}))
        parts = {"train": splits.train, "val": splits.val, "test": splits.test}
        label = np.concatenate([part.labels.numpy() for part in parts.values()])
        arrays = {
            "images": np.concatenate([part.images.numpy() for part in parts.values()]),
            "label": label,
            "split": np.repeat(list(parts), [len(part) for part in parts.values()]),
        }
        if isinstance(splits.task, Classification):
            arrays["class_names"] = np.array(splits.task.class_names)
        np.savez(given["out"] / f"{name}.npz", **arrays)
        print(f"{given['out'] / name}.npz: {', '.join(f'{len(part)} {key}' for key, part in parts.items())}")


if __name__ == "__main__":
    main()
