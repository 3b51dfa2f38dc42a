"""Which computer is this, and which of its cores may be used?"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info

from bpbench.errors import UsageError


def describe() -> dict[str, Any]:
    """What a time depends on: processor, cores, memory, system, BLAS, clock governor and load."""
    cores = cpus = memory_bytes = None
    load: tuple[float, ...] = ()
    with contextlib.suppress(ImportError):  # of a module of the system's that psutil needs
        import psutil

        cores, cpus = psutil.cpu_count(logical=False), psutil.cpu_count()
        memory_bytes, load = psutil.virtual_memory().total, psutil.getloadavg()
    fixed = {
        "cpu": _processor(),
        "cores": cores,
        "cpus": cpus,
        "memory_bytes": memory_bytes,
        "system": f"{platform.system()} {platform.release()}",
    }
    whole = f"{platform.node()} {fixed}"
    governor = None
    with contextlib.suppress(OSError):
        governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip()
    return {
        "id": hashlib.sha256(whole.encode()).hexdigest()[:12],
        **fixed,
        "usable_cpus": len(usable_cores()),
        "python": platform.python_version(),
        "blas": _numpys_blas(),
        "governor": governor,
        "load": [round(value, 2) for value in load],
    }


def usable_cores() -> list[int]:
    """The numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def idlest_cores(count: int, seconds: float = 0.2) -> list[int]:
    """The ``count`` usable cores that did least in the last ``seconds``.

    Raises:
        UsageError: there are not that many.
    """
    usable = usable_cores()
    if count > len(usable):
        raise UsageError(
            f"threads is {count}, but this process may use {len(usable)} of the machine's cores; "
            f"expected 1 to {len(usable)}"
        )
    if count == len(usable):
        return usable
    import psutil

    busy = psutil.cpu_percent(interval=seconds, percpu=True)
    quietness = {core: busy[core] if core < len(busy) else 0.0 for core in usable}
    return sorted(sorted(usable, key=lambda core: quietness[core])[:count])


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _numpys_blas() -> str:
    """Which matrix products NumPy does, such as "openblas 0.3.31, kernels for Haswell".

    The kernels make a difference of two: an environment that sets ``OPENBLAS_CORETYPE`` may hold a
    processor to half of what it can do.
    """
    import numpy  # noqa: F401  # only what is loaded is listed

    found = [info for info in threadpool_info() if info["user_api"] == "blas"]
    own = [info for info in found if "numpy" in Path(info["filepath"]).parent.name] or found
    if not own:
        return "unknown"
    kernels = own[0].get("architecture")
    name = f"{own[0]['internal_api']} {own[0]['version']}"
    return f"{name}, kernels for {kernels}" if kernels else name
