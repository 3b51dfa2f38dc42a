"""Do result rows become the right tables, pages and files?"""

from __future__ import annotations

import csv
import io
import json
import math

import numpy as np
import pytest
from safetensors.numpy import save_file

from bpbench.errors import BpbenchError, UsageError
from bpbench.report import as_json, document, numbers, render
from bpbench.report.agreement import with_agreement
from bpbench.report.cells import flat
from bpbench.report.tables import (
    convergence,
    findings,
    gradient_agreement,
    problems,
    speed,
    tables,
)
from bpbench.results.store import write_whole
from tests.result_rows import row

# ── Numbers for people ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("show", "value", "text"),
    [
        (numbers.seconds, 3.14159e-7, "314 ns"),
        (numbers.seconds, 0.0123456, "12.3 ms"),
        (numbers.seconds, 0.99999, "1 s"),
        (numbers.seconds, 125.2, "2 min 5 s"),
        (numbers.seconds, None, "–"),
        (numbers.memory, 218_400_000, "218 MB"),
        (numbers.share, 0.95666, "95.7 %"),
        (numbers.error, 2.14e-16, "2.1e-16"),
        (numbers.error, 0.0, "0"),
        (numbers.error, 3.456, "3.5"),
        (numbers.digits, 0.12345, "0.123"),
        (numbers.digits, 123_456.0, "123,456"),
        (numbers.digits, 1.2345e-7, "1.23e-07"),
        (numbers.digits, math.nan, "nan"),
    ],
)
def test_numbers_have_three_digits_and_the_unit_that_suits_them(show, value, text):
    assert show(value) == text


def test_the_bounds_of_a_duration_share_its_unit():
    bounds = [numbers.seconds(bound, like=1.2e-3) for bound in (9e-4, 2e-3)]
    assert numbers.spread(bounds[0], numbers.seconds(1.2e-3), bounds[1]) == "1.2 ms [0.9, 2]"


# ── Tables ─────────────────────────────────────────────────────────────────────────────────────


def shown(table, heading):
    """The texts of one column."""
    (column,) = [column for column in table.columns if column.heading == heading]
    return [column.show(line) for line in table.lines()]


def test_lines_stand_in_the_order_of_the_registry_whatever_the_order_of_the_files():
    rows = [
        row("verify", "mine", "a"),
        row("verify", "jax", "eager"),
        row("verify", "jax", "scan"),
        row("verify", "numpy"),
    ]
    table = gradient_agreement(flat(rows))
    assert shown(table, "backend") == ["numpy", "jax", "jax", "mine"]
    assert shown(table, "mode") == ["reference", "scan", "eager", "a"]


def test_varied_learning_rates_stand_by_size_and_have_a_column():
    rows = [row("verify", point={"learning_rate": rate}) for rate in ("10", "0.5", "2")]
    assert shown(gradient_agreement(flat(rows)), "learning rate") == ["0.5", "2", "10"]


def test_what_all_lines_share_has_no_column():
    headings = [c.heading for c in gradient_agreement(flat([row("verify")])).columns]
    assert "device" not in headings
    assert "experiment" not in headings


def test_the_worst_tensor_is_the_one_with_most_sigmas():
    table = gradient_agreement(flat([row("verify")]))
    assert shown(table, "of") == ["dW[1]"]
    assert shown(table, "detection limit") == ["4.0e-15"]


def test_an_error_that_is_not_finite_is_the_worst():
    broken = [
        {"name": "dW", "layer": 0, "error": None, "sigmas": None, "detection_limit": 1e-7},
        {"name": "dW", "layer": 1, "error": 1e-3, "sigmas": 50.0, "detection_limit": 1e-7},
    ]
    table = gradient_agreement(
        flat([row("verify", report={"verdict": "wrong", "findings": [], "tensors": broken})])
    )
    assert shown(table, "of") == ["dW[0]"]


def test_a_cell_without_figures_is_a_line_that_says_how_it_ended():
    rows = [row("verify"), row("verify", "torch", "eager", status="missing", say="get it")]
    table = gradient_agreement(flat(rows))
    assert shown(table, "gradients") == ["right", "missing"]
    assert shown(table, "in sigmas") == ["1.2", "–"]


