"""Train a so-vits voice: from a feature store to G_*.pth, resumed where it stopped."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from svcnb import SvcError, checkpoint
from svcnb.dataset import Batch, FeatureStore, VoiceDataset, VoiceLoader, load_split, loader
from svcnb.recipes.sovits_config import Config
from svcnb.recipes.sovits_step import StepParts, build, train_step
from svcnb.recipes.sovits_voice import MIDDLE_PITCH_FILE
from svcnb.training import (
    FitHooks,
    TrainReport,
    TrainSettings,
    TrainState,
    assemble,
    fit,
    make_accelerator,
    read_progress,
    restore,
)

log = logging.getLogger(__name__)

# Tensors that a base model may have in another size: one row per speaker.
PER_SPEAKER = ("emb_g.",)


def train(
    features_folder: Path | str,
    voice_folder: Path | str,
    settings: TrainSettings,
    *,
    resume: bool = True,
    base: Path | str | None = None,
    batch_size: int | None = None,
) -> TrainReport:
    """Train a voice on extracted features; the same call continues a run that was stopped.

    Args:
        features_folder: what `prepare` made, config.json included.
        voice_folder: gets config.json, G_<step>.pth, D_<step>.pth (where the config trains with a discriminator),
            state.json, history.jsonl and the speakers' middle pitches.
        settings: how long, how often to save, precision, device.
        resume: False refuses a folder that already holds a run.
        base: folder with G_0.pth and D_0.pth to start from (or one G file); speakers may differ.
        batch_size: clips per step, instead of the config's; halve it when memory runs out.

    Raises:
        SvcError: no features, a run of another configuration in the folder, a base that does not fit,
            a batch size below 1.
    """
    features_folder, voice_folder = Path(features_folder), Path(voice_folder)
    store = FeatureStore.open(features_folder)
    config = Config.load(features_folder / "config.json")
    if batch_size is not None:
        config.train = config.train.model_copy(update={"batch_size": batch_size})
    voice_folder.mkdir(parents=True, exist_ok=True)
    record = read_progress(voice_folder)
    if record is not None:
        _check_same_run(voice_folder, config, resume=resume)
    accelerator = make_accelerator(settings)
    torch.manual_seed(settings.seed)
    networks = build(config)
    if record is None and base is not None:
        start_from(Path(base), networks.generator, networks.discriminator)
    state = assemble(
        networks.generator,
        networks.discriminator,
        make_optimizer=partial(
            torch.optim.AdamW, lr=config.train.learning_rate, betas=config.train.betas, eps=config.train.eps
        ),
        lr_decay=config.train.lr_decay,
        accelerator=accelerator,
        extras={"parts": StepParts(config).to(accelerator.device)},
    )
    if record is not None:
        load_run(state, voice_folder, record.step)
        restore(state, record)
    else:
        write_middle_pitches(store, config, voice_folder)
    config.save(voice_folder / "config.json")
    hooks = FitHooks(save=partial(save_run, config=config), validate=_validator(store, config))
    return fit(state, _training_batches(store, config, settings), train_step, settings, folder=voice_folder, hooks=hooks)


def write_middle_pitches(store: FeatureStore, config: Config, voice_folder: Path) -> None:
    """Keep each speaker's median f0 beside the voice, so that conversion can suggest a key."""
    tracks: dict[str, list[np.ndarray]] = {name: [] for name in config.spk}
    for name in store.names():
        f0_hz = store.read(name)["f0_hz"]
        tracks[store.record(name).speaker].append(f0_hz[f0_hz > 0])
    medians = {speaker: float(np.median(np.concatenate(own))) for speaker, own in tracks.items() if any(map(len, own))}
    with checkpoint.atomic_path(voice_folder / MIDDLE_PITCH_FILE) as partial:
        partial.write_text(json.dumps(medians, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def save_run(state: TrainState, folder: Path, *, config: Config) -> None:
    """Write G_<step>.pth and D_<step>.pth in the family's layout."""
    pairs = (("G", state.generator, state.optimizer_g), ("D", state.discriminator, state.optimizer_d))
    for letter, network, optimizer in pairs:
        if network is not None:
            checkpoint.save_sovits_checkpoint(
                folder / f"{letter}_{state.step}.pth",
                model_state=state.accelerator.unwrap_model(network).state_dict(),
                iteration=state.epoch,
                learning_rate=config.train.learning_rate,
                optimizer_state=optimizer.state_dict(),
            )


def load_run(state: TrainState, folder: Path, step: int) -> None:
    """Weights and optimisers of the checkpoint of `step`, strictly."""
    pairs = (("G", state.generator, state.optimizer_g), ("D", state.discriminator, state.optimizer_d))
    for letter, network, optimizer in pairs:
        if network is not None:
            stored = checkpoint.read_sovits_checkpoint(folder / f"{letter}_{step}.pth")
            checkpoint.load_weights(state.accelerator.unwrap_model(network), stored.model)
            if stored.optimizer:
                optimizer.load_state_dict(stored.optimizer)


def start_from(base: Path, generator: nn.Module, discriminator: nn.Module | None) -> None:
    """Warm start from base weights; speaker rows of another size keep their fresh values.

    Raises:
        SvcError: no base there, or weights of another architecture (every difference named).
    """
    pair = checkpoint.newest_pair(base) if base.is_dir() else None
    if base.is_dir() and pair is None:
        raise SvcError(f"no G_*.pth with its D_*.pth in {base}: put G_0.pth and D_0.pth of the base model there")
    generator_path, discriminator_path = pair or (base, None)
    stored = checkpoint.read_sovits_checkpoint(generator_path).model
    report = checkpoint.load_weights(generator, stored, may_miss=("enc_q.", "f0_decoder."), may_skip=PER_SPEAKER)
    log.info("started from %s: %s", generator_path.name, report)
    if discriminator is not None and discriminator_path is not None:
        checkpoint.load_weights(discriminator, checkpoint.read_sovits_checkpoint(discriminator_path).model)


def _check_same_run(voice_folder: Path, config: Config, *, resume: bool) -> None:
    if not resume:
        raise SvcError(f"{voice_folder} already holds a training: resume it, or train into another folder")
    earlier = Config.load(voice_folder / "config.json")
    if earlier.model != config.model or earlier.spk != config.spk or earlier.data != config.data:
        raise SvcError(
            f"the training in {voice_folder} has another configuration than the features: "
            "train into another folder, or extract the features it was made with"
        )


def _training_batches(store: FeatureStore, config: Config, settings: TrainSettings) -> VoiceLoader:
    dataset = _dataset(store, config, load_split(store, seed=config.train.seed).training)
    return loader(
        dataset,
        config.train.batch_size,
        seed=config.train.seed,
        n_workers=settings.n_loader_workers,
        min_frames=config.segment_frames,
    )


def _dataset(store: FeatureStore, config: Config, names: list[str]) -> VoiceDataset:
    return VoiceDataset(
        store,
        names,
        config.spk,
        max_frames=config.train.max_frames,
        unit_interpolate_mode=config.data.unit_interpolate_mode,
        seed=config.train.seed,
        in_memory=config.train.all_in_mem or config.is_small,
    )


def _validator(store: FeatureStore, config: Config) -> Callable[[TrainState], dict[str, float]] | None:
    """Mel distance on held-out clips, decoded from what conversion hears: content, f0 and speaker alone."""
    names = load_split(store, seed=config.train.seed).validation
    if not names:
        return None
    held_out = loader(_dataset(store, config, names), min(8, len(names)), shuffle=False)

    def validate(state: TrainState) -> dict[str, float]:
        parts: StepParts = state.extras["parts"]
        generator = state.accelerator.unwrap_model(state.generator).eval()
        distances = [_prior_mel_distance(generator, batch.to(state.accelerator.device), parts) for batch in held_out]
        return {"mel": sum(distances) / len(distances)}

    return validate


@torch.no_grad()
def _prior_mel_distance(generator: nn.Module, batch: Batch, parts: StepParts) -> float:
    audio = generator.infer(
        batch.content, batch.f0_hz, batch.voiced, batch.speaker, volume=batch.volume, noise_scale=0.0
    ).audio
    mask = torch.arange(batch.f0_hz.shape[1], device=audio.device) < batch.lengths[:, None]  # [B, N]
    difference = (parts.mel(audio) - parts.mel(batch.audio)).abs().mean(dim=1)
    return float((difference * mask).sum() / mask.sum())
