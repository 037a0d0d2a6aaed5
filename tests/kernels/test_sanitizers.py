"""The table once more, under sanitizers: what reads past an array, or relies on undefined behaviour, stops there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
TABLES = ("linf_step", "momentum_step", "l2_step", "universal_apply", "normalize")
SHORT = "257 or outside_the_table"
LONG = "not 1000003 and not onnx"


def run_tables(sanitizers: str, runtime: str, *, only: str) -> None:
    """Run the table in a process of its own, on a host build with sanitizers; raises with its output when it fails."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ here to compile the kernels for the host")
    library = subprocess.run([compiler, f"-print-file-name={runtime}"], capture_output=True, text=True, check=True)
    if not Path(library.stdout.strip()).is_file():
        pytest.skip(f"g++ here has no {runtime}")
    environment = os.environ | {
        "LD_PRELOAD": library.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python itself keeps memory to the end
        "KERNELS_HOST_FLAGS": f"-O0 -fsanitize={sanitizers} -fno-sanitize-recover=all",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", only]
    tables = [str(FOLDER / f"test_{name}.py") for name in TABLES]
    result = subprocess.run([*command, *tables], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]


@pytest.mark.parametrize("only", [SHORT, pytest.param(LONG, marks=pytest.mark.slow)])
def test_no_kernel_leaves_its_arrays_or_the_language(only: str) -> None:
    run_tables("address,undefined", "libasan.so", only=only)


@pytest.mark.slow
def test_no_two_threads_of_a_block_race() -> None:
    run_tables("thread", "libtsan.so", only="(l2 or momentum or update) and 257")
