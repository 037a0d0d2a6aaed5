"""Every TensorRT class, enum and signature that we use exists in the real bindings of 10.x and 11.x."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.tensorrt_bindings import ROOT, UnreachableError, make_stubs, run_mypy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("gcc") and shutil.which("nm")), reason="gcc and nm are needed to load the bindings"
    ),
]
USERS = [
    path
    for folder in ("export", "toolkit")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "import tensorrt as trt" in path.read_text(encoding="utf-8")
]
PLANTED = """
def planted(config: trt.IBuilderConfig, context: trt.IExecutionContext) -> None:
    config.set_flag(trt.BuilderFlag.NO_SUCH_FLAG)
    context.execute_v9([])
    config.builder_optimization_level = "high"
"""


@pytest.fixture(scope="module", params=["10.13.3.9.post1", "11.4.0.106"])
def stubs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return make_stubs(request.param, tmp_path_factory.mktemp("tensorrt"))
    except UnreachableError as error:
        pytest.skip(f"the TensorRT bindings cannot be fetched: {error}")


def test_some_module_uses_tensorrt() -> None:
    assert ROOT / "export" / "to_tensorrt.py" in USERS


def test_all_that_we_use_is_there(stubs: Path) -> None:
    assert run_mypy(stubs, *USERS) == []


def test_a_planted_name_a_planted_method_and_a_planted_type_are_found(stubs: Path, tmp_path: Path) -> None:
    source = tmp_path / "planted.py"
    source.write_text((ROOT / "export" / "to_tensorrt.py").read_text(encoding="utf-8") + PLANTED, encoding="utf-8")
    found = "\n".join(run_mypy(stubs, source))
    assert '"type[BuilderFlag]" has no attribute "NO_SUCH_FLAG"' in found
    assert '"IExecutionContext" has no attribute "execute_v9"' in found
    assert "Incompatible types in assignment" in found


def test_what_tensorrt_11_has_removed_is_found_there_and_only_there(
    stubs: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = tmp_path / "old.py"
    source.write_text("import tensorrt as trt\n\nFLAG = trt.BuilderFlag.FP16\n", encoding="utf-8")
    found = run_mypy(stubs, source)
    assert bool(found) == ("11.4" in request.node.callspec.id)
