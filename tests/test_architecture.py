"""The house stands as docs/architecture.md says: imports point one way, and heavy modules stay where they belong."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: A row may import every row below it; what stands in one row does not import each other.
ROWS = (
    ("cli",),
    ("__main__",),
    ("commands",),
    ("api",),
    ("studies",),
    ("stages",),
    ("deployment", "poisoning", "reports"),
    ("training", "contracts"),
    ("attacks",),
    ("source_model",),
    ("evaluation",),
    ("engines",),
    ("models",),
    ("ops",),
    ("data",),
    ("runs",),
    ("plugins",),
    ("config",),
    ("export",),
    ("onnx_files",),
    ("system",),
    ("types", "errors"),
    ("kernels",),
)
RANK = {name: rank for rank, row in enumerate(ROWS) for name in row}
#: The only ones that import a leaf.
DOORS = {"kernels": {"ops"}, "export": {"deployment"}}

TORCH_HOMES = (
    "toolkit/models/",
    "toolkit/attacks/",
    "toolkit/source_model/",
    "toolkit/training/",
    "toolkit/poisoning/",
    "toolkit/ops.py",
    "toolkit/engines/pytorch.py",
)
TORCH_PACKAGES = (
    "edgeproof.models",
    "edgeproof.attacks",
    "edgeproof.source_model",
    "edgeproof.training",
    "edgeproof.poisoning",
    "edgeproof.ops",
    "edgeproof.engines.pytorch",
)
HEAVY = {
    "onnxruntime", "openvino", "tensorrt", "pycuda", "sklearn", "pyarrow", "matplotlib", "scipy", "pooch", "timm", "cupy",
    "onnx", "onnxscript", "onnxconverter_common", "foolbox", "torchattacks", "torchvision", "ray",
}  # fmt: skip
ONNX_HOMES = ("export/", "toolkit/models/imported.py")

TOP_LEVEL = {
    "pyproject.toml", "toolkit", "kernels", "tests", "export", "cli.py", "README.md", "Makefile", "LICENSE", "CHANGELOG.md",
    "docs", "benchmarks", ".ci", ".gitignore", "constraints.txt", "constraints-py310.txt",
}  # fmt: skip

FOLDERS = ("toolkit", "kernels", "export")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
SOURCES = ["cli.py", *(path.relative_to(ROOT).as_posix() for path in FILES)]


def tree(source: str) -> ast.Module:
    return ast.parse((ROOT / source).read_text(encoding="utf-8"))


def part_of(module: str) -> str | None:
    """Name the part of the house that a dotted module belongs to: `edgeproof.engines.base` is part of `engines`."""
    words = module.split(".")
    return words[1] if words[0] == "edgeproof" and len(words) > 1 and words[1] != "__version__" else None


def part_of_file(source: str) -> str | None:
    words = source.removesuffix(".py").removesuffix("/__init__").split("/")
    return part_of(".".join(["edgeproof", *words[words[0] == "toolkit" :]]))


def imported(nodes: Iterator[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "relative import"
            yield from (
                f"{node.module}.{alias.name}" if node.module == "edgeproof" else node.module for alias in node.names
            )


def all_imports(source: str) -> set[str]:
    return set(imported(ast.walk(tree(source))))


def imports_on_loading(source: str) -> set[str]:
    """What importing the file imports: neither inside functions nor for type checkers only."""

    def walk(body: list[ast.stmt]) -> Iterator[ast.AST]:
        for node in body:
            yield node
            if isinstance(node, (ast.Try, ast.With, ast.ClassDef)) or (
                isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test)
            ):
                yield from walk(node.body)

    return set(imported(walk(tree(source).body)))


@pytest.mark.parametrize("source", SOURCES)
def test_imports_point_one_way(source: str) -> None:
    mine = part_of_file(source)
    if mine is None:
        assert source == "toolkit/__init__.py"
        assert not {part for module in imports_on_loading(source) if (part := part_of(module))}
        return
    assert mine in RANK, f"{source}: say in DESIGN and in ROWS where {mine!r} stands"
    for module in sorted(all_imports(source)):
        other = part_of(module)
        if other in (None, mine, "__version__"):
            continue
        assert other in RANK, f"{source} imports {module}, which stands in no row"
        assert RANK[mine] < RANK[other], f"{source} imports {module}: {mine} may not import {other}"
        assert mine in DOORS.get(other, {mine}), f"{source} imports {module}: only {DOORS[other]} may"


@pytest.mark.parametrize("source", SOURCES)
def test_loading_a_file_imports_nothing_heavy(source: str) -> None:
    loaded = imports_on_loading(source)
    heavy = {module for module in loaded if module.split(".")[0] in HEAVY}
    if source.startswith(ONNX_HOMES):
        heavy = {module for module in heavy if module.split(".")[0] != "onnx"}
    assert not heavy, f"{source}: import {heavy} inside the function that needs it"
    if not source.startswith((*TORCH_HOMES, "export/")):
        assert not {module for module in loaded if module.split(".")[0] == "torch"}, (
            f"{source} imports torch on loading"
        )


@pytest.mark.parametrize(
    "source",
    [
        s
        for s in SOURCES
        if s.startswith(("toolkit/engines", "toolkit/evaluation", "toolkit/reports", "toolkit/data", "cli.py"))
    ],
)
def test_what_is_torch_free_loads_nothing_made_of_torch(source: str) -> None:
    if source == "toolkit/engines/pytorch.py":
        pytest.skip("made of torch")
    assert not {module for module in imports_on_loading(source) if module.startswith(TORCH_PACKAGES)}


def test_the_top_level_is_fixed() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert {line.split("/")[0] for line in listed.stdout.splitlines()} <= TOP_LEVEL


@pytest.mark.parametrize("source", SOURCES)
def test_names_say_what_is_inside(source: str) -> None:
    assert Path(source).stem not in {"utils", "util", "helpers", "common", "misc"}


def test_the_evaluation_side_loads_no_torch() -> None:
    program = """
import importlib, pkgutil, sys
import edgeproof.commands, edgeproof.engines, edgeproof.evaluation, edgeproof.reports, edgeproof.data, edgeproof.runs
for package in (edgeproof.engines, edgeproof.evaluation, edgeproof.reports, edgeproof.data):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if module.name != "edgeproof.engines.pytorch":
            importlib.import_module(module.name)
heavy = {"torch", "onnx", "onnxruntime", "openvino", "tensorrt", "pycuda", "sklearn", "pyarrow", "matplotlib", "scipy"}
sys.exit(", ".join(sorted(heavy & set(sys.modules))) or 0)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"loaded: {done.stderr.strip()}"
