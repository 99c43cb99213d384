"""What every loaded voice can do, whatever its family: name its speakers, hear, convert, and write results.

A family adds how one piece is converted (`_piece_converter`), what it can be asked for (`check`), how a recording of
the speaker is copied (`resynthesise`), and what its files are (`fingerprint`).
"""

from __future__ import annotations

import hashlib
import os
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from svcnb import SvcError
from svcnb.audio.audio import Audio, AudioWriter, resample, resample_samples
from svcnb.audio.recording import Recording, open_audio
from svcnb.conversion.long_audio import PieceInput, convert_long, iter_converted
from svcnb.conversion.settings import ConversionSettings
from svcnb.device import told_when_memory_runs_out
from svcnb.features.content.waveform import SAMPLE_RATE_HZ as CONTENT_HZ
from svcnb.features.pitch.classical import PitchSettings
from svcnb.features.pitch.estimator import PitchEstimator, resolve_method
from svcnb.features.pitch.track import F0Track, looks_sung

if TYPE_CHECKING:
    from svcnb.features.content.encoders import ContentEncoder

STATISTICS_SECONDS = 120.0
PITCH_SECONDS = 30.0  # more at once takes more memory than a piece does
SHORTER_PIECES = "set max_piece_s (--max_piece_s) to 10 seconds or less, and close other programs"
MIX_NAME = "spk_mix"  # in place of the speaker in a result's name, as the original has it
LONGEST_NAME_BYTES = 230  # of 255: room for a number, the suffix and the suffix of a melody's table


class LoadedVoice:
    """A voice's grid, speakers, content encoder and pitch estimators; the networks are the family's.

    Attributes:
        speakers: name -> id.
        n_speakers: rows of the speaker table.
        sample_rate_hz: rate of what `convert` returns.
        hop_samples: samples of a frame.
        middle_pitches_hz: speaker -> median f0 of its training clips, where known.
        step: training steps of these weights, where known.
        folder: where the checkpoint lies; None for a voice without files.
    """

    has_posterior = False

    def __init__(
        self, encoder: ContentEncoder, *, name: str, speakers: Mapping[str, int], n_speakers: int, sample_rate_hz: int,
        hop_samples: int, device: torch.device, pretrain_folder: Path = Path("pretrain"),
    ) -> None:  # fmt: skip
        self.encoder = encoder
        self.name = name
        self.speakers = dict(speakers) or {"0": 0}
        self.n_speakers = n_speakers
        self.sample_rate_hz = sample_rate_hz
        self.hop_samples = hop_samples
        self.device = device
        self.pretrain_folder = pretrain_folder
        self.middle_pitches_hz: dict[str, float] = {}
        self.step: int | None = None
        self.folder: Path | None = None
        self._estimators: dict[tuple[str, float | None], PitchEstimator] = {}

    def speaker_id(self, speaker: str | int | None) -> int:
        """Id of a speaker by name or number; None takes the only or first one."""
        if speaker is None:
            return min(self.speakers.values())
        if speaker in self.speakers:
            return self.speakers[speaker]
        if str(speaker).isdigit() and int(speaker) < self.n_speakers:
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
        """The settings, if this voice can do all they ask for: before anything long starts."""
        raise NotImplementedError

    def _piece_converter(
        self, audio: Recording, settings: ConversionSettings, melody: F0Track | None
    ) -> Callable[[PieceInput], np.ndarray]:
        """How one piece is converted; whatever holds for the whole recording is done here, once."""
        raise NotImplementedError

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

    def result_name(self, source: Path, settings: ConversionSettings) -> str:
        """File name that `convert_file` gives a result; see `conversion.distinct_names` for batches."""
        method = resolve_method(settings.f0_method, self.pretrain_folder)
        speaker = MIX_NAME if settings.speaker_mix else self.speaker_name(settings.speaker)
        return output_name(source.name, settings, speaker=speaker, f0_method=method, mode=self.mode_name(settings))

    def mode_name(self, settings: ConversionSettings) -> str:
        """The family's word in the names of results."""
        return "sovits"

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

    def _part_of(self, melody: F0Track, piece: PieceInput) -> F0Track:
        """The whole recording's melody on the frames of one piece, unvoiced beyond its ends."""
        hop_s = self.hop_samples / self.sample_rate_hz
        first_s = piece.start_s - piece.n_pad_samples / piece.sample_rate_hz
        times_s = first_s + hop_s * np.arange(len(piece.samples) // self.hop_samples)
        frames = np.rint(times_s / melody.hop_s).astype(int)
        inside = (frames >= 0) & (frames < melody.n_frames)
        padded = np.append(melody.f0_hz, 0.0)
        return F0Track(padded[np.where(inside, frames, melody.n_frames)], hop_s)


def fingerprint(generator: nn.Module, files: Iterable[Path] = ()) -> str:
    """Short name of exactly these weights: another one as soon as they were trained on, or a file was made anew."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}".encode())
    for name, tensor in generator.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def output_name(
    clean_name: str,
    settings: ConversionSettings,
    *,
    speaker: str | None = None,
    f0_method: str | None = None,
    mode: str = "sovits",
    version: str = "4.1",
) -> str:
    """File name of a result, as the original names it.

    Args:
        clean_name: name of the source; its suffix stays part of the name ("song.wav").
        settings: transposition, cluster ratio, format.
        speaker: name of the target voice (default: settings.speaker); several mixed voices are "spk_mix".
        f0_method: the method really used where settings say "auto".
        mode: "sovits", "sovdiff" or "diff" (4.1).
        version: "4.1" gives {name}_{key}_{speaker}{_ratio}_{mode}_{f0 method}.{format}, "4.0" ends after the ratio.
    """
    speaker = str(speaker if speaker is not None else settings.speaker if settings.speaker is not None else "voice")
    key = "auto" if settings.auto_predict_f0 else f"{settings.transpose_semitones:g}key"
    ratio = f"_{settings.cluster_ratio}" if settings.cluster_ratio else ""
    parts = [clean_name, key, speaker + ratio]
    if version != "4.0":
        parts += [mode, f0_method or settings.f0_method]
    # a speaker may be called "AC/DC"; a name must not become a folder
    return _short("_".join(parts).replace("/", "-").replace("\\", "-")) + f".{settings.audio_format}"


def _short(name: str) -> str:
    """The name, or as much of it as file systems take (255 bytes), with a checksum of the whole."""
    encoded = os.fsencode(name)
    if len(encoded) <= LONGEST_NAME_BYTES:
        return name
    checksum = f"{zlib.crc32(encoded):08x}"
    return encoded[: LONGEST_NAME_BYTES - 9].decode("utf-8", "ignore") + f"-{checksum}"


def distinct_names(names: Sequence[str]) -> list[str]:
    """Names of one batch, made different where two sources would overwrite each other: x.flac, x_2.flac.

    Names that differ only in capitals count as equal, as they do on Windows, macOS and Google Drive.
    """
    given = {name.casefold() for name in names}
    taken: set[str] = set()
    result = []
    for name in names:
        number, candidate = 1, name
        while candidate.casefold() in taken or (number > 1 and candidate.casefold() in given):
            number += 1
            candidate = f"{Path(name).stem}_{number}{Path(name).suffix}"
        taken.add(candidate.casefold())
        result.append(candidate)
    return result
