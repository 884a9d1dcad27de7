"""Profiles as they are read from TOML: the examples, what is refused, and how it is said."""

import dataclasses
import json
import re

import pytest
from cluster_profiles import KINDS, changed, profile, values_of
from hypothesis import given
from hypothesis import strategies as st

from clusters.profile import Profile
from orchestrator.profiles import EXAMPLES, ProfileError, profile_of, read_profile, resolve_address
from orchestrator.schema import InvalidSettingsError, dotted_keys, rebuild, validate


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_of_every_kind_can_be_used(kind):
    read = read_profile(EXAMPLES / f"{kind}.toml")
    assert read.kind == kind
    assert re.fullmatch(r"2\.60\.\d+", read.ray.version)


@pytest.mark.parametrize("kind", KINDS)
def test_a_profile_survives_the_way_through_plain_values(kind):
    read = profile(kind)
    plain = json.loads(json.dumps(dataclasses.asdict(read)))
    assert rebuild(Profile, validate(Profile, plain)) == read


def test_a_profile_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        profile("slurm").name = "other"


def problems(kind, /, **changes):
    with pytest.raises(InvalidSettingsError) as refusal:
        profile(kind, **changes)
    return str(refusal.value)


BAD = [
    ("slurm", {"nmae": "x"}, "nmae: no such setting; did you mean name?"),
    ("slurm", {"workers__cpu": 4}, "workers.0.cpu: no such setting; did you mean workers.0.cpus?"),
    ("slurm", {"claim": "x"}, "claim: no such setting here; did you mean storage.claim?"),
    ("slurm", {"kind": "lsf"}, "kind: 'lsf' is not allowed; allowed: one of address, kuberay, slurm, aws, gcp, onprem"),
    ("slurm", {"name": "Has Spaces"}, "name: 'Has Spaces' is not allowed"),
    ("slurm", {"name": "../up"}, "name: '../up' is not allowed"),
    ("slurm", {"workers__cpus": "4"}, "workers.0.cpus: '4' is not allowed; allowed: a whole number, at least 1"),
    ("slurm", {"workers__cpus": 0}, "workers.0.cpus: 0 is not allowed"),
    ("slurm", {"workers__min": 9}, "workers.0.min: 9 is more than max (4)"),
    ("slurm", {"workers__min": 0}, "a Slurm job has at least one node"),
    ("slurm", {"workers": []}, "workers: no group of nodes"),
    ("slurm", {"image__name": "a/b:1"}, "image: both are given"),
    ("slurm", {"image": {}}, "image: missing; needed is either name (a container) or bin"),
    ("slurm", {"aws": {"region": "x"}}, "aws: belongs to kind aws, and this is kind slurm"),
    ("slurm", {"slurm__partition": "gpu\n#SBATCH --uid=0"}, "slurm.partition: has a line break"),
    ("slurm", {"slurm__partition": "gpu --uid=0"}, "slurm.partition: 'gpu --uid=0' is not allowed"),
    ("slurm", {"storage__claim": "x"}, "storage.claim: not for kind slurm"),
    ("slurm", {"secrets": [{"variable": "A", "secret": "s", "key": "k"}]}, "needed for kind slurm: file"),
    ("kuberay", {"image": {}}, "image.name: missing; kind kuberay needs it"),
    ("kuberay", {"storage": {}}, "storage.claim: missing"),
    ("kuberay", {"image__bin": "/x/bin"}, "image.bin: kind kuberay runs the program in a container"),
    ("kuberay", {"storage__runs": "../other"}, "storage.runs: '../other' leads out of its folder"),
    ("kuberay", {"storage__runs": "a/../../b"}, "leads out of its folder"),
    ("kuberay", {"storage__runs": "/etc"}, "storage.runs: '/etc' is not allowed"),
    ("kuberay", {"storage__mount": "/shared/../etc"}, "leads out of its folder"),
    ("kuberay", {"storage__mount": "shared"}, "storage.mount: 'shared' is not allowed; allowed: an absolute folder"),
    ("kuberay", {"storage__mount": "/tmp"}, "storage.mount: /tmp is used by the nodes themselves"),
    ("kuberay", {"storage__nfs": "h:/e"}, "storage.nfs: not for kind kuberay"),
    ("kuberay", {"kuberay__shared_memory_gib": 16}, "shared_memory_gib: counts as memory"),
    ("kuberay", {"workers__name": "board"}, "workers.1.name: 'board' is taken"),
    ("kuberay", {"workers__name": "head"}, "workers.0.name: 'head' is taken"),
    ("kuberay", {"workers__min": 0}, "workers: min is 0 in every group"),
    ("kuberay", {"workers__labels": {"ray.io/market-type": "x"}}, "is Ray's own"),
    ("kuberay", {"workers__labels": {"a b": "x"}}, "'a b' = 'x' is no label"),
    ("kuberay", {"workers__resources": {"GPU": 9}}, "'GPU' is no custom resource"),
    ("kuberay", {"workers__resources": {"slot": 0}}, "slot = 0; needed is at least 1"),
    ("kuberay", {"environment": {"AWS_SECRET_ACCESS_KEY": "abc"}}, "looks like a secret, and a profile holds none"),
    ("kuberay", {"environment": {"URL": "https://me:pw@host/"}}, "environment.URL: holds a password"),
    ("kuberay", {"environment": {"A B": "x"}}, "no name of an environment variable"),
    ("kuberay", {"environment": {"X": "a\nb"}}, "environment.X: has a line break"),
    ("kuberay", {"environment": {"MLFLOW_TRACKING_URI": 5}}, "environment: {'MLFLOW_TRACKING_URI': 5} is not allowed"),
    ("kuberay", {"environment": {"P": "1"}, "secrets": [{"variable": "P", "secret": "s", "key": "k"}]}, "given twice"),
    ("kuberay", {"secrets__file": "/x"}, "needed for kind kuberay: secret and key"),
    ("kuberay", {"security__user": 0}, "security.user: 0 is not allowed"),
    ("kuberay", {"ray__version": "2.40.0"}, "ray.version: 2.40.0 is not that of this program"),
    ("kuberay", {"ray__python": "3.9"}, "ray.python: 3.9 is not that of this program"),
    ("kuberay", {"ray__port": 80}, "ray.port: 80 is not allowed"),
    ("kuberay", {"ray__dashboard_port": 6379}, "6379 is ray.port as well"),
    ("aws", {"aws__security_group": ""}, "aws.security_group: missing; kind aws needs it"),
    ("aws", {"storage": {}}, "machines of a cloud share no folder by themselves"),
    ("aws", {"workers__machine": ""}, "workers.0.machine: missing"),
    ("gcp", {"workers__gpu_type": ""}, "workers.0.gpu_type: missing"),
    ("onprem", {"onprem__head": "10.0.0.11"}, "workers.0.hosts.0: 10.0.0.11 is given twice"),
    ("onprem", {"onprem__head": "head.lan; reboot"}, "onprem.head: 'head.lan; reboot' is not allowed"),
    ("onprem", {"workers__max": 3}, "workers.0.hosts: 2 for a max of 3"),
    ("address", {"address": ""}, "address: missing; kind address needs it"),
    ("address", {"address": "ray://h:10001"}, "address: 'ray://h:10001' is not allowed"),
    ("address", {"jobs": "http://me:pw@h:8265"}, "jobs: 'http://me:pw@h:8265' is not allowed"),
]


