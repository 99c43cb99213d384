"""The RVC v1 / v2 voice: content, coarse pitch and speaker to waveform, with or without pitch guidance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svcnb.nn.attention import RelativeEncoder, TransformerSizes
from svcnb.nn.layers import (
    N_COARSE_BINS,
    WN,
    CouplingFlow,
    Noise,
    PosteriorEncoder,
    random_starts,
    sample_latents,
    sequence_mask,
    slice_segments,
)
from svcnb.nn.nsf_hifigan import GeneratorSettings, HarmonicSource, NsfGenerator

CONTENT_WIDTHS = {"v1": 256, "v2": 768}
PERIODS = {"v1": (2, 3, 5, 7, 11, 17), "v2": (2, 3, 5, 7, 11, 17, 23, 37)}  # of the discriminators
ATTENTION_WINDOW = 10  # frames to either side
N_COUPLINGS, N_FLOW_LAYERS = 4, 3
FLOW_CONTEXT_FRAMES = (
    24  # how far a frame of the flow looks to either side: couplings x layers x half a kernel
)
NOISE_SCALE = 0.66666
RATE_HZ, HOP_SAMPLES = 16000, 160
F0_MIN_HZ, F0_MAX_HZ = 50.0, 1100.0
N_BINS = 256  # rows of the embedding; bin 0 is never produced


@dataclass(frozen=True)
class NetworkSettings:
    """Sizes of the networks, under the names of the family's config.json.

    Args:
        spec_channels: bins of the linear spectrogram, filter_length // 2 + 1.
        segment_frames: length of the training segment that the decoder hears.
        content_width: 256 (v1), 768 (v2), or that of another encoder.
        with_f0: pitch guidance.
        vocoder_name: "nsf-hifigan", or "svcnb-frame" for our decoder at frame rate.
        use_depthwise_conv: in the WaveNet stacks; not RVC's.
    """

    spec_channels: int
    segment_frames: int
    sampling_rate: int
    content_width: int
    with_f0: bool = True
    inter_channels: int = 192
    hidden_channels: int = 192
    filter_channels: int = 768
    n_heads: int = 2
    n_layers: int = 6
    kernel_size: int = 3
    p_dropout: float = 0.0
    resblock: str = "1"
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
    resblock_dilation_sizes: tuple[tuple[int, ...], ...] = ((1, 3, 5),) * 3
    upsample_rates: tuple[int, ...] = (10, 10, 2, 2)
    upsample_initial_channel: int = 512
    upsample_kernel_sizes: tuple[int, ...] = (16, 16, 4, 4)
    spk_embed_dim: int = 109
    gin_channels: int = 256
    vocoder_name: str = "nsf-hifigan"
    use_depthwise_conv: bool = False


@dataclass
class RvcPass:
    """What a training step compares: audio [B, 1, segment * hop]; slice_start long [B]; mask [B, 1, N]; the rest [B, C, N]."""

    audio: Tensor
    slice_start: Tensor
    mask: Tensor
    z: Tensor
    z_p: Tensor
    m_p: Tensor
    logs_p: Tensor
    m_q: Tensor
    logs_q: Tensor


@dataclass
class RvcOutput:
    """audio [B, 1, n * hop]; mask [B, 1, n]; z, z_p, m_p, logs_p [B, C, n] as far as they were computed."""

    audio: Tensor
    mask: Tensor
    z: Tensor
    z_p: Tensor
    m_p: Tensor
    logs_p: Tensor


class TextEncoder(nn.Module):
    """Content and coarse pitch -> mean and log deviation of the latents (`enc_p`)."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.hidden_channels = settings.hidden_channels
        self.emb_phone = nn.Linear(settings.content_width, settings.hidden_channels)
        if settings.with_f0:
            self.emb_pitch = nn.Embedding(N_COARSE_BINS, settings.hidden_channels)
        sizes = TransformerSizes(
            settings.hidden_channels,
            settings.filter_channels,
            settings.n_heads,
            settings.n_layers,
            settings.kernel_size,
            settings.p_dropout,
        )
        self.encoder = RelativeEncoder(sizes, window=ATTENTION_WINDOW)
        self.proj = nn.Conv1d(settings.hidden_channels, 2 * settings.inter_channels, 1)

    def forward(
        self, phone: Tensor, pitch: Tensor | None, mask: Tensor, *, first: int = 0
    ) -> tuple[Tensor, Tensor]:
        """phone [B, N, D], pitch long [B, N] or None, mask [B, 1, N] -> (m, logs), each [B, inter, N - first]."""
        x = self.emb_phone(phone)  # [B, N, C]
        if pitch is not None:
            x = x + self.emb_pitch(pitch)
        x = F.leaky_relu(x * math.sqrt(self.hidden_channels), 0.1).transpose(1, 2)  # [B, C, N]
        x = self.encoder(x * mask, mask)[..., first:]
        return (self.proj(x) * mask[..., first:]).chunk(2, dim=1)


def _make_decoder(settings: NetworkSettings) -> nn.Module:
    if settings.vocoder_name == "svcnb-frame":
        from svcnb.nn.frame_decoder import FrameDecoder

        return FrameDecoder(
            settings.inter_channels,
            gin_channels=settings.gin_channels,
            sampling_rate=settings.sampling_rate,
            hop_samples=math.prod(settings.upsample_rates),
            channels=settings.upsample_initial_channel,
        )
    if settings.vocoder_name != "nsf-hifigan":
        raise ValueError(f"vocoder_name {settings.vocoder_name!r}: expected nsf-hifigan or svcnb-frame")
    shared = GeneratorSettings.__dataclass_fields__.keys() & NetworkSettings.__dataclass_fields__.keys()
    sizes = GeneratorSettings(**{key: getattr(settings, key) for key in shared}, plain_ends=True)
    source = (
        HarmonicSource(settings.sampling_rate, n_harmonics=1, accumulate="frame")
        if settings.with_f0
        else None
    )
    return NsfGenerator(settings.inter_channels, sizes, source=source, gin_channels=settings.gin_channels)


