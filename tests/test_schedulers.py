"""Ranks as Slurm's and MPI's launchers describe them; `tasks/test_started_by_schedulers.py` starts real ones."""

import pytest

from fd_scale.errors import BadInput
from fd_scale.launch.environment import Node, rank_environment
from fd_scale.schedulers import hosts_of, torchrun_variables

STEP = {
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NODELIST": "gpu[017-018]",
    "SLURM_JOB_ID": "1234567",
    "SLURM_STEP_ID": "2",
}
BATCH = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "8", "SLURM_NPROCS": "8", "SLURM_JOB_ID": "1234567"}
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"}
HYDRA = {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1"}
MVAPICH = {"MV2_COMM_WORLD_RANK": "3", "MV2_COMM_WORLD_LOCAL_RANK": "1", "MV2_COMM_WORLD_SIZE": "4"}
MEETING = {"MASTER_ADDR": "head", "MASTER_PORT": "29500"}
FOURTH = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", **MEETING}
SIXTH = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "MASTER_ADDR": "gpu017", "MASTER_PORT": "20538"}


@pytest.mark.parametrize(
    ("environment", "variables"),
    [
        ({}, {}),
        (STEP, SIXTH),
        (BATCH, {}),  # `python` in a batch script is one process, whatever the job has
        ({**STEP, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, {}),
        ({**STEP, **MEETING}, {**SIXTH, **MEETING}),
        ({**STEP, "MASTER_PORT": "29500"}, {**SIXTH, "MASTER_PORT": "29500"}),
        ({**STEP, "CUDA_VISIBLE_DEVICES": "3"}, {**SIXTH, "LOCAL_RANK": "0"}),  # --gpus-per-task=1
        ({**STEP, "CUDA_VISIBLE_DEVICES": "2,3"}, SIXTH),
        ({**OPEN_MPI, **MEETING}, FOURTH),
        ({**HYDRA, **MEETING}, FOURTH),
        ({**MVAPICH, **MEETING}, FOURTH),
        ({"PMI_RANK": "0", "PMI_SIZE": "1", "MPI_LOCALRANKID": "0"}, {}),
        # mpirun in a Slurm job: the step is that of its daemons
        ({**STEP, "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", **OPEN_MPI, **MEETING}, FOURTH),
        # srun --mpi=pmi2: both say the same, and Slurm says more
        ({**STEP, "PMI_RANK": "5", "PMI_SIZE": "8"}, SIXTH),
    ],
)
def test_what_a_launcher_says_in_torchruns_words(environment, variables):
    assert torchrun_variables(environment) == variables


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({**STEP, "SLURM_PROCID": "abc"}, "SLURM_PROCID='abc' in the environment is no number; set RANK"),
        ({**STEP, "SLURM_PROCID": "-1"}, "SLURM_PROCID='-1'"),
        ({**STEP, "SLURM_PROCID": "8"}, "SLURM_PROCID=8 with SLURM_STEP_NUM_TASKS=8"),
        ({**STEP, "SLURM_STEP_NUM_TASKS": ""}, "SLURM_STEP_NUM_TASKS=''"),
        ({**STEP, "SLURM_JOB_ID": "12.3"}, "SLURM_JOB_ID='12.3'"),
        ({**STEP, "SLURM_LOCALID": "x"}, "SLURM_LOCALID='x'"),
        ({"WORLD_SIZE": "8", **MEETING}, "WORLD_SIZE=8 is set in the environment, and RANK is not"),
        ({**STEP, "SLURM_STEP_NODELIST": "gpu[1"}, "'gpu[1' is no node list of Slurm"),
        ({name: value for name, value in STEP.items() if name != "SLURM_PROCID"}, "SLURM_PROCID is not set"),
        ({name: value for name, value in STEP.items() if name != "SLURM_STEP_NODELIST"}, "set MASTER_ADDR"),
        (OPEN_MPI, "Open MPI started 4 ranks and does not say where they meet: set MASTER_ADDR and MASTER_PORT"),
        ({**HYDRA, "MASTER_ADDR": "head"}, "MPICH or Intel MPI started 4 ranks and .*: set MASTER_PORT for"),
        ({"PMI_RANK": "3", "PMI_SIZE": "4", **MEETING}, "there is no MPI_LOCALRANKID or PMI_LOCAL_RANK"),
        ({"OMPI_COMM_WORLD_SIZE": "4", **MEETING}, "OMPI_COMM_WORLD_RANK is not set"),
    ],
)
def test_what_is_wrong_or_lacks_is_refused_in_a_line_that_names_it(environment, line):
    with pytest.raises(BadInput, match=line.replace("[", r"\[")):
        torchrun_variables(environment)


