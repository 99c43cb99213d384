"""What follows the generator, piece by piece: the order of the stages, and which of them the settings ask for.

A stage is a function of a finished piece and of what the generator heard (see sovits_piece). The loudness envelope
follows the last one; every family has it, so it is applied where pieces are cut and joined (conversion).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from svcnb import SvcError
from svcnb.audio.audio import Audio
from svcnb.audio.spectral import Stft
from svcnb.conversion.long_audio import PieceInput, convert_long
from svcnb.conversion.settings import ConversionSettings
from svcnb.conversion.speaker_mix import Timeline, weights_at
from svcnb.device import freed_memory_kept
from svcnb.features.content.encoders import align_to_frames
from svcnb.features.pitch.estimator import PitchEstimator
from svcnb.features.pitch.track import F0Track
from svcnb.files.checkpoint import load_weights
from svcnb.models.diffusion.checkpoint import DiffusionFiles, find_model, read_diffusion_checkpoint
from svcnb.models.diffusion.config import DiffusionConfig
from svcnb.models.diffusion.refine import Diffuser, Grid, Heard
from svcnb.models.diffusion.sampler import check_steps
from svcnb.models.sovits.config import Config
from svcnb.models.sovits.network import SynthesizerTrn
from svcnb.models.vocoder.enhancer import Enhancer
from svcnb.models.vocoder.files import find_vocoder, load_vocoder
from svcnb.models.vocoder.network import MODEL_NAMES, Vocoder, VocoderError
from svcnb.nn.layers import Noise, sample_latents


def stages(voice: StageVoice, settings: ConversionSettings) -> list[Stage]:
    """The stages that the settings ask for, in order; networks are loaded once per voice (`voice.loaded`).

    Raises:
        SvcError: a stage that this voice lacks the files for, or that does not fit it.
    """
    if settings.shallow_diffusion and not settings.only_diffusion:
        if settings.enhance:
            warnings.warn("shallow_diffusion (-shd) takes the enhancer's place: enhance (-eh) is left out", stacklevel=4)
        return [shallow_stage(voice, settings)]
    return [enhancer_stage(voice, settings)] if settings.enhance else []


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


@dataclass(frozen=True)
class PieceSound:
    """One padded piece as the generator heard it; N frames, T samples, tensors on the voice's device.

    Attributes:
        samples: float32 [T], the input at the voice's rate, context included.
        content: [1, D, N] at the voice's frame rate, after pulling.
        f0_hz: [1, N] as sung: what the generator returned, gaps interpolated.
        voiced: [1, N], 1 = voiced.
        volume: [1, N] of the input; None where the voice does not know it.
        speaker_id: the target; where speakers are mixed, the one heard most in this piece.
        seed: of all randomness.
        speaker_weights: [N, S] where speakers are mixed, rows sum to 1; else None.
    """

    samples: np.ndarray
    content: Tensor
    f0_hz: Tensor
    voiced: Tensor
    volume: Tensor | None
    speaker_id: int
    seed: int
    speaker_weights: Tensor | None = None


# float32 [T] -> float32 [T] at the same rate, one piece after the other
Stage = Callable[[np.ndarray, PieceSound], np.ndarray]


class StageVoice(Protocol):
    """The part of a voice that stages use.

    Attributes:
        folder: where the checkpoint lies; None for a voice without files.
        vocoder_path: of the vocoder to use; None finds one, see vocoder.find_vocoder.
        diffusion_files: of the diffusion model to use, as far as they are named.
        loaded: networks of stages by a name of the stage's choice, kept from one conversion to the next.
    """

    config: Config
    name: str
    folder: Path | None
    vocoder_path: Path | None
    diffusion_files: DiffusionFiles
    pretrain_folder: Path
    speakers: dict[str, int]
    sample_rate_hz: int
    hop_samples: int
    device: torch.device
    loaded: dict[Any, Any]

    def speaker_id(self, speaker: str | int | None) -> int:
        """Id of a speaker by name or number."""
        ...

    def encode(self, audio: Audio) -> Tensor:
        """Content of a recording: float32 [N50, D], 50 frames per second."""
        ...


def mixed_ids(timeline: Timeline, voice: StageVoice) -> list[int]:
    """Speaker ids of a mix, in its order.

    Raises:
        SvcError: the voice knows one speaker only, or not one that is named, or one is named twice.
    """
    if len(voice.speakers) < 2:
        raise SvcError(f"voice {voice.name} has one speaker, {next(iter(voice.speakers))}: mixing (-usm) needs a voice "
                       "trained on two or more; two voices can be made one with `svcnb mix`")  # fmt: skip
    ids = [voice.speaker_id(name) for name in timeline]
    double = [name for name, number in zip(timeline, ids, strict=True) if ids.count(number) > 1]
    if double:
        raise SvcError(f"the mix names one speaker more than once: {', '.join(double)}")
    return ids


class MixedSpeakers:
    """Weights of a voice's speakers for the frames of any piece of a recording.

    A frame's weights follow from its time in the recording alone, so they are the same wherever the recording was cut.

    Source: so-vits-svc 4.1's dynamic mix, which counts frames piece by piece instead and drifts with every piece.
    """

    def __init__(self, timeline: Timeline, voice: StageVoice, *, duration_s: float) -> None:
        self.timeline, self.ids = timeline, mixed_ids(timeline, voice)
        self.hop_s = voice.hop_samples / voice.sample_rate_hz
        self.duration_s = max(duration_s, self.hop_s)
        self.device = voice.device

    def __call__(self, piece: PieceInput, n_frames: int) -> Tensor:
        """float32 [N, S]: a column for every speaker id up to the highest one of the mix, rows sum to 1."""
        first_s = piece.start_s - piece.n_pad_samples / piece.sample_rate_hz
        positions = (first_s + self.hop_s * np.arange(n_frames)) / self.duration_s
        weights = np.zeros((n_frames, max(self.ids) + 1), np.float32)
        weights[:, self.ids] = weights_at(self.timeline, positions)
        return torch.from_numpy(weights).to(self.device)


def vocoder_of(voice: StageVoice) -> Vocoder:
    """The vocoder that belongs to a voice, loaded once: the named one, else the first that `find_vocoder` finds.

    Raises:
        VocoderError: there is none; says which files to put where.
    """
    path = find_vocoder(voice.vocoder_path, voice_folder=voice.folder, pretrain_folder=voice.pretrain_folder)
    key = ("vocoder", path)
    if key not in voice.loaded:
        voice.loaded[key] = load_vocoder(path, device=voice.device)
    return voice.loaded[key]


def vocoder_files(voice: StageVoice) -> list[Path]:
    """Files of the voice's vocoder; none where it has none."""
    try:
        path = find_vocoder(voice.vocoder_path, voice_folder=voice.folder, pretrain_folder=voice.pretrain_folder)
    except VocoderError:
        return []
    return [file for file in (path, *(path / name for name in MODEL_NAMES)) if file.is_file()]


