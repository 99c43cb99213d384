"""Base class of all loaded voices: encode, estimate f0, convert, and write results.

A model family adds feature retrieval (`retrieve`), synthesis of the waveform (`synthesize`), the check of
settings (`check`), and the identity of its files (`fingerprint`).
"""

from __future__ import annotations

import copy
import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from svcnb import SvcError
from svcnb.audio.audio import Audio, AudioWriter, resample, resample_samples
from svcnb.audio.recording import Recording, open_audio
from svcnb.conversion.long_audio import Chunk, Splitter, split_recording
from svcnb.conversion.result_names import output_name
from svcnb.conversion.settings import ConversionSettings
from svcnb.device import reporting_memory_errors
from svcnb.features.content.waveform import SAMPLE_RATE_HZ as CONTENT_HZ
from svcnb.features.pitch.classical import PitchSettings
from svcnb.features.pitch.estimator import PitchEstimator, resolve_method
from svcnb.features.pitch.track import F0Track, looks_sung

if TYPE_CHECKING:
    from svcnb.features.content.encoders import ContentEncoder

STATISTICS_SECONDS = 120.0
PITCH_SECONDS = 30.0  # more at once needs more memory than a chunk
SHORTER_CHUNKS = "set max_chunk_s (--max_chunk_s) to 10 seconds or less, and close other programs"
MIX_NAME = "spk_mix"  # instead of the speaker in a result's name, as in the original


@dataclass(frozen=True)
class VoiceInfo:
    """Information about a voice besides its networks.

    Attributes:
        name: of the voice, for messages and file names.
        folder: where its checkpoint is; None for a voice without files.
        step: training steps of these weights, if known.
        median_f0_hz: speaker -> median f0 of its training clips, if known.
        pretrain_folder: with encoders and other pretrained weights.
    """

    name: str = "voice"
    folder: Path | None = None
    step: int | None = None
    median_f0_hz: Mapping[str, float] = field(default_factory=dict)
    pretrain_folder: Path = Path("pretrain")


@dataclass(frozen=True)
class Run:
    """Settings and inputs that the chunks of one recording share.

    Attributes:
        settings: checked ones.
        encoder: the voice's content encoder with the statistics of this recording.
        duration_s: of the recording.
        f0: f0 contour to use instead of the recording's own; None estimates it.
    """

    settings: ConversionSettings
    encoder: ContentEncoder
    duration_s: float
    f0: F0Track | None = None


