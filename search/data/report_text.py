"""The report of a data set's check in plain words, for a terminal."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from search.data.similarity import ALL_PAIRS, ORIENTATIONS, SAME_PART

if TYPE_CHECKING:
    from search.data.report import Finding, ImageFacts, Pair, Report, Severity

SHOWN = 5
"""Files listed per kind of finding, and pairs per list; the report itself holds all."""

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""Of findings, the worst first."""

LONG = 1.8
"""Images whose sides are in this ratio or more are usually cut into windows."""


def lines(report: Report) -> list[str]:
    """Return the report in plain words, a line of a terminal each."""
    sections = [_head(report), _images(report), _classes(report), _same(report), _splits(report)]
    sections += [_findings(report), _advice(report)]
    return [line for section in sections if section for line in [*section, ""]][:-1]


def one_of_each_group(report: Report, pairs: Iterable[Pair]) -> list[Pair]:
    """Return the first of the given pairs of each group of images that show the same thing."""
    group = {i.name: i.found_group for i in report.images}
    first: dict[int, Pair] = {}
    for pair in pairs:
        first.setdefault(group[pair.first], pair)
    return list(first.values())


def in_words(pair: Pair) -> str:
    """Return how two pictures agree: "near-duplicate, rotated by 90, score 0.61"."""
    turn = "" if pair.orientation == 0 else f", {ORIENTATIONS[pair.orientation]}"
    if pair.kind == "near":
        what = "near-duplicate" if pair.score >= SAME_PART else "overlapping in part"
        return f"{what}{turn}, score {pair.score:.2f}"
    masks = "" if pair.mask_iou is None else f", masks agree to IoU {pair.mask_iou:.2f}"
    return f"equal in every pixel{turn}{masks}"


def _head(report: Report) -> list[str]:
    used = sum(not i.left_out for i in report.images)
    left = len(report.images) - used
    masks = sum(i.mask is not None and i.mask.exists() for i in report.images)
    pairs = len(report.images) * (len(report.images) - 1) // 2
    which = f"all {pairs}" if pairs <= ALL_PAIRS else f"the likeliest {ALL_PAIRS} of {pairs}"
    return [
        f"{report.name}: {counted(used, 'image')}, {counted(len(report.classes), 'defect class', 'es')}, "
        f"read as {report.reader}" + (f"; {left} more are left out by the data set itself" if left else ""),
        f"  Opened {counted(len(report.images), 'image file')} and {counted(masks, 'mask file')}; compared "
        f"{which} pairs of images, in 8 orientations ({report.seconds:.0f} s).",
    ]


def _images(report: Report) -> list[str]:
    read = [i for i in report.images if i.height]
    if not read:
        return ["Images", "  none could be read"]
    sizes = Counter((i.width, i.height) for i in read)
    widths, heights = ([getattr(i, side) for i in read] for side in ("width", "height"))
    width, height = (f"{min(v)}-{max(v)}" if min(v) < max(v) else f"{v[0]}" for v in (widths, heights))
    spread = f"{len(sizes)} different sizes, median {np.median(widths):.0f} x {np.median(heights):.0f}"
    result = ["Images", f"  size         {width} x {height} px ({spread if len(sizes) > 1 else 'all equal'})"]
    long = sum(max(i.width, i.height) >= LONG * min(i.width, i.height) for i in read)
    if long:
        result.append(f"  long         {long} have one side {LONG} times the other or more")
    if len(read) < len(report.images):
        result.append(f"  unreadable   {len(report.images) - len(read)}")
    return result


def _classes(report: Report) -> list[str]:
    used = [i for i in report.images if i.areas is not None and i.height and not i.left_out]
    width = max(len(name) for name in (*report.classes, "(no defect)"))
    result = [f"{'Classes':<{width + 6}}images   area of an image: median     least      most"]
    for k, name in enumerate(report.classes):
        shares = shares_of(used, k)
        values = "".join(f"{100 * f(shares):>9.2f}%" for f in (np.median, min, max)) if shares else ""
        result.append(f"  {k + 1:>2} {name:<{width}} {len(shares):>6}{' ' * 17}{values}")
    without = sum(not any(i.areas or ()) for i in used)
    result.append(f"   0 {'(no defect)':<{width}} {without:>6}")
    return result


