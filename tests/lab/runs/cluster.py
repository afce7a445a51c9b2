"""A Ray cluster of two nodes on this machine, one of which is killed in the midst of its job.

    python -m tests.lab.runs.cluster FOLDER

Runs a sweep on it, and prints how many nodes were left. Its own process, because Ray looks for a way to other machines.
"""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.sweep import sweep
from convexnet.lab.studies import table1
from convexnet.lab.training.checkpoints import NAME
from tests.lab import small


def jobs() -> list[Job]:
    """Three runs, long enough for a node to be killed in the midst of one."""
    return [small.job("mlp", epochs=25, seed=seed) for seed in range(3)]


def main(folder: Path) -> None:
    """Start, sweep, kill, and wait for the end."""
    import ray  # here, because the tests read `jobs` when they are collected
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)

    def kill() -> None:
        while len(list(folder.glob(f"runs/*/{NAME}"))) < 2:  # both nodes are in the midst of a job
            time.sleep(0.05)
        cluster.remove_node(nodes[0], allow_graceful=False)

    threading.Thread(target=kill, daemon=True).start()
    asked = [*jobs(), replace(jobs()[0], dataset="npz:nowhere.npz")]
    outcome = sweep(table1.STUDY, asked, small.place(folder / "runs"), folder / "results", ray=cluster.address)
    ((_, error),) = outcome.failed
    assert "nowhere.npz" in error.splitlines()[0], error
    print(sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes()))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
