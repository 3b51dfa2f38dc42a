"""Data sets, their files, and the order of batches."""

import gzip
import struct

import numpy as np
import pytest

from bpbench import BpbenchError, UsageError, datasets
from bpbench.datasets import BatchOrder, Dataset, Part


def test_xor_is_the_truth_table():
    data = datasets.xor()
    assert [tuple(row) for row in data.train.x] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert data.train.y.ravel().tolist() == [0, 1, 1, 0]


def test_the_spiral_has_arms_that_start_at_the_origin_and_end_on_the_unit_circle():
    data = datasets.spiral(points=50, noise=0)
    assert data.train.x.shape == (150, 2)
    assert data.train.y.sum(axis=0).tolist() == [50, 50, 50]
    radius = np.hypot(*data.train.x.T)
    assert radius[[0, 50, 100]] == pytest.approx(0)
    assert radius[[49, 99, 149]] == pytest.approx(1)
    angle = np.arctan2(data.train.x[49, 0], data.train.x[49, 1])
    assert angle == pytest.approx(4 - 2 * np.pi)


def test_digits_have_three_parts_without_a_shared_row():
    data = datasets.digits()
    assert {name: part.rows for name, part in data.parts.items()} == {
        "train": 1197, "validation": 300, "test": 300,
    }  # fmt: skip
    assert data.train.x.max() == 1
    assert data.digest() == "9ea51dea9701f7f8"  # as with scikit-learn's load_digits
    assert datasets.digits(seed=1).digest() == "20bbc481fc03ae8a"


def test_data_that_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="x has 2 rows, but y has 3"):
        Part(np.ones((2, 1)), np.ones((3, 1)))
    with pytest.raises(UsageError, match=r"y has shape \(2,\).*reshape one column"):
        Part(np.ones((2, 1)), np.ones(2))
    with pytest.raises(UsageError, match="nan or infinity"):
        Part([[np.nan]], [[1]])
    with pytest.raises(UsageError, match="test has 2 inputs and 1 outputs, but train has 1 and 1"):
        Dataset("odd", Part([[1]], [[1]]), test=Part([[1, 2]], [[1]]))
    with pytest.raises(UsageError, match="from 0 to 2"):
        datasets.one_hot([0, 3], classes=3)


def test_an_epoch_sees_every_row_once_and_keeps_a_short_last_batch():
    order = BatchOrder(rows=10, batch_size=4, seed=5)
    full, short = order.epoch(0)
    assert full.shape == (2, 4)
    assert short.shape == (1, 2)
    assert sorted([*full.ravel(), *short.ravel()]) == list(range(10))
    assert order.steps == 3
    assert BatchOrder(10, 4, drop_last=True).steps == 2
    assert [part.shape for part in BatchOrder(10, 4, drop_last=True).epoch(0)] == [(2, 4)]


def test_the_order_is_shuffled_anew_each_epoch_and_drawn_from_the_seed():
    order = BatchOrder(rows=50, batch_size=5, seed=5)
    assert np.array_equal(order.epoch(3)[0], BatchOrder(50, 5, seed=5).epoch(3)[0])
    assert not np.array_equal(order.epoch(3)[0], order.epoch(4)[0])
    assert not np.array_equal(order.epoch(3)[0], BatchOrder(50, 5, seed=6).epoch(3)[0])
    assert BatchOrder(4, 2, shuffle=False).epoch(9)[0].tolist() == [[0, 1], [2, 3]]


def test_many_epochs_come_in_as_few_orders_as_can_be():
    whole = list(BatchOrder(12, 4, seed=1).epochs(0, 3))
    assert [part.shape for part in whole] == [(9, 4)]
    assert np.array_equal(whole[0][3:6], BatchOrder(12, 4, seed=1).epoch(1)[0])
    uneven = list(BatchOrder(10, 4).epochs(0, 2))
    assert [part.shape for part in uneven] == [(2, 4), (1, 2), (2, 4), (1, 2)]
    with pytest.raises(UsageError, match="from 1 to 10"):
        BatchOrder(10, 11)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "flowers.csv"
    path.write_text("width,length,kind\n1,2.5,rose\n2,3.5,lily\n3,4.5,rose\n4,5,lily\n5,6,rose\n")
    return path


def test_a_table_becomes_inputs_and_classes(table):
    data = datasets.csv(table)
    assert data.name == "flowers"
    assert data.train.x.shape == (4, 2)
    assert data.train.y.shape == (4, 2)
    assert data.test.rows == 1
    numbers = datasets.csv(table, target="kind", test_share=0)
    assert numbers.test is None
    columns = datasets.csv(table.with_name("flowers.csv"), target="kind", classes=True)
    assert columns.train.y.sum(axis=1).tolist() == [1, 1, 1, 1]


def test_a_bad_table_is_refused_with_its_line(table, tmp_path):
    with pytest.raises(UsageError, match="no column 'colour'; it has: width, length, kind"):
        datasets.csv(table, target="colour")
    with pytest.raises(UsageError, match="line 2, column 'kind': 'rose' is no number"):
        datasets.csv(table, target="width")
    with pytest.raises(UsageError, match="cannot be read"):
        datasets.csv(tmp_path / "none.csv")
    short = tmp_path / "short.csv"
    short.write_text("a,b\n1,2\n3\n")
    with pytest.raises(UsageError, match="line 3 has 1 cells; the header has 2"):
        datasets.csv(short)


def _idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes(), mtime=0)


def test_mnist_is_read_from_idx_files_and_split_as_nielsen_does(tmp_path, monkeypatch, rng):
    import hashlib

    digests = {}
    for name in datasets.MNIST_FILES:
        rows = 60_000 if name.startswith("train") else 10_000
        shape = (rows, 2, 2) if "images" in name else (rows,)
        packed = _idx(rng.integers(0, 10, shape))
        (tmp_path / name).write_bytes(packed)
        digests[name] = hashlib.sha256(packed).hexdigest()
    monkeypatch.setattr(datasets, "MNIST_FILES", digests)
    data = datasets.mnist(tmp_path)
    assert (data.train.rows, data.validation.rows, data.test.rows) == (50_000, 10_000, 10_000)
    assert data.train.x.shape[1] == 4
    assert set(np.unique(data.train.x * 256)) == set(range(10))

    damaged = tmp_path / "t10k-labels-idx1-ubyte.gz"
    damaged.write_bytes(b"x")
    with pytest.raises(BpbenchError, match="damaged or not the original"):
        datasets.mnist(tmp_path)
    damaged.unlink()
    with pytest.raises(BpbenchError, match="there is no t10k-labels"):
        datasets.mnist(tmp_path)
