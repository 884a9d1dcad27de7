"""One profile, many manifests: no setting is without effect, a change reaches all, and nothing breaks out."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from cluster_profiles import CLOUDS, JOB, RENDERED, changed, documents, manifests, profile, values_of
from hypothesis import given, settings
from hypothesis import strategies as st

from clusters.command import make_job
from clusters.profile import Profile
from clusters.render import FILE_NAMES, render, steps
from clusters.yaml_text import to_yaml
from orchestrator.files import parse_yaml
from orchestrator.profiles import profile_of
from orchestrator.schema import InvalidSettingsError, describe

ROOT = Path(__file__).resolve().parents[2]


OTHER = {
    "name": "elsewhere",
    "image.name": "registry.example.com/other:9",
    "image.bin": "/other/bin",
    "image.base": "docker.io/library/python:3.11-bookworm",
    "image.uv": "ghcr.io/astral-sh/uv:0.8",
    "image.pull": "Always",
    "ray.dashboard": "cluster",
    "storage.mount": "/other",
    "storage.runs": "other",
    "storage.nfs": "10.9.9.9:/other",
    "storage.size_gib": 0,
    "scaling.autoscale": False,
    "security.token": False,
    "security.token_file": "~/other",
    "security.read_only_root": False,
    "security.network_policy": False,
    "onprem.head": "10.0.0.99",
    "onprem.ssh_key": "~/.ssh/other",
    "workers.preemptible": True,
    "workers.hosts": ["10.0.0.98", "10.0.0.97"],
    "workers.max": 3,
    "kuberay.shared_memory_gib": 6,
    "workers.min": 2,
    "secrets.variable": "OTHER",
    "secrets.file": "/other/file",
}
# Used on the way (`search --cluster`, `cluster submit`), or checked against this program.
NOT_RENDERED = {"kind", "address", "jobs", "ray.version", "ray.python"}


def other(setting):
    """Return a value that a setting does not have in the examples."""
    key = ".".join(setting.key).replace("[]", "")
    if key in OTHER:
        return OTHER[key]
    if isinstance(setting.default, bool):
        return not setting.default
    if setting.allowed.startswith("a table"):
        return {"other": "x"} if "text" in setting.allowed else {"other": 7}
    return 77 if setting.allowed.startswith("a whole number") else "other-1"


def everything(values):
    """Return all that becomes of a profile, or None where its values are refused."""
    try:
        whole = profile_of(values)
    except InvalidSettingsError:
        return None
    return render(whole, JOB), steps(whole, JOB, ROOT)


def test_no_setting_is_without_effect():
    examples = {kind: values_of(kind) for kind in RENDERED}
    before = {kind: everything(values) for kind, values in examples.items()}
    dead = []
    for setting in describe(Profile):
        key = ".".join(setting.key).replace("[]", "")
        value = 9000 if key.endswith("port") else other(setting)
        after = (everything(changed(values, key, value)) or before[kind] for kind, values in examples.items())
        if key not in NOT_RENDERED and all(one == another for one, another in zip(after, before.values(), strict=True)):
            dead.append(key)
    assert dead == []


PORTS = st.integers(1024, 65535)
LABELS = st.from_regex(r"[a-z][a-z0-9]{0,9}/[a-z]{1,9}", fullmatch=True)
PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="\x7f"), max_size=12)


@settings(deadline=None, max_examples=25)
@given(PORTS, PORTS, LABELS, PRINTABLE, st.integers(1, 64), st.sampled_from(["/data", "/mnt/x", "/a-b/c_d"]))
def test_a_change_of_the_profile_reaches_every_manifest(port, dashboard, label, value, cpus, mount):
    if port == dashboard or "://" in value:
        return
    changes = {
        "ray__port": port,
        "ray__dashboard_port": dashboard,
        "workers__labels": {label: "other"},
        "workers__cpus": cpus,
        "environment": {"OTHER": value},
        "storage__mount": mount,
    }
    (job,) = documents(manifests("kuberay", **changes)["rayjob.yaml"])
    cluster = job["spec"]["rayClusterSpec"]
    (group, *_), head = cluster["workerGroupSpecs"], cluster["headGroupSpec"]
    (container,) = group["template"]["spec"]["containers"]
    assert head["rayStartParams"]["port"] == str(port)
    assert head["rayStartParams"]["dashboard-port"] == str(dashboard)
    assert group["labels"] == {label: "other"}
    assert container["resources"]["limits"]["cpu"] == str(cpus)
    assert {"name": "OTHER", "value": value} in container["env"]
    assert {"name": "shared", "mountPath": mount} in container["volumeMounts"]
    assert f"--runs {mount}/runs" in job["spec"]["entrypoint"]

    script = manifests("slurm", **changes)["job.sh"]
    assert f"--labels={label}=other" in script
    assert f"--num-cpus={cpus}" in script
    assert f"--runs {mount}/runs" in script
    for kind in CLOUDS:
        whole = profile(kind, **changes)
        (config,) = documents(render(whole, JOB)["cluster.yaml"])
        text = json.dumps(config)
        assert f"--port={port} " in text
        assert f"$RAY_HEAD_IP:{port}" in text
        assert f"--dashboard-port={dashboard}" in text
        assert f"http://127.0.0.1:{dashboard}" in str(steps(whole, JOB, ROOT)[-1])
        assert mount in text
        assert label in text
    # By line feeds alone, as the shell does: `splitlines` also breaks at U+0085, which a value may hold.
    exported = [line for line in script.split("\n") if line.startswith("export OTHER=")]
    seen = subprocess.run(["bash", "-c", f'{exported[0]}; printf %s "$OTHER"'], capture_output=True, check=True)
    assert seen.stdout.decode() == value


HOSTILE = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20), max_size=3)


@settings(deadline=None, max_examples=25)
@given(HOSTILE)
def test_a_command_stays_inside_of_its_place_in_every_manifest(words):
    plain = {kind: render(profile(kind), make_job(["search"], "night")) for kind in RENDERED}
    for kind in RENDERED:
        files = render(profile(kind), make_job(["search", *words], "night"))
        for name, text in files.items():
            before, after = plain[kind][name].splitlines(), text.splitlines()
            assert len(before) == len(after)
            assert sum(a != b for a, b in zip(before, after, strict=True)) <= 1


@given(st.lists(st.one_of(st.text(max_size=12), st.sampled_from(
    ["off", "no", "y", "1e3", "1_000", "0x1f", "1:30", "~", "null", ".inf", "2001-01-01", "-", "? x", "# x", "!!str"]
))))  # fmt: skip
def test_texts_of_yaml_stay_texts_for_every_reader(texts):
    written = to_yaml([{"texts": texts}], "heading")
    assert yaml.safe_load(written) == {"texts": texts}
    assert parse_yaml(written, "test") == {"texts": texts}


def test_only_known_files_are_written_and_none_is_called_by_the_user():
    for kind in RENDERED:
        whole = profile(kind)
        assert set(render(whole, JOB)) <= set(FILE_NAMES)
    with pytest.raises(ValueError, match="nothing stands there without a command"):
        render(profile("slurm"), None)
