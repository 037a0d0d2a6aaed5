"""What fuzzing and reviews have found in torch files, each as small as it gets; all are refused in one line."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest

from edgeproof.errors import DataError, ModelError


def _odd_tensors() -> dict[str, Any]:
    import torch

    plain = torch.rand(2, 1, 4, 4)
    return {
        "bfloat16": plain.bfloat16(),
        "sparse": plain.to_sparse(),
        "meta": plain.to("meta"),
        "quantised": torch.quantize_per_tensor(plain, 0.1, 0, torch.quint8),
        "complex": plain.to(torch.complex64),
        "float8": plain.to(torch.float8_e4m3fn),
        "expanded": torch.zeros(1).expand(10**9, 1, 28, 28),
    }


ODD = ("bfloat16", "sparse", "meta", "quantised", "complex", "float8", "expanded")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kind", ODD)
def test_adversaries_that_are_no_numbers_of_the_file_are_refused(kind: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from edgeproof.data.foreign import load_foreign_set

    odd = _odd_tensors()[kind]
    torch.save({"x_adv": odd, "x": odd, "y": torch.zeros(2, dtype=torch.int64)}, tmp_path / "a.pt")
    with pytest.raises(
        DataError, match=r"claims \d+ bytes and holds 4" if kind == "expanded" else "x_adv is torch.*expected a dense"
    ):
        load_foreign_set(tmp_path / "a.pt")  # fmt: skip


@pytest.mark.parametrize(
    "program", [b"\x80\x02J\0", b"\x80\x02K\x01Q.", b"\x80\x02}K", b"\x80\x02h\xff.", b"\x80\x02U\xff.", b""]
)
def test_weights_that_a_torch_file_does_not_spell_out_are_refused(program: bytes, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from edgeproof.models.weights import read_weights

    torch.save({"w": torch.zeros(1)}, tmp_path / "whole.pt")
    with zipfile.ZipFile(tmp_path / "whole.pt") as whole, zipfile.ZipFile(tmp_path / "w.pt", "w") as damaged:
        for name in whole.namelist():
            damaged.writestr(name, program if name.endswith("data.pkl") else whole.read(name))
    with pytest.raises(ModelError, match=r"w\.pt (cannot be read as a torch checkpoint|needs code)"):
        read_weights(tmp_path / "w.pt")


def test_a_torch_file_that_unpacks_to_more_than_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    from edgeproof.data import foreign

    torch.save({"x_adv": torch.zeros(1000)}, tmp_path / "a.pt")
    monkeypatch.setattr(foreign, "MAX_BYTES", 1000)
    with pytest.raises(DataError, match=r"a\.pt would unpack to \d+ bytes; the limit is 1000"):
        foreign.load_foreign_set(tmp_path / "a.pt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kind", ["sparse", "meta", "quantised", "complex", "float8"])
def test_weights_that_are_not_dense_numbers_are_refused(kind: str) -> None:
    torch = pytest.importorskip("torch")
    from edgeproof.models.base import check_weights

    network = torch.nn.Module()
    network.weight = torch.nn.Parameter(torch.zeros(2, 1, 4, 4))
    with pytest.raises(ModelError, match=r"m: weight is .*; expected dense floats or integers"):
        check_weights(network, {"weight": _odd_tensors()[kind]}, source="m")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_weights_of_a_type_that_numpy_lacks_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from safetensors.torch import save_file

    from edgeproof.evaluation.weights import read_weights

    save_file({"0.weight": _odd_tensors()["float8"]}, tmp_path / "m.safetensors")
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        read_weights(tmp_path / "m.safetensors")
