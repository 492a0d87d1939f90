"""Figures as HTML: a key and an SVG that takes colours and font from the page, so that dark mode works."""

import html
import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike, NDArray

# Blue and orange stay apart under every common colour blindness; marks and dashes differ as well.
LIGHT = {
    "paper": "#fbfbf9",
    "panel": "#ffffff",
    "ink": "#17202b",
    "muted": "#57636f",
    "rule": "#dde1e4",
    "blue": "#1c69b0",
    "orange": "#c9580a",
    "green": "#0b7a5b",
    "red": "#b3323a",
    "purple": "#7d4ea3",
    "faint": "#9aa5af",
}
DARK = {
    "paper": "#11161c",
    "panel": "#181f27",
    "ink": "#e9edf0",
    "muted": "#a3afba",
    "rule": "#303a45",
    "blue": "#6cb2f2",
    "orange": "#f59a4c",
    "green": "#4cc7a0",
    "red": "#f08389",
    "purple": "#c39be6",
    "faint": "#6c7884",
}
INK, MUTED, RULE = LIGHT["ink"], LIGHT["muted"], LIGHT["rule"]
REAL, FAKE = LIGHT["blue"], LIGHT["orange"]
SERIES = [LIGHT["blue"], LIGHT["orange"], LIGHT["green"], LIGHT["purple"], LIGHT["red"], LIGHT["faint"]]
MARKERS = ["o", "s", "^", "D"]
_SHAPES = {
    "o": '<circle cx="11" cy="6" r="4.5"/>',
    "s": '<rect x="7" y="2" width="8" height="8"/>',
    "^": '<path d="M11 1.5l5 9h-10z"/>',
    "D": '<path d="M11 .5l5.5 5.5-5.5 5.5-5.5-5.5z"/>',
}
DASHES: list[tuple[float, ...]] = [(), (5, 2), (1, 1.4), (6, 2, 1, 2), (3, 1.5), ()]
"""Lengths of strokes and gaps, in line widths; () is solid."""

WIDTH = 350
"""Natural width in pixels, that of a phone, or of one of three columns on a large screen."""
HEIGHT = 215
MAX_NAMED_GROUPS = 16
MAX_CUTOFF_LINES = 3
_HISTOGRAM_KEY: list[tuple[str, str, tuple[float, ...], str]] = [
    ("real", REAL, (), ""),
    ("generated", FAKE, (5, 1.5), ""),
]
_ROUND = [1, 2, 5, 10]
MAX_POINTS = 160
"""Most points of a curve; more would make the page larger without being visible."""


