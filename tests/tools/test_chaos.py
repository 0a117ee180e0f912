"""The short form of `tools/chaos`: three kills, damage, a full disk, another number of processes."""

import re
import subprocess
import sys

from support.helpers import REPOSITORY


def test_no_kill_and_no_damage_changes_the_end_of_a_run():
    command = [sys.executable, "-m", "tools.chaos", "--kills", "3"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = {what: int(count) for count, what in re.findall(r"^ +(\d+)  (.+)$", done.stdout, re.MULTILINE)}
    assert counts["kills"] == 3
    assert counts["kills inside saving"] >= 1
    assert counts["flip a bit"] >= 1
    assert counts["changes of the number of processes"] == 1
    assert counts["phases compared, bit-equal"] == 2
