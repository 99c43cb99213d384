"""A trained so-vits voice: load once, convert many."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from svcnb import SvcError
from svcnb.allocation import freed_memory_kept
from svcnb.audio import Audio, AudioWriter, resample, resample_samples
from svcnb.audio_file import Recording, open_audio
from svcnb.checkpoint import LoadReport, describe_sovits, load_weights, read_sovits_checkpoint
from svcnb.content import SAMPLE_RATE_HZ as CONTENT_HZ
from svcnb.content import align_to_frames, encoder_for_width, load_encoder
from svcnb.conversion import (
    ConversionSettings,
    PieceInput,
    convert_long,
    iter_converted,
    output_name,
)
from svcnb.memory import told_when_memory_runs_out
from svcnb.models.denoiser import Unit2Mel
from svcnb.models.layers import Noise
from svcnb.models.sovits import SynthesizerTrn
from svcnb.pitch import F0Track, PitchEstimator, PitchSettings, looks_sung, resolve_method
from svcnb.recipes.sovits_collection import find_voice
from svcnb.recipes.sovits_config import Config
from svcnb.recipes.sovits_copies import copy_recording, fingerprint
from svcnb.recipes.sovits_diffusion import Heard, check_alone, diffuse_alone
from svcnb.recipes.sovits_diffusion_files import DiffusionFiles
from svcnb.recipes.sovits_files import MIDDLE_PITCH_FILE, refuse_misfit, step_of
from svcnb.recipes.sovits_mix import MixedSpeakers, mixed_ids
from svcnb.recipes.sovits_piece import PieceSound
from svcnb.recipes.sovits_retrieval import Pull, VoiceRetrieval
from svcnb.recipes.sovits_stages import stages
from svcnb.recipes.sovits_vocoder import vocoder_files
from svcnb.spectral import SincResample, volume_envelope

if TYPE_CHECKING:
    from svcnb.content import ContentEncoder


STATISTICS_SECONDS = 120.0
PITCH_SECONDS = 30.0  # more at once takes more memory than a piece does
SHORTER_PIECES = "set max_piece_s (--max_piece_s) to 10 seconds or less, and close other programs"
MIX_NAME = "spk_mix"  # in place of the speaker in a result's name, as the original has it


@dataclass(frozen=True)
class PieceFeatures:
    """What the network hears of one piece: content [1, D, N], f0 and voiced [1, N], volume [1, N] or None."""

    content: Tensor
    f0_hz: Tensor
    voiced: Tensor
    volume: Tensor | None


class Voice:
    """A generator with its content encoder and its pitch estimators, ready to convert.

    Its diffusion model stands in the generator's place where settings.only_diffusion says so, and where there is no
    other (see load_diffusion_voice).

    Attributes:
        config: the voice's configuration.
        speakers: name -> id.
        sample_rate_hz: rate of what `convert` returns.
        middle_pitches_hz: speaker -> median f0 of its training clips, where known.
        has_posterior: False for release files; without it there are no copies (see resynthesise).
        retrieval: centres and index of the voice, where there are some.
        step: training steps of these weights, by the file's name; None where it does not tell.
        folder: where the checkpoint lies; None for a voice without files.
        vocoder_path: of the vocoder to use (enhancer, diffusion); None finds one, see vocoder.find_vocoder.
        diffusion_files: of the diffusion model to use, as far as they are named.
        loaded: networks of the stages after the generator, kept between conversions.
    """

    def __init__(self, config: Config, generator: SynthesizerTrn | Unit2Mel, encoder: ContentEncoder, *, name: str = "voice",
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
        self.folder: Path | None = None
        self.vocoder_path: Path | None = None
        self.diffusion_files = DiffusionFiles()
        self.loaded: dict[Any, Any] = {}
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
                ratio above 0, or ones that do not fit this voice; no vocoder or diffusion model for what needs one.
        """
        if settings.auto_predict_f0 and not self.config.model.use_automatic_f0_prediction:
            raise SvcError(f"voice {self.name} was trained without an f0 decoder: leave auto_predict_f0 (-a) off")
        if settings.speaker_mix:
            self._check_mix(settings)
        elif settings.feature_retrieval and not settings.cluster_ratio:
            warnings.warn(
                "feature_retrieval (-fr) does nothing while cluster_ratio (-cr) is 0: raise the ratio", stacklevel=3
            )
        resolve_method(settings.f0_method, self.pretrain_folder)
        self._pull(settings)
        if settings.only_diffusion:
            check_alone(self)
        elif isinstance(self.generator, Unit2Mel):
            raise SvcError(f"voice {self.name} was loaded with its diffusion model alone: switch only_diffusion (-od) on")
        stages(self, settings)
        return settings

    def _check_mix(self, settings: ConversionSettings) -> None:
        mixed_ids(settings.speaker_mix, self)
        unused = {"speaker (-s)": settings.speaker is not None, "cluster_ratio (-cr)": settings.cluster_ratio > 0}
        if named := [name for name, given in unused.items() if given]:
            warnings.warn(f"{' and '.join(named)} cannot be used while speakers are mixed (-usm): going on without",
                          stacklevel=4)  # fmt: skip

    def _pull(self, settings: ConversionSettings) -> Pull | None:
        """Content belongs to one speaker: centres and index are left out where several are mixed."""
        if settings.speaker_mix:
            return None
        return self.retrieval.pull(settings, self.speaker_id(settings.speaker))

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
        """Short name of exactly these weights, and of the centres, the index and the vocoder that go with them."""
        return fingerprint(self.generator, [*self.retrieval.files(), *vocoder_files(self)])

    def result_name(self, source: Path, settings: ConversionSettings) -> str:
        """File name that `convert_file` gives a result; see `conversion.distinct_names` for batches."""
        method = resolve_method(settings.f0_method, self.pretrain_folder)
        speaker = MIX_NAME if settings.speaker_mix else self.speaker_name(settings.speaker)
        mode = "diff" if settings.only_diffusion else "sovdiff" if settings.shallow_diffusion else "sovits"
        return output_name(source.name, settings, speaker=speaker, f0_method=method, mode=mode)

    def _piece_converter(
        self, audio: Recording, settings: ConversionSettings, melody: F0Track | None
    ) -> Callable[[PieceInput], np.ndarray]:
        self.check(settings)
        speaker_at = self._speaker_at(settings, audio.duration_s)
        chain, pull = stages(self, settings), self._pull(settings)
        estimator = None if melody is not None else self._estimator(settings.f0_method, settings.f0_threshold)
        narrow = self._content_resampler(settings)
        opening = resample(audio.slice_s(0.0, STATISTICS_SECONDS), CONTENT_HZ)  # the wide one is let go at once
        encoder = self.encoder.for_recording(opening.samples) if opening.n_samples else self.encoder
        with_volume = self.config.model.vol_embedding or settings.only_diffusion
        if settings.auto_predict_f0:
            self._warn_if_sung(audio.slice_s(0.0, STATISTICS_SECONDS), settings)

        def convert_piece(piece: PieceInput) -> np.ndarray:
            track = estimator(piece.samples) if estimator else self._part_of(melody, piece)
            track = track.transposed(settings.transpose_semitones)
            if settings.f0_mean_pooling:
                track = track.mean_filtered()
            content = encoder.encode(narrow(piece.samples)).T  # [N50, D] -> [D, N50]
            features = self._features(piece.samples, track, content, pull, with_volume=with_volume)
            speaker = speaker_at(piece, track.n_frames)
            result, f0_hz = self._synthesise(features, speaker, settings)
            if chain:
                heard = _piece_sound(piece, features, speaker, f0_hz=f0_hz, seed=settings.seed)
                for stage in chain:
                    result = stage(result, heard)
            return result

        return convert_piece

    def _speaker_at(self, settings: ConversionSettings, duration_s: float) -> Callable[[PieceInput, int], Tensor]:
        """Who sings the N frames of a piece: long [1, 1], or weights [N, S] where speakers are mixed."""
        if settings.speaker_mix:
            return MixedSpeakers(settings.speaker_mix, self, duration_s=duration_s)
        speaker = torch.tensor([[self.speaker_id(settings.speaker)]], device=self.device)
        return lambda piece, n_frames: speaker

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

    def _features(
        self, samples: np.ndarray, track: F0Track, content: Tensor, pull: Pull | None, *, with_volume: bool
    ) -> PieceFeatures:
        content = align_to_frames(content, track.n_frames, mode=self.config.data.unit_interpolate_mode)  # [D, N]
        if pull is not None:
            content = pull(content.T).T
        volume = None
        if with_volume:
            volume = volume_envelope(torch.from_numpy(samples), self.hop_samples)[None].to(self.device)
        as_row = lambda values: torch.as_tensor(values, dtype=torch.float32, device=self.device)[None]  # noqa: E731
        return PieceFeatures(
            content[None].to(self.device), as_row(track.interpolated()), as_row(track.voiced.astype(np.float32)), volume
        )

    @torch.inference_mode()
    def _synthesise(
        self, features: PieceFeatures, speaker: Tensor, settings: ConversionSettings
    ) -> tuple[np.ndarray, Tensor]:
        """Samples [T] and the f0 that was sung [1, N]."""
        noise = Noise(torch.Generator().manual_seed(settings.seed))
        if settings.only_diffusion:
            heard = Heard(features.content, features.f0_hz, features.volume, speaker, noise)
            return diffuse_alone(self, heard, settings), features.f0_hz
        with freed_memory_kept():
            result = self.generator.infer(
                features.content,
                features.f0_hz,
                features.voiced,
                speaker,
                volume=features.volume,
                noise_scale=settings.noise_scale,
                predict_f0=settings.auto_predict_f0,
                noise=noise,
            )
        return result.audio[0, 0].float().cpu().numpy(), result.f0_hz


