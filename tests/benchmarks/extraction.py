"""f0 estimation and content encoding of one minute of recordings, cut into clips of five seconds.

so-vits-svc builds its f0 predictor again for every file; ours is built once. The signal processing methods
have no weights to load, and both programs load encoders once: those rows have no plain side.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from tests import places
from tests.benchmarks.sides import Size, Work

RATE_HZ, HOP_SAMPLES, CONTENT_HZ = 44100, 512, 16000
CLIP_S = 5.0
AUDIO_S = 60.0
CREPE_S = 5.0  # takes twice the duration on a laptop
QUICK_S = 1.0


def clips(seconds: float, rate_hz: int) -> list[np.ndarray]:
    """The demo recordings joined, repeated if they are too short, cut into clips of five seconds."""
    from svcnb.audio.audio import read_audio, resample

    n_wanted, found = round(seconds * rate_hz), []
    for path in sorted(places.DEMO_VOICES.rglob("*.flac")):
        found.append(resample(read_audio(path), rate_hz).samples)
        if sum(map(len, found)) >= n_wanted:
            break
    samples = np.resize(np.concatenate(found), n_wanted).astype(np.float32)
    return np.split(samples, range(round(CLIP_S * rate_hz), n_wanted, round(CLIP_S * rate_hz)))


def our_f0(size: Size, *, method: str, seconds: float = AUDIO_S) -> Work:
    samples, make = _f0_work(size, method, seconds)
    estimator = make()
    return lambda: _median_f0([estimator(clip) for clip in samples])


def plain_f0(size: Size, *, method: str, seconds: float = AUDIO_S) -> Work:
    samples, make = _f0_work(size, method, seconds)
    return lambda: _median_f0([make()(clip) for clip in samples])


def _f0_work(size: Size, method: str, seconds: float) -> tuple[list[np.ndarray], Callable]:
    from svcnb.features.pitch.classical import PitchSettings
    from svcnb.features.pitch.estimator import PitchEstimator

    settings = PitchSettings(pretrain_folder=Path(tempfile.mkdtemp(dir=size.folder)))
    if method == "rmvpe":
        write_rmvpe(settings.pretrain_folder)
    make = partial(PitchEstimator, method, sample_rate_hz=RATE_HZ, hop_samples=HOP_SAMPLES, settings=settings)
    return clips(QUICK_S if size.quick else seconds, RATE_HZ), make


def write_rmvpe(folder: Path) -> None:
    """RMVPE with random weights in the published file's format: the time is the same."""
    import torch

    from svcnb.features.pitch.rmvpe import Rmvpe

    torch.manual_seed(1)
    torch.save({"model": Rmvpe().state_dict()}, folder / "rmvpe.pt")


def _median_f0(tracks: list) -> dict[str, float]:
    return {"median_hz": float(np.median([track.median_hz() for track in tracks]))}


def svcnb_units(size: Size) -> Work:
    from svcnb.features.content.encoders import load_encoder

    return _encoding(load_encoder("svcnb-units", folder=places.PROJECT / "pretrain"), size)


def hubert(size: Size) -> Work:
    """HuBERT base with 12 layers (ContentVec's size) and random weights."""
    import torch

    from svcnb.features.content.hubert import HubertEncoder, HubertNetwork
    from svcnb.files.optional_imports import ensure_torchaudio

    ensure_torchaudio()  # transformers imports it
    from transformers import HubertConfig, HubertModel

    torch.manual_seed(1)
    network = HubertNetwork(HubertModel(HubertConfig(num_hidden_layers=1 if size.quick else 12)), None)
    return _encoding(HubertEncoder(network, name="vec768l12"), size)


def _encoding(encoder: object, size: Size) -> Work:
    samples = clips(QUICK_S if size.quick else AUDIO_S, CONTENT_HZ)

    def work() -> dict[str, float]:
        squares = [float(encoder.encode(clip).square().mean()) for clip in samples]
        return {"mean_square": float(np.mean(squares))}

    return work
