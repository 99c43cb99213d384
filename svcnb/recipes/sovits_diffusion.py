"""A voice's diffusion model in a conversion: as a stage after the generator, or in the generator's place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from svcnb import SvcError
from svcnb.allocation import freed_memory_kept
from svcnb.audio import Audio, fit_length, resample_samples
from svcnb.checkpoint import load_weights
from svcnb.content import align_to_frames
from svcnb.conversion import ConversionSettings
from svcnb.diffusion import SamplerSettings, check_steps, sample
from svcnb.models.denoiser import Unit2Mel
from svcnb.models.layers import Noise
from svcnb.recipes.sovits_diffusion_config import DiffusionConfig
from svcnb.recipes.sovits_diffusion_files import find_model, read_diffusion_checkpoint
from svcnb.recipes.sovits_piece import PieceSound, Stage, StageVoice
from svcnb.recipes.sovits_vocoder import vocoder_of
from svcnb.spectral import volume_envelope
from svcnb.vocoder import Vocoder


@dataclass(frozen=True)
class Grid:
    """Rate and frame length of a voice, which the vocoder may have otherwise."""

    rate_hz: int
    hop_samples: int


@dataclass(frozen=True)
class Heard:
    """What a diffuser makes a sound from: content [1, D, N], f0 and volume [1, N], speaker id [1, 1] or weights [N, S]."""

    content: Tensor
    f0_hz: Tensor
    volume: Tensor
    speaker: Tensor
    noise: Noise


class Diffuser:
    """A diffusion model with its vocoder: content, f0 and loudness of N frames to a sound at the voice's rate.

    Args:
        network: with its weights.
        speakers: the voice's names and ids, which the model may number otherwise.
    """

    def __init__(
        self, network: Unit2Mel, config: DiffusionConfig, vocoder: Vocoder, *, grid: Grid, speakers: dict[str, int]
    ) -> None:
        self.network = network.eval()
        self.config = config
        self.vocoder = vocoder
        self.grid = grid
        self.columns = _columns(config, speakers).to(network.unit_embed.weight.device)

    def mel(self, samples: np.ndarray) -> Tensor:
        """Log mel [1, N, M] of float32 [T] at the voice's rate, T = N * hop."""
        wide = torch.from_numpy(self._to_vocoder(samples)).to(self.network.unit_embed.weight.device)
        return self.vocoder.mel(wide[None]).transpose(1, 2)

    def volume(self, samples: np.ndarray) -> Tensor:
        """Loudness [1, N] of float32 [T] at the voice's rate."""
        return volume_envelope(torch.from_numpy(self._to_vocoder(samples)), self.config.data.block_size)[None]

    def _to_vocoder(self, samples: np.ndarray) -> np.ndarray:
        n_frames = len(samples) // self.grid.hop_samples
        return fit_length(resample_samples(samples, self.grid.rate_hz, self.config.data.sampling_rate),
                    n_frames * self.config.data.block_size)  # fmt: skip

    @torch.inference_mode()
    def __call__(self, heard: Heard, *, settings: ConversionSettings, start_mel: Tensor | None = None) -> np.ndarray:
        """float32 [N * hop] at the voice's rate; `start_mel` [1, N, M] is what a shallow run starts from."""
        device = self.network.unit_embed.weight.device
        inputs = (heard.content.transpose(1, 2), heard.f0_hz[..., None], heard.volume[..., None])
        with freed_memory_kept():
            condition = self.network.condition(*(part.float().to(device) for part in inputs), self._speaker(heard.speaker))
            sampler = SamplerSettings(
                self.config.infer.method, self.config.infer.speedup, from_below=settings.like_original
            )
            steps = {} if start_mel is None else {"start_mel": start_mel, "k_step": settings.k_step}
            mel = sample(self.network, condition, sampler, noise=heard.noise, **steps)
            scaled = (mel * self.config.mel_ratio).transpose(1, 2)
            sung = self.vocoder(scaled, heard.f0_hz.float().to(device), noise=heard.noise)[0, 0]
        narrow = resample_samples(sung.float().cpu().numpy(), self.config.data.sampling_rate, self.grid.rate_hz)
        return fit_length(narrow, heard.f0_hz.shape[1] * self.grid.hop_samples)

    def _speaker(self, speaker: Tensor) -> Tensor:
        """The voice's speaker, id [1, 1] or weights [N, S], as the model numbers them: id [1, 1] or weights [1, N, S']."""
        if self.config.model.n_spk == 1:
            return torch.zeros(1, 1, dtype=torch.long, device=self.columns.device)
        if speaker.is_floating_point():
            return (speaker.to(self.columns) @ self.columns[: speaker.shape[1]])[None]
        if not 0 <= int(speaker) < len(self.columns) or not self.columns[int(speaker)].any():
            raise SvcError(f"the diffusion model knows no speaker with the number {int(speaker)}, only "
                           f"{', '.join(self.config.spk)}: name one of them (-s)")  # fmt: skip
        return self.columns[speaker.to(self.columns.device)].argmax(-1)


