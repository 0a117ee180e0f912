"""What ends a process, turned into the exit contract of `fd_scale.errors`: one line and a code.

Under `fd-scale launch` a rank does not print its line. It leaves a record in the folder named by FD_SCALE_ERROR_FOLDER,
and the launcher prints the line of the first rank that failed.

Libraries report a lost peer by many exceptions; they are recognised here by type name and message, because this
module must load in milliseconds and so never imports torch. Leaves out: NCCL's watchdog, which aborts the process from
a thread of its own without any Python exception.
"""

import atexit
import contextlib
import errno
import io
import json
import os
import re
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from fd_scale.errors import EXIT_BUG, BadInput, Expected, Retry
from fd_scale.files import PARTIAL, disk_is_full
from fd_scale.interfaces import FIX, GLOO, loopback_address
from fd_scale.output import guard_output
from fd_scale.redaction import redacted_text
from fd_scale.signals import ended_by_signals

ERROR_FOLDER = "FD_SCALE_ERROR_FOLDER"
EXIT_INTERRUPTED = 130  # what a shell reports for Ctrl-C
EXIT_BROKEN_PIPE = 141  # what a shell reports for SIGPIPE, as in `fd-scale plan CONFIG | head -1`
START_AGAIN = "start the same command again to resume"
LINE_LENGTH = 300  # of a library's message that a line quotes

# Messages of gloo, NCCL and c10d stores when the other end is gone; of torch's DataLoader when the kernel or an
# operator took a worker away. A worker that crashed by itself (segmentation fault) is a bug and not listed.
LOST_PEER = re.compile(
    r"Connection closed by peer|Connection reset|Timed out waiting|Application timeout caused pair closure"
    r"|ncclRemoteError|remote process exited|NCCL communicator was aborted|failed to recv, got 0 bytes",
)
LOST_WORKER = re.compile(r"DataLoader worker \(pid \d+\) is killed by signal: (Killed|Terminated|Hangup)")
# What torch's allocators of CUDA and of the host say; Python's own MemoryError is left a bug.
OUT_OF_MEMORY = re.compile(
    r"(\w+ (error: )?out of memory|DefaultCPUAllocator: can't allocate memory)[.:]? ?([^.\n]*(\.\d+ \w+)?)"
)
ADDRESS_IN_USE = re.compile(r"EADDRINUSE|address already in use", re.IGNORECASE)
CLAIMED_ABSENT = re.compile(r"No such file or directory: (/.+)")  # what safetensors says of any file it cannot open
# What the system says of a place in the file system that somebody named. Other errors of files are left bugs.
REFUSED = (
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENAMETOOLONG,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.ENXIO,
)
# What it says of storage that may answer the next time: a disk, or a server of a network file system.
AWAY = (
    errno.EIO,
    errno.ESTALE,
    errno.ENOTCONN,
    errno.ETIMEDOUT,
    errno.EREMOTEIO,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ENODEV,
)
NO_MESH = "Gloo connectFullMesh failed"
# A DistBackendError that no restart can cure, for example two ranks on one GPU.
NCCL_MISUSE = re.compile(r"ncclInvalidUsage|ncclInvalidArgument|unhandled cuda error", re.IGNORECASE)


@dataclass(frozen=True)
class Failure:
    """Why a rank, or a host full of ranks, did not end with 0.

    `lost_peer`: the rank only suffered from the end of another one, whose failure tells more.
    `tail`: the end of the log, for failures that explain themselves there and nowhere else.
    """

    exit_code: int
    line: str
    time: float
    lost_peer: bool = False
    tail: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self))  # in ASCII: a line may quote a name that is not UTF-8

    @classmethod
    def from_json(cls, text: str) -> "Failure":
        return cls(**json.loads(text))


class LostPeer(Retry):
    """Another rank ended; its own failure is the one to report."""


