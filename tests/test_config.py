"""Configurations: strict keys, numbers as users write them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeproof.config import AttackConfig, ExportConfig, TrainConfig, build_config, check_eps, format_eps, parse_number
from edgeproof.errors import ConfigError


@pytest.mark.parametrize(
    "text, value",
    [("8/255", 8 / 255), ("0.5/255", 0.5 / 255), ("0.03", 0.03), ("1e-4", 1e-4), (" 4 / 255 ", 4 / 255), (2, 2.0)],
)
def test_a_number_may_be_a_fraction(text: str, value: float) -> None:
    assert parse_number(text) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize("text", ["__import__('os')", "8/0", "eight", "", "1//2"])
def test_nothing_else_is_a_number(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a number; expected one such as 8/255"):
        parse_number(text)


def test_an_eps_of_grey_levels_is_asked_about() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 8/255\?"):
        check_eps(8.0, norm="linf")
    assert check_eps(8.0, norm="l2") == 8.0


@pytest.mark.parametrize("eps", [-0.1, float("nan"), float("inf")])
def test_a_budget_is_a_finite_number_from_zero(eps: float) -> None:
    with pytest.raises(ConfigError, match="is not a budget"):
        check_eps(eps, norm="l2")


@given(st.integers(1, 254))
def test_grey_levels_are_written_back_as_they_are_read(level: int) -> None:
    eps = parse_number(f"{level}/255")
    assert parse_number(format_eps(eps)) == eps
    assert format_eps(eps) in (f"{level}/255", f"{eps:g}")


@pytest.mark.parametrize(
    "eps, text", [(0.1, "0.1"), (0.4, "0.4"), (0.0, "0"), (1.0, "1"), (3.0, "3"), (8 / 255, "8/255")]
)
def test_a_budget_is_written_the_short_way(eps: float, text: str) -> None:
    assert format_eps(eps) == text


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    file.write_text(json.dumps({"epochs": 2, "lr": "1/100", "data": {"name": "mnist"}}))
    config = build_config(TrainConfig, file=file, sets=["epochs=3", "data.split_seed=5"], options={"model": "lenet"})
    assert (config.epochs, config.lr, config.data.name, config.data.split_seed, config.model) == (
        3,
        0.01,
        "mnist",
        5,
        "lenet",
    )


def test_a_manifest_repeats_its_run(tmp_path: Path) -> None:
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps({"schema_version": 1, "kind": "train", "config": TrainConfig(epochs=7).model_dump()}))
    assert build_config(TrainConfig, file=file).epochs == 7


@pytest.mark.parametrize(
    "sets, message",
    [
        (["epoch=3"], "unknown key 'epoch' \\(did you mean 'epochs'\\?\\)"),
        (["data.nam=x"], "unknown key 'data.nam' \\(did you mean 'name'\\?\\); known: name, params, split_seed"),
        (["lr=0"], "lr = 0.0 is not accepted"),
        (["schedule=linear"], "schedule = 'linear' is not accepted"),
        (["epochs"], "has no '='"),
    ],
)
def test_what_is_wrong_with_a_setting_is_said(sets: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(TrainConfig, sets=sets)


def test_an_unknown_key_of_a_part_that_may_be_left_out_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'qat.epoch' \(did you mean 'epochs'\?\); known: epochs"):
        build_config(ExportConfig, sets=["qat.epoch=1"], options={"model": "m"})


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_file_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ConfigError, match=r"expected (an object|a JSON object)"):
        build_config(AttackConfig, file=tmp_path / "c.json")


@pytest.mark.parametrize("seed", [-1, 2**63, 10**30])
def test_a_seed_that_no_generator_takes_is_refused(seed: int) -> None:
    for kind, options in ((TrainConfig, {}), (AttackConfig, {"model": "m"})):
        with pytest.raises(ConfigError, match=r"seed = .* is not accepted"):
            build_config(kind, options={**options, "seed": seed})


def test_budgets_beyond_images_are_written_as_they_are() -> None:
    assert (format_eps(1e308), format_eps(8 / 255), format_eps(2.0)) == ("1e+308", "8/255", "2")
