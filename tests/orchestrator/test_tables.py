import io

import pytest
from rich.console import Console

from orchestrator.report import result_of, results_in, spreads_over_seeds
from orchestrator.runs import RunRecord, TrialRecord, create_run
from orchestrator.tables import latency_notes, runs_table, spreads_table, trials_table


def shown(table, width=140) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(table)
    return console.file.getvalue()


@pytest.fixture
def compared(tmp_path, finish):
    records = (TrialRecord("A-s0", "A", 0, "asdet"), TrialRecord("A-random-s0", "A", 0, "random"))
    record = RunRecord("r", "asdet", "2026-01-01T00:00:00+00:00", "test", "0", records)
    run = create_run(tmp_path / "runs", record, "{}\n", {r.name: {} for r in records})
    nothing = {"iou_image": 0.125}
    finish(run, "A-s0", iou=0.5, search_seconds=3661.0, retrain_seconds=61.0, flops=4e9, nothing=nothing)
    finish(run, "A-random-s0", iou=0.375, nothing=nothing)
    return run


def test_the_table_shows_percent_cost_time_and_both_comparisons(compared):
    text = shown(trials_table(result_of(compared).trials))
    row = next(line for line in text.splitlines() if "asdet" in line).split()
    assert row[:7] == ["A", "0", "asdet", "done", "50.0", "60.0", "70.0"]
    assert row[7:] == ["1.000", "2.000", "1:01:01", "1:01", "12.5", "37.5"]
    assert "h:m:s" in text
    assert "two-class mean IoU" in text


def test_a_usual_terminal_shows_scores_cost_and_search_time(compared):
    text = shown(trials_table(result_of(compared).trials, 80), width=80)
    row = next(line.split() for line in text.splitlines() if "asdet" in line)
    assert row == ["A", "0", "asdet", "done", "50.0", "60.0", "70.0", "1.000", "2.000", "1:01:01", "12.5"]
    assert "random architecture" not in text


def test_a_trial_of_autonad_is_shown_with_its_means_over_classes(make_run, finish):
    run = make_run("A")
    finish(run, "A-s0", iou=0.5, miou=0.625, mf1=0.75)
    row = next(line.split() for line in shown(trials_table(result_of(run).trials)).splitlines() if "done" in line)
    assert row[4:7] == ["62.5", "75.0", "50.0"]


def test_the_random_baseline_of_autonad_has_a_column_where_a_trial_has_one(make_run, finish):
    run = make_run("A", "B")
    finish(run, "A-s0", miou=0.625, mf1=0.75)
    finish(run, "B-s0", miou=0.5, mf1=0.5)
    assert "andom" not in shown(trials_table(result_of(run).trials))
    finish(run, "A-s0", miou=0.625, mf1=0.75, random={"miou": 0.5625, "iou": 0.25})
    table = trials_table(result_of(run).trials)
    label, *cells = [str(table.columns[-1].header), *table.columns[-1].cells]
    assert (label, cells) == ("Random³\nmIoU %", ["56.2", ""])
    text = shown(table)
    assert "³ of the best of a random search of equal cost, retrained the same" in text
    row = next(line.split() for line in text.splitlines() if "done" in line)
    assert (row[0], row[4], row[-1]) == ("A", "62.5", "56.2")


@pytest.mark.parametrize("width", [80, 100])
def test_a_table_of_autonad_fits_its_terminal(make_run, finish, width):
    run = make_run("KolektorSDD")
    more = {"search_seconds": 36_061.0, "retrain_seconds": 36_061.0, "nothing": {"iou_image": 0.125}}
    finish(run, "KolektorSDD-s0", miou=0.625, mf1=0.75, random={"miou": 0.5625}, **more)
    text = shown(trials_table(result_of(run).trials, width), width)
    row = next(line.split() for line in text.splitlines() if "done" in line)
    least = ["0", "asdet", "done", "62.5", "75.0", "50.0", "1.000", "2.000", "10:01:01"]
    assert row[1:] == [*least, *(["10:01:01", "12.5", "56.2"] if width == 100 else ["12.5"])]
    assert ("random search" in text) == (width == 100)
    marks = {mark: text.count(mark) for mark in "¹²³⁴"}
    # Each mark is at its column and at its note.
    assert marks == {"¹": 2, "²": 2, "³": 2 if width == 100 else 0, "⁴": 0}


def test_how_well_a_latency_table_predicts_is_said_below(make_run, finish):
    run = make_run("A", "B", "C")
    finish(run, "A-s0", latency_table={"records": 60, "residual_ms": 0.3125, "tau": 0.875, "over": 40})
    finish(run, "B-s0", latency_table={"records": 60, "residual_ms": None, "tau": None, "over": 1})
    finish(run, "C-s0")
    told = "A, seed 0: latency table of 60 subnets against measurement: Kendall's tau 0.88 over 40 others, 0.31 ms left"
    assert latency_notes(result_of(run).trials) == [f"{told} unexplained"]


