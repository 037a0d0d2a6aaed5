"""What is installed is what is here."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from edgeproof import __version__

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("package", ["edgeproof", "edgeproof.export", "edgeproof.kernels"])
def test_our_packages_are_ours_and_not_a_namesake(package: str) -> None:
    file = importlib.import_module(package).__file__
    assert file is not None
    assert Path(file).resolve().is_relative_to(ROOT)


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


def test_constraints_pin_only_what_the_project_names() -> None:
    named = {re.split(r"[<>=\[]", word)[0] for word in re.findall(r'"([a-z][\w-]+[<>=][^"]*)"', PYPROJECT)}
    for file in ROOT.glob("constraints*.txt"):
        pins = re.findall(r"^([\w-]+)==", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert pins
        assert set(pins) <= named
