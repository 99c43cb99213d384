"""Whole conversions compared with the original program's: our voice, with the original's timing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from svcnb.audio.audio import read_audio
from svcnb.audio.spectral import SincResample
from svcnb.conversion.settings import ConversionSettings
from svcnb.features.content.encoders import align_to_frames
from svcnb.features.pitch.estimator import PitchEstimator
from svcnb.models.sovits.config import Config
from svcnb.models.sovits.voice import Voice
from tests.parity_sets import formula
from tests.parity_sets.registry import ReferenceSet, Row, find_set
from tests.parity_sets.sovits import RecordedNoise, build_generator

SPEAKER = 1
CASES = {
    "a": {},
    "b": {"clip_seconds": 1.5, "crossfade_seconds": 0.25},
    "c": {"clip_seconds": 1.5, "crossfade_seconds": 0.25, "crossfade_keep_ratio": 1.0},
    "d": {"auto_predict_f0": True},
    "e": {"transpose_semitones": 7, "loudness_envelope_ratio": 0.5},
}


class ToyEncoder:
    """The content encoder of the recordings: frames of 25 ms times a random matrix."""

    name, width, hop_samples = "toy", 768, 320

    def __init__(self) -> None:
        self.matrix = formula.gauss(1, "toyenc", (768, 400)) / 20

    def for_recording(self, samples_16k: np.ndarray) -> ToyEncoder:
        return self

    def encode(self, samples_16k: np.ndarray) -> Tensor:
        """float [T] at 16 kHz -> float32 [N, 768]."""
        frames = np.lib.stride_tricks.sliding_window_view(np.asarray(samples_16k), 400)[:: self.hop_samples]
        return torch.from_numpy((10 * frames) @ self.matrix.T)


class WithoutNoise(nn.Module):
    """The generator with zeros as noise, as in the recordings."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def infer(self, *inputs: Tensor, **choices):
        return self.generator.infer(*inputs, **choices | {"noise": RecordedNoise()})


def end_to_end_rows(reference: ReferenceSet) -> Iterator[Row]:
    """One row per e2e/* array; none if the set has no such arrays, a failed one if its network is missing."""
    if not any(name.startswith("e2e/") for name in reference.arrays):
        return
    yield from _unit_rows(reference)
    voice = _find_voice(reference)
    if voice is None:
        yield Row(
            "e2e/*", float("inf"), 0.0, note="the so-vits set that this one depends on is not beside it"
        )
        return
    for tag in CASES:
        if reference.has(f"e2e/{tag}"):
            yield from _case_rows(reference, voice, tag)


def _case_rows(reference: ReferenceSet, voice: Voice, tag: str) -> list[Row]:
    tolerance = reference.tolerance("end_to_end_abs")
    settings = ConversionSettings(
        speaker=SPEAKER, f0_method=reference.meta["end_to_end_f0"], like_original=True, **CASES[tag]
    )
    ours = voice.convert(read_audio(reference.folder / "e2e_in.wav"), settings).samples
    rows = [reference.compare(f"e2e/{tag}", ours[: len(reference.arrays[f"e2e/{tag}"])], tolerance)]
    if reference.has(f"e2e/{tag}_len_rms"):
        whole = np.array([len(ours), np.sqrt(np.mean(ours.astype(np.float64) ** 2))])
        rows.append(reference.compare(f"e2e/{tag}_len_rms", whole, tolerance))
    return rows


def _find_voice(reference: ReferenceSet) -> Voice | None:
    """The network that made the recordings; if several sets fit the description, the one that agrees."""
    candidates: list[ReferenceSet] = []
    find_set(
        reference, "so-vits", lambda other: _may_be_the_network(other, reference) and candidates.append(other)
    )
    voices = [
        Voice(Config.model_validate(other.config), WithoutNoise(build_generator(other)), ToyEncoder())
        for other in candidates
    ]
    if len(voices) > 1:
        voices = [
            voice for voice in voices if all(row.passed for row in _case_rows(reference, voice, "a"))
        ] or voices
    return voices[0] if voices else None


def _may_be_the_network(candidate: ReferenceSet, reference: ReferenceSet) -> bool:
    model = candidate.config["model"]
    same_seed = candidate.meta["seed"] == reference.meta.get("seed", 1)
    return same_seed and not model["vol_embedding"] and model["ssl_dim"] == ToyEncoder.width


def _unit_rows(reference: ReferenceSet) -> Iterator[Row]:
    """Content and f0 of the glide, as in the conversion."""
    if not reference.has("e2e/unit_f0"):
        return
    glide = read_audio(reference.folder / "glide44k.wav")
    estimator = PitchEstimator(
        reference.meta["end_to_end_f0"], sample_rate_hz=glide.sample_rate_hz, hop_samples=512
    )
    track = estimator(glide.samples)
    f0_rtol, latent = reference.tolerance("f0_rtol"), reference.tolerance("spectra_abs")
    yield reference.compare(
        "e2e/unit_f0", track.interpolated()[None].astype(np.float32), f0_rtol, relative=True
    )
    yield reference.compare("e2e/unit_uv", track.voiced[None].astype(np.float32), 0.0)
    samples_16k = SincResample(glide.sample_rate_hz, 16000)(torch.from_numpy(glide.samples)).numpy()
    content = ToyEncoder().encode(samples_16k).T
    content = align_to_frames(content, track.n_frames, mode="nearest").numpy()  # [768, N]
    summary = np.array([content.mean(), np.sqrt(np.mean(content**2)), np.abs(content).max()])
    yield reference.compare("e2e/unit_c_summary", summary, latent)
    yield reference.compare("e2e/unit_c_every10", content[::16, ::10], latent)
