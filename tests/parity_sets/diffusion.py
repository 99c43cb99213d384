"""Shallow diffusion: the denoiser, its condition, the schedule and the samplers of so-vits-svc 4.1's Unit2Mel."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from svcnb.files.checkpoint import load_weights, read_checkpoint
from svcnb.models.diffusion.network import DenoiserSizes, Unit2Mel, linear_schedule
from svcnb.models.diffusion.sampler import SamplerSettings, sample
from svcnb.nn.layers import Noise
from tests.parity_sets.registry import ReferenceSet, Row, check

RELATIVE_ABOVE = 100.0  # full runs diverge with random weights; those are compared relative to their maximum


class StoredNoise(Noise):
    """Every draw is the recorded one."""

    def __init__(self, noise: Tensor) -> None:
        super().__init__(torch.Generator())
        self.noise = noise

    def normal(self, shape: tuple[int, ...], *, like: Tensor) -> Tensor:
        return self.noise.expand(shape)


@check("diffusion")
@torch.no_grad()
def check_diffusion(reference: ReferenceSet) -> Iterator[Row]:
    """Every array of the set."""
    model = build(reference)
    yield from _key_rows(model, reference)
    tolerance = reference.tolerance("abs")
    inputs = [reference.tensor(f"in/{name}") for name in ("units", "f0", "volume")]
    inputs.append(
        reference.tensor("in/spk_id") if reference.has("in/spk_id") else torch.zeros(1, 1, dtype=torch.long)
    )
    condition = model.condition(*inputs, shift_semitones=None)
    noise = reference.tensor("in/noise")
    yield reference.compare("cond", condition, tolerance)
    for name in reference.arrays:
        if found := re.fullmatch(r"cond_aug_shift(-?[\d.]+)", name):
            shift = torch.full((1, 1, 1), float(found[1]))
            yield reference.compare(name, model.condition(*inputs, shift_semitones=shift), tolerance)
        if found := re.fullmatch(r"denoise_t(\d+)", name):
            ours = model.decoder.denoise_fn(noise, torch.tensor([int(found[1])]), condition.transpose(1, 2))
            yield compare_sized(reference, name, ours, tolerance)
        if name.startswith("buffers/"):
            yield from _schedule_rows(reference, name, model, tolerance)
    yield from _noise_rows(reference, model, condition, tolerance)
    yield from _sample_rows(reference, model, condition, tolerance)


def build(reference: ReferenceSet) -> Unit2Mel:
    """The network with the set's sizes, and with the stored weights or those of the formula."""
    given = dict(reference.meta["kwargs"])
    sizes = DenoiserSizes(
        given.pop("out_dims"), *(given.pop(name) for name in ("n_layers", "n_chans", "n_hidden"))
    )
    model = Unit2Mel(given.pop("input_channel"), given.pop("n_spk"), sizes, **given).eval()
    stored = sorted(reference.folder.glob("model_*.pt"))
    if stored:
        load_weights(model, read_checkpoint(stored[-1])["model"])
    else:
        fixed = [f"decoder.{name}" for name in (*linear_schedule(2), "spec_min", "spec_max")]
        shapes = {name: shape for name, shape in reference.keys.items() if name not in fixed}
        load_weights(model, reference.weights(shapes), may_miss=tuple(fixed))
    return model


def _key_rows(model: Unit2Mel, reference: ReferenceSet) -> Iterator[Row]:
    ours = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    differing = sorted(set(ours.items()) ^ set(reference.keys.items()))
    yield Row(
        "keys.txt",
        float(len(differing)),
        0.0,
        note="; ".join(f"{name} {shape}" for name, shape in differing[:4]),
    )


def compare_sized(reference: ReferenceSet, name: str, ours: Tensor, tolerance: float) -> Row:
    """Absolute deviation; for arrays with large values relative to the largest one."""
    largest = float(np.abs(reference.arrays[name]).max())
    if largest <= RELATIVE_ABOVE or tuple(ours.shape) != reference.arrays[name].shape:
        return reference.compare(name, ours, tolerance)
    reference.compared.add(name)
    gap = (ours - reference.tensor(name)).abs().max().item() / largest
    return Row(name, gap, tolerance, True, f"of the largest value, {largest:.3g}")


def _schedule_rows(reference: ReferenceSet, name: str, model: Unit2Mel, tolerance: float) -> Iterator[Row]:
    wanted = name.removeprefix("buffers/")
    computed = linear_schedule(model.decoder.timesteps)[wanted]
    yield reference.compare(name, computed, tolerance, note="computed")
    yield reference.compare(name, getattr(model.decoder, wanted), tolerance, note="in the network")


def _noise_rows(
    reference: ReferenceSet, model: Unit2Mel, condition: Tensor, tolerance: float
) -> Iterator[Row]:
    decoder, noise = model.decoder, reference.tensor("in/noise")
    spec = decoder.normalise(reference.tensor("in/gt_spec"))
    for name in reference.arrays:
        if found := re.fullmatch(r"q_sample_t(\d+)", name):
            yield reference.compare(
                name, decoder.add_noise(spec, torch.tensor([int(found[1])]), noise), tolerance
            )
        if found := re.fullmatch(r"loss_t(\d+)", name):
            step = torch.tensor([int(found[1])])
            predicted = decoder.denoise_fn(
                decoder.add_noise(spec, step, noise), step, condition.transpose(1, 2)
            )
            yield compare_sized(reference, name, (predicted - noise).square().mean(), tolerance)


def _sample_rows(
    reference: ReferenceSet, model: Unit2Mel, condition: Tensor, tolerance: float
) -> Iterator[Row]:
    for name in reference.arrays:
        found = re.fullmatch(r"sample/(\S+)_k(\d+)_speedup(\d+)_(shallow|full)", name)
        if not found:
            continue
        settings = SamplerSettings(found[1], int(found[3]), from_below=True)
        start = (
            {"start_mel": reference.tensor("in/gt_spec"), "k_step": int(found[2])}
            if found[4] == "shallow"
            else {}
        )
        ours = sample(model, condition, settings, noise=StoredNoise(reference.tensor("in/noise")), **start)
        yield compare_sized(reference, name, ours, tolerance)