def test_speed_is_relative_to_the_fastest_of_the_same_work():
    rows = [
        row("speed", "numpy", median_s=2e-5, samples=[1.9e-5, 2e-5, 2.1e-5]),
        row("speed", "jax", "scan", median_s=1e-5, samples=[0.9e-5, 1e-5, 1.1e-5]),
        row("speed", "torch", "eager", median_s=1.05e-5, samples=[1e-5, 1.05e-5, 1.2e-5]),
        row("speed", "torch", "eager", "float32", median_s=5e-4, interval=[4e-4, 6e-4]),
    ]
    table = speed(flat(rows))
    by_backend = dict(zip(shown(table, "backend"), shown(table, "vs fastest"), strict=True))
    assert shown(table, "vs fastest") == ["1×", "2×", "≈ 1.05× (±33 %)", "1×"]
    assert by_backend["jax"] == "1×"


def test_a_busy_machine_is_told_of():
    undisturbed, disturbed = row("speed"), row("speed", "jax", "scan", cpu_per_wall=[0.4, 0.5])
    assert "1 of these 2 lines" in speed(flat([undisturbed, disturbed])).notes[-1]
    assert "something else" not in " ".join(speed(flat([undisturbed])).notes)


def test_a_backend_that_was_not_timed_has_its_status_in_the_speed_table():
    rows = [row("speed"), row("speed", "keras", "torch", status="unsupported", say="no float64")]
    table = speed(flat(rows))
    assert shown(table, "status") == ["ok", "unsupported"]
    assert shown(table, "step, median") == ["12 µs [11, 13]", "–"]
    assert shown(table, "vs fastest") == ["1×", "–"]


def test_convergence_is_one_line_for_all_seeds_with_its_spread():
    rows = [row("train", seed=seed, final_loss=loss) for seed, loss in enumerate((0.1, 0.3, 0.2))]
    table = convergence(flat(rows))
    assert shown(table, "final loss") == ["0.2 [0.1, 0.3]"]
    assert shown(table, "train accuracy") == ["100.0 %"]


def test_convergence_counts_the_seeds_that_ended_otherwise():
    rows = [row("train"), row("train", seed=1), row("train", seed=2, status="diverged")]
    assert shown(convergence(flat(rows)), "status") == ["2 ok, 1 diverged"]


def test_convergence_counts_the_seeds_that_learn_every_row():
    rows = [
        row("train", seed=seed, accuracy={"train": share}) for seed, share in enumerate((1, 0.75))
    ]
    assert shown(convergence(flat(rows)), "all rows right") == ["1 of 2"]


def test_final_parameters_are_identical_or_differ_by_so_much():
    rows = [
        row("train"),
        row("train", "jax", "scan", parts_from_numpy={"step": None, "largest": 0.0}),
        row("train", "torch", "eager", parts_from_numpy={"step": 812, "largest": 0.4}),
    ]
    table = convergence(flat(rows))
    by_backend = dict(zip(shown(table, "backend"), shown(table, "parameters"), strict=True))
    assert by_backend == {
        "numpy": "numpy's own",
        "jax": "identical",
        "torch": "0.4 (part at step 812)",
    }


def test_there_is_no_table_without_cells_for_it():
    assert [table.name for table in tables([row("verify")])] == ["gradient_agreement"]
    assert tables([]) == []


def test_all_that_is_missing_makes_tables_all_the_same():
    rows = [row(q, status="missing", say="get it") for q in ("verify", "speed", "train")]
    assert [len(table.lines()) for table in tables(rows)] == [1, 1, 1]
    assert all("missing" in table.text() for table in tables(rows))


# ── What is not right ──────────────────────────────────────────────────────────────────────────


WRONG = {
    "verdict": "wrong",
    "findings": [{"mistake": "no 1/m", "layer": 1, "tensor": "dW", "say": "divide by the batch"}],
    "tensors": [],
}


def test_findings_say_whose_they_are():
    rows = [row("verify"), row("verify", "jax", "scan", status="wrong", report=WRONG)]
    assert findings(rows) == ["xor, jax:scan, float64, gradients: wrong: divide by the batch"]
    assert problems(rows) == []


def test_a_training_by_wrong_gradients_is_not_told_of_as_well():
    trained = WRONG | {"findings": [{"say": "the losses are wrong"}]}
    both = row("verify", status="wrong", report=WRONG, training=trained)
    alone = row("verify", status="wrong", training=trained)
    assert findings([both]) == [
        "xor, numpy:reference, float64, gradients: wrong: divide by the batch"
    ]
    assert findings([alone]) == [
        "xor, numpy:reference, float64, training: wrong: the losses are wrong"
    ]


def test_one_reason_for_several_questions_is_said_once():
    rows = [
        row(question, "torch", "eager", status="missing", say="torch needs the package 'torch'")
        for question in ("verify", "train", "speed")
    ]
    assert problems(rows) == [
        "xor, torch:eager, float64 (verify, train, speed): missing: torch needs the package 'torch'"
    ]


