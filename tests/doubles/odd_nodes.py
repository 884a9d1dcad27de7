"""What a node with a certain label says where something is wrong with it, and a check of such nodes."""

import json
import sys
import time
from pathlib import Path

from clusters import check
from orchestrator.cluster_check import Question, Report, Work, check_cluster


def is_odd() -> bool:
    import ray

    return ray.get_runtime_context().get_node_labels().get("defectnas/device") == "jetson"


def describe():
    told = check.describe()
    return {**told, "torch": "1.0.0", "code": "0" * 12} if is_odd() else told


def own_folder(folder):
    """Stands for a node that does not mount the shared file system: the same path is another folder there."""
    return f"{folder}-of-its-own" if is_odd() else folder


def write(folder, name, size):
    Path(own_folder(folder)).mkdir(exist_ok=True)
    return check.write_probe(own_folder(folder), name, size)


def read(folder, names, wait_s):
    return check.read_probes(own_folder(folder), names, 0.5)


def clock():
    return time.time() + (90 if is_odd() else 0)


def receive(wrapped):
    seconds, total = check.receive(wrapped)
    return seconds, total + is_odd()


def all_reduce(*arguments):
    raise ConnectionError("no way through")


def probe(gpu):
    values = {"on": "cpu", "device": "board", "threads": 1, "cpus": 4, "median_ms": 2.0, "iqr_ms": 0.1, "programs": 0}
    return {**values, "load": 3.0 if is_odd() else 0.0}


def hang(*arguments):
    if is_odd():
        time.sleep(10_000)
    return check.write_probe(*arguments)


WRONG = Work(
    describe=describe, write=write, read=read, clock=clock, receive=receive, all_reduce=all_reduce, probe=probe
)
HANGING = Work(write=hang, all_reduce=all_reduce, probe=probe)

if __name__ == "__main__":
    address, runs, label = sys.argv[1:]
    for work, timeout_s in ((WRONG, 60.0), (HANGING, 5.0)):
        report = Report(address)
        check_cluster(Question(address, runs, None, label, 4, timeout_s, work), report)
        print(json.dumps(report.to_dict()), flush=True)
