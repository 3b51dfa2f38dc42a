"""Backends that differ from numpy's ``fast`` by a known amount of time: nothing, or 15 %.

``experiments/planted_slowness.py`` sees how often bpbench notices.
"""

from __future__ import annotations

import time

from bpbench.backends.numpy_fast.model import FastModel, NumPyFastBackend

LONGER = 0.15


class SlowerModel(FastModel):
    """Works on, after each call, for 15 % of the time that the call took."""

    def run(self, batches, optimizer):
        start = time.perf_counter_ns()
        losses = super().run(batches, optimizer)
        end = time.perf_counter_ns()
        until = end + LONGER * (end - start)
        while time.perf_counter_ns() < until:
            pass
        return losses


class Same(NumPyFastBackend):
    """numpy's ``fast`` under another name."""

    name = "same"


class Slower(NumPyFastBackend):
    """15 % slower than numpy's ``fast``."""

    name = "slower"

    def model(self, network, parameters):
        return SlowerModel(self, network, parameters)
