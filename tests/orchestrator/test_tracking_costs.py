"""What a trial of AutoNAD tells the store of its costs and its latency table; the driver has no GPU, workers have."""

from pathlib import Path
from typing import Any

import pytest
from mlflow_stores import FIRST_OPENED, artifact_text, curve, trial_run
from synthetic_ledgers import (
    SMALL,
    Retraining,
    append_ledger,
    finish_hybrid_trial,
    hybrid_events,
    make_run,
    subnet,
    write_ledger,
)

from orchestrator.tracking import catch_up, embedded_uri
from orchestrator.tracking_costs import cost_values, hybrid_cost_values
from search.settings import Settings

BEST = Retraining(subnet(1), 0.75)
STARTED = {"event": "started", "phase": "supernet", "device": "cpu", "threads": 3, "workers": 1}


def epoch(step: int, **more: Any) -> dict[str, Any]:
    known = {"event": "epoch", "phase": "supernet", "epoch": step, "epochs": 2, "step": step, "steps": 2}
    return {**known, "loss": 1.0, "iou": None, "seconds": 10.0, "lr": 1e-3, "workers": 4, "device": "cuda", **more}


def latency(device: str, **more: Any) -> dict[str, Any]:
    conditions = {"device": device, "device_name": "a device", "threads": 3, "shape": [3, 32, 32]}
    measured = {"records": 8, "mean_ms": 5.0, "residual_ms": 0.25, "seconds": 2.0}
    return {"event": "latency", "phase": "evolve", "conditions": conditions, **measured, **more}


def generation(number: int, **more: Any) -> dict[str, Any]:
    scores = {"best": 50.0, "mean": 40.0, "miou": 0.55, "hypervolume": 0.5, "candidates": 8, "scored": 8}
    spent = {"measure_seconds": 1.0, "score_seconds": 6.0, "device_seconds": {"cuda": 6.0}, "measured_on": "cpu"}
    known = {"event": "generation", "phase": "evolve", "strategy": "evolution", "generation": number}
    return {**known, "generations": 2, **scores, **spent, "seconds": 4.0, **more}


def chosen(tau: float | None, strategy: str = "evolution") -> dict[str, Any]:
    return {"event": "chosen", "phase": "evolve", "strategy": strategy, "table_tau": tau, "table_tau_over": 24}


def finalist(seconds: float, device: str | None = "cuda") -> dict[str, Any]:
    return {"event": "finalist", "phase": "retrain", "done": 1, "retrain_seconds": seconds, "device": device}


def numbered(*events: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"n": n, "time": 1_700_000_000.5 + n, **event} for n, event in enumerate(events)]


def test_the_devices_are_those_of_the_workers() -> None:
    events = [STARTED, epoch(1), epoch(2, workers=2), latency("cpu"), generation(1), generation(2), finalist(20.0)]
    assert hybrid_cost_values(events) == {
        "cost/supernet_seconds": 20.0,
        "cost/supernet_gpu_seconds": 4 * 10.0 + 2 * 10.0,
        "cost/latency_seconds": 2.0,
        "cost/latency_cpu_seconds": 3 * 2.0,
        "cost/evolve_seconds": 8.0,
        "cost/evolve_gpu_seconds": 12.0,
        "cost/evolve_cpu_seconds": 3 * 2.0,
        "cost/search_seconds": 30.0,
        "cost/search_gpu_seconds": 72.0,
        "cost/search_cpu_seconds": 12.0,
        "cost/retrain_seconds": 20.0,
        "cost/retrain_gpu_seconds": 20.0,
    }


def test_what_does_not_say_its_device_counts_as_wall_time_alone() -> None:
    old = generation(1)
    del old["device_seconds"], old["measured_on"]
    found = hybrid_cost_values([STARTED, epoch(1, device=None), old, finalist(5.0, None)])
    assert {key for key in found if "pu_" in key} == set()
    assert (found["cost/search_seconds"], found["cost/retrain_seconds"]) == (14.0, 5.0)


def test_a_group_of_gpus_holds_one_each_and_a_cpu_every_thread() -> None:
    started = {"device": "cuda:1", "threads": 8, "workers": 2}
    assert cost_values([3.0], {"test": None}, started) == {
        "cost/search_stage_1_seconds": 3.0,
        "cost/search_stage_1_gpu_seconds": 6.0,
    }
    assert cost_values([], {"retrain": 3.0}, {**started, "device": "cpu"})["cost/retrain_cpu_seconds"] == 48.0


