"""Frame-rate decoder: harmonic excitation, silence where unvoiced, output shape."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from svcnb.audio.spectral import VocoderMel
from svcnb.nn.frame_decoder import FrameDecoder, FrameVocoder, pulse_train
from svcnb.nn.layers import Noise

RATE_HZ, HOP = 22050, 256


def loudest_hz(samples: torch.Tensor, lowest: float, highest: float) -> float:
    spectrum = torch.fft.rfft(samples * torch.hann_window(len(samples))).abs()
    frequency = torch.fft.rfftfreq(len(samples), 1 / RATE_HZ)
    return float(frequency[(spectrum * ((frequency > lowest) & (frequency < highest))).argmax()])


@pytest.mark.parametrize("f0_hz", [82.0, 220.0, 987.0])
def test_pulses_come_at_f0_with_all_harmonics(f0_hz: float) -> None:
    pulses = pulse_train(torch.full((1, 200), f0_hz), HOP, RATE_HZ)[0]
    resolution = RATE_HZ / len(pulses)
    assert loudest_hz(pulses, 0.5 * f0_hz, 1.5 * f0_hz) == pytest.approx(f0_hz, abs=resolution)
    assert loudest_hz(pulses, 4.5 * f0_hz, 5.5 * f0_hz) == pytest.approx(5 * f0_hz, abs=resolution)


def test_the_pulse_train_is_zero_where_unvoiced_and_keeps_f0_up_to_there() -> None:
    f0 = torch.full((1, 120), 200.0)
    f0[:, 60:] = 0
    pulses = pulse_train(f0, HOP, RATE_HZ)[0]
    assert not pulses[60 * HOP :].any()
    peaks = torch.nonzero(pulses[: 60 * HOP] > 0.5).flatten()
    distances = np.diff(peaks[np.r_[True, np.diff(peaks.numpy()) > 20]].numpy())
    assert np.abs(distances - RATE_HZ / 200).max() <= 1.5


def test_pitch_stays_exact_after_ten_minutes() -> None:
    pulses = pulse_train(torch.full((1, 600 * RATE_HZ // HOP), 440.0), HOP, RATE_HZ)[0]
    assert loudest_hz(pulses[-RATE_HZ:], 400, 480) == pytest.approx(440, abs=1)


def test_decoder_gives_a_hop_of_samples_per_frame_and_a_gradient_to_every_parameter() -> None:
    torch.manual_seed(0)
    decoder = FrameDecoder(
        12, gin_channels=5, sampling_rate=RATE_HZ, hop_samples=HOP, channels=16, n_blocks=2
    )
    f0 = torch.full((2, 30), 150.0)
    f0[:, 10:] = 0
    audio = decoder(torch.randn(2, 12, 30), f0, torch.randn(2, 5, 1))
    assert audio.shape == (2, 1, 30 * HOP) and audio.dtype == torch.float32
    audio.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in decoder.parameters())


def test_same_seed_gives_the_same_noise() -> None:
    decoder = FrameDecoder(4, gin_channels=3, sampling_rate=RATE_HZ, hop_samples=HOP, channels=8, n_blocks=1)
    z, f0, g = torch.randn(1, 4, 12), torch.zeros(1, 12), torch.randn(1, 3, 1)
    first, second = (decoder(z, f0, g, noise=Noise(torch.Generator().manual_seed(1))) for _ in range(2))
    assert torch.equal(first, second) and first.abs().max() > 0


@torch.no_grad()
def test_filters_that_differ_within_each_frame_make_no_hum_at_the_frames_rate() -> None:
    """86 Hz in every quiet voiced frame: f0 estimators detected the octave below."""
    decoder = FrameDecoder(4, sampling_rate=RATE_HZ, hop_samples=HOP, channels=8, n_blocks=1)
    decoder.head.weight.zero_()
    bias = decoder.head.bias.view(2, 4, -1)  # halves of a frame; gain, phase, noise
    bias[0, 0], bias[1, 0] = -2.0, -1.0
    bias[:, 3] = -14.0  # no noise
    audio = decoder(torch.zeros(1, 4, 300), torch.full((1, 300), 220.0))[0, 0, RATE_HZ // 2 : -RATE_HZ // 2]
    spectrum = torch.fft.rfft(audio * torch.hann_window(len(audio))).abs()
    frequency = torch.fft.rfftfreq(len(audio), 1 / RATE_HZ)
    frame_rate_hz = RATE_HZ / HOP
    hum = spectrum[(frequency - frame_rate_hz).abs() < 5].max()
    tone = spectrum[(frequency - 220).abs() < 5].max()
    assert 20 * torch.log10(hum / tone) < -50


@pytest.fixture(scope="module")
def mel() -> VocoderMel:
    return VocoderMel(sample_rate_hz=RATE_HZ, n_fft=1024, hop_samples=HOP, n_mels=80, fmax_hz=11025.0)


def untrained_vocoder(mel: VocoderMel) -> FrameVocoder:
    torch.manual_seed(0)
    vocoder = FrameVocoder(mel.filters, sampling_rate=RATE_HZ, hop_samples=HOP, channels=16, n_blocks=1)
    torch.nn.init.zeros_(vocoder.head.weight)
    return vocoder


def test_an_untrained_vocoder_follows_the_mel(mel: VocoderMel) -> None:
    """A burst and a peak at 3 kHz are reproduced in time, frequency and relative level."""
    n_frames, vocoder = 60, untrained_vocoder(mel)
    wanted = torch.full((1, 80, n_frames), -5.0) + vocoder.log_width
    centre_hz = (mel.filters @ torch.linspace(0, RATE_HZ / 2, mel.filters.shape[1])) / mel.filters.sum(1)
    peak = int((centre_hz - 3000).abs().argmin())
    wanted[:, peak - 3 : peak + 4] += 3
    wanted[:, :, 30:34] += 2
    with torch.no_grad():
        noise = Noise(torch.Generator().manual_seed(1))
        output = mel(vocoder(wanted, torch.zeros(1, n_frames), noise=noise)[:, 0])
    level = output - vocoder.log_width
    assert (level[0, peak] - level[0, peak - 12 : peak - 7].mean(0)).mean() == pytest.approx(3, abs=0.4)
    burst = level[0, 20:, 31:33].mean() - level[0, 20:, 10:25].mean()
    assert burst == pytest.approx(2, abs=0.3)
    assert int(level[0, 20:].mean(0).argmax()) in (31, 32)


def test_a_vocoders_noise_has_a_smoother_spectrogram_than_white_noise(mel: VocoderMel) -> None:
    vocoder, n_frames = untrained_vocoder(mel), 200
    constant = torch.full((1, 80, n_frames), -6.0) + vocoder.log_width
    noise = Noise(torch.Generator().manual_seed(1))
    with torch.no_grad():
        output = vocoder(constant, torch.zeros(1, n_frames), noise=noise)[:, 0]
    white = torch.randn(1, n_frames * HOP, generator=torch.Generator().manual_seed(1)) * output.std()
    uneven = [mel(sound)[0, 40:, 4:-4].std(dim=1).mean() for sound in (output, white)]
    assert uneven[0] < 0.5 * uneven[1], uneven
    expected = float(torch.exp(torch.tensor(-6.0 - 0.7)) / vocoder.n_fft**0.5)
    assert output.std() == pytest.approx(expected, rel=0.2)


def test_mel_bands_without_a_bin_leave_no_gaps() -> None:
    with pytest.warns(UserWarning, match="Empty filters"):
        sparse = VocoderMel(sample_rate_hz=RATE_HZ, n_fft=256, hop_samples=64, n_mels=80, fmax_hz=11025.0)
    assert (sparse.filters.sum(1) == 0).any()
    vocoder = FrameVocoder(sparse.filters, sampling_rate=RATE_HZ, hop_samples=64, channels=8, n_blocks=1)
    assert torch.allclose(vocoder.between_bands.sum(1), torch.ones(vocoder.n_fft // 2 + 1))