@pytest.mark.parametrize(("kind", "changes", "said"), BAD, ids=[said[:40] for *_, said in BAD])
def test_what_cannot_be_used_is_named_with_what_is_allowed(kind, changes, said):
    assert said in problems(kind, **changes)


def test_two_slurm_groups_are_refused():
    group = values_of("slurm")["workers"][0]
    assert "nodes of one kind" in problems("slurm", workers=[group, {**group, "name": "other"}])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind = ", "not valid TOML"),
        ("name = 'x'", "kind: missing; needed is one of address"),
        ("kind = 'slurm'\nname = 1979-05-27", "holds a date"),
        ("kind = 'slurm'\nlimits = 3", "limits: 3 is not allowed; allowed: a section with minutes, retries"),
    ],
)
def test_a_file_that_is_no_profile_is_named(tmp_path, text, said):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ProfileError) as refusal:
        read_profile(path)
    assert all(line.startswith(f"{path}: ") for line in str(refusal.value).splitlines())
    assert said in str(refusal.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ProfileError, match=r"none\.toml: cannot be read as a cluster profile \(No such file"):
        read_profile(tmp_path / "none.toml")


def test_the_address_of_a_profile_is_found(tmp_path):
    assert resolve_address("auto") == "auto"
    assert resolve_address("10.0.0.1:6379") == "10.0.0.1:6379"
    assert resolve_address("address.toml", EXAMPLES) == "10.0.0.10:6379"
    assert resolve_address("onprem.toml", EXAMPLES) == "10.0.0.10:6379"
    with pytest.raises(ProfileError, match=r"address: missing; .* submit instead"):
        resolve_address("kuberay.toml", EXAMPLES)


TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
TEXT_KEYS = ["name", "image.name", "storage.mount", "storage.runs", "kuberay.namespace", "workers.name", "ray.version"]


@given(st.sampled_from(TEXT_KEYS), TEXTS)
def test_whatever_text_is_given_it_is_refused_or_cannot_leave_its_line(key, text):
    try:
        profile_of(changed(values_of("kuberay"), key, text))
    except InvalidSettingsError:
        return
    assert not re.search(r"[\s'\"`$;\\]", text)
    assert ".." not in text.split("/")


def test_all_settings_are_explained():
    assert all(key for key in dotted_keys(Profile))
