"""Where do results lie, and which of them are there already? One file per cell, written whole.

``RESULTS/<experiment>/<cell id>.json`` holds a row; what is too long for it, losses and parameters,
lies beside it as ``.safetensors``. The row is written last: where it is, the cell is finished.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from bpbench.cells import Cell
from bpbench.errors import BpbenchError, UsageError
from bpbench.network import Array
from bpbench.results.rows import Row, validated

TEMPORARY = ".tmp-"
SCRATCH = ".scratch-"
LOCK = ".lock"


class Store:
    """A folder of results, held by this process alone while it runs.

    Args:
        folder: made where it is not there.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @contextlib.contextmanager
    def held(self) -> Iterator[Path]:
        """Hold the folder, and give a folder for scratch that is gone afterwards.

        The lock is the system's, so that a killed run leaves none; what else it left is removed.

        Raises:
            BpbenchError: the folder cannot be written, or another run holds it.
        """
        import filelock

        lock = filelock.FileLock(self.folder / LOCK, timeout=0)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except filelock.Timeout:
            raise BpbenchError(
                f"another run{self._holder()} is writing to {self.folder}; wait until it has "
                "ended, or give another folder with --out"
            ) from None
        except OSError as error:
            raise BpbenchError(f"results cannot be written to {self.folder}: {error}") from error
        try:
            self._clean()
            own = f"{SCRATCH}{os.getpid()}-"
            scratch = Path(tempfile.mkdtemp(prefix=own, dir=self.folder)).resolve()
            try:
                yield scratch
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        finally:
            lock.release()

    def _holder(self) -> str:
        """Which process holds the folder: the name of its scratch folder tells."""
        for path in self.folder.glob(f"{SCRATCH}*-*"):
            return f" (process {path.name.removeprefix(SCRATCH).partition('-')[0]})"
        return ""

    def _clean(self) -> None:
        for left in self.folder.glob(f"{SCRATCH}*"):
            shutil.rmtree(left, ignore_errors=True)
        for left in self.folder.glob(f"*/{TEMPORARY}*"):
            left.unlink(missing_ok=True)

    def path(self, cell: Cell) -> Path:
        """Where a cell's row lies, or will lie."""
        return self.folder / cell.point.experiment / f"{cell.id}.json"

    def find(self, cell: Cell) -> Row | None:
        """The row of a cell, or None where there is none that can be read."""
        try:
            return read_row(self.path(cell))
        except (OSError, BpbenchError):
            return None

    def write(self, cell: Cell, row: Row, arrays: Mapping[str, Array]) -> None:
        """Write a cell's row, its arrays before it."""
        from safetensors.numpy import save

        path = self.path(cell)
        if arrays:
            write_whole(path.with_suffix(".safetensors"), save(dict(arrays)))
        text = json.dumps(row, indent=1, allow_nan=False)
        write_whole(path, text.encode() + b"\n")


def read(folder: str | Path) -> list[Row]:
    """The rows of a folder of results, sorted by experiment and cell.

    Where an experiment has been changed, cells of the same name lie there for both: the newest of
    them counts.

    Raises:
        UsageError: there is no such folder.
        BpbenchError: a file in it that is no result, or one of another bpbench.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UsageError(f"there is no folder of results {folder}")
    newest: dict[tuple[str, str], Row] = {}
    for path in sorted(root.glob("[!.]*/[!.]*.json")):
        row = read_row(path)
        name = path.parent.name, path.stem.rpartition("-")[0]
        if name not in newest or newest[name]["started"] <= row["started"]:
            newest[name] = row
    return list(newest.values())


def read_arrays(folder: str | Path, row: Row) -> dict[str, Array]:
    """The arrays of a row: losses, (steps,), and the final W0, ..., b0, ...; {} where none are."""
    from safetensors.numpy import load_file

    cell = row["cell"]
    path = Path(folder) / cell["experiment"] / f"{cell['id']}.safetensors"
    return dict(load_file(path)) if path.is_file() else {}


def read_row(path: Path) -> Row:
    """One row.

    Raises:
        BpbenchError: the file is no result of this bpbench.
    """
    try:
        return validated(msgspec.json.decode(path.read_bytes()))
    except (ValueError, RecursionError, msgspec.DecodeError) as error:
        raise BpbenchError(
            f"{path} is no result file of this bpbench ({error}); remove it, or read it with the "
            "bpbench that wrote it"
        ) from error


def write_whole(path: Path, content: bytes) -> None:
    """The file is there with all of its content, or not at all, whatever happens when.

    Its folder is made where need be.

    Raises:
        BpbenchError: it cannot be written there.
    """
    temporary = path.with_name(TEMPORARY + path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        if os.name == "posix":  # elsewhere a folder cannot be opened
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        raise BpbenchError(f"{path} cannot be written: {error.strerror}") from error


def plain(value: Any) -> Any:
    """Data as JSON can hold it: numbers that are not finite become None."""
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
