"""The diagnosis of a machine: what is installed, what each engine can do, and the one line that installs what is missing."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from edgeproof.data.source import data_folders
from edgeproof.system.environment import describe_environment, package_version, processor_name, usable_cores


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis: what, whether it is there, what it can do here, and how to get it."""

    name: str
    ok: bool
    detail: str
    fix: str = ""


def diagnose() -> list[Finding]:
    """Look at this machine; nothing is changed and nothing is downloaded."""
    about = describe_environment()
    machine = Finding(
        "machine", True, f"{processor_name()}, {usable_cores()} cores, {about['system']}, Python {about['python']}"
    )
    checks: list[tuple[str, str, Callable[[], str]]] = [
        ("PyTorch", "pip install 'edgeproof[train]'", _torch),
        ("ONNX", "pip install edgeproof", lambda: f"{package_version('onnx')}, export and INT8 quantisation"),
        ("ONNX Runtime", "pip install 'edgeproof[cpu]'", _onnxruntime),
        ("OpenVINO", "pip install 'edgeproof[openvino]'", _openvino),
        (
            "TensorRT",
            "pip install 'edgeproof[tensorrt]' (on a Jetson: JetPack's own, venv with --system-site-packages)",
            lambda: str(importlib.import_module("tensorrt").__version__),
        ),
        ("pycuda", "pip install 'edgeproof[cuda]' (needs a CUDA toolkit)", _pycuda),
        ("data sets", "set EDGEPROOF_DATA to the folder that holds mnist/, fashion-mnist/, cifar10/", _data),
    ]
    return [machine, *(_check(name, fix, look) for name, fix, look in checks)]


def print_diagnosis(findings: list[Finding]) -> None:
    """Print the findings as a table on stdout."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("", "here", "detail", "what fixes it", show_edge=False)
    for finding in findings:
        fix = "" if finding.ok else finding.fix
        # Text, not str: rich would take the [extra] of a pip command for its own markup.
        table.add_row(finding.name, "yes" if finding.ok else "no", Text(finding.detail), Text(fix))
    Console().print(table)


def _check(name: str, fix: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, look())
    except Exception as error:  # a broken installation may raise anything; that is what is being looked for
        return Finding(name, False, str(error).splitlines()[0] if str(error) else type(error).__name__, fix)


def _torch() -> str:
    torch = importlib.import_module("torch")
    devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return f"{torch.__version__}, {'CUDA: ' + ', '.join(devices) if devices else 'CPU only'}; FP32, FP16 arithmetic by .half()"


def _onnxruntime() -> str:
    runtime = importlib.import_module("onnxruntime")
    both = package_version("onnxruntime") and package_version("onnxruntime-gpu")
    clash = (
        "; onnxruntime and onnxruntime-gpu are both installed and overwrite each other: uninstall both, install one"
        if both
        else ""
    )
    providers = ", ".join(name.removesuffix("ExecutionProvider") for name in runtime.get_available_providers())
    return f"{runtime.__version__}, providers built in: {providers}; on the CPU FP16 graphs are weight rounding only{clash}"


def _openvino() -> str:
    core = importlib.import_module("openvino").Core()
    can = [
        f"{device}: {' '.join(core.get_property(device, 'OPTIMIZATION_CAPABILITIES'))}"
        for device in core.available_devices
    ]
    return f"{package_version('openvino')}, {'; '.join(can)}"


def _pycuda() -> str:
    driver = importlib.import_module("pycuda.driver")
    driver.init()
    return f"{package_version('pycuda')}, {driver.Device.count()} CUDA device(s)"


def _data() -> str:
    folders = [folder for folder in data_folders() if folder.is_dir()]
    found = [f"{path.name} (in {folder})" for folder in folders for path in sorted(folder.iterdir()) if path.is_dir()]
    if not found:
        raise FileNotFoundError("only the embedded digits")
    return f"digits (embedded), {', '.join(found)}"
