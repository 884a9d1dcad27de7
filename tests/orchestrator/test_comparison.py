"""Runs side by side, read back from real MLflow stores: as values, as tables, by the command."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow_stores import FIRST_OPENED, client_of, free_port, stored_runs
from rich.console import Console
from synthetic_ledgers import (
    SMALL,
    Retraining,
    append_ledger,
    finish_hybrid_trial,
    finish_trial,
    make_events,
    make_run,
    random_architecture,
    subnet,
)
from typer.testing import CliRunner

from orchestrator import api, cli
from orchestrator.comparison import Compared, Comparison, NotTracked, choices_of, differing_choices
from orchestrator.comparison_tables import comparison_tables
from orchestrator.tracking import NoExperimentError, catch_up, embedded_uri
from search.settings import Settings

pytestmark = pytest.mark.filterwarnings(FIRST_OPENED)

STARTED = make_events()[:1]
CELLS, MORE_CELLS, DRAWN_CELLS = (random_architecture(seed) for seed in (1, 2, 3))
GPU = "an H100, 1×3×32×32, bfloat16"
FIRST = [
    Retraining(subnet(1), 0.80, inherited=0.60, latency_ms=9.0, macs=500_000_000),
    Retraining(subnet(1), 0.70, seed=1, inherited=0.60, latency_ms=9.0, macs=500_000_000),
    Retraining(subnet(2), 0.66, role="random", latency_ms=6.0, macs=300_000_000),
]
SECOND = [
    Retraining(subnet(3), 0.75, latency_ms=7.0, macs=600_000_000),
    Retraining(subnet(4), 0.65, latency_ms=6.5, macs=200_000_000),
]


def hybrid_settings(**evolution: Any) -> Settings:
    settings = Settings(space=SMALL)
    return replace(settings, evolution=replace(settings.evolution, **evolution))


def make_hybrid(runs: Path, name: str, retrained: list[Retraining], data: str = "MT", **evolution: Any) -> Path:
    run = make_run(runs, name, [(data, 0)], method="autonad", settings=hybrid_settings(**evolution))
    finish_hybrid_trial(run / "trials" / f"{data}-s0", retrained)
    return run


def make_cells(runs: Path, name: str, epochs: int, *, method: str = "asdet") -> Path:
    settings = replace(Settings(), retrain=replace(Settings().retrain, epochs=epochs))
    return make_run(runs, name, [("KSDD", 0), ("MT", 0)], method=method, settings=settings)


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory, migrated_store: Path) -> Path:
    """A folder of runs and their store, which no test changes.

    Two runs of NAS-ASDet on KSDD and MT, of which the second has a trial that stopped; one of random cells on KSDD,
    whose second trial has not begun; three of AutoNAD on MT, of which the third was measured on another device.
    """
    runs = tmp_path_factory.mktemp("tracked") / "runs"
    runs.mkdir()
    shutil.copy(migrated_store, runs / "mlflow.db")
    cells = make_cells(runs, "cells", 100)
    finish_trial(cells / "trials" / "KSDD-s0", STARTED, iou=0.5, architecture=CELLS, macs=2_000_000_000)
    finish_trial(cells / "trials" / "MT-s0", STARTED, iou=0.3, architecture=CELLS, macs=2_000_000_000)
    longer = make_cells(runs, "longer", 200)
    finish_trial(longer / "trials" / "KSDD-s0", STARTED, iou=0.6, architecture=MORE_CELLS, macs=3_000_000_000)
    append_ledger(longer / "trials" / "MT-s0", STARTED)
    drawn = make_cells(runs, "drawn", 100, method="random")
    finish_trial(drawn / "trials" / "KSDD-s0", STARTED, iou=0.4, architecture=DRAWN_CELLS, macs=2_500_000_000)
    made = [
        make_hybrid(runs, "first", FIRST),
        make_hybrid(runs, "second", SECOND, strategy="pareto", latency_limit_ms=12.0),
        make_hybrid(runs, "elsewhere", [replace(one, latency_on=GPU) for one in SECOND]),
    ]
    for run in (cells, longer, drawn, *made):
        catch_up(run, embedded_uri(runs))
    begun = make_run(runs, "begun", [("MT", 0)])
    append_ledger(begun / "trials" / "MT-s0", STARTED)
    catch_up(begun, embedded_uri(runs))
    return runs


@pytest.fixture
def compare(tracked: Path) -> Callable[..., Comparison]:
    return lambda *names, **options: api.compare(names, runs=tracked, **options)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Call `defectnas compare` in an empty folder."""
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    runner = CliRunner()
    return lambda *words: runner.invoke(cli.app, ["compare", *map(str, words)], prog_name="defectnas")


