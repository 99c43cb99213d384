"""The so-vits-svc networks: layout of every switch, randomness, precision, parts compared with formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from svcnb.models.sovits.network import SynthesizerTrn
from svcnb.nn.attention import (
    CausalEncoder,
    MultiHeadAttention,
    TransformerSizes,
    band_to_square,
    square_to_band,
)
from svcnb.nn.discriminators import MultiPeriodDiscriminator
from svcnb.nn.layers import (
    Noise,
    center_log_f0,
    f0_to_coarse,
    f0_to_log,
    fold_weight_norm,
    log_to_f0,
    random_starts,
    slice_segments,
)
from svcnb.nn.nsf_hifigan import (
    AliasFreeSnake,
    GeneratorSettings,
    HarmonicSource,
    NsfGenerator,
    halfband_filter,
)

SMALL = {
    "inter_channels": 8,
    "hidden_channels": 8,
    "filter_channels": 12,
    "n_layers": 1,
    "resblock_kernel_sizes": (3,),
    "resblock_dilation_sizes": ((1, 3),),
    "upsample_rates": (8, 8),
    "upsample_kernel_sizes": (16, 16),
    "upsample_initial_channel": 8,
    "n_flow_layer": 2,
    "n_layers_trans_flow": 1,
    "gin_channels": 6,
    "ssl_dim": 5,
    "n_speakers": 3,
}
TINY_TEMPLATE = {
    "filter_channels": 512,
    "upsample_initial_channel": 400,
    "use_depthwise_conv": True,
    "flow_share_parameter": True,
}
# switches, entries of the state dict, trainable tensors, trainable values
LAYOUTS = [
    ({}, 751, 751, 52_402_957),
    ({"vol_embedding": True}, 753, 753, 52_403_341),
    ({"use_automatic_f0_prediction": False}, 647, 647, 45_935_436),
    ({"use_depthwise_conv": True}, 847, 847, 43_008_781),
    ({"flow_share_parameter": True}, 778, 670, 43_639_693),
    ({"use_transformer_flow": True}, 855, 855, 64_057_357),
    ({"use_transformer_flow": True, "flow_share_parameter": True}, 908, 696, 46_553_293),
    ({"vocoder_name": "nsf-snake-hifigan"}, 1135, 943, 52_422_829),
    (TINY_TEMPLATE, 886, 730, 28_651_640),
    ({"gin_channels": 256, "ssl_dim": 256}, 751, 751, 45_157_133),
]
SWITCHES = [
    {},
    {"use_transformer_flow": True},
    {"use_transformer_flow": True, "flow_share_parameter": True},
    {"use_depthwise_conv": True, "flow_share_parameter": True},
    {"vocoder_name": "nsf-snake-hifigan"},
    {"resblock": "2", "vol_embedding": True},
    {"use_automatic_f0_prediction": False},
]


def small_model(**switches) -> SynthesizerTrn:
    torch.manual_seed(0)
    model = SynthesizerTrn(9, 4, **SMALL | switches).eval()
    for flow in model.flow.flows[::2]:  # an untrained coupling is the identity
        nn.init.normal_(flow.post.weight, std=0.3)
    return model


def inputs(n_frames: int = 12, n_items: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "content": torch.randn(n_items, 5, n_frames, generator=generator),
        "f0": 200 + 50 * torch.rand(n_items, n_frames, generator=generator),
        "voiced": torch.ones(n_items, n_frames),
        "speaker": torch.full((n_items, 1), 1),
    }


def seeded(seed: int = 52468) -> Noise:
    return Noise(torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- layout


@pytest.mark.parametrize(("switches", "n_keys", "n_tensors", "n_values"), LAYOUTS)
def test_state_dict_of_every_switch_has_the_familys_layout(switches, n_keys, n_tensors, n_values):
    with torch.device("meta"):
        model = SynthesizerTrn(1025, 20, **switches)
    assert len(model.state_dict()) == n_keys
    assert len(list(model.parameters())) == n_tensors
    assert sum(p.numel() for p in model.parameters()) == n_values


def test_submodules_are_created_in_the_order_that_optimiser_states_count_in():
    model = small_model(vol_embedding=True)
    expected = ["emb_g", "emb_vol", "pre", "enc_p", "dec", "enc_q", "flow", "f0_decoder", "emb_uv"]
    assert [name for name, _ in model.named_children()] == expected


@pytest.mark.parametrize(
    ("periods", "n_keys", "n_values"),
    [
        ((2, 3, 5, 7, 11), 111, 46_747_132),
        ((2, 3, 5, 7, 11, 17), 129, 54_968_286),
        ((2, 3, 5, 7, 11, 17, 23, 37), 165, 71_410_594),
    ],
)
def test_discriminators_of_all_families_have_their_layout(periods, n_keys, n_values):
    with torch.device("meta"):
        discriminator = MultiPeriodDiscriminator(periods=periods)
    assert len(discriminator.state_dict()) == n_keys
    assert sum(p.numel() for p in discriminator.parameters()) == n_values


def test_shared_flow_is_one_module_and_is_trained_once():
    model = small_model(flow_share_parameter=True)
    assert all(flow.enc is model.flow.wn for flow in model.flow.flows[::2])
    assert sum(p is model.flow.wn.cond_layer.bias for p in model.parameters()) == 1


def test_unknown_vocoder_name_is_refused_with_the_accepted_ones():
    with pytest.raises(ValueError, match="'nsf-other'.*nsf-hifigan, nsf-snake-hifigan, svcnb-frame"):
        SynthesizerTrn(9, 4, **SMALL, vocoder_name="nsf-other")


def test_upsampling_that_does_not_align_with_the_source_is_refused():
    with pytest.raises(ValueError, match="even number"):
        GeneratorSettings(upsample_rates=(8,), upsample_kernel_sizes=(11,))


# ---------------------------------------------------------------- inference and training


@pytest.mark.parametrize("switches", SWITCHES)
def test_every_switch_synthesizes_and_trains_with_gradients_everywhere(switches):
    model = small_model(**switches)
    given = inputs(n_items=2)
    volume = torch.rand(2, 12)
    assert model.infer(**given, volume=volume).audio.shape == (2, 1, 12 * 64)
    out = model(
        **given, spec=torch.rand(2, 9, 12), lengths=torch.tensor([12, 7]), volume=volume, noise=seeded()
    )
    assert out.audio.shape == (2, 1, 4 * 64)
    latents = [x for x in (out.z_p, out.m_p, out.logs_p, out.logs_q, out.pred_lf0) if x is not None]
    (out.audio.square().mean() + sum(x.square().mean() for x in latents)).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_infer_is_reproducible_with_a_seed_and_differs_with_another():
    model, given = small_model(), inputs()
    first, again, other = (model.infer(**given, noise=seeded(seed)).audio for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_seeded_cpu_generator_gives_the_numbers_of_torch_manual_seed():
    model, given = small_model(), inputs()
    torch.manual_seed(52468)
    assert torch.equal(model.infer(**given).audio, model.infer(**given, noise=seeded()).audio)


def test_infer_draws_in_the_originals_order_with_its_unused_last_draw():
    class RecordingNoise(Noise):
        drawn: list[tuple] = []

        def normal(self, shape, *, like):
            self.drawn.append(("normal", *shape))
            return super().normal(shape, like=like)

        def uniform(self, shape, *, like):
            self.drawn.append(("uniform", *shape))
            return super().uniform(shape, like=like)

    noise = RecordingNoise()
    small_model().infer(**inputs(), predict_f0=True, noise=noise)
    source = [("uniform", 1, 9), ("normal", 1, 12 * 64, 9), ("normal", 1, 12 * 64, 1)]
    assert noise.drawn == [("normal", 1, 8, 12), *source]


def test_mix_weights_of_one_speaker_equal_the_embedding_row():
    model, given = small_model(), inputs()
    weights = torch.zeros(12, 3)
    weights[:, 1] = 1.0
    mixed = model.infer(**given | {"speaker": weights}, noise=seeded()).audio
    torch.testing.assert_close(mixed, model.infer(**given, noise=seeded()).audio, atol=1e-6, rtol=0)


def test_padding_changes_nothing_for_the_valid_frames():
    model = small_model()
    given = inputs(n_frames=16)
    mask = torch.ones(1, 1, 16)
    mask[..., 10:] = 0
    given["content"][..., 10:] = 0
    padded = model.prior(given["content"], given["f0"], given["voiced"], mask=mask)
    short = model.prior(given["content"][..., :10], given["f0"][:, :10], given["voiced"][:, :10])
    torch.testing.assert_close(padded.m_p[..., :10], short.m_p, atol=1e-5, rtol=1e-5)
    assert padded.m_p[..., 10:].abs().max() == 0


def test_predicting_f0_without_a_predictor_is_refused():
    with pytest.raises(ValueError, match="no f0 decoder"):
        small_model(use_automatic_f0_prediction=False).infer(**inputs(), predict_f0=True)


@pytest.mark.parametrize("switches", SWITCHES[:4])
def test_flow_runs_backwards(switches):
    model = small_model(**switches)
    z, mask, g = torch.randn(2, 8, 12), torch.ones(2, 1, 12), torch.randn(2, 6, 1)
    z_p = model.flow(z, mask, g)
    assert (z_p - z.flip(1)).abs().max() > 0.01
    torch.testing.assert_close(model.flow(z_p, mask, g, reverse=True), z, atol=1e-4, rtol=1e-4)


# ---------------------------------------------------------------- precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_synthesizes_and_trains_close_to_full_precision(dtype):
    model, given = small_model(), inputs()
    expected = model.infer(**given, noise=seeded()).audio
    with torch.autocast("cpu", dtype):
        audio = model.infer(**given, noise=seeded()).audio
        out = model(**given, spec=torch.rand(1, 9, 12), lengths=torch.tensor([12]))
    torch.testing.assert_close(audio.float(), expected, atol=0.02, rtol=0.1)
    out.audio.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.dec.parameters())


def test_half_precision_weights_synthesize():
    model, given = small_model(), inputs()
    expected = model.infer(**given, noise=seeded()).audio
    out = model.bfloat16().infer(**given, noise=seeded(), predict_f0=True)
    assert out.audio.dtype == torch.bfloat16 and out.f0_hz.dtype == torch.float32
    torch.testing.assert_close(
        model.infer(**given, noise=seeded()).audio.float(), expected, atol=0.03, rtol=0.1
    )


def test_predicted_f0_is_not_rounded_by_autocast():
    model, given = small_model(), inputs()
    expected = model.infer(**given, predict_f0=True).f0_hz
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.infer(**given, predict_f0=True).f0_hz, expected)


def test_folding_the_weight_norm_does_not_change_the_audio():
    model, given = small_model(), inputs()
    expected = model.infer(**given, noise=seeded()).audio
    fold_weight_norm(model)
    assert not any("parametrizations" in name for name in model.state_dict())
    torch.testing.assert_close(model.infer(**given, noise=seeded()).audio, expected, atol=1e-6, rtol=0)


# ---------------------------------------------------------------- segments and f0 scales


def test_slicing_cuts_every_item_at_its_own_start():
    x, starts = torch.randn(3, 2, 20), torch.tensor([0, 7, 15])
    expected = torch.stack([x[i, :, start : start + 5] for i, start in enumerate(starts)])
    assert torch.equal(slice_segments(x, starts, 5), expected)


def test_slicing_too_short_items_raises():
    with pytest.raises(ValueError, match="3 steps are shorter than one segment of 4"):
        slice_segments(torch.zeros(1, 1, 3), torch.zeros(1, dtype=torch.long), 4)


def test_random_segments_stay_inside_the_item_and_short_items_start_at_zero():
    lengths = torch.tensor([20, 25, 6]).repeat(200)
    starts = random_starts(lengths, 20, seeded()).view(200, 3)
    assert starts.amax(0).tolist() == [0, 5, 0] and starts.amin(0).tolist() == [0, 0, 0]


def test_coarse_bins_match_the_originals_table():
    f0 = torch.tensor([0.0, 1, 50, 52, 100, 220, 440, 880, 1100, 1200, 2000])
    expected = [1, 1, 1, 2, 20, 60, 122, 217, 255, 0, 0]
    assert f0_to_coarse(f0, version="4.1").tolist() == expected
    assert f0_to_coarse(f0, version="4.0").tolist() == [*expected[:-2], 255, 255]


def test_log_f0_matches_the_golden_values_and_inverts():
    f0 = torch.tensor([[100.0, 200, 300, 400]])
    log_f0 = f0_to_log(f0).unsqueeze(1)
    torch.testing.assert_close(log_f0[0, 0], torch.tensor([0.3009783, 0.5664598, 0.8039412, 1.0187691]))
    centered = center_log_f0(log_f0, torch.tensor([[0.0, 1, 1, 0]]), torch.ones(1, 1, 4))
    torch.testing.assert_close(centered[0, 0], torch.tensor([-0.3842222, -0.1187407, 0.1187407, 0.3335686]))
    torch.testing.assert_close(log_to_f0(log_f0)[0], f0)


def test_centering_an_unvoiced_item_gives_no_nan():
    log_f0 = torch.rand(1, 1, 5)
    assert torch.equal(center_log_f0(log_f0, torch.zeros(1, 5), torch.ones(1, 1, 5)), log_f0)


# ---------------------------------------------------------------- attention


@pytest.mark.parametrize("n", [1, 3, 9])
def test_band_and_square_agree_with_a_loop(n):
    window = 2
    band = torch.randn(1, 1, n, 5)
    square = torch.zeros(1, 1, n, n)
    for t in range(n):
        for s in range(max(0, t - window), min(n, t + window + 1)):
            square[..., t, s] = band[..., t, s - t + window]
    assert torch.equal(band_to_square(band), square)
    inside = torch.tensor([[0 <= t + r - window < n for r in range(5)] for t in range(n)])
    assert torch.equal(square_to_band(square, window), band * inside)


def test_windowed_attention_follows_the_formula():
    torch.manual_seed(0)
    attention = MultiHeadAttention(8, 2, window=1)
    x = torch.randn(1, 8, 6)
    convs = (attention.conv_q, attention.conv_k, attention.conv_v)
    q, k, v = (conv(x)[0].view(2, 4, 6).transpose(1, 2) for conv in convs)
    heads = torch.zeros(2, 6, 4)
    for h in range(2):
        scores = q[h] @ k[h].T / 2  # sqrt(4)
        near = [(t, s) for t in range(6) for s in range(6) if abs(s - t) <= 1]
        for t, s in near:
            scores[t, s] += q[h, t] @ attention.emb_rel_k[0, s - t + 1] / 2
        weights = scores.softmax(-1)
        heads[h] = weights @ v[h]
        for t, s in near:
            heads[h, t] += weights[t, s] * attention.emb_rel_v[0, s - t + 1]
    expected = attention.conv_o(heads.transpose(1, 2).reshape(1, 8, 6))
    torch.testing.assert_close(attention(x), expected)


def test_cross_attention_ignores_hidden_keys():
    attention = MultiHeadAttention(8, 2)
    x, context = torch.randn(1, 8, 4), torch.randn(1, 8, 6)
    visible = (torch.arange(6) < 3).expand(1, 1, 4, 6)
    torch.testing.assert_close(attention(x, context, visible=visible), attention(x, context[..., :3]))


def test_causal_encoder_does_not_look_ahead():
    encoder = CausalEncoder(TransformerSizes(8, 12, n_heads=2, n_layers=2)).eval()
    x, mask = torch.randn(1, 8, 10), torch.ones(1, 1, 10)
    changed = x.clone()
    changed[..., 6:] += 1
    torch.testing.assert_close(encoder(changed, mask)[..., :6], encoder(x, mask)[..., :6])


def test_causal_encoders_keys_start_as_copies_of_the_queries():
    attention = CausalEncoder(TransformerSizes(8, 12, n_heads=2, n_layers=1)).self_attn_layers[0]
    assert torch.equal(attention.conv_k.weight, attention.conv_q.weight)


# ---------------------------------------------------------------- source and generator


class Silence(Noise):
    def normal(self, shape, *, like):
        return torch.zeros(shape)

    def uniform(self, shape, *, like):
        return torch.zeros(shape)


@pytest.mark.parametrize("accumulate", ["sample", "frame"])
def test_source_generates_the_harmonics_of_f0_with_continuous_phase(accumulate):
    source = HarmonicSource(8000, n_harmonics=3, accumulate=accumulate)
    f0 = torch.linspace(200, 260, 20).unsqueeze(0)
    sines = source.sines(f0, 64, Silence())
    phase = (f0.double().repeat_interleave(64, 1) / 8000).cumsum(1).unsqueeze(-1) * torch.arange(1, 4)
    torch.testing.assert_close(sines.double(), 0.1 * torch.sin(2 * math.pi * phase), atol=2e-4, rtol=0)


def test_source_is_noise_where_unvoiced_and_nearly_none_where_voiced():
    source = HarmonicSource(8000, n_harmonics=1)
    f0 = torch.tensor([[0.0] * 50 + [200.0] * 50])
    quiet = source.sines(f0, 64, Silence())
    added = (source.sines(f0, 64, seeded()) - quiet)[0, :, 0]
    assert quiet[0, : 50 * 64].abs().max() == 0
    assert added[: 50 * 64].std() == pytest.approx(0.1 / 3, rel=0.05)
    assert added[50 * 64 :].std() == pytest.approx(0.003, rel=0.05)


def test_source_accumulates_in_float32_as_recorded_and_in_float64_on_request():
    source = HarmonicSource(44100)
    f0 = torch.full((1, 100), 311.1)
    phase = (f0.double().repeat_interleave(512, 1) / 44100).cumsum(1)
    exact = 0.1 * torch.sin(2 * math.pi * phase)
    single = (source.sines(f0, 512, Silence())[..., 0] - exact).abs().max()
    source.phase_dtype = torch.float64
    double = (source.sines(f0, 512, Silence())[..., 0] - exact).abs().max()
    assert double < single < 1e-2


def test_snake_filter_has_the_originals_taps_and_passes_a_slow_wave():
    taps = [0.00202896, 0.00938947, -0.02554346, -0.05765738, 0.12857258, 0.44320980]
    expected = torch.tensor([*taps, *taps[::-1]])
    torch.testing.assert_close(halfband_filter().flatten(), expected, atol=1e-7, rtol=0)
    snake = AliasFreeSnake(1)
    x = torch.sin(torch.arange(200) / 20).view(1, 1, -1)
    torch.testing.assert_close(snake(x)[..., 20:-20], (x + x.sin() ** 2)[..., 20:-20], atol=2e-3, rtol=0)


def test_generator_without_a_source_is_plain_hifigan_and_can_have_plain_ends():
    settings = GeneratorSettings(upsample_initial_channel=32, plain_ends=True)
    generator = NsfGenerator(8, settings, gin_channels=4)
    names = list(generator.state_dict())
    assert "conv_pre.weight" in names and "conv_post.bias" not in names
    assert not any(name.startswith(("m_source", "noise_convs")) for name in names)
    assert generator(torch.randn(1, 8, 3), torch.zeros(1, 3), torch.randn(1, 4, 1)).shape == (1, 1, 3 * 512)


def test_discriminators_take_any_length_and_give_all_maps():
    with torch.no_grad():
        scores, maps = MultiPeriodDiscriminator(periods=(2, 3))(torch.randn(1, 1, 1001))
    assert [len(part) for part in maps] == [7, 6, 6]
    assert all(torch.equal(score, part[-1].flatten(1)) for score, part in zip(scores, maps, strict=True))
