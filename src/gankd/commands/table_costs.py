"""docs/costs.md: the operations of every published table, and the GPU hours that they take."""

from gankd.bench.cost import Peak, table_work
from gankd.recipes.published import TABLES, Protocol, find_table
from gankd.text import Table, hours

MACHINE = Peak(60e12)
"""Machine of the page: about that of a large GPU in float32 or TF32, or of a small one in bfloat16."""
SEEDS = 3
PROTOCOLS: tuple[Protocol, ...] = ("gankd", "published")


def costs_page() -> str:
    """The page, in Markdown."""
    head = ["table", "what", "operations", "hours, --protocol gankd", "published", "of it students", "memory, GB"]
    lines = [
        "# What the tables cost",
        "",
        "Written by `make lists`. Floating-point operations of every table at `--scale full`, counted from the shapes "
        f"of its networks with {SEEDS} seeds and without the controls at equal time, and the hours that they take on a "
        f"machine of {MACHINE.name}.",
        "",
        "- The share is a guess: nothing here was measured on a GPU. Small networks keep a large GPU waiting and reach "
        "less of it; large ones with bfloat16 reach more. Divide the operations by what your machine reaches.",
        "- `gankd list recipes --measure` measures that speed on your machine, and `gankd plan TABLE --scale full` "
        "times a few updates of each network.",
        '- `gankd plan TABLE --scale full --on "60 TFLOP/s" --share 0.2` gives the stages of one table, for any speed.',
        "",
        Table(head, [cost_row(name) for name in TABLES], "llrrrrr").markdown(),
    ]
    return "\n".join(lines) + "\n"


def cost_row(name: str) -> list[str]:
    """A table's line of the page."""
    own, published = (table_work(find_table(name, protocol), "full") for protocol in PROTOCOLS)
    both = [work.all_shared + SEEDS * work.students for work in (own, published)]
    cells = [hours(each / MACHINE.speed) for each in (*both, SEEDS * published.students)]
    gigabytes = max(own.gigabytes, published.gigabytes)
    return [name, TABLES[name].title, f"{both[0]:.2g}", *cells, f"{gigabytes:.1f}"]
