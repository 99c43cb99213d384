"""Checks of so-vits-svc's inference, the fork's output and the NSF-HiFiGAN mel vocoder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from svcnb.files.checkpoint import load_weights, read_checkpoint
from svcnb.models.sovits.network import InferOutput, PriorOutput, SynthesizerTrn
from svcnb.models.vocoder.network import Vocoder, VocoderSettings
from svcnb.nn.layers import Noise, center_log_f0, f0_to_coarse, f0_to_log, fold_weight_norm, log_to_f0
from tests.parity_sets.pitch import fork_pitch_rows
from tests.parity_sets.registry import ReferenceSet, Row, check, difference, find_set
from tests.parity_sets.sovits_training import training_rows
from tests.parity_sets.voices import (
    RecordedNoise,
    build_generator,
    formula_weights,
    has_predictor,
    key_rows,
    recording_threads,
)


class InferenceRun:
    """All values that are compared under infer/ and dec/, computed on demand."""

    def __init__(self, model: SynthesizerTrn, reference: ReferenceSet) -> None:
        self.model, self.reference = model, reference
        self.content, self.f0 = reference.tensor("in/infer_c"), reference.tensor("in/infer_f0")
        self.voiced, self.speaker = reference.tensor("in/infer_uv"), reference.tensor("in/infer_sid")
        self.volume = reference.tensor("in/infer_vol") if reference.has("in/infer_vol") else None

    def infer(
        self,
        *,
        zeros: bool = False,
        predict: bool = False,
        mix: bool = False,
        noise_scale: float = 0.4,
        noise: Noise | None = None,
    ) -> InferOutput:
        return self.model.infer(
            self.content,
            self.reference.tensor("in/infer_f0_zeros") if zeros else self.f0,
            self.voiced,
            self.reference.tensor("in/mix_T_by_spk") if mix else self.speaker,
            volume=self.volume,
            noise_scale=noise_scale,
            predict_f0=predict,
            noise=noise or RecordedNoise(),
        )

    @cached_property
    def g(self) -> Tensor:
        return self.model.embed_speaker(self.speaker)

    @cached_property
    def prior(self) -> PriorOutput:
        return self.model.prior(self.content, self.f0, self.voiced, volume=self.volume)

    @cached_property
    def norm_lf0(self) -> Tensor:
        return center_log_f0(f0_to_log(self.f0).unsqueeze(1), self.voiced, self.prior.mask)

    @cached_property
    def pred_lf0(self) -> Tensor:
        return self.model.predict_log_f0(self.prior.x, self.f0, self.voiced, self.prior.mask, self.g)[0]

    @cached_property
    def z(self) -> Tensor:
        return self.model.flow(self.prior.m_p, self.prior.mask, self.g, reverse=True)

    @cached_property
    def predicted(self) -> InferOutput:
        return self.infer(predict=has_predictor(self.model))  # the original ignores the option without one

    def decode(self, *, zeros: bool = False, phase_dtype: torch.dtype = torch.float32) -> Tensor:
        z = self.reference.tensor("infer/z") if self.reference.has("infer/z") else self.z
        f0 = self.reference.tensor("in/infer_f0_zeros") if zeros else self.f0
        self.model.dec.m_source.phase_dtype = phase_dtype
        audio = self.model.dec(z, f0, self.g, noise=RecordedNoise())
        self.model.dec.m_source.phase_dtype = torch.float32
        return audio

    def source(self, f0: Tensor) -> Tensor:
        return self.model.dec.m_source(f0, self.model.hop_samples, RecordedNoise()).transpose(1, 2)

    def sines(self, f0: Tensor, n: int) -> Tensor:
        return self.model.dec.m_source.sines(f0, self.model.hop_samples, RecordedNoise())[:, :n]

    def with_prior_noise(self, noise_scale: float) -> Tensor:
        noise = RecordedNoise(self.reference.tensor("in/noise_p"))
        return self.infer(noise_scale=noise_scale, noise=noise).audio


# name -> our value, tolerance key, relative
LATENTS: dict[str, Callable[[InferenceRun], Tensor]] = {
    "infer/g": lambda run: run.g,
    "infer/x_pre": lambda run: run.prior.x,
    "infer/lf0": lambda run: f0_to_log(run.f0).unsqueeze(1),
    "infer/norm_lf0": lambda run: run.norm_lf0,
    "infer/pred_lf0": lambda run: run.pred_lf0,
    "infer/m_p": lambda run: run.prior.m_p,
    "infer/logs_p": lambda run: run.prior.logs_p,
    "infer/z": lambda run: run.z,
    "infer/z_roundtrip_zp": lambda run: run.model.flow(run.z, run.prior.mask, run.g),
}
PITCHES: dict[str, Callable[[InferenceRun], Tensor]] = {
    "infer/pred_f0": lambda run: log_to_f0(run.pred_lf0).squeeze(1),
    "infer/f0_autof0": lambda run: run.predicted.f0_hz,
}
WAVEFORMS: dict[str, Callable[[InferenceRun], Tensor]] = {
    "infer/o": lambda run: run.infer().audio,
    "infer/o_f0zeros": lambda run: run.infer(zeros=True).audio,
    "infer/o_autof0": lambda run: run.predicted.audio,
    "infer/o_spkmix": lambda run: run.infer(mix=True).audio,
    "dec/o_given_z": lambda run: run.decode(),
    "dec/o_given_z_f0zeros": lambda run: run.decode(zeros=True),
    "dec/o_given_z_sine64": lambda run: run.decode(phase_dtype=torch.float64),
    "dec/o_given_z_f0zeros_sine64": lambda run: run.decode(zeros=True, phase_dtype=torch.float64),
    "dec/har_source": lambda run: run.source(run.f0),
    "dec/har_source_f0zeros": lambda run: run.source(run.reference.tensor("in/infer_f0_zeros")),
}
NOISY = re.compile(r"infer/o_noise_p_([\d.]+)")
SINES = re.compile(r"dec/sine_waves(_f0zeros)?_first(\d+)")


@torch.no_grad()
def inference_rows(model: SynthesizerTrn, reference: ReferenceSet) -> Iterator[Row]:
    if not reference.has("in/infer_c"):
        return
    run = InferenceRun(model, reference)
    latent, waveform = reference.tolerance("latent_abs"), reference.tolerance("waveform_abs")
    for name in reference.arrays:
        if name in LATENTS:
            yield reference.compare(name, LATENTS[name](run), latent)
        elif name in PITCHES:  # f0 in Hz is as exact as the log f0 it is computed from
            yield reference.compare(name, PITCHES[name](run), latent, relative=True)
        elif name in WAVEFORMS:
            yield reference.compare(name, WAVEFORMS[name](run), waveform)
        elif name == "infer/f0_coarse":
            yield reference.compare(name, f0_to_coarse(run.f0, version=model.version), 0.0)
        elif noisy := NOISY.fullmatch(name):
            yield reference.compare(name, run.with_prior_noise(float(noisy[1])), waveform)
        elif sines := SINES.fullmatch(name):
            f0 = reference.tensor("in/infer_f0_zeros") if sines[1] else run.f0
            yield reference.compare(name, run.sines(f0, int(sines[2])), waveform)


@check("so-vits")
def check_sovits(reference: ReferenceSet) -> Iterator[Row]:
    with recording_threads():
        model = build_generator(reference)
        yield from key_rows(model, reference)
        yield from inference_rows(model, reference)
        yield from training_rows(model, reference)


# ---------------------------------------------------------------- the fork, the vocoder


def fork_voice_rows(reference: ReferenceSet) -> Iterator[Row]:
    """The fork's output with weights and inputs of other sets, whose own `infer/o` is the same audio."""
    tolerance = reference.tolerance("end_to_end_abs")
    for name in [name for name in reference.arrays if name.endswith("/fork_o")]:
        fork = reference.arrays[name]

        def same_audio(other: ReferenceSet, name: str = name, fork: np.ndarray = fork) -> bool:
            return other.has("infer/o") and difference(name, other.tensor("infer/o"), fork, 0.01).passed

        twin = find_set(reference, "so-vits", same_audio)
        if twin is None:
            yield Row(name, float("inf"), tolerance, note="no so-vits set with this audio beside it")
            continue
        run = InferenceRun(build_generator(twin), twin)
        yield reference.compare(name, run.infer().audio, tolerance)
        if reference.has(f"{name}_autof0"):
            yield reference.compare(f"{name}_autof0", run.predicted.audio, tolerance)