@dataclass(frozen=True)
class Line:
    """One curve of `line_chart`."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    color: str
    dash: tuple[float, ...] = ()
    width: float = 2.0


def ratio_histogram(real: ArrayLike, fake: ArrayLike) -> str:
    """Densities of log p_real / p_fake on real and generated images."""
    real_values, fake_values = _finite(real), _finite(fake)
    low, high = np.percentile(np.concatenate([real_values, fake_values]), [0.5, 99.5])
    edges = np.linspace(low, max(high, low + 1e-6), 36)
    with _figure(HEIGHT) as (axes, svg):
        _histogram(axes, edges, real_values, fake_values)
        axes.axvline(0, color=MUTED, linewidth=1, linestyle=_style((2, 2)))
        axes.set_xlabel("log density ratio, real : generated")
        _density_axis(axes)
    picture = svg("ratio", "Histogram of the log density ratio of real and of generated images")
    return _key(_HISTOGRAM_KEY) + picture


def disagreement_histogram(real: ArrayLike, fake: ArrayLike, cutoffs: Sequence[float], label: str) -> str:
    """Densities of the teacher's disagreement on real and generated images, with the filter's cut-offs.

    Up to three cut-offs are lines; more (one per class or bin) are a band with a line at the median.
    """
    real_values, fake_values = _finite(real), _finite(fake)
    both = np.concatenate([real_values, fake_values])
    high = max(float(np.percentile(both, 99)), 1e-6)
    logarithmic = high > 30 * max(float(np.median(both)), 1e-12)
    if logarithmic:
        edges = np.geomspace(max(float(np.percentile(both, 1)), high * 1e-6), float(both.max()) or high, 36)
    else:
        edges = np.linspace(0, max([high, *(1.05 * cut for cut in cutoffs)]), 36)
    with _figure(HEIGHT) as (axes, svg):
        if logarithmic:
            axes.set_xscale("log")
            _plain_decades(axes.xaxis, edges)
        _histogram(axes, edges, real_values, fake_values)
        cuts = np.clip(_finite(cutoffs), edges[0], edges[-1])
        if len(cuts) > MAX_CUTOFF_LINES:
            axes.axvspan(cuts.min(), cuts.max(), color=INK, alpha=0.10, linewidth=0)
            cuts = np.median(cuts)[None]
        for cut in cuts:
            axes.axvline(cut, color=INK, linewidth=1.6)
        axes.set_xlabel(label)
        _density_axis(axes)
    picture = svg("disagreement", f"Histogram of {label} on real and on generated images, with the cut-off")
    return _key(_HISTOGRAM_KEY) + picture


def group_chart(
    name: str, groups: Sequence[str], series: Mapping[str, ArrayLike], label: str, *, from_zero: bool = True
) -> str:
    """Counts per label group: bars for one series, marks for several.

    Up to 16 groups are rows with their names; more are a curve over the groups in order. The axis begins at 0, or
    before the smallest value.
    """
    values = {key: np.asarray(item, dtype=float) for key, item in series.items()}  # nan: a group without a mark
    named = len(groups) <= MAX_NAMED_GROUPS
    top = 1.06 * max([float(np.nanmax(item, initial=0)) for item in values.values()] + [1e-9])
    bottom = 1.06 * min([float(np.nanmin(item, initial=0)) for item in values.values()] + [0.0])
    if not from_zero:
        known = np.concatenate([_finite(item) for item in values.values()])
        margin = 0.06 * (known.max() - known.min()) or 1.0
        bottom, top = known.min() - margin, known.max() + margin
    key = []
    with _figure(50 + 25 * len(groups) if named else HEIGHT) as (axes, svg):
        rows = np.arange(len(groups))
        for index, (title, item) in enumerate(values.items()):
            color = SERIES[index % len(SERIES)]
            if not named:
                dash = DASHES[index % len(DASHES)]
                axes.step(rows, item, where="mid", color=color, linestyle=_style(dash))
                key.append((title, color, dash, ""))
            elif len(values) == 1:
                axes.barh(rows, item, height=0.66, color=color, alpha=0.85, linewidth=0)
            else:
                marker = MARKERS[index % len(MARKERS)]
                shift = 0.17 * (index - (len(values) - 1) / 2)  # marks of equal counts stay visible
                axes.plot(item, rows + shift, marker, color=color, markersize=7 - 0.6 * index, alpha=0.9, clip_on=False)
                key.append((title, color, (), marker))
        if named:
            _name_ticks(axes.yaxis, groups)
            axes.set_ylim(len(groups) - 0.4, -0.6)
            axes.set_xlim(bottom, top)
            axes.xaxis.set_major_locator(MaxNLocator(4, steps=_ROUND))
            axes.grid(axis="x", color=RULE, linewidth=1)
            axes.grid(axis="y", visible=False)
            axes.set_xlabel(label)
        else:
            _name_ticks(axes.xaxis, groups)
            axes.set_ylim(bottom, top)
            axes.set_ylabel(label)
    return _key(key) + svg(name, f"{label.capitalize()} per label group: {', '.join(values)}")


def heat_map(
    name: str,
    values: ArrayLike,
    scale: tuple[float, float],
    rows: Sequence[str],
    columns: Sequence[str] | Sequence[float],
    label: str,
    alternative: str,
) -> str:
    """Probabilities (rows, columns), the darker the larger, on a logarithmic scale from the lowest to the highest.

    Up to 16 rows and columns are named; of more, the first, the middle and the last. Columns may be equal parts of a
    range of values instead, of which the ends are given.
    """
    low, high = scale
    array = np.maximum(np.asarray(values, dtype=float), low)
    pixels = np.zeros((*array.shape, 4))
    pixels[..., :3] = matplotlib.colors.to_rgb(INK)  # the page turns it bright where paper is dark
    pixels[..., 3] = np.minimum(np.log(array / low) / np.log(high / low), 1)
    with _figure(WIDTH) as (axes, svg):
        names = [column for column in columns if isinstance(column, str)]
        left, right = (-0.5, len(names) - 0.5) if names else (float(columns[0]), float(columns[-1]))
        axes.imshow(pixels, interpolation="none", aspect="auto", extent=(left, right, len(rows) - 0.5, -0.5))
        axes.grid(visible=False)
        axes.spines[:].set_visible(True)
        _name_ticks(axes.yaxis, rows)
        if names:
            _name_ticks(axes.xaxis, names)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(4, steps=_ROUND))
        if len(names) <= MAX_NAMED_GROUPS and max(map(len, names), default=0) > 2:
            axes.tick_params(axis="x", rotation=90)
        axes.set_xlabel(label)
    ends = [np.format_float_positional(end, precision=2, fractional=False, trim="-") for end in scale]
    ramp = f'<li>{ends[0]}<span class="ramp"></span>{ends[1]}, logarithmic</li>'
    return f'<ul class="legend">{ramp}</ul>' + svg(name, f"{alternative}, {len(rows)} labels by {array.shape[1]}")


def reliability_chart(name: str, series: Mapping[str, ArrayLike]) -> str:
    """Share of right answers over mean confidence; of each network (bins, 3) images, confidence and share right."""
    key = []
    with _figure(HEIGHT) as (axes, svg):
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=_style((2, 2)))
        for index, (title, rows) in enumerate(series.items()):
            count, confidence, share = np.asarray(rows, dtype=float).T
            color, marker, filled = SERIES[index], MARKERS[index], count > 0
            size = 12 + 150 * count[filled] / max(count.sum(), 1)
            axes.plot(confidence[filled], share[filled], color=color, linewidth=1.2, alpha=0.6)
            axes.scatter(confidence[filled], share[filled], size, color=color, marker=marker, zorder=3)
            key.append((title, color, (), marker))
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.06)
        axes.set_xlabel("confidence")
        axes.set_ylabel("share right")
    return _key(key) + svg(name, f"Share of right answers by confidence: {', '.join(series)}")


def place_histogram(name: str, shares: Sequence[float]) -> str:
    """Histogram of the place of outputs among samples, in equal parts of [0, 1]; dotted: equal shares."""
    edges = np.linspace(0, 1, len(shares) + 1)
    with _figure(HEIGHT) as (axes, svg):
        axes.bar(
            edges[:-1], shares, np.diff(edges), align="edge", color=SERIES[0], alpha=0.85, edgecolor=LIGHT["panel"]
        )
        axes.axhline(1 / len(shares), color=INK, linewidth=1.6, linestyle=_style((2, 2)))
        axes.set_xlim(0, 1)
        axes.set_xlabel("place among samples")
        _density_axis(axes)
        axes.set_ylabel("share of outputs")
    return svg(name, "Histogram of the place of outputs among samples")


def line_chart(
    name: str,
    lines: Sequence[Line],
    label: str,
    *,
    reference: float | None = None,
    logarithmic: bool = False,
) -> str:
    """Curves over training steps; `reference` is a dotted line at the ideal value."""
    with _figure(HEIGHT) as (axes, svg):
        for line in lines:
            every = max(1, len(line.steps) // MAX_POINTS)
            axes.plot(
                line.steps[::every],
                line.values[::every],
                color=line.color,
                linestyle=_style(line.dash),
                linewidth=line.width,
                marker="o" if len(line.steps) < 3 else None,
            )
        if reference is not None:
            axes.axhline(reference, color=MUTED, linewidth=1, linestyle=_style((2, 2)))
        if logarithmic:
            axes.set_yscale("log")
            _plain_decades(axes.yaxis, [value for line in lines for value in line.values])
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=_ROUND))
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=_ROUND))
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda step, _: f"{step / 1000:g}k" if step >= 1000 else f"{step:g}")
        )
        axes.set_xlabel("step")
        axes.set_ylabel(label)
    key = dict.fromkeys((line.name, line.color, line.dash, "") for line in lines)
    picture = svg(name, f"{label.capitalize()} over training steps: {', '.join(title for title, *_ in key)}")
    return _key(list(key)) + picture


def scatter(
    name: str,
    dots: Sequence[tuple[str, float, float, bool]],
    line: Sequence[tuple[float, float]],
    across: str,
    up: str,
) -> str:
    """Named dots (name, x, y, emphasised) over a logarithmic axis of costs, and a line of steps through the best."""
    with _figure(1.4 * HEIGHT) as (axes, svg):
        axes.step(*zip(*line, strict=True), where="post", color=SERIES[2], linewidth=1.8)
        for title, x, y, emphasised in dots:
            axes.plot(x, y, "s" if emphasised else "o", color=SERIES[1 if emphasised else 0], markersize=7)
            axes.annotate(_shorten(title), (x, y), (0, 7), textcoords="offset points", ha="center", fontsize=13)
        axes.set_xscale("log")
        _plain_decades(axes.xaxis, [x for _, x, _, _ in dots])
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=_ROUND))
        axes.margins(0.18, 0.15)
        axes.set_xlabel(across)
        axes.set_ylabel(up)
    return svg(name, f"{up} against {across}: {', '.join(title for title, *_ in dots)}")


@contextmanager
def _figure(height: float) -> Iterator[tuple[Axes, Callable[[str, str], str]]]:
    """Axes in the page's style, and a function (name, alternative text) -> SVG."""
    style: dict[Any, Any] = {
        "svg.fonttype": "none",  # text stays text: small, selectable, in the page's font
        "text.parse_math": False,  # a class may be called "$"
        "font.size": 16,
        "axes.labelsize": 16,
        "xtick.labelsize": 16,
        "ytick.labelsize": 16,
        "text.color": INK,
        "axes.labelcolor": MUTED,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "axes.edgecolor": RULE,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.unicode_minus": True,
        "grid.color": RULE,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "ytick.minor.size": 0,
        "xtick.minor.size": 0,
        "lines.solid_capstyle": "round",
        "path.simplify_threshold": 0.5,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained", facecolor="none")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot(facecolor="none")

        def svg(name: str, alternative: str) -> str:
            with matplotlib.rc_context(style | {"svg.hashsalt": name}), warnings.catch_warnings():
                # The page's font draws the text; matplotlib only measures it and may lack a letter.
                warnings.filterwarnings("ignore", message="Glyph .* missing from")
                buffer = io.StringIO()
                figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
            return _embed(buffer.getvalue(), name, alternative)

        yield axes, svg


def _histogram(axes: Axes, edges: NDArray[Any], real: NDArray[Any], fake: NDArray[Any]) -> None:
    # Shares per bin, not densities: with logarithmic bins a density would hide where the images are.
    for values, (_, color, dash, _) in zip((real, fake), _HISTOGRAM_KEY, strict=True):
        counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
        share = counts / max(len(values), 1)
        axes.stairs(share, edges, color=color, fill=True, alpha=0.18)
        axes.stairs(share, edges, color=color, linewidth=1.8, linestyle=_style(dash))


def _density_axis(axes: Axes) -> None:
    axes.set_ylim(bottom=0)
    axes.set_yticks([])
    axes.set_ylabel("share of images")


def _plain_decades(axis: Axis, values: ArrayLike) -> None:
    """`0.01` instead of mathematical text, which would not follow the page's font."""
    array = np.asarray(values)
    narrow = array.max() < 100 * array.min()
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,), numticks=5))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _name_ticks(axis: Axis, names: Sequence[str]) -> None:
    """Label the ticks: all names if they are few, else the first, the middle and the last."""
    count = len(names)
    shown = np.arange(count) if count <= MAX_NAMED_GROUPS else np.linspace(0, count - 1, 3).round().astype(int)
    axis.set_ticks(shown, [_shorten(names[index]) for index in shown])


