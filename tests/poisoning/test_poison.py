"""The poison stage: what it writes, what a reader refuses, and that it continues to the same bytes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.nn import functional

from edgeproof.commands import cli
from edgeproof.config import PoisonConfig, TrainConfig, build_config
from edgeproof.data.base import LabelledImages, load_splits
from edgeproof.data.poison import PoisonedImages, choose_poisoned, load_poison
from edgeproof.errors import ConfigError, DataError, ModelError
from edgeproof.models.base import build_classifier
from edgeproof.poisoning import deep_confuse, error_minimising
from edgeproof.poisoning.base import poison, read_target
from edgeproof.poisoning.networks import load_generator
from edgeproof.poisoning.state import load_state, save_state
from edgeproof.runs import Run
from edgeproof.training.loop import train

SMALL = {
    "data.name": "synthetic", "data.calibration": 16, "eps": 0.3, "trials": 2, "batch_size": 32, "generator_width": 4,
    "victim": "lenet", "threads": 1,
}  # fmt: skip


def configure(**changes: Any) -> PoisonConfig:
    return build_config(PoisonConfig, options={**SMALL, **{key.replace("__", "."): v for key, v in changes.items()}})


def run(config: PoisonConfig, folder: Path) -> Run:
    with Run.start("poison", "test", config=config.model_dump(mode="json"), out=folder) as out:
        poison(config, out)
    return out


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(configure(), tmp_path_factory.mktemp("poison") / "run")


def clean_images() -> LabelledImages:
    return load_splits(configure().data).train


def test_the_poison_covers_the_whole_training_split_inside_its_budget_and_on_the_grid(made: Run) -> None:
    poisoned = load_poison(made)
    splits = load_splits(configure().data)
    parts = [splits.part(name) for name in ("train", "validation", "calibration")]
    assert len(poisoned.index) == sum(map(len, parts))
    levels = poisoned.images * 255
    assert np.array_equal(levels, np.rint(levels))
    for part in parts:
        moved = np.abs(poisoned.replace_in(part).images - part.images)
        assert float(moved.max()) <= 0.3 + 1e-6
        assert float(moved.mean()) > 0.01


def test_the_trials_are_on_record_with_the_untrained_generator_first(made: Run) -> None:
    found = json.loads(made.file("trials.json").read_text(encoding="utf-8"))
    assert [trial["trial"] for trial in found["trials"]] == [0, 1, 2]
    scores = [
        trial["poisoned"]["hits"] * trial["reached"]["hits"] / trial["clean"]["total"] ** 2 for trial in found["trials"]
    ]
    assert found["kept_trial"] == int(np.argmax(scores))


def test_training_reads_the_poisoned_images(made: Run, tmp_path: Path) -> None:
    options = {
        "data.name": "synthetic",
        "data.calibration": 16,
        "model": "lenet",
        "epochs": 1,
        "poison": str(made.path),
    }
    config = build_config(TrainConfig, options=options)
    outs = {}
    for name, chosen in {"poisoned": config, "clean": config.model_copy(update={"poison": None})}.items():
        with Run.start("train", name, config=chosen.model_dump(mode="json"), out=tmp_path / name) as out:
            train(chosen, out)
        outs[name] = out.file("model.safetensors").read_bytes()
    assert outs["poisoned"] != outs["clean"]


def test_a_poison_keyed_to_the_wrong_images_is_refused(made: Run) -> None:
    poisoned, clean = load_poison(made), clean_images()
    order = np.empty_like(poisoned.index)
    for label in range(4):  # inside each class, so that no label gives it away
        mine = np.flatnonzero(poisoned.labels == label)
        order[mine] = np.roll(mine, 1)
    shuffled = replace(poisoned, images=poisoned.images[order])
    with pytest.raises(DataError, match=r"poisoned images are not those of their index: at \d+ max"):
        shuffled.replace_in(clean)


def test_one_image_in_another_ones_place_is_enough(made: Run) -> None:
    poisoned, clean = load_poison(made), clean_images()
    images = poisoned.images.copy()
    row = int(np.flatnonzero(poisoned.index == clean.index[5])[0])
    images[row] = 1 - clean.images[5]
    with pytest.raises(DataError, match=rf"^1 of {len(clean)} poisoned images .* at {clean.index[5]} "):
        replace(poisoned, images=images).replace_in(clean)


def test_a_poison_of_fewer_images_or_another_data_set_is_refused(made: Run) -> None:
    poisoned, clean = load_poison(made), clean_images()
    half = replace(
        poisoned, images=poisoned.images[::2], labels=poisoned.labels[::2], index=poisoned.index[::2], poisoned=poisoned.poisoned[::2]
    )  # fmt: skip
    with pytest.raises(DataError, match=r"lacks \d+ of \d+ train images of synthetic"):
        half.replace_in(clean)
    with pytest.raises(DataError, match="is of 'synthetic' and the images are of 'other'"):
        poisoned.replace_in(replace(clean, name="other"))


def test_a_share_of_each_class_is_poisoned_and_the_rest_stays_as_it_was(made: Run, tmp_path: Path) -> None:
    poisoned = load_poison(run(configure(ratio=0.25, reuse=str(made.path)), tmp_path / "part"))
    clean = clean_images()
    rows = np.searchsorted(poisoned.index, clean.index)
    changed = (poisoned.images[rows] != clean.images).any(axis=(1, 2, 3))
    assert np.array_equal(changed, poisoned.poisoned[rows])
    assert np.bincount(poisoned.labels[poisoned.poisoned]).tolist() == [16] * 4
    assert poisoned.replace_in(clean).labels.tolist() == clean.labels.tolist()


def test_a_smaller_share_is_part_of_a_larger_one() -> None:
    labels = np.arange(100) % 3
    few, many = (choose_poisoned(labels, ratio, seed=1) for ratio in (0.3, 0.7))
    assert not (few & ~many).any()
    assert choose_poisoned(labels, 1.0, seed=1).all()


def test_a_reused_generator_gives_the_same_noise(made: Run, tmp_path: Path) -> None:
    again = load_poison(run(configure(reuse=str(made.path)), tmp_path / "again"))
    assert np.array_equal(again.images, load_poison(made).images)
    scaled = run(configure(reuse=str(made.path), eps=0.1), tmp_path / "scaled")
    assert load_generator(scaled.file("generator.safetensors")).header.eps == 0.1


@pytest.mark.parametrize("killed_after", [1, 2])
def test_a_killed_run_continues_to_the_same_bytes(
    made: Run, killed_after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = deep_confuse.save_state

    def save_and_die(path: Path, state: Any) -> None:
        save(path, state)
        if len(state.trials) == killed_after:
            raise KeyboardInterrupt

    monkeypatch.setattr(deep_confuse, "save_state", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        run(configure(), tmp_path / "run")
    monkeypatch.setattr(deep_confuse, "save_state", save)
    continued = run(configure(), tmp_path / "run")
    for name in ("poison.npz", "generator.safetensors", "trials.json"):
        assert continued.file(name).read_bytes() == made.file(name).read_bytes(), name
    assert not (continued.path / "state").exists()


def test_a_saved_state_is_all_that_the_next_trial_depends_on(tmp_path: Path) -> None:
    config = configure()
    material = deep_confuse.prepare(config, load_splits(config.data), None)
    through, resumed = (deep_confuse.new_state(config, channels=1, device=material.device) for _ in range(2))
    deep_confuse.run_trial(through, material, config, advance=lambda *_, **__: None)
    save_state(tmp_path / "state.safetensors", through)
    load_state(tmp_path / "state.safetensors", resumed)
    for state in (through, resumed):
        deep_confuse.run_trial(state, material, config, advance=lambda *_, **__: None)
    for name, weight in through.frozen.state_dict().items():
        assert torch.equal(weight, resumed.frozen.state_dict()[name]), name
    assert resumed.trials == through.trials


def test_flipped_labels_change_labels_only_and_are_recognised_as_a_control(tmp_path: Path) -> None:
    poisoned = load_poison(run(configure(method="label-flip", ratio=0.5), tmp_path / "flip"))
    clean = clean_images()
    given = poisoned.replace_in(clean)
    assert np.array_equal(given.images, clean.images)
    share = float((given.labels != clean.labels).mean())
    assert share == pytest.approx(0.5 * 3 / 4, abs=0.08)
    with pytest.raises(DataError, match="are not those of their index"):
        replace(poisoned, flipped=False).replace_in(clean)


def test_class_patterns_are_one_noise_a_class(tmp_path: Path) -> None:
    poisoned = load_poison(run(configure(method="class-patterns", eps=0.1, pixels="float"), tmp_path / "patterns"))
    clean = clean_images()
    moved = np.sign(poisoned.replace_in(clean).images - clean.images)
    inside = (clean.images > 0.1) & (clean.images < 0.9)
    for label in range(4):
        mine = clean.labels == label
        both = inside[mine][0] & inside[mine][1]
        assert np.array_equal(moved[mine][0][both], moved[mine][1][both])


def test_error_minimising_noise_lowers_the_loss_inside_its_budget_and_leaves_the_others_alone(tmp_path: Path) -> None:
    config = configure(method="error-minimising", eps=0.05, ratio=0.5, trials=3, victim_lr=0.05)
    poisoned, clean = load_poison(run(config, tmp_path / "run")), clean_images()
    given = poisoned.replace_in(clean)
    changed = (given.images != clean.images).any(axis=(1, 2, 3))
    assert np.array_equal(changed, poisoned.poisoned[np.searchsorted(poisoned.index, clean.index)])
    assert changed.mean() == pytest.approx(0.5, abs=0.05)
    torch.manual_seed(0)
    victim = build_classifier("lenet", input_shape=clean.input_shape, classes=clean.classes, mean=[0.5], std=[0.3])
    optimizer = torch.optim.Adam(victim.parameters(), 1e-3)
    for _ in range(15):  # whoever fits another network to the images finds the noise, too
        loss = functional.cross_entropy(victim(torch.from_numpy(given.images)), torch.from_numpy(given.labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images = torch.from_numpy(np.stack([clean.images[changed], given.images[changed]]))
    before, after = (
        functional.cross_entropy(victim(each), torch.from_numpy(clean.labels[changed])).item() for each in images
    )
    assert after < before


@pytest.mark.parametrize("killed_after", [1, 2])
def test_killed_error_minimising_continues_to_the_same_bytes(
    killed_after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(method="error-minimising", trials=3, eps="1/255", victim_lr=1e-4)
    whole = run(config, tmp_path / "whole")
    save = error_minimising._save

    def save_and_die(path: Path, state: Any) -> None:
        save(path, state)
        if len(state.history) == killed_after:
            raise KeyboardInterrupt

    monkeypatch.setattr(error_minimising, "_save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "run")
    monkeypatch.setattr(error_minimising, "_save", save)
    continued = run(config, tmp_path / "run")
    assert continued.file("poison.npz").read_bytes() == whole.file("poison.npz").read_bytes()
    assert not (continued.path / "state").exists()


def test_a_damaged_state_of_error_minimising_is_refused_with_what_to_do(tmp_path: Path) -> None:
    config = configure(method="error-minimising", trials=1)
    with Run.start("poison", "test", config=config.model_dump(mode="json"), out=tmp_path / "run") as out:
        (out.path / "state").mkdir(exist_ok=True)
        (out.path / "state" / "round.safetensors").write_bytes(b"nothing")
        with pytest.raises(ModelError, match=r"cannot be continued from .* start again with --fresh"):
            poison(config, out)


def test_a_reused_generator_brings_its_wish_along_and_takes_no_other(tmp_path: Path) -> None:
    wishing = run(configure(target="next", trials=1), tmp_path / "wishing")
    again = load_poison(run(configure(reuse=str(wishing.path)), tmp_path / "again"))
    assert again.target == load_poison(wishing).target == (1, 2, 3, 0)
    with pytest.raises(ConfigError, match="a generator that is reused, which has its own; leave target out"):
        run(configure(reuse=str(wishing.path), target="to=0"), tmp_path / "other")


def test_a_generator_for_other_images_is_refused(made: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        f"{name}_{part}": value
        for part in ("train", "test")
        for name, value in (("x", rng.random((80, 3, 16, 16), np.float32)), ("y", np.arange(80) % 4))
    }
    np.savez(tmp_path / "rgb.npz", **arrays)
    config = configure(data__name=f"npz:{tmp_path / 'rgb.npz'}", reuse=str(made.path))
    with pytest.raises(ConfigError, match=r"is for images of 1 channels and .* has 3"):
        run(config, tmp_path / "run")


def test_a_poison_that_could_change_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"eps = 0\.003 is less than one grey level"):
        run(configure(method="class-patterns", eps=0.003), tmp_path / "grey")
    with pytest.raises(ConfigError, match=r"ratio = 0\.001 of each class is no image of 256; raise it"):
        run(configure(method="class-patterns", ratio=0.001), tmp_path / "none")


def test_an_untrained_generator_that_is_kept_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeproof.poisoning.state.TrialRecord.score", property(lambda trial: -trial.trial))
    run(configure(trials=1), tmp_path / "run")
    assert "the untrained generator, which is kept; raise --trials" in caplog.text


def test_a_generator_of_another_run_is_for_the_method_that_has_one(made: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^reuse = .* is for deep-confuse; the method is 'class-patterns'"):
        run(configure(method="class-patterns", reuse=str(made.path)), tmp_path / "run")


def test_wanted_classes_are_read_from_next_one_class_or_a_list() -> None:
    data = clean_images()
    assert read_target(None, data=data) is None
    assert read_target("next", data=data) == (1, 2, 3, 0)
    assert read_target("to=class-2", data=data) == read_target("to=2", data=data) == (2, 2, 2, 2)
    assert read_target("3, 2,1,0", data=data) == (3, 2, 1, 0)
    for text in ("1,2", "3,2,1,4", "3,2,1,x", "3,2,1," + "0" * 5000):
        with pytest.raises(ConfigError, match="expected next, to=CLASS or 4 class indices from 0 to 3"):
            read_target(text, data=data)
    with pytest.raises(ConfigError, match="synthetic: unknown class 'class-9'"):
        read_target("to=class-9", data=data)


def test_a_poison_needs_held_out_images_to_choose_on(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"set data\.validation above 0"):
        run(configure(data__validation=0), tmp_path / "run")


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"the victim's loss is (nan|inf) in trial 0"):
        run(configure(victim_lr=1e30), tmp_path / "run")


def test_indices_must_ascend(made: Run) -> None:
    poisoned = load_poison(made)
    with pytest.raises(DataError, match="ascending indices"):
        PoisonedImages(**{**poisoned.__dict__, "index": poisoned.index[::-1]})


def test_autocast_runs_the_same_loop(tmp_path: Path) -> None:
    found = run(configure(amp=True, trials=1), tmp_path / "run")
    assert (
        float(np.abs(load_poison(found).replace_in(clean_images()).images - clean_images().images).max()) <= 0.3 + 1e-6
    )


def test_the_command_line_poisons_and_trains_on_it() -> None:
    made = CliRunner().invoke(
        cli,
        ["poison", "--data", "synthetic", "--method", "class-patterns", "--eps", "51/255", "--ratio", "0.5", "--json"],
    )
    assert made.exit_code == 0, made.output
    folder = json.loads(made.stdout)["run"]
    assert Path(folder).name.startswith("poison-synthetic-class-patterns-0.2-")
    trained = CliRunner().invoke(
        cli, ["train", "--data", "synthetic", "--model", "lenet", "--epochs", "1", "--poison", folder]
    )
    assert trained.exit_code == 0, trained.output
    manifest = json.loads((Path(trained.stdout.strip()) / "manifest.json").read_text(encoding="utf-8"))
    assert [item["role"] for item in manifest["inputs"]] == ["poison"]
