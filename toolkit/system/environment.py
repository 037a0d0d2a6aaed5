"""The environment of a result: versions, processor, operating system, revision."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

from edgeproof import __version__
from edgeproof.system.distributed import world_size

PACKAGES = (
    "numpy",
    "torch",
    "onnx",
    "onnxscript",
    "onnxconverter-common",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "pycuda",
    "safetensors",
    "scikit-learn",
    "pyarrow",
    "pydantic",
)


def package_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor_name() -> str:
    """Return the processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.lower().startswith(("model name", "hardware"))]
    return names[0] if names else platform.machine()


def usable_cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_environment() -> dict[str, str]:
    """Return what is recorded in every manifest, as flat text."""
    versions = {name: version for name in PACKAGES if (version := package_version(name))}
    return {
        "edgeproof": __version__,
        "revision": _revision(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "processor": processor_name(),
        "cores": str(usable_cores()),
        **({"processes": str(world_size())} if world_size() > 1 else {}),
        **versions,
    }


def _revision() -> str:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return "not a git checkout"
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return result.stdout.strip() or "unknown"
