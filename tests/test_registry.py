"""Plug-ins are known from their source, without importing them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgeproof.errors import ConfigError
from edgeproof.plugins.registry import FOLDERS, REQUIRED, entries, find

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("kind", sorted(FOLDERS))
def test_what_is_read_from_the_source_is_what_the_function_has(kind: str) -> None:
    pytest.importorskip("torch")
    for name, entry in entries(kind).items():
        function = entry.load()
        assert function.registered == (name, entry.options)  # type: ignore[attr-defined]
        assert {param.name: param.default for param in entry.params if param.default is not REQUIRED} == (
            getattr(function, "__kwdefaults__", None) or getattr(function.__init__, "__kwdefaults__", None) or {}
        )
        assert entry.summary.endswith("."), f"{kind} {name}: the docstring's first line is a sentence"


@pytest.mark.parametrize("kind", sorted(FOLDERS))
def test_names_are_unique_and_kebab_case(kind: str) -> None:
    for name in entries(kind):
        assert name == name.lower()
        assert "_" not in name


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"unknown attack 'pdg-linf' \(did you mean 'pgd-linf'\?\); known: .*fgsm"):
        find("attack", "pdg-linf")


def test_listing_imports_no_torch() -> None:
    code = "import sys; from edgeproof.plugins.registry import FOLDERS, entries; [entries(k) for k in FOLDERS]; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
