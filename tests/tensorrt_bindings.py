"""Type stubs of the real TensorRT Python bindings, on a machine without TensorRT.

The bindings are one extension module in a small wheel. It loads once stub libraries define the symbols that it wants of the core
libraries; pybind11-stubgen then reads every class and signature from it. The wheel is NVIDIA's, so nothing of it is kept.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DISTRIBUTION = "tensorrt-cu13-bindings"
_LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin")
_EXTRA = """
__version__: str
def volume(iterable: collections.abc.Iterable[int]) -> int: ...
def nptype(trt_type: DataType) -> type[numpy.generic]: ...
"""  # what the package adds in Python to its extension module


class UnreachableError(Exception):
    """pip could not fetch what is needed."""


def make_stubs(version: str, folder: Path) -> Path:
    """Return a folder for MYPYPATH that holds `tensorrt/__init__.pyi` of that version of the bindings.

    Raises:
        UnreachableError: When the wheel or pybind11-stubgen cannot be fetched.
    """
    bindings, tool, raw, stubs = (folder / name for name in ("bindings", "tool", "raw", "stubs"))
    _pip("download", "--no-deps", "--dest", str(folder), f"{DISTRIBUTION}=={version}")
    _pip("install", "--no-deps", "--target", str(tool), "pybind11-stubgen==3.0.0")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(bindings)
    _write_libraries(bindings / "tensorrt_bindings", major=version.split(".")[0])
    environment = {**os.environ, "PYTHONPATH": f"{bindings}{os.pathsep}{tool}"}
    command = [
        sys.executable,
        "-m",
        "pybind11_stubgen",
        "tensorrt_bindings.tensorrt",
        "--ignore-all-errors",
        "-o",
        str(raw),
    ]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    text = (raw / "tensorrt_bindings" / "tensorrt.pyi").read_text(encoding="utf-8")
    (stubs / "tensorrt").mkdir(parents=True)
    (stubs / "tensorrt" / "__init__.pyi").write_text(clean_stub(text), encoding="utf-8")
    return stubs


def run_mypy(stubs: Path, *sources: Path) -> list[str]:
    """Return mypy's complaints about sources that use the stubs."""
    package = (
        stubs.parent.parent / "linked" / "edgeproof"
    )  # under the name by which it is installed, as `make types` does
    if not package.exists():
        package.mkdir(parents=True)
        for part in (*(ROOT / "toolkit").iterdir(), ROOT / "export", ROOT / "kernels"):
            (package / part.name).symlink_to(part)
    path = os.pathsep.join(map(str, (stubs, package.parent)))
    command = [
        sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--follow-imports=silent",
        "--no-warn-unused-ignores", "--no-error-summary", "--cache-dir", str(stubs.parent.parent / "mypy"), *map(str, sources),
    ]  # fmt: skip
    result = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "MYPYPATH": path}, capture_output=True, text=True, check=False
    )
    if result.returncode > 1:
        raise RuntimeError(result.stdout + result.stderr)
    return [line for line in result.stdout.splitlines() if ": error: " in line]


def clean_stub(text: str) -> str:
    """Make stubgen's output valid and as permissive as pybind11 is: sequences for Dims, buffers from IHostMemory."""
    lines = text.splitlines()
    while (broken := _first_broken_line(lines)) is not None:
        lines[broken] = re.sub(
            r"\(.*", "(self, *args: typing.Any, **options: typing.Any) -> typing.Any:", lines[broken]
        )
    tree = ast.fix_missing_locations(_Permissive().visit(ast.parse("\n".join(lines))))
    head = "# mypy: ignore-errors\nfrom __future__ import annotations\nimport builtins\nimport collections.abc\n"
    return head + ast.unparse(tree).replace("from __future__ import annotations\n", "", 1) + _EXTRA


def _first_broken_line(lines: list[str]) -> int | None:
    """Return the index of the first definition that is no Python: a parameter called `in`, defaults out of order."""
    try:
        ast.parse("\n".join(lines))
    except SyntaxError as error:
        return (error.lineno or 1) - 1
    return None


class _Permissive(ast.NodeTransformer):
    """Drops the docstrings and repairs annotations."""

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        self.generic_visit(node)
        if node.name == "IHostMemory":
            node.body.append(*ast.parse("def __buffer__(self, flags: int, /) -> memoryview: ...").body)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.body = [ast.Expr(ast.Constant(...))]
        node.returns = self._repair(node.returns, optional=False, parameter=False)
        positional = [*node.args.posonlyargs, *node.args.args]
        optional = {
            a.arg for a, d in zip(reversed(positional), reversed(node.args.defaults), strict=False) if _is_none(d)
        }
        for argument in (*positional, *node.args.kwonlyargs):
            argument.annotation = self._repair(argument.annotation, optional=argument.arg in optional, parameter=True)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign:
        node.annotation = self._repair(node.annotation, optional=False, parameter=False) or node.annotation
        return node

    def _repair(self, annotation: ast.expr | None, *, optional: bool, parameter: bool) -> ast.expr | None:
        if annotation is None:
            return None
        # Members such as trt.bool hide the builtins inside the module, and stubgen writes `...` for what it cannot name.
        text = re.sub(r"(?<![.\w])bool\b", "builtins.bool", ast.unparse(annotation))
        text = re.sub(r"\bcapsule\b|\.\.\.", "typing.Any", text)
        if parameter and text == "Dims":
            text = "Dims | collections.abc.Sequence[int]"
        return ast.parse(f"{text} | None" if optional else text, mode="eval").body


def _is_none(default: ast.expr) -> bool:
    return isinstance(default, ast.Constant) and default.value is None


def _write_libraries(package: Path, *, major: str) -> None:
    """Link, beside the extension, libraries that define what it wants of TensorRT; every function returns null."""
    table = subprocess.run(
        ["nm", "-D", "--undefined-only", "tensorrt.so"], cwd=package, check=True, capture_output=True
    )
    words = [line.split() for line in table.stdout.decode().splitlines()]
    wanted = [
        name for kind, name in words if kind == "U" and "@" not in name and not re.match(r"_?Py|dl|_Unwind", name)
    ]
    source = package / "stub.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in wanted), encoding="utf-8")
    for library in _LIBRARIES:
        name = f"lib{library}.so.{major}"
        command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(package / name), str(source)]
        subprocess.run(command, check=True, capture_output=True)


def _pip(*arguments: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--retries", "1", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise UnreachableError(result.stderr.strip().splitlines()[-1] if result.stderr.strip() else "pip failed")