def _columns(config: DiffusionConfig, speakers: dict[str, int]) -> Tensor:
    """One row per speaker of the voice, one column per speaker of the model: 1 where they are the same."""
    n_speakers = config.model.n_spk
    numbers = config.spk or speakers
    columns = torch.zeros(max(speakers.values()) + 1, n_speakers)
    if n_speakers == 1:
        return columns
    if absent := sorted(name for name in speakers if not 0 <= numbers.get(name, -1) < n_speakers):
        raise SvcError(f"the diffusion model knows no speaker {', '.join(absent)}, only {', '.join(numbers)}: "
                       "give the model of this voice (-dm, -dc)")  # fmt: skip
    for name, row in speakers.items():
        columns[row, numbers[name]] = 1.0
    return columns


# Loading --------------------------------------------------------------------------------------------


def load_diffuser(voice: StageVoice) -> Diffuser:
    """The voice's diffusion model with its vocoder, loaded once.

    Raises:
        SvcError: no model, no config, no vocoder, or parts that do not fit each other (each says what to do).
    """
    paths = find_model(voice.folder, voice.diffusion_files)
    key = ("diffusion", paths, voice.vocoder_path)
    if key not in voice.loaded:
        model_path, config_path = paths
        config = DiffusionConfig.load(config_path, strict=False)
        _check_encoder(config, voice)
        vocoder = vocoder_of(voice)
        _check_grid(config, voice, vocoder)
        network = config.build(vocoder.settings.num_mels)
        load_weights(network, read_diffusion_checkpoint(model_path).model)
        grid = Grid(voice.sample_rate_hz, voice.hop_samples)
        voice.loaded[key] = Diffuser(
            network.to(voice.device), config, vocoder, grid=grid, speakers=voice.speakers
        )
    return voice.loaded[key]


def _check_encoder(config: DiffusionConfig, voice: StageVoice) -> None:
    own = voice.config.model.speech_encoder, voice.config.model.ssl_dim
    if (config.data.encoder, config.data.encoder_out_channels) != own:
        raise SvcError(
            f"the diffusion model reads {config.data.encoder} ({config.data.encoder_out_channels} values), voice "
            f"{voice.name} {own[0]} ({own[1]}): give a diffusion model of this voice (-dm, -dc), or train one"
        )


def _check_grid(config: DiffusionConfig, voice: StageVoice, vocoder: Vocoder) -> None:
    own = vocoder.settings.sampling_rate, vocoder.settings.hop_size
    if (config.data.sampling_rate, config.data.block_size) != own:
        raise SvcError(
            f"the diffusion model was trained for a vocoder of {config.data.sampling_rate} Hz with "
            f"{config.data.block_size} samples per frame, this one has {own[0]} Hz and {own[1]}: name its vocoder "
            "(--vocoder)"
        )
    frame_s = voice.hop_samples / voice.sample_rate_hz
    if abs(frame_s * own[0] / own[1] - 1) > 1e-6:
        raise SvcError(f"voice {voice.name} has {1 / frame_s:.2f} frames per second, the vocoder {own[0] / own[1]:.2f}: "
                       "name another vocoder (--vocoder)")  # fmt: skip


# In a conversion ------------------------------------------------------------------------------------


def shallow_stage(voice: StageVoice, settings: ConversionSettings) -> Stage:
    """Blurs every piece by `k_step` noise steps and takes the noise out again, with a better mel spectrum below it.

    Source: so-vits-svc 4.1, the shallow diffusion of infer_tool.Svc.

    Raises:
        SvcError: as load_diffuser, or more steps than the model has learnt.
    """
    diffuser = load_diffuser(voice)
    check_steps(diffuser.network, settings.k_step)

    def diffuse(samples: np.ndarray, sound: PieceSound) -> np.ndarray:
        content = sound.content
        if settings.second_encoding:
            encoded = voice.encode(Audio(samples, voice.sample_rate_hz)).T  # [D, N50]
            mode = diffuser.config.data.unit_interpolate_mode
            content = align_to_frames(encoded, content.shape[2], mode=mode)[None]
        heard = Heard(
            content=content,
            f0_hz=sound.f0_hz,
            volume=diffuser.volume(samples) if sound.volume is None else sound.volume,
            speaker=torch.tensor([[sound.speaker_id]]) if sound.speaker_weights is None else sound.speaker_weights,
            noise=Noise(torch.Generator().manual_seed(sound.seed)),
        )
        return diffuser(heard, settings=settings, start_mel=diffuser.mel(samples))

    return diffuse


def check_alone(voice: StageVoice) -> None:
    """Raise SvcError unless the voice's diffusion model can convert without the generator."""
    check_steps(load_diffuser(voice).network, None)


def diffuse_alone(voice: StageVoice, heard: Heard, settings: ConversionSettings) -> np.ndarray:
    """float32 [N * hop] from noise alone, in the generator's place.

    Source: so-vits-svc 4.1, only_diffusion of infer_tool.Svc.
    """
    return load_diffuser(voice)(heard, settings=settings)
