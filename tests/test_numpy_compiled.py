"""numpy's mode ``compiled`` trains by the equations, with exponentials as good as the library's."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpbench import MLP, SGD, Adam, RMSProp, get_backend, initial_parameters
from bpbench.activations import hidden_activations
from bpbench.losses import LOSSES
from bpbench.verify.verdict import judge_training

numba = pytest.importorskip("numba")

from bpbench.backends.numpy_compiled import formulas, products  # noqa: E402
from bpbench.backends.numpy_compiled import model as compiled  # noqa: E402
from bpbench.backends.numpy_compiled.tiles import pointer  # noqa: E402
from bpbench.backends.numpy_compiled.vectors import piece  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
OPTIMIZERS = [
    SGD(0.05),
    SGD(0.05, l2=0.02),
    SGD(0.02, momentum=0.9, l2=0.02),
    SGD(0.02, momentum=0.9, nesterov=True),
    RMSProp(0.002, decay=0.9, l2=0.02),
    Adam(0.002, l2=0.02),
]


def _problem(network, rows, rng):
    x = rng.standard_normal((rows, network.sizes[0]))
    y = rng.random((rows, network.sizes[-1]))
    return x, y / y.sum(axis=1, keepdims=True) if network.loss == "cross_entropy" else y


def _assert_trains_like_the_reference(network, optimizer, batches, rng, relative=1e-9):
    """Train both on the same orders, one for each (steps, batch) of ``batches``, in float64."""
    parameters = initial_parameters(network, 5, "scaled_normal")
    x, y = _problem(network, 50, rng)
    compiled, reference = (
        get_backend("numpy", mode=mode, dtype="float64").model(network, parameters)
        for mode in ("compiled", "reference")
    )
    for shape in batches:
        order = rng.integers(0, 50, shape)
        expected = reference.train(x, y, order, optimizer)
        assert compiled.train(x, y, order, optimizer) == pytest.approx(expected, rel=relative)
    found, expected = compiled.parameters().arrays, reference.parameters().arrays
    for name, array in expected.items():
        error = np.abs(found[name] - array).max()
        assert error <= relative * np.abs(array).max(), f"{name}: {error}"


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_optimizer_and_loss_trains_like_the_equations(loss, optimizer, rng):
    for bias in (True, False):
        network = MLP((5, 8, 6, 3), ("sigmoid", "elu"), LOSSES[loss].allowed[-1], loss, bias)
        _assert_trains_like_the_reference(network, optimizer, [(70, 8), (3, 5), (10, 8)], rng)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_random_networks_train_like_the_equations(data):
    sizes = data.draw(st.lists(st.integers(1, 90), min_size=2, max_size=6))
    loss = data.draw(st.sampled_from(sorted(LOSSES)))
    hidden = data.draw(st.lists(st.sampled_from(hidden_activations()), min_size=len(sizes) - 2,
                                max_size=len(sizes) - 2))  # fmt: skip
    network = MLP(tuple(sizes), tuple(hidden), data.draw(st.sampled_from(LOSSES[loss].allowed)),
                  loss, data.draw(st.booleans()))  # fmt: skip
    batches = [(3, data.draw(st.integers(1, 70))), (1, data.draw(st.integers(1, 9)))]
    _assert_trains_like_the_reference(
        network, data.draw(st.sampled_from(OPTIMIZERS)), batches, np.random.default_rng(len(sizes))
    )


JUDGED = [
    (MLP((20, 30, 9), hidden, output, loss), batch, optimizer)
    for hidden, output, loss, batch, optimizer in [
        ("tanh", "softmax", "cross_entropy", 16, SGD(0.5)),
        ("gelu", "sigmoid", "binary_cross_entropy", 1, SGD(0.1, momentum=0.9)),
        ("softplus", "softmax", "half_squared_error", 5, Adam(0.01)),
        ("elu", "silu", "half_squared_error", 33, RMSProp(0.01, l2=0.01)),
        ("leaky_relu", "tanh", "half_squared_error", 7, SGD(0.2, l2=0.1)),
        ("sigmoid", "sigmoid", "half_squared_error", 4, SGD(1.0)),
    ]
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("network", "batch", "optimizer"), JUDGED, ids=str)
def test_the_judge_finds_nothing_in_twenty_steps(network, batch, optimizer, dtype, rng):
    parameters = initial_parameters(network, 2, "scaled_normal").astype(dtype)
    x, y = (array.astype(dtype) for array in _problem(network, 60, rng))
    order = rng.integers(0, 60, (20, batch))
    model = get_backend("numpy", mode="compiled", dtype=dtype).model(network, parameters)
    losses = model.train(x, y, order, optimizer)
    report = judge_training(
        network, parameters, x, y, order, optimizer, losses, model.parameters(), dtype
    )
    assert report.verdict == "right", str(report)


# ── Exponentials and what is made of them ──────────────────────────────────────────────────────


def _of_arrays(formula):
    """A compiled function (like, x, y, count) that fills y with the formula of x, by addresses."""

    @piece
    def apply(program, x, y, count):
        for here in program.registers(count):
            here.store(formula(here.load(x)), y)

    @numba.njit
    def run(like, x, y, count):
        apply(pointer(x, like), pointer(y, like), count)

    def of(x):
        y = np.full(len(x) + 1, 7, x.dtype)
        run(x[:1].copy(), x.ctypes.data, y.ctypes.data, len(x))
        assert y[-1] == 7  # nothing is written beyond the end
        return y[:-1]

    return of


def _expit(x):
    return 1 / (1 + np.exp(-x))


EXACT = {
    # formula: (the same in extended precision, from, to, units in the last place)
    "exp": (np.exp, {"float32": (-103, 88.7), "float64": (-744, 709.7)}, 1.5),
    "expm1": (np.expm1, {"float32": (-60, 60), "float64": (-60, 60)}, 2.5),
    "log1p": (np.log1p, {"float32": (0, 1), "float64": (0, 1)}, 2.5),
    "log": (np.log, {"float32": (1e-30, 1e30), "float64": (1e-300, 1e300)}, 1.5),
    "sigmoid": (_expit, {"float32": (-86, 90), "float64": (-700, 750)}, 3),
    "tanh": (np.tanh, {"float32": (-12, 12), "float64": (-25, 25)}, 3),
    "softplus": (lambda z: np.logaddexp(0, z), {"float32": (-80, 80), "float64": (-700, 700)}, 3),
}


@pytest.mark.skipif(np.finfo(np.longdouble).eps > 1e-18, reason="needs extended precision")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", EXACT)
def test_formulas_are_right_to_about_the_last_place_over_their_whole_range(name, dtype, rng):
    exact, ranges, units = EXACT[name]
    low, high = ranges[dtype]
    near = np.geomspace(1e-6, 1, 5_001)
    x = np.concatenate([
        rng.uniform(low, high, 100_003), near, -near if low < 0 else near,
        np.geomspace(low, high, 20_001) if name == "log" else np.linspace(-1, 1, 5_001) * (low < 0),
    ]).astype(dtype)  # fmt: skip
    x = x[(x >= low) & (x <= high)]
    found = _of_arrays(getattr(formulas, name))(x)
    expected = exact(x.astype(np.longdouble))
    spacing = np.spacing(np.abs(expected).astype(dtype)).astype(np.longdouble)
    error = np.abs(found - expected) / spacing
    assert error.max() <= units, (x[error.argmax()], error.max())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_formulas_end_where_the_numbers_end(dtype):
    x = np.array([800, -800, np.inf, -np.inf, np.nan, 0, -0.0], dtype)
    nan = np.nan
    ends = {
        "exp": [np.inf, 0, np.inf, 0, nan, 1, 1],
        "sigmoid": [1, 0, 1, 0, nan, 0.5, 0.5],
        "tanh": [1, -1, 1, -1, nan, 0, -0.0],
        "softplus": [800, 0, np.inf, 0, nan, np.log(2), np.log(2)],
    }
    for name, expected in ends.items():
        found = _of_arrays(getattr(formulas, name))(x)
        assert found == pytest.approx(np.array(expected, dtype), rel=1e-6, nan_ok=True), name
    for name in hidden_activations():
        forward = formulas.ACTIVATIONS[name].forward
        assert np.isnan(_of_arrays(lambda z, forward=forward: forward(z)[0])(x)[4]), name


def test_a_diverging_run_shows_in_the_losses(rng):
    network = MLP((4, 6, 2), "relu", "identity")
    model = get_backend("numpy", mode="compiled").model(network, initial_parameters(network))
    x, y = _problem(network, 30, rng)
    losses = model.train(100 * x, y, rng.integers(0, 30, (200, 5)), SGD(10.0))
    assert np.isnan(losses[-1])


# ── Products ───────────────────────────────────────────────────────────────────────────────────


@numba.njit
def _product(
    like, A, a_row, a_step, B, b_step, b_column, C, base, base_row, decay, m, n, k, packed
):
    products.product(
        pointer(A, like), a_row, a_step, pointer(B, like), b_step, b_column, pointer(C, like), n,
        pointer(base, like), base_row, decay, m, n, k, pointer(packed, like),
    )  # fmt: skip


SHAPES = [(1, 1, 1), (4, 3, 2), (3, 17, 5), (13, 33, 130), (9, 70, 300), (300, 40, 7),
          (70, 530, 520), (530, 67, 150)]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_tiles_make_up_the_product_whatever_the_shapes(m, n, k, dtype, rng):
    packed = np.empty(products.room(64), dtype)
    A, B, C = (rng.standard_normal(shape).astype(dtype) for shape in ((m, k), (k, n), (m + 1, n)))
    before, row = C.copy(), rng.standard_normal(n).astype(dtype)
    exact = A.astype(np.longdouble) @ B
    bound = 4 * np.finfo(dtype).eps * np.sqrt(k) * (np.abs(exact).max() + 1)
    for left, a_row, a_step in ((A, k, 1), (np.ascontiguousarray(A.T), 1, m)):
        for right, b_step, b_column in ((B, n, 1), (np.ascontiguousarray(B.T), 1, k)):
            for base, base_row, decay in ((C, n, 0.25), (row, 0, 0.0)):
                expected = exact + (1 - decay) * (before[:m] if base_row else row)
                C[:] = before
                _product(
                    np.ones(1, dtype), left.ctypes.data, a_row, a_step, right.ctypes.data, b_step,
                    b_column, C.ctypes.data, base.ctypes.data, base_row, decay, m, n, k,
                    packed.ctypes.data,
                )  # fmt: skip
                assert np.abs(C[:m] - expected).max() <= bound
                assert np.array_equal(C[m], before[m])  # nothing is written beyond the end


@pytest.mark.parametrize("optimizer", [SGD(0.05, l2=0.1), Adam(0.01)], ids=str)
def test_blas_and_tiles_lead_to_the_same_parameters(optimizer, rng, monkeypatch):
    network = MLP((17, 40, 23, 4), ("sigmoid", "gelu"), "softmax", "cross_entropy")
    asked = []

    def every_second(m, n_in, n_out):
        asked.append(n_in)
        return n_in != 40

    for choice in (lambda *shape: True, lambda *shape: False, every_second):
        monkeypatch.setattr(compiled, "by_blas", choice)
        _assert_trains_like_the_reference(network, optimizer, [(5, 21), (2, 3)], rng)
    assert 40 in asked


@pytest.mark.parametrize(
    ("register_bytes", "threads", "large"), [(64, 1, False), (64, 2, True), (32, 1, True)]
)
def test_blas_takes_large_products_where_it_is_faster(register_bytes, threads, large, monkeypatch):
    monkeypatch.setattr(compiled, "REGISTER_BYTES", register_bytes)
    monkeypatch.setattr(compiled, "blas_threads", lambda: threads)
    assert not compiled.by_blas(64, 64, 32)
    assert compiled.by_blas(512, 784, 1024) == large


def test_blas_tells_its_number_of_threads():
    code = "from bpbench.backends.numpy_compiled.model import blas_threads; print(blas_threads())"
    for threads in ("1", "2"):
        done = _python(code, OPENBLAS_NUM_THREADS=threads, OMP_NUM_THREADS=threads)
        assert done.stdout.strip() == threads, done.stderr


# ── Around the compiled function ───────────────────────────────────────────────────────────────


def test_a_long_order_is_cut_so_that_ctrl_c_is_heard(rng, monkeypatch):
    monkeypatch.setattr(compiled, "INTERRUPTIBLE", 1e5)
    chunks = []
    train = compiled.train
    monkeypatch.setattr(compiled, "train", lambda *given: chunks.append(given[10]) or train(*given))
    _assert_trains_like_the_reference(MLP((5, 8, 3)), Adam(0.01), [(70, 8)], rng)
    assert sum(chunks) == 70
    assert max(chunks) < 20


def test_data_in_any_layout_train_alike(rng):
    network = MLP((3, 5, 2))
    parameters = initial_parameters(network)
    x, y = _problem(network, 20, rng)
    order = rng.integers(0, 20, (6, 4))
    wide = rng.random((20, 6))
    wide[:, ::2] = x
    raw = np.zeros(20 * 3 * 8 + 1, np.uint8)[1:].view(np.float64).reshape(20, 3)  # not aligned
    raw[:] = x
    results = set()
    for laid_out in (x, np.asfortranarray(x), wide[:, ::2], raw):
        model = get_backend("numpy:compiled", dtype="float64").model(network, parameters)
        model.train(laid_out, np.asfortranarray(y), order, SGD(0.5))
        results.add(model.parameters().digest())
    assert len(results) == 1


def test_parameters_that_are_set_again_start_the_optimizer_again(rng):
    network = MLP((3, 5, 2))
    parameters = initial_parameters(network)
    x, y = _problem(network, 20, rng)
    order = rng.integers(0, 20, (6, 4))
    model = get_backend("numpy:compiled", dtype="float64").model(network, parameters)
    for optimizer in (Adam(0.1), SGD(0.1, momentum=0.9), SGD(0.1), RMSProp(0.1)):
        losses = []
        for _ in range(2):
            model.set_parameters(parameters)
            losses.append(model.train(x, y, order, optimizer))
        assert np.array_equal(*losses)


def test_no_second_compilation_for_another_network_or_read_only_data(rng):
    for sizes, frozen in (((2, 3, 1), False), ((7, 9, 8, 2), True)):
        network = MLP(sizes)
        x, y = _problem(network, 30, rng)
        x.flags.writeable = y.flags.writeable = not frozen
        model = get_backend("numpy", mode="compiled", dtype="float64").model(
            network, initial_parameters(network)
        )
        model.train(x, y, rng.integers(0, 30, (2, 5)), SGD(0.1))
    assert len(compiled.train.signatures) <= 2  # one for each dtype


def _python(code, folder=ROOT, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), **environment},
    )  # fmt: skip


def test_where_nothing_can_be_written_the_code_is_compiled_and_not_kept(tmp_path):
    for source, target in (("bpbench", "bpbench"), ("backends", "bpbench/backends")):
        shutil.copytree(ROOT / source, tmp_path / target,
                        ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
    pycache = tmp_path / "bpbench/backends/numpy_compiled/__pycache__"
    pycache.write_text("a file where Numba wants a folder")
    done = _python(
        "import numpy as np\n"
        "from bpbench import MLP, SGD, get_backend, initial_parameters\n"
        "network = MLP((2, 3, 1))\n"
        "model = get_backend('numpy:compiled').model(network, initial_parameters(network))\n"
        "losses = model.train(np.eye(2), [[0], [1]], [[0, 1]] * 50, SGD(1.0))\n"
        "from bpbench.backends.numpy_compiled.loop import train\n"
        "print(type(train._cache).__name__, losses[-1] < losses[0])",
        tmp_path, HOME="/dev/null", XDG_CACHE_HOME="/dev/null", NUMBA_CACHE_DIR="",
    )  # fmt: skip
    assert done.stdout.split() == ["NullCache", "True"], done.stderr


def test_changed_code_is_compiled_anew_whichever_file_it_is_in(tmp_path):
    from bpbench.backends.numpy_compiled.loop import digest

    for path in (ROOT / "backends").glob("numpy_compiled/*.py"):
        shutil.copy(path, tmp_path)
    assert digest(tmp_path) == digest()
    with (tmp_path / "formulas.py").open("a") as file:
        file.write("# changed\n")
    assert digest(tmp_path) != digest()


def test_without_numba_the_message_says_how_to_get_it_and_the_other_modes_work():
    done = _python(
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('numba', 'llvmlite'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "import bpbench\n"
        "print(bpbench.get_backend('numpy'), bpbench.get_backend('numpy:fast'))\n"
        "try: bpbench.get_backend('numpy:compiled')\n"
        "except bpbench.MissingBackend as error: print(error)"
    )
    assert "needs the package 'numba'" in done.stdout, done.stderr
    assert "pip install 'bpbench[numba]'" in done.stdout


def test_listing_backends_does_not_import_numba():
    done = _python("import sys, bpbench; print([b.modes for b in bpbench.list_backends()]);"
                   "print('numba' in sys.modules)")  # fmt: skip
    assert "'compiled'" in done.stdout
    assert done.stdout.split()[-1] == "False", done.stdout + done.stderr
