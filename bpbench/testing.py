"""How do I test gradients and backends in my own tests? Assertions for pytest.

It imports no framework.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from bpbench.backend import Backend
    from bpbench.conformance import ConformanceReport
    from bpbench.network import MLP

__all__ = ["BackendConformance", "assert_backend_conforms", "assert_gradients_right"]


def assert_gradients_right(network: MLP, my_gradients: Callable[..., Any], **options: Any) -> None:
    """Fail, with the whole report as the message, unless someone's gradients are right.

    Args:
        network: whose gradients.
        my_gradients: my_gradients(W, b, x, y) -> (dW, db) or (loss, dW, db).
        options: those of ``bpbench.check``: weights, samples, labels, l2, dtype, seed, ...

    Raises:
        AssertionError: the verdict is not "right".
        UsageError: an argument that cannot be meant.
    """
    __tracebackhide__ = True  # the report says more than this function's lines
    from bpbench.verify.check import check

    report = check(network, my_gradients, **options)
    if report.verdict != "right":
        raise AssertionError(str(report))


def assert_backend_conforms(backend: str | type[Backend], **options: Any) -> None:
    """Fail, naming every fault, unless a backend keeps all contracts of the interface.

    Args:
        backend: a class, a name, or "path.py:Class".
        options: those of ``bpbench.conformance.conform``: modes, devices, dtypes.

    Raises:
        AssertionError: a contract is broken.
    """
    __tracebackhide__ = True
    from bpbench.conformance import conform

    report: ConformanceReport = conform(backend, **options)
    if not report.passed:
        raise AssertionError(str(report))


class BackendConformance:
    """One test for each contract of a backend; subclass it in a test file.

    class TestMyBackend(bpbench.testing.BackendConformance):
        backend = MyBackend  # or "my_backend.py:MyBackend"
    """

    backend: ClassVar[Any]
    modes: ClassVar[tuple[str, ...] | None] = None
    devices: ClassVar[tuple[str, ...] | None] = None
    dtypes: ClassVar[tuple[str, ...] | None] = None

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Make one test for each contract and way of running the backend."""
        if "contract" in metafunc.fixturenames:
            from bpbench.conformance import contracts

            asked = contracts(self.backend, self.modes, self.devices, self.dtypes)
            metafunc.parametrize("contract", asked, ids=[str(one) for one in asked])

    def test_contract(self, contract: Any) -> None:
        """The backend keeps one contract."""
        __tracebackhide__ = True
        faults = contract.keep()
        if faults:
            raise AssertionError("\n".join(faults))
