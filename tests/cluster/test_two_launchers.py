"""One launcher on each host and no ssh between them."""

import os
import sys

from tasks.running import distilled, in_folder, losses, up_to

LAUNCH = [sys.executable, "-m", "fd_scale", "launch"]


def test_a_launcher_on_each_host_makes_one_run(network, shards, teacher_file, tmp_path):
    whole, arguments = distilled(shards, teacher_file)
    folder = tmp_path / "run"
    nodes = [
        host.start(
            [
                *LAUNCH,
                *("--nnodes", "2", "--node-rank", str(host.number - 1), "--master-addr", "node1", "--nproc", "1"),
                *("--", *in_folder(arguments, folder), "run.stop_at=2"),
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for host in network.hosts
    ]
    assert [node.wait(timeout=300) for node in nodes] == [0, 0]
    assert losses(folder) == up_to(2, losses(whole))
