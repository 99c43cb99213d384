"""Checks of RVC's networks, its discriminators, and the losses and gradients of its training step."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import Tensor

from svcnb.files.checkpoint import load_weights, to_plain_names
from svcnb.models.rvc.checkpoint import read_small_model
from svcnb.models.rvc.config import Config
from svcnb.models.rvc.network import RvcSynthesizer
from svcnb.models.rvc.step import Networks as RvcNetworks
from svcnb.models.rvc.step import RvcBatch, StepParts, build, run_generator
from svcnb.training.losses import (
    GeneratorPass,
    adversarial_terms,
    discriminator_term,
    loss_weight,
    variational_terms,
)
from tests.parity_sets.gradients import gradient_rows
from tests.parity_sets.registry import ReferenceSet, Row, check
from tests.parity_sets.sovits_training import summarise, total_norm
from tests.parity_sets.voices import RecordedNoise, formula_weights, key_rows, recording_threads

NOISY = re.compile(r"infer/o_noise_p_([\d.]+)")
PART = re.compile(r"infer/o_skip(\d+)_len(\d+)")


def read_config(reference: ReferenceSet) -> Config:
    """The set's config; RVC's own sizes if it has no config file."""
    version, f0 = reference.meta["version"], bool(reference.meta["f0"])
    path = reference.folder / "config.json"
    return (
        Config.load(path, version=version, f0=f0)
        if path.is_file()
        else Config.full(version, reference.meta["sample_rate"], f0=f0)
    )


def build_rvc(reference: ReferenceSet) -> RvcNetworks:
    """The set's networks in eval mode, with the formula's weights."""
    networks = build(read_config(reference))
    load_weights(networks.generator, formula_weights(networks.generator, reference))
    load_weights(networks.discriminator, formula_weights(networks.discriminator, reference, prefix="disc:"))
    networks.generator.eval()
    networks.discriminator.eval()
    return networks


@torch.no_grad()
def inference_rows(model: RvcSynthesizer, reference: ReferenceSet) -> Iterator[Row]:
    latent, waveform = reference.tolerance("latent_abs"), reference.tolerance("waveform_abs")
    with_f0 = model.settings.with_f0
    phone, speaker = reference.tensor("in/infer_phone"), reference.tensor("in/infer_sid")
    pitch, f0 = (reference.tensor(f"in/infer_{name}") if with_f0 else None for name in ("pitch", "pitchf"))
    inputs, g = (phone, pitch, f0, speaker), model.embed_speaker(speaker)
    out = model.infer(*inputs, noise=RecordedNoise())
    values = {
        "m_p": out.m_p,
        "logs_p": out.logs_p,
        "z": out.z,
        "z_roundtrip_zp": model.flow(out.z, out.mask, g),
    }
    for name, value in values.items():
        if reference.has(f"infer/{name}"):
            yield reference.compare(f"infer/{name}", value, latent)
    if reference.has("dec/har_source"):
        source = model.dec.m_source(f0, model.hop_samples, RecordedNoise()).transpose(1, 2)
        yield reference.compare("dec/har_source", source, waveform)
    given_z = reference.tensor("infer/z") if reference.has("infer/z") else out.z
    yield reference.compare("dec/o_given_z", model.dec(given_z, f0, g, noise=RecordedNoise()), waveform)
    yield reference.compare("infer/o", out.audio, waveform)
    for name in reference.arrays:
        if noisy := NOISY.fullmatch(name):
            noise = RecordedNoise(reference.tensor("in/noise_p"))
            yield reference.compare(
                name, model.infer(*inputs, noise_scale=float(noisy[1]), noise=noise).audio, waveform
            )
        elif part := PART.fullmatch(name):
            window = {"skip_frames": int(part[1]), "n_frames": int(part[2])}
            partial = model.infer(*inputs, noise=RecordedNoise(), **window)
            yield reference.compare(name, partial.audio, waveform)


def read_batch(reference: ReferenceSet, *, with_f0: bool) -> RvcBatch:
    stored = reference.tensor
    return RvcBatch(
        content=stored("in/train_phone"),
        audio=stored("in/train_y"),
        speaker=stored("in/train_spk"),
        lengths=stored("in/train_lengths"),
        coarse=stored("in/train_pitch") if with_f0 else None,
        f0_hz=stored("in/train_pitchf") if with_f0 else None,
        spec=stored("in/train_spec"),
    )


def output_rows(result: GeneratorPass, reference: ReferenceSet) -> Iterator[Row]:
    latent, waveform = reference.tolerance("latent_abs"), reference.tolerance("waveform_abs")
    for name in ("z", "z_p", "m_p", "logs_p", "m_q", "logs_q", "mask"):
        yield reference.compare(f"train0/{name}", getattr(result.out, name), latent)
    yield reference.compare("train0/y_mel", result.target_mel, waveform)
    yield reference.compare("train0/y_hat_mel", result.fake_mel, waveform)
    yield reference.compare("train0/y_hat", result.out.audio, waveform)
    yield reference.compare("train0/ids_slice", result.out.slice_start, 0.0)


@torch.no_grad()
def discriminator_rows(
    networks: RvcNetworks, result: GeneratorPass, reference: ReferenceSet
) -> Iterator[Row]:
    latent = reference.tolerance("latent_abs")
    for label, waveform in (("real", result.target_audio), ("gen", result.out.audio)):
        for i, (scores, maps) in enumerate(zip(*networks.discriminator(waveform), strict=True)):
            yield reference.compare(f"disc/{i}_{label}", scores, latent)
            yield reference.compare(f"disc/{i}_fmap_{label}_summary", [summarise(m) for m in maps], latent)


def training_rows(networks: RvcNetworks, reference: ReferenceSet) -> Iterator[Row]:
    config, model = read_config(reference), networks.generator
    batch = read_batch(reference, with_f0=config.f0)

    def generate() -> GeneratorPass:
        return run_generator(
            model, batch, StepParts(config, noise=RecordedNoise(reference.tensor("in/noise_q")))
        )

    def weighted_terms(result: GeneratorPass) -> dict[str, Tensor]:
        terms = variational_terms(result, config.train) | adversarial_terms(networks.discriminator, result)
        return {name: loss_weight(name, config.train) * loss for name, loss in terms.items()}

    result = generate()
    yield from output_rows(result, reference)
    yield from discriminator_rows(networks, result, reference)
    weighted = weighted_terms(result)
    for name, loss in {"disc": discriminator_term(networks.discriminator, result), **weighted}.items():
        tolerance = reference.tolerance("loss_rtol")
        yield reference.compare(f"train0/loss_{name}", loss.double(), tolerance, relative=True)
    yield from gradient_rows(
        model, sum(weighted.values()), lambda: sum(weighted_terms(generate()).values()), reference
    )
    yield reference.compare(
        "train0/grad_norm_g", total_norm(model), reference.tolerance("grad_norm_rtol"), relative=True
    )


def small_model_rows(model: RvcSynthesizer, reference: ReferenceSet) -> Iterator[Row]:
    """The small model, if the set has one: its weights and its config compared with ours."""
    own = {name: value.half().float() for name, value in to_plain_names(model.state_dict()).items()}
    for path in sorted(reference.folder.glob("*.pth")):
        stored = read_small_model(path)
        gaps = [float((stored.weights[name].float() - own[name]).abs().max()) for name in stored.weights]
        lacking = [name for name in own if "enc_q" not in name and name not in stored.weights]
        yield Row(path.name, max(gaps) + len(lacking), 0.0, note=", ".join(lacking[:3]))
        wrong = [
            a
            for a, b in zip(stored.config.to_list(), read_config(reference).to_list(), strict=True)
            if a != b
        ]
        yield Row(f"{path.name} config", float(len(wrong)), 0.0, note=", ".join(map(str, wrong)))


@check("rvc")
def check_rvc(reference: ReferenceSet) -> Iterator[Row]:
    with recording_threads():
        networks = build_rvc(reference)
        yield from key_rows(networks.generator, reference)
        yield from small_model_rows(networks.generator, reference)
        yield from inference_rows(networks.generator, reference)
        if reference.has("in/train_phone"):
            yield from training_rows(networks, reference)
