from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from edgeproof.kernels import compiler
from edgeproof.kernels.compiler import ARCHITECTURES, OPTIONS, SOURCES, KernelUnavailableError
from tests.kernels.host import STEMS

IN_SUITE = ("sm_75", "sm_120")  # the oldest and the newest; sm_87 is read below
KERNELS = {
    f"{kernel}_{scalar}" for kernel in (*STEMS, "universal_update", "denormalize") for scalar in ("f32", "f16", "bf16")
}


@pytest.mark.parametrize(
    "arch", [arch if arch in IN_SUITE else pytest.param(arch, marks=pytest.mark.slow) for arch in ARCHITECTURES]
)
def test_every_kernel_compiles(any_compiler: str, tmp_path: Path, arch: str) -> None:
    unit = tmp_path / "all.cu"
    unit.write_text("".join(f'#include "{stem}.cu"\n' for stem in STEMS))
    code = compiler.compile_cubin(unit, arch=arch)
    assert code[:4] == b"\x7fELF"
    found = {name for name in KERNELS if f".text.{name}\0".encode() in code}
    assert found == KERNELS


def test_no_kernel_spills_and_each_moves_sixteen_bytes_at_a_time(tmp_path: Path) -> None:
    nvcc = compiler.nvcc()
    if nvcc is None:
        pytest.skip("no nvcc here, whose reports this reads")
    unit, ptx = tmp_path / "all.cu", tmp_path / "all.ptx"
    unit.write_text("".join(f'#include "{stem}.cu"\n' for stem in STEMS))
    command = [nvcc, *OPTIONS, f"-I{SOURCES}", "-arch=sm_87", "-Xptxas", "-v", "--keep", "--keep-dir", str(tmp_path)]
    report = subprocess.run(
        [*command, "-cubin", "-o", str(tmp_path / "all.cubin"), str(unit)], capture_output=True, text=True, check=True
    )
    assert len(re.findall(r"0 bytes spill stores, 0 bytes spill loads", report.stderr)) == len(KERNELS)
    entries = re.split(r"\.entry (\w+)\(", ptx.read_text())[1:]
    for name, body in zip(entries[::2], entries[1::2], strict=True):
        if not name.startswith("universal_update"):  # it reads one column a thread
            assert re.search(r"ld\.global(\.nc)?\.v4\.", body), f"{name} reads no 16 bytes at once"
        assert "fma.rn.f32" not in body, f"{name} rounds a multiply-add once"


def test_a_compiled_kernel_is_kept_and_a_change_of_source_makes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources, compiled = tmp_path / "src", []
    sources.mkdir()
    (sources / "a.cu").write_text("1")
    (sources / "b.cuh").write_text("2")

    def compile_cubin(source: Path, *, arch: str) -> bytes:
        compiled.append(arch)
        return f"{arch} {len(compiled)}".encode()

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiler, "SOURCES", sources)
    monkeypatch.setattr(compiler, "compile_cubin", compile_cubin)
    monkeypatch.setattr(compiler, "compiler_version", lambda: "nvrtc 13.0")
    assert [compiler.cubin("a", arch="sm_87") for _ in range(2)] == [b"sm_87 1", b"sm_87 1"]
    assert compiler.cubin("a", arch="sm_90") == b"sm_90 2"
    (sources / "b.cuh").write_text("3")
    assert compiler.cubin("a", arch="sm_87") == b"sm_87 3"
    monkeypatch.setattr(compiler, "compiler_version", lambda: "nvrtc 13.1")
    assert compiler.cubin("a", arch="sm_87") == b"sm_87 4"
    assert not [path for path in compiler.cache_folder().iterdir() if path.suffix != ".cubin"]


def test_a_source_that_does_not_compile_is_reported_in_the_compilers_words(any_compiler: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.cu"
    broken.write_text("__global__ void f() { no_such_name(); }\n")
    with pytest.raises(KernelUnavailableError, match=r"(?s)refused broken\.cu for sm_87.*no_such_name"):
        compiler.compile_cubin(broken, arch="sm_87")


def test_an_architecture_that_the_compiler_does_not_know_is_refused(any_compiler: str) -> None:
    with pytest.raises(KernelUnavailableError, match=r"refused linf_step\.cu for sm_13"):
        compiler.compile_cubin(SOURCES / "linf_step.cu", arch="sm_13")


def test_without_any_compiler_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "nvrtc", lambda: None)
    monkeypatch.setattr(compiler, "nvcc", lambda: None)
    compiler.compiler_version.cache_clear()
    with pytest.raises(KernelUnavailableError, match=r"pip install nvidia-cuda-nvrtc, or set CUDA_HOME"):
        compiler.compile_cubin(SOURCES / "linf_step.cu", arch="sm_87")
    compiler.compiler_version.cache_clear()
