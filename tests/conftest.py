"""One suite for every backend: what each test is handed, and what a missing framework means."""

from __future__ import annotations

import os
import signal

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# small networks gain nothing by threads, which wait for each other where tests run side by side
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest

import bpbench
from bpbench.registry import BUILT_IN, backend_class

IN_PROCESS = [
    f"{name}:{mode}"
    for name, entry in BUILT_IN.items()
    for mode in entry.targets
    if name != "keras" or mode == "jax"  # Keras has one engine in a process
]
"""Every backend and mode that can be tested in one process."""

COMPILED = {
    "jax:scan",
    "jax:manual",
    "jax:eager",
    "torch:compiled",
    "torch:unrolled",
    "tensorflow:function",
    "keras:jax",
}
"""Modes that compile anew for each shape: up to seconds for every network."""

SLOW = COMPILED - {"jax:scan", "tensorflow:function"}
"""Of those, the ones for which a thousand steps take long, or that share another's code."""

FIRST = ("timed", "test_adapters", "test_conformance")
"""What takes longest begins first, so that nothing long is left when the rest is done."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-backends",
        action="store_true",
        help="a backend whose framework is not installed fails its tests instead of skipping them",
    )


def pytest_configure() -> None:
    # a shell's background job is deaf to Ctrl-C, and so would be the processes that tests interrupt
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workerinput"):  # execnet interrupts what takes 5 s to end
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With ``--dist loadgroup`` one process runs a file, which shares what it has computed."""

    def place(item: pytest.Item) -> int:
        group = next(item.iter_markers("xdist_group")).args[0]
        return FIRST.index(group) if group in FIRST else len(FIRST)

    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    items.sort(key=place)


@pytest.fixture(params=IN_PROCESS)
def spec(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A backend and mode, such as "torch:eager", whose framework is installed."""
    try:
        backend_class(*request.param.split(":"))
    except bpbench.MissingBackend as error:
        verdict = pytest.fail if request.config.getoption("--require-backends") else pytest.skip
        verdict(str(error))
    if request.param == "torch:unrolled":  # two steps at once: half a minute of compiling less
        monkeypatch.setattr("bpbench.backends.torch_backend.UNROLLED_LAYERS", 1)
    return str(request.param)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)
