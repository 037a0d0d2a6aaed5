from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeproof.attacks import chunks, craft
from edgeproof.attacks.base import find_attack
from edgeproof.attacks.craft import CHUNKS, attack, craft_sets
from edgeproof.config import AttackConfig
from edgeproof.data.base import AdversarialSet, LabelledImages, load_adversarial_set, save_adversarial_set
from edgeproof.errors import ConfigError, DataError
from edgeproof.models.base import build_classifier, save_classifier
from edgeproof.runs import Run
from tests.closeness import assert_near
from tests.oracles import labelled_images, small_network, source_of

EPS = 8 / 255


def start(folder: Path) -> Run:
    return Run.start("attack", "test", config={"seed": 0}, out=folder)


def run(  # type: ignore[no-untyped-def]
    folder: Path,
    *,
    name: str = "pgd-linf",
    network=None,
    data: LabelledImages | None = None,
    source: str = "",
    **options,
):
    data, network = data or labelled_images(), network or small_network().float()
    config = AttackConfig(model="", **{"attack": name, "eps": EPS, "batch_size": 8, "seed": 3, "probe": 0, **options})
    attacked = source_of(network, data, name=source)
    with start(folder) as out:
        (made,) = craft_sets(
            [config], [folder], spec=find_attack(name), source=attacked, data=data, load_train=labelled_images
        )
        save_adversarial_set(out, made)
        out.intermediate(CHUNKS)
        out.finish()
    return made


def digests(folder: Path) -> dict[str, str]:
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.glob("*")
        if "manifest" not in file.name
    }


def test_what_is_written_is_what_was_made(tmp_path: Path) -> None:
    made = run(tmp_path / "a", source="a small network")
    read = load_adversarial_set(Run.open(tmp_path / "a"))
    assert isinstance(read, AdversarialSet)
    assert np.array_equal(read.images, made.images)
    assert np.array_equal(read.clean.index, labelled_images().index)
    assert (read.name, read.norm, read.eps, read.source, read.clipped) == (
        "pgd-linf 8/255",
        "linf",
        EPS,
        "a small network",
        True,
    )
    assert (read.params["steps"], read.params["stop"], read.params["seed"]) == (20, "never", 3)
    assert not (tmp_path / "a" / CHUNKS).exists()


def test_saved_logits_are_the_source_models_own(tmp_path: Path) -> None:
    network, data = small_network().float(), labelled_images()
    made = run(tmp_path / "a", network=network, data=data)
    with torch.no_grad():
        expected = [network(torch.from_numpy(images)).numpy() for images in (made.images, data.images)]
    assert made.source_logits is not None
    assert made.source_clean_logits is not None
    assert_near(made.source_logits, expected[0])
    assert_near(made.source_clean_logits, expected[1])


def test_a_killed_run_continues_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(chunks, "write_npz", stop_after(2))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed")
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "killed" / CHUNKS).iterdir()}
    assert len(kept) == 2
    sizes: list[int] = []
    network = small_network().float()

    def counting(x):  # type: ignore[no-untyped-def]
        sizes.append(len(x))
        return network(x)

    run(tmp_path / "killed", network=counting)
    assert set(sizes[1:]) == {4}  # the first call looks whether the outputs are probabilities
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


def test_an_unfinished_run_of_an_earlier_version_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(chunks, "write_npz", stop_after(2))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed")
    (tmp_path / "killed" / CHUNKS).rename(tmp_path / "killed" / "shards")
    sizes: list[int] = []
    network = small_network().float()

    def counting(x):  # type: ignore[no-untyped-def]
        sizes.append(len(x))
        return network(x)

    run(tmp_path / "killed", network=counting)
    assert set(sizes[1:]) == {4}  # the first call looks whether the outputs are probabilities
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


