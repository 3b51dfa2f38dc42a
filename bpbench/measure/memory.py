"""How much memory does a process take, and how much is there?"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any


def forget_peak() -> None:
    """Have ``peak_bytes`` say the most from now on, where the system can: Linux does."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """The most memory that this process has had resident, ever or since ``forget_peak``."""
    with contextlib.suppress(OSError):
        # not getrusage where this is to be had: its figure survives exec, and so would be the
        # parent's where that was larger
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # not POSIX: psutil asks Windows for the same
        import psutil

        usage: Any = psutil.Process().memory_info()
        return int(usage.peak_wset)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_device_bytes() -> int | None:
    """The most memory of its GPU that the framework of this process has ever had in use.

    It is asked of whichever framework this process has imported; None where none can say.
    """
    torch, jax, tf = (sys.modules.get(name) for name in ("torch", "jax", "tensorflow"))
    # a framework may have imported another: who holds memory is who computes
    found = []
    if torch is not None and torch.cuda.is_available():
        found.append(int(torch.cuda.max_memory_allocated()))
    if jax is not None:
        each = (device.memory_stats() or {} for device in jax.local_devices())
        found.append(sum(int(stats.get("peak_bytes_in_use", 0)) for stats in each))
    if tf is not None and tf.config.list_physical_devices("GPU"):
        found.append(int(tf.config.experimental.get_memory_info("GPU:0")["peak"]))
    return max(found, default=0) or None


def resident_bytes(pid: int) -> int:
    """The memory that a process and its children have resident; 0 where it is gone."""
    import psutil

    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0
    total = 0
    for member in family:
        with contextlib.suppress(psutil.Error):  # it may end while it is asked
            total += member.memory_info().rss
    return total


def available_bytes() -> int:
    """The memory that can be had without swapping, within the limit of this control group."""
    import psutil

    free = psutil.virtual_memory().available
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max": no limit
            root = Path("/sys/fs/cgroup")
            left = int((root / limit).read_text()) - int((root / used).read_text())
            free = min(free, left)
    return free


def system_kills() -> int:
    """How many processes the system has killed since it started because memory ran out."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
