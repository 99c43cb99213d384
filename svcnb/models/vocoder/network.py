"""Vocoders: log mel and f0 to waveform. The usual NSF-HiFiGAN, and a small one that two CPU cores can train.

On disk a vocoder is a folder with `model` ({'generator': weights}) and `config.json`. The small one's config
has `"vocoder_name": "svcnb-frame"`; a config without that key is an NSF-HiFiGAN's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from svcnb import SvcError
from svcnb.audio.spectral import VocoderMel
from svcnb.nn.frame_decoder import FrameVocoder
from svcnb.nn.layers import Noise
from svcnb.nn.nsf_hifigan import GeneratorSettings, HarmonicSource, NsfGenerator

MODEL_NAMES = ("model", "model.ckpt")
CONFIG_NAME = "config.json"
NSF_HIFIGAN, FRAME_VOCODER = "nsf-hifigan", "svcnb-frame"


class VocoderError(SvcError):
    """There is no vocoder, its files are incomplete, or it does not fit the voice."""


@dataclass(frozen=True)
class VocoderSettings:
    """The keys of the vocoder's config.json that matter; lengths in samples, frequencies in Hz.

    Attributes:
        vocoder_name: "nsf-hifigan" (also where the key is absent), or "svcnb-frame".
        generator: sizes of the NSF-HiFiGAN; None for the other.
        frame_channels, frame_blocks: sizes of the "svcnb-frame" network.
    """

    sampling_rate: int
    num_mels: int
    n_fft: int
    win_size: int
    hop_size: int
    fmin: float
    fmax: float | None  # None is half the sample rate
    vocoder_name: str = NSF_HIFIGAN
    generator: GeneratorSettings | None = None
    frame_channels: int = 256
    frame_blocks: int = 6

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> VocoderSettings:
        """Pick the known keys; a missing one is named in a VocoderError."""
        name = config.get("vocoder_name", NSF_HIFIGAN)
        if name not in (NSF_HIFIGAN, FRAME_VOCODER):
            raise VocoderError(
                f"vocoder_name {name!r} in the vocoder's config: expected {NSF_HIFIGAN} or {FRAME_VOCODER}"
            )
        if config.get("mini_nsf"):
            raise VocoderError(
                "this vocoder has a reduced harmonic source (mini_nsf), another network: "
                "take nsf_hifigan_20221211.zip, or another release without mini_nsf"
            )
        own = ["sampling_rate", "num_mels", "n_fft", "win_size", "hop_size", "fmin", "fmax"]
        shape = [key for key in GeneratorSettings.__dataclass_fields__ if key not in ("snake", "plain_ends")]
        shape = shape if name == NSF_HIFIGAN else ["frame_channels", "frame_blocks"]
        if missing := [key for key in own + shape if key not in config]:
            raise VocoderError(
                f"the vocoder's config lacks {', '.join(missing)}: use the config.json of its download"
            )
        values = {key: config[key] for key in own} | {"vocoder_name": name}
        sizes = {key: config[key] for key in shape}
        if name == FRAME_VOCODER:
            return cls(**values, **sizes)
        generator = GeneratorSettings(**sizes)
        if generator.hop_samples != config["hop_size"]:
            found = f"upsample_rates give {generator.hop_samples} samples per frame, hop_size is {config['hop_size']}"
            raise VocoderError(f"{found}: use the config.json of the vocoder's download")
        return cls(**values, generator=generator)


class Vocoder(nn.Module):
    """A vocoder with its mel transform `self.mel`: log mel and f0 to waveform.

    Source: openvpi's NSF-HiFiGAN as used by so-vits-svc 4.1 (the generator's layout without a speaker, and a
    harmonic source that accumulates phase per frame).
    """

    def __init__(self, settings: VocoderSettings) -> None:
        super().__init__()
        self.settings = settings
        self.mel = mel_of(settings)
        self.generator = build_generator(settings)

    def forward(self, mel: Tensor, f0: Tensor, *, noise: Noise | None = None) -> Tensor:
        """mel [B, M, N] (natural log), f0 [B, N] in Hz, gaps interpolated -> waveform [B, 1, N * hop]."""
        return self.generator(mel, f0, noise=noise)


def mel_of(settings: VocoderSettings) -> VocoderMel:
    """The log mel transform of a vocoder's input."""
    return VocoderMel(
        sample_rate_hz=settings.sampling_rate,
        n_fft=settings.n_fft,
        hop_samples=settings.hop_size,
        win_samples=settings.win_size,
        n_mels=settings.num_mels,
        fmin_hz=settings.fmin,
        fmax_hz=settings.fmax,
    )


def build_generator(settings: VocoderSettings) -> NsfGenerator | FrameVocoder:
    """The network of a vocoder, with random weights."""
    if settings.generator is None:
        return FrameVocoder(
            mel_of(settings).filters,
            sampling_rate=settings.sampling_rate,
            hop_samples=settings.hop_size,
            channels=settings.frame_channels,
            n_blocks=settings.frame_blocks,
        )
    source = HarmonicSource(settings.sampling_rate, accumulate="frame")
    return NsfGenerator(settings.num_mels, settings.generator, source=source)
