"""What `defectnas cluster check` found, as tables for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from orchestrator.cluster_verdicts import Check, count

_STYLES = {"pass": "green", "warning": "yellow", "failure": "bold red"}


def report_tables(nodes: Sequence[Mapping[str, Any]], checks: Sequence[Check]) -> Group:
    """Return the tables of nodes and of checks, and a last line that counts them."""
    shown = [nodes_table(nodes)] if nodes else []
    return Group(*shown, checks_table(checks), _summary(checks))


def nodes_table(nodes: Sequence[Mapping[str, Any]]) -> Table:
    """Return a row per node, as `cluster_check.Report` holds them."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("node", no_wrap=True)
    table.add_column("CPUs", justify="right")
    table.add_column("GPUs", overflow="fold")
    table.add_column("memory", justify="right", no_wrap=True)
    table.add_column("labels and resources", overflow="fold")
    for node in nodes:
        tags = [f"{key}={value}" for key, value in node["labels"].items()]
        tags += [f"{name} {amount:g}" for name, amount in node["resources"].items()]
        table.add_row(
            Text(node["name"], style="" if node["answers"] else "red"),
            str(node["cpus"]),
            Text(_gpus(node)),
            f"{node['memory_gib']:,.1f} GiB",
            Text("\n".join(tags)),
        )
    return table


def checks_table(checks: Sequence[Check]) -> Table:
    """Return a row per check; what to do stands below what was found."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("check", no_wrap=True)
    table.add_column("result", no_wrap=True)
    table.add_column("found", overflow="fold", ratio=1)
    for check in checks:
        found = Text("\n".join(check.found.split("; ")))
        if check.advice:
            found.append(f"\n→ {check.advice}", style="italic")
        table.add_row(check.name, Text(check.state, style=_STYLES[check.state]), found)
    return table


def _gpus(node: Mapping[str, Any]) -> str:
    names = node["gpu_names"]
    kinds = "\n".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    if len(names) == node["gpus"]:
        return kinds or "0"
    # Ray was told another number than the driver knows.
    return "\n".join(filter(None, [f"{node['gpus']} given out", kinds]))


def _summary(checks: Sequence[Check]) -> Text:
    by_state = {state: sum(check.state == state for check in checks) for state in _STYLES}
    failed, warned = by_state["failure"], by_state["warning"]
    if failed:
        more = f", {count(warned, 'warning')}" if warned else ""
        return Text(f"{failed} of {count(len(checks), 'check')} failed{more}", style=_STYLES["failure"])
    if warned:
        return Text(f"nothing failed, {count(warned, 'warning')}", style=_STYLES["warning"])
    return Text(f"all {len(checks)} checks passed", style=_STYLES["pass"])
