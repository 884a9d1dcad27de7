"""What a profile's values must be beyond their types: forms that are safe in manifests, and what each kind needs."""

import dataclasses
import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any

from clusters.profile import VIRTUAL_MACHINES, Profile

Found = tuple[tuple[str, ...], str]
"""The key of a setting, and what is wrong with its value."""

_NAME = r"[a-z]([a-z0-9-]{0,28}[a-z0-9])?"
_DNS = r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?"
_LABEL_VALUE = r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?"
_LABEL_KEY = rf"({_DNS}/)?[A-Za-z0-9]([A-Za-z0-9._-]{{0,61}}[A-Za-z0-9])?"
_FOLDER = r"(/[A-Za-z0-9_@.+-]+)+"
_WORD = r"[A-Za-z0-9_][A-Za-z0-9_./:@+=,&|-]*"
_IMAGE = r"[a-z0-9][A-Za-z0-9._/:@-]*"
_HOST_PORT = r"[A-Za-z0-9.-]+:\d{1,5}"

_FORMS: Mapping[str, tuple[str, str]] = {
    "name": (_NAME, "at most 30 of a-z, 0-9 and '-', the first a letter, as gpu-pool"),
    "address": (_HOST_PORT, "HOST:PORT of the head node, as 10.0.0.1:6379"),
    "jobs": (r"https?://" + _HOST_PORT, "http://HOST:PORT, as http://127.0.0.1:8265"),
    "image.name": (_IMAGE, "an image, as registry.example.com/defectnas:0.1.0"),
    "image.base": (_IMAGE, "an image"),
    "image.uv": (_IMAGE, "an image"),
    "image.bin": (_FOLDER, "an absolute folder, as /shared/defectnas/.venv/bin"),
    "image.pull_secret": (_DNS, "the name of a Kubernetes Secret"),
    "ray.version": (r"\d+\.\d+\.\d+", "a version, as 2.60.0"),
    "ray.python": (r"3\.\d+", "a version, as 3.11"),
    "storage.mount": (_FOLDER, "an absolute folder, as /shared"),
    "storage.runs": (
        r"(s3|gs)://[a-z0-9][a-z0-9._-]+(/[A-Za-z0-9._+-]+)*|[A-Za-z0-9_@.+-]+(/[A-Za-z0-9_@.+-]+)*",
        "a folder below storage.mount, as runs, or s3://BUCKET/FOLDER",
    ),
    "storage.nfs": (r"[A-Za-z0-9.-]+:" + _FOLDER, "HOST:/EXPORT"),
    "storage.claim": (_DNS, "the name of a PersistentVolumeClaim"),
    "storage.storage_class": (_DNS, "the name of a StorageClass"),
    "security.token_file": (r"(~|/)[A-Za-z0-9_./@+-]*", "a file of yours, as ~/.ray/auth_token"),
    "kuberay.namespace": (_NAME.replace("28", "61"), "a Kubernetes namespace"),
    "kuberay.operator_namespace": (_NAME.replace("28", "61"), "a Kubernetes namespace"),
    "slurm.*": (_WORD, "a word of letters, digits and _ . / : @ + = , & | -"),
    "aws.*": (_WORD, "a word of letters, digits and _ . / : @ + = , -"),
    "gcp.*": (_WORD, "a word of letters, digits and _ . / : @ + = , -"),
    "onprem.ssh_user": (_WORD, "a user's name"),
    "onprem.ssh_key": (r"(~|/)[A-Za-z0-9_./@+-]*", "a file of yours, as ~/.ssh/id_ed25519"),
    "head.machine": (_WORD, "a machine type"),
    "workers.name": (_NAME, "at most 30 of a-z, 0-9 and '-', the first a letter, as gpu"),
    "workers.machine": (_WORD, "a machine type"),
    "workers.gpu_type": (_WORD, "a type of GPU"),
    "secrets.variable": (r"[A-Za-z_][A-Za-z0-9_]*", "a name of an environment variable"),
    "secrets.secret": (_DNS, "the name of a Kubernetes Secret"),
    "secrets.key": (r"[A-Za-z0-9._-]+", "a key of that Secret"),
    "secrets.file": (_FOLDER, "an absolute file, as /etc/defectnas/s3-key"),
}

