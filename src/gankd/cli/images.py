"""Commands for data sets."""

from pathlib import Path

from gankd.cli.command import Command, Option
from gankd.cli.options import image_size, names

COMMANDS = (
    Command(
        name="data fetch",
        help="download a published data set, checked and resumable, or say where to get it by hand",
        calls="gankd.commands.data:fetch",
        options=(
            Option("name", metavar="NAME", help="cifar10, cifar100, tiny-imagenet, mnist ..."),
            Option("--to", type=Path, help="folder (default: data/NAME)"),
        ),
    ),
    Command(
        name="data show",
        help="show format, counts, sizes, labels, duplicates, unreadable files and a sheet of images",
        calls="gankd.commands.data:show",
        options=(
            Option("path", metavar="PATH", help="file or folder of the images"),
            Option("--name", help="format, as data.name calls it (default: found)"),
            Option(
                "--sheet",
                type=Path,
                default=Path("contact-sheet.png"),
                help="file for the sheet of images (default: contact-sheet.png)",
            ),
            Option("--size", type=image_size, help="resize images to this side in pixels, or HEIGHTxWIDTH"),
            Option("--task", choices=["auto", "classification", "regression"], help="task (default: auto)"),
            Option("--label", type=names, metavar="NAME", help="column of the label; x,y is a label of two values"),
            Option("--channels", choices=["auto", "grey", "rgb"], help="colours (default: auto)"),
            Option("--layout", choices=["auto", "classes", "splits"], help="what sub-folders are (default: auto)"),
            Option("--low", type=float, help="lower end of the label range"),
            Option("--high", type=float, help="upper end of the label range"),
        ),
    ),
)
