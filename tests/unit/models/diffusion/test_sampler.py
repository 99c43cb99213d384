"""Shapes of the diffusion network, and samplers compared with exact solutions."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from svcnb import MissingExtra
from svcnb.files.checkpoint import load_weights
from svcnb.files.unpickling import CheckpointError
from svcnb.models.diffusion.network import DenoiserSizes, GaussianDiffusion, Unit2Mel, linear_schedule
from svcnb.models.diffusion.sampler import (
    METHODS,
    DiffusionError,
    SamplerSettings,
    check_steps,
    remove_noise,
    sample,
)
from svcnb.nn.layers import Noise

SIZES = DenoiserSizes(n_mels=6, n_layers=2, n_chans=8, n_hidden=5)
SCHEDULE = GaussianDiffusion(SIZES)
MEAN, STD = -0.2, 0.15  # of the normal data distribution for which the predictions below are exact


def noise_of(seed: int) -> Noise:
    return Noise(torch.Generator().manual_seed(seed))


def small_model(**choices) -> Unit2Mel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Unit2Mel(4, 1, SIZES, **choices).eval()
        torch.nn.init.normal_(model.decoder.denoise_fn.output_projection.weight, std=0.3)
    return model


def noisy_std(alpha: Tensor) -> Tensor:
    """Standard deviation of normal data at noise level `alpha` (alphas_cumprod)."""
    return (alpha * STD**2 + 1 - alpha).sqrt()


def alpha_at(step: float) -> Tensor:
    log_alpha = np.interp(step, np.arange(1000), SCHEDULE.alphas_cumprod.double().log().numpy())
    return torch.tensor(np.exp(log_alpha), dtype=torch.float32)


def exact_noise(noisy: Tensor, step: float) -> Tensor:
    """The optimal prediction for normal data."""
    alpha = alpha_at(step)
    return (1 - alpha).sqrt() * (noisy - alpha.sqrt() * MEAN) / noisy_std(alpha) ** 2


def exact_result(noisy: Tensor, n_steps: int) -> Tensor:
    """Solution of the probability flow ODE from step n_steps - 1 to step 0."""
    start, end = alpha_at(n_steps - 1), alpha_at(0)
    return end.sqrt() * MEAN + noisy_std(end) * (noisy - start.sqrt() * MEAN) / noisy_std(start)


def noisy_start(n_steps: int, shape: tuple[int, ...] = (1, 1, 6, 400)) -> Tensor:
    alpha = alpha_at(n_steps - 1)
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return alpha.sqrt() * MEAN + noisy_std(alpha) * drawn


def largest_error(method: str, n_steps: int, speedup: int, **choices) -> float:
    start = noisy_start(n_steps)
    settings = SamplerSettings(method, speedup, **choices)
    result = remove_noise(start, exact_noise, SCHEDULE, n_steps=n_steps, settings=settings, noise=noise_of(0))
    return float((result - exact_result(start, n_steps)).abs().max())


# ------------------------------------------------------------------------------------------------- network


def test_full_size_has_the_tensors_and_the_values_of_the_original() -> None:
    with torch.device("meta"):
        one, many = (Unit2Mel(768, n_speakers, DenoiserSizes()).state_dict() for n_speakers in (1, 3))
    assert len(one) == 191 and set(many) - set(one) == {"spk_embed.weight"}
    assert sum(tensor.numel() for tensor in one.values()) == pytest.approx(55.2e6, rel=1e-3)
    shapes = {name: tuple(tensor.shape) for name, tensor in one.items()}
    assert shapes["decoder.denoise_fn.residual_layers.19.dilated_conv.weight"] == (1024, 512, 3)
    assert shapes["decoder.denoise_fn.mlp.0.weight"] == (2048, 512) and shapes["aug_shift_embed.weight"] == (
        256,
        1,
    )
    assert shapes["decoder.spec_min"] == (1, 1, 1) and shapes["decoder.posterior_mean_coef2"] == (1000,)


def test_schedule_has_the_known_values() -> None:
    alphas = linear_schedule(1000)["alphas_cumprod"]
    expected = {0: 0.9999, 99: 0.8970181457, 499: 0.0785872429, 999: 4.03582977e-5}
    for step, value in expected.items():
        assert float(alphas[step]) == pytest.approx(value, rel=1e-6)


def test_weights_of_another_size_are_refused_with_every_difference() -> None:
    other = Unit2Mel(5, 1, SIZES).state_dict()
    with pytest.raises(
        CheckpointError, match=r"1 differences: unit_embed.weight is \(5, 5\), expected \(5, 4\)"
    ):
        load_weights(small_model(), other)


def test_a_mix_of_speakers_interpolates_their_embeddings() -> None:
    model = Unit2Mel(4, 2, SIZES)
    inputs = torch.randn(1, 3, 4), torch.full((1, 3, 1), 200.0), torch.full((1, 3, 1), 0.1)
    first, second = (model.condition(*inputs, torch.tensor([[speaker]])) for speaker in (0, 1))
    weights = torch.tensor([[[1.0, 0.0], [0.25, 0.75], [0.0, 1.0]]])
    ratio = weights[..., 1:]
    torch.testing.assert_close(model.condition(*inputs, weights), first * (1 - ratio) + second * ratio)


def test_mel_range_is_normalised_and_back() -> None:
    mel = torch.linspace(-12, 2, 24).reshape(1, 4, 6)
    spec = SCHEDULE.normalise(mel)
    assert spec.shape == (1, 1, 6, 4) and float(spec.min()) == -1 and float(spec.max()) == 1
    torch.testing.assert_close(SCHEDULE.denormalise(spec), mel)


# ------------------------------------------------------------------------------------------------- samplers


@pytest.mark.parametrize("method", METHODS)
def test_more_evaluations_come_closer_to_the_exact_result(method: str) -> None:
    few, more, many = (largest_error(method, 100, 100 // evaluations) for evaluations in (5, 20, 50))
    assert few > more > many and many < 0.01


@pytest.mark.parametrize("method", [method for method in METHODS if method != "ddim"])
def test_solvers_of_second_order_beat_ddim_at_twenty_evaluations(method: str) -> None:
    assert largest_error(method, 100, 5) < 0.6 * largest_error("ddim", 100, 5)


@pytest.mark.parametrize("method", METHODS)
def test_ten_evaluations_of_a_shallow_start_are_close_to_fifty(method: str) -> None:
    """With the network instead of exact predictions; the reference takes every second of the 100 steps."""
    model = small_model()
    condition = torch.randn(1, 30, 5, generator=torch.Generator().manual_seed(2))
    mel = torch.linspace(-9, 0, 180).reshape(1, 30, 6)

    def run(speedup: int, chosen: str = method) -> Tensor:
        settings = SamplerSettings(chosen, speedup)
        return sample(model, condition, settings, start_mel=mel, k_step=100, noise=noise_of(3))

    plain = run(2, "dpm-solver++")
    coarsest = float((run(100, "ddim") - plain).abs().max())
    assert float((run(10) - plain).abs().max()) < 0.3 * coarsest
    assert float((run(4) - plain).abs().max()) < 0.15 * coarsest


def test_every_single_step_gives_the_distribution_of_the_data() -> None:
    settings = SamplerSettings(speedup=1)
    start = torch.randn(1, 1, 8, 2000, generator=torch.Generator().manual_seed(4))
    result = remove_noise(start, exact_noise, SCHEDULE, n_steps=1000, settings=settings, noise=noise_of(5))
    assert float(result.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(result.std()) == pytest.approx(STD, rel=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_fast_samplers_give_the_distribution_of_a_plain_run_of_1000_steps(method: str) -> None:
    start = torch.randn(1, 1, 8, 2000, generator=torch.Generator().manual_seed(4))
    settings = SamplerSettings(method, 5)
    result = remove_noise(start, exact_noise, SCHEDULE, n_steps=1000, settings=settings, noise=noise_of(5))
    assert float(result.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(result.std()) == pytest.approx(STD, rel=0.05)


def evaluated_steps(method: str, n_steps: int, **choices) -> list[float]:
    steps: list[float] = []

    def record(noisy: Tensor, step: float) -> Tensor:
        steps.append(step)
        return exact_noise(noisy, step)

    settings = SamplerSettings(method, 10, **choices)
    remove_noise(
        noisy_start(n_steps), record, SCHEDULE, n_steps=n_steps, settings=settings, noise=noise_of(0)
    )
    return steps


@pytest.mark.parametrize("method", METHODS)
def test_the_first_evaluation_is_at_the_actual_noise_step(method: str) -> None:
    steps = evaluated_steps(method, 100)
    assert steps[0] == 99 and steps == sorted(steps, reverse=True) and steps[-1] > 0


@pytest.mark.parametrize("method", ["ddim", "pndm"])
def test_starting_below_the_noise_level_as_the_original_does_is_optional(method: str) -> None:
    assert evaluated_steps(method, 100, from_below=True)[0] == 90


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("k_step", [1, 2, 3, 7, 15, 19, 33, 101])
def test_any_number_of_noise_steps_can_be_removed(method: str, k_step: int) -> None:
    """The original fails below twice the speedup with three of its samplers."""
    mel = torch.linspace(-9, 0, 180).reshape(1, 30, 6)
    model = small_model()
    condition = torch.zeros(1, 30, 5)
    result = sample(
        model, condition, SamplerSettings(method, 10), start_mel=mel, k_step=k_step, noise=noise_of(0)
    )
    assert result.shape == mel.shape and torch.isfinite(result).all()
    if k_step <= 3:
        assert float((result - mel).abs().mean()) < 0.5


def test_a_sampler_stays_at_the_noise_it_is_given() -> None:
    """If the data are one point, exact predictions leave only the noise of step 0."""

    def towards_the_mean(noisy: Tensor, step: float) -> Tensor:
        alpha = alpha_at(step)
        return (noisy - alpha.sqrt() * MEAN) / (1 - alpha).sqrt()

    alpha = alpha_at(49)
    drawn = torch.randn(1, 1, 6, 50, generator=torch.Generator().manual_seed(6))
    start = alpha.sqrt() * MEAN + (1 - alpha).sqrt() * drawn
    for method in METHODS:
        settings = SamplerSettings(method, 7)
        result = remove_noise(
            start, towards_the_mean, SCHEDULE, n_steps=50, settings=settings, noise=noise_of(0)
        )
        expected = alpha_at(0).sqrt() * MEAN + (1 - alpha_at(0)).sqrt() * drawn
        torch.testing.assert_close(result, expected, atol=2e-3, rtol=0)


def test_same_seed_same_mel_and_another_seed_another() -> None:
    model, condition = small_model(), torch.zeros(1, 20, 5)
    first, again, other = (
        sample(model, condition, SamplerSettings(), noise=noise_of(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


# ------------------------------------------------------------------------------------------------- refusals


def test_a_shallow_model_does_not_start_from_noise() -> None:
    with pytest.raises(DiffusionError, match="at most 100 of 1000 noise steps and cannot convert on its own"):
        sample(small_model(k_step_max=100), torch.zeros(1, 5, 5), SamplerSettings())
    assert check_steps(small_model(), None) == 1000


def test_more_noise_steps_than_were_trained_are_refused() -> None:
    for k_step in (101, 0, -1):
        with pytest.raises(
            DiffusionError, match=rf"k_step \(-ks\) is {k_step}: this diffusion model removes 1 to 100"
        ):
            check_steps(small_model(k_step_max=100), k_step)


def test_unknown_samplers_are_refused_with_the_known_ones() -> None:
    with pytest.raises(DiffusionError, match=r"'euler' is not known: choose one of ddim, pndm"):
        SamplerSettings("euler")
    with pytest.raises(DiffusionError, match="speedup is 0"):
        SamplerSettings(speedup=0)


def test_without_the_library_the_extra_is_named_and_the_plain_run_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    model, condition = small_model(), torch.zeros(1, 5, 5)
    with pytest.raises(MissingExtra, match=r"pip install \"svcnb\[diffusion\]\""):
        sample(model, condition, SamplerSettings())
    mel = torch.full((1, 5, 6), -6.0)
    assert sample(model, condition, SamplerSettings(speedup=1), start_mel=mel, k_step=5).shape == mel.shape
