"""The file for `ray up`: a head and workers on machines of AWS or GCP, or on hosts of one's own."""

import shlex
from collections.abc import Mapping
from typing import Any

from clusters.command import Job, entrypoint
from clusters.growth import environment_of
from clusters.profile import Head, Profile, Workers
from clusters.slurm import exports, start_options

Values = dict[str, Any]

_HEAD_TYPE = "head"


def ray_up(profile: Profile) -> Values:
    """Return the cluster configuration that `ray up` reads."""
    return {
        "cluster_name": profile.name,
        "max_workers": sum(group.max for group in profile.workers),
        "idle_timeout_minutes": profile.scaling.idle_minutes,
        **_PLACES[profile.kind](profile),
        **({"docker": _docker(profile)} if profile.image.name else {}),
        # The token goes from this machine to the nodes by ssh; the file names only where it is.
        "file_mounts": {"~/.ray/auth_token": profile.security.token_file} if profile.security.token else {},
        "initialization_commands": _mount(profile),
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [_program(profile, "ray stop"), _start_head(profile)],
        "worker_start_ray_commands": [_program(profile, "ray stop"), _start_worker(profile)],
    }


def submit_command(profile: Profile, job: Job) -> str:
    """Return the shell command that hands a job in on the head, once: its id is looked for first."""
    limit = f"timeout --signal=TERM --kill-after=120 {profile.limits.minutes}m " if profile.limits.minutes else ""
    known = f"{_jobs(profile, 'status')} {job.id} > /dev/null 2>&1"
    command = f"--submission-id {job.id} --no-wait -- {limit}{entrypoint(profile, job)}"
    submit = f"{_jobs(profile, 'submit')} {command}"
    return f"{_mode(profile)}; if {known}; then echo {job.id} is known there already; else {submit}; fi"


def log_command(profile: Profile, job: Job) -> str:
    """Return the shell command that follows the log of a job on the head."""
    return f"{_mode(profile)}; {_jobs(profile, 'logs')} --follow {job.id}"


