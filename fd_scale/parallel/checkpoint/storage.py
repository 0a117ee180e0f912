"""Storage of checkpoints: a folder that all ranks see, or an fsspec URL.

It knows files and names, not their content.

    step_00000100/
      ...            written by all ranks
      manifest.json  written last

A folder is written aside and put in place by one rename. Object stores have none: there the manifest, written last, is
what makes a step whole, and one without it is passed by.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from fd_scale.errors import BadInput, Expected, Retry
from fd_scale.files import check_folder, make_folder, parse_yaml, read_small, sync_folder
from fd_scale.redaction import is_redacted, redacted, without_secrets

CHECKPOINTS = "checkpoints"
"""In a run folder, unless its `run.checkpoints` says otherwise."""
MANIFEST = "manifest.json"
_STEP = re.compile(r"step_(\d{8,})")


class Readable(Protocol):
    def where(self, step: int, file: str = "") -> str:
        """Path or URL, for people."""

    def size(self, step: int, file: str) -> int:
        """Size in bytes. Raises FileNotFoundError."""

    def read_into(self, step: int, file: str, offset: int, view: memoryview) -> None:
        """Fill `view` from a file. Raises OSError where the file ends before."""


class Storage(Readable, Protocol):
    def steps(self) -> list[int]:
        """List the steps of the checkpoints that are there, whole or not, ascending."""

    def check(self) -> None:
        """Raise BadInput if nothing can be written there. Called on one rank."""

    def prepare(self, step: int) -> None:
        """Make room for a step and tidy up what killed runs left half written. Called on one rank."""

    def create(self, step: int, file: str) -> Any:
        """Open a binary file to write; when the context ends well the bytes are on the storage. Called on any rank."""

    def commit(self, step: int) -> None:
        """Make a step count from now on, now that all of its files are written.

        Called on one rank, after `create(MANIFEST)`.
        """

    def discard(self, step: int) -> None:
        """Remove what was written of a step that could not be finished. Called on one rank."""

    def remove(self, step: int) -> None:
        """Remove a step that counted. Called on one rank."""


def open_storage(location: str | Path) -> Storage:
    """Open a folder, or a URL such as `s3://bucket/run`.

    A URL may hold secrets: the storage's names and messages hide them.

    Raises:
        BadInput: nothing that is installed serves the URL.
    """
    return RemoteStorage(str(location)) if "://" in str(location) else LocalStorage(Path(location))


def checkpoints_of(location: str | Path) -> Storage:
    """Open the checkpoints of a run folder, wherever it keeps them, or those of a folder or URL that holds them.

    Raises:
        BadInput: nothing that is installed serves the URL, or a run folder leads to one that needs a secret, or has a
            damaged config.yaml.
    """
    config = Path(location) / "config.yaml"
    if "://" in str(location) or not config.is_file():
        return open_storage(location)
    try:
        elsewhere = parse_yaml(read_small(config))["run"].get("checkpoints")
        if elsewhere is not None and not isinstance(elsewhere, str):
            raise TypeError(f"run.checkpoints is {elsewhere!r}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(
            f"{config} is damaged ({error}); name the folder or URL of checkpoints itself, such as "
            f"{Path(location) / CHECKPOINTS}"
        ) from None
    if elsewhere and is_redacted(elsewhere):
        raise BadInput(
            f"{location} keeps its checkpoints at {elsewhere}, whose secret stands in no file of a run; give that "
            f"address with its secret instead of the run folder"
        )
    return open_storage(elsewhere or Path(location) / CHECKPOINTS)


def name_of(step: int) -> str:
    return f"step_{step:08d}"


class LocalStorage:
    def __init__(self, folder: Path):
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def steps(self) -> list[int]:
        return _steps(p.name for p in self.folder.iterdir()) if self.folder.is_dir() else []

    def where(self, step: int, file: str = "") -> str:
        return str(self.folder / name_of(step) / file)

    def check(self) -> None:
        check_folder(self.folder, "run.checkpoints")

    def prepare(self, step: int) -> None:
        for left in self.folder.glob(".step_*.partial"):
            shutil.rmtree(left)
        make_folder(self._aside(step))

    @contextmanager
    def create(self, step: int, file: str) -> Iterator[BinaryIO]:
        with open(self._aside(step) / file, "wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())

    def commit(self, step: int) -> None:
        final = self.folder / name_of(step)
        sync_folder(self._aside(step))
        before = self.folder / f".{name_of(step)}.before.partial"
        if final.exists():
            os.rename(final, before)
        os.rename(self._aside(step), final)
        sync_folder(self.folder)
        shutil.rmtree(before, ignore_errors=True)

    def remove(self, step: int) -> None:
        # By a rename first: whoever reads it finds all of it or nothing, and so does the next start after a kill.
        removed = self.folder / f".{name_of(step)}.removed.partial"
        shutil.rmtree(removed, ignore_errors=True)
        with suppress(OSError):
            os.rename(self.folder / name_of(step), removed)
            shutil.rmtree(removed)

    def discard(self, step: int) -> None:
        shutil.rmtree(self._aside(step), ignore_errors=True)

    def size(self, step: int, file: str) -> int:
        return (self.folder / name_of(step) / file).stat().st_size

    def read_into(self, step: int, file: str, offset: int, view: memoryview) -> None:
        with open(self.folder / name_of(step) / file, "rb", buffering=0) as handle:
            handle.seek(offset)
            while view:
                count = handle.readinto(view)
                if not count:
                    raise OSError(f"{handle.name} ends before byte {offset + len(view)}")
                view = view[count:]

    def _aside(self, step: int) -> Path:
        return self.folder / f".{name_of(step)}.partial"


class RemoteStorage:
    def __init__(self, url: str):
        import fsspec

        protocol = url.split("://", 1)[0]
        location, mark, query = url.partition("?")
        self._query = mark + query  # such as ?token=..., behind the name of every file
        if protocol not in ("http", "https"):
            # Nobody reads parameters there: a question mark is of the name, where no secret may stand.
            location, self._query = location + without_secrets(self._query), ""
        self._address = location.rstrip("/")
        try:
            self._files, self._root = fsspec.core.url_to_fs(self._address, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise BadInput(f"checkpoints at {self}: nothing here serves {protocol}:// ({error})") from None

    def __str__(self) -> str:
        return redacted(self._address + self._query)

    def steps(self) -> list[int]:
        try:
            names = self._ask("ls", self._root + self._query, detail=False)
        except FileNotFoundError:
            return []
        return _steps(name.rstrip("/").rsplit("/", 1)[-1] for name in names)

    def where(self, step: int, file: str = "") -> str:
        return redacted(f"{self._address}/{name_of(step)}/{file}".rstrip("/") + self._query)

    def check(self) -> None:
        """Check nothing: the first save tells."""

    def prepare(self, step: int) -> None:
        # One without a manifest is of a killed run; the step itself can only be a damaged one.
        for old in self.steps():
            if old == step or not self._ask("exists", self._path(old, MANIFEST)):
                self.remove(old)

    @contextmanager
    def create(self, step: int, file: str) -> Iterator[BinaryIO]:
        self._ask("makedirs", self._path(step, ""), exist_ok=True)
        with self._answering(), self._files.open(self._path(step, file), "wb") as handle:
            yield handle

    def commit(self, step: int) -> None:
        """Do nothing: the manifest is there, and with it the step."""

    def remove(self, step: int) -> None:
        # The manifest first: a removal cut short leaves nothing that looks whole.
        for path in (self._path(step, MANIFEST), self._path(step, "")):
            if self._ask("exists", path):
                self._ask("rm", path, recursive=True)

    discard = remove

    def size(self, step: int, file: str) -> int:
        return self._ask("size", self._path(step, file))

    def read_into(self, step: int, file: str, offset: int, view: memoryview) -> None:
        content = self._ask("cat_file", self._path(step, file), start=offset, end=offset + len(view))
        if len(content) != len(view):
            raise OSError(f"{self.where(step, file)} ends before byte {offset + len(view)}")
        view[:] = content

    def _ask(self, what: str, *given: Any, **named: Any) -> Any:
        with self._answering():
            return getattr(self._files, what)(*given, **named)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Clients of object stores have errors of their own besides OSError."""
        try:
            yield
        except (OSError, Expected):
            raise
        except Exception as error:
            raise Retry(f"{self} does not answer: {type(error).__name__}: {error}") from error

    def _path(self, step: int, file: str) -> str:
        return f"{self._root}/{name_of(step)}/{file}".rstrip("/") + self._query


def _steps(names: Iterator[str]) -> list[int]:
    return sorted(int(match[1]) for name in names if (match := _STEP.fullmatch(name)))
