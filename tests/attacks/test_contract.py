"""Every registered attack keeps its promises, and the check of them would notice if it did not."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
import torch

from edgeproof.attacks.base import AttackSpec, check_contract, distance, find_attack
from edgeproof.attacks.configured import choose_attack
from edgeproof.attacks.pgd import pgd_linf
from edgeproof.errors import AttackContractError, ConfigError
from edgeproof.ops import LEVELS, to_grid
from edgeproof.plugins.registry import CALLERS, entries
from tests.oracles import draws, images, small_network

EPS = 8 / 255
SPECS = [find_attack(name) for name in entries("attack")]
ON_GRID = [spec for spec in SPECS if spec.box]
RANDOM = [spec for spec in SPECS if spec.takes("draws")]
Y = torch.arange(12) % 5

#: Parameters that keep the long ones short; anything else runs with its defaults.
SHORT = {"steps": 5, "queries": 20, "searches": 2, "targets": 2, "attacks": "fgsm,pgd-linf"}


def names(specs: list[AttackSpec]) -> list[str]:
    return [spec.name for spec in specs]


def deployed(x: torch.Tensor) -> torch.Tensor:
    """The second build of an attack that takes one."""
    return small_network(seed=1).to(x.dtype)(x)


def choose(spec: AttackSpec, *, eps: float = EPS, **options):  # type: ignore[no-untyped-def]
    params = {name: value for name, value in SHORT.items() if spec.takes(name)}
    options |= {"deployed": deployed} if spec.takes("deployed") else {}
    attack = choose_attack(spec, eps=eps * (10 if spec.norm == "l2" else 1), params=params, **options)
    if spec.access != "data":
        return attack
    return replace(attack, perturbation=attack.fit(small_network(), images(12), Y, draws=draws(12)))


@pytest.mark.parametrize("spec", SPECS, ids=names(SPECS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_attack_keeps_its_contract(spec: AttackSpec, dtype: torch.dtype) -> None:
    network, x = small_network().to(dtype), images(12).to(dtype)
    before = x.clone()
    x_adv = choose(spec).run(network, x, Y, draws=draws(12))
    assert torch.equal(x, before)
    assert not x_adv.requires_grad
    assert not torch.equal(x_adv, x)


@pytest.mark.parametrize("spec", ON_GRID, ids=names(ON_GRID))
def test_attack_keeps_to_the_8_bit_grid_inside_its_budget(spec: AttackSpec) -> None:
    x = torch.round(images(12).float() * 255) / 255
    attack = choose(spec, eps=8.4 / 255, pixels="uint8")
    x_adv = attack.run(small_network().float(), x, Y, draws=draws(12))
    levels = torch.round(x_adv * 255)
    assert torch.equal(levels / 255, x_adv)
    assert float(distance(x, x_adv, norm=spec.norm).max()) <= attack.radius + 1e-7
    if spec.norm == "linf":
        assert int((levels - torch.round(x * 255)).abs().max()) <= int(attack.radius * 255)


@pytest.mark.parametrize("spec", SPECS, ids=names(SPECS))
def test_attack_gives_an_image_the_same_adversary_in_any_batch(spec: AttackSpec) -> None:
    network, x, attack = small_network(), images(12), choose(spec)
    whole = attack.run(network, x, Y, draws=draws(12))
    some = torch.tensor([7, 2, 9])
    part = attack.run(network, x[some], Y[some], draws=draws(12).take(some))
    assert torch.allclose(part, whole[some], atol=1e-9, rtol=0)


@pytest.mark.parametrize("spec", RANDOM, ids=names(RANDOM))
def test_attack_repeats_itself_and_leaves_torchs_generator_alone(spec: AttackSpec) -> None:
    network, x, attack = small_network(), images(12), choose(spec)
    state = torch.random.get_rng_state()
    once, again = (attack.run(network, x, Y, draws=draws(12)) for _ in range(2))
    assert torch.equal(once, again)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("spec", SPECS, ids=names(SPECS))
def test_attack_takes_an_empty_batch_a_single_image_and_a_flat_loss(spec: AttackSpec) -> None:
    attack, x = choose(spec), images(1).float()
    network = small_network().float()
    assert attack.run(network, x[:0], Y[:0], draws=draws(0)).shape == (0, 3, 8, 8)
    assert attack.run(network, x, Y[:1], draws=draws(1)).shape == (1, 3, 8, 8)
    assert torch.isfinite(attack.run(lambda x: network(x) * 0, x, Y[:1], draws=draws(1))).all()


@pytest.mark.parametrize("stop", ["never", "first", "margin=0.5"])
@pytest.mark.parametrize("spec", SPECS, ids=names(SPECS))
def test_attack_never_shows_a_model_an_empty_batch(spec: AttackSpec, stop: str) -> None:
    network, x = small_network(), images(12)

    def strict(x: torch.Tensor) -> torch.Tensor:
        assert len(x)
        return network(x)

    keeps_last = {"keep": "best"} if spec.takes("keep") else {}
    if stop != "never" and (not spec.takes("stop") or (spec.takes("trace") and spec.name != "square" and "=" in stop)):
        pytest.skip("no image leaves this attack so")
    attack = choose(spec)
    attack = replace(attack, stop=stop, params={**attack.params, **keeps_last})
    predicted = network(x).argmax(1)
    for eps in (attack.eps, 1e-6) if spec.access != "data" else (attack.eps,):
        for y in (predicted, (predicted + 1) % 5, Y):  # no image is wrong at first, all are, some are
            for model in (strict, lambda x: strict(x) * 0):
                replace(attack, eps=eps).run(model, x, y, draws=draws(12))
    assert attack.run(strict, x[:0], Y[:0], draws=draws(0)).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("stop", ["never", "first", "margin=1"])
@pytest.mark.parametrize("member", ["mi-fgsm", "di-fgsm", "ti-fgsm"])
def test_an_ensemble_takes_members_that_keep_their_last_iterate(member: str, stop: str) -> None:
    network, x, spec = small_network(), images(12), find_attack("ensemble")
    y = network(x).argmax(1)
    attack = choose_attack(spec, eps=EPS, params={"attacks": f"{member},fgsm"}, stop=stop)
    alone = choose_attack(find_attack(member), eps=EPS, params={}).run(network, x, y, draws=draws(12))
    found = attack.run(network, x, y, draws=draws(12))
    hit = network(alone).argmax(1) != y
    assert hit.any()
    assert (network(found).argmax(1) != y)[hit].all()


@pytest.mark.parametrize("spec", SPECS, ids=names(SPECS))
def test_attack_documents_every_parameter_and_orders_them_alike(spec: AttackSpec) -> None:
    parameters = inspect.signature(spec.function).parameters
    keywords = [name for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY]
    assert list(parameters)[:3] == ["model", "x", "y"]
    assert keywords[0] == "eps"
    callers = CALLERS["attack"]
    assert [name for name in keywords if name in callers] == [name for name in callers if name in keywords]
    for name in keywords:
        assert f"\n    {name}: " in inspect.cleandoc(spec.entry.help), name


def test_what_attacks_share_is_explained_once_and_their_own_explanation_counts() -> None:
    shared, own = (find_attack(name).entry.help for name in ("pgd-linf", "mi-fgsm"))
    assert "\n    steps: Number of steps, each one gradient.\n" in shared
    assert "steps: " not in (pgd_linf.__doc__ or "")
    assert "\n    step_size: Length of a step (default: 2.5 * eps / steps).\n" in shared
    assert "\n    step_size: Length of a step (default: eps / steps).\n" in own
    assert own.count("step_size: ") == 1


SPEC = find_attack("fgsm")


def broken(x_adv: torch.Tensor, **options) -> None:  # type: ignore[no-untyped-def]
    check_contract(SPEC, torch.full((2, 1, 2, 2), 0.5), x_adv, eps=EPS, **options)


@pytest.mark.parametrize(
    ("x_adv", "message"),
    [
        (torch.full((2, 1, 2, 3), 0.5), r"returned torch.float32 of shape \(2, 1, 2, 3\); expected"),
        (
            torch.full((2, 1, 2, 2), 0.5).double(),
            r"returned torch.float64 of shape \(2, 1, 2, 2\); expected torch.float32",
        ),
        (torch.full((2, 1, 2, 2), float("nan")), "returned NaN or infinite pixels"),
        (torch.full((2, 1, 2, 2), 1.01), r"left the pixel range: \[1.01, 1.01\]"),
        (torch.full((2, 1, 2, 2), 0.54), r"left its budget: max \|x_adv - x\| = 0.0400000 > eps = 0.0313725"),
    ],
)
def test_images_that_break_the_contract_are_refused(x_adv: torch.Tensor, message: str) -> None:
    with pytest.raises(AttackContractError, match=message):
        broken(x_adv)


def test_float_rounding_is_no_breach_and_anything_more_is() -> None:
    broken(torch.full((2, 1, 2, 2), 0.5 + EPS + 5e-7))
    with pytest.raises(AttackContractError, match="left its budget"):
        broken(torch.full((2, 1, 2, 2), 0.5 + EPS + 2e-6))


def test_pixels_off_the_grid_are_refused() -> None:
    with pytest.raises(AttackContractError, match="left the 8-bit grid"):
        broken(torch.full((2, 1, 2, 2), 0.51), pixels="uint8")


@pytest.mark.parametrize("eps", [1 / 255, 7.999 / 255, 8 / 255, 8.001 / 255, 0.05, 1.0])
def test_rounding_to_the_grid_stays_inside_every_budget_from_every_level(eps: float) -> None:
    x = (torch.arange(256) / LEVELS).view(1, 1, 16, 16)
    for moved in (x + eps, x - eps, x + eps / 2):
        rounded = to_grid(moved.clamp(0, 1), x, eps=eps)
        levels = torch.round(rounded * LEVELS)
        assert int((levels - torch.arange(256).view_as(levels)).abs().max()) <= int(eps * 255 + 1e-6)
        check_contract(SPEC, x, rounded, eps=eps, pixels="uint8")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("pgd-linf", {"eps": 8}, r"eps = 8 is more than the whole pixel range.*did you mean 8/255\?"),
        (
            "pgd-linf",
            {"params": {"step": 3}},
            r"has no parameter 'step' \(did you mean 'steps'\?\); known: step_size, steps",
        ),
        ("pgd-linf", {"params": {"draws": 3}}, "has no parameter 'draws'"),
        ("pgd-linf", {"params": {"steps": "many"}}, "steps = 'many' is not accepted; expected a whole number"),
        ("pgd-linf", {"params": {"loss": "cw"}}, "loss = 'cw' is not known.*; expected ce, margin, dlr"),
        ("fgsm", {"stop": "first"}, "has no steps after which an image could leave"),
        ("fgsm-possas", {"pixels": "uint8"}, "does not clip"),
        ("fgsm", {"pixels": "uint8", "eps": 0.5 / 255}, "is less than one 8-bit level"),
    ],
)
def test_choices_without_sense_are_refused(name: str, options: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ConfigError, match=message):
        choose_attack(find_attack(name), **{"eps": EPS, "params": {}, **options})


def test_parameters_are_read_by_their_annotation() -> None:
    given = {"step_size": "2/255", "steps": "7", "random_start": "false", "loss": "margin", "label": "3"}
    params = choose_attack(find_attack("pgd-linf"), eps=EPS, params=given).params
    assert params["step_size"] == 2 / 255
    assert (params["steps"], params["random_start"], params["loss"], params["label"]) == (7, False, "margin", "3")
    assert (params["restarts"], params["keep"]) == (1, "best")
