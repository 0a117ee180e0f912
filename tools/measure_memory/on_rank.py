"""Run one verb of `fd-scale` in this process; leave what its imports took, and then the peak of its live tensors.

The imports come before anything is measured, those included that DeepSpeed does later. The profiler keeps records that
resident memory would count, so it runs on one rank and not on the other. Started once for each rank:
`python -m tools.measure_memory.on_rank FOLDER PROFILED_RANK VERB ...`.
"""

import json
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import deepspeed  # noqa: F401
import functorch.compile  # type: ignore[import-untyped]  # noqa: F401

from fd_scale import cli
from fd_scale.tasks import distillation, finetuning  # noqa: F401
from tools.measure_memory.live import LivePeak
from tools.measure_memory.processes import imported


def main() -> None:
    folder, rank = Path(sys.argv[1]), os.environ["RANK"]
    begun = {"pid": os.getpid(), "imports": imported()}
    unfinished = folder / f"begun_{rank}.new"
    unfinished.write_text(json.dumps(begun))
    unfinished.rename(folder / f"begun_{rank}.json")
    code: object = 0
    live = LivePeak() if rank == sys.argv[2] else None
    with live or nullcontext():
        try:
            cli.main(sys.argv[3:])
        except SystemExit as ended:
            code = ended.code
        until = time.time()  # what reading the events takes is not the job's
    (folder / f"ended_{rank}.json").write_text(json.dumps({"live": live.peak if live else None, "until": until}))
    sys.exit(code)  # type: ignore[arg-type]


main()
