"""Train a voice's diffusion model: from a feature store to diffusion/model_*.pt, resumed where it stopped."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svcnb import SvcError
from svcnb.audio.spectral import VocoderMel
from svcnb.conversion.self_conversion import ConvertingVoice, SelfConvertedClips, self_convert_clips
from svcnb.data.dataset import Split, load_split
from svcnb.data.feature_store import FeatureStore
from svcnb.files.checkpoint import load_weights
from svcnb.models.diffusion.checkpoint import (
    CONFIG_NAME,
    DIFFUSION_FOLDER,
    newest_model,
    read_diffusion_checkpoint,
    save_diffusion_checkpoint,
)
from svcnb.models.diffusion.config import Config, VoiceContent
from svcnb.models.diffusion.data import DiffusionBatch, DiffusionClips, collate_crops, crop_loader
from svcnb.models.diffusion.network import Unit2Mel
from svcnb.models.settings import DiffusionChoices
from svcnb.models.vocoder.files import find_vocoder, load_vocoder
from svcnb.training.checkpoints import RunRecord, read_progress
from svcnb.training.loop import FitHooks, TrainReport, fit
from svcnb.training.settings import TrainSettings
from svcnb.training.state import TrainState, assemble, make_accelerator, restore, settle
from svcnb.training.tensorboard import BOARD_FOLDER, TensorBoardLog
from svcnb.training.validation import choose_clips

SIZES = ("auto", "small", "full")
N_MEASURED_STEPS = 8  # noise steps at which held-out clips are measured, spread evenly over the learned ones
FIXED_SEED = 1  # of what held-out clips are measured with
# How far a voice's mel lies from the recording's, as a variance in the model's units: about 0.65 in natural logarithms.
SELF_CONVERTED_VARIANCE = 0.01
# One vector per speaker, and one table for two and more: what a base model may have in another size.
PER_SPEAKER = ("spk_embed.",)
log = logging.getLogger(__name__)


def train_diffusion(
    features_folder: Path | str,
    voice_folder: Path | str,
    settings: TrainSettings,
    choices: DiffusionChoices | None = None,
    *,
    resume: bool = True,
    voice: ConvertingVoice | None = None,
) -> TrainReport:
    """Train a diffusion model beside a voice; the same call continues a training that was stopped.

    Args:
        features_folder: what `prepare` made, config.json included.
        voice_folder: its folder diffusion/ gets config.yaml, model_<step>.pt, state.json, history.jsonl.
        settings: how long, how often to save, precision, device; several processes are not supported.
        resume: False refuses a folder that already holds a training.
        voice: half of the crops get their noise on top of what this voice makes of them, and shall come out as they were
            recorded: what shallow diffusion does to it. Spoken clips lie in diffusion/spoken.

    Raises:
        SvcError: no features or vocoder, other frames or another model than the training in the folder has,
            a base that does not fit.
    """
    choices = choices or DiffusionChoices()
    folder = Path(voice_folder) / DIFFUSION_FOLDER
    if settings.n_processes > 1:
        raise SvcError("a diffusion model trains in one process: leave num_processes at 1")
    store = FeatureStore.open(features_folder)
    voice_config = VoiceContent.read(Path(features_folder) / "config.json")
    vocoder_path = find_vocoder(
        choices.vocoder, voice_folder=Path(voice_folder), pretrain_folder=choices.pretrain_folder
    )
    vocoder = load_vocoder(vocoder_path)
    record = read_progress(folder)
    config = _config_of_run(choices, voice_config, folder, record).for_voice(voice_config, vocoder.settings)
    settings = _settle(settings, config, named=None if record else choices.config, folder=folder)
    _check_frames(store, config)
    if record is not None:
        _check_same_run(folder, config, resume=resume)
    state = _state(config, settings, vocoder.mel)
    if record is not None:
        _load_run(state, folder, record)
    else:
        _start(state, folder, choices.base)
    folder.mkdir(parents=True, exist_ok=True)
    config.save(folder / CONFIG_NAME)
    split = load_split(store)
    takes = self_convert_clips(voice, store, folder, unseen=split.validation) if voice is not None else None
    return _fit(state, store, config, settings, folder, split=split, takes=takes)


def _config_of_run(
    choices: DiffusionChoices, voice_config: VoiceContent, folder: Path, record: RunRecord | None
) -> Config:
    """The config chosen; a training that is continued keeps its own."""
    choice = choices.config
    if record is not None:
        config = Config.load(folder / CONFIG_NAME)
    elif choice in SIZES:
        small = choice == "small" or (choice == "auto" and voice_config.is_small)
        config = Config.small() if small else Config.full()
    else:
        config = Config.load(choice)
    if choices.batch_size is not None:
        config.train.batch_size = choices.batch_size
    if choices.k_step_max is not None:
        config.model.k_step_max = choices.k_step_max
    return config


def _settle(
    settings: TrainSettings, config: Config, *, named: str | Path | None, folder: Path
) -> TrainSettings:
    """The settings with what the config says beside them; the precision that the user chose is kept in the config."""
    path = folder / CONFIG_NAME if named in (None, *SIZES) else Path(named)
    config.warn_of_unused(path)
    if settings.precision != "auto":
        config.train.amp_dtype = settings.precision
    return settle(settings, config.schedule, path)


def _check_frames(store: FeatureStore, config: Config) -> None:
    vocoder_s = config.data.block_size / config.data.sampling_rate
    if abs(store.settings.hop_s / vocoder_s - 1) > 1e-6:
        raise SvcError(
            f"the features have {1 / store.settings.hop_s:.2f} frames per second, the vocoder {1 / vocoder_s:.2f}: "
            "use a vocoder with the voice's frames, or extract features with a config that has the vocoder's"
        )


def _check_same_run(folder: Path, config: Config, *, resume: bool) -> None:
    if not resume:
        raise SvcError(f"{folder} already holds a training: resume it, or train into another folder")
    earlier = Config.load(folder / CONFIG_NAME)
    if (earlier.model, earlier.data, earlier.spk) != (config.model, config.data, config.spk):
        raise SvcError(
            f"the training in {folder} has another configuration than these features, this vocoder and these "
            "choices: train into another folder, or give what it was made with"
        )


# The state ------------------------------------------------------------------------------------------


def _state(config: Config, settings: TrainSettings, mel: VocoderMel) -> TrainState:
    accelerator = make_accelerator(settings)
    torch.manual_seed(settings.seed)
    optimizer = partial(
        torch.optim.AdamW, lr=config.train.lr, weight_decay=config.train.weight_decay, fused=True
    )
    return assemble(
        config.build(mel.filters.shape[0]),
        None,
        make_optimizer=optimizer,
        lr_decay=1.0,  # the rate falls by steps, see learning_rate
        accelerator=accelerator,
        extras={"config": config, "mel": mel.to(accelerator.device)},
    )


def _network(state: TrainState) -> Unit2Mel:
    return state.accelerator.unwrap_model(state.generator)


def _start(state: TrainState, folder: Path, base: Path | None) -> None:
    """Warm start from a base model, or from the newest one that lies in the folder; its steps count."""
    path = base or newest_model(folder)
    if path is None:
        return
    stored = read_diffusion_checkpoint(path)
    report = load_weights(_network(state), stored.model, may_miss=PER_SPEAKER, may_skip=PER_SPEAKER)
    state.step = stored.global_step if base is None else 0
    log.info("started from %s: %s", path.name, report)


def _load_run(state: TrainState, folder: Path, record: RunRecord) -> None:
    stored = read_diffusion_checkpoint(folder / f"model_{record.step}.pt")
    load_weights(_network(state), stored.model)
    if stored.optimizer:
        state.optimizer_g.load_state_dict(stored.optimizer)
    else:
        log.warning(
            "model_%d.pt was saved without its optimiser (save_opt): the first steps will be rough",
            record.step,
        )
    restore(state, record)


def save_run(state: TrainState, folder: Path) -> None:
    """Write model_<step>.pt in the family's layout."""
    config: Config = state.extras["config"]
    save_diffusion_checkpoint(
        folder / f"model_{state.step}.pt",
        model_state=_network(state).state_dict(),
        global_step=state.step,
        optimizer_state=state.optimizer_g.state_dict() if config.train.save_opt else None,
    )