def test_several_seeds_are_shown_as_mean_and_spread(tmp_path, finish):
    records = [TrialRecord(f"A-s{k}", "A", k, "asdet") for k in range(3)] + [TrialRecord("B-s0", "B", 0, "asdet")]
    record = RunRecord("r", "asdet", "2026-01-01T00:00:00+00:00", "test", "0", tuple(records))
    run = create_run(tmp_path / "runs", record, "{}\n", {r.name: {} for r in records})
    for k, iou in enumerate((0.4, 0.5, 0.6)):
        finish(run, f"A-s{k}", iou=iou)
    finish(run, "B-s0", iou=0.9)
    (spread,) = spreads_over_seeds(result_of(run).trials)
    assert (spread.data, spread.method, spread.seeds) == ("A", "asdet", 3)
    assert spread.scores["iou"] == pytest.approx((0.5, 0.1))
    row = next(line.split() for line in shown(spreads_table([spread])).splitlines() if "asdet" in line)
    assert row[:6] == ["A", "asdet", "3", "50.0", "±", "10.0"]


@pytest.mark.parametrize("width", [80, 140])
def test_the_spread_of_the_means_over_classes_is_shown_where_a_method_has_them(tmp_path, finish, width):
    records = [TrialRecord(f"{d}-s{k}", d, k, "autonad") for d in ("KolektorSDD", "B") for k in (0, 1)]
    record = RunRecord("r", "autonad", "2026-01-01T00:00:00+00:00", "test", "0", tuple(records))
    run = create_run(tmp_path / "runs", record, "{}\n", {r.name: {} for r in records})
    for k, miou in enumerate((0.5, 0.6)):
        finish(run, f"KolektorSDD-s{k}", miou=miou, mf1=miou + 0.1)
    # One of them is of another version, without a mean over classes.
    finish(run, "B-s0", miou=0.5, mf1=0.6)
    finish(run, "B-s1")
    both = spreads_over_seeds(result_of(run).trials)
    text = shown(spreads_table(both, width), width)
    rest = [] if width == 80 else ["60.0", "±", "0.0", "70.0", "±", "0.0"]
    assert text.splitlines()[1].split()[:5] == ["mIoU", "%", "mF1", "%", "IoU"]
    first, second = [line.split() for line in text.splitlines() if "autonad" in line]
    assert first == ["KolektorSDD", "autonad", "2", *"55.0 ± 7.1 65.0 ± 7.1 50.0 ± 0.0".split(), *rest]
    assert second == ["B", "autonad", "2", "50.0", "±", "0.0", *rest]
    plain = shown(spreads_table(both[1:], width), width)
    assert "mIoU" not in plain
    assert "PA %" in plain


@pytest.mark.parametrize("width", [80, 120])
def test_the_list_of_runs(make_run, finish, tmp_path, width):
    make_run("KolektorSDD", run_id="20260101-102030-autonad", created="2026-01-01T10:20:30+00:00")
    run = make_run("A", "B", "C", run_id="new", created="2026-02-01T10:20:30+00:00")
    finish(run, "B-s0", iou=0.4, f1=0.55, search_seconds=36_000.0)
    finish(run, "C-s0", iou=0.3, f1=0.65, search_seconds=61.0)
    text = shown(runs_table(results_in(tmp_path / "runs").results, width), width)
    assert max(len(line) for line in text.splitlines()) <= width
    new, old = [line.split() for line in text.splitlines() if "asdet" in line]
    created = ["2026-02-01", "10:20"] if width == 120 else []
    assert new[: 1 + len(created)] == ["new", *created]
    # Of the best trial its F1, and the search time of all.
    costs = ["40.0", "55.0", "10:01:01", *(["1.000", "2.000"] if width == 120 else [])]
    assert [cell for cell in new if cell[0].isdigit() and cell not in created][-len(costs) :] == costs
    assert old[0] == "20260101-102030-autonad"


def test_a_damaged_run_is_left_out_of_the_list_and_named(make_run, finish, tmp_path):
    for name in ("a", "b", "c"):
        finish(make_run("A", run_id=name, created=f"2026-01-0{ord(name) - 96}T00:00:00+00:00"), "A-s0")
    (tmp_path / "runs" / "a" / "run.json").write_text('{"id": ')
    (tmp_path / "runs" / "c" / "trials" / "A-s0" / "metrics.json").write_text("{")
    found = results_in(tmp_path / "runs")
    assert [result.run for result in found.results] == ["b"]
    assert ["/a/run.json: damaged" in found.damaged[0], "A-s0/metrics.json: damaged" in found.damaged[1]] == [True] * 2
