"""Result rows as ``bpbench run`` writes them, made by hand for the tests of tables and reports."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]
"""A ``bpbench.results.rows.Row``, which tests may spoil."""


def row(
    question: str,
    backend: str = "numpy",
    mode: str = "reference",
    dtype: str = "float64",
    *,
    status: str = "ok",
    say: str = "",
    seed: int = 0,
    experiment: str = "xor",
    point: dict[str, str] | None = None,
    **measured: Any,
) -> Row:
    """One row; ``measured`` replaces single entries of a plausible measurement."""
    found = {"verify": VERIFY, "speed": SPEED, "train": TRAIN}[question] | measured
    return {
        "schema": 1,
        "notes": "What section 5 means.",
        "cell": {
            "id": f"{question}-{backend}-{mode}-{dtype}-{seed}-0123abcd",
            "experiment": experiment,
            "question": question,
            "point": point or {},
            "network": {"sizes": [2, 3, 1], "hidden": "sigmoid", "output": "sigmoid",
                        "loss": "half_squared_error", "bias": True},
            "network_text": "2-3-1 sigmoid, sigmoid, half_squared_error",
            "data": "xor (4 train)",
            "data_digest": "00112233",
            "optimizer": {"name": "SGD", "learning_rate": 0.1, "l2": 0.0},
            "epochs": 10,
            "batch_size": 4,
            "shuffle": True,
            "drop_last": False,
            "initial": "normal",
            "backend": backend,
            "mode": mode,
            "device": "cpu",
            "dtype": dtype,
            "threads": 1,
            "seed": seed,
        },
        "status": status,
        "say": say,
        "given_digest": "aa55",
        "measured": found if status in ("ok", "wrong", "diverged") else {},
        "machine": {"id": "77", "cpu": "Some CPU", "cores": 2, "cpus": 4, "usable_cpus": 2,
                    "memory_bytes": 8e9, "system": "Linux 6", "load": [seed, 0.0, 0.0]},
        "versions": {"numpy": "2.4.6", "bpbench": "0.1.0"},
        "started": "2026-01-02T03:04:05",
        "seconds": 1.5,
    }  # fmt: skip


VERIFY = {
    "report": {
        "verdict": "right",
        "subject": "numpy:reference",
        "findings": [],
        "tensors": [
            {
                "name": "loss",
                "layer": None,
                "error": 1e-17,
                "sigmas": 0.1,
                "detection_limit": 1e-15,
            },
            {"name": "dW", "layer": 1, "error": 3e-17, "sigmas": 1.25, "detection_limit": 4e-15},
        ],
        "detection_limit": 4e-15,
    },
    "training": {"verdict": "right", "subject": "numpy:reference", "findings": [], "tensors": []},
    "worst_sigmas": 1.25,
    "max_scaled_error": 2.5e-16,
}
SPEED = {
    "import_s": 0.2,
    "upload_s": 1e-5,
    "first_call_s": 0.012,
    "second_call_s": 0.001,
    "steps_per_sample": 1000,
    "samples": [1.1e-5, 1.2e-5, 1.3e-5],
    "warmups": [2e-5],
    "cpu_per_wall": [0.99, 1.0, 1.01],
    "median_s": 1.2e-5,
    "min_s": 1.1e-5,
    "interval": [1.1e-5, 1.3e-5],
    "samples_per_s": 333_333.0,
    "peak_memory_bytes": 45_000_000,
    "threads_observed": 1,
    "rounds": 3,
}
TRAIN = {
    "steps": 10,
    "first_loss": 0.14,
    "final_loss": 0.0125,
    "curve": [[0, 0.14], [9, 0.0125]],
    "accuracy": {"train": 1.0},
    "seconds": 0.5,
    "parameters_digest": "beef",
}
