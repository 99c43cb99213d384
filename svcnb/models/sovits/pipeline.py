"""Stages after the generator of a so-vits voice (enhancer, shallow diffusion), and weights of mixed speakers.

The loudness envelope comes last; every family has it, so it is applied where chunks are joined (conversion).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from svcnb import SvcError
from svcnb.conversion.long_audio import Chunk
from svcnb.conversion.settings import ConversionSettings
from svcnb.conversion.speaker_mix import Timeline, weights_at
from svcnb.device import freed_memory_kept
from svcnb.files.checkpoint import load_weights
from svcnb.models.diffusion.checkpoint import DiffusionFiles, find_model, read_diffusion_checkpoint
from svcnb.models.diffusion.config import Config as DiffusionConfig
from svcnb.models.diffusion.refine import Conditions, Diffuser, Grid
from svcnb.models.diffusion.sampler import check_steps
from svcnb.models.sovits.config import Config
from svcnb.models.vocoder.enhancer import Enhancer
from svcnb.models.vocoder.files import find_vocoder, load_vocoder
from svcnb.models.vocoder.network import MODEL_NAMES, Vocoder, VocoderError
from svcnb.nn.layers import Noise


@dataclass(frozen=True)
class Features:
    """Input features of the networks for one chunk of N frames; tensors on the voice's device.

    Attributes:
        content: [1, D, N] at the voice's frame rate, after retrieval.
        f0_hz: [1, N], gaps interpolated.
        voiced: [1, N], 1 = voiced.
        volume: [1, N] of the input; None where the voice is not conditioned on it.
        speaker: id [1, 1], or weights [N, S] where speakers are mixed, rows sum to 1.
    """

    content: Tensor
    f0_hz: Tensor
    voiced: Tensor
    volume: Tensor | None
    speaker: Tensor


def stage_after_generator(settings: ConversionSettings) -> Literal["diffusion", "enhancer"] | None:
    """The stage that refines the generator's output; shallow diffusion replaces the enhancer."""
    if settings.shallow_diffusion and not settings.only_diffusion:
        return "diffusion"
    return "enhancer" if settings.enhance else None