def test_every_rank_of_a_step_meets_at_one_port_and_other_steps_at_others():
    ports = {
        torchrun_variables({**STEP, "SLURM_PROCID": str(rank), "SLURM_STEP_ID": str(step), "SLURM_JOB_ID": str(job)})[
            "MASTER_PORT"
        ]
        for rank in range(8)
        for step in range(3)
        for job in range(1234567, 1234667)
    }
    assert len(ports) == 3 * 100
    assert all(20_000 <= int(port) < 32_000 for port in ports)


@pytest.mark.parametrize(
    ("node_list", "hosts"),
    [
        ("vm", ["vm"]),
        ("node[001-003,7],gpu-a", ["node001", "node002", "node003", "node7", "gpu-a"]),
        ("jrc[0454-0455]", ["jrc0454", "jrc0455"]),
        ("nid[08,10-11]", ["nid08", "nid10", "nid11"]),
        ("nid[099-101]", ["nid099", "nid100", "nid101"]),
        ("a1,a2", ["a1", "a2"]),
        ("rack[1-2]n[09-10]", ["rack1n09", "rack1n10", "rack2n09", "rack2n10"]),
        ("r1i[0-1]n[3,5].local", ["r1i0n3.local", "r1i0n5.local", "r1i1n3.local", "r1i1n5.local"]),
        ("ip-10-0-0-[1-2]", ["ip-10-0-0-1", "ip-10-0-0-2"]),
        ("queue1-dy-compute1-[1-2],queue1-st-a-1", ["queue1-dy-compute1-1", "queue1-dy-compute1-2", "queue1-st-a-1"]),
        ("", []),
    ],
)
def test_node_lists(node_list, hosts):
    assert hosts_of(node_list) == hosts


@pytest.mark.parametrize(
    "node_list", ["n[1", "n1]", "n[]", "n[a-b]", "n[3-1]", "n[1-]", ",n1", "n1,", "n[[1]]", "n[1,]"]
)
def test_what_is_no_node_list_is_refused(node_list):
    with pytest.raises(BadInput, match="is no node list of Slurm"):
        hosts_of(node_list)


def test_a_node_list_cannot_fill_the_memory():
    with pytest.raises(BadInput, match="is no node list"):
        hosts_of("n[0-99999999999]")


def test_launch_hands_on_no_rank_but_its_own(monkeypatch, tmp_path):
    for name, value in {**STEP, **OPEN_MPI, **HYDRA, "PMIX_RANK": "3", "SLURM_JOB_NAME": "mine"}.items():
        monkeypatch.setenv(name, value)
    given = rank_environment(Node("here", 2, 0, 2, "127.0.0.1", 29500), 1, tmp_path)
    assert given["RANK"] == "1"
    assert given["WORLD_SIZE"] == "2"
    assert given["SLURM_JOB_ID"] == "1234567"  # facts of the job stay
    assert given["SLURM_JOB_NAME"] == "mine"
    left = [name for name in given if name.startswith(("SLURM_", "OMPI_", "PMI", "MPI_"))]
    assert sorted(left) == ["SLURM_JOB_ID", "SLURM_JOB_NAME"]