def load_voice(
    source: Path | str,
    *,
    config: Path | str | None = None,
    device: str = "cpu",
    pretrain_folder: Path | str = Path("pretrain"),
    cluster_model: Path | str | None = None,
    vocoder: Path | str | None = None,
    diffusion: DiffusionFiles | None = None,
    checkpoint: str = "best",
) -> Voice:
    """Load a voice from its folder, from one checkpoint, or from a zip file, as people pass them on.

    Files of so-vits-svc 4.0 and 4.1 load as they are, under odd names and in folders within folders too (see
    sovits_collection.find_voice); release files lack the posterior, which is not needed here.
    A config without an encoder's name (4.0) gets it from the width of the content.

    Args:
        cluster_model: centres or an index (kmeans_*.pt, feature_and_index.pkl, RVC's added_*.index) to take
            instead of those beside the weights.
        vocoder: folder, `model` file or released zip of the vocoder to use instead of the one that
            `vocoder.find_vocoder` finds; needed where a conversion asks for it.
        diffusion: files of the diffusion model to use instead of the one in the folder diffusion/ beside the weights;
            needed where a conversion asks for it.
        checkpoint: which of a folder's: "best" on held-out clips where the training measured that, else the
            newest; or "newest".

    Raises:
        SvcError: nothing found, config and weights that do not fit (every difference named), a file that
            would run code.
    """
    files = find_voice(Path(source), config=Path(config) if config else None, checkpoint=checkpoint)
    loaded, generator, report = read_generator(files.weights, files.config)
    model, folder = loaded.model, files.weights.parent
    encoder = load_encoder(model.speech_encoder, folder=Path(pretrain_folder), device=device, width=model.ssl_dim)
    voice = Voice(loaded, generator.to(device), encoder, name=files.name, pretrain_folder=Path(pretrain_folder))
    voice.step, voice.folder = step_of(files.weights), folder
    voice.vocoder_path = Path(vocoder) if vocoder else None
    voice.diffusion_files = diffusion or files.diffusion
    voice.has_posterior = not report.missing
    named = Path(cluster_model) if cluster_model else None
    voice.retrieval = VoiceRetrieval(files.retrieval_folder, named=named, speakers=voice.speakers, width=model.ssl_dim)
    pitches = folder / MIDDLE_PITCH_FILE
    if pitches.is_file():
        voice.middle_pitches_hz = json.loads(pitches.read_text(encoding="utf-8"))
    return voice


