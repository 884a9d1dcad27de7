"""What is rendered: valid by the tools' own schemas, least privilege, and the same profile everywhere."""

import gzip
import json
import re
import subprocess
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from cluster_profiles import JOB, RENDERED, changed, manifests, profile, values_of
from hypothesis import given, settings
from hypothesis import strategies as st

from clusters.command import make_job
from clusters.profile import Profile
from clusters.render import FILE_NAMES, render, steps
from clusters.yaml_text import to_yaml
from orchestrator.files import parse_yaml
from orchestrator.profiles import profile_of
from orchestrator.schema import InvalidSettingsError, describe

SCHEMAS = Path(__file__).resolve().parents[3] / "shared" / "schemas"
ROOT = Path(__file__).resolve().parents[2]
CLOUDS = ("aws", "gcp", "onprem")
# Everything a KubeRay profile can make: both kinds of cluster, with and without what may be left out.
KUBERAY_CHANGES = [
    {},
    {"scaling__autoscale": False, "security__token": False, "security__network_policy": False},
    {"head__resources": {"nas_head": 1}, "head__labels": {"defectnas/role": "head"}, "ray__dashboard": "cluster"},
    {"image__pull_secret": "login", "storage__size_gib": 0, "limits__minutes": 0, "ray__port": 7000},
]


def documents(text):
    return list(yaml.safe_load_all(text))


def kuberay_documents(**changes):
    whole = profile("kuberay", **changes)
    texts = {**render(whole, JOB), **render(whole, None)}
    return [document for name, text in texts.items() if name.endswith(".yaml") for document in documents(text)]


def pod_templates(value):
    """Yield every pod template inside of a manifest."""
    if isinstance(value, dict):
        for name, inside in value.items():
            if name in ("template", "submitterPodTemplate"):
                yield inside
            yield from pod_templates(inside)
    elif isinstance(value, list):
        for inside in value:
            yield from pod_templates(inside)