def enhancer_stage(voice: StageVoice, settings: ConversionSettings) -> Stage:
    """Sings every piece once more through the vocoder, with the melody that the generator sang.

    Raises:
        VocoderError: as `vocoder_of`.
    """
    vocoder, adaptive_key = vocoder_of(voice), settings.enhancer_adaptive_key
    key = ("enhancer", id(vocoder), adaptive_key)
    if key not in voice.loaded:
        grid = {"sample_rate_hz": voice.sample_rate_hz, "hop_samples": voice.hop_samples}
        voice.loaded[key] = Enhancer(vocoder, adaptive_key=adaptive_key, **grid)
    enhancer: Enhancer = voice.loaded[key]

    def enhance(samples: np.ndarray, heard: PieceSound) -> np.ndarray:
        noise = Noise(torch.Generator().manual_seed(heard.seed))
        with freed_memory_kept():
            return enhancer(samples, heard.f0_hz[0].cpu().numpy(), noise=noise)

    return enhance


def copy_recording(
    audio: Audio, generator: SynthesizerTrn, config: Config, *, estimator: PitchEstimator, speaker_id: int
) -> Audio:
    """The recording as the decoder gives it back, exactly as long, at the voice's rate.

    Cut into the same pieces as a conversion, so that the two can be compared. The posterior's latents are drawn, as in
    training, not taken at their mean.
    """
    data, settings = config.data, ConversionSettings()
    device = next(generator.parameters()).device
    stft = Stft(n_fft=data.filter_length, hop_samples=data.hop_length, win_samples=data.win_length).to(device)
    speaker = torch.tensor([[speaker_id]], device=device)

    def copy_piece(piece: PieceInput) -> np.ndarray:
        spec = stft(torch.from_numpy(piece.samples)[None].to(device))
        noise = Noise(torch.Generator().manual_seed(settings.seed))
        return _decode_posterior(generator, spec, estimator(piece.samples), speaker, noise=noise)

    return convert_long(audio, copy_piece, settings, output_hz=data.sampling_rate, hop_samples=data.hop_length)


@torch.inference_mode()
def _decode_posterior(
    generator: SynthesizerTrn, spec: Tensor, track: F0Track, speaker: Tensor, *, noise: Noise
) -> np.ndarray:
    """Spectrogram [1, F, N] and melody of N frames -> latents of the posterior -> float32 [N * hop]."""
    rows = np.stack([track.interpolated(), track.voiced])
    f0_hz, voiced = torch.as_tensor(rows, dtype=torch.float32, device=spec.device)[:, None]  # [1, N] each
    mask = torch.ones_like(f0_hz)[:, None]
    g = generator.embed_speaker(speaker)
    latents = sample_latents(*generator.enc_q(spec, mask, g), mask, noise)
    audio = generator.dec(latents, generator.source_f0(f0_hz, voiced), g, noise=noise)
    return audio[0, 0].float().cpu().numpy()
