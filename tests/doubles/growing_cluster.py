"""Ray's head with its own autoscaler, whose new nodes are processes of this machine, until standard input closes.

Prints its address. It can grow by one node, with a label and a latency slot.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

HEAD = "f" * 51 + "00000"
SMALL = {"object_store_memory": 80 * 2**20}


def group(most, labels, **resources):
    return {"resources": {**resources, **SMALL}, "labels": labels, "node_config": {}, "max_workers": most}


def settings(address):
    provider = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "launch_multiple": True,
        "head_node_id": HEAD,
        "gcs_address": address,
    }
    lists = (
        "setup_commands",
        "head_setup_commands",
        "worker_setup_commands",
        "initialization_commands",
        "cluster_synced_files",
    )
    return {
        "cluster_name": "growing",
        "max_workers": 1,
        "provider": provider,
        "auth": {"ssh_user": "nobody"},
        "docker": {},
        "file_mounts": {},
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": group(0, {}, CPU=1),
            "board": group(1, {"defectnas/device": "jetson"}, CPU=1, latency_slot=1),
        },
        **{name: [] for name in (*lists, "head_start_ray_commands", "worker_start_ray_commands")},
    }


if __name__ == "__main__":
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {
        "RAY_AUTH_MODE": "disabled",
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
    }
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="g", ignore_cleanup_errors=True) as root:
        config = Path(root) / "c.json"
        config.write_text(json.dumps(settings(f"127.0.0.1:{port}")))
        words = [
            *(str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--port={port}"),
            *("--node-ip-address=127.0.0.1", "--num-cpus=1", f"--object-store-memory={SMALL['object_store_memory']}"),
            *("--include-dashboard=false", "--disable-usage-stats"),
            *(f"--autoscaling-config={config}", f"--temp-dir={root}/r"),
        ]
        head = subprocess.Popen(
            words, env={**os.environ, **told, "TMPDIR": root}, stdout=subprocess.DEVNULL, start_new_session=True
        )
        print(f"127.0.0.1:{port}", flush=True)
        sys.stdin.read()
        # Its nodes are children of the autoscaler, which does not end them.
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()
