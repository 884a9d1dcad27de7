import itertools
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from drawings import assert_texts_keep_apart, rgb, shown_in

from orchestrator import drawing_front
from orchestrator.drawing_front import (
    CHOSEN,
    FRONT,
    Point,
    draw_front,
    draw_hypervolume,
    draw_latency_heat_map,
    staircase,
)

LIMIT = 15.0


def candidates(count: int, seed: int = 0) -> list[Point]:
    generator = random.Random(seed)
    found = []
    for _ in range(count):
        latency = generator.uniform(3, 20)
        miou = 0.75 - 0.2 * math.exp(-latency / 6) + generator.gauss(0, 0.02)
        found.append(Point(latency, miou, int(4e5 * latency * generator.uniform(0.6, 1.4)), latency <= LIMIT))
    return found


def front_of(points: list[Point]) -> list[Point]:
    feasible = [p for p in points if p.feasible]
    return [p for p in feasible if not any(q.latency_ms < p.latency_ms and q.miou >= p.miou for q in feasible)]


POINTS = candidates(200)
BLOCKS = [f"{stage}.{block}" for stage in (1, 2, 3, 4) for block in (1, 2, 3)]
OPERATORS = ["attention", "convolution", "mlp"]
LATENCIES = [[(1 + 4 * (i == 0)) * 4 / (1 + j // 3) for j in range(12)] for i in range(3)]
COUNTS = [[(7 * i + j) % 5 for j in range(12)] for i in range(3)]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Call a drawing function without writing; return its figure."""
    figures: list[Any] = []
    monkeypatch.setattr(drawing_front, "write_png", lambda figure, path: figures.append(figure))

    def draw(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        function(*args, **options)
        return figures[-1]

    return draw


def test_the_stairs_go_through_the_best_of_each_latency() -> None:
    slow, fast, between = Point(9, 0.8, 10), Point(2, 0.5, 10), Point(4, 0.7, 10)
    assert staircase([slow, fast, between]) == [(2, 0.5), (4, 0.5), (4, 0.7), (9, 0.7), (9, 0.8)]
    # Few parameters put it on the front of three objectives; here it lies below the stairs.
    assert staircase([slow, fast, between, Point(6, 0.6, 1)]) == staircase([slow, fast, between])
    assert staircase([Point(2, 0.4, 1), fast]) == [(2, 0.5)]
    assert staircase([]) == []


def test_stairs_rise_and_no_candidate_is_above_them() -> None:
    corners = staircase(front_of(POINTS))
    for (x0, y0), (x1, y1) in itertools.pairwise(corners):
        assert x0 <= x1
        assert y0 <= y1
        assert x0 == x1 or y0 == y1
    for point in (p for p in POINTS if p.feasible):
        assert point.miou <= max(y for x, y in corners if x <= point.latency_ms)


def test_a_front_is_drawn_with_everything_that_was_scored(drawn: Callable[..., Any]) -> None:
    front = front_of(POINTS)
    figure = drawn(
        draw_front, POINTS, front, Path("unused.png"), limit_ms=LIMIT, chosen=front[0], measured_on="H100, 1×3×256×256"
    )
    said = assert_texts_keep_apart(figure)
    assert {"infeasible", "feasible", "limit 15 ms", f"front, {len(front)} candidates"} <= set(said)
    assert "latency in ms, H100, 1×3×256×256" in said
    counts = {c.get_label(): len(c.get_offsets()) for c in figure.axes[0].collections}
    feasible = sum(p.feasible for p in POINTS)
    assert counts["feasible"] == feasible
    assert counts["infeasible"] == len(POINTS) - feasible
    stairs = next(line for line in figure.axes[0].get_lines() if line.get_label().startswith("front"))
    across, up = stairs.get_data()
    assert max(across) == LIMIT
    assert max(up) == pytest.approx(100 * max(p.miou for p in front))


@pytest.mark.filterwarnings("error")
def test_fronts_of_few_candidates(drawn: Callable[..., Any]) -> None:
    one = Point(3, 0.5, 1_000_000)
    hollow = [Point(3, 0.5, 100, False), Point(4, 0.6, 200, False)]
    assert_texts_keep_apart(drawn(draw_front, [one], [one], Path("unused.png"), limit_ms=2.0, chosen=one))
    figure = drawn(draw_front, hollow, [], Path("unused.png"))
    assert assert_texts_keep_apart(figure).count("feasible") == 0
    # Without a feasible candidate there is no shade, hence no scale.
    assert len(figure.axes) == 1


def test_a_front_as_a_file(tmp_path: Path) -> None:
    front = front_of(POINTS)
    path = tmp_path / "new" / "front.png"
    assert draw_front(POINTS, front, path, limit_ms=LIMIT, chosen=front[-1]) == path
    assert {rgb(FRONT), rgb(CHOSEN)} <= shown_in(path)
    assert [p.name for p in path.parent.iterdir()] == ["front.png"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((0.0, 0.5, 1), "latency 0.0 ms"),
        ((math.inf, 0.5, 1), "latency inf ms"),
        ((1.0, 78.4, 1), "not in percent"),
        ((1.0, math.nan, 1), "mIoU nan"),
        ((1.0, 0.5, 0), "0 parameters"),
    ],
)
def test_points_are_checked(values: tuple[float, float, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Point(*values)


def test_a_front_of_others_is_refused() -> None:
    stranger, hollow = Point(1, 0.5, 1), Point(2, 0.5, 1, False)
    with pytest.raises(ValueError, match="no candidate was scored"):
        draw_front([], [], Path("unused.png"))
    for front, chosen in (([stranger], None), ([hollow], None), ([], stranger), ([], hollow)):
        with pytest.raises(ValueError, match="not among the feasible points"):
            draw_front([*POINTS, hollow], front, Path("unused.png"), chosen=chosen)


def test_a_heat_map_prints_what_was_measured_and_hatches_the_rest(drawn: Callable[..., Any]) -> None:
    options = {"measured_on": "NVIDIA H100, 1×3×256×256"}
    figure = drawn(draw_latency_heat_map, OPERATORS, BLOCKS, LATENCIES, COUNTS, Path("unused.png"), **options)
    said = assert_texts_keep_apart(figure)
    assert {"NVIDIA H100, 1×3×256×256", *OPERATORS, *BLOCKS} <= set(said)
    measured = sum(count > 0 for row in COUNTS for count in row)
    assert sum(text.startswith("n ") for text in said) == measured
    cells = {tuple(patch.get_xy()): patch for patch in figure.axes[0].patches}
    assert len(cells) == len(OPERATORS) * len(BLOCKS)
    assert sum(patch.get_hatch() is not None for patch in cells.values()) == len(cells) - measured
    assert all((cells[j, i].get_hatch() is None) == (COUNTS[i][j] > 0) for i in range(3) for j in range(12))


def test_lower_latency_is_warmer(drawn: Callable[..., Any]) -> None:
    values = [[1.0, 2.0, 5.0, 20.0]]
    figure = drawn(
        draw_latency_heat_map, ["mlp"], list("abcd"), values, [[1] * 4], Path("unused.png"), measured_on="CPU"
    )
    assert_texts_keep_apart(figure)
    warmth = [red - blue for red, _, blue, _ in (patch.get_facecolor() for patch in figure.axes[0].patches)]
    assert warmth[0] > 0 > warmth[-1]
    # The warmest red is a dark one, with less red than the next.
    assert warmth[1:] == sorted(warmth[1:], reverse=True)


@pytest.mark.filterwarnings("error")
def test_a_heat_map_as_a_file(tmp_path: Path) -> None:
    names = ["stage 1, block 1", "stage 1, block 2"]
    table: list[list[float | None]] = [[0.25, None]]
    path = draw_latency_heat_map(["mlp"], names, table, [[3, 0]], tmp_path / "heat.png", measured_on="CPU, 1×3×64×64")
    shown_in(path)


@pytest.mark.parametrize(
    ("values", "counts", "said"),
    [
        ([[1.0, 2.0]], [[1, 1]], "rows of"),
        ([[1.0], [2.0]], [[1], [1]], "rows of"),
        ([[1.0, 2.0], [3.0, 4.0]], [[1, 1]], "counts"),
        ([[1.0, None], [3.0, 4.0]], [[1, 1], [1, 1]], "a at y: None ms"),
        ([[1.0, 2.0], [-3.0, 4.0]], [[1, 1], [1, 1]], "b at x: -3.0 ms"),
        ([[1.0, 2.0], [3.0, 4.0]], [[1, 1], [1, -1]], "measured -1 times"),
        ([[1.0, 2.0], [3.0, 4.0]], [[0, 0], [0, 0]], "nothing was measured"),
    ],
)
def test_tables_are_checked(values: list[list[float | None]], counts: list[list[int]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        draw_latency_heat_map(["a", "b"], ["x", "y"], values, counts, Path("unused.png"), measured_on="CPU")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("count", [1, 2, 20, 100])
def test_the_course_of_a_search(drawn: Callable[..., Any], count: int) -> None:
    best = [None, *(0.7 - 0.2 * 0.8**g for g in range(1, count))]
    mean = [math.nan, *(0.65 - 0.2 * 0.8**g for g in range(1, count))]
    volumes = [0.1 * g / count for g in range(count)]
    figure = drawn(draw_hypervolume, range(count), volumes, best, mean, Path("unused.png"))
    said = assert_texts_keep_apart(figure)
    assert {"best", "mean", "generation", "hypervolume"} <= set(said)
    upper, lower = figure.axes
    assert [len(line.get_xdata()) for line in (*upper.get_lines(), *lower.get_lines())] == [count] * 3
    if count > 1:
        assert upper.get_lines()[0].get_ydata()[-1] == pytest.approx(100 * best[-1])


def test_a_course_as_a_file(tmp_path: Path) -> None:
    shown_in(draw_hypervolume([1, 2], [0.1, 0.2], [0.5, 0.6], [0.4, 0.5], tmp_path / "course.png"))


@pytest.mark.parametrize(
    ("generations", "volumes", "said"),
    [
        ([], [], "at least 1"),
        ([1, 2], [0.1], "as many of each"),
        ([2, 2], [0.1, 0.1], "above the one before"),
        ([1, 2], [0.1, -0.1], "at least 0"),
        ([1, 2], [0.1, math.nan], "finite"),
    ],
)
def test_courses_are_checked(generations: list[int], volumes: list[float], said: str) -> None:
    scores = [0.5] * len(generations)
    with pytest.raises(ValueError, match=said):
        draw_hypervolume(generations, volumes, scores, scores, Path("unused.png"))
