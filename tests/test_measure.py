"""Are times, intervals, memory and the machine what they are said to be?"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from threadpoolctl import threadpool_info

from bpbench.errors import UsageError
from bpbench.measure import machine, memory
from bpbench.measure.clock import block_length, timed
from bpbench.measure.statistics import median_interval

pytestmark = pytest.mark.xdist_group("timed")  # one after the other: they share the cores


def test_work_is_done_once_and_its_time_is_positive() -> None:
    done: list[int] = []
    sample = timed(lambda: done.append(1))
    assert done == [1]
    assert sample.wall > 0
    assert sample.cpu >= 0


@pytest.mark.parametrize("step_seconds", [3e-7, 5e-5, 1e-3, 0.029, 0.06])
def test_a_block_takes_from_30_to_100_ms(step_seconds: float) -> None:
    overhead = 1e-4  # of every call
    steps = block_length(lambda n: overhead + n * step_seconds, 10**7)
    assert 0.03 <= overhead + steps * step_seconds <= 0.1


def test_a_step_that_takes_longer_is_a_block_by_itself() -> None:
    assert block_length(lambda n: 2.0 * n, 10**6) == 1


def test_a_block_is_no_longer_than_allowed() -> None:
    assert block_length(lambda n: n * 1e-9, 5000) == 5000


def test_a_block_is_found_though_times_do_not_settle() -> None:
    times = iter([1e-3, 0.2, 1e-3, 0.2, 1e-3, 0.2, 1e-3, 0.2, 1e-3, 0.2])
    assert block_length(lambda n: next(times), 10**6) >= 1


def test_the_interval_of_the_median_covers_it_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        low, high = median_interval(rng.lognormal(size=25).tolist())
        covered += low <= 1 <= high  # the median of the distribution
    assert 180 <= covered <= 199


def test_an_interval_is_the_same_every_time_and_a_point_where_all_is_equal() -> None:
    samples = [3.0, 1.0, 2.0, 5.0, 4.0]
    assert median_interval(samples) == median_interval(samples)
    assert median_interval([2.0]) == median_interval([2.0, 2.0, 2.0]) == (2.0, 2.0)


def test_peak_memory_is_that_of_this_process_and_not_of_its_parent() -> None:
    code = "from bpbench.measure.memory import peak_bytes; print(peak_bytes())"
    large = np.ones(2**25)  # 256 MiB in the parent
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert memory.peak_bytes() >= large.nbytes
    assert 2**20 < int(child.stdout) < large.nbytes


@pytest.mark.skipif(sys.platform != "linux", reason="no other system can forget a peak")
def test_a_peak_that_is_forgotten_counts_no_more() -> None:
    large = np.ones(2**25)
    before = memory.peak_bytes()
    del large
    memory.forget_peak()
    assert memory.peak_bytes() < before - 2**27


def test_the_memory_of_a_gpu_is_asked_of_the_framework_that_uses_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("torch", "jax", "tensorflow"):
        monkeypatch.setitem(sys.modules, name, None)
    assert memory.peak_device_bytes() is None
    gpu = SimpleNamespace(memory_stats=lambda: {"peak_bytes_in_use": 300})
    without = SimpleNamespace(memory_stats=lambda: None)
    jax = SimpleNamespace(local_devices=lambda: [gpu, without])
    cuda = SimpleNamespace(is_available=lambda: True, max_memory_allocated=lambda: 0)
    monkeypatch.setitem(sys.modules, "jax", jax)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert memory.peak_device_bytes() == 300
    cuda.max_memory_allocated = lambda: 500
    assert memory.peak_device_bytes() == 500


def test_the_memory_of_a_process_that_is_gone_is_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert memory.resident_bytes(process.pid) == 0
    assert memory.resident_bytes(os.getpid()) >= psutil.Process().memory_info().rss / 2


def test_available_memory_is_no_more_than_there_is() -> None:
    assert 0 < memory.available_bytes() <= psutil.virtual_memory().total
    assert memory.system_kills() >= 0


def test_the_machine_is_described_the_same_way_twice() -> None:
    first, second = machine.describe(), machine.describe()
    assert first["id"] == second["id"]
    assert first["cpus"] >= first["usable_cpus"] >= 1
    assert first["memory_bytes"] == psutil.virtual_memory().total


def test_the_kernels_of_numpys_products_are_what_the_environment_asked_for() -> None:
    loaded = [info for info in threadpool_info() if info["internal_api"] == "openblas"]
    if not loaded:
        pytest.skip("NumPy's products are not OpenBLAS's here")
    asked = "import numpy; from bpbench.measure.machine import describe; print(describe()['blas'])"
    said = {
        core: subprocess.run(
            [sys.executable, "-c", asked], env=os.environ | {"OPENBLAS_CORETYPE": core},
            capture_output=True, text=True, check=True,
        ).stdout.strip()
        for core in ("Nehalem", "Sandybridge")
    }  # fmt: skip
    if platform.machine() in ("x86_64", "AMD64"):
        assert said["Nehalem"].endswith("kernels for Nehalem")
        assert said["Sandybridge"].endswith("kernels for Sandybridge")
    assert all(text.startswith("openblas 0.") for text in said.values())


def test_no_more_cores_are_given_than_there_are() -> None:
    usable = machine.usable_cores()
    for count in range(1, len(usable) + 1):
        assert len(set(machine.idlest_cores(count, 0.01)) & set(usable)) == count
    with pytest.raises(UsageError, match=f"may use {len(usable)} of the machine's cores"):
        machine.idlest_cores(len(usable) + 1)
