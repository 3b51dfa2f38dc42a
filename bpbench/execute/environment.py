"""What must be set before a framework is imported? Threads, precision, engines, memory, quiet."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib.machinery import PathFinder
from pathlib import Path

KERAS_ENGINES = ("jax", "tensorflow", "torch")
THREADS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NPROC", "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)  # fmt: skip
"""The variables that say how many threads a library may use."""


def worker_environment(
    backend: str, mode: str, device: str, dtype: str, threads: int
) -> Mapping[str, str]:
    """The environment of a worker process: this process's own with the following replaced.

    JAX obeys none of the thread variables but NPROC; the worker's CPU affinity binds it. Compilers
    are kept from starting processes of their own, which could outlive a worker.
    """
    changes = {
        **dict.fromkeys(THREADS, str(threads)),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "JAX_ENABLE_X64": "1" if dtype == "float64" else "0",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",  # a killed worker's stderr then says where it was
    }
    if device == "cpu":  # a framework that sees a GPU takes its memory whether it is used or not
        changes |= {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    if backend == "keras":
        for engine in KERAS_ENGINES:
            if mode.startswith(engine):
                changes["KERAS_BACKEND"] = engine
    return {**os.environ, **changes}


def with_own_package(environment: Mapping[str, str]) -> dict[str, str]:
    """The same environment, in which Python finds the very bpbench that is running now.

    Where an editable installation leads to it, its folder stays off the path, and so does
    ``backends`` beside it, which somebody's own package of that name would be taken for.
    """
    package = Path(__file__).resolve().parents[1]
    others = [finder for finder in sys.meta_path if finder is not PathFinder]
    found = [finder.find_spec("bpbench", None) for finder in others]
    if any(spec is not None and spec.origin == str(package / "__init__.py") for spec in found):
        return dict(environment)
    path = [environment.get("PYTHONPATH", ""), str(package.parent)]
    return {**environment, "PYTHONPATH": os.pathsep.join(filter(None, path))}
