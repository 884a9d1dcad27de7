"""The retrained subnets of AutoNAD trials in real MLflow stores, read back through MLflow's own client."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow_stores import (
    FIRST_OPENED,
    artifact_text,
    artifacts,
    client_of,
    curve,
    finalist_runs,
    parents_and_children,
    stored_runs,
    trial_run,
)
from synthetic_ledgers import (
    SMALL,
    Retraining,
    append_ledger,
    finish_hybrid_trial,
    finish_retraining,
    finish_trial,
    hybrid_events,
    make_events,
    make_run,
    subnet,
)

from orchestrator import tracking, tracking_trial
from orchestrator.tracking import Tracker, catch_up, embedded_uri
from orchestrator.tracking_store import StoreAwayError
from orchestrator.tracking_values import result_values
from search.settings import Settings

pytestmark = pytest.mark.filterwarnings(FIRST_OPENED)

BEST = Retraining(subnet(1), 0.75, inherited=0.55, validation=0.7, latency_ms=8.0)
AGAIN = replace(BEST, miou=0.73, seed=1)
DRAWN = Retraining(subnet(2), 0.66, role="random", inherited=0.5, validation=0.6, latency_ms=6.5)


def hybrid_run(runs: Path, name: str = "20261121-120000-autonad", *data: str) -> Path:
    trials = [(one, 3) for one in data or ("MT",)]
    return make_run(runs, name, trials, method="autonad", settings=Settings(space=SMALL))


def told(uri: str) -> list[tuple[Any, ...]]:
    """Return of every run what would be another if it were told twice."""
    return [(r.info.run_id, r.info.end_time, r.data.metrics, r.data.params, r.data.tags) for r in stored_runs(uri)]


def test_every_retraining_is_a_run_below_that_of_its_trial(runs: Path, tmp_path: Path) -> None:
    run = hybrid_run(runs)
    finish_hybrid_trial(run / "trials" / "MT-s3", [BEST, AGAIN, DRAWN])
    uri = embedded_uri(runs)
    catch_up(run, uri)
    trial = trial_run(uri, "MT-s3")
    finalists = finalist_runs(uri, trial)
    digest = BEST.architecture.digest()
    assert set(finalists) == {f"{digest[:8]}-s0", f"{digest[:8]}-s1", f"random-{DRAWN.architecture.digest()[:8]}-s0"}
    assert {r.info.status for r in finalists.values()} == {"FINISHED"}

    again = finalists[AGAIN.name].data
    assert again.tags["defectnas.finalist"] == AGAIN.name
    assert (again.tags["defectnas.run"], again.tags["defectnas.trial"]) == (run.name, "MT-s3")
    assert (again.tags["role"], again.tags["architecture_digest"]) == ("finalist", digest)
    assert again.tags["latency_on"] == AGAIN.latency_on
    own = {"data_set": "MT", "method": "autonad", "seed": "3", "retrain_seed": "1", "role": "finalist"}
    assert again.params == own
    for key, value in {
        "test/miou": 0.73,
        "test/mf1": 0.78,
        "test/iou": 0.63,
        "test/iou_image": 0.63,
        "nothing/iou_image": 0.1,
        "inherited/miou": 0.55,
        "inherited/mf1": 0.6,
        "validation/miou": 0.7,
        "cost/latency_ms": 8.0,
        "cost/parameters": 2_000_000,
        "cost/macs": 400_000_000,
        "cost/retrain_seconds": 12.5,
    }.items():
        assert again.metrics[key] == pytest.approx(value), key
    assert curve(uri, finalists[AGAIN.name], "retrain/loss") == [(1, 2.0), (2, 1.0)]
    assert curve(uri, finalists[AGAIN.name], "retrain/iou") == [(1, pytest.approx(0.35)), (2, pytest.approx(0.7))]
    drawing = "drawings/architecture.png"
    assert artifacts(uri, finalists[AGAIN.name]) == {
        "architecture.json", "metrics.json", drawing, "pictures/part_1.png"
    }  # fmt: skip
    assert artifact_text(uri, finalists[AGAIN.name], "architecture.json", tmp_path) == AGAIN.architecture.to_json()
    assert json.loads(artifact_text(uri, finalists[AGAIN.name], "metrics.json", tmp_path)) == AGAIN.metrics()
    with open(
        client_of(uri).download_artifacts(finalists[AGAIN.name].info.run_id, drawing, str(tmp_path)), "rb"
    ) as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"

    drawn = finalists[DRAWN.name].data
    assert (drawn.tags["role"], drawn.params["role"]) == ("random", "random")
    assert drawn.metrics["test/miou"] == pytest.approx(0.66)


def test_the_launch_and_the_trial_keep_their_runs_beside_those_of_the_finalists(runs: Path) -> None:
    run = hybrid_run(runs, "both", "MT", "KSDD")
    for name in ("MT-s3", "KSDD-s3"):
        finish_hybrid_trial(run / "trials" / name, [BEST])
    uri = embedded_uri(runs)
    catch_up(run, uri)
    for name in ("MT-s3", "KSDD-s3"):
        assert set(finalist_runs(uri, trial_run(uri, name))) == {BEST.name}
    # Another process finds the trials' runs again, and takes none of a finalist for one.
    (run / "tracking.json").unlink()
    before = told(uri)
    assert len(before) == 5
    assert catch_up(run, uri) == 0
    assert told(uri) == before
    launches = [r for r in stored_runs(uri) if "mlflow.parentRunId" not in r.data.tags]
    assert [r.data.tags["defectnas.trials"] for r in launches] == ["MT-s3 KSDD-s3"]


def test_finalists_are_told_while_the_trial_goes_on_and_each_once(runs: Path) -> None:
    run = hybrid_run(runs)
    folder = run / "trials" / "MT-s3"
    events = hybrid_events([BEST, DRAWN])
    finish_retraining(folder, BEST)
    append_ledger(folder, events[:2])
    uri = embedded_uri(runs)
    catch_up(run, uri)
    trial = trial_run(uri, "MT-s3")
    first = finalist_runs(uri, trial)
    assert (trial.info.status, set(first)) == ("KILLED", {BEST.name})

    finish_hybrid_trial(folder, [BEST, DRAWN])
    catch_up(run, uri)
    second = finalist_runs(uri, trial)
    assert set(second) == {BEST.name, DRAWN.name}
    assert second[BEST.name].info.run_id == first[BEST.name].info.run_id
    assert curve(uri, second[BEST.name], "test/miou") == [(0, 0.75)]
    assert trial_run(uri, "MT-s3").info.status == "FINISHED"


def test_one_that_was_told_by_half_is_completed_in_its_own_run(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = hybrid_run(runs)
    finish_hybrid_trial(run / "trials" / "MT-s3", [BEST])
    uri = embedded_uri(runs)

    def away(self: Any, run: str, path: Path, folder: str = "") -> None:
        raise StoreAwayError("the connection broke")

    with monkeypatch.context() as patch:
        patch.setattr(tracking.MlflowStore, "put_file", away)
        with pytest.raises(StoreAwayError):
            catch_up(run, uri)
    trial = trial_run(uri, "MT-s3")
    [half] = finalist_runs(uri, trial).values()
    assert (half.info.status, half.data.metrics["test/miou"]) == ("RUNNING", 0.75)
    assert artifacts(uri, half) == {"architecture.json"}

    catch_up(run, uri)
    [whole] = finalist_runs(uri, trial).values()
    assert (whole.info.run_id, whole.info.status) == (half.info.run_id, "FINISHED")
    assert {"metrics.json", "drawings/architecture.png", "pictures/part_1.png"} <= artifacts(uri, whole)
    assert curve(uri, whole, "test/miou") == [(0, 0.75)]
    assert curve(uri, whole, "retrain/loss") == [(1, 2.0), (2, 1.0)]


def test_a_retraining_without_result_is_not_told(runs: Path) -> None:
    run = hybrid_run(runs)
    folder = run / "trials" / "MT-s3"
    for one in (BEST, AGAIN):
        finish_retraining(folder, one)
    (folder / "finalists" / AGAIN.name / "metrics.json").unlink()
    append_ledger(folder, hybrid_events([BEST])[:2])
    uri = embedded_uri(runs)
    catch_up(run, uri)
    assert set(finalist_runs(uri, trial_run(uri, "MT-s3"))) == {BEST.name}


def test_at_its_end_a_trial_tells_those_whose_events_were_sent_before(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = hybrid_run(runs)
    folder = run / "trials" / "MT-s3"
    finish_retraining(folder, BEST)
    append_ledger(folder, hybrid_events([BEST])[:2])
    uri = embedded_uri(runs)
    with monkeypatch.context() as patch:
        # As a version did that knew no runs of finalists.
        patch.setattr(tracking_trial, "put_finalists", lambda *_: None)
        catch_up(run, uri)
    assert finalist_runs(uri, trial_run(uri, "MT-s3")) == {}
    finish_hybrid_trial(folder, [BEST])
    catch_up(run, uri)
    assert set(finalist_runs(uri, trial_run(uri, "MT-s3"))) == {BEST.name}


def test_more_epochs_than_a_store_takes_at_once(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = hybrid_run(runs)
    folder = run / "trials" / "MT-s3"
    finish_hybrid_trial(folder, [BEST])
    finish_retraining(folder, BEST, epochs=501)
    uri, log, sizes = embedded_uri(runs), tracking.MlflowStore.log, []

    def counted(self: Any, run: str, **values: Any) -> None:
        sizes.append(len(values.get("points", ())))
        log(self, run, **values)

    monkeypatch.setattr(tracking.MlflowStore, "log", counted)
    catch_up(run, uri)
    # Only a server refuses more than a thousand; a database would take them.
    assert 501 < sum(sizes)
    assert max(sizes) <= 1000
    [finalist] = finalist_runs(uri, trial_run(uri, "MT-s3")).values()
    assert [step for step, _ in curve(uri, finalist, "retrain/loss")] == list(range(1, 502))


def test_a_tracker_beside_the_trial_tells_them_too(runs: Path) -> None:
    run = hybrid_run(runs)
    with Tracker(run, embedded_uri(runs), every_s=0.05):
        finish_hybrid_trial(run / "trials" / "MT-s3", [BEST, DRAWN])
    trial = trial_run(embedded_uri(runs), "MT-s3")
    assert set(finalist_runs(embedded_uri(runs), trial)) == {BEST.name, DRAWN.name}
    assert trial.info.status == "FINISHED"


def test_the_tau_of_the_ranking_is_a_metric_of_the_trial(runs: Path) -> None:
    run = hybrid_run(runs)
    ranking = {"over": 2, "tau_validation": 1.0, "tau_test": None}
    finish_hybrid_trial(run / "trials" / "MT-s3", [BEST, DRAWN], ranking=ranking)
    uri = embedded_uri(runs)
    catch_up(run, uri)
    trial = trial_run(uri, "MT-s3")
    assert {k: v for k, v in trial.data.metrics.items() if k.startswith("ranking")} == {"ranking/tau_validation": 1.0}
    for finalist in finalist_runs(uri, trial).values():
        assert not any(key.startswith("ranking") for key in finalist.data.metrics)


def test_deviations_over_retrainings_are_told_beside_the_means() -> None:
    assert result_values({"miou": 0.5, "std": {"miou": 0.25}}) == {"test/miou": 0.5, "test/miou_std": 0.25}


def test_taus_are_told_where_there_are_any() -> None:
    found = result_values({"ranking": {"over": 4, "tau_validation": -0.5, "tau_test": 0.25}})
    assert found == {"ranking/tau_validation": -0.5, "ranking/tau_test": 0.25}
    assert result_values({"ranking": {"over": 1, "tau_validation": None, "tau_test": None}}) == {}


def test_a_trial_of_another_method_has_no_finalists(runs: Path) -> None:
    run = make_run(runs, trials=[("KSDD", 0)])
    finish_trial(run / "trials" / "KSDD-s0", make_events()[:1])
    uri = embedded_uri(runs)
    catch_up(run, uri)
    [parent], children = parents_and_children(uri)
    assert [r.info.run_name for r in children[parent.info.run_id]] == ["KSDD-s0"]
    assert not any(key.startswith("ranking") for key in trial_run(uri, "KSDD-s0").data.metrics)
