"""Export to and import from RVC's folder logs/EXPERIMENT: clips, features, filelist, config, checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from svcnb import SvcError
from svcnb.audio.audio import Audio, read_audio
from svcnb.data.feature_store import INT16_SCALE, ClipRecord, FeatureSettings, FeatureStore
from svcnb.features.content.encoders import load_encoder
from svcnb.files.checkpoint import newest_pair
from svcnb.files.disk import copy_file
from svcnb.models.rvc.config import ENCODERS, Config
from svcnb.models.rvc.experiment import (
    WAV16_FOLDER,
    ClipContent,
    TreeClip,
    export_tree,
    import_tree,
    read_content,
    write_filelist,
    write_mute,
)
from svcnb.models.rvc.index import copy_index
from svcnb.models.rvc.network import CONTENT_WIDTHS
from svcnb.models.rvc.prepare import CONFIG_NAME, FEATURES_FOLDER, non_silent, open_features

CLIPS_AT_ONCE = 64  # in one part file


@dataclass(frozen=True)
class ExchangeReport:
    """Clips that were exported or imported, and the dropped ones with reasons."""

    folder: Path
    clips: list[str]
    dropped: list[tuple[str, str]]

    def __str__(self) -> str:
        lines = [f"{len(self.clips)} clips in {self.folder}, {len(self.dropped)} left out"]
        return "\n".join([*lines, *(f"left out {name}: {reason}" for name, reason in self.dropped)])


def export_experiment(
    experiment: Path | str,
    tree: Path | str,
    *,
    pretrain_folder: Path = Path("pretrain"),
    speaker_id: int | None = None,
) -> ExchangeReport:
    """Write an experiment as RVC's logs/EXPERIMENT: RVC can train on it at once, or resume its training.

    Args:
        tree: new folder; gets RVC's clip and feature folders, filelist.txt, config.json, the newest G_*.pth
            and D_*.pth, and the index.
        speaker_id: for every clip; None takes the voice's own.

    Raises:
        SvcError: the small size or another encoder, which RVC does not support; a folder with clips in it.
    """
    experiment, tree = Path(experiment), Path(tree)
    config, store = open_features(experiment)
    if config.is_small or config.content_width != CONTENT_WIDTHS[config.version]:
        raise SvcError(
            f"{experiment} has our own decoder or encoder, which RVC does not support: "
            f"only the full size with {ENCODERS[config.version]} can be exported"
        )
    if any(tree.glob("0_gt_wavs/*")):
        raise SvcError(f"{tree} holds clips already: export into a new folder")
    number = speaker_id if speaker_id is not None else next(iter(config.spk.values()), 0)
    clips = export_tree(tree, _contents(experiment, config, store, number))
    encoder = load_encoder(config.encoder, folder=pretrain_folder, width=config.content_width)
    mute = write_mute(
        tree / "mute",
        config.data.sampling_rate,
        lambda samples: encoder.encode(samples).cpu().numpy(),
        with_f0=config.f0,
    )
    write_filelist(tree, clips, mute=mute, speaker_id=number)
    config.save(tree / CONFIG_NAME)
    for path in newest_pair(experiment) or ():
        copy_file(path, tree / path.name)
    copy_index(experiment, tree, config.version)
    return ExchangeReport(tree, [clip.name for clip in clips], [])


def _contents(
    experiment: Path, config: Config, store: FeatureStore, speaker_id: int
) -> Iterator[ClipContent]:
    for name in non_silent(store):
        arrays, stem = store.read(name), Path(name).stem
        path_16k = experiment / WAV16_FOLDER / f"{stem}.wav"
        yield ClipContent(
            name=stem,
            audio=Audio(arrays["audio"].astype(np.float32) / INT16_SCALE, config.data.sampling_rate),
            features=arrays["content"],
            f0_hz=arrays["f0_hz"].astype(np.float64) if config.f0 else None,
            samples_16k=read_audio(path_16k).samples if path_16k.is_file() else None,
            speaker_id=speaker_id,
        )


def import_experiment(
    tree: Path | str,
    experiment: Path | str,
    *,
    version: str | None = None,
    pretrain_folder: Path = Path("pretrain"),
) -> ExchangeReport:
    """Import an experiment that RVC prepared: training uses its clips, features and f0 unchanged.

    Its newest G_*.pth and D_*.pth are copied to experiment/base, to start from (`train(..., base=...)`); its
    index is copied too.

    Args:
        tree: RVC's logs/EXPERIMENT.
        experiment: new folder.
        version: None derives it from the width of the features.

    Raises:
        SvcError: no usable clip, or a folder that already holds features.
    """
    tree, experiment = Path(tree), Path(experiment)
    if (experiment / FEATURES_FOLDER).exists():
        raise SvcError(f"{experiment} holds features already: import into a new folder")
    found = import_tree(tree, feature_width=CONTENT_WIDTHS[version] if version else None)
    if not found.clips:
        raise SvcError(f"no clip of {tree} can be used\n{found}")
    version = next(name for name, width in CONTENT_WIDTHS.items() if width == found.feature_width)
    config = _config_of(tree, version, found.sample_rate_hz, with_f0=found.with_f0)
    config.spk = {experiment.name: min(found.clips[0].speaker_id, config.model.spk_embed_dim - 1)}
    store = FeatureStore.create(
        experiment / FEATURES_FOLDER,
        FeatureSettings(
            sample_rate_hz=config.data.sampling_rate,
            hop_samples=config.data.hop_length,
            encoder=ENCODERS[version],
            pitch_method="rvc",
            f0_threshold=None,
        ),
    )
    names = []
    for start in range(0, len(found.clips), CLIPS_AT_ONCE):
        part = [
            _as_record(clip, experiment.name, config) for clip in found.clips[start : start + CLIPS_AT_ONCE]
        ]
        store.add(part)
        names += [record.name for record, _ in part]
    store.merge(names)
    config.save(experiment / CONFIG_NAME)
    for path in newest_pair(tree) or ():
        copy_file(path, experiment / "base" / path.name)
    copy_index(tree, experiment, version)
    return ExchangeReport(experiment, [clip.name for clip in found.clips], found.dropped)


def _config_of(tree: Path, version: str, sample_rate_hz: int, *, with_f0: bool) -> Config:
    path = tree / CONFIG_NAME
    config = (
        Config.load(path, version=version, f0=with_f0)
        if path.is_file()
        else Config.full(version, sample_rate_hz, f0=with_f0)
    )
    if config.data.sampling_rate != sample_rate_hz:
        raise SvcError(
            f"{path} is for {config.data.sampling_rate} Hz, the clips beside it are at {sample_rate_hz} Hz: "
            "remove this config, or cut the recordings again"
        )
    return config


def _as_record(clip: TreeClip, speaker: str, config: Config) -> tuple[ClipRecord, dict[str, np.ndarray]]:
    """A clip's arrays on the voice's frames; f0 estimated at 16 kHz has up to two frames more or fewer."""
    content, hop = read_content(clip), config.data.hop_length
    n_frames = len(content.audio.samples) // hop
    f0_hz = np.zeros(n_frames) if content.f0_hz is None else content.f0_hz[:n_frames]
    f0_hz = np.pad(f0_hz, (0, n_frames - len(f0_hz))).astype(np.float32)
    audio = np.clip(np.rint(content.audio.samples * INT16_SCALE), -INT16_SCALE, INT16_SCALE - 1).astype(
        np.int16
    )
    arrays = {"audio": audio, "content": content.features, "f0_hz": f0_hz}
    stat = clip.wav_path.stat()
    record = ClipRecord(
        name=f"{speaker}/{clip.name}.wav",
        speaker=speaker,
        size_bytes=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        n_frames=n_frames,
        n_bytes=sum(array.nbytes for array in arrays.values()),
        fields=tuple(arrays),
    )
    return record, arrays