class LoadedVoice(ABC):
    """A voice's frame grid, speakers, content encoder and f0 estimators; subclasses add the networks.

    A conversion calls four public methods for each chunk:

        content = voice.encode(audio)               # [N50, D], 50 frames per second
        f0 = voice.estimate_f0(audio)               # F0Track of N frames
        content = voice.retrieve(content, f0)       # [N, D], on the frames of f0, with feature retrieval
        samples = voice.synthesize(content, f0)     # float32 [N * hop]

    Attributes:
        speakers: name -> id.
        n_speakers: rows of the speaker table.
        sample_rate_hz: sample rate of the output of `convert`.
        hop_samples: samples per frame.
        has_posterior: whether `resynthesise` works; False for files without the posterior encoder.
        info, name, folder, step, median_f0_hz, pretrain_folder: see VoiceInfo.
    """

    WITHOUT_POSTERIOR: ClassVar[str]  # the family's name for a file without the posterior encoder

    def __init__(
        self,
        encoder: ContentEncoder,
        info: VoiceInfo,
        *,
        speakers: Mapping[str, int],
        n_speakers: int,
        sample_rate_hz: int,
        hop_samples: int,
        device: torch.device,
        has_posterior: bool,
    ) -> None:
        self.encoder = encoder
        self.info = info
        self.speakers = dict(speakers) or {"0": 0}
        self.n_speakers = n_speakers
        self.sample_rate_hz = sample_rate_hz
        self.hop_samples = hop_samples
        self.device = device
        self.has_posterior = has_posterior
        self._estimators: dict[tuple[str, float | None], PitchEstimator] = {}

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def folder(self) -> Path | None:
        return self.info.folder

    @property
    def step(self) -> int | None:
        return self.info.step

    @property
    def median_f0_hz(self) -> Mapping[str, float]:
        return self.info.median_f0_hz

    @property
    def pretrain_folder(self) -> Path:
        return self.info.pretrain_folder

    def with_encoder(self, encoder: ContentEncoder) -> Self:
        """The same voice with another content encoder of the same width; networks and caches are shared."""
        other = copy.copy(self)
        other.encoder = encoder
        return other

    def speaker_id(self, speaker: str | int | None) -> int:
        """Id of a speaker by name or number; None: the first one."""
        if speaker is None:
            return min(self.speakers.values())
        if speaker in self.speakers:
            return self.speakers[speaker]
        if str(speaker).isdigit() and int(speaker) < self.n_speakers:
            return int(speaker)
        known = ", ".join(sorted(self.speakers))
        raise SvcError(f"voice {self.name} has no speaker {speaker!r}: choose one of {known}")

    def speaker_name(self, speaker: str | int | None) -> str:
        """Name of a speaker given by name or number; its number if it has no name."""
        index = self.speaker_id(speaker)
        return next((name for name, number in self.speakers.items() if number == index), str(index))

    def suggest_transpose(self, source: F0Track, speaker: str | int | None = None) -> int | None:
        """Semitones from a recording's median f0 to the speaker's; None if either is unknown.

        For speech; for a song that must stay in its key use the nearest multiple of 12.
        """
        target_hz = self.median_f0_hz.get(self.speaker_name(speaker), 0.0)
        if not (target_hz > 0 and source.median_hz() > 0):
            return None
        return round(12 * np.log2(target_hz / source.median_hz()))

    def estimator(self, method: str, threshold: float | None = None) -> PitchEstimator:
        """The estimator of that name, loaded once."""
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

    # The four verbs ------------------------------------------------------------------------------------

    def encode(self, audio: Audio, encoder: ContentEncoder | None = None) -> Tensor:
        """Content features of a recording: float32 [N50, D], 50 frames per second.

        Args:
            audio: any rate.
            encoder: with the statistics of the whole recording if `audio` is a chunk of it (`bind_encoder`);
                None uses the statistics of `audio`.
        """
        samples = resample(audio, CONTENT_HZ).samples
        return (encoder or self.encoder.for_recording(samples)).encode(samples)

    def estimate_f0(self, audio: Audio, method: str = "auto", *, threshold: float | None = None) -> F0Track:
        """f0 contour of a recording on this voice's frame grid: N = T // hop_samples frames."""
        samples = resample_samples(audio.samples, audio.sample_rate_hz, self.sample_rate_hz)
        return self.estimator(method, threshold)(samples)

    @abstractmethod
    def retrieve(self, content: Tensor, f0: F0Track, settings: ConversionSettings | None = None) -> Tensor:
        """Content on the frames of f0, blended with the voice's own features if the settings ask for it.

        Args:
            content: float32 [N50, D] from `encode`.

        Returns:
            float32 [N, D], N = f0.n_frames.
        """

    @abstractmethod
    def synthesize(
        self, content: Tensor, f0: F0Track, settings: ConversionSettings | None = None
    ) -> np.ndarray:
        """The waveform: float32 [N * hop_samples] at the voice's rate.

        Args:
            content: float32 [N, D] from `retrieve`.
            f0: N frames, 0 Hz where unvoiced.
        """

    # A whole recording ---------------------------------------------------------------------------------

    @abstractmethod
    def check(self, settings: ConversionSettings) -> ConversionSettings:
        """The settings, if this voice supports them; called before anything slow starts."""

    @abstractmethod
    def convert_chunk(self, chunk: Chunk, run: Run) -> np.ndarray:
        """Convert one chunk of a recording by the four methods: float32 [n whole frames * hop_samples]."""

    def convert(
        self, audio: Audio, settings: ConversionSettings | None = None, *, f0: F0Track | None = None
    ) -> Audio:
        """Convert a recording to this voice; words and f0 contour are kept.

        Args:
            f0: contour to use instead of the one estimated from the recording, e.g. an edited one
                (`F0Track.from_csv`); it is transposed and filtered according to the settings.

        Returns:
            audio exactly as long as the input, at the voice's rate.

        Raises:
            SvcError: as `check`.
        """
        run = self.start(audio, settings or ConversionSettings(), f0)
        return Audio(
            np.concatenate([np.zeros(0, np.float32), *self.converted_blocks(audio, run)]), self.sample_rate_hz
        )

    def convert_file(
        self,
        path: Path | str,
        folder: Path | str,
        settings: ConversionSettings | None = None,
        *,
        name: str | None = None,
        f0: F0Track | None = None,
    ) -> Path:
        """Convert a recording into `folder`, named as in so-vits-svc unless `name` is given.

        The result is written chunk by chunk, so a long song needs no more memory than a short one, and has
        its final name only when it is complete.
        """
        settings = settings or ConversionSettings()
        path, folder = Path(path), Path(folder)
        target = folder / (name or self.result_name(path, settings))
        with open_audio(path) as audio, reporting_memory_errors(str(path), SHORTER_CHUNKS):
            run = self.start(audio, settings, f0)
            with AudioWriter(target, self.sample_rate_hz) as writer:
                for block in self._shown(self.converted_blocks(audio, run), audio.duration_s):
                    writer.append(block)
        return target

    def start(self, audio: Recording, settings: ConversionSettings, f0: F0Track | None = None) -> Run:
        """Check the settings and prepare what the chunks of a recording share.

        Raises:
            SvcError: as `check`.
        """
        self.check(settings)
        return Run(settings, self.bind_encoder(audio), audio.duration_s, f0)

    def converted_blocks(self, audio: Recording, run: Run) -> Iterator[np.ndarray]:
        """The result in order, float32 blocks at the voice's rate."""
        splitter = self.split(audio, run.settings)
        for chunk in splitter.chunks():
            yield from splitter.join(chunk, self.convert_chunk(chunk, run))
        yield from splitter.finish()

    def split(self, audio: Recording, settings: ConversionSettings) -> Splitter:
        """Splitter of the recording into chunks on this voice's frame grid."""
        return split_recording(
            audio, settings, sample_rate_hz=self.sample_rate_hz, hop_samples=self.hop_samples
        )

    def bind_encoder(self, audio: Recording) -> ContentEncoder:
        """The content encoder with the statistics of a recording's first two minutes."""
        first = resample(audio.slice_s(0.0, STATISTICS_SECONDS), CONTENT_HZ)
        return self.encoder.for_recording(first.samples) if first.n_samples else self.encoder

    def chunk_f0(self, chunk: Chunk, run: Run) -> F0Track:
        """f0 contour of a chunk according to the settings: estimated or given, transposed, smoothed."""
        settings = run.settings
        if run.f0 is not None:
            track = self._slice_f0(run.f0, chunk)
        else:
            track = self.estimate_chunk_f0(chunk, settings)
        track = track.transposed(settings.transpose_semitones)
        return track.mean_filtered() if settings.f0_mean_pooling else track

    def estimate_chunk_f0(self, chunk: Chunk, settings: ConversionSettings) -> F0Track:
        return self.estimate_f0(chunk.audio, settings.f0_method, threshold=settings.f0_threshold)

    def resynthesise(self, audio: Audio, speaker: str | int | None = None) -> Audio:
        """Copy synthesis by posterior encoder and decoder: the upper limit of the decoder's quality.

        Uses the same chunks as a conversion, so that the two can be compared. The posterior's latents are
        sampled, as in training, not taken at their mean.

        Returns:
            audio exactly as long as the input, at the voice's rate.

        Raises:
            SvcError: a file without the posterior encoder.
        """
        if not self.has_posterior:
            raise SvcError(
                f"voice {self.name} is {self.WITHOUT_POSTERIOR} without the posterior (enc_q): take the checkpoint "
                "that training wrote, or leave copy synthesis out"
            )
        splitter, blocks, speaker_id = self.split(audio, ConversionSettings()), [], self.speaker_id(speaker)
        for chunk in splitter.chunks():
            blocks += splitter.join(chunk, self.decode_posterior(chunk, speaker_id))
        return Audio(
            np.concatenate([np.zeros(0, np.float32), *blocks, *splitter.finish()]), self.sample_rate_hz
        )

    @abstractmethod
    def decode_posterior(self, chunk: Chunk, speaker_id: int) -> np.ndarray:
        """Copy synthesis of a chunk by posterior encoder and decoder: float32 [N * hop_samples]."""

    def _shown(self, blocks: Iterator[np.ndarray], duration_s: float) -> Iterator[np.ndarray]:
        """The blocks, with a progress bar over the seconds of the recording."""
        look = {
            "bar_format": "{desc} {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]"
        }
        with tqdm(total=duration_s, desc="convert", mininterval=0.5, **look) as bar:
            for block in blocks:
                yield block
                bar.update(min(len(block) / self.sample_rate_hz, bar.total - bar.n))

    def result_name(self, source: Path, settings: ConversionSettings) -> str:
        """File name that `convert_file` gives a result; see `distinct_names` for batches."""
        method = resolve_method(settings.f0_method, self.pretrain_folder)
        speaker = MIX_NAME if settings.speaker_mix else self.speaker_name(settings.speaker)
        return output_name(
            source.name, settings, speaker=speaker, f0_method=method, mode=self.mode_name(settings)
        )

    def mode_name(self, settings: ConversionSettings) -> str:
        """The mode in the names of results."""
        return "sovits"

    def _warn_if_sung(self, audio: Audio, settings: ConversionSettings) -> None:
        starts_s = np.arange(0.0, audio.duration_s, PITCH_SECONDS)
        parts = [audio.slice_s(start_s, start_s + PITCH_SECONDS) for start_s in starts_s]
        tracks = [
            self.estimate_f0(part, settings.f0_method, threshold=settings.f0_threshold) for part in parts
        ]
        if looks_sung(
            F0Track(np.concatenate([track.f0_hz for track in tracks]), self.hop_samples / self.sample_rate_hz)
        ):
            warnings.warn(
                "this recording sounds sung, and auto_predict_f0 (-a) is for speech: the result will be out of "
                "tune. Leave it off and choose the key with transpose_semitones (-t)",
                stacklevel=4,
            )

    def _slice_f0(self, f0: F0Track, chunk: Chunk) -> F0Track:
        """The whole recording's f0 on the frames of one chunk, unvoiced beyond the recording's ends."""
        hop_s = self.hop_samples / self.sample_rate_hz
        first_s = chunk.start_s - chunk.n_pad_samples / chunk.sample_rate_hz
        times_s = first_s + hop_s * np.arange(len(chunk.samples) // self.hop_samples)
        frames = np.rint(times_s / f0.hop_s).astype(int)
        inside = (frames >= 0) & (frames < f0.n_frames)
        padded = np.append(f0.f0_hz, 0.0)
        return F0Track(padded[np.where(inside, frames, f0.n_frames)], hop_s)


def fingerprint(generator: nn.Module, files: Iterable[Path] = ()) -> str:
    """Hash of these weights and files; it changes when the weights are trained or a file is written again."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}".encode())
    for name, tensor in generator.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
