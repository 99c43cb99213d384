"""From clips to the features that so-vits-svc trains on: content, f0, loudness, and the audio itself."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path

from svcnb.data.extraction import FeatureReport, dask_jobs, extract, scan_clips
from svcnb.data.extractor import make_extractor
from svcnb.data.feature_store import FeatureSettings
from svcnb.data.settings import PrepareSettings
from svcnb.device import choose_device
from svcnb.features.content.encoders import load_encoder, resolve_encoder
from svcnb.features.pitch.estimator import resolve_method
from svcnb.models.sovits.config import Config


def prepare(
    config: Config,
    clips_folder: Path | str,
    features_folder: Path | str,
    settings: PrepareSettings | None = None,
) -> FeatureReport:
    """Extract the features of every clip and write the config that fits them beside the store.

    Resumable: the same call continues where it was stopped. Speakers are the sub-folders of
    `clips_folder`, numbered in alphabetical order.

    Returns:
        what was extracted, reused and skipped (with reasons).

    Raises:
        SvcError: no clips, unknown encoder or pitch method (valid names given), or a store made with
            other settings (names them and the fix).
    """
    settings = settings or PrepareSettings()
    features_folder = Path(features_folder)
    clips = scan_clips(Path(clips_folder).absolute())
    encoder_name = resolve_encoder(settings.encoder, settings.pretrain_folder)
    width = load_encoder(
        encoder_name, folder=settings.pretrain_folder
    ).width  # refused now, not in each worker
    stored = FeatureSettings(
        sample_rate_hz=config.data.sampling_rate,
        hop_samples=config.data.hop_length,
        encoder=encoder_name,
        pitch_method=resolve_method(settings.f0_method, settings.pretrain_folder),
        f0_threshold=settings.f0_threshold,
        with_volume=settings.with_volume,
    )
    make = partial(
        make_extractor,
        pretrain_folder=settings.pretrain_folder.absolute(),
        device=choose_device(settings.device),
    )
    cluster = dask_jobs(settings.dask, n_workers=settings.n_jobs) if settings.dask else nullcontext()
    with cluster:
        n_jobs = -1 if settings.dask else settings.n_jobs
        report = extract(
            clips, features_folder, stored, make_extractor=make, n_jobs=n_jobs, overwrite=settings.overwrite
        )
    config = config.model_copy(deep=True)
    config.use_encoder(encoder_name, width)
    config.model.vol_embedding = settings.with_volume
    config.spk = {speaker: index for index, speaker in enumerate(sorted({clip.speaker for clip in clips}))}
    config.model.n_speakers = max(len(config.spk), 1) if config.is_small else config.model.n_speakers
    config.save(features_folder / "config.json")
    return report
