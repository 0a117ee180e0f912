"""The far end of `fd-scale launch --check`: answers questions about its own host, one line of JSON each.

It travels to the host as text (`far`), so it imports nothing of ours and nothing that does not come with Python. It is
written for older Pythons than ours as well, because a host with another one must still get a clear answer. It ends, and
what it has started ends, when its standard input does.
"""

import csv
import errno
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

MARK = b"\x1e"  # begins an answer, so that what a login shell prints is not taken for one
SETTLE_SECONDS = 5.0  # for a network file system to show what another host has written
GPU_FIELDS = "index,name,memory.total,memory.used,ecc.errors.uncorrected.volatile.total"
THROTTLES = ("hw_slowdown", "hw_thermal_slowdown", "sw_thermal_slowdown", "hw_power_brake_slowdown")

listening: dict = {}  # port -> socket
links: dict = {}  # "worker" -> process that measures links


def begin(folder):
    """Go to the folder where the ranks will be started."""
    os.chdir(folder)
    return {"host": socket.gethostname(), "python": platform.python_version(), "executable": sys.executable}


def clock():
    return {"time": time.time()}


def packages(names, sources):
    """Versions of installed packages, and what the source of ours is."""
    from importlib import metadata

    versions: dict = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {"versions": versions, "sources": {name: _source(name) for name in sources}}


def _source(name):
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        return None
    root = next(iter(found.submodule_search_locations))
    digest = hashlib.sha256()
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(entry for entry in folders if entry != "__pycache__")
        for file in sorted(files):
            path = os.path.join(folder, file)
            digest.update(os.path.relpath(path, root).encode() + b"\0")
            with open(path, "rb") as stream:
                digest.update(hashlib.sha256(stream.read()).digest())
    return {"folder": root, "sha256": digest.hexdigest(), "git": _revision(os.path.dirname(root))}


def _revision(folder):
    """Of the checkout that holds the folder; None without git, or without a checkout."""
    try:
        done = [
            subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, timeout=30)
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        ]
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done[0].returncode:
        return None
    return {"revision": done[0].stdout.strip(), "changed": bool(done[1].stdout.strip())}


def data(folder):
    """Fingerprint of a packed data set, as `fd_scale.data.shards` defines it, and whether its shards are there."""
    with open(os.path.join(folder, "manifest.json"), "rb") as stream:
        shards = json.load(stream)["shards"]
    for shard in shards:
        size = os.stat(os.path.join(folder, shard["name"])).st_size
        if size != shard["bytes"]:
            raise ValueError(f"{shard['name']} has {size} bytes, and {shard['bytes']} in the manifest")
    text = "".join(shard["sha256"] for shard in shards)
    return {"fingerprint": hashlib.sha256(text.encode()).hexdigest(), "shards": len(shards)}


def nearest(path):
    """The folder itself, or the one nearest above it that is there."""
    path = os.path.abspath(path)
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return {"path": path}


def write_token(folder, name, token):
    path = os.path.join(folder, name)
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    try:
        os.write(handle, token.encode())
        os.fsync(handle)
    finally:
        os.close(handle)
    return {"path": path}


def read_token(folder, name):
    path, end = os.path.join(folder, name), time.monotonic() + SETTLE_SECONDS
    while True:
        try:
            with open(path) as stream:
                return {"token": stream.read()}
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESTALE) or time.monotonic() > end:
                return {"token": None, "reason": error.strerror}
        time.sleep(0.2)


def remove_token(folder, name):
    os.unlink(os.path.join(folder, name))
    return {}


def disks(run_folder):
    """Bytes free for the run folder and for temporary files, and the size of the shared memory."""
    found = {}
    for label, path in (("run", nearest(run_folder)["path"]), ("tmp", tempfile.gettempdir()), ("shm", "/dev/shm")):
        if os.path.isdir(path):
            usage = os.statvfs(path)
            free, total = usage.f_bavail * usage.f_frsize, usage.f_blocks * usage.f_frsize
            found[label] = {"path": path, "free": free, "total": total, "writable": _can_write(path)}
    return found


