"""f0 estimation: RMVPE sets, and the f0 arrays of the signal-processing sets (called from their checks)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch

from svcnb.features.pitch.classical import FrameGrid, PitchSettings, WorldPredictor
from svcnb.features.pitch.estimator import PitchEstimator
from svcnb.features.pitch.neural import RmvpeMel, load_rmvpe
from svcnb.features.pitch.rmvpe import Rmvpe, RmvpeLayout, decode_salience
from svcnb.features.pitch.track import fill_gaps
from svcnb.files.checkpoint import load_weights
from svcnb.nn.layers import f0_to_coarse
from tests.parity_sets.registry import ReferenceSet, Row, check, difference, find_set
from tests.parity_sets.signals import glide

RATE_HZ = 44100
HOP_SAMPLES = 512
SIGNALS = ("glide", "speech")


@check("rmvpe")
@torch.no_grad()
def check_rmvpe(reference: ReferenceSet) -> Iterator[Row]:
    tolerance = reference.tolerance("abs")
    yield from _mel_rows(reference, RmvpeMel()(reference.tensor("in/wav16k")), tolerance)
    state = reference.weights()
    network = Rmvpe(RmvpeLayout.of(state, wrapped=True)).eval()
    load_weights(network, state)
    mel = reference.tensor("mel")
    yield reference.compare("hidden", network(mel), tolerance, note="formula weights")
    for path in sorted(reference.folder.glob("*.pt")):
        yield reference.compare("hidden", load_rmvpe(path)(mel), tolerance, note=f"weights from {path.name}")

    reference.compared.add("decode/salience")  # input of the decoder
    for name in reference.arrays:
        if name.startswith("decode/f0_thred"):
            f0_hz = decode_salience(
                reference.tensor("decode/salience"), float(name.removeprefix("decode/f0_thred"))
            )
            # f0 up to 2000 Hz in float32 has a resolution of 1e-4 Hz, so the tolerance is relative
            yield reference.compare(name, f0_hz, tolerance, relative=True)


def _mel_rows(reference: ReferenceSet, mel: torch.Tensor, tolerance: float) -> Iterator[Row]:
    # Near the floor of 1e-5 the logarithm magnifies the rounding of a float32 FFT (1e-6, different on every
    # CPU) 100 000 times: magnitudes are compared everywhere, logarithms from 0.02 on.
    reference.compared.add("mel")
    expected = reference.tensor("mel")
    if mel.shape != expected.shape:
        yield difference("mel", mel, expected, tolerance)
        return
    yield difference("mel", mel.exp(), expected.exp(), tolerance, note="as magnitudes")
    loud = expected > np.log(0.02)
    yield difference("mel", mel[loud], expected[loud], 10 * tolerance, note="logarithms from 0.02 on")


def pitch_rows(reference: ReferenceSet) -> Iterator[Row]:
    """dio, harvest, pm of so-vits-svc 4.1 (gap-filled f0 and voicing), and the coarse bins."""
    rtol = reference.tolerance("f0_rtol")
    for signal in SIGNALS:
        for method in ("dio", "harvest", "pm"):
            if reference.has(f"{signal}/f0_{method}"):
                estimator = PitchEstimator(method, sample_rate_hz=RATE_HZ, hop_samples=HOP_SAMPLES)
                track = estimator(_samples(reference, signal))
                yield reference.compare(f"{signal}/f0_{method}", track.interpolated(), rtol, relative=True)
                yield reference.compare(f"{signal}/uv_{method}", track.voiced, 0.0)
    if reference.has("f0_to_coarse/in"):
        reference.compared.add("f0_to_coarse/in")
        yield reference.compare("f0_to_coarse/out", f0_to_coarse(reference.tensor("f0_to_coarse/in")), 0.0)


def fork_pitch_rows(reference: ReferenceSet) -> Iterator[Row]:
    """The fork of the 4.0 line: raw f0 (harvest rounded to 0.1 Hz like dio), and 4.0's gap rule."""
    rtol = reference.tolerance("f0_rtol")
    waves = find_set(reference, "dsp-so-vits", lambda other: (other.folder / "glide44k.wav").is_file())
    for signal in SIGNALS:
        if reference.has(f"{signal}/fork_f0_dio"):
            samples = _samples(waves, signal)
            tracks = {name: _world(name, samples) for name in ("dio", "harvest")}
            for method, f0_hz in {**tracks, "parselmouth": _praat(samples)}.items():
                yield reference.compare(f"{signal}/fork_f0_{method}", f0_hz, rtol, relative=True)
            filled = fill_gaps(tracks["dio"], HOP_SAMPLES / RATE_HZ, rule="4.0")
            yield reference.compare(f"{signal}/fork_interp_dio", filled, rtol, relative=True)
            yield reference.compare(f"{signal}/fork_uv_dio", tracks["dio"] > 0, 0.0)


def _world(algorithm: str, samples: np.ndarray) -> np.ndarray:
    predictor = WorldPredictor(algorithm, FrameGrid(RATE_HZ, HOP_SAMPLES), PitchSettings(), one_decimal=True)
    return predictor(samples, len(samples) // HOP_SAMPLES)


def _praat(samples: np.ndarray) -> np.ndarray:
    return PitchEstimator("pm", sample_rate_hz=RATE_HZ, hop_samples=HOP_SAMPLES)(samples).f0_hz


def _samples(waves: ReferenceSet | None, signal: str) -> np.ndarray:
    """The set's recording of a signal; the glide is computed from its formula if there is no recording."""
    path = waves.folder / f"{signal}44k.wav" if waves else Path("absent")
    if not path.is_file() and signal == "glide":
        return glide(RATE_HZ)
    samples, rate_hz = soundfile.read(path, dtype="float32")
    if rate_hz != RATE_HZ:
        raise ValueError(f"{path} has {rate_hz} Hz, expected {RATE_HZ}")
    return samples
