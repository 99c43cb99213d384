"""A voice that is a diffusion model and nothing else: what so-vits-svc calls only_diffusion."""

from __future__ import annotations

from pathlib import Path

from svcnb.conversion.voice import VoiceInfo
from svcnb.features.content.encoders import load_encoder
from svcnb.files.checkpoint import load_weights
from svcnb.models.diffusion.checkpoint import (
    DIFFUSION_FOLDER,
    DiffusionFiles,
    find_model,
    read_diffusion_checkpoint,
)
from svcnb.models.diffusion.config import Config as DiffusionConfig
from svcnb.models.sovits.config import Config
from svcnb.models.sovits.voice import Voice
from svcnb.models.vocoder.files import find_vocoder, load_vocoder


def load_diffusion_voice(
    source: Path | str,
    *,
    diffusion: DiffusionFiles | None = None,
    vocoder: Path | str | None = None,
    device: str = "cpu",
    pretrain_folder: Path | str = Path("pretrain"),
) -> Voice:
    """A voice without a generator; every conversion with it needs settings.only_diffusion.

    Args:
        source: the voice's folder, its folder diffusion/, or a model_*.pt; for a G_*.pth its folder is used.
        diffusion: files to use instead of those found there.
        vocoder: as in load_voice.

    Raises:
        SvcError: no model or config there, no vocoder, or parts that do not fit.
    """
    folder, named = _voice_folder_of(Path(source), diffusion or DiffusionFiles())
    model_path, config_path = find_model(folder, named)
    found = DiffusionConfig.load(config_path, strict=False)
    pretrain_folder = Path(pretrain_folder)
    vocoder_path = find_vocoder(vocoder, voice_folder=folder, pretrain_folder=pretrain_folder)
    network = found.build(load_vocoder(vocoder_path).settings.num_mels)
    load_weights(network, read_diffusion_checkpoint(model_path).model)
    encoder = load_encoder(found.data.encoder, folder=pretrain_folder, device=device)
    return Voice(
        _as_config(found),
        network.to(device),
        encoder,
        VoiceInfo(folder.name, folder, pretrain_folder=pretrain_folder),
        vocoder=vocoder_path,
        diffusion=DiffusionFiles(model_path, config_path),
        has_posterior=False,
    )


def _voice_folder_of(source: Path, named: DiffusionFiles) -> tuple[Path, DiffusionFiles]:
    """The voice's folder, and the files as far as they are named."""
    if source.is_file() and source.suffix == ".pt":
        named = DiffusionFiles(named.model or source, named.config)
    folder = source.parent if source.is_file() else source
    return (folder.parent if folder.name == DIFFUSION_FOLDER else folder), named


def _as_config(found: DiffusionConfig) -> Config:
    """A voice's config with the values that the diffusion model's config defines."""
    config = Config.full()
    config.data.sampling_rate, config.data.hop_length = found.data.sampling_rate, found.data.block_size
    config.data.unit_interpolate_mode = found.data.unit_interpolate_mode
    config.model.speech_encoder, config.model.ssl_dim = found.data.encoder, found.data.encoder_out_channels
    config.model.n_speakers, config.model.vol_embedding = found.model.n_spk, True
    config.model.use_automatic_f0_prediction = False
    config.spk = dict(found.spk)
    return config