def shown(comparison: Comparison, width: int = 140) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    for table in comparison_tables(comparison, width):
        console.print(table)
    return console.file.getvalue()


def heads_of(comparison: Comparison) -> list[str]:
    """Return the labels of the table of the places where the best differ."""
    [line] = [line for line in shown(comparison).splitlines() if "Place" in line]
    return line.split()


def one_row(**values: Any) -> Compared:
    """Return a row of which only these values matter."""
    architecture = random_architecture(1)
    known = {
        "run": "r", "trial": "A-s0", "data": "A", "seed": 0, "method": "asdet", "role": "searched", "retraining": None,
        "digest": architecture.digest(), "architecture": architecture.to_dict(), "iou": 0.5, "miou": None,
        "inherited_miou": None, "latency_ms": None, "latency_on": None, "parameters": 1e6, "macs": 1e9,
        "search_seconds": None, "settings": {},
    }  # fmt: skip
    return Compared(**{**known, **values})


def test_architectures_of_nas_asdet_are_ranked_by_iou_over_macs(compare: Callable[..., Comparison]) -> None:
    found = compare("cells", "longer", "drawn")
    assert found.runs == ("cells", "longer", "drawn")
    panels = {panel.data: panel for panel in found.panels}
    assert set(panels) == {"KSDD", "MT"}
    ksdd = panels["KSDD"]
    assert (ksdd.score, ksdd.cost, ksdd.cost_label) == ("iou", "macs", "GMACs")
    assert [(row.run, row.iou, row.role) for row in ksdd.rows] == [
        ("longer", 0.6, "searched"), ("cells", 0.5, "searched"), ("drawn", 0.4, "random")
    ]  # fmt: skip
    # The random cells cost more than those of the second and score less.
    assert ksdd.front == (0, 1)
    best = ksdd.rows[0]
    assert best.architecture == MORE_CELLS.to_dict()
    assert (best.digest, best.trial, best.seed, best.method) == (MORE_CELLS.digest(), "KSDD-s0", 0, "asdet")
    assert (best.parameters, best.macs, best.search_seconds) == (123456, 3_000_000_000, 18.0)
    assert (best.miou, best.inherited_miou, best.latency_ms, best.latency_on, best.retraining) == (None,) * 5
    assert [row.run for row in panels["MT"].rows] == ["cells"]
    assert (ksdd.cost_of(best), ksdd.score_of(best)) == (3.0, 0.6)


def test_retrainings_of_autonad_are_ranked_by_miou_over_latency(compare: Callable[..., Comparison]) -> None:
    [panel] = compare("first", "second").panels
    assert (panel.data, panel.score, panel.cost, panel.cost_label) == ("MT", "miou", "latency", "latency in ms")
    rows = [(row.run, row.miou, row.latency_ms, row.role, row.retraining) for row in panel.rows]
    assert rows == [
        ("first", pytest.approx(0.80), 9.0, "searched", 0),
        ("second", pytest.approx(0.75), 7.0, "searched", 0),
        ("first", pytest.approx(0.70), 9.0, "searched", 1),
        ("first", pytest.approx(0.66), 6.0, "random", 0),
        ("second", pytest.approx(0.65), 6.5, "searched", 0),
    ]
    assert panel.front == (0, 1, 3)
    best = panel.rows[0]
    assert best.architecture == FIRST[0].architecture.to_dict()
    assert best.digest == FIRST[0].architecture.digest()
    assert (best.inherited_miou, best.latency_on, best.search_seconds) == (0.6, FIRST[0].latency_on, 30.0)
    assert (best.trial, best.seed, best.method, best.iou) == ("MT-s0", 0, "autonad", pytest.approx(0.7))
    assert (panel.cost_of(best), panel.score_of(best)) == (9.0, pytest.approx(0.8))


def test_latencies_of_two_devices_are_not_compared(compare: Callable[..., Comparison]) -> None:
    [panel] = compare("second", "elsewhere").panels
    assert (panel.score, panel.cost) == ("miou", "macs")
    assert {row.latency_on for row in panel.rows} == {FIRST[0].latency_on, GPU}
    assert [panel.cost_of(row) for row in panel.rows] == pytest.approx([0.6, 0.6, 0.2, 0.2])
    # Equal points are no reason to leave the front.
    assert panel.front == (0, 1, 2, 3)
    [alone] = compare("elsewhere").panels
    assert alone.cost == "latency"


