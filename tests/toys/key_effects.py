"""Where it is seen that a config's key acts: each function takes a config and an empty folder, and gives what to compare."""

from __future__ import annotations

import json
import shutil
import tempfile
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from svcnb import SvcError
from svcnb.conversion.settings import ConversionSettings
from svcnb.data.batches import Part, collate
from svcnb.data.dataset import VoiceDataset, load_split
from svcnb.data.extraction import extract
from svcnb.data.feature_store import Clip, FeatureSettings, FeatureStore
from svcnb.models import rvc, sovits, vocoder
from svcnb.models.diffusion import refine
from svcnb.models.diffusion.config import Config as DiffusionConfig
from svcnb.models.diffusion.data import DiffusionClips
from svcnb.models.diffusion.train import train_diffusion
from svcnb.models.rvc import step as rvc_step
from svcnb.models.settings import DiffusionChoices, EpochChoices
from svcnb.models.sovits import step as sovits_step
from svcnb.models.sovits.step import as_saved, fresh_state
from svcnb.models.vocoder.files import load_vocoder
from svcnb.models.vocoder.network import mel_of
from svcnb.nn.discriminators import MultiPeriodDiscriminator
from svcnb.nn.layers import Noise
from svcnb.training.loop import TrainReport
from svcnb.training.settings import TrainSettings
from svcnb.training.state import TrainState, settle
from tests.toys import tiny_vocoder
from tests.toys.tiny_diffusion import tiny_diffusion, write_vocoder
from tests.toys.tiny_voice import HOP, RATE_HZ, make_tiny, small_discriminator, tiny_config, write_features
from tests.toys.toy_rvc import tiny_rvc_config

QUICK = {"device": "cpu", "validate_every_steps": 1000}
GRID = {
    "sampling_rate": RATE_HZ,
    "hop_size": HOP,
    "n_fft": 256,
    "win_size": 256,
    "num_mels": 16,
    "fmax": 4000,
}
PLAIN = {"c_adversarial": 0.0, "c_hear": 0.0, "c_prior": 0.0, "c_stft": 0.0}


@cache
def written_once() -> Path:
    """tiny_voice's features, which every training starts from a copy of."""
    return write_features(Path(tempfile.mkdtemp()))


def tiny_features(folder: Path, config: sovits.Config) -> Path:
    """Features with a config beside them."""
    shutil.copytree(written_once(), folder / "features")
    config.save(folder / "features" / "config.json")
    return folder / "features"


def of_training(folder: Path, report: TrainReport) -> dict[str, object]:
    """All that a training leaves, but the time it took."""
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    history = [{name: value for name, value in line.items() if name != "seconds"} for line in lines]
    rates = json.loads((folder / "state.json").read_text())["schedules"]
    files = {path.name: path.stat().st_size for path in folder.glob("*_*.pth")} | {
        path.name: 0 for path in folder.glob("*.pt")
    }
    return {"history": history, "rates": rates, "files": files, "stopped_by": report.stopped_by}


def of_networks(*networks: nn.Module | None) -> list[object]:
    """Shapes of the weights, and the plain attributes of every layer."""
    seen: list[object] = []
    for network in filter(None, networks):
        seen += [(name, tuple(value.shape)) for name, value in network.state_dict().items()]
        for name, module in network.named_modules():
            plain = {
                key: value
                for key, value in vars(module).items()
                if isinstance(value, int | float | str | tuple)
            }
            seen.append((name, type(module).__name__, plain))
    return seen


def rates(config: sovits.Config | rvc.Config, folder: Path) -> object:
    """What the optimiser starts with, and what its rate is multiplied by after every epoch."""
    return rates_of(family_of(config).fresh_state(config, TrainSettings(device="cpu")))


def rates_of(state: TrainState) -> object:
    (group,) = state.optimizer_g.param_groups
    return {name: group[name] for name in ("lr", "betas", "eps", "weight_decay")} | {
        "gamma": state.scheduler_g.gamma
    }


