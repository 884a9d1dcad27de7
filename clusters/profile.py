"""What a user says about a cluster, as a frozen value: the content of a cluster profile (docs/clusters.md).

Everything that is started on a cluster is rendered from it, so a change here reaches every manifest. Reading one
from a file and wording what is wrong with it is the part of `orchestrator.profiles`.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from typing import Any, Literal

VIRTUAL_MACHINES = ("aws", "gcp", "onprem")
"""The kinds whose nodes `ray up` starts."""


def _setting(default: Any, help: str, *, unit: str | None = None, **bounds: float) -> Any:
    """Return a field with the metadata that settings have throughout the program; MISSING: it has to be given."""
    metadata = {"help": help, "unit": unit, "bounds": bounds}
    if default is MISSING:
        return field(metadata=metadata)
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Image:
    """The program on the nodes: in a container, or in a folder that every node sees."""

    name: str = _setting("", "container image with the program; its Dockerfile is rendered beside the manifests")
    bin: str = _setting("", "slurm, onprem: without an image, the folder of `ray` and `defectnas` on every node")
    base: str = _setting("", "image that the container file starts from; empty: a slim Debian with ray.python")
    uv: str = _setting("ghcr.io/astral-sh/uv:0.9", "image that the container file takes uv from")
    pull: Literal["IfNotPresent", "Always", "Never"] = _setting("IfNotPresent", "kuberay: when nodes pull the image")
    pull_secret: str = _setting("", "kuberay: name of the Secret that the image is pulled with")


@dataclass(frozen=True)
class RaySettings:
    """Ray on the nodes."""

    version: str = _setting("", "of Ray on the nodes; empty: the one that this program is locked to")
    python: str = _setting("", "of Python on the nodes, as 3.11; empty: the one that this program runs on")
    port: int = _setting(6379, "of the head; slurm gives every job ports of its own", ge=1024, le=65535)
    dashboard_port: int = _setting(8265, "of the dashboard, which also takes jobs", ge=1024, le=65535)
    dashboard: Literal["loopback", "cluster"] = _setting(
        "loopback",
        "who reaches the dashboard: loopback: the head node itself (kuberay: the pods of the cluster and the "
        "operator); cluster: whoever reaches the head node (kuberay: the namespace)",
    )


@dataclass(frozen=True)
class Head:
    """The node that the search itself runs on. Slurm has none apart: the first node of the job is it."""

    cpus: int = _setting(4, "CPUs", ge=1)
    memory_gib: int = _setting(16, "memory", unit="GiB", ge=1)
    ray_cpus: int = _setting(0, "CPUs that Ray may give to trials; 0 keeps the node for the search itself", ge=0)
    machine: str = _setting("", "aws, gcp: machine type, as m7i.xlarge")
    disk_gib: int = _setting(100, "aws, gcp: disk", unit="GiB", ge=10)
    labels: Mapping[str, str] = _setting({}, "Ray labels of the node")
    resources: Mapping[str, int] = _setting({}, "custom Ray resources of the node")


@dataclass(frozen=True)
class Workers:
    """A group of equal nodes."""

    name: str = _setting(MISSING, "of the group")
    min: int = _setting(1, "nodes that are always there; a search waits for them", unit="nodes", ge=0)
    max: int = _setting(1, "most nodes; a search asks the autoscaler for up to these", unit="nodes", ge=1)
    cpus: int = _setting(4, "CPUs of a node", ge=1)
    memory_gib: int = _setting(16, "memory of a node", unit="GiB", ge=1)
    gpus: int = _setting(0, "GPUs of a node", ge=0)
    gpu_type: str = _setting("", "slurm: of --gpus-per-node, as a100; gcp: accelerator type, as nvidia-tesla-t4")
    labels: Mapping[str, str] = _setting({}, "Ray labels of its nodes, as defectnas/device = jetson")
    resources: Mapping[str, int] = _setting({}, "custom Ray resources of a node, as latency_slot = 1")
    machine: str = _setting("", "aws, gcp: machine type")
    disk_gib: int = _setting(200, "aws, gcp: disk", unit="GiB", ge=10)
    preemptible: bool = _setting(False, "aws, gcp: spot machines, cheaper, and taken away at any time")
    node_selector: Mapping[str, str] = _setting({}, "kuberay: labels of the Kubernetes nodes to run on")
    hosts: tuple[str, ...] = _setting((), "onprem: IP addresses of its nodes, max of them")


@dataclass(frozen=True)
class Storage:
    """Where runs, packs and data lie; every node sees it at the same path."""

    mount: str = _setting("/shared", "folder where every node sees the shared file system")
    runs: str = _setting("runs", "folder of runs and packs below mount, or s3://BUCKET/FOLDER, gs://BUCKET/FOLDER")
    nfs: str = _setting("", "aws, gcp, onprem: HOST:/EXPORT that is mounted there; empty: it is there already")
    claim: str = _setting("", "kuberay: the PersistentVolumeClaim that is mounted there")
    size_gib: int = _setting(0, "kuberay: make the claim, so large; 0: it exists", unit="GiB", ge=0)
    storage_class: str = _setting("", "kuberay: of the claim that is made; it has to offer ReadWriteMany")


@dataclass(frozen=True)
class Scaling:
    """How the number of nodes follows the work. Slurm and hosts of your own have a fixed number."""

    autoscale: bool = _setting(True, "between min and max of each group; false: max of each, all the time")
    idle_minutes: int = _setting(10, "an idle node above min is given back after", unit="min", ge=1)


@dataclass(frozen=True)
class Limits:
    """What ends a job, and how often it is begun again."""

    minutes: int = _setting(0, "a job is stopped after; 0: never (slurm: the partition's limit)", unit="min", ge=0)
    retries: int = _setting(3, "kuberay, slurm: new attempts, each of which goes on where the last one ended", ge=0)


@dataclass(frozen=True)
class Security:
    """Who may do what."""

    token: bool = _setting(True, "Ray takes commands only from who shows its token")
    token_file: str = _setting("~/.ray/auth_token", "aws, gcp, onprem: your token (ray get-auth-token --generate)")
    user: int = _setting(1000, "user id in the container, never 0", ge=1)
    read_only_root: bool = _setting(True, "kuberay: the container cannot write to its image")
    network_policy: bool = _setting(True, "kuberay: nobody but the cluster and the operator reaches the pods")


@dataclass(frozen=True)
class Secret:
    """An environment variable whose value is kept elsewhere; a profile never holds the value."""

    variable: str = _setting(MISSING, "name of the environment variable")
    secret: str = _setting("", "kuberay: name of the Kubernetes Secret")
    key: str = _setting("", "kuberay: key in that Secret")
    file: str = _setting("", "slurm, aws, gcp, onprem: file on the nodes whose content is the value")


@dataclass(frozen=True)
class KubeRay:
    """Settings of kind kuberay alone."""

    namespace: str = _setting("default", "Kubernetes namespace of all that is made")
    operator_namespace: str = _setting("kuberay-operator", "namespace of the KubeRay operator, which reaches the head")
    shared_memory_gib: int = _setting(4, "/dev/shm of a pod, where Ray's object store lies", unit="GiB", ge=1)
    scratch_gib: int = _setting(20, "/tmp of a pod", unit="GiB", ge=1)
    keep_minutes: int = _setting(10, "the pods of a job that has ended go after", unit="min", ge=0)


@dataclass(frozen=True)
class Slurm:
    """Settings of kind slurm alone."""

    partition: str = _setting("", "--partition")
    account: str = _setting("", "--account")
    qos: str = _setting("", "--qos")
    constraint: str = _setting("", "--constraint")


@dataclass(frozen=True)
class Aws:
    """Settings of kind aws alone."""

    region: str = _setting("", "AWS region, as eu-central-1")
    zone: str = _setting("", "availability zone; empty: any of the region")
    image_id: str = _setting("", "AMI of the machines, with Docker and the NVIDIA runtime")
    ssh_user: str = _setting("ubuntu", "user of that AMI")
    subnet: str = _setting("", "id of the subnet")
    security_group: str = _setting(
        "", "id of a security group that lets its own members in; Ray's own one opens port 22 to the world"
    )
    head_profile: str = _setting("", "ARN of the head's instance profile: starts and ends machines, passes workers'")
    worker_profile: str = _setting(
        "", "ARN of the workers' instance profile: the storage and nothing else; may be empty"
    )


@dataclass(frozen=True)
class Gcp:
    """Settings of kind gcp alone."""

    project: str = _setting("", "id of the project")
    region: str = _setting("", "region, as europe-west4")
    zone: str = _setting("", "zone, as europe-west4-a")
    source_image: str = _setting("", "image of the machines, with Docker and the NVIDIA runtime")
    ssh_user: str = _setting("ubuntu", "user of that image")
    head_account: str = _setting("", "e-mail of the head's service account: starts and ends machines")
    worker_account: str = _setting("", "e-mail of the workers' service account: the storage; empty: none")


@dataclass(frozen=True)
class OnPrem:
    """Settings of kind onprem alone."""

    head: str = _setting("", "IP address of the head")
    ssh_user: str = _setting("", "user on all hosts")
    ssh_key: str = _setting("~/.ssh/id_ed25519", "private key of that user, on the machine that submits")


@dataclass(frozen=True)
class Profile:
    """One cluster: what it is, what runs on it and who may reach it."""

    kind: Literal["address", "kuberay", "slurm", "aws", "gcp", "onprem"] = _setting(
        MISSING, "what the cluster is; address: one that runs already"
    )
    name: str = _setting("defectnas", "of the cluster, and what the names of all that is made begin with")
    address: str = _setting("", "HOST:PORT of the head of a cluster that runs, for `search --cluster`")
    jobs: str = _setting("", "address: http://HOST:8265 that takes its jobs, for `cluster submit`")
    image: Image = field(default_factory=Image)
    ray: RaySettings = field(default_factory=RaySettings)
    head: Head = field(default_factory=Head)
    workers: tuple[Workers, ...] = _setting((), "groups of nodes")
    storage: Storage = field(default_factory=Storage)
    scaling: Scaling = field(default_factory=Scaling)
    limits: Limits = field(default_factory=Limits)
    security: Security = field(default_factory=Security)
    environment: Mapping[str, str] = _setting({}, "environment variables of all nodes; never secrets")
    secrets: tuple[Secret, ...] = _setting((), "environment variables whose values are kept elsewhere")
    kuberay: KubeRay = field(default_factory=KubeRay)
    slurm: Slurm = field(default_factory=Slurm)
    aws: Aws = field(default_factory=Aws)
    gcp: Gcp = field(default_factory=Gcp)
    onprem: OnPrem = field(default_factory=OnPrem)

    @property
    def runs(self) -> str:
        """Folder or URI of runs and packs, as every node sees it."""
        return f"{self.storage.mount}/{self.storage.runs}" if self.shares_files else self.storage.runs

    @property
    def shares_files(self) -> bool:
        """Whether runs lie in the shared folder, and not in an object store."""
        return "://" not in self.storage.runs

    @property
    def fixed(self) -> bool:
        """Whether all nodes are there from the start."""
        return self.kind in ("slurm", "onprem") or not self.scaling.autoscale

    @property
    def nodes_at_start(self) -> int:
        """Nodes that have to be there before a search begins, the head included (slurm: as many as it granted)."""
        return 1 + sum(group.max if self.fixed else group.min for group in self.workers)