def _aws(profile: Profile) -> Values:
    aws = profile.aws

    def node(machine: str, disk_gib: int, role: str, preemptible: bool) -> Values:
        config: Values = {
            "InstanceType": machine,
            "ImageId": aws.image_id,
            "SubnetIds": [aws.subnet],
            "SecurityGroupIds": [aws.security_group],
            "BlockDeviceMappings": [
                {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": disk_gib, "VolumeType": "gp3", "Encrypted": True}}
            ],
            # Whoever makes a process on the machine fetch a URL does not get its role that way. One hop more than
            # the machine itself, because the program runs in a container.
            "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 2},
        }
        if role:
            config["IamInstanceProfile"] = {"Arn": role}
        if preemptible:
            config["InstanceMarketOptions"] = {"MarketType": "spot"}
        return config

    head = node(profile.head.machine, profile.head.disk_gib, aws.head_profile, False)
    types = {_HEAD_TYPE: _head_type(profile.head, head)}
    for group in profile.workers:
        config = node(group.machine, group.disk_gib, aws.worker_profile, group.preemptible)
        types[group.name] = _worker_type(profile, group, config)
    zone = {"availability_zone": aws.zone} if aws.zone else {}
    return {
        "provider": {"type": "aws", "region": aws.region, **zone, "cache_stopped_nodes": False},
        "auth": {"ssh_user": aws.ssh_user},
        "available_node_types": types,
        "head_node_type": _HEAD_TYPE,
    }


def _gcp(profile: Profile) -> Values:
    gcp = profile.gcp

    def node(machine: str, disk_gib: int, account: str) -> Values:
        disk = {"diskSizeGb": disk_gib, "sourceImage": gcp.source_image}
        config: Values = {
            "machineType": machine,
            "disks": [{"boot": True, "autoDelete": True, "type": "PERSISTENT", "initializeParams": disk}],
        }
        if account:
            # What the account may do is decided by its roles; scopes only narrow those.
            scopes = ["https://www.googleapis.com/auth/cloud-platform"]
            config["serviceAccounts"] = [{"email": account, "scopes": scopes}]
        return config

    types = {_HEAD_TYPE: _head_type(profile.head, node(profile.head.machine, profile.head.disk_gib, gcp.head_account))}
    for group in profile.workers:
        config = node(group.machine, group.disk_gib, gcp.worker_account)
        if group.gpus:
            kind = f"projects/{gcp.project}/zones/{gcp.zone}/acceleratorTypes/{group.gpu_type}"
            config["guestAccelerators"] = [{"acceleratorType": kind, "acceleratorCount": group.gpus}]
        # Machines with GPUs cannot be moved while they run.
        scheduling: list[Values] = [{"preemptible": True}] if group.preemptible else []
        scheduling += [{"onHostMaintenance": "TERMINATE"}] if group.gpus else []
        if scheduling:
            config["scheduling"] = scheduling
        types[group.name] = _worker_type(profile, group, config)
    places = {"region": gcp.region, "availability_zone": gcp.zone, "project_id": gcp.project}
    return {
        "provider": {"type": "gcp", **places},
        "auth": {"ssh_user": gcp.ssh_user},
        "available_node_types": types,
        "head_node_type": _HEAD_TYPE,
    }


def _onprem(profile: Profile) -> Values:
    hosts = [host for group in profile.workers for host in group.hosts]
    return {
        "provider": {"type": "local", "head_ip": profile.onprem.head, "worker_ips": hosts},
        "auth": {"ssh_user": profile.onprem.ssh_user, "ssh_private_key": profile.onprem.ssh_key},
        # Hosts stay the user's: all of them are in the cluster for as long as it stands.
        "min_workers": len(hosts),
    }


_PLACES = {"aws": _aws, "gcp": _gcp, "onprem": _onprem}


def _head_type(head: Head, config: Values) -> Values:
    return {**_node_type({"CPU": head.ray_cpus, **head.resources}, head.labels, config), "max_workers": 0}


def _worker_type(profile: Profile, group: Workers, config: Values) -> Values:
    gpus = {"GPU": group.gpus} if group.gpus else {}
    values = _node_type({"CPU": group.cpus, **gpus, **group.resources}, group.labels, config)
    return {**values, "min_workers": group.max if profile.fixed else group.min, "max_workers": group.max}


def _node_type(resources: Mapping[str, int], labels: Mapping[str, str], config: Values) -> Values:
    return {"resources": dict(resources), "labels": dict(labels), "node_config": config}


def _docker(profile: Profile) -> Values:
    mount, user = profile.storage.mount, profile.security.user
    return {
        "image": profile.image.name,
        "container_name": profile.name,
        "pull_before_run": profile.image.pull == "Always",
        "run_options": [
            *([f"--volume={mount}:{mount}"] if profile.shares_files or profile.storage.nfs else []),
            f"--user={user}:{user}",
            # With Docker the NVIDIA runtime hands out what this names; Kubernetes has its device plugin for it.
            "--env=NVIDIA_VISIBLE_DEVICES=all",
            "--cap-drop=ALL",
            "--security-opt=no-new-privileges",
            "--ulimit=nofile=65536:65536",
        ],
    }


def _mount(profile: Profile) -> list[str]:
    """Return what hosts run before anything else, so that a node without the shared folder never joins."""
    mount = shlex.quote(profile.storage.mount)
    if not profile.storage.nfs:
        return [f"test -d {mount} || {{ echo {mount} is not there >&2; exit 1; }}"] if profile.shares_files else []
    source = shlex.quote(profile.storage.nfs)
    install = "command -v mount.nfs > /dev/null || { sudo apt-get update -qq && sudo apt-get install -qq nfs-common; }"
    return [install, f"sudo mkdir -p {mount} && {{ mountpoint -q {mount} || sudo mount -t nfs {source} {mount}; }}"]


def _program(profile: Profile, command: str) -> str:
    return f"{profile.image.bin}/{command}" if profile.image.bin else command


def _jobs(profile: Profile, verb: str) -> str:
    # On the head itself, so that the dashboard need not be reachable from anywhere else.
    return _program(profile, f"ray job {verb} --address http://127.0.0.1:{profile.ray.dashboard_port}")


def _mode(profile: Profile) -> str:
    return f"export RAY_AUTH_MODE={'token' if profile.security.token else 'disabled'}"


def _begin(profile: Profile) -> str:
    # Its letters mean nothing to a shell.
    told = [f"export {name}={value}" for name, value in environment_of(profile).items()]
    lines = [*told, *exports(profile).splitlines(), _mode(profile), "ulimit -n 65536"]
    return "; ".join(lines) + "; "


def _start_head(profile: Profile) -> str:
    host = "0.0.0.0" if profile.ray.dashboard == "cluster" else "127.0.0.1"
    own = ""
    if profile.kind == "onprem":
        own = f" --num-cpus={profile.head.ray_cpus}{start_options(profile.head.labels, profile.head.resources)}"
    return _begin(profile) + _program(
        profile,
        f"ray start --head --port={profile.ray.port} --disable-usage-stats --dashboard-host={host}"
        f" --dashboard-port={profile.ray.dashboard_port} --autoscaling-config=~/ray_bootstrap_config.yaml{own}",
    )


def _start_worker(profile: Profile) -> str:
    start = _program(profile, f"ray start --address=$RAY_HEAD_IP:{profile.ray.port} --disable-usage-stats")
    if profile.kind != "onprem":
        # On machines of a cloud, `ray up` itself tells each node its resources and labels.
        return _begin(profile) + start
    cases = []
    for group in profile.workers:
        options = f"--num-cpus={group.cpus} --num-gpus={group.gpus}{start_options(group.labels, group.resources)}"
        for host in group.hosts:
            cases.append(f"*' {host} '*) {start} {options} ;;")
    # All hosts get the same command; which group one belongs to follows from its address.
    unknown = "*) echo this host is not in the profile >&2; exit 1 ;;"
    return f'{_begin(profile)}case " $(hostname -I) " in {" ".join(cases)} {unknown} esac'
