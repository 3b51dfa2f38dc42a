"""What the judge says of right gradients, of wrong ones, and of those that nobody could judge."""

import json
from dataclasses import replace

import numpy as np
import pytest

import bpbench
from bpbench import MLP, Backpropagation, Gradients, Parameters, initial_parameters
from bpbench.backend import map_arrays
from bpbench.verify import truth
from bpbench.verify.tolerance import distance, parts, tolerance
from bpbench.verify.verdict import judge

NETWORK = MLP((5, 7, 6, 4), hidden=("tanh", "silu"), output="softmax", loss="cross_entropy")
PLANTED = {"float32": 1e-4, "float64": 1e-9}


def given(network=NETWORK, rows=8, seed=3):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((rows, network.sizes[0])), rng.random((rows, network.sizes[-1]))
    return network, initial_parameters(network, seed, "scaled_normal"), x, y / y.sum(1)[:, None]


def backpropagated(network, parameters, x, y, dtype="float64", **more):
    model = bpbench.get_backend("numpy", dtype=dtype).model(network, parameters)
    return model.backpropagate(x, y, **more)


def changed(found, place, change):
    """A copy of a backpropagation with one tensor changed."""
    name, layer = place
    if layer is None:
        return replace(found, **{name: change(getattr(found, name))})
    if name in ("dW", "db"):
        arrays = list(getattr(found.gradients, name[1:]))
        arrays[layer] = change(arrays[layer])
        gradients = replace(found.gradients, **{name[1:]: tuple(arrays)})
        return replace(found, gradients=gradients)
    arrays = list(getattr(found, name))
    arrays[layer] = change(arrays[layer])
    return replace(found, **{name: tuple(arrays)})


def places():
    found = backpropagated(*given())
    return [place for place, _ in parts(found)]


# ── Right and wrong ────────────────────────────────────────────────────────────────────────────