class Refiners:
    """The networks that may follow a voice's generator: its vocoder, enhancers and diffusion model, each loaded once.

    Args:
        config: the voice's.
        name: of the voice, for messages.
        speakers: name -> id in the voice.
        folder: where the voice's checkpoint is, or None.
        vocoder_path: of the vocoder to use; None searches for one, see `find_vocoder`.
        diffusion_files: of the diffusion model to use, as far as they are named.
    """

    def __init__(
        self,
        config: Config,
        *,
        name: str,
        speakers: dict[str, int],
        folder: Path | None,
        pretrain_folder: Path,
        device: torch.device,
        vocoder_path: Path | None = None,
        diffusion_files: DiffusionFiles | None = None,
    ) -> None:
        self.config, self.name, self.speakers = config, name, speakers
        self.folder, self.pretrain_folder, self.device = folder, pretrain_folder, device
        self.vocoder_path, self.diffusion_files = vocoder_path, diffusion_files or DiffusionFiles()
        self.grid = Grid(config.data.sampling_rate, config.data.hop_length)
        self._vocoders: dict[Path, Vocoder] = {}
        self._enhancers: dict[tuple[Path, int], Enhancer] = {}
        self._diffusers: dict[tuple[Path, Path], Diffuser] = {}

    def check(self, settings: ConversionSettings) -> None:
        """Load the networks that the settings ask for.

        Raises:
            SvcError: files are missing, or do not fit this voice.
        """
        if settings.only_diffusion:
            check_steps(self.diffuser().network, None)
        stage = stage_after_generator(settings)
        if stage == "diffusion":
            check_steps(self.diffuser().network, settings.k_step)
            if settings.enhance:
                warnings.warn(
                    "shallow_diffusion (-shd) replaces the enhancer: enhance (-eh) is ignored", stacklevel=4
                )
        elif stage == "enhancer":
            self.enhancer(settings.enhancer_adaptive_key)

    def vocoder(self) -> Vocoder:
        """The named vocoder, else the first that `find_vocoder` finds.

        Raises:
            VocoderError: there is none; the message names the files to add and their folder.
        """
        path = self._vocoder_path()
        if path not in self._vocoders:
            self._vocoders[path] = load_vocoder(path, device=self.device)
        return self._vocoders[path]

    def vocoder_files(self) -> list[Path]:
        """Files of the voice's vocoder; none where it has none."""
        try:
            path = self._vocoder_path()
        except VocoderError:
            return []
        return [file for file in (path, *(path / name for name in MODEL_NAMES)) if file.is_file()]

    def enhancer(self, adaptive_key: int) -> Enhancer:
        """The vocoder as an enhancer.

        Raises:
            VocoderError: as `vocoder`.
        """
        key, vocoder = (self._vocoder_path(), adaptive_key), self.vocoder()
        if key not in self._enhancers:
            self._enhancers[key] = Enhancer(
                vocoder,
                adaptive_key=adaptive_key,
                sample_rate_hz=self.grid.rate_hz,
                hop_samples=self.grid.hop_samples,
            )
        return self._enhancers[key]

    def diffuser(self) -> Diffuser:
        """The voice's diffusion model with its vocoder.

        Raises:
            SvcError: no model, no config, no vocoder, or parts that do not fit each other (with what to do).
        """
        key = find_model(self.folder, self.diffusion_files)
        if key not in self._diffusers:
            model_path, config_path = key
            config = DiffusionConfig.load(config_path, strict=False)
            self._check_encoder(config)
            vocoder = self.vocoder()
            self._check_grid(config, vocoder)
            network = config.build(vocoder.settings.num_mels)
            load_weights(network, read_diffusion_checkpoint(model_path).model)
            self._diffusers[key] = Diffuser(
                network.to(self.device), config, vocoder, grid=self.grid, speakers=self.speakers
            )
        return self._diffusers[key]

    def enhance(self, samples: np.ndarray, f0_hz: Tensor, settings: ConversionSettings) -> np.ndarray:
        """float32 [T] resynthesized by the vocoder, with the f0 [1, N] that the generator used."""
        noise = Noise(torch.Generator().manual_seed(settings.seed))
        with freed_memory_kept():
            return self.enhancer(settings.enhancer_adaptive_key)(samples, f0_hz[0].cpu().numpy(), noise=noise)

    def diffuse(self, samples: np.ndarray, features: Features, settings: ConversionSettings) -> np.ndarray:
        """Shallow diffusion: add `k_step` noise steps to the mel of float32 [T] and remove them again.

        Args:
            features: the generator's input features, with the f0 that it used; with `second_encoding`, the
                content of its output.

        Source: so-vits-svc 4.1, the shallow diffusion of infer_tool.Svc.
        """
        diffuser = self.diffuser()
        conditions = Conditions(
            content=features.content,
            f0_hz=features.f0_hz,
            volume=diffuser.volume(samples) if features.volume is None else features.volume,
            speaker=features.speaker,
            noise=Noise(torch.Generator().manual_seed(settings.seed)),
        )
        return diffuser(conditions, settings=settings, start_mel=diffuser.mel(samples))

    def diffuse_alone(self, features: Features, settings: ConversionSettings, noise: Noise) -> np.ndarray:
        """float32 [N * hop] from noise alone, instead of the generator's output.

        Source: so-vits-svc 4.1, only_diffusion of infer_tool.Svc.
        """
        conditions = Conditions(features.content, features.f0_hz, features.volume, features.speaker, noise)
        return self.diffuser()(conditions, settings=settings)

    def _vocoder_path(self) -> Path:
        return find_vocoder(self.vocoder_path, voice_folder=self.folder, pretrain_folder=self.pretrain_folder)

    def _check_encoder(self, config: DiffusionConfig) -> None:
        own = self.config.model.speech_encoder, self.config.model.ssl_dim
        if (config.data.encoder, config.data.encoder_out_channels) != own:
            raise SvcError(
                f"the diffusion model uses content of {config.data.encoder} "
                f"({config.data.encoder_out_channels} values), voice {self.name} of {own[0]} ({own[1]}): "
                "give a diffusion model of this voice (-dm, -dc), or train one"
            )

    def _check_grid(self, config: DiffusionConfig, vocoder: Vocoder) -> None:
        own = vocoder.settings.sampling_rate, vocoder.settings.hop_size
        if (config.data.sampling_rate, config.data.block_size) != own:
            raise SvcError(
                f"the diffusion model was trained for a vocoder of {config.data.sampling_rate} Hz with "
                f"{config.data.block_size} samples per frame, this one has {own[0]} Hz and {own[1]}: name its vocoder "
                "(--vocoder)"
            )
        frame_s = self.grid.hop_samples / self.grid.rate_hz
        if abs(frame_s * own[0] / own[1] - 1) > 1e-6:
            raise SvcError(
                f"voice {self.name} has {1 / frame_s:.2f} frames per second, the vocoder "
                f"{own[0] / own[1]:.2f}: name another vocoder (--vocoder)"
            )


def mixed_ids(timeline: Timeline, *, name: str, speakers: dict[str, int], ids: list[int]) -> list[int]:
    """Speaker ids of a mix, in its order.

    Args:
        name, speakers: of the voice.
        ids: the timeline's speakers in the voice.

    Raises:
        SvcError: the voice has one speaker only, or one is named twice.
    """
    if len(speakers) < 2:
        raise SvcError(
            f"voice {name} has one speaker, {next(iter(speakers))}: mixing (-usm) needs a voice "
            "trained on two or more; `svcnb mix` merges two voices into one"
        )
    double = [speaker for speaker, number in zip(timeline, ids, strict=True) if ids.count(number) > 1]
    if double:
        raise SvcError(f"the mix names one speaker more than once: {', '.join(double)}")
    return ids


def mixed_weights(
    timeline: Timeline, ids: list[int], chunk: Chunk, n_frames: int, *, hop_samples: int, duration_s: float
) -> Tensor:
    """Weights of a voice's speakers for the frames of a chunk: float32 [N, S], S up to the highest id, rows sum to 1.

    A frame's weights depend only on its time in the recording, not on where chunks begin.

    Args:
        ids: of the timeline's speakers.
        duration_s: of the whole recording.

    Source: so-vits-svc 4.1's dynamic mix; it counts frames per chunk, so its error grows with every chunk.
    """
    hop_s = hop_samples / chunk.sample_rate_hz
    first_s = chunk.start_s - chunk.n_pad_samples / chunk.sample_rate_hz
    positions = (first_s + hop_s * np.arange(n_frames)) / max(duration_s, hop_s)
    weights = np.zeros((n_frames, max(ids) + 1), np.float32)
    weights[:, ids] = weights_at(timeline, positions)
    return torch.from_numpy(weights)
