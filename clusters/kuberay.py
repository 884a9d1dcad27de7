"""Kubernetes manifests of a profile: a RayJob or a RayCluster of KubeRay, and the little that they need beside them."""

from collections.abc import Mapping
from typing import Any

from clusters.command import Job, entrypoint
from clusters.growth import environment_of
from clusters.profile import Head, Profile, Workers

Manifest = dict[str, Any]

_INSTANCE = "app.kubernetes.io/instance"
_GPU = "nvidia.com/gpu"
_API_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"


def access(profile: Profile) -> list[Manifest]:
    """Return the service accounts of the pods, and the policy of who may reach them."""
    names = [f"{profile.name}-head", f"{profile.name}-workers"]
    accounts: list[Manifest] = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _metadata(profile, name)} for name in names
    ]
    # Neither trials nor the search talk to Kubernetes; the autoscaler is handed its token below.
    accounts = [{**account, "automountServiceAccountToken": False} for account in accounts]
    return [*accounts, _network_policy(profile)] if profile.security.network_policy else accounts


def storage(profile: Profile) -> list[Manifest]:
    """Return the claim of the shared file system, if it is to be made. Nothing here ever deletes it."""
    if not profile.storage.size_gib:
        return []
    spec: Manifest = {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": f"{profile.storage.size_gib}Gi"}},
    }
    if profile.storage.storage_class:
        spec["storageClassName"] = profile.storage.storage_class
    metadata = _metadata(profile, profile.storage.claim)
    return [{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}]


