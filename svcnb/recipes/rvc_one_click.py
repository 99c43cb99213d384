"""RVC's one-click training: cut, extract, train, index; every step is checked, and what is done already is kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from svcnb.clip_features import PrepareSettings
from svcnb.dataset import FeatureReport
from svcnb.recipes.rvc_clips import RvcCutReport, RvcCutSettings, cut_recordings
from svcnb.recipes.rvc_config import Config
from svcnb.recipes.rvc_features import open_features, prepare, sounding
from svcnb.recipes.rvc_index import IndexReport, write_index
from svcnb.recipes.rvc_training import AUTO_BASE, EpochChoices, train
from svcnb.training import TrainReport, TrainSettings


@dataclass(frozen=True)
class OneClickSettings:
    """Every choice of the four steps.

    Attributes:
        config: sizes, version and pitch guidance.
        cut: None takes the original's numbers at the config's rate.
        base: as in `train`.
    """

    config: Config = field(default_factory=Config.small)
    cut: RvcCutSettings | None = None
    prepare: PrepareSettings = PrepareSettings()
    train: TrainSettings = TrainSettings()
    epochs: EpochChoices = EpochChoices()
    base: tuple[Path, Path | None] | str | None = AUTO_BASE
    batch_size: int | None = None


@dataclass(frozen=True)
class OneClickReport:
    """What each step did."""

    clips: RvcCutReport
    features: FeatureReport
    training: TrainReport
    index: IndexReport

    def __str__(self) -> str:
        training = f"{self.training.step} steps, {self.training.seconds / 60:.1f} minutes now"
        return "\n".join([str(self.clips), str(self.features), training, str(self.index)])


def train_one_click(
    recordings: Path | str, experiment: Path | str, settings: OneClickSettings, *, overwrite: bool = False
) -> OneClickReport:
    """From a folder of recordings to a voice with its index; a call that was stopped goes on where it was.

    Args:
        overwrite: cut anew, where the recordings or the cut changed.

    Raises:
        SvcError: as the steps; nothing after a step that failed is begun.
    """
    cut = settings.cut or RvcCutSettings(sample_rate_hz=settings.config.data.sampling_rate)
    clips = cut_recordings(recordings, experiment, cut, overwrite=overwrite)
    features = prepare(settings.config, experiment, settings.prepare)
    choices = {"base": settings.base, "batch_size": settings.batch_size}
    training = train(experiment, settings.train, settings.epochs, **choices)
    return OneClickReport(clips, features, training, build_voice_index(experiment))


def build_voice_index(experiment: Path | str, *, seed: int = 0) -> IndexReport:
    """The index of an experiment's content, silence left out; needs no trained model.

    Raises:
        SvcError: no features yet.
    """
    experiment = Path(experiment)
    config, store = open_features(experiment)
    content = (store.read(name)["content"] for name in sounding(store))
    return write_index(content, experiment, experiment.name, config.version, seed=seed)
