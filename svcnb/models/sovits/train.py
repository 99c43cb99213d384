"""Train a so-vits voice: from a feature store to G_*.pth, resumed where it stopped."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from svcnb import SvcError
from svcnb.data.augmentation import vary_loudness
from svcnb.data.batches import Batch, Part, VoiceLoader, check_parts, collate, loader
from svcnb.data.dataset import Split, VoiceDataset, load_split
from svcnb.data.extractor import write_median_f0
from svcnb.data.feature_store import FeatureStore
from svcnb.device import is_out_of_memory
from svcnb.models.sovits.checkpoint import AUTO_BASE, choose_base, keep_base, kept_base, use_fine_tuning
from svcnb.models.sovits.config import Config
from svcnb.models.sovits.step import as_saved, fresh_state, load_run, save_run, train_step
from svcnb.nn.layers import Noise
from svcnb.training.batch_size import HEADROOM_RATIO, probe_in_child, sizes_up_to
from svcnb.training.checkpoints import RunRecord, read_progress
from svcnb.training.launch import check_devices, is_launched, run_in_processes
from svcnb.training.loop import FitHooks, TrainReport, fit
from svcnb.training.losses import PerceptualLoss
from svcnb.training.settings import TrainSettings
from svcnb.training.state import TrainState, restore, settle
from svcnb.training.tensorboard import BOARD_FOLDER, TensorBoardLog
from svcnb.training.validation import ClipChoices, HeldOutClips, drop_later_samples

CONFIG_NAME = "config.json"
N_TRIAL_STEPS = 2  # the optimisers' moments are made in the first


def train(
    features_folder: Path | str,
    voice_folder: Path | str,
    settings: TrainSettings,
    *,
    resume: bool = True,
    base: Path | str | None = AUTO_BASE,
    batch_size: int | Literal["auto"] | None = None,
    listener: PerceptualLoss | None = None,
) -> TrainReport:
    """Train a voice on extracted features; the same call resumes a run that was stopped.

    With settings.n_processes above 1 it starts so many processes that share every batch, and waits for them; a script
    then needs the usual `if __name__ == "__main__":`. Processes of torchrun or `accelerate launch` train together.

    Args:
        features_folder: what `prepare` made, config.json included.
        voice_folder: gets config.json, G_<step>.pth, D_<step>.pth (where the config trains with a discriminator),
            state.json, history.jsonl, samples/ (held-out clips as the voice synthesizes them), tensorboard/
            where wished, and the speakers' median f0.
        settings: how long, how often to save, precision, device. `resume` False refuses a folder that holds a run.
        base: folder with G_0.pth and D_0.pth to start from (or one G file); speakers may differ. "auto" takes the
            bundled base voice where the config is the small one with the bundled encoder; "none" (or None) takes none.
        batch_size: clips per step and process, instead of the config's; "auto" tries out what fits a GPU. When
            memory runs out it is halved, and a resumed run keeps the size it had.
        listener: perceptual-loss network instead of the bundled encoder, where the config's c_hear is above 0.

    Raises:
        SvcError: no features, a run of another configuration in the folder, a base that does not fit, a batch size
            below 1, more processes than GPUs, a process that was killed.
    """
    features_folder, voice_folder = Path(features_folder), Path(voice_folder)
    store = FeatureStore.open(features_folder)
    voice_folder.mkdir(parents=True, exist_ok=True)
    record = read_progress(voice_folder)
    earlier = Config.load(voice_folder / CONFIG_NAME) if record is not None else None
    config = _config_of_run(store, settings, earlier)
    settings = settle(settings, config.schedule, features_folder / CONFIG_NAME)
    base = _choose_start(base, voice_folder, config, record)
    _check_features(store, config)
    if earlier is not None:
        _check_same_run(voice_folder, config, earlier, resume=resume)
    places = (features_folder, voice_folder, settings)
    batch_size = choose_batch_size(
        batch_size, config, settings, features_folder=features_folder, record=record
    )
    if settings.n_processes > 1 and not is_launched():
        check_devices(settings.n_processes, settings.device)
        check_parts(len(load_split(store, seed=config.train.seed).training), settings.n_processes)
        alike = partial(train, *places, resume=resume, base=base, batch_size=batch_size, listener=listener)
        return run_in_processes(alike, settings.n_processes)
    config.train = config.train.model_copy(update={"batch_size": batch_size})
    state = fresh_state(config, settings, base=base, listener=listener)
    if record is not None:
        load_run(state, voice_folder, record.step)
        restore(state, record)
    if state.processes.is_main:
        keep_base(base, voice_folder, config)
        _write_beside(voice_folder, store, config, step=state.step)
    return _fit(state, store, config, settings, voice_folder)


def _choose_start(
    base: Path | str | None, voice_folder: Path, config: Config, record: RunRecord | None
) -> Path | None:
    """The base of a new run, and with it the way it is trained; of a run that is resumed, the base that its weights are interpolated with."""
    if record is not None:
        return kept_base(voice_folder, config)
    base = choose_base(base, config)
    use_fine_tuning(config, base)
    return base


def _split_by_one(state: TrainState, store: FeatureStore, config: Config) -> Split:
    """The held-out split; the first process writes it where there is none yet, the others read it."""
    if not state.processes.is_main:
        state.processes.wait()
    split = load_split(store, seed=config.train.seed)
    if state.processes.is_main:
        state.processes.wait()
    return split


def _fit(
    state: TrainState, store: FeatureStore, config: Config, settings: TrainSettings, voice_folder: Path
) -> TrainReport:
    split = _split_by_one(state, store, config)
    own_part = Part(state.processes.rank, state.processes.number)
    board = (
        TensorBoardLog(voice_folder / BOARD_FOLDER, first_step=state.step + 1)
        if settings.tensorboard
        else None
    )
    held_out = held_out_clips(store, config, split, board=board)

    def keep_batch_size(size: int) -> None:
        config.train = config.train.model_copy(update={"batch_size": size})
        config.save(voice_folder / CONFIG_NAME)

    hooks = FitHooks(
        save=partial(save_run, config=config),
        validate=held_out.measure,
        sample=held_out.write_samples,
        facts={f"{part}_s": _seconds(store, getattr(split, part)) for part in ("training", "validation")},
        listen=board.add_line if board else None,
        batch_size_changed=keep_batch_size,
    )
    batches = _training_batches(store, config, settings, split, own_part)
    try:
        return fit(state, batches, train_step, settings, folder=voice_folder, hooks=hooks)
    finally:
        if board is not None:
            board.close()


def _seconds(store: FeatureStore, names: list[str]) -> float:
    return round(sum(map(store.duration_s, names)), 1)


def _config_of_run(store: FeatureStore, settings: TrainSettings, earlier: Config | None) -> Config:
    """The features' config with the augmentation asked for; a run that is continued keeps its own."""
    config = Config.load(store.folder / CONFIG_NAME)
    own = earlier.train if earlier is not None else config.train
    varied = {"vol_aug": own.vol_aug if settings.vol_aug is None else settings.vol_aug}
    varied |= {
        name: getattr(own, name) for name in ("learning_rate", "base_share")
    }  # fine-tuning, where the run started so
    if varied["vol_aug"] and not config.model.vol_embedding:
        raise SvcError(
            f"vol_aug varies a loudness that the features in {store.folder} do not have: "
            "extract them with the loudness (--vol_embedding), or switch vol_aug off"
        )
    config.train = config.train.model_copy(update=varied)
    return config


