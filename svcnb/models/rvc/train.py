"""Train an RVC voice: from an experiment's features to G_*.pth and a small model, resumed where it stopped."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from svcnb import SvcError
from svcnb.data.batches import Batch, VoiceLoader, loader
from svcnb.data.dataset import Split, VoiceDataset, load_split
from svcnb.data.extractor import write_median_f0
from svcnb.data.feature_store import FeatureStore
from svcnb.files.checkpoint import load_weights
from svcnb.models.rvc.checkpoint import (
    RvcCheckpoint,
    SmallModel,
    read_rvc_checkpoint,
    write_rvc_checkpoint,
    write_small_model,
)
from svcnb.models.rvc.config import Config
from svcnb.models.rvc.prepare import CONFIG_NAME, MUTE, non_silent, open_features, speakers_of
from svcnb.models.rvc.step import RvcBatch, StepParts, build, train_step
from svcnb.models.settings import EpochChoices
from svcnb.nn.layers import Noise
from svcnb.training.checkpoints import RunRecord, read_progress
from svcnb.training.loop import FitHooks, TrainReport, fit
from svcnb.training.losses import optimizer_maker
from svcnb.training.settings import TrainSettings
from svcnb.training.state import TrainState, assemble, make_accelerator, restore, settle
from svcnb.training.tensorboard import BOARD_FOLDER, TensorBoardLog
from svcnb.training.validation import ClipChoices, HeldOutClips, drop_later_samples

WEIGHTS_FOLDER = "weights"  # small models, as in RVC's assets/weights
BASES = AUTO_BASE, NO_BASE = "auto", "none"


def train(
    experiment: Path | str,
    settings: TrainSettings,
    choices: EpochChoices = EpochChoices(),
    *,
    base: tuple[Path, Path | None] | str | None = AUTO_BASE,
    batch_size: int | None = None,
    pretrain_folder: Path = Path("pretrain"),
) -> TrainReport:
    """Train a voice on an experiment's features; the same call continues a run that was stopped.

    Args:
        experiment: folder with features/ and config.json (see `prepare`); gets G_<step>.pth, D_<step>.pth, state.json,
            history.jsonl, samples/ and weights/<experiment>.pth, the small model of the best checkpoint.
        base: G and D to start from (D may be None), "auto" for the published ones where they are in pretrain_folder,
            "none" for nothing. Of no effect on a run that is continued.
        batch_size: clips per step instead of the config's; a run that is continued keeps its own.

    Raises:
        SvcError: no features, a base that does not fit (every difference named), a run of another configuration.
    """
    experiment = Path(experiment)
    if settings.n_processes > 1:
        raise SvcError("an RVC voice is trained by one process: leave n_processes at 1")
    config, store = open_features(experiment)
    config.warn_of_unused(experiment / CONFIG_NAME)
    settings = settle(settings, config.schedule, experiment / CONFIG_NAME)
    record = read_progress(experiment)
    if batch_size is not None and record is None:
        config.train.batch_size = batch_size
        config.save(experiment / CONFIG_NAME)
    state = fresh_state(config, settings)
    if record is not None:
        load_run(state, experiment, record)
    else:
        start_from(choose_base(base, config, pretrain_folder), state)
    drop_later_samples(experiment, state.step)
    write_median_f0(store, config.spk, experiment)
    split = _split(store, config)
    batches = training_batches(store, config, split, n_workers=settings.n_loader_workers)
    settings = choices.apply(settings, len(batches))
    return _fit(state, store, split, batches, settings, choices, experiment)


def _fit(
    state: TrainState,
    store: FeatureStore,
    split: Split,
    batches: VoiceLoader,
    settings: TrainSettings,
    choices: EpochChoices,
    experiment: Path,
) -> TrainReport:
    config: Config = state.extras["parts"].config
    board = (
        TensorBoardLog(experiment / BOARD_FOLDER, first_step=state.step + 1) if settings.tensorboard else None
    )
    voiced = Split([name for name in split.training if not name.startswith(f"{MUTE}/")], split.validation)
    held_out = HeldOutClips(
        store, voiced, ClipChoices(speakers_of(config), "twice", config.train.seed), synthesize, board=board
    )

    def sample(state: TrainState, folder: Path) -> None:
        held_out.write_samples(state, folder)
        if choices.save_small_models and read_progress(folder) is not None:
            write_small(state, folder / WEIGHTS_FOLDER / f"{folder.name}_e{state.epoch}_s{state.step}.pth")

    def keep_batch_size(size: int) -> None:
        config.train.batch_size = size
        config.save(experiment / CONFIG_NAME)

    hooks = FitHooks(
        save=save_run,
        validate=held_out.measure,
        sample=sample,
        listen=board.add_line if board else None,
        batch_size_changed=keep_batch_size,
        facts={
            f"{part}_s": round(sum(map(store.duration_s, getattr(split, part))), 1)
            for part in ("training", "validation")
        },
    )
    try:
        report = fit(state, batches, train_step, settings, folder=experiment, hooks=hooks)
    finally:
        if board is not None:
            board.close()
    if report.step:
        publish(experiment, config)
    return report


def fresh_state(config: Config, settings: TrainSettings) -> TrainState:
    """Networks of a config with the seed's weights, and their optimisers."""
    accelerator = make_accelerator(settings)
    torch.manual_seed(settings.seed)
    networks = build(config)
    return assemble(
        networks.generator,
        networks.discriminator,
        make_optimizer=optimizer_maker(config.train),
        lr_decay=config.train.lr_decay,
        accelerator=accelerator,
        extras={"parts": StepParts(config).to(accelerator.device)},
    )