@pytest.mark.filterwarnings(FIRST_OPENED)
def test_processor_seconds_and_probes_reach_the_store(runs: Path) -> None:
    run = make_run(runs, trials=[("MT", 3)], method="autonad", settings=Settings(space=SMALL))
    folder, uri = run / "trials" / "MT-s3", embedded_uri(runs)
    probes = [{"miou": 0.25, "mf1": 0.5}, {"miou": 0.5, "mf1": 0.75}, {"miou": 0.375, "mf1": 0.625}]
    append_ledger(folder, numbered(STARTED, epoch(1, probes=probes), latency("cuda"), generation(1)))
    catch_up(run, uri)
    stopped = trial_run(uri, "MT-s3")
    assert stopped.info.status == "KILLED"
    assert stopped.data.metrics["cost/search_gpu_seconds"] == pytest.approx(40.0 + 2.0 + 6.0)

    finish_hybrid_trial(folder, [BEST])
    rest = [event for event in hybrid_events([BEST]) if event["event"] == "finished"]
    write_ledger(folder, numbered(STARTED, epoch(1), latency("cuda"), generation(1), generation(2), *rest))
    catch_up(run, uri)
    done = trial_run(uri, "MT-s3")
    for name, miou in (("smallest", 0.25), ("largest", 0.5), ("random 1", 0.375)):
        assert curve(uri, done, f"supernet/probe/{name}/miou") == [(1, miou)]
        assert curve(uri, done, f"supernet/probe/{name}/mf1") == [(1, miou + 0.25)]
    assert curve(uri, done, "evolve/evolution/gpu_seconds") == [(1, 6.0), (2, 6.0)]
    assert curve(uri, done, "evolve/evolution/cpu_seconds") == [(1, 3.0), (2, 3.0)]
    assert curve(uri, done, "evolve/evolution/measure_seconds") == [(1, 1.0), (2, 1.0)]
    assert done.data.metrics["cost/search_gpu_seconds"] == pytest.approx(54.0)
    # Whole phases as metrics.json has them, which no CPU of the driver was held for.
    assert done.data.metrics["cost/search_seconds"] == pytest.approx(30.0)


@pytest.mark.filterwarnings(FIRST_OPENED)
def test_how_well_the_latency_table_predicts_reaches_the_store(runs: Path, tmp_path: Path) -> None:
    run = make_run(runs, trials=[("MT", 3), ("SD", 3)], method="autonad", settings=Settings(space=SMALL))
    folder, uri = run / "trials" / "MT-s3", embedded_uri(runs)
    left_out = {"event": "quarantined", "digest": "ab" * 32, "number": 1, "error": "no"}
    rest = [event for event in hybrid_events([BEST]) if event["event"] == "finished"]
    finish_hybrid_trial(folder, [BEST])
    write_ledger(folder, numbered(STARTED, latency("cuda"), left_out, chosen(0.75), chosen(None, "random"), *rest))
    (folder / "prior.json").write_text('{"blocks": []}')
    append_ledger(run / "trials" / "SD-s3", numbered(STARTED, latency("cpu", residual_ms=None), left_out, chosen(None)))
    catch_up(run, uri)
    done, other = trial_run(uri, "MT-s3"), trial_run(uri, "SD-s3")
    found = {key: value for key, value in done.data.metrics.items() if key.startswith("latency/")}
    assert found == {
        "latency/records": 8,
        "latency/mean_ms": 5.0,
        "latency/residual_ms": 0.25,
        "latency/table_tau": 0.75,
        "latency/table_tau_over": 24,
    }
    assert artifact_text(uri, done, "prior.json", tmp_path) == '{"blocks": []}'
    assert (done.data.tags["latency.device"], done.data.tags["latency.shape"]) == ("cuda", "3, 32, 32")
    assert {key for key in other.data.metrics if key.startswith("latency/")} == {"latency/records", "latency/mean_ms"}
    # A candidate that was left out is not the architecture that was found.
    assert "architecture_digest" not in other.data.tags