class RvcSynthesizer(nn.Module):
    """Conditional variational autoencoder with flow and adversarially trained decoder.

    Source: VITS (Kim et al. 2021) as changed by RVC 20240604 (SynthesizerTrnMs256NSFsid, ...768NSFsid, ..._nono).
    Submodules are created in its order, because optimiser states count parameters: v2's (since June 2024) has enc_p last.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.settings, self.segment_frames = settings, settings.segment_frames
        self.hop_samples = math.prod(settings.upsample_rates)
        inter, hidden, gin = settings.inter_channels, settings.hidden_channels, settings.gin_channels
        self.enc_p = TextEncoder(settings)
        self.dec = _make_decoder(settings)
        depthwise = {"gin_channels": gin, "depthwise": settings.use_depthwise_conv}
        self.enc_q = PosteriorEncoder(settings.spec_channels, inter, hidden, **depthwise)
        self.flow = CouplingFlow(
            inter, hidden, lambda: WN(hidden, 5, n_layers=N_FLOW_LAYERS, **depthwise), n_couplings=N_COUPLINGS
        )
        self.emb_g = nn.Embedding(settings.spk_embed_dim, gin)
        if settings.content_width == CONTENT_WIDTHS["v2"]:
            self._modules["enc_p"] = self._modules.pop("enc_p")

    def embed_speaker(self, speaker: Tensor) -> Tensor:
        """long [B] -> [B, gin, 1]."""
        return self.emb_g(speaker).unsqueeze(-1)

    def forward(
        self,
        phone: Tensor,
        pitch: Tensor | None,
        f0: Tensor | None,
        spec: Tensor,
        speaker: Tensor,
        lengths: Tensor,
        *,
        noise: Noise | None = None,
    ) -> RvcPass:
        """One training pass: whole clips through both encoders, one segment per clip through the decoder.

        Args:
            phone: content [B, N, D].
            pitch: coarse f0, long [B, N], 1..255; None without pitch guidance.
            f0: [B, N] in Hz, 0 = unvoiced; None without pitch guidance.
            spec: linear spectrogram [B, F, N].
            speaker: long [B].
            lengths: long [B], frames.
        """
        noise = noise or Noise()
        g = self.embed_speaker(speaker)
        mask = sequence_mask(lengths, spec.shape[-1])
        m_p, logs_p = self.enc_p(phone, pitch, mask)
        m_q, logs_q = self.enc_q(spec, mask, g)
        z = sample_latents(m_q, logs_q, mask, noise)
        z_p = self.flow(z, mask, g)
        slice_start = random_starts(lengths, self.segment_frames, noise)
        segment = slice_segments(z, slice_start, self.segment_frames)
        if f0 is not None:
            f0 = slice_segments(f0.unsqueeze(1), slice_start, self.segment_frames).squeeze(1)
        audio = self.dec(segment, f0, g, noise=noise)
        return RvcPass(audio, slice_start, mask, z, z_p, m_p, logs_p, m_q, logs_q)

    @torch.no_grad()
    def infer(
        self,
        phone: Tensor,
        pitch: Tensor | None,
        f0: Tensor | None,
        speaker: Tensor,
        *,
        noise_scale: float = NOISE_SCALE,
        noise: Noise | None = None,
        skip_frames: int = 0,
        n_frames: int | None = None,
    ) -> RvcOutput:
        """Sing the content.

        Args:
            phone: [B, N, D]; pitch, f0, speaker: as in `forward`.
            noise_scale: deviation of the latents.
            skip_frames: frames that are only context: heard by the encoder, not sung.
            n_frames: length of the result after them; None = all.
        """
        noise = noise or Noise()
        g = self.embed_speaker(speaker)
        mask = phone.new_ones(phone.shape[0], 1, phone.shape[1])
        first = max(0, skip_frames - FLOW_CONTEXT_FRAMES)
        m_p, logs_p = self.enc_p(phone, pitch, mask, first=first)
        mask = mask[..., first:]
        z_p = sample_latents(m_p, logs_p, mask, noise, noise_scale=noise_scale)
        z = self.flow(z_p, mask, g, reverse=True)
        end = None if n_frames is None else skip_frames + n_frames
        kept = slice(skip_frames - first, None if end is None else end - first)
        f0 = None if f0 is None else f0[:, skip_frames:end]
        audio = self.dec((z * mask)[..., kept], f0, g, noise=noise)
        return RvcOutput(audio, mask[..., kept], z[..., kept], z_p[..., kept], m_p, logs_p)


def coarse_f0(f0_hz: np.ndarray) -> np.ndarray:
    """Bins 1..255 of f0 on a mel scale from 50 to 1100 Hz; unvoiced (0 Hz) and everything below 50 Hz is bin 1.

    Args:
        f0_hz: float, any shape.

    Returns:
        int64, same shape.

    Source: RVC, all versions. so-vits-svc's bins (`f0_to_coarse` of features.pitch.track) agree below 1100 Hz only.
    """
    lowest, highest = (1127 * np.log1p(hz / 700) for hz in (F0_MIN_HZ, F0_MAX_HZ))
    mel = 1127 * np.log(1 + np.asarray(f0_hz, np.float64) / 700)
    scaled = np.where(mel > 0, (mel - lowest) * (N_BINS - 2) / (highest - lowest) + 1, mel)
    return np.rint(np.clip(scaled, 1, N_BINS - 1)).astype(np.int64)