def test_both_methods_are_compared_by_what_both_have(compare: Callable[..., Comparison]) -> None:
    found = compare("first", "cells")
    panel = next(panel for panel in found.panels if panel.data == "MT")
    assert (panel.score, panel.cost) == ("iou", "macs")
    assert [row.iou for row in panel.rows] == pytest.approx([0.7, 0.6, 0.56, 0.3])
    assert [row.method for row in panel.rows] == ["autonad"] * 3 + ["asdet"]
    assert panel.front == (0, 2)


def test_settings_that_differ_between_the_runs(compare: Callable[..., Comparison]) -> None:
    assert compare("first", "second").settings == {
        "evolution.latency_limit_ms": ("0.0", "12.0"),
        "evolution.strategy": ("evolution", "pareto"),
    }
    assert compare("cells", "longer", "drawn").settings == {"retrain.epochs": ("100", "200", "100")}
    assert compare("first").settings == {}


def test_settings_that_differ_within_a_run_are_all_named(runs: Path) -> None:
    for name, order in (("one", ("KSDD-s0", "MT-s0")), ("two", ("MT-s0", "KSDD-s0")), ("three", ("MT-s0",))):
        run = make_run(runs, name)
        for number, trial in enumerate(order):
            path = run / "trials" / trial / "trial.json"
            values = json.loads(path.read_text())
            values["settings"]["data"]["image_size"] = {"KSDD-s0": 64, "MT-s0": 96}[trial]
            path.write_text(json.dumps(values))
            started = {**STARTED[0], "time": STARTED[0]["time"] + number}
            finish_trial(run / "trials" / trial, [started])
        catch_up(run, embedded_uri(runs))
    # Which trial began first makes no difference.
    assert api.compare(["one", "two"], runs=runs).settings == {}
    assert api.compare(["one", "three"], runs=runs).settings == {"data.image_size": ("64 / 96", "96")}


def test_trials_that_are_not_done_are_named_whether_they_began_or_not(compare: Callable[..., Comparison]) -> None:
    assert compare("cells", "longer", "drawn").unfinished == ("longer/MT-s0", "drawn/MT-s0")
    assert compare("cells", "first").unfinished == ()


def test_choices_of_a_cell_architecture() -> None:
    values = random_architecture(1).to_dict()
    values["normal"][1] = [[0, "identity"], [2, "max_pool_3x3"]]
    chosen = choices_of(values)
    assert len(chosen) == 2 * 4 * 2
    assert chosen["normal cell, node 1, input 1"] == "identity of c_k-2"
    assert chosen["normal cell, node 1, input 2"] == "max_pool_3x3 of node 0"
    other = json.loads(json.dumps(values))
    other["reduction"][3][1] = [1, "spatial_att"]
    rows = [one_row(architecture=values), one_row(architecture=other)]
    place = "reduction cell, node 3, input 2"
    assert differing_choices(rows) == {place: (chosen[place], "spatial_att of c_k-1")}
    assert differing_choices(rows[:1]) == {}


def test_choices_of_a_hybrid_architecture_are_in_the_order_of_the_network() -> None:
    values = subnet(1).to_dict()
    values["stages"][0] = {"width": 32, "blocks": [["convolution", 2.5, 3]]}
    deeper = json.loads(json.dumps(values))
    deeper["stages"][0] = {"width": 64, "blocks": [["convolution", 2.0, 5], ["mlp", 2.0, 0]]}
    deeper["edges"][9], deeper["pools"] = "conv5x5", [1, 1, 1, 7]
    values["edges"][9], values["pools"] = "conv1x1", [1, 1, 1, 6]
    assert choices_of(values)["stage 1, width"] == "32"
    found = differing_choices([one_row(architecture=values), one_row(architecture=deeper)])
    assert list(found.items()) == [
        ("stage 1, width", ("32", "64")),
        ("stage 1, blocks", ("1", "2")),
        ("stage 1, block 1", ("convolution 3x3, ratio 2.5", "convolution 5x5, ratio 2")),
        # Only the second has it, and it still comes before stage 2.
        ("stage 1, block 2", ("", "mlp, ratio 2")),
        ("edge pool4", ("conv1x1", "conv5x5")),
        ("pooling 4", ("6", "7")),
    ]


