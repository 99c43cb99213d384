"""All pairs of conversion settings: the result has the source's length, is finite, and has no gaps."""

from __future__ import annotations

import importlib.util
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from svcnb.audio.audio import Audio, read_audio, resample, write_audio
from svcnb.conversion.settings import ConversionSettings
from svcnb.features.content.clustering import build_index
from svcnb.features.content.retrieval import FeatureIndex, SpeakerCenters
from svcnb.features.pitch.estimator import PitchEstimator
from svcnb.files.checkpoint import to_plain_names
from svcnb.models import sovits
from svcnb.models.diffusion.checkpoint import CONFIG_NAME, DIFFUSION_FOLDER
from svcnb.models.diffusion.config import Config as DiffusionConfig
from svcnb.models.sovits.checkpoint import save_sovits_checkpoint
from tests.covering import Row, all_pairs, covering_rows, pairs_of
from tests.places import DEMO_VOICES
from tests.toys.small_voice import tiny_config
from tests.toys.tiny_diffusion import write_model

pytest.importorskip("pyworld")
WIDTH = 96  # of svcnb-units, the bundled encoder
VOICED_S, PAUSE_S = (1.2, 0.9), 11.2  # a pause that long is a slice of its own, and is not converted
GAP_S, FRAME_S, SILENT = 0.05, 0.01, 0.01  # a gap: longer than that below 1 % of the median level
# Voice -> whether it is conditioned on loudness, and the sampler of its diffusion model.
VOICES = {
    "ddim": (False, "ddim"), "loudness dpm": (True, "dpm-solver++"), "pndm": (False, "pndm"), "loudness unipc": (True, "unipc"),
}  # fmt: skip
F0_METHODS = ("dio", "pm") if importlib.util.find_spec("parselmouth") else ("dio", "harvest")
CHOICES = {
    "voice": tuple(VOICES),
    "input_hz": (16000, 44100),
    "speaker": (None, "bob"),
    "transpose_semitones": (0, -12, 5),
    "auto_predict_f0": (False, True),
    "f0_method": F0_METHODS,
    "f0_mean_pooling": (False, True),
    "f0_threshold": (0.05, 0.3),
    "cluster_ratio": (0.0, 0.5, 1.0),
    "feature_retrieval": (False, True),
    "noise_scale": (0.0, 0.4),
    "slice_db": (-60.0, -40.0),
    "clip_seconds": (0.0, 0.7),
    "crossfade_seconds": (0.0, 0.1, 0.3),
    "crossfade_keep_ratio": (0.5, 1.0),
    "pad_seconds": (0.0, 0.013, 0.5),
    "loudness_envelope_ratio": (0.0, 0.5, 1.0),
    "speaker_mix": ("", "ada=0.7,bob=0.3", "ada=1>0,bob=0>1"),
    "enhance": (False, True),
    "enhancer_adaptive_key": (0, 5, -4),
    "shallow_diffusion": (False, True),
    "k_step": (1, 60),
    "second_encoding": (False, True),
    "only_diffusion": (False, True),
    "audio_format": ("flac", "wav", "ogg", "mp3"),
    "seed": (1, 52468),
    "like_original": (False, True),
    "max_chunk_s": (1.0, 30.0),
}


def allowed(row: Row) -> bool:
    """A cross-fade takes at most half of a chunk; everything else may be combined."""
    clip, longest = row["clip_seconds"], row["max_chunk_s"]
    return 2 * row["crossfade_seconds"] <= (clip if 0 < clip <= longest else longest)


ROWS = list(covering_rows(CHOICES, allowed=allowed))


