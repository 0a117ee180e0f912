import pytest

from fd_scale.errors import BadInput
from fd_scale.launch import plan_nodes
from fd_scale.launch.environment import forwarded_environment
from fd_scale.launch.hostfile import read_hostfile


def write(tmp_path, text: str):
    path = tmp_path / "hosts"
    path.write_text(text)
    return path


def test_hosts_keep_their_order_and_slots(tmp_path):
    path = write(tmp_path, "# two machines\n\nnode-b slots=8  # the big one\n  user@node-a.local slots=2\n")
    assert list(read_hostfile(path).items()) == [("node-b", 8), ("user@node-a.local", 2)]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a slots=2\nb\n", "line 2"),
        ("a slots=0\n", "line 1"),
        ("a slots=two\n", "line 1"),
        ("a slots=2 gpus=3\n", "line 1"),
        ("-oProxyCommand=id slots=1\n", "not a host name"),
        ("a;reboot slots=1\n", "not a host name"),
        ("$(id) slots=1\n", "not a host name"),
        ("a slots=1\n\na slots=2\n", "line 3.*twice"),
        ("# nothing\n", "names no host"),
        ("localhost slots=1\nnode-b slots=1\n", "localhost"),
    ],
)
def test_bad_line_is_named(tmp_path, text, named):
    with pytest.raises(BadInput, match=named):
        read_hostfile(write(tmp_path, text))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(BadInput, match="nowhere"):
        read_hostfile(tmp_path / "nowhere")


def test_ranks_are_numbered_in_the_order_of_hosts_with_different_slots():
    nodes = plan_nodes({"user@b": 3, "a": 1, "c": 2}, master_port=29500)
    assert [(node.host, node.nproc, node.first_rank) for node in nodes] == [("user@b", 3, 0), ("a", 1, 3), ("c", 2, 4)]
    assert {(node.world_size, node.master_address, node.master_port) for node in nodes} == {(6, "b", 29500)}


def test_what_ranks_need_to_reach_stores_and_trackers_goes_to_other_hosts():
    environment = {
        "PYTHONPATH": "src",
        "NCCL_DEBUG": "INFO",
        "FD_SCALE_NOTE": "x",
        "HF_TOKEN": "secret",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "MLFLOW_TRACKING_PASSWORD": "secret",
    }
    others = {
        "FD_SCALE_SSH": "ssh -i key",
        "FD_SCALE_ERROR_FOLDER": "/tmp/x",
        "GITHUB_TOKEN": "secret",
        "PATH": "/bin",
        "MY_PYTHONPATH": "no",
    }
    assert forwarded_environment({**environment, **others}) == environment
