"""Ray of three nodes, real processes all, until standard input closes; prints its address."""

import os
import sys
import tempfile

from clusters import connect  # noqa: F401 - sets what Ray reads on import

from ray.cluster_utils import Cluster  # isort: skip

ROOM = {"object_store_memory": 100 * 2**20}

if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="dn-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        # Also the file by which a search beside it would find the cluster.
        os.environ["RAY_TMPDIR"] = folder
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **ROOM})
        try:
            made.add_node(num_cpus=2, **ROOM)
            made.add_node(num_cpus=1, resources={"latency_slot": 1}, labels={"defectnas/device": "jetson"}, **ROOM)
            print(made.address, flush=True)
            sys.stdin.read()
        finally:
            made.shutdown()