def _can_write(folder):
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError as error:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)  # full, which is told by its size


def gpus():
    """What nvidia-smi says of each GPU that the ranks would see; None where there is no nvidia-smi."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {"gpus": None}
    for reasons in ("clocks_event_reasons", "clocks_throttle_reasons"):  # newer and older drivers
        fields = ",".join([GPU_FIELDS, *(f"{reasons}.{name}" for name in THROTTLES)])
        words = [program, "--query-gpu=" + fields, "--format=csv,noheader,nounits"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        if done.returncode == 0:
            break
    else:
        text = (done.stderr or done.stdout).strip().splitlines()
        return {"gpus": None, "error": text[0] if text else f"exit code {done.returncode}"}
    found = []
    for row in csv.reader(done.stdout.splitlines(), skipinitialspace=True):
        index, name, total, used, errors, *active = row
        found.append(
            {
                "index": index,
                "name": name,
                "total_mib": number(total),
                "used_mib": number(used),
                "ecc_errors": number(errors),
                "throttled": [THROTTLES[i] for i, word in enumerate(active) if word == "Active"],
            }
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and re.fullmatch(r"[0-9]*(,[0-9]+)*", visible):
        found = [gpu for gpu in found if gpu["index"] in visible.split(",")]
    return {"gpus": found}


def number(word):
    """Number that nvidia-smi writes; None for [N/A]."""
    return int(word) if word.isdigit() else None


def listen(port, token):
    """Take the port as rank 0's store would, and greet whoever connects."""
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind(("", port))
        server.listen(1024)
    except OSError as error:
        server.close()
        return {"error": error.strerror, "in_use": error.errno == errno.EADDRINUSE}
    listening[port] = server

    def greet():
        while True:
            try:
                connection = server.accept()[0]
            except OSError:  # closed
                return
            with connection:
                connection.sendall(token.encode())

    threading.Thread(target=greet, daemon=True).start()
    return {"error": None}


def connect(host, port, patience):
    """What the host says on that port, and the address that its name leads to."""
    address = None
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]
        with socket.create_connection((host, port), timeout=patience) as connection:
            return {"address": address, "token": connection.recv(256).decode(errors="replace")}
    except OSError as error:
        return {"address": address, "token": None, "reason": error.strerror or str(error)}


def hang_up(port):
    server = listening.pop(port)
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    return {}


def start_links(source):
    """Start the program that measures links; it imports torch, which takes seconds."""
    boot = "import json, sys; exec(compile(json.loads(sys.stdin.readline()), 'links', 'exec'))"
    links["worker"] = subprocess.Popen(
        [sys.executable, "-c", boot],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    return link(source)


def link(order):
    """Hand an order to it, and its answer back."""
    worker = links["worker"]
    try:
        worker.stdin.write(json.dumps(order) + "\n")
        worker.stdin.flush()
        answer = worker.stdout.readline()
    except BrokenPipeError:
        answer = ""
    if not answer:
        lines = worker.stderr.read().strip().splitlines()
        raise RuntimeError(lines[-1] if lines else "the process that measures links has ended")
    return json.loads(answer)


def stop_links():
    worker = links.pop("worker", None)
    if worker is not None:
        worker.kill()
        worker.wait()
    return {}


def reason(error):
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


FUNCTIONS: tuple = (begin, clock, packages, data, nearest, write_token, read_token, remove_token, disks, gpus)
FUNCTIONS += (listen, connect, hang_up, start_links, link, stop_links)
ANSWERS = {function.__name__: function for function in FUNCTIONS}


def main():
    try:
        with open(0, "rb", 0, closefd=False) as orders:
            for line in iter(orders.readline, b""):
                name, arguments = json.loads(line)
                try:
                    answer = {"answer": ANSWERS[name](**arguments)}
                except Exception as error:
                    answer = {"error": reason(error)}
                os.write(1, MARK + json.dumps(answer).encode() + b"\n")
    finally:
        stop_links()


if __name__ == "__main__":
    main()