def test_places_that_only_a_later_one_has_keep_their_order() -> None:
    shallow, deep = subnet(1).to_dict(), subnet(1).to_dict()
    block = ["mlp", 2.0, 0]
    for number, stage in enumerate(deep["stages"]):
        shallow["stages"][number] = {**stage, "blocks": [block]}
        stage["blocks"] = [block] * 3
    first, second = (one_row(architecture=values) for values in (shallow, deep))
    places = [f"stage {k}, {what}" for k in (1, 2, 3, 4) for what in ("blocks", "block 2", "block 3")]
    assert list(differing_choices([first, second])) == places
    assert list(differing_choices([second, first])) == places


def test_a_run_that_is_named_twice_or_by_its_folder_counts_once(
    tracked: Path, compare: Callable[..., Comparison], monkeypatch: pytest.MonkeyPatch
) -> None:
    once = compare("first")
    assert compare("first", "first") == once
    assert compare("first", str(tracked / "first"), f"{tracked / 'first'}/") == once
    monkeypatch.chdir(tracked / "first")
    assert compare(".") == once
    assert compare("../second", "first").runs == ("second", "first")


def test_a_run_whose_folder_is_gone_is_read_from_the_store(tracked: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "runs"
    elsewhere.mkdir()
    assert api.compare(["first"], runs=elsewhere, tracking_uri=embedded_uri(tracked)).runs == ("first",)


def test_of_runs_of_one_name_it_is_the_one_whose_folder_is_here_or_else_the_youngest(
    runs: Path, tmp_path: Path
) -> None:
    uri = embedded_uri(runs)
    elsewhere = tmp_path / "of a colleague"
    old = make_run(runs, "same", [("KSDD", 0)])
    young = make_run(elsewhere, "same", [("KSDD", 0)], created="2026-11-22T08:00:00+00:00")
    for run, iou in ((young, 0.9), (old, 0.1)):
        finish_trial(run / "trials" / "KSDD-s0", STARTED, iou=iou)
        catch_up(run, uri)

    def iou_in(folder: Path) -> float:
        [row] = api.compare(["same"], runs=folder, tracking_uri=uri).panels[0].rows
        return row.iou

    assert iou_in(runs) == 0.1
    assert iou_in(elsewhere) == 0.9
    assert iou_in(tmp_path / "nowhere") == 0.9


def test_a_run_of_before_finalists_had_runs_is_that_of_its_trial(runs: Path) -> None:
    run = make_hybrid(runs, "early", FIRST)
    shutil.rmtree(run / "trials" / "MT-s0" / "finalists")
    catch_up(run, embedded_uri(runs))
    [panel] = api.compare(["early"], runs=runs).panels
    [row] = panel.rows
    assert (row.digest, row.miou, row.retraining) == (FIRST[0].architecture.digest(), pytest.approx(0.8), None)
    # Under which conditions its latency was measured is not known.
    assert (row.latency_ms, row.latency_on, panel.cost) == (9.0, None, "macs")


def test_a_finalist_that_the_store_has_by_half_is_left_out(runs: Path) -> None:
    run = make_hybrid(runs, "half", FIRST)
    catch_up(run, embedded_uri(runs))
    client = client_of(embedded_uri(runs))
    [half] = [r for r in stored_runs(embedded_uri(runs)) if r.info.run_name == FIRST[1].name]
    client.update_run(half.info.run_id, "RUNNING")
    [panel] = api.compare(["half"], runs=runs).panels
    assert [row.role for row in panel.rows] == ["searched", "random"]


def test_an_architecture_that_the_store_has_lost_is_named(runs: Path) -> None:
    run = make_hybrid(runs, "lost", FIRST)
    catch_up(run, embedded_uri(runs))
    shutil.rmtree(runs / "mlartifacts")
    with pytest.raises(NotTracked, match=r"run 'lost': \w+ in the tracking store has no architecture or no score"):
        api.compare(["lost"], runs=runs)


def test_the_table_of_architectures(compare: Callable[..., Comparison]) -> None:
    lines = [line.strip() for line in shown(compare("first", "second")).splitlines()]
    assert lines[0] == "MT"
    rows = [line.split() for line in lines if "autonad" in line or "random" in line]
    best, drawn = FIRST[0].architecture.digest()[:8], FIRST[2].architecture.digest()[:8]
    assert rows[0] == ["*", "first", "0/0", "autonad", best, "70.0", "80.0", "60.0", "9.0", "2.000", "0.500"]
    assert rows[2][:5] == ["first", "0/1", "autonad", best, "60.0"]
    assert rows[3][:5] == ["*", "first", "0/0", "random", drawn]
    assert len(rows) == 5
    assert "* on the front of test mIoU and latency in ms" in lines
    assert "seed of the search/of the retraining" in lines
    setting = next(line.split() for line in lines if "evolution.strategy" in line)
    assert setting == ["evolution.strategy", "evolution", "pareto"]


def test_columns_without_any_value_are_not_shown(compare: Callable[..., Comparison]) -> None:
    text = shown(compare("cells", "drawn"))
    assert not any(label in text for label in ("mIoU", "Latency", "Inher.", "of the retraining"))
    assert "* on the front of test IoU and GMACs" in text
    row = next(line.split() for line in text.splitlines() if "drawn" in line and "random" in line)
    assert row == ["drawn", "0", "random", DRAWN_CELLS.digest()[:8], "40.0", "0.123", "2.500"]
    # Both were made under the same settings.
    assert "Settings that differ" not in text


@pytest.mark.parametrize("width", [80, 100, 140])
def test_however_narrow_the_terminal_the_numbers_are_whole(compare: Callable[..., Comparison], width: int) -> None:
    comparison = compare("first", "second")
    [panel] = comparison.panels
    longer = [replace(row, run=f"20261121-120000-autonad-{row.run}") for row in panel.rows]
    lines = shown(replace(comparison, panels=(replace(panel, rows=tuple(longer)),)), width).splitlines()
    assert max(map(len, lines)) <= width
    rows = [line.split() for line in lines if any(row.digest[:8] in line for row in panel.rows) and "Place" not in line]
    assert len(rows) == 5
    for row, words in zip(panel.rows, rows, strict=True):
        for number in (f"{100 * row.miou:.1f}", f"{row.latency_ms:.1f}", f"{row.macs / 1e9:.3f}"):
            assert number in words


def test_choices_are_shown_of_the_best_architectures_the_best_first(compare: Callable[..., Comparison]) -> None:
    # The worst row of the best architecture is below the second's: it is the best one that counts.
    order = [FIRST[0], SECOND[0], FIRST[2], SECOND[1]]
    assert heads_of(compare("first", "second")) == ["Place", *(one.architecture.digest()[:8] for one in order)]


def test_no_more_than_four_architectures_are_put_side_by_side(compare: Callable[..., Comparison]) -> None:
    comparison = compare("first", "second")
    [panel] = comparison.panels
    rows = [
        one_row(digest=f"{k}" * 64, architecture=subnet(k).to_dict(), miou=0.9 - k / 10, latency_ms=1.0)
        for k in range(6)
    ]
    heads = heads_of(replace(comparison, panels=(replace(panel, rows=rows),)))
    assert heads == ["Place", *(f"{k}" * 8 for k in range(4))]


def test_settings_with_brackets_are_shown_as_they_are(compare: Callable[..., Comparison]) -> None:
    odd = replace(compare("first"), runs=("a", "b"), settings={"latency.replay": ("/data/[/old]/r", "[bold]")})
    text = shown(odd)
    assert "/data/[/old]/r" in text
    assert "[bold]" in text


def test_the_command_prints_tables_and_draws_the_picture(command: Callable[..., Any], tracked: Path) -> None:
    done = command("cells", "longer", "--runs", tracked)
    assert done.exit_code == 0, done.stderr
    assert [path.name for path in Path().iterdir()] == ["comparison.png"]
    assert Path("comparison.png").read_bytes()[:4] == b"\x89PNG"
    assert "picture: comparison.png" in done.stdout
    assert all(text in done.stdout for text in ("KSDD", "MT", "retrain.epochs", CELLS.digest()[:8]))
    assert done.stderr == "left out, not done: longer/MT-s0\n"


def test_the_command_draws_where_it_is_told_to_or_not_at_all(command: Callable[..., Any], tracked: Path) -> None:
    done = command("cells", "--runs", tracked, "--picture", "new/here.png")
    assert "picture: new/here.png" in done.stdout
    assert Path("new/here.png").read_bytes()[:4] == b"\x89PNG"
    shutil.rmtree("new")
    done = command("cells", "--runs", tracked, "--no-picture")
    assert done.exit_code == 0, done.stderr
    assert "picture" not in done.stdout
    assert list(Path().iterdir()) == []


def test_json_of_the_command_is_one_object(command: Callable[..., Any], tracked: Path) -> None:
    done = command("first", "second", "--runs", tracked, "--json", "--picture", "p.png")
    assert (done.exit_code, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1
    values = json.loads(done.stdout)
    assert list(values) == ["runs", "panels", "differing_settings", "unfinished", "picture"]
    assert (values["runs"], values["unfinished"]) == (["first", "second"], [])
    assert values["picture"] == str(Path("p.png").resolve())
    assert values["differing_settings"]["evolution.strategy"] == ["evolution", "pareto"]
    [panel] = values["panels"]
    assert (panel["data"], panel["score"], panel["cost"]) == ("MT", "miou", "latency")
    rows = panel["architectures"]
    assert [row["run"] for row in rows] == ["first", "second", "first", "first", "second"]
    assert panel["front"] == [rows[index]["digest"] for index in (0, 1, 3)]
    assert rows[0]["architecture"] == FIRST[0].architecture.to_dict()
    assert set(rows[0]) == set(Compared.__dataclass_fields__) - {"settings"}
    assert all(len(choices) == 5 for choices in panel["differing_choices"].values())
    done = command("longer", "--runs", tracked, "--json", "--no-picture")
    values = json.loads(done.stdout)
    assert (values["picture"], values["unfinished"]) == (None, ["longer/MT-s0"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing"], "run 'nothing' is not in the tracking store; send it there with: defectnas track nothing"),
        (["first", "nothing"], "run 'nothing' is not in the tracking store"),
        (["begun"], "run 'begun': none of its trials is done; go on with: defectnas resume begun"),
        (["first", "--experiment", "other"], "experiment 'other' is not in the store"),
        (["first", "--tracking-uri", "sqlite:///new.db"], "new.db: no MLflow store there"),
        (["first", "--tracking-uri", "mlruns"], "'mlruns' is no tracking URI"),
        (["first", "--runs", "."], ".: no MLflow store there (mlflow.db)"),
        (["it's"], "is not in the tracking store"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(
    command: Callable[..., Any], tracked: Path, words: list[str], message: str
) -> None:
    before = [(r.info.run_id, r.data.tags) for r in stored_runs(embedded_uri(tracked))]
    experiments = [e.name for e in client_of(embedded_uri(tracked)).search_experiments()]
    done = command(*([] if "--runs" in words else ["--runs", tracked]), *words)
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("defectnas: ")
    assert done.stdout == ""
    assert list(Path().iterdir()) == []
    assert [(r.info.run_id, r.data.tags) for r in stored_runs(embedded_uri(tracked))] == before
    assert [e.name for e in client_of(embedded_uri(tracked)).search_experiments()] == experiments


def test_without_a_run_there_is_nothing_to_compare(command: Callable[..., Any]) -> None:
    done = command()
    assert done.exit_code == 2
    assert "RUN" in done.stderr


def test_a_store_that_is_away_is_one_line_and_exit_code_1(command: Callable[..., Any], tracked: Path) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    done = command("first", "--runs", tracked, "--tracking-uri", uri)
    assert done.exit_code == 1
    assert done.stderr.startswith("defectnas: the runs could not be read back (")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert list(Path().iterdir()) == []


def test_a_database_that_is_none_is_one_line_and_exit_code_1(command: Callable[..., Any], tmp_path: Path) -> None:
    broken = tmp_path / "broken.db"
    broken.write_text("no database at all, but a text that is longer than the head of one would be" * 9)
    done = command("first", "--tracking-uri", f"sqlite:///{broken}")
    assert done.exit_code == 1
    assert len(done.stderr.splitlines()) == 1
    assert list(Path().iterdir()) == []


def test_as_a_function_the_same_are_exceptions(tracked: Path, tmp_path: Path) -> None:
    with pytest.raises(NotTracked):
        api.compare(["nothing"], runs=tracked)
    with pytest.raises(NoExperimentError):
        api.compare(["first"], runs=tracked, experiment="other")
    with pytest.raises(api.NoStoreError):
        api.compare(["first"], runs=tmp_path)
    with pytest.raises(api.TrackingError):
        api.compare(["first"], runs=tracked, tracking_uri=f"http://127.0.0.1:{free_port()}")
