"""What every test may use. Nothing here imports torch: the tests in `edge/` run without it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _runs_in_a_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPROOF_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def fake_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name tests/fake_engine.py as a plug-in, so that `.fake` files are engines."""
    monkeypatch.setenv("EDGEPROOF_PLUGINS", str(Path(__file__).with_name("fake_engine.py")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none, with the reason; under REQUIRE_GPU=1 it runs, and fails."""
    if os.environ.get("REQUIRE_GPU") == "1" or _gpu():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(
                pytest.mark.skip(reason="no CUDA device here; `make gpu-check` runs this where there is one")
            )


def _gpu() -> bool:
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/nvhost-gpu").exists()
