"""Which batch size a so-vits training uses: the user's, the interrupted run's, the config's, or one that is tried out."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from svcnb import SvcError
from svcnb.batch_probe import HEADROOM_RATIO, probe_in_child, sizes_up_to
from svcnb.dataset import Batch, FeatureStore, VoiceDataset, collate
from svcnb.memory import is_out_of_memory
from svcnb.recipes.sovits_config import Config
from svcnb.recipes.sovits_state import fresh_state
from svcnb.recipes.sovits_step import train_step
from svcnb.training import RunRecord, TrainSettings

N_TRIAL_STEPS = 2  # the optimisers' moments are made in the first

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
    if wish not in ("auto", None):
        raise SvcError(f"batch_size is {wish!r}: give a number, or auto")
    if record is not None and record.batch_size is not None:
        return record.batch_size
    if wish is None:
        return config.train.batch_size
    if settings.device == "cpu" or not torch.cuda.is_available():
        log.warning("batch_size auto is for GPUs: on the CPU the config's %d is taken", config.train.batch_size)
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
        held = torch.cuda.memory_reserved(device)  # by us; what others hold is not there for the training either
        return held <= HEADROOM_RATIO * (free + held) and free + held <= total
