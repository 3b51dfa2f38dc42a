"""Which backends are there? From a name to a class, importing no framework to list them."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bpbench.errors import BpbenchError, MissingBackend, UsageError, unknown

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

    from bpbench.backend import Backend

ENTRY_POINTS = "bpbench.backends"
"""The entry-point group under which other packages offer a backend: name = "module:Class"."""


@dataclass(frozen=True)
class Entry:
    """What is known of a backend before its framework is imported.

    Attributes:
        targets: mode -> "module:Class" that has it; the first mode is the default.
        package: the module that must be importable.
        distributions: under which names the package index knows it, the likeliest first.
        extra: bpbench's extra that installs it; None where it always is.
        mode_packages: mode -> the package that this mode alone needs; its extra is named like it.
    """

    targets: Mapping[str, str]
    package: str
    distributions: tuple[str, ...]
    extra: str | None = None
    devices: tuple[str, ...] = ("cpu",)
    mode_packages: Mapping[str, str] = field(default_factory=dict)


def _modes(target: str, *modes: str) -> dict[str, str]:
    return dict.fromkeys(modes, target)


BUILT_IN: Mapping[str, Entry] = {
    "numpy": Entry(
        _modes("bpbench.backends.numpy_reference:NumPyBackend", "reference")
        | _modes("bpbench.backends.numpy_fast.model:NumPyFastBackend", "fast")
        | _modes("bpbench.backends.numpy_compiled.model:NumPyCompiledBackend", "compiled"),
        "numpy", ("numpy",), mode_packages={"compiled": "numba"},
    ),
    "torch": Entry(
        _modes("bpbench.backends.torch_backend:TorchBackend", "eager", "compiled", "unrolled")
        | _modes("bpbench.backends.torch_manual:TorchManualBackend", "manual"),
        "torch", ("torch",), "torch", ("cpu", "cuda"),
    ),
    "jax": Entry(
        _modes("bpbench.backends.jax_backend:JaxBackend", "scan", "manual", "eager"),
        "jax", ("jax",), "jax", ("cpu", "cuda"),
    ),
    "tensorflow": Entry(
        _modes("bpbench.backends.tensorflow_backend:TensorFlowBackend", "function", "eager"),
        "tensorflow", ("tensorflow-cpu", "tensorflow"), "tensorflow", ("cpu", "cuda"),
    ),
    "keras": Entry(
        _modes("bpbench.backends.keras_backend:KerasBackend", "jax", "tensorflow", "torch"),
        "keras", ("keras",), "keras", ("cpu", "cuda"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class BackendInfo:
    """One backend as ``list_backends`` tells of it; ``reason`` says how to get a missing one."""

    name: str
    modes: tuple[str, ...]
    devices: tuple[str, ...]
    version: str | None
    available: bool
    reason: str | None


def list_backends() -> list[BackendInfo]:
    """What is installed, in which modes and on which devices; imports no framework.

    Backends of other packages (entry points of the group ``bpbench.backends``) come after the
    five that bpbench brings; listing one imports its module.
    """
    # a driver is no proof that the framework's build can use it; get_backend asks the framework
    nvidia = shutil.which("nvidia-smi") is not None or Path("/dev/nvidiactl").exists()
    listed = []
    for name, entry in BUILT_IN.items():
        reason = _missing(name, entry)
        devices = tuple(device for device in entry.devices if device != "cuda" or nvidia)
        listed.append(
            BackendInfo(
                name, tuple(entry.targets), devices,
                None if reason else _version(entry), reason is None, reason,
            )
        )  # fmt: skip
    for point in sorted(entry_points()):
        version = point.dist.version if point.dist else None
        try:
            kind = backend_class(point.name)
        except BpbenchError as error:
            listed.append(BackendInfo(point.name, (), (), version, False, str(error)))
        else:
            listed.append(BackendInfo(point.name, kind.modes, kind.devices, version, True, None))
    return listed


def get_backend(
    name: str, mode: str | None = None, device: str = "cpu", dtype: str = "float32"
) -> Backend:
    """A backend by name, by "name:mode", or by "path.py:Class" (and ":mode").

    Raises:
        UsageError: a name, mode, device or dtype that does not exist.
        MissingBackend: its package is not installed; the message says how to get it.
        Unsupported: a combination that the backend cannot do, with the reason.
    """
    name, named_mode = split_mode(name)
    mode = mode or named_mode
    return backend_class(name, mode)(mode=mode, device=device, dtype=dtype)


def split_mode(name: str) -> tuple[str, str | None]:
    """("jax", "eager") of "jax:eager", ("my.py:Mine", None) of "my.py:Mine"."""
    if ".py:" in name:
        path, _, rest = name.rpartition(".py:")
        kind, _, mode = rest.partition(":")
        return f"{path}.py:{kind}", mode or None
    bare, _, mode = name.partition(":")
    return bare, mode or None


def modes_of(name: str) -> tuple[str, ...]:
    """The modes of a backend, its default first; imports nothing for the five built-in ones."""
    return tuple(BUILT_IN[name].targets) if name in BUILT_IN else backend_class(name).modes


def entry_points() -> EntryPoints:
    """The backends that other packages bring."""
    from importlib.metadata import entry_points  # here, for it takes a tenth of the start

    return entry_points(group=ENTRY_POINTS)


def backend_class(name: str, mode: str | None = None) -> type[Backend]:
    """The class behind a backend's name (and mode, where several classes share a name)."""
    if ".py:" in name:
        return _from_file(name)
    if name in BUILT_IN:
        return _built_in(name, BUILT_IN[name], mode)
    points = entry_points()
    if name not in points.names:
        raise unknown("backend", name, {*BUILT_IN, *points.names})
    (point,) = points.select(name=name)
    try:
        return _checked(point.load(), f"entry point {point.value!r}")
    except (ImportError, AttributeError) as error:
        raise MissingBackend(
            f"backend {name!r} ({point.value}) cannot be loaded: {error}"
        ) from error


