"""The so-vits-svc 4.0 / 4.1 voice: content, f0 and speaker to waveform."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from svcnb.nn.attention import CausalEncoder, RelativeEncoder, TransformerSizes
from svcnb.nn.convolutions import Conv1d
from svcnb.nn.layers import (
    N_COARSE_BINS,
    WN,
    CouplingFlow,
    Noise,
    PosteriorEncoder,
    center_log_f0,
    f0_to_coarse,
    f0_to_log,
    full_precision,
    log_to_f0,
    random_starts,
    sample_latents,
    sequence_mask,
    slice_segments,
)
from svcnb.nn.nsf_hifigan import GeneratorSettings, HarmonicSource, NsfGenerator


@dataclass(frozen=True)
class ModelSettings:
    """The `model` section of the family's config.json, with its defaults.

    Args:
        n_flow_layer: WaveNet layers per coupling (of which there are 4); with use_transformer_flow it is the number
            of couplings.
        n_layers_trans_flow: layers per coupling with use_transformer_flow.
        use_depthwise_conv: in the WaveNet stacks only.
        vocoder_name: one of DECODERS.
    """

    inter_channels: int = 192
    hidden_channels: int = 192
    filter_channels: int = 768
    n_heads: int = 2
    n_layers: int = 6
    kernel_size: int = 3
    p_dropout: float = 0.1
    resblock: str = "1"
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
    resblock_dilation_sizes: tuple[tuple[int, ...], ...] = ((1, 3, 5),) * 3
    upsample_rates: tuple[int, ...] = (8, 8, 2, 2, 2)
    upsample_initial_channel: int = 512
    upsample_kernel_sizes: tuple[int, ...] = (16, 16, 4, 4, 4)
    n_layers_trans_flow: int = 3
    n_flow_layer: int = 4
    gin_channels: int = 768
    ssl_dim: int = 768
    n_speakers: int = 200
    vocoder_name: str = "nsf-hifigan"
    vol_embedding: bool = False
    use_depthwise_conv: bool = False
    flow_share_parameter: bool = False
    use_automatic_f0_prediction: bool = True
    use_transformer_flow: bool = False

    @classmethod
    def from_section(cls, section: dict[str, Any]) -> ModelSettings:
        """Keep the keys that shape the network; the section has others (n_layers_q, speech_encoder ...)."""
        known = cls.__dataclass_fields__
        return cls(**{key: value for key, value in section.items() if key in known})


@dataclass
class TrainOutput:
    """What a training step compares.

    audio [B, 1, segment * hop]; slice_start long [B], frames; mask [B, 1, N]; latents z, z_p, m_p, logs_p, m_q, logs_q
    [B, C, N]; pred_lf0, norm_lf0, lf0 [B, 1, N] on the scale of `f0_to_log`, the first two None without the predictor.
    """

    audio: Tensor
    slice_start: Tensor
    mask: Tensor
    z: Tensor
    z_p: Tensor
    m_p: Tensor
    logs_p: Tensor
    m_q: Tensor
    logs_q: Tensor
    pred_lf0: Tensor | None
    norm_lf0: Tensor | None
    lf0: Tensor


@dataclass
class InferOutput:
    """audio [B, 1, N * hop] in -1..1; f0_hz [B, N], the f0 that was sung (predicted where asked for)."""

    audio: Tensor
    f0_hz: Tensor


@dataclass
class PriorOutput:
    """x [B, C, N], embedded content; mask [B, 1, N]; m_p and logs_p [B, C, N], mean and log deviation of z_p."""

    x: Tensor
    mask: Tensor
    m_p: Tensor
    logs_p: Tensor


def _transformer_sizes(settings: ModelSettings) -> TransformerSizes:
    return TransformerSizes(
        settings.hidden_channels,
        settings.filter_channels,
        settings.n_heads,
        settings.n_layers,
        settings.kernel_size,
        settings.p_dropout,
    )


class PriorEncoder(nn.Module):
    """Embedded content and coarse f0 -> mean and log deviation of the latents (`enc_p`)."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.proj = nn.Conv1d(settings.hidden_channels, 2 * settings.inter_channels, 1)
        self.f0_emb = nn.Embedding(N_COARSE_BINS, settings.hidden_channels)
        self.enc_ = RelativeEncoder(_transformer_sizes(settings))

    def forward(self, x: Tensor, mask: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, C, N], mask [B, 1, N], coarse long [B, N] -> (m, logs), each [B, inter, N]."""
        x = self.enc_((x + self.f0_emb(coarse).transpose(1, 2)) * mask, mask)
        return (self.proj(x) * mask).chunk(2, dim=1)


class F0Decoder(nn.Module):
    """Predict the log f0 the speaker would sing, from content and the centered contour of the source.

    It always hears the source's contour: it rescales a melody, it does not invent one.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.prenet = Conv1d(settings.hidden_channels, settings.hidden_channels, 3, padding=1)
        self.decoder = CausalEncoder(_transformer_sizes(settings))
        self.proj = nn.Conv1d(settings.hidden_channels, 1, 1)
        self.f0_prenet = nn.Conv1d(1, settings.hidden_channels, 3, padding=1)
        self.cond = Conv1d(settings.gin_channels, settings.hidden_channels, 1)

    def forward(self, x: Tensor, norm_lf0: Tensor, mask: Tensor, g: Tensor) -> Tensor:
        """x [B, C, N], norm_lf0 and mask [B, 1, N], g [B, gin, 1 or N] -> log f0 [B, 1, N]; no gradient into x."""
        x = x.detach() + self.cond(g) + self.f0_prenet(norm_lf0)
        return self.proj(self.decoder(self.prenet(x) * mask, mask)) * mask


