"""Tests of svcnb.audio.spectral: reference values of so-vits-svc's transforms, and module behaviour."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from svcnb.audio.loudness import frame_rms, match_loudness_envelope, volume_envelope
from svcnb.audio.spectral import MelSpectrogram, SincResample, Stft, VocoderMel

RATE_HZ = 44100


@pytest.fixture(scope="module")
def tone() -> torch.Tensor:
    """440 Hz at 0.5, computed in float32 as the known values were."""
    return (0.5 * torch.sin(2 * math.pi * 440 * (torch.arange(RATE_HZ) / RATE_HZ)))[None]


@pytest.fixture(scope="module")
def mel80() -> MelSpectrogram:
    return MelSpectrogram(sample_rate_hz=RATE_HZ, n_fft=2048, hop_samples=512, n_mels=80)


@pytest.fixture(scope="module")
def mel128() -> VocoderMel:
    return VocoderMel(
        sample_rate_hz=RATE_HZ, n_fft=2048, hop_samples=512, n_mels=128, fmin_hz=40, fmax_hz=16000
    )


# ---------------------------------------------------------------------------------------- known values


def test_linear_spectrogram_has_the_known_values(tone):
    spec = Stft(n_fft=2048, hop_samples=512)(tone)
    assert spec.shape == (1, 1025, 86)
    assert spec.mean().item() == pytest.approx(0.5517155, abs=1e-6)
    assert spec.max().item() == pytest.approx(226.43494, abs=1e-3)
    assert spec.min().item() == pytest.approx(0.001, abs=1e-6)


def test_80_band_mel_has_the_known_values(tone, mel80):
    mel = mel80(tone)[0]
    assert mel.mean().item() == pytest.approx(-8.4403248, abs=1e-4)
    assert (mel[:, 40].argmax().item(), mel[:, 40].max().item()) == (8, pytest.approx(2.0064960, abs=1e-5))


def test_vocoder_mel_has_the_known_values(tone, mel128):
    mel = mel128(tone)[0]
    assert mel.mean().item() == pytest.approx(-9.1751184, abs=1e-3)
    assert (mel[:, 40].argmax().item(), mel[:, 40].max().item()) == (13, pytest.approx(2.2745018, abs=1e-5))
    shifted = mel128(tone, key_shift_semitones=5)[0]
    assert shifted[:, 40].argmax().item() == 18
    assert shifted.mean().item() == pytest.approx(-9.1649294, abs=1e-3)


def test_volume_has_the_known_values(tone):
    expected = torch.tensor([0.3500732, 0.3526219, 0.3566176, 0.3557521])
    torch.testing.assert_close(volume_envelope(tone[0], 512)[:4], expected, atol=1e-6, rtol=0)


def test_loudness_envelope_has_the_known_values():
    source = np.repeat([0.1, 0.5], RATE_HZ).astype(np.float32)
    output = match_loudness_envelope(source, RATE_HZ, np.full(88000, 0.2, np.float32), RATE_HZ, 0.0)
    expected = [0.1000000, 0.1085916, 0.3613514, 0.4626684, 0.3543578]
    np.testing.assert_allclose(output[[0, 22050, 44100, 66150, 87999]], expected, atol=1e-6)


def test_sinc_filter_has_the_known_size_and_length():
    resampler = SincResample(44100, 16000)
    assert resampler.kernel.shape == (160, 1, 475)
    for n_samples in (1, 441, 442, 10000):
        assert resampler(torch.zeros(n_samples)).shape == (math.ceil(n_samples * 160 / 441),)


# ------------------------------------------------------------------------------------------- properties


@pytest.mark.parametrize("n_samples", [2048, 2049, 5119, 5120, 5121])
def test_frames_are_samples_divided_by_hop(n_samples, mel80, mel128):
    waveform = torch.zeros(2, 1, n_samples)
    n_frames = n_samples // 512
    assert mel80(waveform).shape == (2, 80, n_frames)
    assert mel128(waveform).shape == (2, 128, n_frames)
    assert volume_envelope(waveform[:, 0], 512).shape == (2, n_frames)


def test_mel_equals_projecting_the_spectrogram(tone, mel80):
    torch.testing.assert_close(mel80.project(mel80.stft(tone)), mel80(tone))


def test_mel_agrees_with_librosa_on_the_filters(mel80):
    import librosa

    reference = librosa.filters.mel(sr=RATE_HZ, n_fft=2048, n_mels=80, fmin=0, fmax=22050)
    np.testing.assert_array_equal(mel80.filters.numpy(), reference)


def test_two_settings_in_one_process_do_not_mix(tone, mel80):
    before = mel80(tone)
    low = MelSpectrogram(sample_rate_hz=RATE_HZ, n_fft=2048, hop_samples=512, n_mels=80, fmax_hz=8000)
    assert not torch.allclose(low(tone), before)
    torch.testing.assert_close(mel80(tone), before)


def test_complex_spectrum_has_the_magnitude_without_epsilon(tone):
    stft = Stft(n_fft=512, hop_samples=128, epsilon=0.0)
    torch.testing.assert_close(stft.complex(tone).abs(), stft(tone), atol=1e-4, rtol=1e-5)


def test_gradients_are_finite_at_silence(mel80):
    waveform = torch.zeros(1, 4096, requires_grad=True)
    mel80(waveform).sum().backward()
    assert torch.isfinite(waveform.grad).all()


def test_too_short_waveforms_are_refused_with_numbers():
    with pytest.raises(ValueError, match="768 samples, this STFT needs more than 768"):
        Stft(n_fft=2048, hop_samples=512)(torch.zeros(1, 768))
    with pytest.raises(ValueError, match=r"expected \[B, T\]"):
        Stft(n_fft=2048, hop_samples=512)(torch.zeros(4096))


def test_transforms_add_nothing_to_checkpoints(mel80, mel128):
    for module in (mel80, mel128, SincResample(44100, 16000)):
        assert not module.state_dict()


def test_autocast_does_not_change_the_numbers(tone, mel80, mel128):
    resampler = SincResample(44100, 16000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = [mel80(tone), mel128(tone), resampler(tone), mel80.project(mel80.stft(tone).bfloat16())]
    assert all(result.dtype == torch.float32 for result in inside)
    for result, module in zip(inside, (mel80, mel128, resampler), strict=False):
        torch.testing.assert_close(result, module(tone))


def test_key_shift_of_an_octave_doubles_the_bin(mel128):
    times_s = torch.arange(RATE_HZ) / RATE_HZ
    low, high = (torch.sin(2 * math.pi * f0_hz * times_s)[None] for f0_hz in (440.0, 880.0))
    shifted, plain = mel128(low, key_shift_semitones=12)[0, :, 40], mel128(high)[0, :, 40]
    assert shifted.argmax() == plain.argmax()
    assert shifted.max().item() == pytest.approx(plain.max().item(), abs=0.05)


def test_speed_changes_the_number_of_frames(tone, mel128):
    assert mel128(tone, speed=2.0).shape[-1] == 43


def test_sinc_resampling_keeps_a_tone():
    times_s = torch.arange(RATE_HZ) / RATE_HZ
    there = SincResample(44100, 16000)(torch.sin(2 * math.pi * 440 * times_s))
    expected = torch.sin(2 * math.pi * 440 * torch.arange(16000) / 16000)
    torch.testing.assert_close(there[100:-100], expected[100:-100], atol=2e-3, rtol=0)
    same = torch.randn(3, 100)
    torch.testing.assert_close(SincResample(16000, 16000)(same), same)


def test_frame_rms_is_librosas():
    import librosa

    noise = np.random.default_rng(0).standard_normal(50000).astype(np.float32)
    for window, hop in ((3528, 882), (1764, 441), (RATE_HZ, 22050)):
        reference = librosa.feature.rms(y=noise, frame_length=window, hop_length=hop, pad_mode="constant")[0]
        np.testing.assert_allclose(
            frame_rms(noise, window_samples=window, hop_samples=hop), reference, rtol=1e-6
        )


def test_a_ratio_of_one_keeps_the_loudness(tone):
    samples = tone[0].numpy()
    kept = match_loudness_envelope(samples * 0.1, RATE_HZ, samples, RATE_HZ, 1.0)
    np.testing.assert_allclose(kept, samples, rtol=1e-6)
    matched = match_loudness_envelope(samples[::2] * 0.1, RATE_HZ // 2, samples, RATE_HZ, 0.0)
    assert np.abs(matched).max() == pytest.approx(0.05, rel=0.02)


def test_volume_of_less_than_a_frame_is_empty():
    assert volume_envelope(torch.zeros(100), 512).shape == (0,)
