"""Diffusion models and their vocoders, so small that training and conversion are fast."""

from __future__ import annotations

from pathlib import Path

import torch

from svcnb.files.checkpoint import to_plain_names, write_checkpoint
from svcnb.models.diffusion.checkpoint import CONFIG_NAME, DIFFUSION_FOLDER, save_diffusion_checkpoint
from svcnb.models.diffusion.config import Config as DiffusionConfig
from svcnb.models.diffusion.config import VoiceContent
from svcnb.models.sovits.config import Config
from svcnb.models.vocoder.config import Config as VocoderConfig
from svcnb.models.vocoder.network import Vocoder

SMALL_GRID = {
    "sampling_rate": 22050,
    "hop_size": 256,
    "n_fft": 1024,
    "win_size": 1024,
    "num_mels": 16,
    "fmax": 11025,
}
FULL_GRID = SMALL_GRID | {"sampling_rate": 44100, "hop_size": 512, "n_fft": 2048, "win_size": 2048}


def write_vocoder(folder: Path, grid: dict = SMALL_GRID) -> Path:
    """Write an untrained vocoder with fixed weights."""
    config = VocoderConfig.small().model_copy(update=grid | {"frame_channels": 8, "frame_blocks": 1})
    config.save(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vocoder = Vocoder(config.sizes())
    write_checkpoint(folder / "model", {"generator": to_plain_names(vocoder.generator.state_dict())})
    return folder


def tiny_diffusion(**model) -> DiffusionConfig:
    config = DiffusionConfig.small()
    config.model = config.model.model_copy(update={"n_layers": 2, "n_chans": 8, "n_hidden": 6} | model)
    config.train = config.train.model_copy(update={"batch_size": 3})
    return config


def content_of(config: Config) -> VoiceContent:
    """The content settings that a diffusion model copies from a voice's config."""
    model = config.model
    return VoiceContent(
        model.speech_encoder,
        model.ssl_dim,
        config.data.unit_interpolate_mode,
        dict(config.spk),
        config.is_small,
    )


def write_model(voice_folder: Path, grid: dict = SMALL_GRID, *, step: int = 0, **model) -> Path:
    """Write diffusion/model_<step>.pt, config.yaml and a vocoder to a voice's folder; the model's path."""
    vocoder = Vocoder(VocoderConfig.load(write_vocoder(voice_folder / "vocoder", grid)).sizes())
    config = tiny_diffusion(**model).for_voice(
        VoiceContent.read(voice_folder / "config.json"), vocoder.settings
    )
    folder = voice_folder / DIFFUSION_FOLDER
    with torch.random.fork_rng():
        torch.manual_seed(step)
        network = config.build(vocoder.settings.num_mels)
        torch.nn.init.normal_(network.decoder.denoise_fn.output_projection.weight, std=0.3)
    config.save(folder / CONFIG_NAME)
    return save_diffusion_checkpoint(
        folder / f"model_{step}.pt", model_state=network.state_dict(), global_step=step
    )
