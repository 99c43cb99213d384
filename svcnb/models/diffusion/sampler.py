"""Sampling of mel spectra: the start step, the sequence of noise steps, and the solvers of diffusers.

Sampling evaluates the network at a few of the trained noise steps, from the start step down to step 0. The
sequence is chosen here, as in the original programs; the solvers between two steps are diffusers' schedulers.
All of them use the schedule stored in the checkpoint. Only DDPM over every step is implemented here, since
the scheduler of diffusers draws its own random numbers, and a run must be repeatable.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from svcnb import MissingExtra, SvcError
from svcnb.models.diffusion.network import GaussianDiffusion, Unit2Mel
from svcnb.nn.layers import Noise

Method = Literal["ddim", "pndm", "dpm-solver", "dpm-solver++", "unipc"]
METHODS: tuple[str, ...] = get_args(Method)
FEWEST_STEPS = 2  # the solvers of second order need one step to begin and one to use it
LOW_ORDER_BELOW_STEPS = 10  # with fewer steps the last one of a DPM-Solver is of first order


class DiffusionError(SvcError):
    """This diffusion model does not support the request."""


@dataclass(frozen=True)
class SamplerSettings:
    """Settings of the sampler.

    Attributes:
        method: one of METHODS; with a speedup of 1 every step is taken (DDPM), whatever the method.
        speedup: number of trained noise steps per network evaluation.
        from_below: ddim and pndm start up to `speedup` steps below the actual noise level, as the original
            programs do; the difference remains as noise in the result.
    """

    method: Method = "dpm-solver++"
    speedup: int = 10
    from_below: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise DiffusionError(f"sampler {self.method!r} is not known: choose one of {', '.join(METHODS)}")
        if self.speedup < 1:
            raise DiffusionError(f"the sampler's speedup is {self.speedup}: expected 1 (every step) or more")


PredictNoise = Callable[[Tensor, float], Tensor]
# scheduler, and the noise steps at which the network is evaluated, first to last
Plan = tuple[Any, list[float]]


def check_steps(model: Unit2Mel, k_step: int | None) -> int:
    """The number of noise steps to remove, if the model was trained for them; None: all, from noise alone.

    Raises:
        DiffusionError: more steps than it was trained for, or a shallow model that would start from noise.
    """
    learned, all_steps = model.k_step_max, model.decoder.timesteps
    if k_step is None:
        if not model.is_full:
            raise DiffusionError(
                f"this diffusion model is a shallow one: it removes at most {learned} of {all_steps} noise steps and "
                "cannot convert on its own. Use it as shallow diffusion (-shd), or train one with k_step_max 0"
            )
        return all_steps
    if not 1 <= k_step <= learned:
        raise DiffusionError(
            f"k_step (-ks) is {k_step}: this diffusion model removes 1 to {learned} noise steps"
        )
    return k_step


@torch.inference_mode()
def sample(
    model: Unit2Mel,
    condition: Tensor,
    settings: SamplerSettings,
    *,
    start_mel: Tensor | None = None,
    k_step: int | None = None,
    noise: Noise | None = None,
) -> Tensor:
    """Sample a log mel spectrum for a condition.

    Args:
        condition: [B, N, H], see Unit2Mel.condition.
        start_mel: log mel [B, N, M], to which `k_step` noise steps are added first; None: noise alone.
        k_step: noise steps to remove; None: all that the model was trained for.
        noise: source of random numbers.

    Returns:
        log mel [B, N, M].

    Raises:
        DiffusionError: as check_steps. MissingExtra: diffusers is not installed.
    """
    decoder, noise = model.decoder, noise or Noise()
    n_steps = check_steps(model, None if start_mel is None else k_step or model.k_step_max)
    n_mels = decoder.denoise_fn.output_projection.out_channels
    drawn = noise.normal((len(condition), 1, n_mels, condition.shape[1]), like=condition)
    x = drawn
    if start_mel is not None:
        last = torch.full((len(condition),), n_steps - 1, device=condition.device)
        x = decoder.add_noise(decoder.normalise(start_mel), last, drawn)
    cond = condition.transpose(1, 2)  # [B, H, N]

    def predict_noise(noisy: Tensor, step: float) -> Tensor:
        return decoder.denoise_fn(noisy, torch.full((len(noisy),), step, device=noisy.device), cond)

    return decoder.denormalise(
        remove_noise(x, predict_noise, decoder, n_steps=n_steps, settings=settings, noise=noise)
    )


def remove_noise(
    x: Tensor,
    predict_noise: PredictNoise,
    schedule: GaussianDiffusion,
    *,
    n_steps: int,
    settings: SamplerSettings,
    noise: Noise,
) -> Tensor:
    """Denoise `x` from noise step `n_steps - 1` to step 0.

    Args:
        predict_noise: returns the noise in a tensor like `x` at a noise step (an integer for ddim and pndm).
        schedule: the noise schedule; its denoiser is not used.
    """
    n_evaluations = max(FEWEST_STEPS, n_steps // settings.speedup)
    if settings.speedup == 1 or n_evaluations >= n_steps:
        return _take_every_step(x, predict_noise, schedule, n_steps=n_steps, noise=noise)
    if settings.method in ("ddim", "pndm"):
        scheduler, steps = _plan_whole_steps(schedule, n_steps, settings)
    else:
        scheduler, steps = _plan_even_steps(schedule, n_steps, n_evaluations, settings.method)
    for timestep, step in zip(scheduler.timesteps, steps, strict=True):
        x = scheduler.step(predict_noise(x, step), timestep, x).prev_sample
    return x


def _take_every_step(
    x: Tensor, predict_noise: PredictNoise, schedule: GaussianDiffusion, *, n_steps: int, noise: Noise
) -> Tensor:
    """DDPM (Ho et al. 2020, algorithm 2), with the predicted x0 clipped to the range of the training data."""
    for step in range(n_steps - 1, -1, -1):
        predicted = predict_noise(x, float(step))
        noise_part = schedule.sqrt_recipm1_alphas_cumprod[step] * predicted
        x0 = schedule.sqrt_recip_alphas_cumprod[step] * x - noise_part
        x = schedule.posterior_mean_coef1[step] * x0.clamp(-1, 1) + schedule.posterior_mean_coef2[step] * x
        if step:
            deviation = (0.5 * schedule.posterior_log_variance_clipped[step]).exp()
            x = x + deviation * noise.normal(x.shape, like=x)
    return x


def _plan_whole_steps(schedule: GaussianDiffusion, n_steps: int, settings: SamplerSettings) -> Plan:
    """DDIM and PNDM: every `stride`-th of the trained steps, down to step 0.

    The schedulers compute the stride as trained steps / evaluations; the numbers below yield `stride`.
    """
    stride = min(settings.speedup, math.ceil(n_steps / FEWEST_STEPS))
    steps = list(range(n_steps - 1, 0, -stride))  # without step 0, which is the result of the last one
    if settings.from_below:
        steps = list(range(0, n_steps, stride))[::-1]
    options = {"set_alpha_to_one": False}
    options |= {"clip_sample": False} if settings.method == "ddim" else {"skip_prk_steps": True}
    scheduler = _make(
        "DDIMScheduler" if settings.method == "ddim" else "PNDMScheduler", schedule, stride, **options
    )
    scheduler.set_timesteps(1)
    if settings.method == "pndm" and len(steps) > 1:
        steps.insert(1, steps[1])  # its first step is taken twice: a trial, then with the mean of both slopes
    scheduler.timesteps = torch.tensor(steps)
    return scheduler, [float(step) for step in steps]


def _plan_even_steps(schedule: GaussianDiffusion, n_steps: int, n_evaluations: int, method: str) -> Plan:
    """DPM-Solver(++) and UniPC: evenly spaced, possibly fractional steps, as the original's time variable.

    The schedulers round steps to integers; their tables are replaced by interpolated noise levels.
    """
    low_order_last = method == "unipc" or n_evaluations < LOW_ORDER_BELOW_STEPS
    options = {"solver_order": 2, "lower_order_final": low_order_last, "final_sigmas_type": "sigma_min"}
    if method == "unipc":
        options |= {"solver_type": "bh2", "predict_x0": True}
    else:
        options |= {"solver_type": "midpoint", "algorithm_type": method.replace("-", "")}
    name = "UniPCMultistepScheduler" if method == "unipc" else "DPMSolverMultistepScheduler"
    scheduler = _make(name, schedule, n_steps, **options)
    scheduler.set_timesteps(n_evaluations)
    steps = np.linspace(n_steps - 1, 0, n_evaluations + 1)
    log_alphas = 0.5 * schedule.alphas_cumprod[:n_steps].double().log().cpu().numpy()
    alphas = np.exp(np.interp(steps, np.arange(n_steps), log_alphas))
    scheduler.sigmas = torch.from_numpy(np.sqrt(1 - alphas**2) / alphas).float()
    scheduler.timesteps = torch.from_numpy(steps[:-1])
    scheduler.set_begin_index(0)
    return scheduler, steps[:-1].tolist()


def _make(name: str, schedule: GaussianDiffusion, n_trained_steps: int, **options: Any) -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise MissingExtra('diffusion needs diffusers: pip install "svcnb[diffusion]"') from error
    # DPM-Solver and UniPC derive their number of steps from the noise variances, the others take an argument.
    length = n_trained_steps if "Multistep" in name else len(schedule.betas)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # dpm-solver is deprecated in diffusers
        scheduler = getattr(diffusers, name)(
            num_train_timesteps=n_trained_steps,
            trained_betas=schedule.betas[:length].cpu().numpy(),
            **options,
        )
    scheduler.alphas_cumprod = schedule.alphas_cumprod[:length].cpu().float()
    scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
    return scheduler