def _style(dash: tuple[float, ...]) -> Any:
    return (0, dash) if dash else "-"


def _key(items: Sequence[tuple[str, str, tuple[float, ...], str]]) -> str:
    """Key to the colours from (title, colour, dash, marker) each, as HTML, so that long titles wrap."""
    if len(items) < 2:
        return ""
    entries = []
    for title, color, dash, marker in items:
        dashes = " ".join(f"{2.5 * length:g}" for length in dash)
        stroke = f'<line x1="0" y1="6" x2="22" y2="6" stroke-dasharray="{dashes}"/>'
        shape = _SHAPES.get(marker, stroke)
        swatch = f'<svg class="swatch" width="22" height="12" aria-hidden="true">{shape}</svg>'
        variable = next(name for name, value in LIGHT.items() if value == color)
        entries.append(f'<li style="--c: var(--{variable})">{swatch}{html.escape(title)}</li>')
    return f'<ul class="legend">{"".join(entries)}</ul>'


def _finite(values: ArrayLike) -> NDArray[Any]:
    array: NDArray[Any] = np.asarray(values, dtype=float).ravel()
    finite: NDArray[Any] = array[np.isfinite(array)]
    return finite


def _shorten(text: str, limit: int = 14) -> str:
    text = re.sub(r"(?<!\w)-(?=\d)", "−", text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _embed(document: str, name: str, alternative: str) -> str:
    """Make matplotlib's SVG file part of a page: no header, no foreign ids, CSS variables for colours."""
    head = document.index("<svg")
    svg = document[document.index(">", head) + 1 :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", svg, flags=re.DOTALL)
    used = set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", svg))
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{name}-", svg)
    # "font-family: a, b" in new versions of matplotlib, "font: 14px a, b" in older ones.
    svg = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", re.sub(r" font-family: [^;\"]+;", "", svg))
    svg = re.sub(r"<[^>]+>", _tidy_tag, re.sub(r"\s*\n\s*", " ", svg)).replace("> <", "><")
    view = re.search(r'viewBox="[^"]+"', document)
    assert view is not None
    return f'<svg role="img" aria-label="{html.escape(alternative)}" {view[0]} class="chart">{svg.strip()}'


def _tidy_tag(tag: re.Match[str]) -> str:
    text = tag[0]
    if not text.startswith("<image"):  # whose scale is multiplied by hundreds of pixels
        text = re.sub(r"\d+\.\d{3,}", lambda m: f"{float(m[0]):.1f}", text)  # a tenth of a pixel is enough
    for key, color in LIGHT.items():
        text = text.replace(color, f"var(--{key})")
    return text