def losses(config: sovits.Config | rvc.Config, folder: Path) -> dict[str, float]:
    """The losses of one step on two short clips."""
    store = FeatureStore.open(written_once())
    names = [name for name in store.names() if store.record(name).n_frames < 50]
    batch = collate(
        [VoiceDataset(store, names, {"ada": 0, "bob": 0})[i] for i in range(len(names))], min_frames=32
    )
    family = family_of(config)
    with small_discriminator(), patch("svcnb.models.rvc.step.MultiPeriodDiscriminator", without_periods):
        state = family.fresh_state(config, TrainSettings(device="cpu"))
        return {name: float(loss) for name, loss in family.train_step(state, batch).items()}


def family_of(config: sovits.Config | rvc.Config) -> ModuleType:
    """The module that has its fresh_state and train_step."""
    return sovits_step if isinstance(config, sovits.Config) else import_module("svcnb.models.rvc.train")


def without_periods(norm: bool, periods: tuple[int, ...]) -> MultiPeriodDiscriminator:
    return MultiPeriodDiscriminator(norm, ())


def spectra(config: sovits.Config | rvc.Config, folder: Path) -> list[list[float]]:
    """The log mel spectrum of noise that the losses compare."""
    noise = torch.randn(1, 1, 40 * HOP, generator=torch.Generator().manual_seed(0))
    parts = sovits_step.StepParts(config) if isinstance(config, sovits.Config) else rvc_step.StepParts(config)
    return parts.mel(noise)[0].tolist()


def precision(config, folder: Path) -> str | None:
    with patch("svcnb.training.state.uses_gpu", return_value=True):
        return settle(TrainSettings(), config.schedule, "config.json").precision


# --- so-vits-svc --------------------------------------------------------------------------------------------------


def sovits_config() -> sovits.Config:
    return tiny_config(
        **PLAIN, epochs=2, batch_size=4, eval_interval=2, log_interval=3, keep_ckpts=2, max_frames=40
    )


def sovits_training(config: sovits.Config, folder: Path) -> object:
    features = tiny_features(folder, config)
    try:
        with small_discriminator():
            report = sovits.train(features, folder / "voice", TrainSettings(**QUICK), base="none")
    except SvcError as error:
        return str(error).replace(str(folder), "")
    return of_training(folder / "voice", report)


def sovits_memory(config: sovits.Config, folder: Path) -> bool:
    store = FeatureStore.open(tiny_features(folder, config))
    training = import_module("svcnb.models.sovits.train")
    return training._training_batches(
        store, config, TrainSettings().filled(), load_split(store), Part(0, 1)
    ).dataset.in_memory


def sovits_start(config: sovits.Config, folder: Path) -> bool:
    """Whether the weights that are saved are others than those that are trained."""
    torch.manual_seed(0)
    base = folder / "G_0.pth"
    sovits.checkpoint.save_sovits_checkpoint(
        base, model_state=sovits.build(config).generator.state_dict(), iteration=1, learning_rate=1e-4
    )
    with as_saved(fresh_state(config, TrainSettings(device="cpu"), base=base)) as own:
        return bool(own)


def sovits_discriminator(config: sovits.Config, folder: Path) -> object:
    config.train.c_adversarial = 1.0
    return losses(config, folder)


def sovits_network(config: sovits.Config, folder: Path) -> object:
    config.train.c_adversarial = 1.0
    with small_discriminator():
        networks = sovits.build(config)
    return of_networks(networks.generator, networks.discriminator)


def sovits_transformer_flow(config: sovits.Config, folder: Path) -> object:
    config.model.use_transformer_flow = True
    return of_networks(sovits.build(config).generator)


def half_precision(config: sovits.Config, folder: Path) -> str | None:
    config.train.fp16_run = True
    return precision(config, folder)


# --- RVC ----------------------------------------------------------------------------------------------------------


