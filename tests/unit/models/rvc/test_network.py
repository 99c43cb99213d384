"""RVC's networks have the sizes of the published models; inference of a part equals that of the whole."""

from __future__ import annotations

import pytest
import torch

from svcnb.models.rvc.network import CONTENT_WIDTHS, PERIODS, RvcSynthesizer
from svcnb.models.rvc.network import NetworkSettings as RvcSettings
from svcnb.nn.discriminators import MultiPeriodDiscriminator
from svcnb.nn.layers import Noise

RATES = {
    ("v1", 32000): (1024, (10, 4, 2, 2, 2), (16, 16, 4, 4, 4)),
    ("v1", 40000): (2048, (10, 10, 2, 2), (16, 16, 4, 4)),
    ("v1", 48000): (2048, (10, 6, 2, 2, 2), (16, 16, 4, 4, 4)),
    ("v2", 32000): (1024, (10, 8, 2, 2), (20, 16, 4, 4)),
    ("v2", 48000): (2048, (12, 10, 2, 2), (24, 20, 4, 4)),
}


def full_settings(version: str, rate_hz: int, *, with_f0: bool = True) -> RvcSettings:
    n_fft, rates, kernels = RATES[("v1" if rate_hz == 40000 else version, rate_hz)]
    return RvcSettings(
        spec_channels=n_fft // 2 + 1,
        segment_frames=32,
        sampling_rate=rate_hz,
        content_width=CONTENT_WIDTHS[version],
        with_f0=with_f0,
        upsample_rates=rates,
        upsample_kernel_sizes=kernels,
    )


def small_synthesizer(*, with_f0: bool = True) -> RvcSynthesizer:
    torch.manual_seed(0)
    settings = RvcSettings(
        spec_channels=129,
        segment_frames=8,
        sampling_rate=4000,
        content_width=16,
        with_f0=with_f0,
        inter_channels=8,
        hidden_channels=8,
        filter_channels=16,
        n_layers=1,
        upsample_rates=(10, 4),
        upsample_kernel_sizes=(16, 8),
        upsample_initial_channel=16,
        spk_embed_dim=2,
        gin_channels=4,
    )
    return RvcSynthesizer(settings).eval()


@pytest.mark.parametrize(
    ("version", "rate_hz", "with_f0", "n_tensors", "n_parameters"),
    [
        ("v1", 40000, True, 560, 36_360_514),
        ("v2", 40000, True, 560, 36_458_818),
        ("v1", 40000, False, 549, 36_289_088),
        ("v2", 40000, False, 549, 36_387_392),
        ("v1", 32000, True, 619, 36_294_338),
        ("v1", 48000, True, 619, 36_400_834),
        ("v2", 32000, True, 560, 36_880_706),
        ("v2", 48000, True, 560, 37_638_466),
    ],
)
def test_full_models_have_the_published_sizes(
    version: str, rate_hz: int, with_f0: bool, n_tensors: int, n_parameters: int
) -> None:
    with torch.device("meta"):
        network = RvcSynthesizer(full_settings(version, rate_hz, with_f0=with_f0))
    parameters = list(network.parameters())
    assert len(parameters) == n_tensors
    assert sum(parameter.numel() for parameter in parameters) == n_parameters


@pytest.mark.parametrize(
    ("version", "n_tensors", "n_parameters"), [("v1", 129, 54_968_286), ("v2", 165, 71_410_594)]
)
def test_discriminators_have_the_published_sizes(version: str, n_tensors: int, n_parameters: int) -> None:
    with torch.device("meta"):
        parameters = list(MultiPeriodDiscriminator(periods=PERIODS[version]).parameters())
    assert (len(parameters), sum(parameter.numel() for parameter in parameters)) == (n_tensors, n_parameters)


@pytest.mark.parametrize("with_f0", [True, False])
def test_context_frames_are_used_but_not_synthesized(with_f0: bool) -> None:
    network = small_synthesizer(with_f0=with_f0)
    phone, speaker = torch.randn(1, 60, 16), torch.zeros(1, dtype=torch.long)
    pitch = torch.full((1, 60), 80) if with_f0 else None
    f0 = torch.zeros(1, 60) if with_f0 else None
    quiet = {"noise_scale": 0.0, "noise": Noise(torch.Generator().manual_seed(1))}
    whole = network.infer(phone, pitch, f0, speaker, **quiet)
    part = network.infer(phone, pitch, f0, speaker, skip_frames=30, n_frames=20, **quiet)
    assert part.audio.shape == (1, 1, 20 * network.hop_samples)
    torch.testing.assert_close(part.z, whole.z[..., 30:50], atol=1e-5, rtol=1e-5)
    assert (
        network.infer(phone, pitch, f0, speaker, skip_frames=30).audio.shape[-1] == 30 * network.hop_samples
    )


def test_training_pass_gives_one_segment_for_each_clip() -> None:
    network = small_synthesizer()
    lengths = torch.tensor([20, 12])
    out = network(
        torch.randn(2, 20, 16),
        torch.full((2, 20), 80),
        torch.full((2, 20), 200.0),
        torch.rand(2, 129, 20),
        torch.tensor([0, 1]),
        lengths,
    )
    assert out.audio.shape == (2, 1, 8 * network.hop_samples)
    assert bool((out.slice_start + 8 <= lengths).all())
    assert not out.z_p[1, :, 12:].any()
