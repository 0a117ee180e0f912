"""Build mmcv's wheel once and keep it: no registry has one, and its compiler run is the longest step of the set-up.

Usage, with torch and the extra `mmcv-build` installed:

    python tools/build_mmcv.py     # progress to stderr, the folder of the wheel to stdout

The wheel lands outside the checkout, in a folder named after what it was built for, and a second run finds it.

Why this is faster than `pip wheel`, for CPU builds: of 78 source files each spends most of its time on torch's headers.
Here they are included into a few files (a unity build), without debug symbols and at -O2. All operators stay. A few
files define the same helper and must not meet; they are dealt to different units.

With a CUDA toolkit (`torch.cuda.is_available()` or FORCE_CUDA=1) mmcv's own recipe is left alone: set
TORCH_CUDA_ARCH_LIST and MAX_JOBS as for any CUDA extension. That path has not been run by this project.
Left out: ROCm, NPU and the other devices mmcv knows.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import tomllib
from pathlib import Path

import torch

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCES = Path("mmcv/ops/csrc/pytorch")
# `pybind.cpp` is the longest of all and stays alone; psamask defines min and max as macros, so nothing may follow it.
ALONE = {"pybind.cpp", "cpu/psamask.cpp"}
# Each defines a helper that another one defines too.
APART = ["cpu/bezier_align.cpp", "cpu/roi_align.cpp", "cpu/roi_align_rotated.cpp", "cpu/rotated_feature_align.cpp"]
UNITS = len(APART)
RECIPE = 1
"""Raise it when the recipe changes what is built."""
PROGRESS = re.compile(r"\[(\d+)/(\d+)\]")


def requirement() -> str:
    """Read the pin of mmcv where it is stated."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return next(pin for pin in project["optional-dependencies"]["downstream"] if pin.startswith("onedl-mmcv=="))


def with_cuda() -> bool:
    return torch.cuda.is_available() or os.environ.get("FORCE_CUDA") == "1"


def wheel_folder(pin: str) -> Path:
    """Folder for the wheel of this mmcv, torch, Python, machine and device."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    device = f"cuda-{os.environ.get('TORCH_CUDA_ARCH_LIST', 'all')}" if with_cuda() else "cpu"
    key = [
        pin.partition("==")[2],
        f"torch{torch.__version__}",
        sys.implementation.cache_tag,
        platform.machine(),
        device,
    ]
    return cache / "fd_scale" / "wheels" / re.sub(r"[^\w.+-]", "_", f"mmcv{'-'.join(key)}-r{RECIPE}")


def what_is_missing() -> str | None:
    """Name what the compiler will miss, before the download instead of after it."""
    if shutil.which("c++") is None:
        return "a C++ compiler: on Debian and Ubuntu, apt install g++"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        return "Python's headers: on Debian and Ubuntu, apt install python3-dev"
    return None


def fetch(pin: str, folder: Path) -> Path:
    """Download mmcv's source, unpack it and return its folder."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--no-binary", "onedl-mmcv", "--dest", folder, pin], check=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as content:
        if hasattr(tarfile, "data_filter"):
            content.extractall(folder, filter="data")
        else:  # Debian 12's Python 3.11.2; the archive is that of a pin
            content.extractall(folder)
    return next(path for path in folder.iterdir() if path.is_dir())


def unite(source: Path) -> None:
    """Replace the source files that mmcv's setup.py looks for by a few that include them."""
    folder = source / SOURCES
    names = sorted(path.relative_to(folder).as_posix() for path in [*folder.glob("*.cpp"), *folder.glob("cpu/*.cpp")])
    ordinary = [name for name in names if name not in ALONE and name not in APART]
    for number, apart in enumerate(APART):
        unit = [*ordinary[number::UNITS], apart]
        for name in unit:
            (folder / name).rename(folder / f"{name}.inc")
        (folder / f"unit_{number}.cpp").write_text("".join(f'#include "{name}.inc"\n' for name in unit))


def compile_wheel(source: Path, out: Path, log: Path) -> int:
    """Compile the wheel and return pip's exit status.

    Its output goes to `log`, the compiler's progress to the terminal.
    """
    environment = {**os.environ, "MMCV_WITH_OPS": "1", "MAX_JOBS": os.environ.get("MAX_JOBS", str(os.cpu_count()))}
    if not with_cuda():
        environment |= {"FORCE_CUDA": "0", "CFLAGS": "-O2 -g0", "CXXFLAGS": "-O2 -g0"}
    # Ninja is found beside this Python, also where its environment is not activated.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    pip = [sys.executable, "-m", "pip", "wheel", "--verbose", "--no-deps", "--no-build-isolation", "--no-cache-dir"]
    start, done = time.monotonic(), ""
    with log.open("w") as file:
        process = subprocess.Popen(
            [*pip, "--wheel-dir", out, source],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            step = PROGRESS.match(line.strip())
            if step and step[0] != done:
                done = step[0]
                print(f"mmcv: {step[1]} of {step[2]} files compiled, {time.monotonic() - start:.0f} s", file=sys.stderr)
    return process.wait()


def main() -> int:
    pin = requirement()
    folder = wheel_folder(pin)
    if not list(folder.glob("*.whl")):
        missing = what_is_missing()
        if missing:
            print(f"mmcv has no ready-made wheel, and compiling it needs {missing}", file=sys.stderr)
            return 2
        folder.parent.mkdir(parents=True, exist_ok=True)
        log = folder.with_name(f"{folder.name}.log")
        print(f"mmcv: building {pin} once, into {folder}; the compiler's output is in {log}", file=sys.stderr)
        # Beside its place, so that the move is a rename: a build cut short leaves no half wheel.
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="building-") as aside:
            source = fetch(pin, Path(aside))
            if not with_cuda():
                unite(source)
            if compile_wheel(source, Path(aside) / "wheel", log):
                print("".join(log.read_text().splitlines(keepends=True)[-40:]), file=sys.stderr)
                print(f"mmcv could not be built; the whole output is in {log}", file=sys.stderr)
                return 1
            shutil.rmtree(folder, ignore_errors=True)
            (Path(aside) / "wheel").rename(folder)
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