@pytest.mark.parametrize("name", ["pgd-linf", "universal"])
def test_a_probe_that_fails_leaves_what_was_crafted(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, shown = small_network().float(), []

    def counting(x):  # type: ignore[no-untyped-def]
        shown.append(len(x))
        return network(x)

    def run_it(folder: str) -> int:
        shown.clear()
        run(tmp_path / folder, name=name, network=counting, probe=4, params={"steps": 3})
        return sum(shown)

    whole = run_it("whole")
    with monkeypatch.context() as patch:
        patch.setattr(craft, "look_for_masking", broken_probe)
        with pytest.raises(RuntimeError, match="out of memory"):
            run_it("failed")
    crafted = sum(shown)
    again = run_it("failed")
    assert again <= whole - crafted + 8  # the look at the first images, whether their outputs are probabilities
    assert digests(tmp_path / "failed") == digests(tmp_path / "whole")


def broken_probe(*_: object) -> dict[str, float]:
    raise RuntimeError("out of memory")


def stop_after(count: int):  # type: ignore[no-untyped-def]
    """Return a writer of arrays that is interrupted once it has written so many files."""
    write, written = chunks.write_npz, []

    def write_some(path: Path, arrays) -> None:  # type: ignore[no-untyped-def]
        if len(written) == count:
            raise KeyboardInterrupt
        written.append(path)
        write(path, arrays)

    return write_some


@pytest.mark.parametrize("name", ["pgd-linf", "noise"])
def test_batch_size_does_not_change_the_adversaries(tmp_path: Path, name: str) -> None:
    network = small_network()

    def in_double(x):  # type: ignore[no-untyped-def]
        return network(x.double())  # so that what the batch size does to float32 sums cannot flip a sign

    sets = [run(tmp_path / str(size), name=name, network=in_double, batch_size=size) for size in (1, 7, 20)]
    assert all(np.array_equal(other.images, sets[0].images) for other in sets[1:])


def test_the_seed_changes_them(tmp_path: Path) -> None:
    assert not np.array_equal(run(tmp_path / "3").images, run(tmp_path / "4", seed=4).images)


def test_an_image_keeps_its_adversary_when_others_are_left_out(tmp_path: Path) -> None:
    data = labelled_images()
    part = data.take(np.array([4, 11]))
    whole, some = run(tmp_path / "a", name="noise"), run(tmp_path / "b", name="noise", data=part)
    assert np.array_equal(some.images, whole.images[[4, 11]])


def test_8_bit_adversaries_are_whole_levels_inside_the_budget_and_stored_as_bytes(tmp_path: Path) -> None:
    made = run(tmp_path / "a", pixels="uint8")
    with np.load(tmp_path / "a" / "adversaries.npz") as stored, np.load(tmp_path / "a" / "clean.npz") as clean:
        moved = stored["x_adv"].astype(int) - clean["x"].astype(int)
        assert stored["x_adv"].dtype == np.uint8
    assert np.abs(moved).max() == 8
    assert made.pixels == "uint8"


def test_the_grid_serves_clean_images_that_are_not_on_it(tmp_path: Path) -> None:
    made = run(tmp_path / "a", pixels="uint8", data=labelled_images(levels=False))
    assert np.abs(made.images.astype(np.float64) - made.clean.images).max() <= EPS + 1e-6


def test_indicators_name_flat_and_saturated_losses(tmp_path: Path) -> None:
    network = small_network().float()
    clear = run(tmp_path / "clear").indicators
    masked = run(tmp_path / "masked", network=lambda x: network(x) * 1e6).indicators
    flat = run(tmp_path / "flat", name="fgsm", network=lambda x: network(x) * 0).indicators
    assert clear["zero_gradients"] == clear["saturated_loss"] == clear["non_finite_gradients"] == 0
    assert clear["budget_used"] == pytest.approx(1, abs=1e-5)
    assert masked["saturated_loss"] == masked["zero_gradients"] > 0
    assert flat == {"zero_gradients": 1, "non_finite_gradients": 0, "saturated_loss": 0, "budget_used": 0}


def test_non_finite_gradients_are_counted(tmp_path: Path) -> None:
    network = small_network().float()
    made = run(tmp_path / "a", name="fgsm", network=lambda x: network(x) / (x - x).sum((1, 2, 3))[:, None].sqrt())
    assert made.indicators["non_finite_gradients"] == 1


def test_noise_has_no_gradient_indicators(tmp_path: Path) -> None:
    assert set(run(tmp_path / "a", name="noise").indicators) == {"budget_used"}


def test_the_unclipped_paper_variant_says_so_in_its_set(tmp_path: Path) -> None:
    run(tmp_path / "a", name="fgsm-possas", params={"steps": "3"})
    read = load_adversarial_set(Run.open(tmp_path / "a"))
    assert not read.clipped
    assert read.images.min() < 0
    assert json.loads((tmp_path / "a" / "set.json").read_text())["clipped"] is False


def test_the_stage_goes_from_a_train_run_to_a_finished_attack_run(tmp_path: Path) -> None:
    source = train_run(tmp_path / "train")
    config = AttackConfig(attack="fgsm", model=str(source), eps=0.1, limit=30, pixels="uint8")
    with Run.start(
        "attack", "x", config=config.model_dump(mode="json"), inputs={"model": source}, out=tmp_path / "b"
    ) as out:
        attack(config, out)
    read = load_adversarial_set(Run.open(tmp_path / "b", kind="attack"))
    assert len(read.clean) == 30
    assert read.source == "train"
    assert (tmp_path / "b" / "manifest.json").exists()


def test_what_bf16_costs_in_success_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "edgeproof")
    source = train_run(tmp_path / "train")
    config = AttackConfig(attack="fgsm", model=str(source), eps=0.1, limit=10, gradients="bf16")
    with start(tmp_path / "b") as out:
        attack(config, out)
    said = caplog.text
    assert re.search(r"bf16 gradients: \d+\.\d % misclassified, float32: \d+\.\d %, of the first 10 images", said)
    assert load_adversarial_set(Run.open(tmp_path / "b")).params["gradients"] == "bf16"


def test_a_source_model_of_other_images_is_refused(tmp_path: Path) -> None:
    source = train_run(tmp_path / "train", shape=(3, 32, 32))
    config = AttackConfig(attack="fgsm", model=str(source), eps=0.1)
    with start(tmp_path / "b") as out, pytest.raises(DataError, match=r"the source model .* takes \(3, 32, 32\)"):
        attack(config, out)


def test_an_unknown_attack_names_the_nearest(tmp_path: Path) -> None:
    config = AttackConfig(attack="pgd-inf", model=str(train_run(tmp_path / "train")))
    with (
        start(tmp_path / "b") as out,
        pytest.raises(ConfigError, match=r"unknown attack 'pgd-inf' \(did you mean 'pgd-linf'\?\)"),
    ):
        attack(config, out)


def train_run(folder: Path, *, shape: tuple[int, int, int] = (1, 32, 32)) -> Path:
    classes = [str(digit) for digit in range(10)]
    with Run.start("train", "x", config={"data": {"name": "digits"}}, out=folder) as out:
        model = build_classifier(
            "small-cnn", input_shape=shape, classes=classes, mean=[0.5] * shape[0], std=[0.5] * shape[0]
        )
        save_classifier(folder / "model.safetensors", model.eval())
        out.finish()
    return folder
