"""Who imports whom, and what does starting bpbench cost? The rules that keep the rooms apart."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FRAMEWORKS = {"torch", "jax", "jaxlib", "optax", "tensorflow", "keras", "autograd"}
HEAVY = FRAMEWORKS | {"pandas", "scipy", "rich", "tabulate", "IPython", "matplotlib"}

LEVELS = (
    {"errors", "arithmetic"},
    {"activations"},
    {"losses"},
    {"network", "datasets", "optimizers"},
    {"backend"},
    {"registry", "verify", "measure"},
    {"cells", "experiment"},
    {"results"},
    {"execute", "conformance"},
    {"report"},
    {"conformance", "testing", "cli", "__main__"},
)
"""Each room may import from its own level and from those before it."""
EXCEPTIONS = {("experiment", "cli")}
"""``Experiment.main`` is ``bpbench run``: it imports the command line when it is called."""
BACKENDS_MAY_IMPORT = {"backend", "errors", "network", "optimizers"}


JUDGES_OWN = {"ACTIVATIONS", "LOSSES", "find_activation", "find_loss", "check_targets"}
"""What is judged must not be taken from the judge, not by way of a module that may be imported."""


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports anywhere but for type checking, with absolute names."""
    tree = ast.parse(path.read_text())
    hidden = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import; the project writes absolute ones"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(module: str) -> str:
    """ "verify" of "bpbench.verify.truth"; "" of names that bpbench itself offers."""
    name = module.split(".")[1] if "." in module else ""
    return name if any(name in level for level in LEVELS) else ""


def level(name: str) -> int:
    return next(i for i, names in enumerate(LEVELS) if name in names)


def test_every_module_of_bpbench_belongs_to_a_room_with_a_level():
    rooms = {path.relative_to(ROOT / "bpbench").parts[0] for path in sources("bpbench")}
    known = {name for names in LEVELS for name in names}
    assert {name.removesuffix(".py") for name in rooms} - known == {"__init__"}


IN_ROOMS = [path for path in sources("bpbench") if path != ROOT / "bpbench" / "__init__.py"]


@pytest.mark.parametrize("path", IN_ROOMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_room_imports_from_one_that_comes_after_it(path):
    own = path.relative_to(ROOT / "bpbench").parts[0].removesuffix(".py")
    for module in imported(path):
        other = room(module) if module.startswith("bpbench.") else ""
        if other and (own, other) not in EXCEPTIONS:
            assert level(other) <= level(own), f"{own} imports {module}"


BACKENDS_SHARE = {"numpy_reference", "numpy_common"}


@pytest.mark.parametrize("path", sources("backends"), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_backend_imports_only_the_interface_and_what_backends_share(path):
    own = path.relative_to(ROOT / "backends").parts[0].removesuffix(".py")
    family = own.partition("_")[0] if not own.startswith("numpy") else own
    for module in imported(path):
        if module.startswith("bpbench.backends."):
            other = module.split(".")[2]
            shared = other in BACKENDS_SHARE or other.startswith(family)
            assert shared, f"{path.name} imports {module}"
        elif module.split(".")[0] == "bpbench":
            assert room(module) in BACKENDS_MAY_IMPORT, f"{path.name} imports {module}"
            assert module.split(".")[-1] not in JUDGES_OWN, f"{path.name} imports {module}"
        else:
            assert module.split(".")[0] != "backends", f"{path.name} imports {module}"


def test_only_the_registry_knows_the_names_of_the_backend_modules():
    for path in sources("bpbench"):
        for module in imported(path):
            assert not module.startswith(("backends", "bpbench.backends")), f"{path}: {module}"


LOADED = """
import contextlib, io, json, sys
with contextlib.redirect_stdout(io.StringIO()):
    {code}
print(json.dumps(sorted({{name.split(".")[0] for name in sys.modules}})))
"""


def loaded_by(code: str) -> set[str]:
    """The top-level modules that are loaded after ``code`` has run in a fresh Python."""
    script = LOADED.format(code=code)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    "code",
    [
        "import bpbench",
        "import bpbench; bpbench.list_backends()",
        "from bpbench.cli import commands; commands(['--help'], standalone_mode=False)",
        "from bpbench.cli import commands; commands(['backends', '--help'], standalone_mode=False)",
    ],
)
def test_starting_loads_no_framework_no_pandas_and_no_scipy(code):
    assert not loaded_by(code) & HEAVY


def test_no_module_of_bpbench_imports_a_framework_when_it_is_imported():
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sources("bpbench")
        if path.stem not in ("__main__", "testing")
    ]
    assert not loaded_by(f"import {', '.join(modules)}") & FRAMEWORKS


def test_every_package_is_installed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {path.parent for path in (*sources("bpbench"), *sources("backends"))}
    for folder in folders:
        assert (folder / "__init__.py").is_file(), f"{folder} is no package"
    packages = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    packages = {f"bpbench.{p}" if p.startswith("backends") else p for p in packages}
    assert set(settings["tool"]["setuptools"]["packages"]) == packages


SAME = {"tensorflow-cpu": "tensorflow"}
"""Distributions that bring a package of another name."""


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"]]
    asked += [one for name, ones in extras.items() if name not in ("dev", "all") for one in ones]
    names = {re.match(r"[\w-]+", one)[0] for one in asked} - {"bpbench"}
    used = {
        module.split(".")[0]
        for path in (*sources("bpbench"), *sources("backends"))
        for module in imported(path)
    }
    used -= {"bpbench", *sys.stdlib_module_names}
    assert {SAME.get(name, name) for name in names} == used