def _nsf_decoder(settings: ModelSettings, sampling_rate_hz: int, *, snake: bool) -> nn.Module:
    shared = ModelSettings.__dataclass_fields__.keys() & GeneratorSettings.__dataclass_fields__.keys()
    sizes = GeneratorSettings(**{key: getattr(settings, key) for key in shared}, snake=snake)
    source = HarmonicSource(sampling_rate_hz, unused_draw=True)
    return NsfGenerator(settings.inter_channels, sizes, source=source, gin_channels=settings.gin_channels)


def _frame_decoder(settings: ModelSettings, sampling_rate_hz: int) -> nn.Module:
    from svcnb.nn.frame_decoder import FrameDecoder

    return FrameDecoder(
        settings.inter_channels,
        gin_channels=settings.gin_channels,
        sampling_rate=sampling_rate_hz,
        hop_samples=math.prod(settings.upsample_rates),
        channels=settings.upsample_initial_channel,
    )


# vocoder_name -> decoder(z [B, C, N], f0 [B, N], g, *, noise) -> [B, 1, N * hop]
DECODERS: dict[str, Callable[[ModelSettings, int], nn.Module]] = {
    "nsf-hifigan": lambda settings, rate_hz: _nsf_decoder(settings, rate_hz, snake=False),
    "nsf-snake-hifigan": lambda settings, rate_hz: _nsf_decoder(settings, rate_hz, snake=True),
    "svcnb-frame": _frame_decoder,
}


def _make_flow(settings: ModelSettings) -> CouplingFlow:
    def transformer() -> nn.Module:
        sizes = replace(_transformer_sizes(settings), n_layers=settings.n_layers_trans_flow, kernel_size=5)
        return CausalEncoder(sizes, gin_channels=settings.gin_channels)

    def wavenet() -> nn.Module:
        return WN(
            settings.hidden_channels,
            5,
            n_layers=settings.n_flow_layer,
            gin_channels=settings.gin_channels,
            depthwise=settings.use_depthwise_conv,
        )

    return CouplingFlow(
        settings.inter_channels,
        settings.hidden_channels,
        transformer if settings.use_transformer_flow else wavenet,
        n_couplings=settings.n_flow_layer if settings.use_transformer_flow else 4,
        shared=settings.flow_share_parameter,
    )


