"""What is installed is what is here, and nothing of anybody else's is touched."""

from __future__ import annotations

import ast
import importlib
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from edgeproof import __version__
from edgeproof.system.optional import BASE, EXTRAS

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
#: Folders of the checkout and the packages as which they are installed.
FOLDERS = {"toolkit": "edgeproof", "export": "edgeproof/export", "kernels": "edgeproof/kernels"}
#: Distributions that are not called as their module is.
DISTRIBUTIONS = {
    "sklearn": "scikit-learn",
    "onnxconverter_common": "onnxconverter-common",
    "tensorrt": "tensorrt-cu13",
    "PIL": "pillow",
    "pydantic_core": "pydantic",
}


def listed(name: str) -> list[str]:
    """Return the texts of a list in pyproject.toml."""
    return ast.literal_eval(re.search(rf"^{name} = (\[[^\n]*\]$|\[\n.*?^\])", PYPROJECT, re.MULTILINE | re.DOTALL)[1])  # type: ignore[index]


def pip(*arguments: object) -> str:
    command = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our wheel, built from a copy: what lies in a `build` folder here is not packed."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "cli.py"):
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", built, source)
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def namesake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of another project whose package is called `kernels`, as one on PyPI is."""
    path = tmp_path_factory.mktemp("namesake") / "kernels-1.0-py3-none-any.whl"
    about = "Metadata-Version: 2.1\nName: kernels\nVersion: 1.0\n"
    tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = {
        "kernels/__init__.py": "from kernels.layer import get_kernel\n",
        "kernels/layer.py": "def get_kernel():\n    return 'theirs'\n",
        "kernels-1.0.dist-info/METADATA": about,
        "kernels-1.0.dist-info/WHEEL": tags,
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        record = "kernels-1.0.dist-info/RECORD"
        archive.writestr(record, "".join(f"{name},,\n" for name in [*files, record]))
    return path


def sources(folder: str) -> Iterator[Path]:
    """Yield the files of one of our folders that are the project's own."""
    for path in (ROOT / folder).rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith("."):
            yield path.relative_to(ROOT / folder)


@pytest.mark.parametrize("package", ["edgeproof", "edgeproof.export", "edgeproof.kernels"])
def test_our_packages_are_ours_and_not_a_namesake(package: str) -> None:
    file = importlib.import_module(package).__file__
    assert file is not None
    assert Path(file).resolve().is_relative_to(ROOT)


def test_every_folder_of_ours_with_an_init_file_is_named_as_a_package() -> None:
    here = {
        ".".join([*package.split("/"), *path.parent.parts])
        for folder, package in FOLDERS.items()
        for path in sources(folder)
        if path.name == "__init__.py"
    }
    assert sorted(listed("packages")) == sorted(here)


def test_every_module_of_ours_lies_in_a_package() -> None:
    for folder in FOLDERS:
        for path in sources(folder):
            if path.suffix == ".py":
                assert (ROOT / folder / path).with_name("__init__.py").is_file(), f"{folder}/{path} would not be packed"


def test_the_wheel_holds_every_file_of_ours_and_nothing_else(wheel: Path) -> None:
    about = f"edgeproof-{__version__}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert archive.read(f"{about}/top_level.txt").split() == [b"edgeproof"]
        assert {name for name in names if name.startswith(about)} >= {f"{about}/METADATA", f"{about}/licenses/LICENSE"}
        ours = {
            f"{package}/{path.as_posix()}": ROOT / folder / path
            for folder, package in FOLDERS.items()
            for path in sources(folder)
        }
        assert {name for name in names if not name.startswith(about)} == set(ours)
        assert all(archive.read(name) == path.read_bytes() for name, path in ours.items())
    suffixes = {Path(name).suffix for name in ours}
    assert {".cu", ".cuh", ".typed", ".py"} <= suffixes


@pytest.mark.slow  # two virtual environments
@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_another_projects_kernels_and_a_users_own_folders_do_not_meet_ours(
    first: str, wheel: Path, namesake: Path, tmp_path: Path
) -> None:
    venv, own = tmp_path / "venv", tmp_path / "own"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    python = venv / "bin" / "python"
    for each in (wheel, namesake) if first == "ours" else (namesake, wheel):
        pip("--python", python, "install", "--no-deps", "--no-index", "--no-compile", each)
    for name in ("export/__init__.py", "toolkit/__init__.py", "kernels/__init__.py", "cli.py"):
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).write_text("raise SystemExit('a file of the user was imported')\n")
    # What the base install brings is taken from here, and only now: pip is to see an environment of its own.
    packages = next(venv.glob("lib/python*/site-packages"))
    requirements = packages / "requirements.pth"
    requirements.write_text(f"{Path(click.__file__).parents[1]}\n")

    def run(*command: object, cwd: Path = own) -> str:
        done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    theirs = "import kernels; print(kernels.get_kernel(), kernels.__file__)"
    where = "import edgeproof.kernels, edgeproof.export.graph; print(edgeproof.kernels.__file__)"
    assert run(python, "-c", theirs, cwd=tmp_path).split() == ["theirs", str(packages / "kernels" / "__init__.py")]
    assert run(python, "-c", where).strip() == str(packages / "edgeproof" / "kernels" / "__init__.py")
    assert "pgd-linf" in run(venv / "bin" / "edgeproof", "list", "attacks")
    assert "pgd-linf" in run(python, "-m", "edgeproof", "list", "attacks")

    requirements.unlink()
    pip("--python", python, "uninstall", "--yes", "edgeproof")
    assert run(python, "-c", theirs, cwd=tmp_path).startswith("theirs")
    assert not list(packages.glob("edgeproof*"))


def test_the_version_is_one() -> None:
    assert f'\nversion = "{__version__}"\n' in PYPROJECT


def test_every_extra_named_in_an_error_or_a_document_exists() -> None:
    section = PYPROJECT.split("[project.optional-dependencies]")[1].split("\n[")[0]
    extras = set(re.findall(r"^(\w+) = \[", section, flags=re.MULTILINE))
    files = [*ROOT.glob("toolkit/**/*.py"), *ROOT.glob("export/*.py"), *ROOT.glob("docs/*.md"), ROOT / "README.md"]
    named = {
        extra
        for file in files
        if file.exists()
        for group in re.findall(r"""extra="(\w+)", purpose=|edgeproof\[([\w,]+)\]""", file.read_text(encoding="utf-8"))
        for extra in ",".join(group).strip(",").split(",")
    }
    assert named
    assert named <= extras


@pytest.mark.parametrize("module", [*EXTRAS, *BASE])
def test_the_extra_that_a_message_names_installs_the_module(module: str) -> None:
    distribution = DISTRIBUTIONS.get(module, module)
    requirements = listed(EXTRAS.get(module, "dependencies"))
    assert distribution in {re.split(r"[<>=\[]", requirement)[0] for requirement in requirements}


def test_constraints_pin_only_what_the_project_names() -> None:
    named = {re.split(r"[<>=\[]", word)[0] for word in re.findall(r'"([a-z][\w-]+[<>=][^"]*)"', PYPROJECT)}
    for file in ROOT.glob("constraints*.txt"):
        pins = re.findall(r"^([\w-]+)==", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert pins
        assert set(pins) <= named