def _write_beside(voice_folder: Path, store: FeatureStore, config: Config, *, step: int) -> None:
    """What lies beside a training's checkpoints from the start."""
    config.warn_of_unused(store.folder / CONFIG_NAME)
    if step == 0:
        write_median_f0(store, config.spk, voice_folder)
    config.save(voice_folder / CONFIG_NAME)
    drop_later_samples(voice_folder, step)


def _check_features(store: FeatureStore, config: Config) -> None:
    """The config beside the features may have been edited: what the features are cannot be changed there."""
    made = store.settings
    pairs = {
        "sampling_rate": (config.data.sampling_rate, made.sample_rate_hz),
        "hop_length": (config.data.hop_length, made.hop_samples),
        "speech_encoder": (config.model.speech_encoder, made.encoder),
        "vol_embedding": (config.model.vol_embedding, made.with_volume),
    }
    differences = [
        f"{key} is {wanted!r}, the features have {found!r}"
        for key, (wanted, found) in pairs.items()
        if wanted != found
    ]
    if differences:
        raise SvcError(
            f"{store.folder / CONFIG_NAME} does not fit the features beside it: {'; '.join(differences)}. "
            "Correct it, or extract the features again with this config (--overwrite)"
        )


def _check_same_run(voice_folder: Path, config: Config, earlier: Config, *, resume: bool) -> None:
    if not resume:
        raise SvcError(f"{voice_folder} already holds a training: resume it, or train into another folder")
    if earlier.model != config.model or earlier.spk != config.spk or earlier.data != config.data:
        raise SvcError(
            f"the training in {voice_folder} has another configuration than the features: "
            "train into another folder, or extract the features it was made with"
        )


