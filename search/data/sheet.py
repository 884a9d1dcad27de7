"""The picture sheet of a data set's check: examples of every class, sizes, areas, and what was found twice."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from search.data.report import Finding, ImageFacts, Pair, Report, relative
from search.data.report_text import SEVERITIES, counted, in_words, one_of_each_group, shares_of
from search.data.sheet_pictures import COLOURS, outlined, side_by_side

EXAMPLES = 6
"""Examples in a row."""

PAIRS = 3
"""Pairs in a row."""

_CLASSES = 10
_WIDTH_INCHES = 14.0
_LEAK = "#d1242f"
_QUIET = "#6b7280"


@dataclass(frozen=True)
class Row:
    """One row of the sheet: its title, its height in inches and what draws it into a subfigure."""

    title: str
    inches: float
    draw: Callable[[Any], None]


def draw_sheet(report: Report, path: Path) -> Path:
    """Draw the sheet as a PNG file and return its path.

    Rows: examples of each class from the smallest to the largest defect, outlined in the colour of their
    class; sizes, defect areas and splits; the surest pairs across the split that leaks most, copies, and the
    least sure pairs, to judge the search by; images with findings.

    Args:
        report: of the data set; its images are read again.
        path: of the PNG file; its folder is made if it is not there.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [*_class_rows(report), Row("", 3.0, lambda part: _draw_plots(part, report)), *_pair_rows(report)]
    rows += _finding_rows(report)
    head = 0.7
    figure = Figure(figsize=(_WIDTH_INCHES, head + sum(r.inches for r in rows)), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    heights = [head, *(r.inches for r in rows)]
    parts: Any = figure.subfigures(len(heights), 1, height_ratios=heights)
    _draw_head(parts[0], report)
    for part, row in zip(parts[1:], rows, strict=True):
        if row.title:
            part.text(0.012, 1 - 0.06 / row.inches, row.title, fontsize=10, weight="bold", va="top")
        row.draw(part)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
    return path


def _draw_head(part: Any, report: Report) -> None:
    used = sum(not i.left_out for i in report.images)
    found = ", ".join(counted(report.count(s), s) for s in SEVERITIES if report.count(s))
    part.text(0.012, 0.75, report.name, fontsize=16, weight="bold", va="center")
    classes = counted(len(report.classes), "class", "es")
    said = f"{counted(used, 'image')}, {classes}, read as {report.reader}; {found or 'no findings'}"
    part.text(0.012, 0.28, said + ". Contrast of the pictures is stretched.", fontsize=10, va="center")


def _class_rows(report: Report) -> list[Row]:
    rows = []
    for k, name in enumerate(report.classes[:_CLASSES]):
        having = [i for i in report.images if i.areas and i.areas[k] and i.height and not i.left_out]
        more = f"; {len(report.classes) - _CLASSES} more classes" if k == _CLASSES - 1 < len(report.classes) - 1 else ""
        title = f"{k + 1} {name}: {len(having)} images, from the smallest to the largest area{more}"
        chosen = _spread(having, k)

        def draw(part: Any, chosen: Sequence[ImageFacts] = chosen, k: int = k) -> None:
            _draw_examples(part, report, chosen, k)

        if chosen:
            rows.append(Row(title, 2.5, draw))
    return rows


def _spread(images: Sequence[ImageFacts], k: int) -> list[ImageFacts]:
    """Return up to `EXAMPLES` images from the smallest to the largest share of class k, of different parts."""
    by_share = sorted(images, key=lambda i: (shares_of([i], k), i.name))
    one_each = list({i.found_group: i for i in by_share}.values())
    pool = sorted(one_each if len(one_each) >= EXAMPLES else by_share, key=lambda i: shares_of([i], k))
    return [pool[n] for n in np.unique(np.linspace(0, len(pool) - 1, EXAMPLES).round().astype(int))] if pool else []


def _draw_examples(part: Any, report: Report, images: Sequence[ImageFacts], k: int) -> None:
    titles = [f"{i.name}\n{100 * shares_of([i], k)[0]:.2f} %" for i in images]
    _draw_pictures(part, [outlined(report, i) for i in images], titles, EXAMPLES)


def _draw_pictures(part: Any, pictures: Sequence[np.ndarray], titles: Sequence[str], columns: int) -> None:
    axes = part.subplots(1, columns, squeeze=False)[0]
    inches = part.bbox.height / part.figure.dpi
    part.subplots_adjust(left=0.012, right=0.988, bottom=0.02, top=1 - 0.62 / inches, wspace=0.06)
    for index, axis in enumerate(axes):
        axis.axis("off")
        if index < len(pictures):
            axis.imshow(pictures[index], interpolation="nearest")
            axis.set_anchor("NW")
            axis.set_title(titles[index], fontsize=7.5, loc="left", pad=2)


def _draw_plots(part: Any, report: Report) -> None:
    sizes, areas, splits = part.subplots(1, 3)
    part.subplots_adjust(left=0.05, right=0.985, bottom=0.17, top=0.9, wspace=0.22)
    for axis in (sizes, areas, splits):
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    _draw_sizes(sizes, report)
    _draw_areas(areas, report)
    _draw_splits(splits, report)


def _draw_sizes(axis: Any, report: Report) -> None:
    read = [i for i in report.images if i.height]
    places, counts = np.unique([(i.width, i.height) for i in read] or [(0, 0)], axis=0, return_counts=True)
    axis.scatter(places[:, 0], places[:, 1], s=12 + 90 * counts / counts.max(), alpha=0.5, color=COLOURS[2])
    axis.set_xlim(0, places[:, 0].max() * 1.1 + 1)
    axis.set_ylim(0, places[:, 1].max() * 1.1 + 1)
    axis.set_title("sizes", fontsize=10, loc="left", weight="bold")
    axis.set_xlabel("width, px (a larger dot: more images)", fontsize=8)
    axis.set_ylabel("height, px", fontsize=8)


def _draw_areas(axis: Any, report: Report) -> None:
    bins = np.logspace(-5, 0, 26)
    for k, name in enumerate(report.classes[:_CLASSES]):
        shares = shares_of((i for i in report.images if not i.left_out), k)
        if shares:
            clipped = np.clip(shares, bins[0], bins[-1])
            axis.hist(100 * clipped, 100 * bins, histtype="step", lw=1.6, color=COLOURS[k % len(COLOURS)], label=name)
    axis.set_xscale("log")
    axis.set_title("area of the defects in an image", fontsize=10, loc="left", weight="bold")
    axis.set_xlabel("share of the image, % (log scale)", fontsize=8)
    axis.set_ylabel("images", fontsize=8)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=7, frameon=False)