# ── Reports ────────────────────────────────────────────────────────────────────────────────────

ROWS = [
    row("verify"),
    row("speed"),
    row("train"),
    row("verify", "torch", "eager", status="missing", say="pip install 'bpbench[torch]'"),
    row("verify", "jax", "scan", status="wrong", report=WRONG),
]


def test_markdown_says_what_ran_what_came_out_what_is_not_right_and_where():
    page = render(ROWS, "markdown")
    for part in (
        "# bpbench: xor",
        "2-3-1 sigmoid",
        "SGD(learning_rate=0.1)",
        "What section 5 means.",
        "## Gradient agreement",
        "## Speed",
        "## Convergence",
        "divide by the batch",
        "pip install 'bpbench[torch]'",
        "Some CPU, 2 of 4 processors usable, 8 GB memory, Linux 6",
        "numpy 2.4.6",
    ):
        assert part in page


def test_markdown_names_a_machine_once_whatever_its_load():
    page = render([row("train", seed=seed) for seed in range(3)], "markdown")
    assert page.count("Some CPU") == 1


def test_a_bar_in_a_name_does_not_break_a_markdown_table():
    text = tables([row("verify", "a|b.py:Mine", "x")])[0].text("github")
    assert "a\\|b.py:Mine" in text


def test_csv_has_a_line_for_every_cell_with_raw_numbers():
    lines = list(csv.DictReader(io.StringIO(render(ROWS, "csv"))))
    assert len(lines) == len(ROWS)
    (timed,) = [line for line in lines if line["question"] == "speed"]
    assert float(timed["median_s"]) == 1.2e-5
    assert timed["verdict"] == ""


def test_json_has_the_tables_and_every_row():
    found = json.loads(render(ROWS, "json"))
    assert found["cells"] == ROWS
    assert set(found["tables"]) == {"gradient_agreement", "speed", "convergence"}
    assert found["tables"]["speed"][0]["median_s"] == 1.2e-5


def test_json_is_strict_where_a_loss_is_not_finite():
    text = as_json(document([row("train", status="diverged", final_loss=math.nan)]))
    assert (
        json.loads(text, parse_constant=pytest.fail)["cells"][0]["measured"]["final_loss"] is None
    )


def test_another_format_is_an_error_that_names_those_there_are():
    with pytest.raises(UsageError, match=r"'markdwon' is unknown.*did you mean 'markdown'"):
        render(ROWS, "markdwon")


def test_a_file_is_written_whole_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "new" / "report.md"
    write_whole(path, b"one")
    write_whole(path, b"two")
    assert [p.name for p in path.parent.iterdir()] == ["report.md"]
    assert path.read_text() == "two"


def test_a_place_that_cannot_be_written_to_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BpbenchError, match=r"report\.md cannot be written"):
        write_whole(tmp_path / "file" / "report.md", b"text")


# ── Held against NumPy's training ──────────────────────────────────────────────────────────────


def trained(folder, backend, mode, losses, W, **what):
    """A row of a training and, in a folder of results, its arrays."""
    result = row("train", backend, mode, **what)
    path = folder / "xor" / f"{result['cell']['id']}.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_file({"losses": np.array(losses), "W0": np.array([W])}, path)
    return result


def test_trainings_are_held_against_numpys_of_the_same_work(tmp_path):
    rows = [
        trained(tmp_path, "torch", "eager", [1.0, 0.5, 0.3], [1.0, 2.5]),
        trained(tmp_path, "jax", "scan", [1.0, 0.5, 0.25], [1.0, 2.0]),
        trained(tmp_path, "jax", "scan", [1.0], [7.0], seed=1),
        trained(tmp_path, "numpy", "reference", [1.0, 0.5, 0.25], [1.0, 2.0]),
    ]
    found = [each["measured"].get("parts_from_numpy") for each in with_agreement(rows, tmp_path)]
    same = {"step": None, "largest": 0.0}
    assert found == [{"step": 2, "largest": 0.5}, same, None, same]
    assert "parts_from_numpy" not in rows[0]["measured"]


def test_without_numpys_training_nothing_is_said_of_agreement(tmp_path):
    rows = [trained(tmp_path, "torch", "eager", [1.0], [1.0])]
    assert with_agreement(rows, tmp_path) == rows
    assert shown(convergence(flat(rows)), "parameters") == ["–"]


def test_results_from_before_a_change_of_the_script_are_told_apart():
    before, after = row("train"), row("train")
    after["cell"]["epochs"] = 20
    assert shown(convergence(flat([before, after])), "variant") == ["epochs 10", "epochs 20"]
    assert "variant" not in flat([before, row("train", seed=1)]).columns