def rvc_config() -> rvc.Config:
    """RVC's network for tiny_voice's features."""
    config = tiny_rvc_config("v2")
    config.train = config.train.model_copy(
        update=PLAIN
        | {
            "epochs": 2,
            "batch_size": 4,
            "log_interval": 3,
            "segment_size": 32 * HOP,
            "max_frames": 40,
            "learning_rate": 1e-3,
            "eps": 1e-4,
            "fp16_run": False,
        }
    )
    config.data = config.data.model_copy(
        update={
            "sampling_rate": RATE_HZ,
            "hop_length": HOP,
            "filter_length": 256,
            "win_length": 256,
            "n_mel_channels": 20,
            "mel_fmax": 4000,
        }
    )
    config.model = config.model.model_copy(
        update={
            "upsample_rates": [8, 8],
            "upsample_kernel_sizes": [16, 16],
            "upsample_initial_channel": 16,
            "resblock_kernel_sizes": [3],
            "resblock_dilation_sizes": [[1, 3]],
            "content_width": 8,
            "speech_encoder": "tiny",
        }
    )
    config.spk = {"ada": 0}
    return config


def train_rvc(config: rvc.Config, folder: Path, choices: EpochChoices = EpochChoices()) -> TrainReport:
    shutil.copytree(rvc_features(), folder / "me" / "features")
    config.save(folder / "me" / "config.json")
    with patch("svcnb.models.rvc.step.MultiPeriodDiscriminator", without_periods):
        return rvc.train(folder / "me", TrainSettings(**QUICK), choices, base="none")


@cache
def rvc_features() -> Path:
    """One speaker's features without the loudness, made once."""
    folder = Path(tempfile.mkdtemp())
    settings = FeatureSettings(sample_rate_hz=RATE_HZ, hop_samples=HOP, encoder="tiny", pitch_method="tiny")
    clips = [
        Clip(path, "ada", f"ada/{path.name}")
        for path in sorted((written_once().parent / "clips").rglob("*.wav"))
    ]
    extract(clips, folder / "features", settings, make_extractor=without_volume)
    return folder / "features"


def without_volume(settings: FeatureSettings):
    arrays_of = make_tiny(settings)
    return lambda clip: {name: values for name, values in arrays_of(clip).items() if name != "volume"}


def rvc_training(config: rvc.Config, folder: Path) -> object:
    try:
        return of_training(folder / "me", train_rvc(config, folder))
    except SvcError as error:
        return str(error).replace(str(folder), "")


def rvc_content(config: rvc.Config, folder: Path) -> object:
    """The encoder that features are extracted with, its width, and the version's discriminator."""
    config.model.speech_encoder = (
        None if config.model.speech_encoder == "tiny" else config.model.speech_encoder
    )
    config.model.content_width = None if config.model.content_width == 8 else config.model.content_width
    return config.encoder, config.content_width


def rvc_network(config: rvc.Config, folder: Path) -> object:
    config.train.c_adversarial = 1.0
    with patch("svcnb.models.rvc.step.MultiPeriodDiscriminator", without_periods):
        networks = rvc.build(config)
    return of_networks(networks.generator, networks.discriminator)


# --- diffusion ----------------------------------------------------------------------------------------------------


def diffusion_config() -> DiffusionConfig:
    """As a training writes it, for tiny_voice's features."""
    config = tiny_diffusion(timesteps=20, k_step_max=10)
    config.data = config.data.model_copy(
        update={
            "duration": 0.4,
            "sampling_rate": RATE_HZ,
            "block_size": HOP,
            "encoder": "tiny",
            "encoder_out_channels": 8,
        }
    )
    config.model.n_spk, config.spk = 2, {"ada": 0, "bob": 1}
    config.train = config.train.model_copy(
        update={
            "epochs": 2,
            "batch_size": 6,
            "interval_val": 1,
            "interval_log": 3,
            "decay_step": 2,
            "interval_force_save": 100,
        }
    )
    return config


def train_diffuser(config: DiffusionConfig, folder: Path) -> TrainReport:
    tiny_features(folder, tiny_config())
    choices = DiffusionChoices(
        config=config.save(folder / "config.yaml"), vocoder=write_vocoder(folder / "vocoder", GRID)
    )
    return train_diffusion(folder / "features", folder / "voice", TrainSettings(**QUICK), choices)


def diffusion_training(config: DiffusionConfig, folder: Path) -> object:
    return of_training(folder / "voice" / "diffusion", train_diffuser(config, folder)) | {
        "optimizer": {p.name: p.stat().st_size for p in (folder / "voice" / "diffusion").glob("model_*.pt")}
    }