def _split(store: FeatureStore, config: Config) -> Split:
    """Silence is trained on and never held out: it is a speaker of two clips, which gives none."""
    if not non_silent(store):
        raise SvcError(f"{store.folder} holds only silence: cut recordings and extract again")
    return load_split(store, seed=config.train.seed)


def training_batches(store: FeatureStore, config: Config, split: Split, *, n_workers: int) -> VoiceLoader:
    train = config.train
    dataset = VoiceDataset(
        store,
        split.training,
        speakers_of(config),
        max_frames=train.max_frames,
        unit_interpolate_mode="twice",
        seed=train.seed,
        in_memory=config.is_small,
    )
    return loader(
        dataset, train.batch_size, seed=train.seed, n_workers=n_workers, min_frames=config.segment_frames
    )


def count_steps(experiment: Path | str) -> int:
    """Steps of one epoch: clips, silence included, over the batch size, rounded up."""
    config, store = open_features(experiment)
    n_clips = len(load_split(store, seed=config.train.seed).training)
    return math.ceil(n_clips / min(config.train.batch_size, n_clips))


def synthesize(state: TrainState, batch: Batch, noise: Noise) -> Tensor:
    """Audio [B, 1, T] without the randomness of the prior."""
    config = state.extras["parts"].config
    heard = RvcBatch.of(batch, with_f0=config.f0)
    generator = state.accelerator.unwrap_model(state.generator)
    inputs = (heard.content, heard.coarse, heard.f0_hz, heard.speaker)
    return generator.infer(*inputs, noise_scale=0.0, noise=noise).audio


# ---------------------------------------------------------------- files


def _pairs(state: TrainState) -> list[tuple[str, nn.Module, torch.optim.Optimizer]]:
    """Letter, network and optimiser of what is trained."""
    pairs = (("G", state.generator, state.optimizer_g), ("D", state.discriminator, state.optimizer_d))
    return [
        (letter, state.accelerator.unwrap_model(net), optimizer)
        for letter, net, optimizer in pairs
        if net is not None
    ]


def save_run(state: TrainState, folder: Path) -> None:
    """Write G_<step>.pth and D_<step>.pth in the family's layout; `iteration` is the epoch."""
    rate = state.extras["parts"].config.train.learning_rate
    for letter, network, optimizer in _pairs(state):
        stored = RvcCheckpoint(network.state_dict(), state.epoch, optimizer.state_dict(), rate)
        write_rvc_checkpoint(folder / f"{letter}_{state.step}.pth", stored)


def load_run(state: TrainState, folder: Path, record: RunRecord) -> None:
    """Weights and optimisers of the newest checkpoint, strictly, and where it stood."""
    for letter, network, optimizer in _pairs(state):
        stored = read_rvc_checkpoint(folder / f"{letter}_{record.step}.pth")
        load_weights(network, stored.model)
        optimizer.load_state_dict(stored.optimizer)
    restore(state, record)


def write_small(state: TrainState, path: Path) -> Path | None:
    """The network as it is, as a small model; None for the small size, which RVC's format cannot hold."""
    config = state.extras["parts"].config
    if config.is_small:
        return None
    weights = state.accelerator.unwrap_model(state.generator).state_dict()
    return write_small_model(path, SmallModel.of(weights, config, info=f"{state.epoch}epoch"))


def publish(experiment: Path, config: Config) -> Path | None:
    """Write weights/<experiment>.pth of the best checkpoint (the newest where none is measured); as `write_small`."""
    record = read_progress(experiment)
    if config.is_small or record is None:
        return None
    step = record.best.step if record.best else record.step
    stored = read_rvc_checkpoint(experiment / f"G_{step}.pth")
    model = SmallModel.of(stored.model, config, info=f"{stored.epoch}epoch")
    return write_small_model(experiment / WEIGHTS_FOLDER / f"{experiment.name}.pth", model)


# ---------------------------------------------------------------- bases


def base_names(config: Config) -> tuple[Path, Path]:
    """Where the published base of a version, rate and guidance lies below pretrain/, G and D."""
    folder = Path("pretrained" if config.version == "v1" else "pretrained_v2")
    guided = "f0" if config.f0 else ""
    return folder / f"{guided}G{config.rate_name}.pth", folder / f"{guided}D{config.rate_name}.pth"


def choose_base(
    base: tuple[Path, Path | None] | str | None, config: Config, pretrain_folder: Path
) -> tuple[Path, Path | None] | None:
    """G and D to start from, or None.

    Raises:
        SvcError: a file that is not there.
    """
    if base in (None, NO_BASE):
        return None
    if base == AUTO_BASE:
        pair = tuple(pretrain_folder / path for path in base_names(config))
        return (
            None
            if config.is_small or not pair[0].is_file()
            else (pair[0], pair[1] if pair[1].is_file() else None)
        )
    if isinstance(base, str):
        raise SvcError(f"base is {base!r}: give {AUTO_BASE}, {NO_BASE}, or the paths of a G and a D")
    for path in filter(None, base):
        if not Path(path).is_file():
            raise SvcError(f"no base at {path}: give a pretrained G_*.pth and D_*.pth, or base={NO_BASE}")
    return Path(base[0]), Path(base[1]) if base[1] else None


def start_from(base: tuple[Path, Path | None] | None, state: TrainState) -> None:
    """Warm start of the weights alone, strictly."""
    if base is None:
        return
    for (_, network, _), path in zip(_pairs(state), base, strict=False):
        if path is not None:
            load_weights(network, read_rvc_checkpoint(path).model)