def strict(schema):
    """Return a schema that refuses keys that it does not list, and takes numbers for what is both."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: strict(part) for name, part in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        return {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    if "properties" in schema and "additionalProperties" not in schema:
        schema["additionalProperties"] = False
    return schema


@pytest.fixture(scope="module")
def validators():
    found = {}
    for kind in ("RayJob", "RayCluster"):
        path = SCHEMAS / f"{kind.lower()}-v1.schema.json.gz"
        if not path.is_file():
            pytest.skip(f"{path} is not there: KubeRay's schemas are not part of the project")
        schema = json.loads(gzip.decompress(path.read_bytes()))
        # What every object of Kubernetes has is described elsewhere.
        schema["properties"]["metadata"] = {"type": "object"}
        found[kind] = jsonschema.Draft202012Validator(
            {**strict({"properties": schema["properties"], "type": "object"}), "additionalProperties": False}
        )
    return found


@pytest.mark.parametrize("changes", KUBERAY_CHANGES)
def test_what_kuberay_reads_follows_its_own_schema(validators, changes):
    made = [document for document in kuberay_documents(**changes) if document["apiVersion"] == "ray.io/v1"]
    assert sorted(document["kind"] for document in made) == ["RayCluster", "RayJob"]
    for document in made:
        assert [error.message for error in validators[document["kind"]].iter_errors(document)] == []


def test_the_schema_would_find_a_misspelt_key(validators):
    document = next(document for document in kuberay_documents() if document["kind"] == "RayJob")
    document["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["minReplica"] = 1
    assert "minReplica" in str([error.message for error in validators["RayJob"].iter_errors(document)])


@pytest.mark.parametrize("changes", KUBERAY_CHANGES)
def test_what_kubernetes_reads_follows_its_own_schema(changes):
    version = kubernetes_validate.latest_version()
    for document in kuberay_documents(**changes):
        if document["apiVersion"] != "ray.io/v1":
            kubernetes_validate.validate(document, version, strict=True)
        for template in pod_templates(document):
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", **template["metadata"]}}
            kubernetes_validate.validate({**pod, "spec": template["spec"]}, version, strict=True)


@pytest.mark.parametrize("changes", KUBERAY_CHANGES)
def test_what_the_operator_itself_refuses_is_not_rendered(changes):
    """Rules that the operator checks beside the schema (ValidateRayClusterSpec and its neighbours in KubeRay 1.7)."""
    for document in kuberay_documents(**changes):
        if document["apiVersion"] != "ray.io/v1":
            continue
        assert len(document["metadata"]["name"]) <= 47
        spec = document["spec"].get("rayClusterSpec", document["spec"])
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            start = group["rayStartParams"]
            assert not group.get("resources") or not {"num-cpus", "num-gpus", "memory", "resources"} & set(start)
            assert "labels" not in start
            assert all(isinstance(value, str) for value in start.values())
            assert "restartPolicy" not in group["template"]["spec"]
        assert spec["rayVersion"]


@pytest.mark.parametrize("changes", KUBERAY_CHANGES)
def test_no_pod_may_more_than_it_needs(changes):
    made = kuberay_documents(**changes)
    pods = [template["spec"] for document in made for template in pod_templates(document)]
    # The job's submitter and twice a head and two groups.
    assert len(pods) == 7
    containers = [container for pod in pods for container in pod["containers"]]
    for document in made:
        spec = document.get("spec", {})
        if options := spec.get("rayClusterSpec", spec).get("autoscalerOptions"):
            containers.append(options)
    for pod in pods:
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["runAsGroup"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert pod["serviceAccountName"] != "default"
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert not [volume for volume in pod["volumes"] if "hostPath" in volume]
    for container in containers:
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["privileged"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["readOnlyRootFilesystem"] is True
        assert security["runAsNonRoot"] is True
        assert {"cpu", "memory"} <= set(container["resources"]["limits"])
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/tmp"}
    for account in (document for document in made if document["kind"] == "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    assert not [document for document in made if document["kind"] in ("Role", "ClusterRole", "Secret")]


def test_only_the_autoscaler_gets_the_token_of_kubernetes():
    job = next(document for document in kuberay_documents() if document["kind"] == "RayJob")
    where = "/var/run/secrets/kubernetes.io/serviceaccount"
    mounts = [
        mount["mountPath"]
        for template in pod_templates(job)
        for container in template["spec"]["containers"]
        for mount in container["volumeMounts"]
    ]
    assert where not in mounts
    assert where in [mount["mountPath"] for mount in job["spec"]["rayClusterSpec"]["autoscalerOptions"]["volumeMounts"]]


def test_secrets_are_named_and_never_held():
    text = manifests("kuberay")["rayjob.yaml"]
    variables = [
        variable
        for template in pod_templates(documents(text)[0])
        for container in template["spec"]["containers"]
        for variable in container["env"]
        if variable["name"] == "MLFLOW_TRACKING_PASSWORD"
    ]
    assert len(variables) == 3
    expected = {
        "name": "MLFLOW_TRACKING_PASSWORD",
        "valueFrom": {"secretKeyRef": {"name": "mlflow", "key": "password"}},
    }
    assert all(variable == expected for variable in variables)
    assert "$(cat /work/secrets/mlflow)" in manifests("slurm")["job.sh"]


def test_nobody_but_the_cluster_and_the_operator_reaches_the_pods():
    policies = [d for d in documents(manifests("kuberay")["access.yaml"]) if d["kind"] == "NetworkPolicy"]
    (spec,) = [policy["spec"] for policy in policies]
    own, operator = spec["ingress"]
    assert own == {"from": [{"podSelector": spec["podSelector"]}]}
    assert [port["port"] for port in operator["ports"]] == [8265]
    assert all(spec["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
               for document in kuberay_documents() for template in pod_templates(document))  # fmt: skip


def test_a_job_goes_on_after_a_failure_and_ends_at_its_limit():
    (job,) = documents(manifests("kuberay")["rayjob.yaml"])
    assert job["spec"]["backoffLimit"] == 3
    assert job["spec"]["activeDeadlineSeconds"] == 2880 * 60
    assert job["spec"]["jobId"] == job["metadata"]["name"] == "night"
    assert job["spec"]["shutdownAfterJobFinishes"] is True


@pytest.mark.parametrize("kind", CLOUDS)
@pytest.mark.parametrize(
    "changes",
    [{}, {"scaling__autoscale": False}, {"security__token": False, "ray__dashboard": "cluster"},
     {"storage__nfs": "10.0.0.9:/export", "environment": {"A": "it's"}}],
)  # fmt: skip
def test_what_ray_up_reads_passes_rays_own_check(kind, changes):
    from ray.autoscaler._private.util import prepare_config, validate_config

    (config,) = documents(manifests(kind, **changes)["cluster.yaml"])
    validate_config(prepare_config(config))


def test_rays_own_check_would_find_a_misspelt_key():
    from ray.autoscaler._private.util import prepare_config, validate_config

    (config,) = documents(manifests("aws")["cluster.yaml"])
    with pytest.raises(Exception, match="max_worker"):
        validate_config(prepare_config({**config, "max_worker": 1}))


@pytest.mark.parametrize("kind", CLOUDS)
def test_machines_take_commands_only_with_a_token_and_show_the_dashboard_to_nobody(kind):
    (config,) = documents(manifests(kind)["cluster.yaml"])
    starts = [command for role in ("head", "worker") for command in config[f"{role}_start_ray_commands"][1:]]
    assert len(starts) == 2
    assert all("export RAY_AUTH_MODE=token" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    for option in ("--cap-drop=ALL", "--security-opt=no-new-privileges", "--user=1000:1000"):
        assert option in config.get("docker", {"run_options": [option]})["run_options"]


def test_machines_of_aws_hand_their_role_only_to_who_may_have_it():
    (config,) = documents(manifests("aws")["cluster.yaml"])
    nodes = {name: kind["node_config"] for name, kind in config["available_node_types"].items()}
    assert {node["MetadataOptions"]["HttpTokens"] for node in nodes.values()} == {"required"}
    assert nodes["head"]["IamInstanceProfile"] != nodes["gpu"]["IamInstanceProfile"]
    assert all(node["SecurityGroupIds"] == ["sg-0123456789abcdef0"] for node in nodes.values())


@pytest.mark.parametrize("host", ["10.0.0.11", "10.0.0.20", "10.0.0.99", "110.0.0.11"])
def test_every_host_of_ones_own_starts_as_its_group(tmp_path, host):
    (config,) = documents(manifests("onprem", image__bin=str(tmp_path))["cluster.yaml"])
    (tmp_path / "ray").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    (tmp_path / "hostname").write_text(f"#!/bin/sh\necho 172.17.0.1 {host}\n")
    for name in ("ray", "hostname"):
        (tmp_path / name).chmod(0o755)
    command = config["worker_start_ray_commands"][1]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "RAY_HEAD_IP": "10.0.0.10"}
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True)
    options = done.stdout.splitlines()
    if host == "10.0.0.20":
        assert {"--labels=defectnas/device=jetson", '--resources={"latency_slot": 1}'} <= set(options)
    elif host == "10.0.0.11":
        assert {"--labels=defectnas/device=rtx3090", "--num-gpus=2", "--address=10.0.0.10:6379"} <= set(options)
    else:
        assert (done.returncode, options) == (1, [])


@pytest.mark.parametrize("kind", ["kuberay", "aws", "gcp"])
def test_the_container_file_is_locked_compiled_and_not_root(kind):
    text = manifests(kind)["Dockerfile"]
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    known = {"FROM", "RUN", "COPY", "WORKDIR", "ENV", "USER"}
    assert {line.split()[0] for line in lines} == known
    assert lines[-2:] == ["USER 1000:1000", "WORKDIR /home/defectnas"]
    syncs = [line for line in lines if "uv sync" in line]
    assert len(syncs) == 2
    assert all("--frozen --no-dev" in line for line in syncs)
    assert "UV_COMPILE_BYTECODE=1" in text
    assert not re.search(r"curl|sudo|http:|:latest|ADD |ARG ", text)
    # What is copied is in a checkout, and is let in.
    copied = {name for line in lines if line.startswith("COPY") and "--from" not in line for name in line.split()[1:-1]}
    assert all((ROOT / name).exists() for name in copied)
    allowed = manifests(kind)["Dockerfile.dockerignore"].splitlines()
    assert allowed[0] == "*"
    assert {f"!{name.removeprefix('./')}" for name in copied} == {line for line in allowed if line.startswith("!")}
    for extra in re.findall(r"--extra (\w+)", text):
        assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text()


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
    exported = [line for line in script.splitlines() if line.startswith("export OTHER=")]
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