def diffusion_crop_set(config: DiffusionConfig, folder: Path) -> DiffusionClips:
    store = FeatureStore.open(tiny_features(folder, tiny_config()))
    return DiffusionClips(store, store.names(), config, augment=False, in_memory=config.train.cache_all_data)


def diffusion_memory(config: DiffusionConfig, folder: Path) -> bool:
    training, kept = import_module("svcnb.models.diffusion.train"), []
    with patch.object(
        training,
        "DiffusionClips",
        lambda *args, **kw: kept.append(kw.get("in_memory")) or DiffusionClips(*args, **kw),
    ):
        train_diffuser(config, folder)
    return False in kept


def diffusion_workers(config: DiffusionConfig, folder: Path) -> int | None:
    return TrainSettings().filled(config.schedule).n_loader_workers


def diffusion_crops(config: DiffusionConfig, folder: Path) -> list[float]:
    return diffusion_crop_set(config, folder)[0, 0].content.sum(0).tolist()


def diffusion_resumed(config: DiffusionConfig, folder: Path) -> str:
    """What a training says whose config was changed since."""
    own = diffusion_config()
    own.train.epochs = 1
    train_diffuser(own, folder)
    config.train.epochs = 1
    config.save(folder / "voice" / "diffusion" / "config.yaml")
    choices = DiffusionChoices(vocoder=folder / "vocoder")
    try:
        return train_diffusion(
            folder / "features", folder / "voice", TrainSettings(**QUICK), choices
        ).stopped_by
    except SvcError as error:
        return str(error).replace(str(folder), "")


def diffusion_network(config: DiffusionConfig, folder: Path) -> object:
    network = config.build(16)
    return of_networks(network), network.k_step_max


def diffusion_conversion(config: DiffusionConfig, folder: Path) -> list[float]:
    torch.manual_seed(0)
    config.model.k_step_max = 0
    network = config.build(16)
    nn.init.normal_(network.decoder.denoise_fn.output_projection.weight, std=0.3)
    grid = refine.Grid(RATE_HZ, HOP)
    model = load_vocoder(write_vocoder(folder / "vocoder", GRID))
    diffuser = refine.Diffuser(network, config, model, grid=grid, speakers=config.spk)
    ones = torch.ones(1, 20)
    heard = refine.Conditions(
        torch.zeros(1, 8, 20),
        150 * ones,
        ones,
        torch.zeros(1, 1).long(),
        Noise(torch.Generator().manual_seed(0)),
    )
    return np.asarray(diffuser(heard, settings=ConversionSettings())).tolist()


# --- vocoder ------------------------------------------------------------------------------------------------------


def vocoder_config() -> vocoder.Config:
    network = {
        "upsample_rates": [8, 8],
        "upsample_kernel_sizes": [16, 16],
        "upsample_initial_channel": 16,
        "resblock_kernel_sizes": [3],
        "resblock_dilation_sizes": [[1, 3]],
        "discriminator_periods": [3],
    }
    return tiny_vocoder.frame_config(**network, c_stft=0.0)


def vocoder_training(config: vocoder.Config, folder: Path) -> object:
    features = tiny_vocoder.write_features(folder / "features")
    settings = TrainSettings(max_epochs=2, **QUICK)
    try:
        report = vocoder.train(features, folder / "vocoder", settings, config=config)
    except SvcError as error:
        return str(error).replace(str(folder), "")
    return of_training(folder / "vocoder", report)


def vocoder_rates(config: vocoder.Config, folder: Path) -> object:
    return rates_of(
        import_module("svcnb.models.vocoder.step").fresh_state(config, TrainSettings(device="cpu"))
    )


def vocoder_discriminator(config: vocoder.Config, folder: Path) -> bool:
    return vocoder.build(config).discriminator is not None


def vocoder_mel(config: vocoder.Config, folder: Path) -> list[list[float]]:
    noise = torch.randn(1, 40 * HOP, generator=torch.Generator().manual_seed(0))
    return mel_of(config.sizes())(noise)[0].tolist()


def vocoder_network(config: vocoder.Config, folder: Path) -> object:
    config.vocoder_name, config.c_adversarial = "nsf-hifigan", 1.0
    networks = vocoder.build(config)
    return of_networks(networks.generator, networks.discriminator)
