"""Commands for trained students and run folders: export, label photographs, measure, list, free space."""

from pathlib import Path

from gankd.cli.command import TABLE, THREADS, Command, Option
from gankd.cli.options import RUN, WORKERS, names, numbers

MODEL = Option(
    "model", type=Path, metavar="MODEL", help="file of gankd export: .safetensors, .onnx, .pt2 or .pte; or hf:user/name"
)
TRUST = Option(
    "--trust", action="store_true", help="run code that the file names (a network of your own) or holds (.pt2)"
)

COMMANDS = (
    Command(
        name="export",
        help="write the student that is best on validation images, controls included, as one file with a card",
        calls="gankd.commands.export:export",
        opens="run",
        options=(
            *RUN,
            Option(
                "--arm", help="arm of the student (default: the best of all on validation images, controls included)"
            ),
            Option("--seed", type=int, help="seed of the student (default: the arm's best on validation images)"),
            Option(
                "--format",
                dest="form",
                choices=["safetensors", "onnx", "torch-export", "executorch"],
                help="plain weights, or a graph from pixels of any size to probabilities or values (default: as --to "
                "ends, or safetensors)",
            ),
            Option("--int8", action="store_true", help="compute in 8-bit whole numbers (onnx)"),
            Option(
                "--train-int8",
                action="store_true",
                help="--int8, after training the student on for a tenth of its updates with int8 in view",
            ),
            Option("--to", dest="out", type=Path, help="file to write (default: student.* in the run folder)"),
        ),
    ),
    Command(
        name="push",
        help="put a student, teacher or generator of a run on the Hugging Face Hub, or into a folder, with a page",
        calls="gankd.commands.push:push",
        opens="run",
        options=(
            *RUN,
            Option("to", metavar="TARGET", help="hf:user/name, or a folder"),
            Option("--part", choices=["student", "teacher", "generator"], help="what is pushed (default: student)"),
            Option("--arm", help="arm of the student (default: as for export)"),
            Option("--seed", type=int, help="seed of the student (default: as for export)"),
            Option(
                "--format",
                dest="form",
                choices=["safetensors", "onnx"],
                help="kind of file of a student (default: safetensors)",
            ),
            Option("--licence", help="of what is pushed, as the hub names it: mit, cc-by-4.0 ... (default: not said)"),
            Option("--public", action="store_true", help="make a new repository open to everybody (default: private)"),
        ),
    ),
    Command(
        name="predict",
        help="label photographs with an exported student",
        calls="gankd.commands.predict:predict",
        options=(
            MODEL,
            Option("photos", type=Path, nargs="+", metavar="PHOTO", help="image files, or folders of them"),
            Option("--csv", dest="as_csv", action="store_true", help="print lines with commas, for a spreadsheet"),
            TRUST,
            THREADS,
        ),
    ),
    Command(
        name="bench-latency",
        help="measure how long an exported student takes for one image and for many, on this CPU",
        calls="gankd.commands.latency:bench_latency",
        options=(
            MODEL,
            Option(
                "--batches", type=numbers("--batches", int), help="images at a time, comma-separated (default: 1,32)"
            ),
            Option("--side", type=int, help="side of the images in pixels (default: what the network reads)"),
            Option("--threads", type=int, help="threads that compute (default: 1)"),
            Option("--seconds", type=float, help="time for each number of images (default: 2)"),
            TRUST,
        ),
    ),
    Command(
        name="serve",
        help="show a page on this machine where a photograph is dropped, and labelled by student and teacher",
        calls="gankd.commands.serve:serve",
        options=(
            MODEL,
            Option("--teacher", metavar="RUN", help="run folder whose teacher answers next to the student"),
            Option("--host", help="address to listen on (default: 127.0.0.1, only this machine)"),
            Option("--port", type=int, help="port to listen on; 0: any that is free (default: 8000)"),
            TRUST,
        ),
    ),
    Command(
        name="pareto",
        help="train several student networks as one arm of a run; table and page of accuracy against time and size",
        calls="gankd.commands.pareto:pareto",
        opens="run",
        options=(
            *RUN,
            Option("--students", type=names, required=True, metavar="NAMES", help="networks, comma-separated"),
            Option("--arm", help="how they are trained (default: the best arm on validation images)"),
            WORKERS,
        ),
    ),
    Command(
        name="diff",
        help="compare two runs in one table, arm by arm, and list the settings in which they differ",
        calls="gankd.commands.diff:diff",
        options=(
            Option("one", metavar="RUN", help="run folder, or the recipe whose folder is runs/RECIPE"),
            Option("other", metavar="OTHER", help="another one, which is compared with the first"),
            Option("--split", choices=["val", "test"], help="images to measure on (default: test)"),
            Option("--trust", action="store_true", help="run the code (module:name) that their files name"),
        ),
    ),
    Command(
        name="runs",
        help="list run folders: state, students, best arm on validation images, size, date",
        calls="gankd.report.folders:list_runs",
        options=(
            Option("folder", type=Path, nargs="?", default=Path("runs"), help="folder to look in (default: runs)"),
            TABLE,
        ),
    ),
    Command(
        name="clean",
        help="free the pools and checkpoints of a run; results, teacher, generator and students stay",
        calls="gankd.commands.clean:clean",
        options=(
            Option("folder", type=Path, metavar="FOLDER", help="run folder"),
            Option("--yes", action="store_true", help="delete without a question"),
        ),
    ),
)
