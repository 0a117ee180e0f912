"""One node of several, each with a launcher of its own. `cluster/test_two_launchers.py` starts two on two hosts."""

import pytest
from launching import finish

from fd_scale.errors import BadInput
from fd_scale.launch import launch
from fd_scale.launch.environment import Node, free_port, rank_environment
from fd_scale.launch.nodes import this_node

TRAINER = {
    "PET_NNODES": "4",
    "PET_NODE_RANK": "2",
    "PET_MASTER_ADDR": "job-node-0-0.job",
    "PET_MASTER_PORT": "29400",
    "PET_NPROC_PER_NODE": "8",
}
INDEXED = {"PET_NNODES": "2", "JOB_COMPLETION_INDEX": "1", "PET_MASTER_ADDR": "job-0.job"}
STEP = {
    "SLURM_PROCID": "1",
    "SLURM_NODEID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "gpu[017-018]",
    "SLURM_JOB_ID": "1234567",
    "SLURM_STEP_ID": "2",
}
BATCH = {"SLURM_PROCID": "0", "SLURM_NODEID": "0", "SLURM_NNODES": "2", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "1234567"}


def place(environment, nproc=None, nnodes=None, node_rank=None, master_addr=None, master_port=None):
    node = this_node(nproc, nnodes, node_rank, master_addr, master_port, environment)
    return node and (node.first_rank, node.nproc, node.world_size, node.master_address, node.master_port)


