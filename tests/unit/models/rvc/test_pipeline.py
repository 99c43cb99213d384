"""RVC's conversion keeps every sample at its place, whatever the length, and protects what has no pitch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from svcnb.models.rvc.pipeline import (
    PipelineParts,
    PipelineSettings,
    RvcPitch,
    Windows,
    convert_recording,
    find_cuts,
    guided_content,
    smoothed,
)

SHORT = Windows(pad_s=0.5, query_s=0.3, centre_s=1.0, longest_s=1.2)
AS_IT_IS = PipelineSettings(rms_mix_rate=1.0, windows=SHORT)


def sound_of_words(samples_16k: np.ndarray) -> torch.Tensor:
    """Frames as HuBERT cuts them: 25 ms every 20 ms; the content is the first sample of each."""
    return torch.from_numpy(np.lib.stride_tricks.sliding_window_view(samples_16k, 400)[::320, :1].copy())


def places(content: torch.Tensor, f0_hz: np.ndarray | None) -> np.ndarray:
    """A synthesizer whose every frame says the content it stands for."""
    return np.repeat(content[:, 0].numpy(), 400)


def make_parts(**changes: object) -> PipelineParts:
    return PipelineParts(**{"encode": sound_of_words, "infer": places, "output_hz": 40000} | changes)


def slow_wave(n_samples: int) -> np.ndarray:
    times_s = np.arange(n_samples) / 16000
    return 0.4 * np.sin(2 * np.pi * 60 * times_s) * (1.2 + np.sin(2 * np.pi * 0.7 * times_s)) / 2.2


@pytest.mark.parametrize("n_samples", [700, 8000, 16001, 40000, 52345, 80319])
def test_the_result_is_exactly_as_long_as_the_recording(n_samples: int) -> None:
    result = convert_recording(slow_wave(n_samples), make_parts(), AS_IT_IS)
    assert len(result) == round(n_samples * 40000 / 16000)
    assert np.isfinite(result).all()


def loudest(samples_16k: np.ndarray) -> torch.Tensor:
    """Frames as HuBERT cuts them; the content is how loud each is."""
    return torch.from_numpy(np.abs(np.lib.stride_tricks.sliding_window_view(samples_16k, 400)[::320]).max(1, keepdims=True))


def test_nothing_drifts_over_many_segments() -> None:
    clicks_s = np.arange(0.25, 10, 0.5)
    recording = np.random.default_rng(0).standard_normal(10 * 16000) * 1e-4
    recording[np.round(clicks_s * 16000).astype(int)] = 0.5
    assert len(find_cuts(recording, SHORT)) == 9
    parts = make_parts(encode=loudest)
    late_s = {}
    for like_original in (False, True):
        result = convert_recording(recording, parts, AS_IT_IS, like_original=like_original)
        starts = np.flatnonzero((result[1:] > 0.1) & (result[:-1] <= 0.1)) / 40000
        late_s[like_original] = np.abs(starts[-1] - clicks_s[-1])
    assert late_s[False] < 0.03  # a frame of 25 ms
    assert late_s[True] > 0.05  # what the original loses at its joins


def test_cuts_lie_at_the_quietest_place() -> None:
    recording = np.random.default_rng(0).standard_normal(3 * 16000) * 0.1
    recording[17600:18400] = 0
    assert 17600 - 80 <= find_cuts(recording, Windows(query_s=0.3, centre_s=1.0, longest_s=1.2))[0] <= 18400


def test_short_recordings_are_not_cut() -> None:
    assert find_cuts(slow_wave(16000), Windows()) == []


def test_frames_without_pitch_keep_their_own_sound() -> None:
    content, f0_hz = torch.zeros(4, 2), np.array([100.0, 100.0, 0, 0, 100.0, 100.0, 0, 0])
    protected = guided_content(content, f0_hz, n_frames=8, blend=lambda x: x + 1, protect=0.33)
    torch.testing.assert_close(protected[:, 0], torch.tensor([1, 1, 0.33, 0.33, 1, 1, 0.33, 0.33]))
    for off in (guided_content(content, f0_hz, n_frames=8, blend=lambda x: x + 1, protect=0.5),
                guided_content(content, None, n_frames=8, blend=lambda x: x + 1, protect=0.33)):  # fmt: skip
        assert bool((off == 1).all())


def test_a_median_smooths_harvest_only() -> None:
    jumping = np.array([100.0, 100, 200, 100, 100])
    assert smoothed(jumping, "harvest", 3)[2] == 100
    assert smoothed(jumping, "harvest", 2)[2] == smoothed(jumping, "rmvpe", 7)[2] == 200


def test_the_loudness_of_the_recording_can_be_kept() -> None:
    recording = slow_wave(4 * 16000)
    recording[32000:] *= 0.1
    parts = make_parts(infer=lambda content, f0_hz: np.full(400 * len(content), 0.3, np.float32))
    own, followed = (convert_recording(recording, parts, PipelineSettings(rms_mix_rate=rate)) for rate in (1.0, 0.0))
    assert np.abs(own[-20000:]).mean() == pytest.approx(0.3)
    assert np.abs(followed[-20000:]).mean() < 0.2 * np.abs(followed[:60000]).mean()


def test_nothing_is_louder_than_full_scale() -> None:
    parts = make_parts(infer=lambda content, f0_hz: np.full(400 * len(content), 3.0, np.float32))
    assert np.abs(convert_recording(slow_wave(16000), parts, AS_IT_IS)).max() == pytest.approx(0.99)


def test_the_melody_is_transposed_before_it_is_sung() -> None:
    heard = []
    parts = make_parts(
        infer=lambda content, f0_hz: heard.append(f0_hz) or places(content, f0_hz), pitch=RvcPitch("dio")
    )
    times_s = np.arange(16000) / 16000
    tone = 0.3 * sum(np.sin(2 * np.pi * 200 * k * times_s) / k for k in range(1, 6))
    convert_recording(tone, parts, PipelineSettings(rms_mix_rate=1.0, transpose_semitones=12))
    assert np.median(heard[0][heard[0] > 0]) == pytest.approx(400, rel=0.01)
