"""From an RVC experiment's clips to the features that it trains on, with clips of silence among them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from svcnb import SvcError
from svcnb.audio.audio import Audio, write_audio
from svcnb.data.extraction import FeatureReport, extract
from svcnb.data.extractor import make_extractor
from svcnb.data.feature_store import INT16_SCALE, Clip, FeatureSettings, FeatureStore
from svcnb.data.settings import PrepareSettings
from svcnb.device import choose_device
from svcnb.features.content.encoders import load_encoder, resolve_encoder
from svcnb.features.pitch.estimator import resolve_method
from svcnb.features.pitch.track import F0Track
from svcnb.models.rvc.config import Config
from svcnb.models.rvc.experiment import GT_FOLDER, clip_order

FEATURES_FOLDER, CONFIG_NAME = "features", "config.json"
MUTE, N_MUTES, MUTE_S = "mute", 2, 3.0  # clips of silence teach the voice to be silent


def prepare(
    config: Config, experiment: Path | str, settings: PrepareSettings | None = None, *, speaker_id: int = 0
) -> FeatureReport:
    """Extract the features of every clip of experiment/0_gt_wavs, and of silence; write config.json beside them.

    Resumable: the same call continues where it was stopped. Clips that changed are extracted again, those that are
    gone are dropped.

    Args:
        settings: the encoder "auto" is the version's own; the small size has the bundled one.
        speaker_id: row of the voice in the speaker table, 0..108 (a published base has 109).

    Returns:
        what was extracted, reused and skipped (with reasons).

    Raises:
        SvcError: no clips, an encoder of which there is no file, or features made with other settings (names them and the fix).
    """
    settings, experiment = settings or PrepareSettings(), Path(experiment)
    if not 0 <= speaker_id < config.model.spk_embed_dim:
        raise SvcError(f"speaker_id is {speaker_id}: expected 0 to {config.model.spk_embed_dim - 1}")
    clips = [*find_clips(experiment), *_mute_clips(experiment, config.data.sampling_rate)]
    wished = config.encoder if settings.encoder == "auto" else settings.encoder
    encoder = resolve_encoder(wished, settings.pretrain_folder)
    width = load_encoder(encoder, folder=settings.pretrain_folder).width  # refused now, not in each worker
    stored = FeatureSettings(
        sample_rate_hz=config.data.sampling_rate,
        hop_samples=config.data.hop_length,
        encoder=encoder,
        pitch_method=resolve_method(settings.f0_method, settings.pretrain_folder),
        f0_threshold=settings.f0_threshold,
    )
    make = partial(
        make_extractor,
        pretrain_folder=settings.pretrain_folder.absolute(),
        device=choose_device(settings.device),
    )
    folder = experiment / FEATURES_FOLDER
    report = extract(
        clips, folder, stored, make_extractor=make, n_jobs=settings.n_jobs, overwrite=settings.overwrite
    )
    config = config.model_copy(deep=True)
    config.use_encoder(encoder, width)
    config.spk = {experiment.name: speaker_id}
    config.save(experiment / CONFIG_NAME)
    return report


def find_clips(experiment: Path) -> list[Clip]:
    """The clips of step 2a, in the order of their numbers.

    Raises:
        SvcError: none there.
    """
    paths = sorted((experiment / GT_FOLDER).glob("*.wav"), key=lambda path: clip_order(path.stem))
    if not paths:
        raise SvcError(f"{experiment / GT_FOLDER} has no clips: cut recordings first")
    return [Clip(path.absolute(), experiment.name, f"{experiment.name}/{path.name}") for path in paths]


def _mute_clips(experiment: Path, sample_rate_hz: int) -> list[Clip]:
    clips = []
    for number in range(1, N_MUTES + 1):
        path = experiment.absolute() / MUTE / f"{MUTE}_{number}_{sample_rate_hz}.wav"
        if not path.is_file():
            silence = np.zeros(round(MUTE_S * sample_rate_hz), np.float32)
            write_audio(path, Audio(silence, sample_rate_hz), subtype="PCM_16")
        clips.append(Clip(path, MUTE, f"{MUTE}/{number}"))
    return clips


def open_features(experiment: Path | str) -> tuple[Config, FeatureStore]:
    """An experiment's config and its features.

    Raises:
        SvcError: nothing extracted yet, or a config that was edited into one that does not fit the features.
    """
    experiment = Path(experiment)
    config, store = Config.load(experiment / CONFIG_NAME), FeatureStore.open(experiment / FEATURES_FOLDER)
    pairs = {
        "sampling_rate": (config.data.sampling_rate, store.settings.sample_rate_hz),
        "hop_length": (config.data.hop_length, store.settings.hop_samples),
        "speech_encoder": (config.encoder, store.settings.encoder),
    }
    differences = [
        f"{key} is {wanted!r}, the features have {found!r}"
        for key, (wanted, found) in pairs.items()
        if wanted != found
    ]
    if differences:
        raise SvcError(
            f"{experiment / CONFIG_NAME} does not fit the features beside it: {'; '.join(differences)}. "
            "Correct it, or extract the features again (--overwrite)"
        )
    return config, store


def speakers_of(config: Config) -> dict[str, int]:
    """Name -> id for every clip's speaker; silence has that of the voice."""
    return {**config.spk, MUTE: next(iter(config.spk.values()), 0)}


def non_silent(store: FeatureStore) -> list[str]:
    """Names of the clips that are not silence."""
    return [name for name in store.names() if store.record(name).speaker != MUTE]


def read_clip(experiment: Path | str, number: int = 0) -> tuple[Audio, F0Track]:
    """Sound and melody of a clip that is trained on, by its place among those that are not silence."""
    config, store = open_features(experiment)
    arrays = store.read(non_silent(store)[number])
    audio = Audio(arrays["audio"].astype(np.float32) / INT16_SCALE, config.data.sampling_rate)
    return audio, F0Track(arrays["f0_hz"], store.settings.hop_s)
