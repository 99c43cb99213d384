"""Signal processing of RVC 20240604: cutting, slicing, f0 and its bins, mel spectra. The whole conversions of the same
sets are in rvc_pipeline.py."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import soundfile
import torch

from svcnb.audio.audio import resample_samples
from svcnb.audio.slicing import SliceSettings, find_slices
from svcnb.audio.spectral import MelSpectrogram
from svcnb.models.rvc import preprocess as rvc_clips
from svcnb.models.rvc.network import coarse_f0
from svcnb.models.rvc.preprocess import CutSettings as RvcCutSettings
from tests.parity_sets.registry import ReferenceSet, Row, check, difference, find_set
from tests.parity_sets.rvc_original import RvcPitch
from tests.parity_sets.rvc_pipeline import pipeline_rows
from tests.parity_sets.signals import glide, silences

RATE_HZ = 44100
SLICE_NAMES = {
    "threshold": "threshold_db", "min_length": "min_length_ms", "min_interval": "min_interval_ms",
    "hop_size": "hop_ms", "max_sil_kept": "max_kept_silence_ms",
}  # fmt: skip
MELS = {40000: (2048, 125), 48000: (2048, 128), 32000: (1024, 80)}  # rate: n_fft, mel bands
PREPROCESS_ROWS, PREPROCESS_SAMPLES = "idx_len_len16k_rms_peak_rms16k", "samples_first64_mid64_mid64of16k"


@check("dsp-rvc")
@torch.no_grad()
def check_dsp_rvc(reference: ReferenceSet) -> Iterator[Row]:
    """Every array of the set."""
    yield from _preprocess_rows(reference)
    yield from _slicer_rows(reference)
    yield from _f0_rows(reference)
    yield from _mel_rows(reference)
    yield from pipeline_rows(reference)


# ---------------------------------------------------------------- cutting


def _preprocess_rows(reference: ReferenceSet) -> Iterator[Row]:
    tolerance = reference.tolerance("spectra_abs")
    for name in [n for n in reference.arrays if n.startswith("preprocess/") and n.endswith(PREPROCESS_ROWS)]:
        signal, _, rate = name.split("/")[1].rpartition("_")
        settings = RvcCutSettings(sample_rate_hz=int(rate))
        of_samples = name.replace(PREPROCESS_ROWS, PREPROCESS_SAMPLES)
        if signal.startswith("speech"):
            yield from _speech_rows(reference, name, of_samples, settings)
            continue
        samples = {"glide9s": _long_glide, "silences": silences}[signal](int(rate))
        kept = _as_numbered_by_the_original(samples, settings)
        rows = np.array([_describe(index, clip, settings) for index, clip in kept.items()])
        yield reference.compare(name, rows, tolerance, note="with the original's clip numbers")
        excerpts = np.array([_excerpt(clip, settings) for clip in kept.values()])
        yield reference.compare(of_samples, excerpts, tolerance)


def _as_numbered_by_the_original(samples: np.ndarray, settings: RvcCutSettings) -> dict[int, np.ndarray]:
    """Our clips under the original's numbers: it counts before the last window of a slice, not after, and so
    overwrites some clips. Our numbers deviate on purpose; the clips themselves are the same."""
    kept: dict[int, np.ndarray] = {}
    clips = rvc_clips.cut_samples(samples, settings)
    n_windows = [
        len(rvc_clips.fixed_windows(part.n_samples, settings))
        for part in rvc_clips.cut_at_silence(rvc_clips.high_pass(samples, settings.sample_rate_hz), settings)
    ]
    number, position = 0, 0
    for count in n_windows:
        for window in range(count):
            number += window == count - 1
            kept[number] = clips[position][1]
            number += window < count - 1
            position += 1
    return dict(sorted(kept.items()))


def _describe(index: int, clip: np.ndarray, settings: RvcCutSettings) -> list[float]:
    clip_16k = rvc_clips.to_16k(clip, settings.sample_rate_hz)
    rms, rms_16k = (np.sqrt(np.mean(np.square(samples))) for samples in (clip, clip_16k))
    return [index, len(clip), len(clip_16k), rms, np.abs(clip).max(), rms_16k]


def _excerpt(clip: np.ndarray, settings: RvcCutSettings) -> np.ndarray:
    clip_16k = rvc_clips.to_16k(clip, settings.sample_rate_hz)
    middle, middle_16k = len(clip) // 2, len(clip_16k) // 2
    return np.concatenate([clip[:64], clip[middle : middle + 64], clip_16k[middle_16k : middle_16k + 64]])


def _speech_rows(
    reference: ReferenceSet, name: str, of_samples: str, settings: RvcCutSettings
) -> Iterator[Row]:
    """Only the first clip: only 4 s of the recording are available, at another sample rate, and resampled."""
    waves = find_set(reference, "dsp-so-vits", lambda other: (other.folder / "speech44k.wav").is_file())
    if waves is None:
        return
    samples, rate_hz = soundfile.read(waves.folder / "speech44k.wav", dtype="float32")
    filtered = rvc_clips.high_pass(
        resample_samples(samples, rate_hz, settings.sample_rate_hz), settings.sample_rate_hz
    )
    clip = rvc_clips.level(filtered[: int(settings.window_s * settings.sample_rate_hz)], settings)
    reference.compared |= {name, of_samples}
    tolerance, note = reference.tolerance("spectra_abs"), "first clip, recording resampled by us"
    first, excerpt = reference.arrays[name][0], reference.arrays[of_samples][0]
    yield difference(name, _describe(0, clip, settings), first, tolerance, note=note)
    yield difference(of_samples, _excerpt(clip, settings), excerpt, tolerance, note=note)


def _long_glide(rate_hz: int) -> np.ndarray:
    """signals.glide stretched to 9 s (the tone ends at 8.8 s): float32 [T]."""
    seconds, times_s = 9.0, np.arange(int(rate_hz * 9.0)) / rate_hz
    f0_hz = 110.0 * 4.0 ** (times_s / seconds) * 2 ** (30 / 1200 * np.sin(2 * np.pi * 5.5 * times_s))
    phase = 2 * np.pi * np.cumsum(f0_hz) / rate_hz
    audible = ((times_s > 0.2) & (times_s < 1.5)) | ((times_s > 1.8) & (times_s < seconds - 0.2))
    ramp = np.hanning(int(rate_hz * 0.02))
    tone = sum(np.sin(k * phase) / k for k in range(1, 9))
    tone = tone * np.convolve(audible.astype(float), ramp / ramp.sum(), mode="same")
    return (np.round(tone / np.abs(tone).max() * 0.5 * 32767) / 32768).astype(np.float32)


def _slicer_rows(reference: ReferenceSet) -> Iterator[Row]:
    for name in [n for n in reference.arrays if n.startswith("slicer2/")]:
        text = name.removeprefix("slicer2/")
        given = {} if text == "defaults" else json.loads(text)
        settings = SliceSettings(**{SLICE_NAMES[key]: value for key, value in given.items()})
        slices = [s for s in find_slices(silences(RATE_HZ), RATE_HZ, settings) if not s.silent]
        yield reference.compare(name, np.array([[s.start, s.n_samples] for s in slices]), 0.0)


# ---------------------------------------------------------------- f0 and mel


def _f0_rows(reference: ReferenceSet) -> Iterator[Row]:
    rtol = reference.tolerance("f0_rtol")
    for name in [n for n in reference.arrays if n.endswith("/wav16k")]:
        signal = name.split("/")[0]
        samples = reference.arrays[name]
        reference.compared.add(name)  # input of the f0 estimation
        if signal == "glide":
            yield reference.compare(name, glide(16000), 0.0)
        for method in ("pm", "harvest", "dio"):
            if reference.has(f"{signal}/f0_{method}"):
                f0_hz = RvcPitch(method)(samples)
                yield reference.compare(f"{signal}/f0_{method}", f0_hz, rtol, relative=True)
                yield reference.compare(f"{signal}/coarse_{method}", coarse_f0(f0_hz), 0.0)
    if reference.has("coarse_f0/in"):
        reference.compared.add("coarse_f0/in")
        yield reference.compare("coarse_f0/out", coarse_f0(reference.arrays["coarse_f0/in"]), 0.0)


def _mel_rows(reference: ReferenceSet) -> Iterator[Row]:
    for rate_hz, (n_fft, n_mels) in MELS.items():
        if not reference.has(f"mel/{rate_hz}"):
            continue
        second = torch.from_numpy(glide(rate_hz)[rate_hz // 2 : rate_hz // 2 + rate_hz])[None]
        transform = MelSpectrogram(
            sample_rate_hz=rate_hz, n_fft=n_fft, hop_samples=rate_hz // 100, n_mels=n_mels
        )
        spec = transform.stft(second)
        yield reference.compare(f"mel/{rate_hz}", transform.project(spec), reference.tolerance("spectra_abs"))
        if reference.has(f"mel/{rate_hz}_spec_shape"):
            yield reference.compare(f"mel/{rate_hz}_spec_shape", np.array(spec.shape), 0.0)