def shares_of(images: Iterable[ImageFacts], k: int) -> list[float]:
    """Return the share of each image, in [0, 1], that class k covers, for the images that have it."""
    return [i.areas[k] / (i.height * i.width) for i in images if i.areas and i.areas[k] and i.height]


def _same(report: Report) -> list[str]:
    size_of = Counter(i.found_group for i in report.images)
    several = [size for size in size_of.values() if size > 1]
    title = "Images that show the same thing (another exposure, an overlapping crop, a turned copy)"
    if not several:
        return [title, "  none found"]
    kinds = Counter(p.kind for p in report.pairs)
    by_kind = ", ".join(
        f"{kinds[kind]} {word}"
        for kind, word in (
            ("exact", "exact"),
            ("rotated", "exact but rotated"),
            ("flipped", "exact but flipped"),
            ("near", "near"),
        )
    )
    spread = f"{len(several)} groups, the largest of {max(several)}"
    result = [title, f"  {sum(several)} of {len(report.images)} images are in {spread}"]
    result.append(f"  pairs: {by_kind}")
    shown = one_of_each_group(report, (p for p in report.pairs if p.kind != "near"))
    shown += one_of_each_group(report, (p for p in report.pairs if p.kind == "near"))
    result += [f"    {p.first} = {p.second}: {in_words(p)}" for p in shown[:SHOWN]]
    if max(several) > max(10, len(report.images) // 2):
        result.append("  One group holds most of the images: they may only look alike. Judge by the picture sheet.")
    return result


def _splits(report: Report) -> list[str]:
    if not report.splits:
        return ["Splits", "  the data set brings none"]
    width = max(len(s.name) for s in report.splits) + 2
    result = [f"{'Splits':<{width + 2}} train   test   test images whose part is also in train"]
    result.append(f"{'':<{width + 2}}                as the pictures show   as the data set's groups say")
    for split in report.splits:
        given = "no groups given" if split.given_leaks is None else f"{split.given_leaks} of {split.test}"
        seen = f"{len(split.leaks)} of {split.test}"
        result.append(f"  {split.name:<{width}}{split.train:>6} {split.test:>6}   {seen:<22} {given}")
    worst = max(report.splits, key=lambda s: len(s.leaks))
    for pair in one_of_each_group(report, worst.leaks)[:SHOWN]:
        result.append(f"    {worst.name}: {pair.first} (train) = {pair.second} (test): {in_words(pair)}")
    return result


def _findings(report: Report) -> list[str]:
    by_kind: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in report.findings:
        by_kind[finding.severity, finding.kind].append(finding)
    counts = ", ".join(counted(report.count(s), s) for s in SEVERITIES)
    result = [f"Findings: {counts}"]
    for (severity, kind), found in by_kind.items():
        result.append(f"  {severity:<8} {kind} ({len(found)})")
        result += [f"             {f.file}: {f.message}" for f in found[:SHOWN]]
        if len(found) > SHOWN:
            result.append(f"             ... and {len(found) - SHOWN} more; --json lists all")
    return result


def _advice(report: Report) -> list[str]:
    advice = []
    if report.count("error"):
        advice.append("Repair or remove the files with errors: training stops at the first of them.")
    safe = [s for s in report.splits if not s.leaks and not s.given_leaks]
    leaking = [s.name for s in report.splits if s.leaks or s.given_leaks]
    if leaking:
        advice.append(f"Scores on {_and(leaking)} are too good: parts seen in training are tested on.")
    if safe and leaking:
        advice.append(f"Use split {_and([s.name for s in safe])}: no part was found on both sides.")
    proposal = report.proposal
    if proposal is not None and not safe:
        sides = f"{len(proposal.train)} train and {len(proposal.test)} test images"
        advice.append(f"A split that keeps the {proposal.groups} groups whole ({sides}) is proposed:")
        advice.append(f"  defectnas data check {report.root} --write-split FOLDER")
    advice.append(
        "Not surely found: crops that overlap by less than a half, photographs from another distance (over 5 %)"
    )
    advice.append("  or turned by other angles than 90 degrees (over 2), and light that inverts the contrast.")
    return ["What to do", *(f"  {line}" for line in advice)]


def counted(count: int, what: str, plural: str = "s") -> str:
    """Return a number with its noun: "1 image", "2 images"."""
    return f"{count} {what}{'' if count == 1 else plural}"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