def _training_batches(
    store: FeatureStore, config: Config, settings: TrainSettings, split: Split, part: Part
) -> VoiceLoader:
    train = config.train
    dataset = VoiceDataset(
        store,
        split.training,
        config.spk,
        max_frames=train.max_frames,
        unit_interpolate_mode=config.data.unit_interpolate_mode,
        augment=vary_loudness if train.vol_aug else None,
        seed=train.seed,
        in_memory=train.all_in_mem or config.is_small,
    )
    return loader(
        dataset,
        train.batch_size,
        seed=train.seed,
        n_workers=settings.n_loader_workers,
        min_frames=config.segment_frames,
        part=part,
    )


def held_out_clips(
    store: FeatureStore, config: Config, split: Split, *, board: TensorBoardLog | None = None
) -> HeldOutClips:
    """The clips that a training of this config is judged by."""
    choices = ClipChoices(config.spk, config.data.unit_interpolate_mode, config.train.seed)
    return HeldOutClips(store, split, choices, synthesize, board=board)


def synthesize(state: TrainState, batch: Batch, noise: Noise) -> Tensor:
    """Audio [B, 1, T] without the randomness of the prior."""
    generator = state.accelerator.unwrap_model(state.generator)
    with as_saved(state):
        return generator.infer(
            batch.content,
            batch.f0_hz,
            batch.voiced,
            batch.speaker,
            volume=batch.volume,
            noise_scale=0.0,
            noise=noise,
        ).audio


log = logging.getLogger(__name__)


def choose_batch_size(
    wish: int | Literal["auto"] | None,
    config: Config,
    settings: TrainSettings,
    *,
    features_folder: Path,
    record: RunRecord | None,
) -> int:
    """Clips per step and process.

    Args:
        wish: a number; None for the interrupted run's, else the config's; "auto" to try out what a GPU holds.
        config: of this training; for "auto" as the training will use it.
        record: of the run that is continued; "auto" keeps its size.
    """
    if isinstance(wish, int):
        return wish
    if wish == "auto" and is_launched():
        raise SvcError("batch_size auto cannot be tried out by several processes at once: give a number")
    if wish not in ("auto", None):
        raise SvcError(f"batch_size is {wish!r}: give a number, or auto")
    if record is not None and record.batch_size is not None:
        return record.batch_size
    if wish is None:
        return config.train.batch_size
    if settings.device == "cpu" or not torch.cuda.is_available():
        log.warning(
            "batch_size auto is for GPUs: on the CPU the config's %d is taken", config.train.batch_size
        )
        return config.train.batch_size
    n_clips = len(FeatureStore.open(features_folder))
    make_trial = partial(GpuTrial, features_folder, config.to_dict(), settings)
    return probe_in_child(make_trial, sizes_up_to(n_clips))


class GpuTrial:
    """Two training steps of the longest clips, as often as it is called; made in a process of its own."""

    def __init__(self, features_folder: Path, config: dict, settings: TrainSettings) -> None:
        self.config = Config.model_validate(config)
        store = FeatureStore.open(features_folder)
        longest = sorted(store.names(), key=lambda name: -store.record(name).n_frames)[:64]
        self.clips = VoiceDataset(
            store,
            longest,
            self.config.spk,
            max_frames=self.config.train.max_frames,
            unit_interpolate_mode=self.config.data.unit_interpolate_mode,
        )
        self.state = fresh_state(self.config, settings)
        for network in self.state.networks():
            network.train()

    def __call__(self, size: int) -> bool:
        """Whether batches of `size` fit, with room to spare."""
        batch = self.batch(size).to(self.state.accelerator.device)
        try:
            for _ in range(N_TRIAL_STEPS):
                train_step(self.state, batch)
                self.state.step = max(self.state.step, self.config.train.adversarial_after_steps)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return False
        return self._has_room()

    def batch(self, size: int) -> Batch:
        """The longest clips, repeated where there are fewer."""
        items = [self.clips[index % len(self.clips)] for index in range(size)]
        return collate(items, min_frames=self.config.segment_frames)

    def _has_room(self) -> bool:
        device = self.state.accelerator.device
        if device.type != "cuda":
            return True
        free, total = torch.cuda.mem_get_info(device)
        held = torch.cuda.memory_reserved(
            device
        )  # by us; what others hold is not there for the training either
        return held <= HEADROOM_RATIO * (free + held) and free + held <= total
