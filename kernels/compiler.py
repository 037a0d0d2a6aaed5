"""CUDA source to machine code, by NVRTC or nvcc, whichever is here; no driver and no GPU needed.

NVRTC comes as a dependency of torch's CUDA wheels and with every CUDA toolkit and JetPack; it is asked first because it is a
library, not a process, and needs no host compiler.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ARCHITECTURES = {
    "sm_75": "Turing: T4, RTX 20",
    "sm_80": "Ampere: A100",
    "sm_86": "Ampere: RTX 30, A10",
    "sm_87": "Jetson Orin",
    "sm_89": "Ada: L4, RTX 40",
    "sm_90": "Hopper: H100, H200",
    "sm_100": "Blackwell: B200",
    "sm_110": "Jetson Thor",
    "sm_120": "Blackwell: RTX 50",
}
# Multiply-adds stay unfused: a fused one rounds once where the NumPy reference rounds twice.
OPTIONS = ("--std=c++17", "--fmad=false")
SOURCES = Path(__file__).resolve().parent / "src"


class KernelUnavailableError(RuntimeError):
    """pycuda, a driver, a device or a compiler that a kernel needs and that is not here."""


def cubin(stem: str, *, arch: str) -> bytes:
    """Return the machine code of `src/<stem>.cu`, from the cache where it was compiled before.

    Args:
        stem: Name of a source file without its extension.
        arch: Architecture such as "sm_87".

    Raises:
        KernelUnavailableError: When there is no compiler here, or it refuses the source or the architecture.
    """
    cached = cache_folder() / f"{stem}-{arch}-{_digest(stem, arch)}.cubin"
    if not cached.exists():
        code = compile_cubin(SOURCES / f"{stem}.cu", arch=arch)
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cached.parent, delete=False) as file:
            file.write(code)
        os.replace(file.name, cached)
    return cached.read_bytes()


def cache_folder() -> Path:
    """Return where compiled kernels are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "edgeproof" / "kernels"


def _digest(stem: str, arch: str) -> str:
    """Hash all that the machine code depends on, headers and the compiler's version included."""
    texts = [SOURCES / f"{stem}.cu", *sorted(SOURCES.glob("*.cuh"))]
    key = "\0".join([compiler_version(), arch, *OPTIONS, *(path.read_text(encoding="utf-8") for path in texts)])
    return hashlib.sha256(key.encode()).hexdigest()[:16]


@functools.cache
def compiler_version() -> str:
    """Return which compiler is used and its version, for instance "nvrtc 13.0".

    Raises:
        KernelUnavailableError: When there is none.
    """
    library = nvrtc()
    if library is not None:
        major, minor = ctypes.c_int(), ctypes.c_int()
        library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        return f"nvrtc {major.value}.{minor.value}"
    path = nvcc()
    if path is not None:
        return subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    raise KernelUnavailableError(
        "compiling a CUDA kernel needs NVRTC or nvcc, and neither is here: pip install nvidia-cuda-nvrtc, or set CUDA_HOME to a toolkit"
    )


def compile_cubin(source: Path, *, arch: str) -> bytes:
    """Compile one source file, without the cache.

    Raises:
        KernelUnavailableError: When there is no compiler here, or it refuses the source or the architecture.
    """
    library = nvrtc()
    if library is not None:
        return compile_with_nvrtc(library, source, arch=arch)
    compiler_version()  # raises where there is no nvcc either
    return compile_with_nvcc(source, arch=arch)


def compile_with_nvcc(source: Path, *, arch: str) -> bytes:
    """Compile with nvcc, as `compile_cubin`."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "kernel.cubin"
        command = [nvcc() or "nvcc", *OPTIONS, f"-I{SOURCES}", f"-arch={arch}", "-cubin", "-o", str(out), str(source)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise KernelUnavailableError(f"nvcc refused {source.name} for {arch}: {result.stderr.strip()}")
        return out.read_bytes()


def compile_with_nvrtc(library: ctypes.CDLL, source: Path, *, arch: str) -> bytes:
    """Compile with NVRTC, as `compile_cubin`."""
    program = ctypes.c_void_p()
    text = source.read_bytes()
    _check(library, library.nvrtcCreateProgram(ctypes.byref(program), text, source.name.encode(), 0, None, None))
    try:
        options = [option.encode() for option in (*OPTIONS, f"-I{SOURCES}", f"--gpu-architecture={arch}")]
        status = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        if status:
            log = _read(library, program, "nvrtcGetProgramLog").rstrip(b"\0").decode(errors="replace").strip()
            raise KernelUnavailableError(f"NVRTC refused {source.name} for {arch}: {log or _message(library, status)}")
        return _read(library, program, "nvrtcGetCUBIN")
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _read(library: ctypes.CDLL, program: ctypes.c_void_p, function: str) -> bytes:
    size = ctypes.c_size_t()
    _check(library, getattr(library, f"{function}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(library, getattr(library, function)(program, buffer))
    return buffer.raw


def _check(library: ctypes.CDLL, status: int) -> None:
    if status:
        raise KernelUnavailableError(f"NVRTC failed: {_message(library, status)}")


def _message(library: ctypes.CDLL, status: int) -> str:
    library.nvrtcGetErrorString.restype = ctypes.c_char_p
    return str(library.nvrtcGetErrorString(status).decode())


@functools.cache
def nvrtc() -> ctypes.CDLL | None:
    """Return NVRTC from NVIDIA's wheels, from the toolkit at CUDA_HOME, or from the system; None where there is none."""
    for path in _nvrtc_paths():
        try:
            return ctypes.CDLL(path)
        except OSError:  # for another processor, or without its builtins beside it
            continue
    return None


def _nvrtc_paths() -> Iterator[str]:
    for folder in sys.path:
        yield from sorted(map(str, Path(folder).glob("nvidia/*/lib/libnvrtc.so.[0-9]*")), reverse=True)
    for root in toolkit_folders():
        yield str(root / "lib64" / "libnvrtc.so")
    yield ctypes.util.find_library("nvrtc") or "libnvrtc.so"


def nvcc() -> str | None:
    """Return the path of nvcc, from the PATH or the toolkit at CUDA_HOME; None where there is none."""
    folders = [str(root / "bin") for root in toolkit_folders()]
    return shutil.which("nvcc") or shutil.which("nvcc", path=os.pathsep.join(folders))


def toolkit_folders() -> list[Path]:
    """Return where a CUDA toolkit may lie."""
    named = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    return [Path(folder) for folder in named if folder]