@check("so-vits-fork")
def check_fork(reference: ReferenceSet) -> Iterator[Row]:
    with recording_threads():
        yield from fork_voice_rows(reference)
    yield from fork_pitch_rows(reference)


@check("nsf-hifigan")
@torch.no_grad()
def check_vocoder(reference: ReferenceSet) -> Iterator[Row]:
    vocoder = Vocoder(VocoderSettings.from_config(reference.config)).eval()
    if (reference.folder / "model").is_file():
        state = read_checkpoint(reference.folder / "model")["generator"]
    else:
        state = formula_weights(vocoder.generator, reference)
    load_weights(vocoder.generator, state)
    yield from key_rows(vocoder.generator, reference)
    mel, f0 = reference.tensor("in/mel"), reference.tensor("in/f0")
    source = vocoder.generator.m_source(f0, vocoder.settings.hop_size, RecordedNoise()).transpose(1, 2)
    audio = vocoder(mel, f0, noise=RecordedNoise())
    fold_weight_norm(vocoder.generator)
    folded = vocoder(mel, f0, noise=RecordedNoise())
    for name, value in (("har_source", source), ("o", audio), ("o_no_weight_norm", folded)):
        if reference.has(name):
            yield reference.compare(name, value, reference.tolerance("waveform_abs"))
