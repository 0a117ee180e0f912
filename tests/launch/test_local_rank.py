"""The option that older launchers give each rank is answered with the fix."""

import pytest

from fd_scale.cli import main
from fd_scale.errors import BadInput
from fd_scale.launch.environment import refuse_local_rank


@pytest.mark.parametrize(
    "words",
    [["--local-rank=0", "distill", "x.yaml"], ["--local_rank=1", "plan"], ["finetune", "y", "--local-rank", "0"]],
)
def test_a_local_rank_on_the_command_line_gets_a_line_with_the_fix(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "torch.distributed.launch --use-env, deepspeed --no_local_rank, or start with torchrun" in line


def test_downstream_says_the_same():
    program = pytest.importorskip("fd_scale_downstream.__main__", reason="MMSegmentation is absent")
    with pytest.raises(BadInput, match="LOCAL_RANK says the same"):
        program.main(["--local-rank=0", "train", "config.py"])


def test_what_is_launched_is_not_looked_at():
    refuse_local_rank(["launch", "--nproc", "2", "--", "verb", "--local-rank=0"])
