"""Is the arithmetic of a step counted exactly, and are the bare products those of a step?"""

from __future__ import annotations

import importlib.util
from itertools import pairwise

import numpy as np
import pytest

from bpbench.measure import limits

SIZES = [((2, 3, 1), 4), ((784, 30, 10), 10), ((5, 7), 3), ((64, 128, 128, 128, 10), 16)]


@pytest.mark.parametrize(("sizes", "batch"), SIZES)
def test_the_count_is_that_of_torch(
    sizes: tuple[int, ...], batch: int, request: pytest.FixtureRequest
) -> None:
    if importlib.util.find_spec("torch") is None:
        required = request.config.getoption("--require-backends")
        (pytest.fail if required else pytest.skip)("torch is not installed")
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    W = [torch.zeros(n, m, requires_grad=True) for m, n in pairwise(sizes)]
    a = torch.zeros(batch, sizes[0])
    with FlopCounterMode(display=False) as counter:
        for layer in W:
            a = torch.sigmoid(a @ layer.T)
        a.sum().backward()
    assert limits.step_flops(sizes, batch) == counter.get_total_flops()


def test_the_count_of_a_small_network_is_that_by_hand() -> None:
    # 2-3-1, 4 rows: layer 0 has 2 * 4 * 2 * 3 = 48 forward and as many for dW,
    # layer 1 has 2 * 4 * 3 * 1 = 24 forward, for dW and for the error below
    assert limits.step_flops((2, 3, 1), 4) == 2 * 48 + 3 * 24


@pytest.mark.parametrize("layout", limits.LAYOUTS)
@pytest.mark.parametrize(("sizes", "batch"), SIZES)
def test_the_bare_products_are_those_that_are_counted(
    sizes: tuple[int, ...], batch: int, layout: str
) -> None:
    calls = limits._calls(sizes, batch, "float32", layout)
    shapes = [limits.Product(*left.shape, right.shape[1]) for _, left, right, _ in calls]
    assert sum(shape.flops for shape in shapes) == limits.step_flops(sizes, batch)
    # (m, k) times (k, n) is, transposed, (n, k) times (k, m)
    inner_and_outer = [
        sorted((k, *sorted((m, n))) for m, k, n in each)
        for each in (shapes, limits.products(sizes, batch))
    ]
    assert inner_and_outer[0] == inner_and_outer[1]
    for _, left, right, out in calls:
        assert left.dtype == right.dtype == out.dtype == np.float32
        assert out.shape == (left.shape[0], right.shape[1])
        assert out.flags.c_contiguous


def test_the_bare_products_are_done_in_one_of_the_layouts() -> None:
    bare = limits.BareProducts((8, 4, 2), 4, "float64")
    assert bare.layout in limits.LAYOUTS
    _, left, right, out = bare._calls[0]
    out[...] = 0
    bare.run(2)
    np.testing.assert_array_equal(out, left @ right)
