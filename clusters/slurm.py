"""The batch script of a profile: Ray on the nodes that Slurm grants, the command on the first of them."""

import json
import shlex

from clusters.command import Job, entrypoint
from clusters.profile import Profile

# Slurm takes the node away at the end of the time limit; so long before, the search is asked to stop.
_NOTICE_S = 120

_HEAD = """\
# Written by `defectnas cluster render` from a profile: change that, not this.
set -euo pipefail
"""

_PLACES = """\
head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | awk 'NR == 1')
# Many systems call themselves 127.0.1.1, where no other node reaches them.
head_ip=$(getent ahostsv4 "$head_node" | awk '$1 !~ /^127[.]/ && !found { print $1; found = 1 }')
head_ip=${head_ip:-$(hostname -I | awk '{ print $1 }')}
# Jobs of several users may share a node: each has ports and a temporary folder of its own.
ports=$((20000 + SLURM_JOB_ID % 600 * 20))
temporary=/tmp/ray-$SLURM_JOB_ID
address=$head_ip:$ports
"""

_TOKEN = """\
# Known to the processes of this job alone; nothing is written to a file.
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \\n')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token
"""

_START = """\
start_ray() {{
    # $1: nodes, $2: the option of srun that names them, the others: options of ray start.
    local nodes=$1 which=$2
    shift 2
    srun --overlap --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 --cpus-per-task={cpus} "$which" \\
        {ray} start --block --num-cpus={cpus} --num-gpus={gpus}{tags} \\
        --temp-dir="$temporary" --disable-usage-stats \\
        --object-manager-port=$((ports + 2)) --node-manager-port=$((ports + 3)) \\
        --dashboard-agent-listen-port=$((ports + 4)) --dashboard-agent-grpc-port=$((ports + 5)) \\
        --runtime-env-agent-port=$((ports + 6)) --metrics-export-port=$((ports + 7)) "$@" &
    ray+=($!)
}}

ray=()
trap '
    kill -TERM "${{ray[@]}}" 2> /dev/null || true
    wait "${{ray[@]}}" 2> /dev/null || true
    srun --overlap --ntasks-per-node=1 rm -rf "$temporary" || true
' EXIT

start_ray 1 --nodelist="$head_node" --head --node-ip-address="$head_ip" --port="$ports" \\
    --dashboard-host={dashboard} --dashboard-port=$((ports + 1)) --ray-client-server-port=$((ports + 8))
if ((SLURM_JOB_NUM_NODES > 1)); then
    start_ray "$((SLURM_JOB_NUM_NODES - 1))" --exclude="$head_node" --address="$address"
fi
"""

_RUN = """\
export RAY_ADDRESS=$address
{command} &
driver=$!

stopping=0
trap 'stopping=1; kill -TERM "$driver" 2> /dev/null || true' TERM
code=0
wait "$driver" || code=$?
# A signal ends `wait`, not the search, which still writes its checkpoint.
while kill -0 "$driver" 2> /dev/null; do
    code=0
    wait "$driver" || code=$?
done

if ((stopping)) && ((code != 0)) && ((${{SLURM_RESTART_COUNT:-0}} < {retries})); then
    echo "the time limit came first; the job goes on when it is granted again"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


def batch_script(profile: Profile, job: Job) -> str:
    """Return the text for `sbatch`: a job that is queued anew at its time limit, and then goes on."""
    group = profile.workers[0]
    container = _container(profile)
    program = f"{profile.image.bin}/" if profile.image.bin else container
    start = _START.format(
        ray=f"{program}ray",
        cpus=group.cpus,
        gpus=group.gpus,
        tags=start_options(group.labels, group.resources),
        dashboard="0.0.0.0" if profile.ray.dashboard == "cluster" else "127.0.0.1",
    )
    command = container + entrypoint(profile, job, nodes='"$SLURM_JOB_NUM_NODES"')
    run = _RUN.format(command=command, retries=profile.limits.retries)
    token = _TOKEN if profile.security.token else "export RAY_AUTH_MODE=disabled\n"
    parts = ["\n".join(_directives(profile, job)) + "\n", _HEAD, exports(profile), token + _PLACES, start, run]
    return "#!/bin/bash\n" + "\n".join(part for part in parts if part)


def exports(profile: Profile) -> str:
    """Return the shell lines that set a profile's environment; secrets are read from their files when they run."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in profile.environment.items()]
    for secret in profile.secrets:
        lines.append(f"{secret.variable}=$(cat {shlex.quote(secret.file)})")
        lines.append(f"export {secret.variable}")
    return "".join(f"{line}\n" for line in lines)


def start_options(labels: object, resources: object) -> str:
    """Return the options of `ray start` for a node's labels and custom resources, quoted for a shell."""
    options = ""
    if labels:
        pairs = ",".join(f"{name}={value}" for name, value in dict(labels).items())  # type: ignore[call-overload]
        options += f" --labels={shlex.quote(pairs)}"
    if resources:
        options += f" --resources={shlex.quote(json.dumps(dict(resources)))}"  # type: ignore[call-overload]
    return options


def _directives(profile: Profile, job: Job) -> list[str]:
    group, slurm = profile.workers[0], profile.slurm
    nodes = str(group.max) if group.min == group.max else f"{group.min}-{group.max}"
    options = {
        "job-name": job.id,
        # Jobs of one name and user run one after the other, and the later one finds the run done.
        "dependency": "singleton",
        "nodes": nodes,
        "ntasks-per-node": "1",
        "cpus-per-task": str(group.cpus),
        "mem": f"{group.memory_gib}G",
        "gpus-per-node": ":".join(filter(None, [group.gpu_type, str(group.gpus)])) if group.gpus else "",
        "time": str(profile.limits.minutes) if profile.limits.minutes else "",
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "constraint": slurm.constraint,
        "signal": f"B:TERM@{_NOTICE_S}",
        "open-mode": "append",
        "output": f"{job.id}-%j.log",
    }
    return [*(f"#SBATCH --{name}={value}" for name, value in options.items() if value), "#SBATCH --requeue"]


def _container(profile: Profile) -> str:
    if not profile.image.name:
        return ""
    gpus = "--nv " if profile.workers[0].gpus else ""
    mount = profile.storage.mount
    return f"apptainer exec {gpus}--bind {shlex.quote(f'{mount}:{mount}')} docker://{profile.image.name} "