def ray_cluster(profile: Profile) -> Manifest:
    """Return a cluster that stands until it is deleted."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": _metadata(profile, profile.name),
        "spec": _cluster_spec(profile),
    }


def ray_job(profile: Profile, job: Job) -> Manifest:
    """Return a job with a cluster of its own, which goes when the job has ended."""
    spec: Manifest = {
        "entrypoint": entrypoint(profile, job),
        "jobId": job.id,
        "submissionMode": "K8sJobMode",
        "submitterPodTemplate": _submitter(profile),
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 60 * profile.kuberay.keep_minutes,
        # Every attempt gets a new cluster; that it goes on with the run is the entry point's part.
        "backoffLimit": profile.limits.retries,
        "rayClusterSpec": _cluster_spec(profile),
    }
    if profile.limits.minutes:
        spec["activeDeadlineSeconds"] = 60 * profile.limits.minutes
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": _metadata(profile, job.id), "spec": spec}


def _metadata(profile: Profile, name: str) -> Manifest:
    return {"name": name, "namespace": profile.kuberay.namespace, "labels": _labels(profile)}


def _labels(profile: Profile) -> dict[str, str]:
    return {"app.kubernetes.io/name": "defectnas", _INSTANCE: profile.name}


def _network_policy(profile: Profile) -> Manifest:
    dashboard = [{"port": profile.ray.dashboard_port, "protocol": "TCP"}]
    operator = {"matchLabels": {"kubernetes.io/metadata.name": profile.kuberay.operator_namespace}}
    ingress: list[Manifest] = [
        {"from": [{"podSelector": {"matchLabels": {_INSTANCE: profile.name}}}]},
        {"from": [{"namespaceSelector": operator}], "ports": dashboard},
    ]
    if profile.ray.dashboard == "cluster":
        ingress.append({"from": [{"podSelector": {}}], "ports": dashboard})
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(profile, profile.name),
        "spec": {
            "podSelector": {"matchLabels": {_INSTANCE: profile.name}},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    }


def _cluster_spec(profile: Profile) -> Manifest:
    spec: Manifest = {
        "rayVersion": profile.ray.version,
        "authOptions": {"mode": "token" if profile.security.token else "disabled"},
        "enableInTreeAutoscaling": profile.scaling.autoscale,
        "headGroupSpec": _head(profile),
        "workerGroupSpecs": [_group(profile, group) for group in profile.workers],
    }
    if profile.scaling.autoscale:
        spec["autoscalerOptions"] = {
            "version": "v2",
            "idleTimeoutSeconds": 60 * profile.scaling.idle_minutes,
            "imagePullPolicy": profile.image.pull,
            "securityContext": _container_security(profile),
            "resources": _same({"cpu": "500m", "memory": "1Gi"}),
            "env": [{"name": "HOME", "value": "/tmp"}],
            "volumeMounts": [
                {"name": "scratch", "mountPath": "/tmp"},
                {"name": "api-token", "mountPath": _API_TOKEN, "readOnly": True},
            ],
        }
    return spec


def _head(profile: Profile) -> Manifest:
    head = profile.head
    ports = [
        {"name": "gcs-server", "containerPort": profile.ray.port},
        {"name": "dashboard", "containerPort": profile.ray.dashboard_port},
    ]
    pod = _pod(profile, f"{profile.name}-head", {**_container(profile, head), "name": "ray-head", "ports": ports})
    if profile.scaling.autoscale:
        pod["volumes"] = [*pod["volumes"], _api_token()]
    parameters = {
        "port": str(profile.ray.port),
        # The operator refuses a group that gives both this and `resources`.
        **({} if head.resources else {"num-cpus": str(head.ray_cpus)}),
        # The operator asks the dashboard how the job is; who else gets there is the network policy's part.
        "dashboard-host": "0.0.0.0",
        "dashboard-port": str(profile.ray.dashboard_port),
    }
    labels = {"labels": dict(head.labels)} if head.labels else {}
    return {**labels, **_resources(head), "rayStartParams": parameters, "template": _template(profile, pod)}


def _group(profile: Profile, group: Workers) -> Manifest:
    container = {**_container(profile, group), "name": "ray-worker"}
    pod = _pod(profile, f"{profile.name}-workers", container)
    if group.node_selector:
        pod["nodeSelector"] = dict(group.node_selector)
    if group.gpus:
        pod["tolerations"] = [{"key": _GPU, "operator": "Exists", "effect": "NoSchedule"}]
    least = group.min if profile.scaling.autoscale else group.max
    spec: Manifest = {"groupName": group.name, "replicas": least, "minReplicas": least, "maxReplicas": group.max}
    if group.labels:
        spec["labels"] = dict(group.labels)
    return {**spec, **_resources(group), "rayStartParams": {}, "template": _template(profile, pod)}


def _resources(node: Head | Workers) -> Manifest:
    """Return the `resources` of a group, which replace those that KubeRay would read off the pod; often none."""
    if not node.resources:
        return {}
    cpus = node.ray_cpus if isinstance(node, Head) else node.cpus
    gpus = {"GPU": str(node.gpus)} if isinstance(node, Workers) and node.gpus else {}
    custom = {name: str(amount) for name, amount in node.resources.items()}
    return {"resources": {"CPU": str(cpus), **gpus, **custom}}


def _template(profile: Profile, pod: Manifest) -> Manifest:
    return {"metadata": {"labels": _labels(profile)}, "spec": pod}


def _pod(profile: Profile, account: str, container: Manifest) -> Manifest:
    user = profile.security.user
    pod: Manifest = {
        "serviceAccountName": account,
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": user,
            "runAsGroup": user,
            "fsGroup": user,
            # Changing the owner of every file of a large volume would take minutes at each start.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        # A trial that is asked to stop writes its checkpoint first.
        "terminationGracePeriodSeconds": 60,
        "containers": [container],
        "volumes": [
            {"name": "shared", "persistentVolumeClaim": {"claimName": profile.storage.claim}},
            {"name": "scratch", "emptyDir": {"sizeLimit": f"{profile.kuberay.scratch_gib}Gi"}},
            {
                "name": "shared-memory",
                "emptyDir": {"medium": "Memory", "sizeLimit": f"{profile.kuberay.shared_memory_gib}Gi"},
            },
        ],
    }
    if profile.image.pull_secret:
        pod["imagePullSecrets"] = [{"name": profile.image.pull_secret}]
    return pod


def _container(profile: Profile, node: Head | Workers) -> Manifest:
    amounts: dict[str, Any] = {"cpu": str(node.cpus), "memory": f"{node.memory_gib}Gi"}
    if isinstance(node, Workers) and node.gpus:
        amounts[_GPU] = node.gpus
    return {
        "image": profile.image.name,
        "imagePullPolicy": profile.image.pull,
        "resources": _same(amounts),
        "securityContext": _container_security(profile),
        "env": _environment(profile),
        "volumeMounts": [
            {"name": "shared", "mountPath": profile.storage.mount},
            {"name": "scratch", "mountPath": "/tmp"},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
        ],
    }


def _environment(profile: Profile) -> list[Manifest]:
    # Programs write to their home, and the image's one is read-only.
    plain: Mapping[str, str] = {"HOME": "/tmp", **environment_of(profile), **profile.environment}
    secrets = [
        {"name": secret.variable, "valueFrom": {"secretKeyRef": {"name": secret.secret, "key": secret.key}}}
        for secret in profile.secrets
    ]
    return [*({"name": name, "value": value} for name, value in plain.items()), *secrets]


def _container_security(profile: Profile) -> Manifest:
    return {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": profile.security.read_only_root,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
    }


def _submitter(profile: Profile) -> Manifest:
    """Return the pod that hands the job in; it holds neither storage nor secrets."""
    container: Manifest = {
        "name": "ray-job-submitter",
        "image": profile.image.name,
        "imagePullPolicy": profile.image.pull,
        "resources": _same({"cpu": "500m", "memory": "1Gi"}),
        "securityContext": _container_security(profile),
        "env": [{"name": "HOME", "value": "/tmp"}],
        "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],
    }
    pod = _pod(profile, f"{profile.name}-workers", container)
    pod["volumes"] = [volume for volume in pod["volumes"] if volume["name"] == "scratch"]
    return _template(profile, {**pod, "restartPolicy": "Never"})


def _api_token() -> Manifest:
    """Return the volume that Kubernetes would mount into every container; here the autoscaler alone has it."""
    sources = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]
    return {"name": "api-token", "projected": {"sources": sources}}


def _same(amounts: Mapping[str, Any]) -> Manifest:
    """Return requests equal to limits: a pod that is promised less than it may use is the first to be killed."""
    return {"requests": dict(amounts), "limits": dict(amounts)}
