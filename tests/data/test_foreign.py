"""Adversarial sets that other tools wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeproof.data.foreign import load_foreign_set
from edgeproof.errors import DataError
from edgeproof.runs import sha256_file
from tests.data.files import labelled

CLEAN = labelled([4, 4, 4], shape=(3, 4, 4), split="test")
X, Y = CLEAN.images[:6], CLEAN.labels[:6]
X_ADV = np.clip(X + np.where(np.indices(X.shape).sum(0) % 2, 0.03, -0.03), 0, 1).astype(np.float32)
LINF, L2 = float(np.abs(X_ADV - X).max()), float(np.sqrt(((X_ADV - X) ** 2).sum((1, 2, 3)).max()))


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path / "theirs.npz", **arrays)
    return path / "theirs.npz"


@pytest.mark.parametrize(
    "names", [("x_adv", "y", "x"), ("adv_inputs", "labels", "clean_inputs"), ("adversarial", "y_true", "clean")]
)
def test_a_file_with_clean_images_needs_nothing_else(tmp_path: Path, names: tuple[str, str, str]) -> None:
    path = save(tmp_path, **dict(zip(names, (X_ADV, Y, X), strict=True)))
    adversaries = load_foreign_set(path)
    np.testing.assert_array_equal(adversaries.images, X_ADV)
    np.testing.assert_array_equal(adversaries.clean.images, X)
    np.testing.assert_array_equal(adversaries.clean.labels, Y)
    assert adversaries.eps == pytest.approx(LINF, abs=1e-7)
    assert adversaries.indicators == pytest.approx({"largest_linf": LINF, "largest_l2": L2}, abs=1e-6)
    assert adversaries.params == {"file": "theirs.npz", "sha256": sha256_file(path)}
    assert (adversaries.name, adversaries.attack, adversaries.source_logits) == ("theirs", "foreign", None)


def test_clean_images_can_come_from_the_data_set(tmp_path: Path) -> None:
    adversaries = load_foreign_set(save(tmp_path, adv_inputs=X_ADV, labels=Y), clean=CLEAN)
    np.testing.assert_array_equal(adversaries.clean.images, X)
    assert (adversaries.clean.name, adversaries.clean.classes) == ("toy", ("c0", "c1", "c2"))
    unlabelled = load_foreign_set(save(tmp_path, adv_complete=X_ADV), clean=CLEAN)
    np.testing.assert_array_equal(unlabelled.clean.labels, Y)


def test_eight_bit_images_with_channels_last_are_read(tmp_path: Path) -> None:
    levels = np.rint(X_ADV * 255).astype(np.uint8)
    adversaries = load_foreign_set(save(tmp_path, x_adv=levels.transpose(0, 2, 3, 1), y=Y), clean=CLEAN)
    np.testing.assert_array_equal(np.rint(adversaries.images * 255), levels)


def test_a_claimed_budget_is_checked(tmp_path: Path) -> None:
    path = save(tmp_path, x_adv=X_ADV, y=Y, x=X)
    assert load_foreign_set(path, eps=0.03).eps == 0.03
    assert load_foreign_set(path, norm="l2").eps == pytest.approx(L2, abs=1e-6)
    with pytest.raises(DataError, match=r"an image is 0.0300\d\d from its clean one in linf, more than eps = 0.020000"):
        load_foreign_set(path, eps=0.02)


@pytest.mark.parametrize(
    ("arrays", "with_clean", "message"),
    [
        ({"y": Y, "z": X}, True, "has no adversarial images; expected one of x_adv, adv_inputs.*; it has: y, z"),
        ({"x_adv": X_ADV, "y": Y}, False, "has no clean images .*without which neither budget nor success can be"),
        ({"x_adv": X_ADV, "x": X}, False, "has no labels; expected one of y, labels"),
        ({"x_adv": X_ADV, "y": Y[::-1]}, True, "its labels are not those of the first 6 images of toy/test"),
        ({"x_adv": X_ADV, "x": X[::-1]}, True, "its clean images are not the first 6 of toy/test"),
        (
            {"x_adv": X_ADV, "y": Y, "x": X[:4]},
            False,
            r"labels are int64 of shape \(6,\); expected int64 of shape \(4,\)",
        ),
        (
            {"x_adv": X_ADV[:4], "y": Y, "x": X},
            False,
            r"adversaries are \(4, 3, 4, 4\) and clean images \(6, 3, 4, 4\)",
        ),
        ({"x_adv": np.zeros((13, 3, 4, 4), np.uint8)}, True, "has 13 adversaries and toy/test only 12 images"),
        ({"x_adv": X_ADV * 2 - 1, "y": Y, "x": X}, False, "normalisation belongs inside the model"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(
    tmp_path: Path, arrays: dict[str, Any], with_clean: bool, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_foreign_set(save(tmp_path, **arrays), clean=CLEAN if with_clean else None)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x.csv is neither .npz nor .pt"):
        load_foreign_set(tmp_path / "x.csv")


def test_a_torch_file_of_plain_tensors_is_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    saved = {"adv_inputs": torch.from_numpy(X_ADV), "labels": torch.from_numpy(Y), "save_type": "float"}
    torch.save(saved, tmp_path / "theirs.pt")
    adversaries = load_foreign_set(tmp_path / "theirs.pt", clean=CLEAN)
    np.testing.assert_array_equal(adversaries.images, X_ADV)
    np.testing.assert_array_equal(adversaries.clean.images, X)


@pytest.mark.slow
def test_a_set_that_torchattacks_saved_is_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torchattacks = pytest.importorskip("torchattacks")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3)).eval()
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), batch_size=4
    )
    attack = torchattacks.FGSM(model, eps=8 / 255)
    attack.save(loader, save_path=str(tmp_path / "fgsm.pt"), save_clean_inputs=True, verbose=False)
    adversaries = load_foreign_set(tmp_path / "fgsm.pt", eps=8 / 255)
    np.testing.assert_array_equal(adversaries.clean.images, X)
    np.testing.assert_array_equal(adversaries.clean.labels, Y)
    assert adversaries.indicators["largest_linf"] == pytest.approx(8 / 255, abs=1e-6)


def test_a_torch_file_that_wants_to_execute_something_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"x_adv": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(DataError, match=r"bomb.pt cannot be read as a torch file of plain tensors") as caught:
        load_foreign_set(tmp_path / "bomb.pt")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


def test_a_torch_file_of_something_else_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save([torch.zeros(3)], tmp_path / "list.pt")
    with pytest.raises(DataError, match="holds a list; expected a dictionary of tensors"):
        load_foreign_set(tmp_path / "list.pt")