def _piece_sound(
    piece: PieceInput, features: PieceFeatures, speaker: Tensor, *, f0_hz: Tensor, seed: int
) -> PieceSound:
    weights = speaker if speaker.is_floating_point() else None
    return PieceSound(
        samples=piece.samples,
        content=features.content,
        f0_hz=f0_hz,
        voiced=features.voiced,
        volume=features.volume,
        speaker_id=int(speaker if weights is None else weights.sum(0).argmax()),
        seed=seed,
        speaker_weights=weights,
    )


def read_generator(weights_path: Path, config_path: Path) -> tuple[Config, SynthesizerTrn, LoadReport]:
    """A voice's network without its encoder, its config with the encoder's name filled in, and what the file lacked.

    Raises:
        SvcError: as `load_voice`.
    """
    config = Config.load(config_path, strict=False)
    state = read_sovits_checkpoint(weights_path).model
    described = describe_sovits(state)
    refuse_misfit(config, described, weights_path, config_path)
    config.model.use_automatic_f0_prediction = described["use_automatic_f0_prediction"]
    config.model.speech_encoder = encoder_for_width(config.model.ssl_dim, config.model.speech_encoder)
    generator = SynthesizerTrn(
        config.data.filter_length // 2 + 1,
        config.segment_frames,
        sampling_rate=config.data.sampling_rate,
        **config.model.model_dump(),
    )
    return config, generator.eval(), load_weights(generator, state, may_miss=("enc_q.",))
