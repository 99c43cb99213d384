"""What training hears of a clip: content, f0, loudness, and the audio itself; one extractor for every family."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from svcnb import SvcError
from svcnb.audio.audio import read_audio, resample_samples
from svcnb.audio.loudness import volume_envelope
from svcnb.data.feature_store import Clip, FeatureSettings, FeatureStore
from svcnb.features.content.encoders import load_encoder
from svcnb.features.content.waveform import SAMPLE_RATE_HZ as CONTENT_HZ
from svcnb.features.pitch.classical import PitchSettings
from svcnb.features.pitch.estimator import PitchEstimator
from svcnb.files.disk import write_json

# A speaker's cepstral statistics settle within a minute of speech; more only costs time and memory.
STATISTICS_SECONDS = 120.0
MEDIAN_F0_FILE = "middle_pitch.json"  # speaker -> Hz


class FeatureExtractor:
    """Turns clips into arrays; one per worker, networks loaded once.

    Source: so-vits-svc 4.1 preprocess_hubert_f0.py (what is stored), with one resampler throughout.
    """

    def __init__(self, settings: FeatureSettings, *, pretrain_folder: Path, device: str) -> None:
        self.settings = settings
        self.encoder = load_encoder(settings.encoder, folder=pretrain_folder, device=device)
        self.speaker_encoder = self.encoder
        pitch = PitchSettings(
            f0_min_hz=settings.f0_min_hz,
            f0_max_hz=settings.f0_max_hz,
            threshold=settings.f0_threshold,
            pretrain_folder=pretrain_folder,
        )
        self.pitch = PitchEstimator(
            settings.pitch_method,
            sample_rate_hz=settings.sample_rate_hz,
            hop_samples=settings.hop_samples,
            settings=pitch,
            device=device,
        )

    def for_speaker(self, speaker: str, clips: Sequence[Clip]) -> None:
        """Let an encoder that normalises by speaker see up to two minutes of this one."""
        gathered: list[np.ndarray] = []
        seconds = 0.0
        for clip in clips:
            if seconds >= STATISTICS_SECONDS:
                break
            try:
                audio = read_audio(clip.path, sample_rate_hz=CONTENT_HZ)
            except SvcError:
                continue  # the clip's own turn reports it
            gathered.append(audio.samples)
            seconds += audio.duration_s
        if gathered:
            self.speaker_encoder = self.encoder.for_recording(*gathered)

    def __call__(self, clip: Clip) -> dict[str, np.ndarray]:
        """Arrays of one clip: audio float32 [T], content float32 [N50, D], f0_hz float32 [N], maybe volume [N]."""
        settings = self.settings
        audio = read_audio(clip.path, sample_rate_hz=settings.sample_rate_hz)
        samples = audio.samples
        n_frames = len(samples) // settings.hop_samples
        if n_frames < settings.min_frames:
            shortest = settings.min_frames * settings.hop_samples / settings.sample_rate_hz
            raise SvcError(
                f"{clip.path.name} lasts {audio.duration_s:.2f} s, shorter than the {shortest:.2f} s needed"
            )
        narrow = resample_samples(samples, settings.sample_rate_hz, CONTENT_HZ)
        arrays = {
            "audio": samples,
            "content": self.speaker_encoder.encode(narrow).cpu().numpy().astype(np.float32),
            "f0_hz": self.pitch(samples).f0_hz.astype(np.float32),
        }
        if settings.with_volume:
            envelope = volume_envelope(torch.from_numpy(samples), settings.hop_samples)
            arrays["volume"] = envelope.numpy().astype(np.float32)
        return arrays


def make_extractor(settings: FeatureSettings, *, pretrain_folder: Path, device: str) -> FeatureExtractor:
    return FeatureExtractor(settings, pretrain_folder=pretrain_folder, device=device)


def write_median_f0(store: FeatureStore, speakers: Iterable[str], voice_folder: Path) -> Path:
    """Write each speaker's median over voiced frames; who has none is left out."""
    tracks: dict[str, list[np.ndarray]] = {name: [] for name in speakers}
    for name in store.names():
        f0_hz = store.read(name)["f0_hz"]
        if (speaker := store.record(name).speaker) in tracks:
            tracks[speaker].append(f0_hz[f0_hz > 0])
    medians = {
        speaker: float(np.median(np.concatenate(own)))
        for speaker, own in tracks.items()
        if any(map(len, own))
    }
    return write_json(voice_folder / MEDIAN_F0_FILE, medians)


def read_median_f0(voice_folder: Path) -> dict[str, float]:
    """What lies beside a voice; empty where nothing does."""
    path = voice_folder / MEDIAN_F0_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
