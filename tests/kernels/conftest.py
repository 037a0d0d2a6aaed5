"""The device of the kernel tests: this processor everywhere, and under REQUIRE_GPU=1 a GPU as well (marked gpu)."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgeproof.kernels import compiler, runtime
from tests.kernels.host import Host, HostDriver, build


@pytest.fixture(scope="session")
def host_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("g++") is None:
        pytest.skip("no g++ here to compile the kernels for the host")
    return build(tmp_path_factory.mktemp("host"), flags=os.environ.get("KERNELS_HOST_FLAGS", "").split())


@pytest.fixture(scope="module")
def driver(host_library: Path) -> Iterator[HostDriver]:
    """Put the host build in the place of pycuda."""
    driver, pycuda = HostDriver(host_library), ModuleType("pycuda")
    pycuda.driver = driver  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "pycuda", pycuda)
        patch.setitem(sys.modules, "pycuda.driver", driver)
        patch.setattr(runtime, "cubin", lambda stem, arch: stem.encode())
        runtime.forget()
        yield driver
        runtime.forget()


# Twice the table, half of it skipped, would say nothing: the second device is there when `make gpu-check` asks for it.
DEVICES = ["host", pytest.param("cuda", marks=pytest.mark.gpu)][: 1 + (os.environ.get("REQUIRE_GPU") == "1")]


@pytest.fixture(scope="module", params=DEVICES)
def device(request: pytest.FixtureRequest) -> Any:
    """Return where arrays are put and read; launching a kernel then runs it there."""
    if request.param == "host":
        request.getfixturevalue("driver")
        return Host()
    from tests.gpu.cuda import Cuda

    return Cuda()


@pytest.fixture(scope="session")
def any_compiler() -> str:
    """Return the compiler's version, or skip with the reason."""
    try:
        return compiler.compiler_version()
    except compiler.KernelUnavailableError as error:
        pytest.skip(str(error))