def _built_in(name: str, entry: Entry, mode: str | None) -> type[Backend]:
    if mode is not None and mode not in entry.targets:
        raise unknown(f"backend {name!r}: mode", mode, entry.targets)
    reason = _missing(name, entry)
    if reason:
        raise MissingBackend(reason)
    mode = mode or next(iter(entry.targets))
    module, _, kind = entry.targets[mode].partition(":")
    try:
        return getattr(importlib.import_module(module), kind)  # type: ignore[no-any-return]
    except ImportError as error:
        # what cannot be imported may be a part of it that nobody has heard of
        package = entry.mode_packages.get(mode) or error.name or entry.package
        raise MissingBackend(
            f"{name} needs the package {package!r}, which cannot be imported "
            f"({error}); install it with: {_remedy(entry, mode)}"
        ) from error


def _missing(name: str, entry: Entry) -> str | None:
    if importlib.util.find_spec(entry.package) is not None:
        return None
    return f"{name} needs the package {entry.package!r}; install it with: {_remedy(entry)}"


def _remedy(entry: Entry, mode: str | None = None) -> str:
    extra = entry.mode_packages.get(mode or "", entry.extra)
    return f"pip install 'bpbench[{extra}]'" if extra else f"pip install {entry.package}"


def _version(entry: Entry) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    for distribution in entry.distributions:
        with contextlib.suppress(PackageNotFoundError):
            return version(distribution)
    return None


def _from_file(name: str) -> type[Backend]:
    path_text, _, kind = name.rpartition(":")
    path = Path(path_text)
    if not path.is_file():
        raise UsageError(f"backend {name!r}: there is no file {path_text}")
    module = load_file(path)
    if not hasattr(module, kind):
        raise UsageError(f"backend {name!r}: {path_text} defines no class {kind!r}")
    return _checked(getattr(module, kind), name)


def load_file(path: Path) -> ModuleType:
    """Import a Python file by its path; its folder's own modules can be imported by it.

    Raises:
        UsageError: the file cannot be run; the message holds the error and its line.
    """
    resolved = path.resolve()
    spec = importlib.util.spec_from_file_location(f"_bpbench_file_{resolved.stem}", resolved)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is no Python file; expected a name that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(resolved.parent))
    try:
        spec.loader.exec_module(module)
    except BpbenchError:
        raise
    except Exception as error:  # whatever somebody's file raises is a message about that file
        raise UsageError(f"{path} cannot be loaded: {_where(error, resolved)}") from error
    finally:
        sys.path.remove(str(resolved.parent))
    return module


def _where(error: Exception, path: Path) -> str:
    line = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else None
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == str(path):
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    at = f" (line {line})" if line else ""
    return f"{type(error).__name__}: {error}{at}"


def _checked(kind: Any, name: str) -> type[Backend]:
    from bpbench.backend import Backend

    if not (isinstance(kind, type) and issubclass(kind, Backend)):
        raise UsageError(f"{name} is no subclass of bpbench.Backend")
    modes = getattr(kind, "modes", None)
    if not (
        isinstance(modes, tuple | list) and modes and all(isinstance(mode, str) for mode in modes)
    ):
        raise UsageError(
            f'{name}: modes is {modes!r}; expected names of modes, such as modes = ("default",)'
        )
    return kind
