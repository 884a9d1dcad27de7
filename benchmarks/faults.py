"""Faults injected into whole searches, with real processes: how many are survived, what is lost, who wins.

    python -m benchmarks.faults [--kills 20] [--each 2] [--only KINDS] [--may-lack KINDS] [--seed 0] [--json FILE]

Every disturbed search replays the latencies of one that nothing disturbed, and must ask for the same candidates, give
them the same scores and come to the same winner. Where a kind makes that impossible, as a poisonous candidate does, the
table says so. A fault that came too late or met nobody at work is drawn again. Exit code 1: something was not survived,
lost or not the same, or a kind was not injected that `--may-lack` does not name.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.fault_kinds import (
    candidate_hangs,
    candidate_poisonous,
    checkpoint_damaged,
    evaluator_killed,
    finalist_poisonous,
    node_removed,
    rank_killed,
    retraining_hangs,
    store_full,
)
from benchmarks.fault_launches import (
    asdet_moved,
    disk_full,
    driver_killed,
    head_lost,
    second_driver,
    tracker_killed,
    trial_moved,
)
from benchmarks.fault_processes import Missed
from benchmarks.fault_trials import CannotInject, Ground, Verdict, prepare
from benchmarks.result import give

Inject = Callable[[Ground, str, random.Random], Verdict]

KINDS: dict[str, Inject] = {
    "driver killed": driver_killed,
    "evaluator killed": evaluator_killed,
    "DDP rank killed": rank_killed,
    "node removed in training": partial(node_removed, phase="training"),
    "node removed in latency": partial(node_removed, phase="latency"),
    "node removed in evolution": partial(node_removed, phase="evolution"),
    "node removed in retraining": partial(node_removed, phase="retraining"),
    "node of the trial removed": trial_moved,
    "node of NAS-ASDet removed": asdet_moved,
    "object store full": store_full,
    "checkpoint truncated": partial(checkpoint_damaged, how="truncated"),
    "checkpoint bit turned": partial(checkpoint_damaged, how="bit"),
    "disk full in training": partial(disk_full, event="epoch", count=2),
    "disk full in retraining": partial(disk_full, event="architecture", count=1),
    "tracking server killed": tracker_killed,
    "head lost": head_lost,
    "second driver": second_driver,
    "candidate hangs": candidate_hangs,
    "candidate poisonous": candidate_poisonous,
    "retraining hangs": retraining_hangs,
    "finalist poisonous": finalist_poisonous,
}
NOT_THE_SAME = {"candidate poisonous", "finalist poisonous"}
"""Kinds in which the search cannot be the undisturbed one: a candidate or finalist is missing from it."""

_DRAWS = 5


def inject(kind: str, ground: Ground, seed: int, times: int) -> dict[str, Any]:
    """Inject a kind of fault so many times; returns its row of the table."""
    row: dict[str, Any] = {"asked": times, "injected": 0, "survived": 0, "lost": 0, "same": 0, "redrawn": 0}
    row |= {"cannot": "", "how": {}, "errors": []}
    start, forms = time.perf_counter(), Counter[str]()
    for number in range(times):
        try:
            verdict = _one(kind, ground, f"{seed}/{kind}/{number}", row)
        except CannotInject as error:
            row["cannot"] = str(error)
            break
        except Missed as error:
            row["errors"].append(f"not injected in {_DRAWS} draws: {error}")
            continue
        except Exception as error:  # a fault that was not survived is a result, not the end of the benchmark
            row["injected"] += 1
            row["errors"].append(f"{type(error).__name__}: {error}"[:2000])
            continue
        row["injected"] += 1
        row["survived"] += verdict.survived
        row["lost"] += verdict.lost
        row["same"] += verdict.same
        forms[verdict.how] += 1
    return row | {"how": {how: n for how, n in forms.items() if how}, "seconds": time.perf_counter() - start}


def _one(kind: str, ground: Ground, key: str, row: dict[str, Any]) -> Verdict:
    for draw in range(_DRAWS):
        name = f"{kind}-{key.rpartition('/')[2]}-{draw}".replace(" ", "-")
        try:
            return KINDS[kind](ground, name, random.Random(f"{key}/{draw}"))
        except Missed as error:
            row["redrawn"] += 1
            print(f"{kind}: drawn again, {error}", file=sys.stderr, flush=True)
            if draw + 1 == _DRAWS:
                raise
    raise AssertionError("no draw")


def objections(rows: Mapping[str, Mapping[str, Any]], may_lack: Collection[str] = ()) -> list[str]:
    """Return what is wrong with a table of faults, a line each.

    Args:
        rows: by kind, as `inject` returns them.
        may_lack: kinds that this machine need not be able to inject.
    """
    wrong = []
    for kind, row in rows.items():
        injected = row["injected"]
        if row["cannot"]:
            if kind not in may_lack:
                wrong.append(f"{kind}: cannot be injected here ({row['cannot']}); --may-lack {kind!r} allows that")
        elif injected < row["asked"]:
            wrong.append(f"{kind}: injected {injected} times, not {row['asked']}")
        if row["survived"] < injected:
            wrong.append(f"{kind}: survived {row['survived']} of {injected}")
        if row["lost"]:
            wrong.append(f"{kind}: {row['lost']} evaluations lost")
        if row["same"] < injected and kind not in NOT_THE_SAME:
            wrong.append(f"{kind}: the same search {row['same']} times of {injected}")
    return wrong


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the rows as a table in Markdown."""
    names = "fault | injected | survived | evaluations lost | same search and winner | drawn again | s"
    lines = [f"| {names} |", "|---|--:|--:|--:|--:|--:|--:|"]
    for kind, row in rows.items():
        forms = ", ".join(f"{n} {how}" for how, n in row["how"].items())
        same = "cannot be" if kind in NOT_THE_SAME else row["same"]
        cells = [f"{kind} ({forms})" if forms else kind, row["injected"], row["survived"], row["lost"], same]
        if row["cannot"]:
            cells[0] = f"{cells[0]}: cannot be injected here, {row['cannot']}"
        lines.append("| " + " | ".join(map(str, [*cells, row["redrawn"], round(row["seconds"])])) + " |")
    return "\n".join(lines)


