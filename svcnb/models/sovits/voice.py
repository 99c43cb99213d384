"""A trained so-vits voice: load once, convert many."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from svcnb import SvcError
from svcnb.audio.audio import Audio, resample, resample_samples
from svcnb.audio.loudness import volume_envelope
from svcnb.audio.recording import Recording
from svcnb.audio.spectral import SincResample
from svcnb.conversion.long_audio import PieceInput
from svcnb.conversion.retrieval import Pull, VoiceRetrieval
from svcnb.conversion.settings import ConversionSettings
from svcnb.conversion.voice import STATISTICS_SECONDS, LoadedVoice, fingerprint
from svcnb.data.extractor import read_middle_pitches
from svcnb.device import freed_memory_kept
from svcnb.features.content.encoders import align_to_frames, encoder_for_width, load_encoder
from svcnb.features.content.waveform import SAMPLE_RATE_HZ as CONTENT_HZ
from svcnb.features.pitch.estimator import resolve_method
from svcnb.features.pitch.track import F0Track
from svcnb.files.checkpoint import LoadReport, load_weights
from svcnb.models.diffusion.checkpoint import (
    DIFFUSION_FOLDER,
    DiffusionFiles,
    find_model,
    read_diffusion_checkpoint,
)
from svcnb.models.diffusion.config import DiffusionConfig
from svcnb.models.diffusion.network import Unit2Mel
from svcnb.models.diffusion.refine import Heard
from svcnb.models.sovits.checkpoint import describe_sovits, read_sovits_checkpoint
from svcnb.models.sovits.config import Config
from svcnb.models.sovits.files import find_voice, refuse_misfit, step_of
from svcnb.models.sovits.network import SynthesizerTrn
from svcnb.models.sovits.pipeline import (
    MixedSpeakers,
    PieceSound,
    check_alone,
    copy_recording,
    diffuse_alone,
    mixed_ids,
    stages,
    vocoder_files,
)
from svcnb.models.vocoder.files import find_vocoder, load_vocoder
from svcnb.nn.layers import Noise

if TYPE_CHECKING:
    from svcnb.features.content.encoders import ContentEncoder


@dataclass(frozen=True)
class PieceFeatures:
    """What the network hears of one piece: content [1, D, N], f0 and voiced [1, N], volume [1, N] or None."""

    content: Tensor
    f0_hz: Tensor
    voiced: Tensor
    volume: Tensor | None


class Voice(LoadedVoice):
    """A generator with its content encoder and its pitch estimators, ready to convert.

    Its diffusion model stands in the generator's place where settings.only_diffusion says so, and where there is no
    other (see load_diffusion_voice).

    Attributes:
        config: the voice's configuration.
        has_posterior: False for release files; without it there are no copies (see resynthesise).
        retrieval: centres and index of the voice, where there are some.
        vocoder_path: of the vocoder to use (enhancer, diffusion); None finds one, see vocoder.find_vocoder.
        diffusion_files: of the diffusion model to use, as far as they are named.
        loaded: networks of the stages after the generator, kept between conversions.
    """

    def __init__(self, config: Config, generator: SynthesizerTrn | Unit2Mel, encoder: ContentEncoder, *, name: str = "voice",
                 pretrain_folder: Path = Path("pretrain")) -> None:  # fmt: skip
        super().__init__(
            encoder, name=name, speakers=config.spk, n_speakers=config.model.n_speakers,
            sample_rate_hz=config.data.sampling_rate, hop_samples=config.data.hop_length,
            device=next(generator.parameters()).device, pretrain_folder=pretrain_folder,
        )  # fmt: skip
        self.config = config
        self.generator = generator.eval()
        self.has_posterior = True
        self.retrieval = VoiceRetrieval(None, speakers=self.speakers, width=config.model.ssl_dim)
        self.vocoder_path: Path | None = None
        self.diffusion_files = DiffusionFiles()
        self.loaded: dict[Any, Any] = {}

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

    def mode_name(self, settings: ConversionSettings) -> str:
        """As so-vits-svc calls its ways of converting."""
        return "diff" if settings.only_diffusion else "sovdiff" if settings.shallow_diffusion else "sovits"

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

    def _content_resampler(self, settings: ConversionSettings) -> Callable[[np.ndarray], np.ndarray]:
        if not settings.like_original:
            return lambda samples: resample_samples(samples, self.sample_rate_hz, CONTENT_HZ)
        sinc = SincResample(self.sample_rate_hz, CONTENT_HZ)
        return lambda samples: sinc(torch.from_numpy(samples)).numpy()

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
    voice.middle_pitches_hz = read_middle_pitches(folder)
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


def load_diffusion_voice(
    source: Path | str,
    *,
    diffusion: DiffusionFiles | None = None,
    vocoder: Path | str | None = None,
    device: str = "cpu",
    pretrain_folder: Path | str = Path("pretrain"),
) -> Voice:
    """A voice without a generator; every conversion with it needs settings.only_diffusion.

    Args:
        source: the voice's folder, its folder diffusion/, or a model_*.pt; a G_*.pth stands for its folder.
        diffusion: files to use instead of those found there.
        vocoder: as in load_voice.

    Raises:
        SvcError: no model or config there, no vocoder, or parts that do not fit.
    """
    folder, named = _place_of(Path(source), diffusion or DiffusionFiles())
    model_path, config_path = find_model(folder, named)
    found = DiffusionConfig.load(config_path, strict=False)
    pretrain_folder = Path(pretrain_folder)
    vocoder_path = find_vocoder(vocoder, voice_folder=folder, pretrain_folder=pretrain_folder)
    network = found.build(load_vocoder(vocoder_path).settings.num_mels)
    load_weights(network, read_diffusion_checkpoint(model_path).model)
    encoder = load_encoder(found.data.encoder, folder=pretrain_folder, device=device)
    voice = Voice(_as_config(found), network.to(device), encoder, name=folder.name, pretrain_folder=pretrain_folder)
    voice.folder, voice.vocoder_path = folder, vocoder_path
    voice.diffusion_files = DiffusionFiles(model_path, config_path)
    voice.has_posterior = False
    return voice


def _place_of(source: Path, named: DiffusionFiles) -> tuple[Path, DiffusionFiles]:
    """The voice's folder, and the files as far as they are named."""
    if source.is_file() and source.suffix == ".pt":
        named = DiffusionFiles(named.model or source, named.config)
    folder = source.parent if source.is_file() else source
    return (folder.parent if folder.name == DIFFUSION_FOLDER else folder), named


def _as_config(found: DiffusionConfig) -> Config:
    """What a voice needs to know of itself, from the diffusion model's config."""
    config = Config.full()
    config.data.sampling_rate, config.data.hop_length = found.data.sampling_rate, found.data.block_size
    config.data.unit_interpolate_mode = found.data.unit_interpolate_mode
    config.model.speech_encoder, config.model.ssl_dim = found.data.encoder, found.data.encoder_out_channels
    config.model.n_speakers, config.model.vol_embedding = found.model.n_spk, True
    config.model.use_automatic_f0_prediction = False
    config.spk = dict(found.spk)
    return config