def test_a_machine_whose_longdouble_is_no_wider_judges_float64_alike(monkeypatch):
    found = backpropagated(*given())
    monkeypatch.setattr(truth, "EXTENDED", "doubledouble")
    assert judge(*given(), found, "float64").verdict == "right"
    off = changed(found, ("dW", 1), lambda array: array * (1 + PLANTED["float64"]))
    report = judge(*given(), off, "float64")
    assert [(f.tensor, f.layer) for f in report.findings] == [("dW", 1)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_correct_gradients_are_right(dtype):
    for more in ({}, {"l2": 0.5}):
        report = judge(*given(), backpropagated(*given(), dtype, **more), dtype, **more)
        assert report.verdict == "right"
        assert report.passed
        assert report.findings == ()
        assert report.worst_sigmas < 4
        assert report.detection_limit < PLANTED[dtype]
    network, parameters, x, y = given()
    found = backpropagated(network, parameters, x, None, dtype, cotangent=y)
    assert judge(network, parameters, x, None, found, dtype, cotangent=y).verdict == "right"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("place", places(), ids=str)
def test_a_small_error_of_one_whole_tensor_is_wrong_at_its_place(place, dtype):
    found = backpropagated(*given(), dtype)
    wrong = changed(found, place, lambda v: np.asarray(v * (1 + PLANTED[dtype]), dtype))
    report = judge(*given(), wrong, dtype)
    assert report.verdict == "wrong"
    assert not report.passed
    assert (report.findings[0].tensor, report.findings[0].layer) == place
    (row,) = [t for t in report.tensors if (t.name, t.layer) == place]
    assert row.sigmas > 8
    assert row.error == pytest.approx(PLANTED[dtype], rel=0.2)
    assert row.detection_limit < PLANTED[dtype]


def test_an_error_in_a_single_entry_is_wrong_and_the_entry_is_named():
    def change(dW):
        dW = dW.copy()
        dW[2, 3] *= 1.01
        return dW

    report = judge(*given(), changed(backpropagated(*given()), ("dW", 1), change), "float64")
    assert report.verdict == "wrong"
    assert "dW[1][2, 3]" in report.findings[0].say


def test_one_factor_throughout_is_said():
    network, parameters, x, y = given()
    found = changed(backpropagated(*given()), ("dW", 2), lambda v: v * len(x))
    (finding,) = judge(network, parameters, x, y, found, "float64").findings
    assert finding.mistake == "factor"
    assert "dW[2] is 8 times the truth" in finding.say


def test_what_follows_from_a_wrong_delta_is_told_from_it():
    network, parameters, x, y = given()
    found = backpropagated(*given())
    wrong_delta = found.delta[1] * 1.5
    below = (wrong_delta @ parameters.W[1]) * (1 - found.a[0] ** 2)
    wrong = replace(
        found,
        delta=(below, wrong_delta, found.delta[2]),
        gradients=Gradients(
            (below.T @ x, wrong_delta.T @ found.a[0], found.gradients.W[2]),
            (below.sum(0), wrong_delta.sum(0), found.gradients.b[2]),
        ),
        input_gradient=below @ parameters.W[0],
    )
    first, rest = judge(network, parameters, x, y, wrong, "float64").findings
    assert (first.tensor, first.layer) == ("delta", 1)
    assert rest.mistake == "consequences"
    assert not rest.certain


@pytest.mark.parametrize(
    ("change", "mistake", "says"),
    [
        (lambda v: np.where(v == v.max(), np.nan, v), "not finite", "nan or infinity in 1 of 35"),
        (lambda v: v.T.copy(), "wrong shape", "(5, 7); expected (7, 5); transpose it"),
        (lambda v: v.ravel(), "wrong shape", "expected (7, 5)"),
        (lambda v: [[1.0, 2.0], [3.0]], "wrong shape", "dW[0]"),
        (lambda v: v.astype("float32"), "wrong dtype", "float32, where float64 was claimed"),
        (lambda v: v.astype(complex), "wrong dtype", "complex128"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_a_finding(change, mistake, says):
    report = judge(*given(), changed(backpropagated(*given()), ("dW", 0), change), "float64")
    assert report.verdict == "wrong"
    assert [f.mistake for f in report.findings] == [mistake]
    assert says in report.findings[0].say
    assert (report.findings[0].tensor, report.findings[0].layer) == ("dW", 0)


def test_too_few_and_too_many_arrays_are_findings():
    found = backpropagated(*given())
    few = replace(found, z=found.z[:2])
    assert [f.mistake for f in judge(*given(), few, "float64").findings] == ["wrong count"]
    gradients = replace(found.gradients, b=())
    none = replace(found, gradients=gradients)
    assert "db has 0 arrays; expected 3" in judge(*given(), none, "float64").findings[0].say
    without = MLP((5, 4), bias=False)
    parameters, x = initial_parameters(without), given()[2]
    y = np.zeros((8, 4))
    one = backpropagated(without, parameters, x, y)
    many = replace(one, gradients=replace(one.gradients, b=(np.zeros(4),)))
    assert "expected 0" in judge(without, parameters, x, y, many, "float64").findings[0].say


def test_what_was_not_offered_is_not_judged():
    found = backpropagated(*given())
    alone = Backpropagation(None, None, None, None, found.gradients, None)
    report = judge(*given(), alone, "float64")
    assert report.verdict == "right"
    assert {t.name for t in report.tensors} == {"dW", "db"}


def test_float32_inside_a_float64_claim_is_wrong_and_named():
    network, parameters, x, y = given()
    short = backpropagated(network, parameters, x, y, "float32")
    short = map_arrays(lambda v: np.asarray(v, "float64"), short)
    # As a backend would: the inputs are float64, the arithmetic is not.
    report = judge(network, parameters, x, y, short, "float64")
    assert report.verdict == "wrong"
    assert report.findings[0].mistake == "computed in float32"


# ── What nobody could have seen ────────────────────────────────────────────────────────────────


def test_a_dead_network_is_vacuous():
    network, parameters, x, y = given(MLP((3, 4, 2), hidden="relu"))
    dead = Parameters(W=parameters.W, b=(np.full(4, -100.0), parameters.b[1]))
    found = backpropagated(network, dead, x, y)
    report = judge(network, dead, x, y, found, "float64")
    assert report.verdict == "vacuous"
    assert "dW[0]" in report.findings[0].say
    scaled = changed(found, ("dW", 0), lambda v: v * 3)
    assert judge(network, dead, x, y, scaled, "float64").verdict == "vacuous"
    moved = changed(found, ("dW", 0), lambda v: v + 1e-6)
    assert judge(network, dead, x, y, moved, "float64").verdict == "wrong"


def test_a_saturated_network_is_noise_limited_in_float32_and_says_from_where_errors_are_seen():
    network, parameters, x, y = given(MLP((5, 6, 4), hidden="tanh", output="tanh"), rows=1)
    steep = Parameters(tuple(4 * w for w in parameters.W), parameters.b)
    found = backpropagated(network, steep, x, y, "float32")
    report = judge(network, steep, x, y, found, "float32")
    assert report.verdict == "noise-limited"
    assert report.passed
    assert report.detection_limit > 1e-4
    assert "float64" in report.findings[0].say
    precise = judge(network, steep, x, y, backpropagated(network, steep, x, y), "float64")
    assert precise.detection_limit < 1e-4 * report.detection_limit


def test_a_factor_too_near_to_1_for_any_entry_shows_in_the_whole_tensor():
    # 3e-5 is within three standard deviations of every entry's rounding, but 9,000 agree on it.
    network, _, x, y = given(MLP((60, 90, 100, 90, 4), hidden="tanh"), rows=40)
    parameters = initial_parameters(network, 1, "normal")
    found = backpropagated(network, parameters, x, y, "float32")
    report = judge(network, parameters, x, y, found, "float32")
    assert report.verdict == "right"
    wrong = changed(found, ("dW", 1), lambda v: (v * (1 + 3e-5)).astype("float32"))
    report = judge(network, parameters, x, y, wrong, "float32")
    assert report.verdict == "wrong"
    assert (report.findings[0].tensor, report.findings[0].layer) == ("dW", 1)
    allowed = tolerance(
        network, parameters.astype("float32"), x.astype("float32"), y.astype("float32"), None, 0.0,
        "float32",
    )  # fmt: skip
    true = dict(parts(allowed.true))["dW", 1]
    assert (distance(wrong.gradients.W[1], true) < 3 * allowed.sigma["dW", 1]).all()


# ── Corners ────────────────────────────────────────────────────────────────────────────────────


def on_the_corner():
    """A relu whose z is 0 but for rounding: 1/3 + 1/3 - 2/3, in float32."""
    network = MLP((2, 2, 1), hidden="relu", output="identity")
    third = np.float32(1 / 3)
    W = (np.array([[1.0, 1.0], [0.5, -0.25]]), np.array([[1.0, 1.0]]))
    parameters = Parameters(W, (np.array([-2 * third, 0.1]), np.zeros(1)))
    x, y = np.full((1, 2), third, np.float64), np.full((1, 1), -1.0)
    return network, parameters, x, y


def side(positive, z):
    """The backpropagation that takes the first unit's corner from one side."""
    network, parameters, x, y = on_the_corner()
    sides = [np.array([[positive, True]]), np.array([[True]])]
    found = truth.backpropagate(
        network, parameters.astype("float32"), x.astype("float32"), y.astype("float32"),
        dtype="float32", positive=sides,
    )  # fmt: skip
    first = found.z[0].copy()
    first[0, 0] = z
    a = np.where(sides[0], first, 0).astype("float32")
    return replace(found, loss=float(found.loss), z=(first, found.z[1]), a=(a, found.a[1]))


def test_either_side_of_a_corner_is_right_where_z_is_on_that_side():
    for positive, z in ((True, 3e-8), (False, -3e-8), (False, 0.0)):
        assert judge(*on_the_corner(), side(positive, z), "float32").verdict == "right"


def test_a_corner_is_a_kink_where_z_does_not_tell_the_side():
    for positive in (True, False):
        found = replace(side(positive, 0.0), z=None, a=None, delta=None)
        verdicts = judge(*on_the_corner(), found, "float32")
        assert verdicts.verdict in ("right", "kink")
    kinks = [
        judge(*on_the_corner(), replace(side(p, 0.0), z=None, a=None), "float32").verdict
        for p in (True, False)
    ]
    assert sorted(kinks) == ["kink", "right"]


def test_the_derivative_at_an_exact_zero_is_0():
    network = MLP((2, 1, 1), hidden="relu", output="identity", bias=False)
    parameters = Parameters(W=([[1.0, 1.0]], [[1.0]]))
    x, y = np.zeros((1, 2)), np.ones((1, 1))
    found = backpropagated(network, parameters, x, y)
    assert judge(network, parameters, x, y, found, "float64").verdict == "vacuous"
    one = replace(
        found, delta=(np.full((1, 1), -1.0), found.delta[1]), input_gradient=-np.ones((1, 2))
    )
    report = judge(network, parameters, x, y, one, "float64")
    assert report.verdict == "wrong"
    assert report.findings[0].tensor == "delta"


# ── Reduced precision ──────────────────────────────────────────────────────────────────────────


def rounded_to(bits):
    """matmul with operands rounded to so many significant bits, summed in float32."""

    def round_off(v):
        mantissa, exponent = np.frexp(v)
        return np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits).astype("float32")

    return lambda A, B: round_off(A) @ round_off(B)


@pytest.mark.parametrize(("bits", "name"), [(11, "TF32"), (8, "bfloat16")])
def test_products_of_rounded_operands_are_right_at_reduced_precision(monkeypatch, bits, name):
    network = MLP((30, 40, 20, 10), hidden="gelu", output="softmax", loss="cross_entropy")
    network, parameters, x, y = given(network, rows=32)
    with monkeypatch.context() as patch:
        patch.setattr(truth, "matmul", rounded_to(bits))
        found = truth.backpropagate(
            network, parameters.astype("float32"), x.astype("float32"), y.astype("float32"),
            dtype="float32",
        )  # fmt: skip
    report = judge(network, parameters, x, y, replace(found, loss=float(found.loss)), "float32")
    assert report.verdict == "right at reduced precision"
    assert name in report.findings[0].say


def test_a_factor_near_1_is_wrong_and_no_reduced_precision():
    network, parameters, x, y = given(MLP((30, 40, 10)), rows=32)
    found = backpropagated(network, parameters, x * (1 + 3e-4), y, "float32")
    report = judge(network, parameters, x, y, found, "float32")
    assert report.verdict == "wrong"
    assert (report.findings[0].tensor, report.findings[0].layer) == ("z", 0)


# ── The report ─────────────────────────────────────────────────────────────────────────────────


def test_the_report_is_plain_data_a_text_and_a_table():
    found = changed(backpropagated(*given()), ("dW", 0), lambda v: v * np.inf)
    found = changed(found, ("db", 0), lambda v: v * 2)
    report = judge(*given(), found, "float64")
    plain = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert plain["verdict"] == "wrong"
    assert plain["findings"][0]["mistake"] == "not finite"
    assert {"name", "layer", "error", "sigmas", "detection_limit"} <= plain["tensors"][0].keys()
    assert str(report).startswith("wrong: 5-7-6-4 tanh/silu, softmax, cross_entropy; 8 rows")
    assert "dW[0] holds nan or infinity in 35 of 35 entries" in str(report)
    html = replace(report, subject="<b>")._repr_html_()
    assert "&lt;b&gt;" in html
    assert "<td>dW[1]</td>" in html


def test_the_arguments_are_not_changed():
    network, parameters, x, y = given()
    found = backpropagated(network, parameters, x, y)
    copies = [np.array(v) for v in (x, y, *(value for _, value in parts(found)))]
    judge(network, parameters, x, y, found, "float64", l2=0.1)
    for now, then in zip((x, y, *(value for _, value in parts(found))), copies, strict=True):
        assert np.array_equal(now, then)


def test_a_dtype_that_cannot_be_judged_is_an_error():
    found = backpropagated(*given())
    with pytest.raises(bpbench.UsageError, match="dtype 'float16' is unknown; expected one of: f"):
        judge(*given(), found, "float16")


def test_a_right_report_says_from_where_errors_are_seen():
    report = judge(*given(), backpropagated(*given()), "float64")
    assert f"a relative error of {report.detection_limit:.1e} or more in any one tensor" in str(
        report
    )