@pytest.mark.parametrize(
    ("environment", "options", "expected"),
    [
        ({}, {}, None),
        ({}, {"nproc": 3}, None),
        ({}, {"nnodes": 1}, None),
        ({"PET_NNODES": "1", "PET_NODE_RANK": "0"}, {}, None),
        ({"RANK": "0", "WORLD_SIZE": "1"}, {}, None),
        ({**INDEXED, "RANK": "1", "WORLD_SIZE": "2"}, {"nproc": 2}, (2, 2, 4, "job-0.job", 29500)),  # both are told
        ({}, {"nproc": 3, "nnodes": 2, "node_rank": 1, "master_addr": "a"}, (3, 3, 6, "a", 29500)),
        ({}, {"nproc": 1, "nnodes": 2, "node_rank": 0, "master_addr": "a", "master_port": 5}, (0, 1, 2, "a", 5)),
        (TRAINER, {}, (16, 8, 32, "job-node-0-0.job", 29400)),
        (TRAINER, {"nproc": 1, "nnodes": 3, "node_rank": 0, "master_addr": "b"}, (0, 1, 3, "b", 29400)),
        ({**TRAINER, "PET_NPROC_PER_NODE": "auto"}, {}, (2, 1, 4, "job-node-0-0.job", 29400)),
        (INDEXED, {"nproc": 2}, (2, 2, 4, "job-0.job", 29500)),
        ({"JOB_COMPLETION_INDEX": "1"}, {}, None),  # a job of single machines
        (STEP, {"nproc": 8}, (8, 8, 16, "gpu017", 20538)),
        (STEP, {"nproc": 8, "master_port": 29500}, (8, 8, 16, "gpu017", 29500)),
        ({**STEP, "MASTER_ADDR": "head", "MASTER_PORT": "29501"}, {"nproc": 8}, (8, 8, 16, "head", 29501)),
        ({**STEP, "PMI_RANK": "1", "PMI_SIZE": "2"}, {"nproc": 8}, (8, 8, 16, "gpu017", 20538)),  # srun --mpi=pmi2
        (BATCH, {"nproc": 2}, None),  # a batch script is one process, whatever the job has
        ({**STEP, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, {"nproc": 8}, None),
    ],
)
def test_which_node_this_is(monkeypatch, environment, options, expected):
    monkeypatch.setattr("fd_scale.launch.nodes.default_nproc", lambda: 1)
    assert place(environment, **options) == expected


@pytest.mark.parametrize(
    ("environment", "options", "line"),
    [
        ({}, {"nnodes": 2, "node_rank": 2, "master_addr": "a"}, "--node-rank 2 is no number from 0 to 1"),
        ({}, {"nnodes": 1, "node_rank": 1}, "--node-rank 1 is no number from 0 to 0"),
        ({}, {"nnodes": 2, "node_rank": 0}, "--master-addr, a name of node 0"),
        ({}, {"nnodes": 2, "master_addr": "a"}, "--node-rank from 0 to 1"),
        ({}, {"node_rank": 0}, "--node-rank 0 is given, and --nnodes is not"),
        ({}, {"master_addr": "a"}, "--master-addr a is given, and --nnodes is not"),
        ({}, {"nnodes": 2, "node_rank": 0, "master_addr": "a;b"}, "'a;b' is neither a host nor an address"),
        ({**TRAINER, "PET_MASTER_ADDR": "-x"}, {}, "PET_MASTER_ADDR '-x'"),
        ({**TRAINER, "PET_NNODES": "1:4"}, {}, "PET_NNODES='1:4' in the environment"),
        ({**TRAINER, "PET_NODE_RANK": "4"}, {}, "PET_NODE_RANK='4' in the environment is no whole number from 0 to 3"),
        ({**TRAINER, "PET_MASTER_PORT": "0"}, {}, "PET_MASTER_PORT='0'"),
        ({**TRAINER, "PET_NPROC_PER_NODE": "all"}, {}, "PET_NPROC_PER_NODE='all'"),
        ({**INDEXED, "JOB_COMPLETION_INDEX": "x"}, {}, "PET_NODE_RANK='x'"),
        ({**STEP, "SLURM_STEP_NUM_TASKS": "4"}, {}, "srun started 4 tasks on 2 nodes"),
        ({**STEP, "SLURM_STEP_NODELIST": "gpu017"}, {}, "--ntasks-per-node=1"),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"}, {}, "Open MPI started 2 processes"),
        ({"PMI_RANK": "0", "PMI_SIZE": "2"}, {}, "leave `launch` out"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, {}, "RANK=1 and WORLD_SIZE=2 are set, as torchrun and deepspeed do"),
    ],
)
def test_what_is_lacking_or_cannot_be_is_named(environment, options, line):
    with pytest.raises(BadInput) as refused:
        place(environment, **options)
    assert line in str(refused.value)


def test_a_hostfile_and_nodes_exclude_each_other(tmp_path):
    with pytest.raises(BadInput, match="excludes --nnodes"):
        launch(["say"], hostfile=tmp_path / "hosts", nnodes=2)


def test_a_hostfile_is_for_one_launcher(monkeypatch, tmp_path):
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match="each would start all of"):
        launch(["say"], hostfile=tmp_path / "hosts")


def test_ranks_find_nothing_of_the_nodes_in_their_environment(monkeypatch, tmp_path):
    for name, value in {**TRAINER, **STEP}.items():
        monkeypatch.setenv(name, value)
    found = rank_environment(Node("here", 2, 2, 4, "a", 29500), 1, tmp_path)
    assert not set(TRAINER) & set(found)
    assert set(STEP) & set(found) == {"SLURM_JOB_ID"}
    assert (found["RANK"], found["LOCAL_RANK"], found["WORLD_SIZE"]) == ("3", "1", "4")


@pytest.mark.real_start
def test_two_launchers_make_one_world(launcher, tmp_path):
    """Launchers are the question. The second takes its place from the environment."""
    port = str(free_port())
    given = ["--nnodes", "2", "--node-rank", "0", "--master-addr", "127.0.0.1", "--master-port", port, "--nproc", "1"]
    first = launcher.start("launch", *given, "--", "all_reduce", tmp_path)
    launcher.environment |= {"PET_NNODES": "2", "PET_NODE_RANK": "1", "PET_NPROC_PER_NODE": "1"}
    launcher.environment |= {"PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": port}
    second = launcher.start("launch", "--", "all_reduce", tmp_path)
    assert finish(first) == finish(second) == (0, "", "")
    assert [launcher.read(f"sum_{rank}") for rank in range(2)] == ["3.0", "3.0"]
