"""DeepSpeed's own launcher over Open MPI: one world, or a line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cluster.hosts import SSHD
from tasks.running import distilled, in_folder, losses, up_to

DEEPSPEED = Path(sys.executable).with_name("deepspeed")


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="needs mpirun (apt-get install openmpi-bin)")
@pytest.mark.skipif(SSHD is None, reason="needs sshd (apt-get install openssh-server)")
def test_deepspeed_over_open_mpi_says_what_it_lacks_and_then_makes_one_run(network, shards, teacher_file, tmp_path):
    whole, arguments = distilled(shards, teacher_file)
    folder = tmp_path / "run"
    said = tmp_path / "deepspeed_env"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ENV_FILE": str(said), "DS_ACCELERATOR": "cpu"}
    environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    agent = f"--mca plm_rsh_agent '{network.serve_ssh()}'"
    words = [DEEPSPEED, "--hostfile", network.hostfile(), "--no_ssh_check", "--master_addr", "node1"]
    words += ["--launcher", "openmpi", f"--launcher_args={agent}", "--module", "fd_scale"]
    words += [*in_folder(arguments, folder), "run.stop_at=2"]

    def start() -> subprocess.CompletedProcess[str]:
        return network.hosts[0].run(words, env=environment, cwd=tmp_path)

    refused = start()
    assert refused.returncode == 2, refused.stderr
    assert "fd-scale: Open MPI started 2 ranks and does not say where they meet: set MASTER_ADDR" in refused.stderr
    assert not folder.exists()
    said.write_text(f"MASTER_ADDR=node1\nMASTER_PORT=29500\nPYTHONPATH={os.environ.get('PYTHONPATH', '')}\n")
    done = start()
    assert done.returncode == 0, done.stderr
    assert losses(folder) == up_to(2, losses(whole))
