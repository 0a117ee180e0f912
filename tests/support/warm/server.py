"""The process that has imported everything, and forks: `python -m support.warm.server FOLDER ROOT`.

It has one thread and stays in one loop, so a fork is taken at a known place: no lock is held, no OpenMP team and no
process group exists. The fork leaves the loop, becomes the program that was asked for, and ends without tearing down
modules, which would cost half a core-second. A second server, which has the downstream libraries as well, is a fork of
the first that imports on.

It ends with the root process of the test run, and takes along what still runs.
"""

import os

# Before any import: these libraries would start threads otherwise, and a fork takes only one along.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"

import setproctitle

setproctitle.getproctitle()  # it looks for the process's own words now, while the environment is where exec put it

import contextlib
import ctypes
import gc
import importlib
import json
import resource
import selectors
import signal
import socket
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from support.warm import LARGEST_MESSAGE
from support.warm.child import become, end

PR_SET_CHILD_SUBREAPER = 36
STACKS = {
    "main": (
        "torch",
        "torch.distributed",
        "torch.nn.attention.flex_attention",
        "torch.utils.checkpoint",
        "torch.utils.data",
        "torch.utils.tensorboard",
        "torchvision",
        "timm",
        "timm.data",
        "timm.optim",
        "deepspeed",
        # What DeepSpeed imports when an engine is made; the first alone costs 1.5 core-seconds for two ranks.
        "deepspeed.runtime.zero.muon.muon_optimizer",
        "deepspeed.runtime.engine",
        "deepspeed.runtime.zero.stage3",
        "deepspeed.runtime.zero.stage_1_and_2",
        "deepspeed.runtime.bf16_optimizer",
        "deepspeed.utils.tensor_fragment",
        "safetensors.torch",
        "webdataset",
        "pydantic",
        "yaml",
        "fsspec",
        "PIL.Image",
        "multiprocessing.connection",
        "fd_scale.cli",
        "fd_scale.convert",
        "fd_scale.export",
        "fd_scale.launch",
        "fd_scale.tasks.distillation",
        "fd_scale.tasks.finetuning",
        "fd_scale.evaluate.knn",
        "fd_scale.evaluate.linear",
        "fd_scale.evaluate.wise_ft",
        "fd_scale.data.packing.pack",
    ),
    "downstream": (
        "mmengine.runner",
        "mmengine.model",
        "mmengine.visualization",
        "mmcv.ops",
        "mmcv.transforms",
        "mmdet.models",
        "mmdet.datasets",
        "mmdet.evaluation",
        "mmdet.engine",
        "mmseg.models",
        "mmseg.datasets",
        "mmseg.evaluation",
        "mmseg.engine",
    ),
}


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


class Server:
    def __init__(self, stack: str, folder: Path, root: int):
        self.stack, self.folder, self.root = stack, folder, root
        self.server_path = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
        self.clients: dict[int, socket.socket] = {}  # by the process that works for them
        self.accounts: dict[int, str] = {}  # the test process for which a process works, if not at first hand
        self.seconds: Counter[str] = Counter()  # core time of the processes of a test process that have ended
        self.connections: set[socket.socket] = set()
        self.downstream = 0

    def import_all(self) -> None:
        for name in STACKS[self.stack]:
            importlib.import_module(name)
        gc.collect()
        gc.freeze()  # no collection in a fork touches, and so copies, what is here

    def serve(self) -> dict[str, Any]:
        """Returns in a fork, with the request that the fork is to carry out; in the server never."""
        address = self.folder / f"{self.stack}.sock"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(str(self.folder / f"{self.stack}.binding"))
        listener.listen(64)
        woken, wake = socket.socketpair()
        for side in (woken, wake, listener):
            side.setblocking(False)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGHUP):  # a terminal's are for the tests
            signal.signal(number, signal.SIG_IGN)
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphans come here, and so does their core time
        signal.signal(signal.SIGTERM, lambda *_: self.stop())
        root = os.pidfd_open(self.root)
        with selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            selector.register(woken, selectors.EVENT_READ)
            selector.register(root, selectors.EVENT_READ)
            os.rename(self.folder / f"{self.stack}.binding", address)
            while True:
                for key, _ in selector.select(0.2):
                    if key.fileobj is listener:
                        connection = listener.accept()[0]
                        self.connections.add(connection)
                        selector.register(connection, selectors.EVENT_READ)
                    elif key.fileobj is woken:
                        woken.recv(4096)
                    elif key.fileobj == root:
                        self.stop()
                    elif (request := self.hear(key.fileobj, selector)) is not None:
                        for inherited in (listener, woken, wake, *self.connections):
                            inherited.close()
                        os.close(root)
                        return request
                self.reap(selector)
                if self.stack == "main" and not self.downstream and (self.folder / "downstream.wanted").exists():
                    self.downstream = os.fork()
                    if self.downstream == 0:
                        for inherited in (listener, woken, wake, *self.connections):
                            inherited.close()
                        os.close(root)
                        return {"stack": "downstream"}

    def hear(self, connection: socket.socket, selector: selectors.BaseSelector) -> dict[str, Any] | None:
        """Answers one message; in a fork, what the fork is to do."""
        try:
            message, streams, *_ = socket.recv_fds(connection, LARGEST_MESSAGE, 3)
        except ConnectionError:
            message, streams = b"", []
        if not message:  # the client is gone; who works for it goes on, as an orphan does
            selector.unregister(connection)
            self.forget(connection)
            return None
        request = json.loads(message)
        if "question" in request:
            connection.send(json.dumps(self.report()).encode())
            if request["question"] == "stop":
                self.stop()
            return None
        ready, told = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(ready)
            return {**request, "streams": streams, "told": told}
        os.close(told)
        for stream in streams:
            os.close(stream)
        with os.fdopen(ready, "rb") as pipe:
            error = pipe.read().decode(errors="replace")
        if not error:
            self.clients[child] = connection
            self.accounts[child] = request["account"]
        connection.send(json.dumps({"error": error} if error else {"pid": child}).encode())
        return None

    def forget(self, connection: socket.socket) -> None:
        self.connections.discard(connection)
        connection.close()
        self.clients = {child: client for child, client in self.clients.items() if client is not connection}

    def reap(self, selector: selectors.BaseSelector) -> None:
        while True:
            try:
                child, status, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if child == 0:
                return
            account = self.accounts.pop(child, "")
            self.seconds[account] += used.ru_utime + used.ru_stime
            connection = self.clients.pop(child, None)
            if connection is None:
                continue
            answer = {"status": status, "seconds": self.seconds[account]}
            with contextlib.suppress(OSError):
                connection.send(json.dumps(answer).encode())
            selector.unregister(connection)
            self.forget(connection)

    def report(self) -> dict[str, Any]:
        import torch

        return {
            "threads": threads(),
            "process_group": torch.distributed.is_initialized(),
            "running": len(self.clients),
            "children_seconds": sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]),
        }

    def stop(self) -> None:
        """Takes along all that came from here, orphans among them, and ends."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        while running := children.read_text().split():
            for child in map(int, running):
                os.kill(child, signal.SIGTERM if child == self.downstream else signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.wait4(-1, 0)
        os._exit(0)


def main() -> None:
    folder, root = Path(sys.argv[1]), int(sys.argv[2])
    server = Server("main", folder, root)
    server.import_all()
    request = server.serve()
    if "stack" in request:
        server = Server(request["stack"], folder, root)
        server.import_all()
        request = server.serve()
    end(become(request, folder, server.server_path))


if __name__ == "__main__":
    main()