class SynthesizerTrn(nn.Module):
    """Conditional variational autoencoder with flow and adversarially trained decoder.

    Args:
        spec_channels: bins of the linear spectrogram, filter_length // 2 + 1.
        segment_frames: length of the training segment that the decoder hears.
        sampling_rate: Hz.
        version: "4.1" or "4.0", see `f0_to_coarse`.
        model_section: keys of ModelSettings; others are ignored.

    Source: VITS (Kim et al. 2021) as changed by so-vits-svc 4.0 / 4.1. Submodules are created in its order, because
    optimiser states count parameters.
    """

    def __init__(
        self,
        spec_channels: int,
        segment_frames: int,
        *,
        sampling_rate: int = 44100,
        version: str = "4.1",
        **model_section: Any,
    ) -> None:
        super().__init__()
        settings = ModelSettings.from_section(model_section)
        if settings.vocoder_name not in DECODERS:
            raise ValueError(f"vocoder_name {settings.vocoder_name!r}: expected one of {', '.join(DECODERS)}")
        self.settings, self.version, self.segment_frames = settings, version, segment_frames
        self.hop_samples = math.prod(settings.upsample_rates)
        self.emb_g = nn.Embedding(settings.n_speakers, settings.gin_channels)
        if settings.vol_embedding:
            self.emb_vol = nn.Linear(1, settings.hidden_channels)
        self.pre = Conv1d(settings.ssl_dim, settings.hidden_channels, 5, padding=2)
        self.enc_p = PriorEncoder(settings)
        self.dec = DECODERS[settings.vocoder_name](settings, sampling_rate)
        self.enc_q = PosteriorEncoder(
            spec_channels,
            settings.inter_channels,
            settings.hidden_channels,
            gin_channels=settings.gin_channels,
            depthwise=settings.use_depthwise_conv,
        )
        self.flow = _make_flow(settings)
        if settings.use_automatic_f0_prediction:
            self.f0_decoder = F0Decoder(settings)
        self.emb_uv = nn.Embedding(2, settings.hidden_channels)

    # ---------------------------------------------------------------- parts

    def embed_speaker(self, speaker: Tensor) -> Tensor:
        """Speaker vector g.

        Args:
            speaker: long [B, 1], ids; or float [N, S], weights of the first S speakers per frame, for one item.

        Returns:
            [B, gin, 1], or [1, gin, N] for weights.
        """
        if speaker.is_floating_point():
            table = self.emb_g.weight[: speaker.shape[1]]
            return (speaker.to(table.dtype) @ table).t().unsqueeze(0)
        return self.emb_g(speaker).transpose(1, 2)

    def embed_content(self, content: Tensor, voiced: Tensor, volume: Tensor | None, mask: Tensor) -> Tensor:
        """Content [B, D, N], voiced flags and (where the model knows it) volume [B, N] -> x [B, C, N]."""
        x = self.pre(content.to(self.pre.weight.dtype)) * mask
        x = x + self.emb_uv(voiced.long()).transpose(1, 2)  # outside the mask too, as in the original
        if self.settings.vol_embedding and volume is not None:
            x = x + self.emb_vol(volume.unsqueeze(-1).to(self.emb_vol.weight.dtype)).transpose(1, 2)
        return x

    def prior(
        self,
        content: Tensor,
        f0: Tensor,
        voiced: Tensor,
        *,
        volume: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> PriorOutput:
        """Embed the content and encode it with f0 [B, N] in Hz; mask None = all frames count."""
        if mask is None:
            mask = torch.ones_like(f0).unsqueeze(1).to(self.pre.weight.dtype)
        x = self.embed_content(content, voiced, volume, mask)
        return PriorOutput(x, mask, *self.enc_p(x, mask, f0_to_coarse(f0, version=self.version)))

    def source_f0(self, f0: Tensor, voiced: Tensor) -> Tensor:
        """f0 [B, N] as the decoder hears it: the family's decoders sing through gaps, ours falls silent in them."""
        return f0 * voiced if getattr(self.dec, "silent_when_unvoiced", False) else f0

    def predict_log_f0(
        self, x: Tensor, f0: Tensor, voiced: Tensor, mask: Tensor, g: Tensor, *, factor: Tensor | float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Predicted log f0 and the centered contour it was predicted from, each [B, 1, N]."""
        norm_lf0 = center_log_f0(f0_to_log(f0).unsqueeze(1), voiced, mask, factor=factor)
        return self.f0_decoder(x, norm_lf0.to(self.pre.weight.dtype), mask, g), norm_lf0

    # ---------------------------------------------------------------- training and inference

    def forward(
        self,
        content: Tensor,
        f0: Tensor,
        voiced: Tensor,
        spec: Tensor,
        speaker: Tensor,
        lengths: Tensor,
        volume: Tensor | None = None,
        *,
        noise: Noise | None = None,
    ) -> TrainOutput:
        """One training pass: whole clips through both encoders, one segment per clip through the decoder.

        Args:
            content: [B, D, N].
            f0: [B, N] in Hz, gaps interpolated.
            voiced: [B, N], 1 = voiced.
            spec: linear spectrogram [B, F, N].
            speaker: long [B, 1].
            lengths: long [B], frames.
            volume: [B, N] or None.
            noise: random numbers; None = torch's default generator.
        """
        noise = noise or Noise()
        g = self.embed_speaker(speaker)
        mask = sequence_mask(lengths, f0.shape[-1])
        prior = self.prior(content, f0, voiced, volume=volume, mask=mask)
        pred_lf0 = norm_lf0 = None
        if self.settings.use_automatic_f0_prediction:
            factor = noise.pitch_factor(len(f0), like=f0)
            pred_lf0, norm_lf0 = self.predict_log_f0(prior.x, f0, voiced, mask, g, factor=factor)
        m_q, logs_q = self.enc_q(spec, mask, g)
        z = sample_latents(m_q, logs_q, mask, noise)
        z_p = self.flow(z, mask, g)
        slice_start = random_starts(lengths, self.segment_frames, noise)
        z_segment = slice_segments(z, slice_start, self.segment_frames)
        f0_segment = slice_segments(
            self.source_f0(f0, voiced).unsqueeze(1), slice_start, self.segment_frames
        ).squeeze(1)
        audio = self.dec(z_segment, f0_segment, g, noise=noise)
        return TrainOutput(
            audio=audio,
            slice_start=slice_start,
            mask=mask,
            z=z,
            z_p=z_p,
            m_p=prior.m_p,
            logs_p=prior.logs_p,
            m_q=m_q,
            logs_q=logs_q,
            pred_lf0=pred_lf0,
            norm_lf0=norm_lf0,
            lf0=f0_to_log(f0).unsqueeze(1),
        )

    @torch.no_grad()
    def infer(
        self,
        content: Tensor,
        f0: Tensor,
        voiced: Tensor,
        speaker: Tensor,
        *,
        volume: Tensor | None = None,
        noise_scale: float = 0.35,
        predict_f0: bool = False,
        noise: Noise | None = None,
    ) -> InferOutput:
        """Sing the content.

        Args:
            content: [B, D, N].
            f0: [B, N] in Hz, gaps interpolated (where 0, the source is noise).
            voiced: [B, N], 1 = voiced.
            speaker: long [B, 1], or mix weights, see `embed_speaker`.
            volume: [B, N] or None.
            noise_scale: 0..1, deviation of the latents; lower is steadier and duller.
            predict_f0: let the model move f0 into the speaker's range (for speech; it spoils melodies).
            noise: `Noise(torch.Generator().manual_seed(52468))` gives the original's numbers on the CPU.

        Raises:
            ValueError: predict_f0 with a model that has no f0 decoder.
        """
        noise = noise or Noise()
        g = self.embed_speaker(speaker)
        if predict_f0:
            f0 = self._predict_f0(content, f0, voiced, volume, g)
        prior = self.prior(content, f0, voiced, volume=volume)
        z_p = sample_latents(prior.m_p, prior.logs_p, prior.mask, noise, noise_scale=noise_scale)
        z = self.flow(z_p, prior.mask, g, reverse=True)
        return InferOutput(self.dec(z * prior.mask, self.source_f0(f0, voiced), g, noise=noise), f0)

    def _predict_f0(
        self, content: Tensor, f0: Tensor, voiced: Tensor, volume: Tensor | None, g: Tensor
    ) -> Tensor:
        if not self.settings.use_automatic_f0_prediction:
            raise ValueError(
                "no f0 decoder in this voice (use_automatic_f0_prediction is false): leave predict_f0 off"
            )
        mask = torch.ones_like(f0).unsqueeze(1).to(self.pre.weight.dtype)
        # Half precision would be off by up to 7 cents, and the predictor is a small part of the work.
        with full_precision(f0.device):
            x = self.embed_content(content, voiced, volume, mask)
            log_f0, _ = self.predict_log_f0(x, f0, voiced, mask, g.to(x.dtype))
        return log_to_f0(log_f0).squeeze(1)
