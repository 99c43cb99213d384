"""A trained so-vits voice: load once, convert many."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from svcnb import SvcError
from svcnb.allocation import freed_memory_kept
from svcnb.audio import Audio, AudioWriter, resample, resample_samples
from svcnb.audio_file import Recording, open_audio
from svcnb.checkpoint import describe_sovits, load_weights, read_sovits_checkpoint
from svcnb.content import SAMPLE_RATE_HZ as CONTENT_HZ
from svcnb.content import align_to_frames, encoder_for_width, load_encoder
from svcnb.conversion import (
    ConversionSettings,
    PieceInput,
    check_available,
    convert_long,
    iter_converted,
    output_name,
)
from svcnb.memory import told_when_memory_runs_out
from svcnb.models.layers import Noise
from svcnb.models.sovits import SynthesizerTrn
from svcnb.pitch import F0Track, PitchEstimator, PitchSettings, looks_sung, resolve_method
from svcnb.recipes.sovits_config import Config
from svcnb.recipes.sovits_copies import copy_recording, fingerprint
from svcnb.recipes.sovits_retrieval import Pull, VoiceRetrieval
from svcnb.run_record import STATE_NAME, RunRecord
from svcnb.spectral import SincResample, volume_envelope

if TYPE_CHECKING:
    from svcnb.content import ContentEncoder


CHECKPOINTS = ("best", "newest")
STATISTICS_SECONDS = 120.0
PITCH_SECONDS = 30.0  # more at once takes more memory than a piece does
SHORTER_PIECES = "set max_piece_s (--max_piece_s) to 10 seconds or less, and close other programs"
MIDDLE_PITCH_FILE = "middle_pitch.json"  # speaker -> median f0 in Hz of the training clips


@dataclass(frozen=True)
class PieceFeatures:
    """What the network hears of one piece: content [1, D, N], f0 and voiced [1, N], volume [1, N] or None."""

    content: Tensor
    f0_hz: Tensor
    voiced: Tensor
    volume: Tensor | None


class Voice:
    """A generator with its content encoder and its pitch estimators, ready to convert.

    Attributes:
        config: the voice's configuration.
        speakers: name -> id.
        sample_rate_hz: rate of what `convert` returns.
        middle_pitches_hz: speaker -> median f0 of its training clips, where known.
        has_posterior: False for release files; without it there are no copies (see resynthesise).
        retrieval: centres and index of the voice, where there are some.
        step: training steps of these weights, by the file's name; None where it does not tell.
    """

    def __init__(self, config: Config, generator: SynthesizerTrn, encoder: ContentEncoder, *, name: str = "voice",
                 pretrain_folder: Path = Path("pretrain")) -> None:  # fmt: skip
        self.config = config
        self.generator = generator.eval()
        self.encoder = encoder
        self.name = name
        self.pretrain_folder = pretrain_folder
        self.speakers = dict(config.spk) or {"0": 0}
        self.sample_rate_hz = config.data.sampling_rate
        self.hop_samples = config.data.hop_length
        self.device = next(generator.parameters()).device
        self.middle_pitches_hz: dict[str, float] = {}
        self.has_posterior = True
        self.retrieval = VoiceRetrieval(None, speakers=self.speakers, width=config.model.ssl_dim)
        self.step: int | None = None
        self._estimators: dict[tuple[str, float | None], PitchEstimator] = {}

    def speaker_id(self, speaker: str | int | None) -> int:
        """Id of a speaker by name or number; None takes the only or first one."""
        if speaker is None:
            return min(self.speakers.values())
        if speaker in self.speakers:
            return self.speakers[speaker]
        if str(speaker).isdigit() and int(speaker) < self.config.model.n_speakers:
            return int(speaker)
        known = ", ".join(sorted(self.speakers))
        raise SvcError(f"voice {self.name} has no speaker {speaker!r}: choose one of {known}")

    def speaker_name(self, speaker: str | int | None) -> str:
        """Name of a speaker given by name or number, its number where it has no name."""
        index = self.speaker_id(speaker)
        return next((name for name, number in self.speakers.items() if number == index), str(index))

    def suggest_transpose(self, source: F0Track, speaker: str | int | None = None) -> int | None:
        """Semitones that bring a recording's middle pitch to the speaker's; None where either is unknown.

        Right for speech; a song that must stay in its key wants a multiple of 12 near this.
        """
        target_hz = self.middle_pitches_hz.get(self.speaker_name(speaker), 0.0)
        if not (target_hz > 0 and source.median_hz() > 0):
            return None
        return round(12 * np.log2(target_hz / source.median_hz()))

    def estimate_f0(self, audio: Audio, method: str = "auto", *, threshold: float | None = None) -> F0Track:
        """Fundamental frequency of a recording on this voice's frame grid."""
        samples = resample_samples(audio.samples, audio.sample_rate_hz, self.sample_rate_hz)
        return self._estimator(method, threshold)(samples)

    def _estimator(self, method: str, threshold: float | None) -> PitchEstimator:
        key = (resolve_method(method, self.pretrain_folder), threshold)
        if key not in self._estimators:
            self._estimators[key] = PitchEstimator(
                key[0],
                sample_rate_hz=self.sample_rate_hz,
                hop_samples=self.hop_samples,
                settings=PitchSettings(threshold=threshold, pretrain_folder=self.pretrain_folder),
                device=str(self.device),
            )
        return self._estimators[key]

    def encode(self, audio: Audio) -> Tensor:
        """Content of a recording as the network hears it: float32 [N50, D], 50 frames per second."""
        samples = resample(audio, CONTENT_HZ).samples
        return self.encoder.for_recording(samples).encode(samples)

    def check(self, settings: ConversionSettings) -> ConversionSettings:
        """The settings, if this voice can do all they ask for: before anything long starts.

        Raises:
            SvcError: unknown speaker or pitch method (valid names given), no f0 decoder, no centres or index for a
                ratio above 0, or ones that do not fit this voice.
        """
        check_available(settings)
        if settings.auto_predict_f0 and not self.config.model.use_automatic_f0_prediction:
            raise SvcError(f"voice {self.name} was trained without an f0 decoder: leave auto_predict_f0 (-a) off")
        if settings.feature_retrieval and not settings.cluster_ratio:
            warnings.warn(
                "feature_retrieval (-fr) does nothing while cluster_ratio (-cr) is 0: raise the ratio", stacklevel=3
            )
        resolve_method(settings.f0_method, self.pretrain_folder)
        self.retrieval.pull(settings, self.speaker_id(settings.speaker))
        return settings

    def convert(
        self, audio: Audio, settings: ConversionSettings | None = None, *, melody: F0Track | None = None
    ) -> Audio:
        """The same words and melody in this voice.

        Args:
            melody: sung instead of the one estimated from the recording, e.g. `F0Track.from_csv` of a curve that
                was edited; still transposed and filtered as the settings say.

        Returns:
            audio exactly as long as the input, at the voice's rate.

        Raises:
            SvcError: as `check`.
        """
        settings = settings or ConversionSettings()
        converter = self._piece_converter(audio, settings, melody)
        return convert_long(
            audio, converter, settings, output_hz=self.sample_rate_hz, hop_samples=self.hop_samples
        )

    def convert_file(
        self,
        path: Path | str,
        folder: Path | str,
        settings: ConversionSettings | None = None,
        *,
        name: str | None = None,
        melody: F0Track | None = None,
    ) -> Path:
        """Convert a recording into `folder`, named as so-vits-svc names its results unless `name` is given.

        The result is written piece by piece, so a long song needs no more memory than a short one, and
        appears under its name only when complete.
        """
        settings = settings or ConversionSettings()
        path, folder = Path(path), Path(folder)
        target = folder / (name or self.result_name(path, settings))
        frames = {"output_hz": self.sample_rate_hz, "hop_samples": self.hop_samples}
        with open_audio(path) as audio, told_when_memory_runs_out(str(path), SHORTER_PIECES):
            converter = self._piece_converter(audio, settings, melody)
            with AudioWriter(target, self.sample_rate_hz) as writer:
                for piece in iter_converted(audio, converter, settings, show_progress=True, **frames):
                    writer.append(piece)
        return target

    def resynthesise(self, audio: Audio, speaker: str | int | None = None) -> Audio:
        """A recording of the speaker through posterior and decoder only: as good as this decoder can sound.

        Returns:
            audio exactly as long as the input, at the voice's rate (see sovits_copies).

        Raises:
            SvcError: a release file, whose posterior was removed.
        """
        if not self.has_posterior:
            raise SvcError(f"voice {self.name} is a release file without the posterior (enc_q): take the checkpoint "
                           "that training wrote, or leave copies out")  # fmt: skip
        number, estimator = self.speaker_id(speaker), self._estimator("auto", None)
        return copy_recording(audio, self.generator, self.config, estimator=estimator, speaker_id=number)

    def fingerprint(self) -> str:
        """Short name of exactly these weights, and of the centres and the index beside them."""
        return fingerprint(self.generator, self.retrieval.files())

    def result_name(self, source: Path, settings: ConversionSettings) -> str:
        """File name that `convert_file` gives a result; see `conversion.distinct_names` for batches."""
        method = resolve_method(settings.f0_method, self.pretrain_folder)
        return output_name(source.name, settings, speaker=self.speaker_name(settings.speaker), f0_method=method)

    def _piece_converter(
        self, audio: Recording, settings: ConversionSettings, melody: F0Track | None
    ) -> Callable[[PieceInput], np.ndarray]:
        self.check(settings)
        speaker_id = self.speaker_id(settings.speaker)
        speaker = torch.tensor([[speaker_id]], device=self.device)
        pull = self.retrieval.pull(settings, speaker_id)
        estimator = None if melody is not None else self._estimator(settings.f0_method, settings.f0_threshold)
        narrow = self._content_resampler(settings)
        opening = resample(audio.slice_s(0.0, STATISTICS_SECONDS), CONTENT_HZ)  # the wide one is let go at once
        encoder = self.encoder.for_recording(opening.samples) if opening.n_samples else self.encoder
        if settings.auto_predict_f0:
            self._warn_if_sung(audio.slice_s(0.0, STATISTICS_SECONDS), settings)

        def convert_piece(piece: PieceInput) -> np.ndarray:
            track = estimator(piece.samples) if estimator else self._part_of(melody, piece)
            track = track.transposed(settings.transpose_semitones)
            if settings.f0_mean_pooling:
                track = track.mean_filtered()
            content = encoder.encode(narrow(piece.samples)).T  # [N50, D] -> [D, N50]
            return self._synthesise(self._features(piece.samples, track, content, pull), speaker, settings)

        return convert_piece

    def _warn_if_sung(self, audio: Audio, settings: ConversionSettings) -> None:
        starts_s = np.arange(0.0, audio.duration_s, PITCH_SECONDS)
        parts = [audio.slice_s(start_s, start_s + PITCH_SECONDS) for start_s in starts_s]
        tracks = [self.estimate_f0(part, settings.f0_method, threshold=settings.f0_threshold) for part in parts]
        if looks_sung(F0Track(np.concatenate([track.f0_hz for track in tracks]), self.hop_samples / self.sample_rate_hz)):
            warnings.warn(
                "this recording sounds sung, and auto_predict_f0 (-a) is meant for speech: the voice will sing out of "
                "tune. Leave it off and choose the key with transpose_semitones (-t)",
                stacklevel=4,
            )

    def _content_resampler(self, settings: ConversionSettings) -> Callable[[np.ndarray], np.ndarray]:
        if not settings.like_original:
            return lambda samples: resample_samples(samples, self.sample_rate_hz, CONTENT_HZ)
        sinc = SincResample(self.sample_rate_hz, CONTENT_HZ)
        return lambda samples: sinc(torch.from_numpy(samples)).numpy()

    def _part_of(self, melody: F0Track, piece: PieceInput) -> F0Track:
        """The whole recording's melody on the frames of one piece, unvoiced beyond its ends."""
        hop_s = self.hop_samples / self.sample_rate_hz
        first_s = piece.start_s - piece.n_pad_samples / piece.sample_rate_hz
        times_s = first_s + hop_s * np.arange(len(piece.samples) // self.hop_samples)
        frames = np.rint(times_s / melody.hop_s).astype(int)
        inside = (frames >= 0) & (frames < melody.n_frames)
        padded = np.append(melody.f0_hz, 0.0)
        return F0Track(padded[np.where(inside, frames, melody.n_frames)], hop_s)

    def _features(self, samples: np.ndarray, track: F0Track, content: Tensor, pull: Pull | None) -> PieceFeatures:
        content = align_to_frames(content, track.n_frames, mode=self.config.data.unit_interpolate_mode)  # [D, N]
        if pull is not None:
            content = pull(content.T).T
        volume = None
        if self.config.model.vol_embedding:
            volume = volume_envelope(torch.from_numpy(samples), self.hop_samples)[None].to(self.device)
        as_row = lambda values: torch.as_tensor(values, dtype=torch.float32, device=self.device)[None]  # noqa: E731
        return PieceFeatures(
            content[None].to(self.device), as_row(track.interpolated()), as_row(track.voiced.astype(np.float32)), volume
        )

    @torch.inference_mode()
    def _synthesise(self, features: PieceFeatures, speaker: Tensor, settings: ConversionSettings) -> np.ndarray:
        with freed_memory_kept():
            result = self.generator.infer(
                features.content,
                features.f0_hz,
                features.voiced,
                speaker,
                volume=features.volume,
                noise_scale=settings.noise_scale,
                predict_f0=settings.auto_predict_f0,
                noise=Noise(torch.Generator().manual_seed(settings.seed)),
            )
        return result.audio[0, 0].float().cpu().numpy()


def load_voice(
    source: Path | str,
    *,
    config: Path | str | None = None,
    device: str = "cpu",
    pretrain_folder: Path | str = Path("pretrain"),
    cluster_model: Path | str | None = None,
    checkpoint: str = "best",
) -> Voice:
    """Load a voice from its folder (a G_*.pth and config.json) or from one G_*.pth.

    Files of so-vits-svc 4.0 and 4.1 load as they are; release files lack the posterior, which is not
    needed here. A config without an encoder's name (4.0) gets it from the width of the content.

    Args:
        cluster_model: centres or an index (kmeans_*.pt, feature_and_index.pkl, RVC's added_*.index) to take
            instead of those beside the weights.
        checkpoint: which of a folder's: "best" on held-out clips where the training measured that, else the
            newest; or "newest".

    Raises:
        SvcError: nothing found, config and weights that do not fit (every difference named), a file that
            would run code.
    """
    weights_path, config_path = _locate(Path(source), Path(config) if config else None, checkpoint)
    loaded = Config.load(config_path, strict=False)
    state = read_sovits_checkpoint(weights_path).model
    described = describe_sovits(state)
    _refuse_misfit(loaded, described, weights_path, config_path)
    loaded.model.use_automatic_f0_prediction = described["use_automatic_f0_prediction"]
    encoder_name = encoder_for_width(loaded.model.ssl_dim, loaded.model.speech_encoder)
    loaded.model.speech_encoder = encoder_name
    generator = _empty_generator(loaded)
    report = load_weights(generator, state, may_miss=("enc_q.",))
    encoder = load_encoder(encoder_name, folder=Path(pretrain_folder), device=device)
    folder = weights_path.parent
    voice = Voice(loaded, generator.to(device), encoder, name=folder.name, pretrain_folder=Path(pretrain_folder))
    voice.step = _step_of(weights_path)
    voice.has_posterior = not report.missing
    named = Path(cluster_model) if cluster_model else None
    voice.retrieval = VoiceRetrieval(folder, named=named, speakers=voice.speakers, width=loaded.model.ssl_dim)
    pitches = folder / MIDDLE_PITCH_FILE
    if pitches.is_file():
        voice.middle_pitches_hz = json.loads(pitches.read_text(encoding="utf-8"))
    return voice


def _empty_generator(config: Config) -> SynthesizerTrn:
    return SynthesizerTrn(
        config.data.filter_length // 2 + 1,
        config.segment_frames,
        sampling_rate=config.data.sampling_rate,
        **config.model.model_dump(),
    )


def _locate(source: Path, config: Path | None, checkpoint: str = "best") -> tuple[Path, Path]:
    if checkpoint not in CHECKPOINTS:
        raise SvcError(f"checkpoint {checkpoint!r}: choose {' or '.join(CHECKPOINTS)}, or name one G_*.pth")
    if source.is_dir():
        candidates = sorted(source.glob("G_*.pth"), key=lambda path: (len(path.stem), path.stem))
        if not candidates:
            raise SvcError(f"no G_*.pth in {source}: train a voice there first, or name the checkpoint itself")
        best = source / f"G_{_best_step(source)}.pth" if checkpoint == "best" else None
        source = best if best in candidates else candidates[-1]
    if not source.is_file():
        raise SvcError(f"no checkpoint at {source}: give a voice's folder or its G_*.pth")
    return source, config or source.parent / "config.json"


def _best_step(folder: Path) -> int | None:
    """The step that a training here found best; read without asking whether all its other files are still there."""
    path = folder / STATE_NAME
    if not path.is_file():
        return None
    try:
        best = RunRecord.model_validate_json(path.read_bytes()).best
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise SvcError(f"{path} does not tell the best checkpoint ({reason}): "
                       "take the newest instead (--checkpoint newest)") from None  # fmt: skip
    return best.step if best else None


def _step_of(weights_path: Path) -> int | None:
    number = weights_path.stem.removeprefix("G_")
    return int(number) if number.isdigit() else None


def _refuse_misfit(config: Config, described: dict, weights_path: Path, config_path: Path) -> None:
    stored = config.model.model_dump()
    differences = [
        f"{key} is {stored[key]} in the config, {value} in the weights"
        for key, value in described.items()
        if key in stored and key != "use_automatic_f0_prediction" and stored[key] != value
    ]
    if differences:
        raise SvcError(
            f"{weights_path.name} and {config_path} do not fit: {'; '.join(differences)}. "
            "Give the config.json that was trained with these weights (-c)"
        )