_NEEDED: Mapping[str, tuple[str, ...]] = {
    "address": ("address",),
    "kuberay": ("image.name", "storage.claim"),
    "slurm": (),
    "aws": ("image.name", "aws.region", "aws.image_id", "aws.subnet", "aws.security_group", "aws.head_profile"),
    "gcp": ("image.name", "gcp.project", "gcp.region", "gcp.zone", "gcp.source_image", "gcp.head_account"),
    "onprem": ("onprem.head", "onprem.ssh_user"),
}

_SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSWORD|PASSWD|PRIVATE|CREDENTIAL|ACCESS_KEY|API_?KEY", re.IGNORECASE)
CREDENTIALS = re.compile(r"://[^/\s@]*:[^/\s@]*@")
"""Finds a user and a password in a URL."""


def contradictions(profile: Profile) -> Iterator[Found]:
    """Yield what is wrong with a profile whose values have the right types."""
    yield from _forms(profile)
    yield from _needed(profile)
    yield from _groups(profile)
    yield from _environment(profile)
    yield from _storage(profile)
    if profile.kind == "onprem":
        yield from _hosts(profile)
    ports = profile.ray
    if ports.port == ports.dashboard_port:
        yield ("ray", "dashboard_port"), f"{ports.dashboard_port} is ray.port as well; give another"
    if profile.kind == "kuberay" and profile.kuberay.shared_memory_gib >= profile.head.memory_gib:
        text = f"counts as memory; needed is less than head.memory_gib ({profile.head.memory_gib})"
        yield ("kuberay", "shared_memory_gib"), text


def _forms(profile: Profile) -> Iterator[Found]:
    """Yield the texts that could not stand in a manifest as they are."""
    for key, text in _texts(dataclasses.asdict(profile)):
        if not text:
            continue
        if any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
            yield key, "has a line break or another control character; allowed is one line of plain text"
            continue
        general = ".".join(part for part in key if not part.isdigit())
        form = _FORMS.get(general) or _FORMS.get(f"{key[0]}.*")
        if form and not re.fullmatch(form[0], text):
            yield key, f"{text!r} is not allowed; allowed: {form[1]}"
        elif form and ".." in re.split(r"[/:]", text):
            yield key, f"{text!r} leads out of its folder; allowed: a path without '..'"


