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
from torch import Tensor

from svcnb import SvcError, checkpoint
from svcnb.audio import Audio, AudioWriter, read_audio, resample, resample_samples
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
from svcnb.models.layers import Noise
from svcnb.models.sovits import SynthesizerTrn
from svcnb.pitch import F0Track, PitchEstimator, PitchSettings, looks_sung, resolve_method
from svcnb.recipes.sovits_config import Config
from svcnb.spectral import SincResample, volume_envelope

if TYPE_CHECKING:
    from svcnb.content import ContentEncoder


STATISTICS_SECONDS = 120.0
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
            SvcError: unknown speaker or pitch method (valid names given).
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
        audio = read_audio(path)
        converter = self._piece_converter(audio, settings, melody)
        target = folder / (name or self.result_name(path, settings))
        with AudioWriter(target, self.sample_rate_hz) as writer:
            for piece in iter_converted(
                audio, converter, settings, output_hz=self.sample_rate_hz, hop_samples=self.hop_samples, show_progress=True
            ):
                writer.append(piece)
        return target

    def result_name(self, source: Path, settings: ConversionSettings) -> str:
        """File name that `convert_file` gives a result; see `conversion.distinct_names` for batches."""
        method = resolve_method(settings.f0_method, self.pretrain_folder)
        return output_name(source.name, settings, speaker=self.speaker_name(settings.speaker), f0_method=method)

    def _piece_converter(
        self, audio: Audio, settings: ConversionSettings, melody: F0Track | None
    ) -> Callable[[PieceInput], np.ndarray]:
        check_available(settings)
        if settings.auto_predict_f0 and not self.config.model.use_automatic_f0_prediction:
            raise SvcError(f"voice {self.name} was trained without an f0 decoder: leave auto_predict_f0 (-a) off")
        speaker = torch.tensor([[self.speaker_id(settings.speaker)]], device=self.device)
        estimator = None if melody is not None else self._estimator(settings.f0_method, settings.f0_threshold)
        narrow = self._content_resampler(settings)
        opening = audio.slice_s(0.0, STATISTICS_SECONDS)
        encoder = self.encoder.for_recording(resample(opening, CONTENT_HZ).samples)
        if settings.auto_predict_f0:
            self._warn_if_sung(opening, settings)

        def convert_piece(piece: PieceInput) -> np.ndarray:
            track = estimator(piece.samples) if estimator else self._part_of(melody, piece)
            track = track.transposed(settings.transpose_semitones)
            if settings.f0_mean_pooling:
                track = track.mean_filtered()
            content = encoder.encode(narrow(piece.samples)).T  # [N50, D] -> [D, N50]
            return self._synthesise(self._features(piece.samples, track, content), speaker, settings)

        return convert_piece

    def _warn_if_sung(self, audio: Audio, settings: ConversionSettings) -> None:
        if looks_sung(self.estimate_f0(audio, settings.f0_method, threshold=settings.f0_threshold)):
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

    def _features(self, samples: np.ndarray, track: F0Track, content: Tensor) -> PieceFeatures:
        content = align_to_frames(content, track.n_frames, mode=self.config.data.unit_interpolate_mode)
        volume = None
        if self.config.model.vol_embedding:
            volume = volume_envelope(torch.from_numpy(samples), self.hop_samples)[None].to(self.device)
        as_row = lambda values: torch.as_tensor(values, dtype=torch.float32, device=self.device)[None]  # noqa: E731
        return PieceFeatures(
            content[None].to(self.device), as_row(track.interpolated()), as_row(track.voiced.astype(np.float32)), volume
        )

    @torch.inference_mode()
    def _synthesise(self, features: PieceFeatures, speaker: Tensor, settings: ConversionSettings) -> np.ndarray:
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
) -> Voice:
    """Load a voice from its folder (newest G_*.pth and config.json) or from one G_*.pth.

    Files of so-vits-svc 4.0 and 4.1 load as they are; release files lack the posterior, which is not
    needed here. A config without an encoder's name (4.0) gets it from the width of the content.

    Raises:
        SvcError: nothing found, config and weights that do not fit (every difference named), a file that
            would run code.
    """
    weights_path, config_path = _locate(Path(source), Path(config) if config else None)
    loaded = Config.load(config_path, strict=False)
    state = checkpoint.read_sovits_checkpoint(weights_path).model
    described = checkpoint.describe_sovits(state)
    _refuse_misfit(loaded, described, weights_path, config_path)
    loaded.model.use_automatic_f0_prediction = described["use_automatic_f0_prediction"]
    encoder_name = encoder_for_width(loaded.model.ssl_dim, loaded.model.speech_encoder)
    loaded.model.speech_encoder = encoder_name
    generator = _empty_generator(loaded)
    checkpoint.load_weights(generator, state, may_miss=("enc_q.",))
    encoder = load_encoder(encoder_name, folder=Path(pretrain_folder), device=device)
    voice = Voice(
        loaded, generator.to(device), encoder, name=weights_path.parent.name, pretrain_folder=Path(pretrain_folder)
    )
    pitches = weights_path.parent / MIDDLE_PITCH_FILE
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


def _locate(source: Path, config: Path | None) -> tuple[Path, Path]:
    if source.is_dir():
        candidates = sorted(source.glob("G_*.pth"), key=lambda path: (len(path.stem), path.stem))
        if not candidates:
            raise SvcError(f"no G_*.pth in {source}: train a voice there first, or name the checkpoint itself")
        source = candidates[-1]
    if not source.is_file():
        raise SvcError(f"no checkpoint at {source}: give a voice's folder or its G_*.pth")
    return source, config or source.parent / "config.json"


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
