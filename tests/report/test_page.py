import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from gankd.bench.answers import answers_of
from gankd.bench.results import ArmResult, Choice, with_intervals
from gankd.data.images import LabelledImages
from gankd.errors import RunError
from gankd.recipes.arms import DEFAULT_ARMS
from gankd.report.facts import (
    CopyFacts,
    Curve,
    DataFacts,
    DisagreementFacts,
    ExportFacts,
    GroupImages,
    LabelFacts,
    LabelSweep,
    Mistakes,
    ModelFacts,
    RatioFacts,
    ReportData,
    ScoredImages,
    StageFacts,
)
from gankd.report.page import write_index, write_report
from gankd.tasks import Classification, Regression, Task
from gankd.virtual import Failure, Gate, Gates, Inspection

CLASSES = Classification(num_classes=3, class_names=("cat", "dog", "<b>$x$"))
DEGREES = Regression(low=-60, high=60, unit="degrees")
VOID = {"meta", "img", "br", "line", "circle", "rect", "path", "use"}


class Page(HTMLParser):
    """Checks nesting; collects tags, ids, links and text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.html = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(self.html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data

    def values(self, name: str) -> list[str]:
        return [value for _, attrs in self.tags if (value := attrs.get(name)) is not None]


def arms(task: Task) -> tuple[ArmResult, ...]:
    sign = 1 if task.higher_is_better else -1
    results = [
        ArmResult(
            arm=arm,
            seeds=(0, 1, 2),
            metrics=tuple(
                {task.metric: 50 + sign * (index * (1 + 0.0005 * (seed - 2)) + 0.1 * seed)} for seed in (1, 3, 2)
            ),
            metric=task.metric,
            updates=600 if arm.name == "real" else 2400,
            seconds=3.0,
        )
        for index, arm in enumerate(DEFAULT_ARMS.values())
    ]
    return with_intervals(results, task)


def images(count: int, size: int = 8, channels: int = 1) -> torch.Tensor:
    return torch.randint(0, 255, (count, channels, size, size), dtype=torch.uint8)


def inspected(task: Task, num_groups: int = 3) -> Inspection:
    def gates(passed: bool) -> Gates:
        outputs = num_groups if task.kind == "classification" else 50
        mean = torch.rand(num_groups, outputs, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        each = torch.linspace(-0.2, 0.9, num_groups, dtype=torch.float64)
        facts = {"mean_p": mean, "mean_q": mean.flip(0), "sd_p": each.abs(), "sd_q": each.square()}
        facts |= {"count": torch.arange(num_groups)}  # the first without outputs
        facts |= {"rank": each} if outputs == num_groups else {"value_p": each, "value_q": each, "pit": each[:10].abs()}
        both = (
            Gate("mean", "class means", -1e-9, 0.1, high=1.0),
            Gate("label", "label", -0.3 * (not passed), 0, -0.1, 0.1),
        )
        failure = Failure("F1", "draws of a label have 0.50 of the spread", "a larger <z_dim>")
        return Gates(both, () if passed else (failure,), facts)

    facts = {"parameters": 140_916, "kilobytes": 283.4, "temperature": 4.0, "outputs": 1200}
    stand_ins = {"gauss": gates(True), "table": gates(False)}
    return Inspection(gates(False), stand_ins, gates(False), facts)


def _labels(task: Task) -> torch.Tensor:
    return torch.arange(task.num_groups) if task.has_classes else torch.linspace(-60, 60, 12)


def _outputs(task: Task, labels: torch.Tensor) -> torch.Tensor:
    """Every other answer is wrong, with classes by the next one."""
    wrong = torch.arange(len(labels)) % 2
    return (
        3 * torch.eye(task.num_groups)[(labels + wrong) % task.num_groups] if task.has_classes else labels + 9 * wrong
    )


def full(task: Task, size: int = 8, channels: int = 1, num_groups: int = 3) -> ReportData:
    groups = [task.group_name(group % task.num_groups) for group in range(num_groups)]
    counts = list(range(10, 10 + num_groups))
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(400, generator=generator)
    gan = [{"step": step, "d_loss": 1.0 / step, "g_loss": 0.5} for step in range(50, 501, 50)]
    gan += [{"step": s, "teacher": 80.0, "variance_ratio": 0.9, "frechet": 9.0 / s} for s in (100, 200, 300)]
    history = [{"step": step, "loss": 1.0 / step} for step in range(50, 501, 50)]
    cost = {"name": "cnn", "parameters": 10_238, "macs": 412_000, "size_kib": 41.2, "latency_ms": 0.2}
    kept = ScoredImages(
        title="Kept",
        kept=True,
        images=images(20, size, channels),
        labels=["-7.5"] * 20,
        log_ratio=scores[:20].tolist(),
        chance=[0.25] * 20,
        disagreement=scores[:20].abs().tolist(),
        cutoff=[0.5, None] * 10,
    )
    generator.manual_seed(0)
    test = LabelledImages(images(60, size, channels), task.sample_labels(60, _labels(task), "uniform", generator), task)
    said = answers_of(_outputs(task, test.labels), test, _outputs(task, test.labels), test)
    return ReportData(
        recipe="digits",
        task=task,
        created="2026-01-02 03:04",
        version="0.1.0",
        commands=["gankd run digits"],
        seconds=171.3,
        machine={"torch": "2.13"},
        config={"gan": {"steps": 500}},
        notes=["Class 8 lost images."],
        stages=[StageFacts(name="gan", folder="gan-12345678", seconds=61.0)],
        arms=arms(task),
        choice=Choice(method="adjusted_kd"),
        data=DataFacts(
            name="digits",
            counts={"train": 99},
            shape=(channels, size, size),
            card={"licence": "CC BY 4.0"},
            groups=groups,
            train_counts=counts,
        ),
        models=[
            ModelFacts(role="teacher", card=cost | {"parameters": 1_023_800}, metrics={"test": {task.metric: 60.0}}),
            ModelFacts(role="student", card=cost, metrics={"test": {"ece": 1.234, "nll": 0.2}}, answers=said),
        ],
        exports=[
            ExportFacts(
                file="/somewhere/<b>small.onnx",
                student="cGAN-KD, seed 0",
                form="onnx",
                int8=speedup is not None,
                bytes=95_000,
                check={
                    "metrics": {task.metric: 59.0},
                    "expected": {task.metric: 60.0},
                    "difference": 0.045,
                    "low": 55.0,
                    "high": 62.0,
                    "speedup": speedup,
                },
            )
            for speedup in (None, 1.7)
        ],
        mistakes=Mistakes(
            images=images(2, size, channels),
            labels=["cat", "dog"],
            student=["dog (99 %)", "cat"],
            teacher=["cat", "cat"],
        ),
        generator_history=[*gan, {"step": 500, "real_teacher": 99.0}],
        generator_seconds=61.0,
        groups=[GroupImages(name=g, real=images(9, size, channels), fake=images(9, size, channels)) for g in groups],
        copies=CopyFacts(count=1000, of_train=2.34, of_test=0.1),
        sweep=LabelSweep(labels=[str(n) for n in range(12)], images=images(96, size, channels).unflatten(0, (8, 12))),
        scored=[kept, replace(kept, title="Dropped by the filter", kept=False, log_ratio=(), chance=())],
        ratio=RatioFacts(log_ratio_real=scores + 1, log_ratio_fake=scores, auc=0.76, mean_ratio_fake=1.0),
        disagreement=DisagreementFacts(real=scores.abs(), fake=scores.exp(), cutoffs=[0.5, 0.6, 0.7, 0.8]),
        labels=LabelFacts(
            groups=groups,
            counts={"pool": counts, "subsampled": counts, "filtered": counts, "adjusted": counts},
            left={"generated": 4000, "accepted": 2000, "consistent": 1800, "kept": 1500},
            acceptance=[0.5] * num_groups,
            teacher_stddev={"generated": 0.0123, "accepted": None, "consistent": 0.0234},
        ),
        virtual=inspected(task, num_groups),
        curves=[
            Curve(role="teacher", title="teacher", history=history),
            *(Curve(role="student", title=a.title, arm=a.name, history=history) for a in DEFAULT_ARMS.values()),
        ],
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(full(CLASSES), path)
    return Page(path)


def test_exported_files_have_a_row_each(page: Page) -> None:
    rows = page.html[page.html.index('<section id="exports">') :].partition("</section>")[0]
    assert "59.00 [55.00, 62.00]" in rows
    assert "&lt;b&gt;small.onnx" in rows
    assert rows.count("92.8 KiB") == 2
    assert rows.index("onnx, float32") < rows.index("onnx, int8") < rows.index(">1.70<")


def test_page_is_self_contained(page: Page) -> None:
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object"}
    for source in page.values("src"):
        assert source.startswith("data:image/")
    for tag, attrs in page.tags:
        for address in filter(None, (attrs.get("href"), attrs.get("xlink:href"))):
            assert address.startswith("data:image/" if tag == "image" else "#")
    assert not re.search(r"url\((?!#)|@import", page.html)


def test_page_is_fit_for_a_phone_and_for_a_screen_reader(page: Page) -> None:
    metas = [attrs for tag, attrs in page.tags if tag == "meta"]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in metas
    assert all("alt" in attrs for tag, attrs in page.tags if tag == "img")
    charts = [attrs for tag, attrs in page.tags if tag == "svg" and attrs.get("class") == "chart"]
    assert len(charts) == 17
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in charts)
    assert "prefers-color-scheme: dark" in page.html
    assert not re.search(r"#[0-9a-f]{6}", page.html.partition("</style>")[2])  # colours come from the style


def test_ids_are_unique_and_links_lead_somewhere(page: Page) -> None:
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    addresses = page.values("href") + page.values("xlink:href")
    wanted = {address[1:] for address in addresses if not address.startswith("data:")}
    wanted |= set(re.findall(r"url\(#([^)]+)\)", page.html))
    assert wanted <= set(ids)


def test_page_says_what_was_measured(page: Page) -> None:
    text = " ".join(page.text.split())
    for expected in (
        "better by 5.00 [4.99, 5.01] points",
        "Better than every control",
        "exactly as many updates as",
        "2m51s",
        "An arm is one way to train the student.",
        "The pool is all images",
        "Gates are tests",
        "100 times",
        "Held-out AUC 0.760",
        "student 1.23 % and 0.2 nats",
        "cat taken for dog: ",
        "labelcatstudentdog (99 %)teachercat",
        "Dropped by the filter",
        "Of 4,000 images, subsampling left 2,000 and the filter 1,800; of these, 1,500 are used",
        "interval over 3 seeds",
        "chance25 %",
        "limit0.5",
        "2.3 % of 1,000 generated images are at least three times nearer to one training image",
        "lower is softer and more varied: 0.0123 of the pool, 0.0234 after the filter.",
        "Class 8 lost images.",
        "gan-12345678",
        "gankd run digits",
        "CC BY 4.0",
        "412 k",
        "chosen on validation",
        "VKD as reconstructed from its abstract",
        "140,916 parameters, 283 KB",
        "passes 1 of 2 gates",
        "class means0.00000.1000at most 1.0000passed",
        "The table passes 1 of 2",
        "Gaussian per class passes every gate",
        "F1 draws of a label have 0.50 of the spread. Try a larger <z_dim>.",
    ):
        assert expected in text


@pytest.mark.parametrize("task", [CLASSES, DEGREES])
def test_gains_lie_right_of_zero_with_their_seeds(task: Task, tmp_path: Path) -> None:
    """Rows come in the order of DEFAULT_ARMS, each gaining 1 on the row before, with every seed almost alike."""
    write_report(replace(ReportData(recipe="r", task=task, created="", version=""), arms=arms(task)), tmp_path / "p")
    tags = [(attrs.get("class"), attrs) for _, attrs in Page(tmp_path / "p").tags]
    (zero,) = {attrs["x1"] for name, attrs in tags if name == "zero-line"}
    marks = [float((attrs["cx"] or "").rstrip("%")) for name, attrs in tags if name == "mark" and "cx" in attrs]
    origin = float((zero or "").rstrip("%"))
    step = marks[1] - marks[0]  # against real_matched: -1, then 2, 3, 4, 5, 6
    assert step > 0
    expected = [origin + gain * step / 3 for gain in (-1, 2, 3, 4, 5, 6)]
    assert marks == pytest.approx(expected, abs=0.02)
    seeds = [float((attrs["cx"] or "").rstrip("%")) for name, attrs in tags if name == "seed"]
    assert seeds[:3] == pytest.approx([marks[0]] * 3, abs=0.05)
    assert seeds[-6:-3] == pytest.approx([marks[-1]] * 3, abs=0.05)


def test_names_are_escaped(page: Page) -> None:
    assert "<b>$x$" not in page.html
    assert "&lt;b&gt;$x$" in page.html


def test_arms_have_their_colours_by_role_and_order_whatever_their_names(tmp_path: Path) -> None:
    data = full(CLASSES)
    pages = []
    for prefix in ("", "my own "):
        named = [
            replace(
                arm,
                arm=replace(arm.arm, name=prefix + arm.name),
                vs={prefix + name: gain for name, gain in arm.vs.items()},
            )
            for arm in data.arms
        ]
        curves = [replace(curve, arm=prefix + curve.arm) for curve in data.curves]
        write_report(
            replace(data, arms=named, curves=curves, choice=Choice(method=f"{prefix}adjusted_kd")),
            tmp_path / "report.html",
        )
        pages.append((tmp_path / "report.html").read_text())
    assert pages[0] == pages[1]


def test_unequal_updates_are_admitted(tmp_path: Path) -> None:
    data = full(CLASSES)
    uneven = [replace(arm, updates=9) if arm.name == "raw" else arm for arm in data.arms]
    write_report(replace(data, arms=uneven), tmp_path / "report.html")
    assert "other numbers of updates than" in Page(tmp_path / "report.html").text


def test_of_the_controls_the_hardest_to_beat_lead_the_page(tmp_path: Path) -> None:
    data = full(CLASSES)
    short = next(arm for arm in data.arms if arm.name == "real_matched")
    better = tuple({"top1": metrics["top1"] + 5} for metrics in short.metrics)
    longer = replace(short, arm=replace(short.arm, name="long", title="real, longer"), updates=9600, metrics=better)
    data = replace(data, arms=with_intervals([*data.arms, longer], CLASSES))
    write_report(data, tmp_path / "report.html")
    method = next(arm.title for arm in data.arms if arm.name == data.choice.method)
    tiles = re.findall(r"<dt>Student: ([^<]*)</dt>", (tmp_path / "report.html").read_text())
    assert tiles == [method, "KD, equal updates", "real, longer"]


PARTS = [
    *("arms", "data", "models", "mistakes", "generator_history", "generator_seconds", "groups", "sweep", "scored"),
    *("ratio", "disagreement", "labels", "virtual", "curves", "commands", "machine", "config", "notes", "stages"),
]


@pytest.mark.parametrize("part", [None, *PARTS])
def test_any_part_may_stand_alone(part: str | None, tmp_path: Path) -> None:
    empty = ReportData(recipe="digits", task=CLASSES, created="now", version="0")
    data = replace(empty, **({part: getattr(full(CLASSES), part)} if part else {}))
    write_report(data, tmp_path / "report.html")
    text = Page(tmp_path / "report.html").text
    assert ("Unfinished run" in text) == (part not in ("arms", "virtual"))
    assert ("Virtual teacher: 1 of 2 gates passed" in text) == (part == "virtual")


def test_one_seed_and_regression(tmp_path: Path) -> None:
    data = full(DEGREES, num_groups=12)
    single = [replace(a, seeds=(0,), metrics=a.metrics[:1], vs={}) for a in data.arms]
    write_report(replace(data, arms=with_intervals(single, DEGREES)), tmp_path / "report.html")
    text = Page(tmp_path / "report.html").text
    assert "one seed: no intervals" in text
    assert "nan" not in text
    assert "−60 to −50" in text


def test_page_stays_below_two_megabytes(tmp_path: Path) -> None:
    data = full(Classification(num_classes=100), size=64, channels=3, num_groups=100)
    write_report(data, tmp_path / "report.html")
    text = Page(tmp_path / "report.html").text
    assert "12 of 100 label groups" in text
    assert "Labels are sorted by the teacher." in text
    assert (tmp_path / "report.html").stat().st_size < 2e6


def test_degenerate_numbers_still_draw(tmp_path: Path) -> None:
    data = replace(
        full(CLASSES),
        ratio=RatioFacts(log_ratio_real=torch.zeros(5), log_ratio_fake=torch.full((5,), float("nan"))),
        disagreement=DisagreementFacts(real=[], fake=torch.zeros(4), cutoffs=[]),
        labels=LabelFacts(groups=["a"], counts={"pool": [0]}),
        generator_history=[{"step": 1, "d_loss": float("nan"), "variance_ratio": float("nan"), "frechet": 0.0}],
        arms=with_intervals([replace(a, metrics=({"top1": 1.0},) * 3, vs={}) for a in arms(CLASSES)], CLASSES),
    )
    write_report(data, tmp_path / "report.html")
    assert "No difference found" in Page(tmp_path / "report.html").text


def test_index_leads_to_every_report(tmp_path: Path) -> None:
    runs = [(full(CLASSES), "digits/report.html"), (full(DEGREES), "rotated/report.html")]
    write_index(runs, tmp_path / "index.html")
    page = Page(tmp_path / "index.html")
    assert [href for href in page.values("href") if href != "#main"] == [href for _, href in runs]
    assert page.text.count("better by") == 2


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(RunError, match=r"report .* cannot be written"):
        write_report(full(CLASSES), tmp_path / "file" / "report.html")
    write_report(full(CLASSES), tmp_path / "report.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "report.html"]
