"""The picture of a comparison: who is where, in which colour, and nothing that hides something else."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from drawings import assert_texts_keep_apart, rgb, shown_in

from orchestrator import drawing_comparison
from orchestrator.comparison import Compared, Comparison, Panel
from orchestrator.drawing_comparison import COLOURS, draw_comparison
from search.pareto import non_dominated_sort


def row(run: str, score: float, cost: float, data: str = "A", *, role: str = "searched") -> Compared:
    return Compared(
        run=run, trial=f"{data}-s0", data=data, seed=0, method="autonad", role=role, retraining=0, digest="a" * 64,
        architecture={}, iou=score / 2, miou=score, inherited_miou=None, latency_ms=cost, latency_on="a CPU",
        parameters=1e6, macs=cost * 1e8, search_seconds=None, settings={},
    )  # fmt: skip


def panel(rows: list[Compared], score: str = "miou", cost: str = "latency") -> Panel:
    """Return the panel of these rows, which are the best first."""
    whole = Panel(rows[0].data, tuple(rows), score, cost, ())
    front = non_dominated_sort([(-whole.score_of(one), whole.cost_of(one)) for one in rows])[0]
    return Panel(rows[0].data, tuple(rows), score, cost, tuple(front))


def comparison(*panels: Panel) -> Comparison:
    runs = dict.fromkeys(one.run for each in panels for one in each.rows)
    return Comparison(tuple(runs), panels, {}, ())


def many(data: str, runs: int, seed: int = 0) -> list[Compared]:
    generator = random.Random(seed)
    names = [f"20261121-{120000 + k}-autonad" for k in range(runs)] * 2
    rows = [row(name, generator.uniform(0.5, 0.8), generator.uniform(3, 12), data) for name in names]
    return sorted(rows, key=lambda one: -one.miou)


TWO = [row("one", 0.8, 9.0), row("two", 0.75, 4.0), row("one", 0.7, 6.0), row("two", 0.6, 2.0, role="random")]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[[Comparison], Any]:
    """Draw without writing; return the figure."""
    figures: list[Any] = []
    monkeypatch.setattr(drawing_comparison, "write_png", lambda figure, path: figures.append(figure))

    def draw(what: Comparison) -> Any:
        draw_comparison(what, Path("unused.png"))
        return figures[-1]

    return draw


def points(axes: Any) -> list[tuple[float, float, tuple[int, ...]]]:
    """Return cost, score and colour of all points, in the order in which they are drawn."""
    found = []
    for collection in axes.collections:
        [(across, up)] = collection.get_offsets()
        colour = tuple(round(255 * part) for part in collection.get_facecolor()[0][:3])
        found.append((float(across), float(up), colour))
    return found


def test_every_architecture_is_a_point_in_the_colour_of_its_run(drawn: Callable[..., Any]) -> None:
    figure = drawn(comparison(panel(TWO)))
    said = assert_texts_keep_apart(figure)
    assert {"A", "latency in ms", "test mIoU in %", "one", "two", "searched", "random", "front"} <= set(said)
    one, two = rgb(COLOURS[0]), rgb(COLOURS[1])
    assert sorted(points(figure.axes[0])) == [
        (2.0, pytest.approx(60), two),
        (4.0, pytest.approx(75), two),
        (6.0, pytest.approx(70), one),
        (9.0, pytest.approx(80), one),
    ]


def test_the_line_is_the_front_from_the_cheapest_to_the_best(drawn: Callable[..., Any]) -> None:
    [axes] = drawn(comparison(panel(TWO))).axes
    [line] = axes.get_lines()
    across, up = line.get_data()
    assert list(across) == [2.0, 4.0, 9.0]
    assert list(up) == pytest.approx([60, 75, 80])
    assert line.get_drawstyle() == "steps-post"


def test_the_front_is_drawn_over_the_others(drawn: Callable[..., Any]) -> None:
    [axes] = drawn(comparison(panel(TWO))).axes
    # The second beats the third; the last, which scores least, is on the front.
    assert [across for across, _, _ in points(axes)] == [6.0, 2.0, 4.0, 9.0]


def test_random_architectures_are_crosses_and_in_the_legend_only_where_there_are_any(drawn: Callable[..., Any]) -> None:
    [axes] = drawn(comparison(panel(TWO))).axes
    corners = {c.get_offsets()[0][0]: len(c.get_paths()[0].vertices) for c in axes.collections}
    # A cross is two strokes of two ends, a circle a curve of many points.
    assert [across for across, count in corners.items() if count == 4] == [2.0]
    assert "random" not in assert_texts_keep_apart(drawn(comparison(panel(TWO[:3]))))
    assert "searched" not in assert_texts_keep_apart(drawn(comparison(panel(TWO[3:]))))


def test_each_data_set_has_axes_of_its_own(drawn: Callable[..., Any]) -> None:
    panels = [panel(many(data, 3, seed)) for seed, data in enumerate(("KSDD", "MT"))]
    macs = panel([row("20261121-120000-autonad", 0.5, 4.0, "RSDDs")], "iou", "macs")
    figure = drawn(comparison(*panels, macs))
    assert {"GMACs", "test IoU in %", "latency in ms", "test mIoU in %"} <= set(assert_texts_keep_apart(figure))
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.axison] == ["KSDD", "MT", "RSDDs"]
    assert [len(points(axes)) for axes in figure.axes] == [6, 6, 1, 0]
    [(across, up, _)] = points(figure.axes[2])
    assert (across, up) == (pytest.approx(0.4), pytest.approx(25))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("runs", [1, 2, 5, 9, 12])
def test_any_number_of_runs_is_in_the_legend(drawn: Callable[..., Any], runs: int) -> None:
    found = comparison(panel(many("KSDD", runs)))
    figure = drawn(found)
    assert set(found.runs) <= set(assert_texts_keep_apart(figure))
    colours = {colour for _, _, colour in points(figure.axes[0])}
    assert len(colours) == min(runs, len(COLOURS))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("count", [1, 2])
def test_architectures_that_are_all_in_one_place(drawn: Callable[..., Any], count: int) -> None:
    figure = drawn(comparison(panel([row(f"run{k}", 0.5, 3.0) for k in range(count)])))
    assert_texts_keep_apart(figure)
    assert len(points(figure.axes[0])) == count


def test_a_comparison_as_a_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "comparison.png"
    assert draw_comparison(comparison(panel(TWO)), path) == path
    assert {rgb(COLOURS[0]), rgb(COLOURS[1])} <= shown_in(path)
    assert [found.name for found in path.parent.iterdir()] == ["comparison.png"]
