"""Signal processing of so-vits-svc 4.1: spectra, volume, resampling, slicing, loudness, frame expansion.

The f0 rows, the retrieval and the whole conversions of the same sets are in pitch.py, retrieval.py and end_to_end.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import soundfile
import torch
from torch import Tensor

from svcnb.audio.loudness import match_loudness_envelope, volume_envelope
from svcnb.audio.slicing import SliceSettings, find_slices
from svcnb.audio.spectral import MelSpectrogram, SincResample, Stft, VocoderMel
from tests.parity_sets.registry import ReferenceSet, Row, check, difference
from tests.parity_sets.signals import glide, silences

RATE_HZ = 44100
HOP_SAMPLES = 512
SECOND = slice(RATE_HZ // 2, RATE_HZ // 2 + RATE_HZ)  # input of the one-second spectra
SIGNALS = ("glide", "speech")


@check("dsp-so-vits")
@torch.no_grad()
def check_dsp(reference: ReferenceSet) -> Iterator[Row]:
    """Every array of the set."""
    for signal in SIGNALS:
        if any(name.startswith(f"{signal}/") for name in reference.arrays):
            waveform = _waveform(reference, signal)
            yield from _spectra_rows(reference, signal, waveform)
            yield from _time_domain_rows(reference, signal, waveform)
    yield from _slicer_rows(reference)
    yield from _loudness_rows(reference)
    yield from _padding_rows(reference)
    yield from _expansion_rows(reference)
    # Imported late: each needs its own module, and the rows above work without them.
    from tests.parity_sets.end_to_end import end_to_end_rows
    from tests.parity_sets.pitch import pitch_rows
    from tests.parity_sets.retrieval import retrieval_rows

    yield from pitch_rows(reference)
    yield from retrieval_rows(reference)
    yield from end_to_end_rows(reference)


def _waveform(reference: ReferenceSet, signal: str) -> Tensor:
    """float32 [1, T] at 44.1 kHz."""
    path = reference.folder / f"{signal}44k.wav"
    if signal == "glide" and not path.is_file():
        return torch.from_numpy(glide(RATE_HZ))[None]
    samples, rate_hz = soundfile.read(path, dtype="float32")
    if rate_hz != RATE_HZ:
        raise ValueError(f"{path} has {rate_hz} Hz, expected {RATE_HZ}")
    return torch.from_numpy(samples)[None]


def _spectra_rows(reference: ReferenceSet, signal: str, waveform: Tensor) -> Iterator[Row]:
    tolerance = reference.tolerance("spectra_abs")
    second = waveform[:, SECOND]
    spec = Stft(n_fft=2048, hop_samples=HOP_SAMPLES)(second)
    if reference.has(f"{signal}/spec_1s_from_0.5s"):
        yield reference.compare(f"{signal}/spec_1s_from_0.5s", spec[..., ::4], tolerance)
    if reference.has(f"{signal}/spec_frames"):
        yield reference.compare(f"{signal}/spec_frames", np.array(spec.shape), 0.0)
    if reference.has(f"{signal}/mel80_1s"):
        mel80 = MelSpectrogram(sample_rate_hz=RATE_HZ, n_fft=2048, hop_samples=HOP_SAMPLES, n_mels=80)
        yield from _mel_rows(reference, f"{signal}/mel80_1s", mel80(second), tolerance)
    mel128 = VocoderMel(sample_rate_hz=RATE_HZ, n_fft=2048, hop_samples=HOP_SAMPLES, n_mels=128)
    prefix = f"{signal}/nvstft_mel128_keyshift"
    for name in [name for name in reference.arrays if name.startswith(prefix)]:
        shifted = mel128(second, key_shift_semitones=float(name.removeprefix(prefix)))
        yield from _mel_rows(reference, name, shifted, tolerance)


def _mel_rows(reference: ReferenceSet, name: str, ours: Tensor, tolerance: float) -> Iterator[Row]:
    """Compare logarithms where there is signal, and magnitudes everywhere.

    Near the floor of 1e-5 the logarithm magnifies the rounding of a float32 FFT, which differs between CPUs.
    """
    theirs = reference.tensor(name)
    reference.compared.add(name)
    if ours.shape != theirs.shape:
        yield difference(name, ours, theirs, tolerance)
        return
    loud = theirs > np.log(0.02)
    yield difference(name, ours[loud], theirs[loud], tolerance, note="logarithms from 0.02 on")
    yield difference(name, ours.exp(), theirs.exp(), tolerance, note="as magnitudes")


def _time_domain_rows(reference: ReferenceSet, signal: str, waveform: Tensor) -> Iterator[Row]:
    tolerance = reference.tolerance("spectra_abs")
    if reference.has(f"{signal}/volume"):
        yield reference.compare(f"{signal}/volume", volume_envelope(waveform[0], HOP_SAMPLES), tolerance)
    name = f"{signal}/torchaudio_resample_16k_first2s"
    if reference.has(name):
        ours = SincResample(RATE_HZ, 16000)(waveform)[0, : len(reference.arrays[name])]
        yield reference.compare(name, ours, tolerance)


def _slicer_rows(reference: ReferenceSet) -> Iterator[Row]:
    for name in reference.arrays:
        found = re.fullmatch(r"slicer/silences_db(-?[\d.]+)_min([\d.]+)", name)
        if not found:
            continue
        settings = SliceSettings(threshold_db=float(found[1]), min_length_ms=float(found[2]))
        slices = find_slices(silences(RATE_HZ), RATE_HZ, settings)
        ours = [[int(found.silent), found.start, found.end] for found in slices]
        theirs = reference.arrays[name]
        reference.compared.add(name)
        theirs = theirs[theirs[:, 2] > theirs[:, 1]]
        yield difference(name, np.array(ours), theirs, 0.0, note="without slices of length 0")


def _loudness_rows(reference: ReferenceSet) -> Iterator[Row]:
    for name in reference.arrays:
        found = re.fullmatch(r"change_rms/rate([\d.]+)_every(\d+)", name)
        if found:
            # The recording: two seconds of speech, and of the glide faded in from 0.2 to 1.
            n_samples = 2 * RATE_HZ
            source = _waveform(reference, "speech")[0, :n_samples].numpy()
            fade = np.linspace(0.2, 1.0, n_samples)
            output = (_waveform(reference, "glide")[0, :n_samples].numpy() * fade).astype(np.float32)
            ours = match_loudness_envelope(source, RATE_HZ, output, RATE_HZ, float(found[1]))
            yield reference.compare(name, ours[:: int(found[2])], reference.tolerance("spectra_abs"))


def _padding_rows(reference: ReferenceSet) -> Iterator[Row]:
    for name in reference.arrays:
        found = re.fullmatch(r"pad_array/(\d+)_to_(\d+)", name)
        if found:
            from svcnb.conversion.long_audio import pad_centered

            ours = pad_centered(np.arange(1, int(found[1]) + 1), int(found[2]))
            yield reference.compare(name, ours, 0.0)


def _expansion_rows(reference: ReferenceSet) -> Iterator[Row]:
    for name in reference.arrays:
        found = re.fullmatch(r"repeat_expand/([a-z]+)_(\d+)_(\d+)", name)
        if found:
            from svcnb.features.content.encoders import align_to_frames

            positions = torch.arange(int(found[2]), dtype=torch.float32)[None]  # used as the feature
            ours = align_to_frames(positions, int(found[3]), mode=found[1])[0]
            yield reference.compare(name, ours, 0.0)