# Steps ----------------------------------------------------------------------------------------------


def learning_rate(config: Config, step: int) -> float:
    """Of the step after `step` done ones: multiplied by gamma every decay_step steps."""
    return config.train.lr * config.train.gamma ** (step // config.train.decay_step)


def train_step(state: TrainState, batch: DiffusionBatch) -> dict[str, Tensor]:
    """Predict the noise in the crops at random noise steps, and update.

    Returns:
        `noise`, the mean squared error that the update lowers, and `mel`, see `_compare`.

    Source: so-vits-svc 4.1 train_diff.py and diffusion/solver (loss, optimiser, learning rate).
    """
    for group in state.optimizer_g.param_groups:
        group["lr"] = learning_rate(state.extras["config"], state.step)
    step = torch.randint(0, _network(state).k_step_max, (len(batch),), device=batch.content.device)
    mels = batch.mels(state.extras["mel"])
    noise = torch.randn(len(batch), 1, *mels[0].shape[:0:-1], device=mels[0].device)
    losses = _compare(state, batch, mels, step, noise)
    state.descend(state.optimizer_g, losses["noise"])
    return losses


def _compare(
    state: TrainState, batch: DiffusionBatch, mels: tuple[Tensor, Tensor], step: Tensor, noise: Tensor
) -> dict[str, Tensor]:
    """Means over the crops' own frames, given the mel that shall come out and the one that noise is put on, [B, N, M].

    `noise`: squared error of the predicted noise. `mel`: how far the log mel that follows from it lies from the
    crop's, in natural logarithms per band.

    Where the two differ, the noise to predict is whatever leads to the first. Few noise steps hide the difference so
    little that it is many times the noise; such a crop counts as much less as its noise to predict is larger.
    """
    mel, blurred = mels
    heard = (batch.content, batch.f0_hz, batch.volume, batch.speaker, batch.shift_semitones)
    decoder = _network(state).decoder
    blur = decoder.sqrt_recipm1_alphas_cumprod[step][
        :, None, None, None
    ]  # noise relative to what is left of the mel
    wanted = noise + (decoder.normalise(blurred) - decoder.normalise(mel)) / blur
    gap = state.generator(blurred, heard, step, noise) - wanted  # [B, 1, M, N]
    valid = torch.arange(gap.shape[-1], device=gap.device) < batch.lengths[:, None]  # [B, N]
    n_values = valid.sum() * gap.shape[2]
    valid = valid[:, None, None]
    weight = torch.where(
        batch.is_refining[:, None, None, None], blur**2 / (blur**2 + SELF_CONVERTED_VARIANCE), 1.0
    )
    half_range = (decoder.spec_max - decoder.spec_min).squeeze() / 2
    return {
        "noise": (gap.square() * weight * valid).sum() / n_values,
        "mel": (gap.detach().abs() * half_range * blur * valid).sum() / n_values,
    }


class HeldOutCrops:
    """Measures the network on crops it never trains on, always with the same noise.

    Attributes:
        deciding: the measure that tells the best checkpoint.
    """

    def __init__(
        self, store: FeatureStore, config: Config, split: Split, takes: SelfConvertedClips | None
    ) -> None:
        names = choose_clips(store, split.validation)

        def batches(takes: SelfConvertedClips | None) -> list[DiffusionBatch]:
            clips = (
                DiffusionClips(store, names, config, augment=False, seed=FIXED_SEED, takes=takes)
                if names
                else ()
            )
            return [collate_crops([clips[0, index]]) for index in range(len(clips))]

        self.recorded = batches(None)
        self.spoken = [] if takes is None else batches(replace(takes, chance=1.0))
        self.deciding = "mel" if takes is None else "voice_mel"

    @torch.no_grad()
    def measure(self, state: TrainState) -> dict[str, float]:
        """`noise` and `mel` as in training, over all crops; no entries where no clip is held out. With a voice also
        `voice_mel`: the same where noise is put on what it makes of them."""
        state.generator.eval()
        found = self._means(state, self.recorded)
        return found | ({"voice_mel": self._means(state, self.spoken)["mel"]} if self.spoken else {})

    def _means(self, state: TrainState, batches: list[DiffusionBatch]) -> dict[str, float]:
        generator = torch.Generator().manual_seed(FIXED_SEED)
        steps = torch.linspace(0, _network(state).k_step_max - 1, N_MEASURED_STEPS).round().long()
        totals, n_frames = {}, 0
        for waiting in batches:
            batch = waiting.to(state.accelerator.device)
            mels = batch.mels(state.extras["mel"])
            drawn = torch.randn(N_MEASURED_STEPS, 1, *mels[0].shape[:0:-1], generator=generator).to(
                mels[0].device
            )
            length = int(batch.lengths[0])
            for step, noise in zip(steps.to(mels[0].device), drawn, strict=True):
                found = _compare(state, batch, mels, step[None], noise[None])
                totals = {
                    name: totals.get(name, 0.0) + float(value) * length for name, value in found.items()
                }
                n_frames += length
        return {name: total / n_frames for name, total in totals.items()}


def _fit(
    state: TrainState,
    store: FeatureStore,
    config: Config,
    settings: TrainSettings,
    folder: Path,
    *,
    split: Split,
    takes: SelfConvertedClips | None,
) -> TrainReport:
    clips = DiffusionClips(
        store,
        split.training,
        config,
        augment=True,
        seed=settings.seed,
        in_memory=config.train.cache_all_data,
        takes=takes,
    )
    batches = crop_loader(clips, config.train.batch_size, n_workers=settings.n_loader_workers)
    board = TensorBoardLog(folder / BOARD_FOLDER, first_step=state.step + 1) if settings.tensorboard else None
    facts: dict[str, Any] = {"training_s": round(sum(map(store.duration_s, split.training)), 1)}
    held_out = HeldOutCrops(store, config, split, takes)
    hooks = FitHooks(
        save=save_run,
        validate=held_out.measure,
        measure=held_out.deciding,
        facts=facts,
        listen=board.add_line if board else None,
    )
    try:
        return fit(state, batches, train_step, settings, folder=folder, hooks=hooks)
    finally:
        if board is not None:
            board.close()
