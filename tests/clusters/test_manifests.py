"""What Kubernetes and Docker read: valid by their own schemas and the operator's rules, least privilege."""

import gzip
import json
import re
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
from cluster_profiles import JOB, documents, manifests, profile

from clusters.render import render

SCHEMAS = Path(__file__).resolve().parents[3] / "shared" / "schemas"
ROOT = Path(__file__).resolve().parents[2]
# Everything a KubeRay profile can make: both kinds of cluster, with and without what may be left out.
KUBERAY_CHANGES = [
    {},
    {"scaling__autoscale": False, "security__token": False, "security__network_policy": False},
    {"head__resources": {"nas_head": 1}, "head__labels": {"defectnas/role": "head"}, "ray__dashboard": "cluster"},
    {"image__pull_secret": "login", "storage__size_gib": 0, "limits__minutes": 0, "ray__port": 7000},
]


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