def run_to_exit_code(function: Callable[[], int | None]) -> int:
    """Run `function`, print or record the line that goes with its end, and return the code to hand to `sys.exit`.

    From here on the process prints and logs no secrets. SystemExit passes through. After a failure inside a process
    group it does not return but ends the process. SIGTERM and SIGHUP end it with a line and 75 until the function takes
    them for itself.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # as on stderr: a name that the terminal lacks is no failure
    guard_output()
    try:
        with ended_by_signals(_end_by_signal):
            code = function() or 0
            sys.stdout.flush()  # a closed pipe shows here, and not as noise when the interpreter ends
        return code
    except KeyboardInterrupt:
        code = _say(EXIT_INTERRUPTED, "interrupted")
    except Exception as error:
        code = _exit_code_of(error)
    if _in_process_group():
        _end_without_destructors(code)
    return code


def end_at_once(error: Expected) -> NoReturn:
    """End the process by contract from any thread, for when the main one hangs.

    Runs no exit functions: those wait for threads and processes that may hang as well.
    """
    os._exit(_say(error.exit_code, str(error)))


def expected_error(error: BaseException) -> Expected | None:
    """The contract's error for an expected error, or for a known one of a library; None for a bug."""
    if isinstance(error, Expected):
        return error
    text = str(error)
    cause: BaseException | None = error
    while cause is not None:
        if LOST_WORKER.search(str(cause)):
            return Retry(f"{this_rank()}: {_quote(str(cause))}: out of memory or preempted; {START_AGAIN}")
        cause = cause.__cause__
    if disk_is_full(error):
        where = error.filename or "the disk of the run folder, of its checkpoints or of temporary files"
        return BadInput(f"{this_rank()}: no space left on {where}; free space there and {START_AGAIN}")
    if isinstance(error, OSError) and error.filename is not None and error.errno in REFUSED:
        where = _quote(str(error.filename))
        return BadInput(f"{this_rank()}: {where}: {error.strerror}; choose another place, or make this one accessible")
    claimed = CLAIMED_ABSENT.fullmatch(text) if isinstance(error, FileNotFoundError) and error.errno is None else None
    if claimed and Path(claimed[1]).exists():
        return BadInput(f"{this_rank()}: {_quote(claimed[1])} cannot be read by this user; make it accessible")
    if isinstance(error, OSError) and error.errno in AWAY and not isinstance(error, ConnectionError):
        where = f"{_quote(str(error.filename))}: " if error.filename is not None else ""
        return Retry(f"{this_rank()}: {where}{error.strerror}: storage does not answer; {START_AGAIN}")
    if isinstance(error, RuntimeError) and (short := OUT_OF_MEMORY.search(text)):
        return BadInput(
            f"{this_rank()}: {short[0].strip()}; lower train.micro_batch, set parallel.recompute=all, or spread the "
            f"model further (parallel.deepspeed, more ranks): `fd-scale plan CONFIG` shows what each takes"
        )
    type_name = type(error).__name__
    if isinstance(error, (OSError, RuntimeError)) and ADDRESS_IN_USE.search(text):
        port, address = os.environ.get("MASTER_PORT", "?"), os.environ.get("MASTER_ADDR", "this machine")
        return BadInput(
            f"port {port} on {address} is in use: another job runs there; choose a port with --master-port, or with "
            f"MASTER_PORT under srun and mpirun"
        )
    if isinstance(error, RuntimeError) and NO_MESH in text:
        if not os.environ.get(GLOO) and (loopback_address() or "[127." in text):
            return BadInput(f"{this_rank()}: a host's own name stands for an address that no other reaches: {FIX}")
        return LostPeer(
            f"{this_rank()} cannot connect to all others: {_quote(text)}; {START_AGAIN}, or open the ports between the "
            f"hosts"
        )
    if (
        type_name in ("DistNetworkError", "DistStoreError")
        or (type_name == "DistBackendError" and not NCCL_MISUSE.search(text))
        or (isinstance(error, RuntimeError) and LOST_PEER.search(text))
        or isinstance(error, ConnectionError)
    ):
        return LostPeer(f"{this_rank()} lost its peers: {_quote(text)}; {START_AGAIN}")
    return None


def this_rank() -> str:
    """Name of this process for people: 'rank 3 (host)' where a launcher gave it a rank, else the host's."""
    host = socket.gethostname()
    return f"rank {os.environ['RANK']} ({host})" if "RANK" in os.environ else host


def is_first_rank() -> bool:
    """Whether this process speaks for all: rank 0, or one that no launcher gave a rank."""
    return os.environ.get("RANK", "0").strip() in ("0", "")


def record_path(folder: Path, rank: int | str) -> Path:
    return folder / f"rank_{rank}.json"


def _exit_code_of(error: Exception) -> int:
    if isinstance(error, BrokenPipeError) and _stdout_is_closed():
        return EXIT_BROKEN_PIPE
    expected = expected_error(error)
    if expected is None:
        traceback.print_exc()
        line = f"{this_rank()} hit a bug: {type(error).__name__}: {_quote(str(error))}"
        _record(Failure(EXIT_BUG, line, time.time()))
        return EXIT_BUG
    if expected.agreed and not is_first_rank() and ERROR_FOLDER not in os.environ:
        return expected.exit_code  # every rank has this line; rank 0 prints it
    return _say(expected.exit_code, str(expected), lost_peer=isinstance(expected, LostPeer))


def _say(exit_code: int, line: str, lost_peer: bool = False) -> int:
    if not _record(Failure(exit_code, line, time.time(), lost_peer)):
        with contextlib.suppress(OSError):  # a terminal that has gone
            print(f"fd-scale: {line}", file=sys.stderr, flush=True)
    return exit_code


def _record(failure: Failure) -> bool:
    """Leaves the failure for the launcher; False where there is none, or its folder went with it."""
    folder = os.environ.get(ERROR_FOLDER)
    if not folder:
        return False
    path = record_path(Path(folder), os.environ.get("RANK", "0"))
    aside = path.with_suffix(PARTIAL)
    try:  # not by `files.whole_file`: it is for a reader beside this process, and a dying one does not wait for disks
        aside.write_text(failure.to_json())
        aside.replace(path)  # the launcher never reads half a record
    except OSError:
        return False
    return True


def _end_by_signal(number: int) -> None:
    name = signal.Signals(number).name
    end_at_once(Retry(f"{this_rank()} was stopped by {name} before it was done; {START_AGAIN}"))


def _stdout_is_closed() -> bool:
    """Whether the reader of our standard output has gone, in contrast to any other broken pipe."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # the end of the reader is reported without being asked for
    closed = bool(poll.poll(0))
    if closed:
        # The interpreter flushes once more when it ends; give it somewhere to write.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return closed


def _in_process_group() -> bool:
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def _end_without_destructors(exit_code: int) -> None:
    """gloo's destructors abort (exit 134) when collectives are still open, NCCL's can wait for the lost peer."""
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(exit_code)


def _quote(message: str) -> str:
    message = redacted_text(message)  # before it is cut, for half an address may not be recognised as one
    first_line = next(iter(message.strip().splitlines()), "")
    return first_line if len(first_line) <= LINE_LENGTH else first_line[:LINE_LENGTH] + "..."
