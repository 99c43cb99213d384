"""The CPU convolutions equal torch's and are used only where intended; dropout has the requested rate."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from svcnb.device import freed_memory_kept
from svcnb.nn import convolutions
from svcnb.nn.attention import MultiHeadAttention
from svcnb.nn.convolutions import Conv1d, MatrixConvolution, TiledConvolution, convolve
from svcnb.nn.discriminators import PeriodDiscriminator, run_convs
from svcnb.nn.layers import drop_out


def values(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def compare(ours: torch.Tensor, expected: torch.Tensor, inputs: tuple[torch.Tensor, ...]) -> None:
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)
    grad = torch.randn_like(expected)
    for mine, theirs in zip(
        torch.autograd.grad(ours, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n_taps", [3, 4, 5, 7])
@pytest.mark.parametrize(("n_steps", "padding"), [(1, 2), (16, 0), (37, 2), (38, 1)])
def test_tiles_equal_the_convolution(n_taps: int, n_steps: int, padding: int) -> None:
    torch.manual_seed(0)
    padding = max(padding, n_taps - n_steps)
    x, weight, bias = values(5, 3, n_steps), values(7, 5, n_taps), values(7)
    expected = F.conv1d(x.transpose(0, 1), weight, bias, padding=padding).transpose(0, 1)
    compare(TiledConvolution.apply(x, weight, bias, padding), expected, (x, weight, bias))


@pytest.mark.parametrize("n_steps", [7, 18, 19, 20])
@pytest.mark.parametrize("stride", [1, 3])
def test_matrix_equals_the_convolution(n_steps: int, stride: int) -> None:
    torch.manual_seed(0)
    x, weight, bias = values(4, 3, n_steps), values(6, 4, 5), values(6)
    expected = F.conv1d(x.transpose(0, 1), weight, bias, stride=stride, padding=2).transpose(0, 1)
    compare(MatrixConvolution.apply(x, weight, bias, stride, 2), expected, (x, weight, bias))


def test_frozen_weights_get_no_gradient_and_the_input_does() -> None:
    x, weight, bias = values(4, 3, 20), values(6, 4, 5).detach(), values(6).detach()
    for y in (TiledConvolution.apply(x, weight, bias, 2), MatrixConvolution.apply(x, weight, bias, 1, 2)):
        (grad,) = torch.autograd.grad(y.sum(), x)
        assert grad.abs().sum() > 0


def test_single_precision_stays_as_exact_as_torch() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(256, 4, 64), torch.randn(256, 256, 5) / 36, torch.randn(256)
    exact = F.conv1d(x.double().transpose(0, 1), weight.double(), bias.double(), padding=2).transpose(0, 1)
    error = (TiledConvolution.apply(x, weight, bias, 2) - exact).norm() / exact.norm()
    assert error < 2e-6


def test_large_layers_are_tiled_and_small_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(
        convolutions, "convolve", lambda *args, **kwargs: calls.append(1) or convolve(*args, **kwargs)
    )
    Conv1d(64, 64, 5, padding=2)(torch.randn(2, 64, 400))
    Conv1d(128, 128, 5, padding=4, dilation=2)(torch.randn(2, 128, 400))
    with torch.autocast("cpu", torch.bfloat16):
        Conv1d(128, 128, 5, padding=2)(torch.randn(2, 128, 400))
    assert not calls
    layer, x = Conv1d(128, 128, 5, padding=2), torch.randn(2, 128, 400)
    torch.testing.assert_close(
        layer(x), F.conv1d(x, layer.weight, layer.bias, padding=2), rtol=1e-4, atol=1e-5
    )
    assert calls and layer(x).is_contiguous()


def test_period_discriminator_is_the_same_as_products() -> None:
    torch.manual_seed(0)
    part = PeriodDiscriminator(3).double()
    waveform = torch.randn(2, 1, 2000, dtype=torch.float64)
    scores, maps = part(waveform)
    folded = F.pad(waveform, (0, 1), mode="reflect").unflatten(-1, (-1, 3))
    expected_scores, expected_maps = run_convs(part.convs, part.conv_post, folded)
    torch.testing.assert_close(scores, expected_scores)
    for mine, theirs in zip(maps, expected_maps, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_dropout_has_the_requested_rate_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    y = drop_out(torch.ones(1001, 999), 0.1, True)
    assert abs(float((y == 0).float().mean()) - 0.1) < 0.002 and abs(float(y.mean()) - 1) < 0.002
    assert drop_out(y, 0.1, False) is y


def test_causal_attention_with_dropout_hides_later_frames() -> None:
    torch.manual_seed(0)
    attention, x = MultiHeadAttention(8, 2, p_dropout=1e-6), torch.randn(1, 8, 9)  # rounds to nothing dropped
    trained = attention.train()(x, causal=True)
    torch.testing.assert_close(trained, attention.eval()(x, causal=True))


def test_memory_goes_back_to_the_system_after_an_error_too() -> None:
    with pytest.raises(ZeroDivisionError), freed_memory_kept():
        torch.ones(10_000_000).sum() / (1 // 0)
    assert float(torch.ones(10_000_000).sum()) == 10_000_000