def _kinds(parser: argparse.ArgumentParser, option: str, text: str) -> list[str]:
    chosen = text.split(",") if text else []
    if unknown := set(chosen) - set(KINDS):
        parser.error(f"{option}: no kind {', '.join(sorted(unknown))}")
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="times that the driver is killed, default 20")
    parser.add_argument("--each", type=int, default=2, help="times that each other fault is injected, default 2")
    parser.add_argument("--only", default="", help=f"kinds, of: {', '.join(KINDS)}")
    parser.add_argument("--may-lack", default="", help="kinds that this machine need not be able to inject")
    parser.add_argument("--seed", type=int, default=0, help="of the moments, default 0")
    parser.add_argument("--json", type=Path, help="also write the JSON here")
    arguments = parser.parse_args()
    chosen = _kinds(parser, "--only", arguments.only) or list(KINDS)
    may_lack = _kinds(parser, "--may-lack", arguments.may_lack)
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        ground = prepare(Path(scratch))
        for kind in chosen:
            times = arguments.kills if kind == "driver killed" else arguments.each
            row = rows[kind] = inject(kind, ground, arguments.seed, times)
            print(f"{kind}: {row}", file=sys.stderr, flush=True)
    wrong = objections(rows, may_lack)
    print(table(rows), *wrong, sep="\n", file=sys.stderr)
    give({"kinds": rows, "objections": wrong}, arguments.json)
    sys.stdout.flush()
    # At once: after several clusters in one process, Ray has been seen to crash while the interpreter ends.
    os._exit(bool(wrong))


if __name__ == "__main__":
    main()