def test_the_rows_contain_every_allowed_pair_and_every_setting() -> None:
    held, impossible = set().union(*map(pairs_of, ROWS)), set()
    for pair in all_pairs(CHOICES) - held:
        impossible.add(tuple(name for name, _ in pair))
    assert impossible <= {("clip_seconds", "crossfade_seconds"), ("crossfade_seconds", "max_chunk_s")}, (
        impossible
    )
    assert set(ConversionSettings.model_fields) == set(CHOICES) - {"voice", "input_hz"}
    assert len(ROWS) < 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained voices, each with cluster centers, an index, a vocoder and a diffusion model."""
    pytest.importorskip("faiss")
    folder = tmp_path_factory.mktemp("voices")
    for name, (with_loudness, sampler) in VOICES.items():
        write_voice(folder / name, with_loudness=with_loudness, sampler=sampler)
    return folder


def write_voice(folder: Path, *, with_loudness: bool, sampler: str) -> None:
    config = tiny_config()
    config.spk, config.model.n_speakers, config.model.vol_embedding = {"ada": 0, "bob": 1}, 2, with_loudness
    config.save(folder / "config.json")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = to_plain_names(sovits.build(config).generator.state_dict())
    save_sovits_checkpoint(folder / "G_1.pth", model_state=state, iteration=1, learning_rate=1e-4)
    frames = np.random.default_rng(0).random((60, WIDTH)).astype(np.float32)
    SpeakerCenters({name: torch.from_numpy(frames[i::2]) for i, name in enumerate(config.spk)}).write(
        folder / "kmeans_30.pt"
    )
    FeatureIndex({0: build_index(frames), 1: build_index(frames[:40])}).write(
        folder / "feature_and_index.pkl"
    )
    write_model(folder, k_step_max=0)
    path = folder / DIFFUSION_FOLDER / CONFIG_NAME
    diffusion = DiffusionConfig.load(path)
    diffusion.infer = diffusion.infer.model_copy(update={"method": sampler, "speedup": 30})
    diffusion.save(path)


@cache
def song(input_hz: int) -> Audio:
    """Two excerpts of speech with a long pause between them."""
    speech = read_audio(next(iter(sorted((DEMO_VOICES / "raw").rglob("*.flac")))))
    first, second = speech.slice_s(0.3, 0.3 + VOICED_S[0]), speech.slice_s(3.0, 3.0 + VOICED_S[1])
    pause = np.zeros(round(PAUSE_S * speech.sample_rate_hz), np.float32)
    return resample(
        Audio(np.concatenate([first.samples, pause, second.samples]), speech.sample_rate_hz), input_hz
    )


@cache
def loaded(folder: Path) -> sovits.Voice:
    return sovits.load_voice(folder)


@cache
def voiced_frames(input_hz: int) -> np.ndarray:
    """Whether each frame of 10 ms of the song is voiced, without the ends of voiced segments."""
    audio = resample(song(input_hz), 22050)
    track = PitchEstimator("harvest", sample_rate_hz=22050, hop_samples=220)(audio.samples)
    inner = np.convolve(track.f0_hz > 0, np.ones(5), mode="same") == 5
    n_frames = int(song(input_hz).duration_s / FRAME_S)
    return inner[np.minimum((np.arange(n_frames) * FRAME_S * 22050 / 220).astype(int), len(inner) - 1)]


def longest_gap_s(result: Audio, voiced: np.ndarray) -> float:
    """Seconds of the longest silence in the result while the source is voiced."""
    n_frame = round(FRAME_S * result.sample_rate_hz)
    n_frames = min(len(voiced), result.n_samples // n_frame)
    level = np.sqrt(np.square(result.samples[: n_frames * n_frame].reshape(n_frames, -1)).mean(axis=1))
    silent = (level < SILENT * np.median(level[voiced[:n_frames]])) & voiced[:n_frames]
    runs = "".join("x" if frame else " " for frame in silent).split()
    return max(map(len, runs), default=0) * FRAME_S


def test_a_gap_is_detected() -> None:
    voiced, samples = np.ones(100, bool), np.random.default_rng(0).standard_normal(22050).astype(np.float32)
    assert longest_gap_s(Audio(samples, 22050), voiced) == 0
    samples[6000:8000] = 0
    assert longest_gap_s(Audio(samples, 22050), voiced) == pytest.approx(0.08, abs=0.011)


@pytest.mark.filterwarnings(
    "ignore:.*(does nothing while|replaces the enhancer|cannot be used while|meant for speech|left out)"
)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: json.dumps(list(row.values())))
def test_every_pair_of_options_converts_the_whole_song(row: Row, folder: Path, tmp_path: Path) -> None:
    choices = dict(row)
    voice, input_hz = loaded(folder / choices.pop("voice")), choices.pop("input_hz")
    source = song(input_hz)
    path = write_audio(tmp_path / "song.wav", source)
    result = read_audio(voice.convert_file(path, tmp_path / "out", ConversionSettings(**choices)))
    assert result.sample_rate_hz == voice.sample_rate_hz and np.isfinite(result.samples).all()
    if choices["like_original"] and choices["clip_seconds"] and choices["crossfade_seconds"]:
        return  # it counts overlaps at the input's rate, which changes lengths and times: see test_long_audio
    wanted = round(source.n_samples * result.sample_rate_hz / input_hz)
    assert abs(result.n_samples - wanted) <= (50 if choices["like_original"] else 0)  # rounds chunks up
    assert longest_gap_s(result, voiced_frames(input_hz)) <= GAP_S
