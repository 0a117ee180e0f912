"""`status`: how runs are doing."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fd_scale.errors import BadInput
from fd_scale.fields import Count
from fd_scale.verbs.verb import Argument, Option, verb

if TYPE_CHECKING:
    from fd_scale.watching.state import RunState


def _show(states: "Sequence[RunState]", json: bool, logs: bool, **given: Any) -> None:
    from fd_scale.watching.words import in_words

    if json:
        print(_as_json(states))
    elif not logs:
        print("\n\n".join(in_words(state) for state in states))


def _as_json(states: "Sequence[RunState]") -> str:
    return json.dumps([asdict(state) for state in states], indent=1)


@verb(
    "fd-scale status runs/mine\n"
    "  fd-scale status runs/* --json\n"
    "  fd-scale status runs/mine --logs --last 50     # the logs of all ranks, by time",
    show=_show,
)
def status(
    folders: Annotated[Sequence[str], Argument("run folders, of runs that train or have ended", "RUN")],
    *,
    json: Annotated[bool, Option("print JSON instead of words")] = False,
    logs: Annotated[bool, Option("print the logs of all ranks instead, merged by time")] = False,
    last: Annotated[Count | None, Option("with --logs: only so many of their last entries", "N")] = None,
) -> "list[RunState]":
    """Show how runs are doing: step, loss, time left, last checkpoint, hosts, who is slow.

    Works while a run trains, from any host that sees its folder, and reads only.

    Returns:
        A list of `fd_scale.watching.state.RunState`, one a folder; none with `logs`, which prints.
    """
    from fd_scale.watching.logs import merged
    from fd_scale.watching.state import run_state

    if isinstance(folders, str):
        folders = [folders]
    if not folders:
        raise BadInput("no run folder; give one or more, such as fd-scale status runs/mine")
    if json and logs:
        raise BadInput("--json and --logs exclude each other: logs are lines of text")
    if last is not None and not logs:
        raise BadInput(f"--last {last} is for --logs; give both, or none")
    if not logs:
        return [run_state(Path(folder), say=_say) for folder in folders]
    for folder in folders:
        for line in merged(Path(folder), last):
            print(line)
    return []


def _say(line: str) -> None:
    print(line, file=sys.stderr)
