"""Loss terms against their formulas written out."""

from __future__ import annotations

import pytest
import torch

from svcnb.training import losses


def test_perfect_discriminator_and_perfect_generator_have_no_loss():
    ones, zeros = [torch.ones(2, 3)] * 2, [torch.zeros(2, 3)] * 2
    assert losses.discriminator_loss(ones, zeros) == 0
    assert losses.adversarial_loss(ones) == 0
    assert losses.discriminator_loss(zeros, ones) == 4 and losses.adversarial_loss(zeros) == 2


def test_feature_loss_is_twice_the_summed_mean_difference_and_leaves_real_maps_alone():
    real = [[torch.zeros(1, 4, requires_grad=True), torch.zeros(1, 2, requires_grad=True)]]
    fake = [[torch.full((1, 4), 0.5, requires_grad=True), torch.full((1, 2), -1.0, requires_grad=True)]]
    loss = losses.feature_loss(real, fake)
    loss.backward()
    assert loss.item() == pytest.approx(2 * (0.5 + 1.0))
    assert real[0][0].grad is None and fake[0][0].grad is not None


def test_kl_is_per_valid_frame_and_ignores_padding():
    z_p, m_p = torch.ones(1, 3, 4), torch.zeros(1, 3, 4)
    logs = torch.zeros(1, 3, 4)
    mask = torch.tensor([[[1.0, 1.0, 0.0, 0.0]]])
    assert losses.kl_loss(z_p, logs, m_p, logs, mask).item() == pytest.approx(0.0)  # -0.5 + 0.5 * 1
    assert losses.kl_loss(2 * z_p, logs, m_p, logs, mask).item() == pytest.approx(3 * 1.5)
    z_p[..., 2:] = 1e6
    assert losses.kl_loss(z_p, logs, m_p, logs, mask).item() == pytest.approx(0.0)


def test_losses_are_computed_in_float32():
    large = torch.full((1, 1, 8), 300.0, dtype=torch.float16)  # its square does not fit in float16
    assert losses.lf0_loss(large, torch.zeros_like(large)).item() == 90_000
    assert losses.adversarial_loss([large]).dtype == torch.float32
    assert losses.mel_loss(large, -large).item() == 600


def test_the_stft_loss_ignores_what_is_above_the_band() -> None:
    noise = torch.randn(1, 1, 22050, generator=torch.Generator().manual_seed(0))
    whistle = 3 * torch.sin(2 * torch.pi * 9500 * torch.arange(22050) / 22050)
    whole, below = (
        float(losses.stft_loss(noise + whistle, noise, band=band)) for band in (1.0, 7600 / 11025)
    )
    assert below < 0.02 < 0.2 < whole
    assert float(losses.stft_loss(2 * noise, noise, band=7600 / 11025)) > 0.5


def test_parts_of_a_batch_add_up_to_its_stft_loss_with_the_mean_of_all() -> None:
    """Parts of different loudness and size: relative to their own means they add up to another value."""
    draws = torch.Generator().manual_seed(0)
    real = torch.randn(3, 1, 4096, generator=draws) * torch.tensor([1.0, 0.5, 0.01])[:, None, None]
    fake = real + 0.1 * torch.randn(3, 1, 4096, generator=draws)
    parts = [slice(0, 1), slice(1, 3)]
    weights = [1 / 3, 2 / 3]

    def mean_of_all(sizes: tuple[int, int]):
        def mean(_: torch.Tensor) -> torch.Tensor:
            window = torch.hann_window(sizes[0])
            return torch.stft(real.squeeze(1), *sizes, window=window, return_complex=True).abs().mean()

        return mean

    for size in losses.STFT_SIZES:
        whole = losses.stft_loss(fake, real, sizes=[size])
        added, apart = (
            sum(
                w * losses.stft_loss(fake[part], real[part], sizes=[size], mean_of_all=mean)
                for w, part in zip(weights, parts, strict=True)
            )
            for mean in (mean_of_all(size), None)
        )
        torch.testing.assert_close(added, whole)
        assert abs(apart - whole) > 1e-2