def _texts(values: Any, key: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(values, str):
        yield key, values
    elif isinstance(values, Mapping):
        for name, value in values.items():
            yield from _texts(value, (*key, name))
    elif isinstance(values, list | tuple):
        for index, value in enumerate(values):
            yield from _texts(value, (*key, str(index)))


def _needed(profile: Profile) -> Iterator[Found]:
    for dotted in _NEEDED[profile.kind]:
        section, _, name = dotted.rpartition(".")
        if not getattr(getattr(profile, section) if section else profile, name):
            yield tuple(dotted.split(".")), f"missing; kind {profile.kind} needs it"
    if profile.kind in ("slurm", "onprem") and bool(profile.image.name) == bool(profile.image.bin):
        given = "both are given" if profile.image.name else "missing"
        yield ("image",), f"{given}; needed is either name (a container) or bin (a folder of programs)"
    elif profile.image.bin and profile.kind not in ("slurm", "onprem"):
        yield ("image", "bin"), f"kind {profile.kind} runs the program in a container; give image.name"
    if profile.kind in ("aws", "gcp"):
        if not profile.head.machine:
            yield ("head", "machine"), f"missing; kind {profile.kind} needs it"
        for index, group in enumerate(profile.workers):
            if not group.machine:
                yield ("workers", str(index), "machine"), f"missing; kind {profile.kind} needs it"
            if profile.kind == "gcp" and group.gpus and not group.gpu_type:
                yield ("workers", str(index), "gpu_type"), "missing; gcp needs it where there are GPUs"


def _groups(profile: Profile) -> Iterator[Found]:
    names = [group.name for group in profile.workers]
    if profile.kind != "address" and not profile.workers:
        yield ("workers",), "no group of nodes; give at least one [[workers]]"
    elif profile.kind == "slurm" and len(names) > 1:
        yield ("workers",), "a Slurm job has nodes of one kind; give one [[workers]], and a profile for each other kind"
    elif profile.kind not in ("address", "onprem") and not any(group.min for group in profile.workers):
        yield ("workers",), "min is 0 in every group; a search needs a node to begin on"
    for index, group in enumerate(profile.workers):
        key = ("workers", str(index))
        if group.name in ("head", *names[:index]):
            yield (*key, "name"), f"{group.name!r} is taken; give each group a name of its own"
        if group.min > group.max:
            yield (*key, "min"), f"{group.min} is more than max ({group.max})"
        if profile.kind == "slurm" and not group.min:
            yield (*key, "min"), "0 is not allowed; a Slurm job has at least one node"
        if profile.kind == "kuberay" and profile.kuberay.shared_memory_gib >= group.memory_gib:
            yield (*key, "memory_gib"), "needed is more than kuberay.shared_memory_gib, which counts as memory"
        yield from (((*key, *rest), text) for rest, text in _tags(group))
    yield from ((("head", *rest), text) for rest, text in _tags(profile.head))


def _tags(node: Any) -> Iterator[Found]:
    for section in ("labels", "node_selector"):
        for name, value in getattr(node, section, {}).items():
            if not re.fullmatch(_LABEL_KEY, name) or not re.fullmatch(_LABEL_VALUE, value):
                yield (section,), f"{name!r} = {value!r} is no label; allowed are such as defectnas/device = jetson"
            elif section == "labels" and name.startswith("ray.io/"):
                yield (section,), f"{name!r} is Ray's own; choose another name"
    for name, amount in node.resources.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or name in ("CPU", "GPU", "memory"):
            text = f"{name!r} is no custom resource; allowed are letters, digits and '_', as latency_slot"
            yield ("resources",), text
        elif amount < 1:
            yield ("resources",), f"{name} = {amount}; needed is at least 1"


def _environment(profile: Profile) -> Iterator[Found]:
    for name, value in profile.environment.items():
        key = ("environment", name)
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            yield key, "no name of an environment variable"
        elif _SECRET_NAME.search(name):
            yield key, "looks like a secret, and a profile holds none; name where it is kept in [[secrets]]"
        elif CREDENTIALS.search(value):
            yield key, "holds a password; name where it is kept in [[secrets]]"
    taken = set(profile.environment)
    for index, secret in enumerate(profile.secrets):
        place = ("secrets", str(index))
        if secret.variable in taken:
            yield (*place, "variable"), f"{secret.variable} is given twice"
        taken.add(secret.variable)
        if profile.kind == "kuberay" and not (secret.secret and secret.key and not secret.file):
            yield place, "needed for kind kuberay: secret and key (of a Kubernetes Secret), and no file"
        elif profile.kind != "kuberay" and not (secret.file and not secret.secret and not secret.key):
            yield place, f"needed for kind {profile.kind}: file (on the nodes), and no secret or key"


def _storage(profile: Profile) -> Iterator[Found]:
    storage = profile.storage
    if storage.mount in ("/", "/tmp", "/dev", "/dev/shm", "/app", "/home", "/etc", "/usr", "/proc", "/sys"):
        yield ("storage", "mount"), f"{storage.mount} is used by the nodes themselves; choose another, as /shared"
    if storage.nfs and profile.kind not in VIRTUAL_MACHINES:
        yield ("storage", "nfs"), f"not for kind {profile.kind}; allowed for {', '.join(VIRTUAL_MACHINES)}"
    if profile.kind in ("aws", "gcp") and profile.shares_files and not storage.nfs:
        text = "missing; machines of a cloud share no folder by themselves: give nfs, or storage.runs as s3:// or gs://"
        yield ("storage", "nfs"), text
    for name in ("claim", "size_gib", "storage_class"):
        if getattr(storage, name) and profile.kind != "kuberay":
            yield ("storage", name), f"not for kind {profile.kind}; allowed for kuberay"


def _hosts(profile: Profile) -> Iterator[Found]:
    places: dict[tuple[str, ...], str] = {}
    if profile.onprem.head:
        places["onprem", "head"] = profile.onprem.head
    for index, group in enumerate(profile.workers):
        if len(group.hosts) != group.max:
            text = f"{len(group.hosts)} for a max of {group.max}; needed is an IP address for each"
            yield ("workers", str(index), "hosts"), text
        places |= {("workers", str(index), "hosts", str(place)): host for place, host in enumerate(group.hosts)}
    seen: set[str] = set()
    for key, host in places.items():
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            yield key, f"{host!r} is not allowed; allowed: an IPv4 address, as 10.0.0.11"
        if host in seen:
            yield key, f"{host} is given twice"
        seen.add(host)