def _draw_splits(axis: Any, report: Report) -> None:
    axis.set_title("test images whose part is also in train", fontsize=10, loc="left", weight="bold")
    if not report.splits:
        axis.text(0.5, 0.5, "the data set brings no split", ha="center", va="center", fontsize=9, color=_QUIET)
        axis.axis("off")
        return
    for row, split in enumerate(report.splits):
        axis.barh(row, split.test, color="#d7dbe2")
        axis.barh(row, len(split.leaks), color=_LEAK)
        axis.text(split.test, row, f"  {len(split.leaks)} of {split.test}", va="center", fontsize=8)
    axis.set_yticks(range(len(report.splits)), [s.name for s in report.splits])
    axis.set_ylim(len(report.splits) - 0.4, -0.6)
    axis.set_xlim(0, 1.25 * max(s.test for s in report.splits) + 1)
    axis.set_xlabel("images (red: leaks, as the pictures show)", fontsize=8)


def _pair_rows(report: Report) -> list[Row]:
    worst = max(report.splits, key=lambda s: len(s.leaks), default=None)
    copies = [p for p in report.pairs if p.kind != "near"]
    near = [p for p in report.pairs if p.kind == "near"]
    rows = []
    if worst is not None and worst.leaks:
        shown = one_of_each_group(report, worst.leaks)[: 2 * PAIRS]
        titles = [f"train {p.first}\ntest {p.second}\n{in_words(p)}" for p in shown]
        rows += _pairs_in_rows(report, f"Leaks of split {worst.name}: the surest", shown, titles)
    if copies:
        shown = one_of_each_group(report, copies)[:PAIRS]
        rows += _pairs_in_rows(report, "Copies: every pixel is equal", shown, _pair_titles(shown))
    if near:
        shown = one_of_each_group(report, reversed(near))[:PAIRS]
        title = "Near-duplicates: the least sure, to judge the search by"
        rows += _pairs_in_rows(report, title, shown, _pair_titles(shown))
    return rows


def _pair_titles(pairs: Sequence[Pair]) -> list[str]:
    return [f"{p.first}\n{p.second}\n{in_words(p)}" for p in pairs]


def _pairs_in_rows(report: Report, title: str, pairs: Sequence[Pair], titles: Sequence[str]) -> list[Row]:
    facts = {i.name: i for i in report.images}
    rows = []
    for start in range(0, len(pairs), PAIRS):
        here, named = pairs[start : start + PAIRS], titles[start : start + PAIRS]

        def draw(part: Any, here: Sequence[Pair] = here, named: Sequence[str] = named) -> None:
            pictures = [side_by_side(facts[p.first], facts[p.second], p) for p in here]
            _draw_pictures(part, pictures, named, PAIRS)

        rows.append(Row(title if start == 0 else "", 2.9, draw))
    return rows


def _finding_rows(report: Report) -> list[Row]:
    """Return the row of images with findings, as many kinds as fit."""
    by_file = {relative(i.image, report.root): i for i in report.images}
    by_file |= {relative(i.mask, report.root): i for i in report.images if i.mask is not None}
    of_images = [f for f in report.findings if f.file in by_file and f.kind != "copy"]
    kinds: dict[str, list[Finding]] = {}
    for finding in of_images:
        kinds.setdefault(finding.kind, []).append(finding)
    turns = max(map(len, kinds.values()), default=0)
    shown = [found[n] for n in range(turns) for found in kinds.values() if n < len(found)][:EXAMPLES]
    if not shown:
        return []

    def draw(part: Any) -> None:
        titles = [f"{f.severity}: {f.kind}\n{by_file[f.file].name}" for f in shown]
        _draw_pictures(part, [outlined(report, by_file[f.file]) for f in shown], titles, EXAMPLES)

    return [Row(f"Images with findings ({len(shown)} of {len(of_images)})", 2.5, draw)]
