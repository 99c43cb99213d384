"""A trained RVC voice: load once, convert many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from svcnb import SvcError
from svcnb.audio.audio import Audio, read_audio, resample, resample_samples, write_audio
from svcnb.audio.recording import Recording
from svcnb.audio.spectral import Stft
from svcnb.conversion.long_audio import PieceInput, convert_long
from svcnb.conversion.settings import ConversionSettings
from svcnb.conversion.voice import STATISTICS_SECONDS, LoadedVoice, fingerprint
from svcnb.data.extractor import read_middle_pitches
from svcnb.device import freed_memory_kept
from svcnb.features.content.encoders import ContentEncoder, load_encoder
from svcnb.features.content.retrieval import FeatureIndex
from svcnb.features.content.waveform import SAMPLE_RATE_HZ as CONTENT_HZ
from svcnb.features.pitch.estimator import resolve_method
from svcnb.features.pitch.track import F0Track
from svcnb.files.checkpoint import load_weights, read_checkpoint
from svcnb.models.rvc.checkpoint import (
    CONTENT,
    SmallModel,
    is_small_model,
    read_rvc_checkpoint,
    read_small_model,
)
from svcnb.models.rvc.config import Config
from svcnb.models.rvc.index import find_index
from svcnb.models.rvc.network import NOISE_SCALE, RvcSynthesizer
from svcnb.models.rvc.pipeline import guided_content, network_inputs, smoothed, without_rumble
from svcnb.models.rvc.prepare import CONFIG_NAME
from svcnb.nn.layers import Noise, fold_weight_norm, sample_latents
from svcnb.training.checkpoints import read_progress

MAX_PROTECT = 0.5
LOWEST_RATE_HZ = 16000  # of results: the original ignores wishes below
SPEAKERS_KEY = '"spk_embed_dim"'  # in no other family's config.json
CONTEXT_SAMPLES = 1280  # more than the frames that content encoders lose at the end of a recording
NOT_HERE = {
    "auto_predict_f0": "-a", "enhance": "-eh", "shallow_diffusion": "-shd", "only_diffusion": "-od", "speaker_mix": "-usm",
}  # fmt: skip


class RvcConversionSettings(ConversionSettings):
    """Every choice of one conversion, with RVC's own defaults; `cluster_ratio` is its index_rate.

    `loudness_envelope_ratio` is its rms_mix_rate. Plain ConversionSettings work too: then nothing is pulled towards
    the voice unless their ratio says so.
    """

    cluster_ratio: float = Field(0.75, ge=0, le=1, description="pull the content towards the voice by the index (index_rate)")
    feature_retrieval: bool = Field(True, description="RVC always searches an index")
    noise_scale: float = Field(NOISE_SCALE, ge=0, le=2, description="randomness of the prior")
    loudness_envelope_ratio: float = Field(0.25, ge=0, le=1, description="0 = loudness of the source, 1 = of the voice "
                                           "(rms_mix_rate)")  # fmt: skip
    f0_threshold: float = Field(0.03, ge=0, le=1, description="confidence below which a frame counts as unvoiced")
    protect: float = Field(0.33, ge=0, le=MAX_PROTECT, description="frames without pitch keep this much less of the index; "
                           "0.5 switches it off")  # fmt: skip
    filter_radius: int = Field(3, ge=0, le=7, description="above 2, a median over three frames smooths harvest's melody")
    resample_hz: int = Field(0, ge=0, le=192000, description="rate of the result in Hz; below 16000 the voice's own (resample_sr)")


@dataclass(frozen=True)
class _Choices:
    """What only RVC knows, also where the settings are another family's."""

    protect: float = 0.33
    filter_radius: int = 3

    @classmethod
    def of(cls, settings: ConversionSettings) -> _Choices:
        if isinstance(settings, RvcConversionSettings):
            return cls(settings.protect, settings.filter_radius)
        return cls()


class RvcVoice(LoadedVoice):
    """A synthesizer with its content encoder, its pitch estimators and its index.

    Attributes:
        config: the voice's configuration.
        index_path: of the index, None where there is none; read when it is first needed.
        info: what the small model says of itself.
    """

    def __init__(self, config: Config, generator: RvcSynthesizer, encoder: ContentEncoder, *, name: str = "voice",
                 pretrain_folder: Path = Path("pretrain")) -> None:  # fmt: skip
        super().__init__(
            encoder, name=name, speakers=config.spk or {name: 0}, n_speakers=config.model.spk_embed_dim,
            sample_rate_hz=config.data.sampling_rate, hop_samples=config.data.hop_length,
            device=next(generator.parameters()).device, pretrain_folder=pretrain_folder,
        )  # fmt: skip
        self.config = config
        self.generator = fold_weight_norm(generator.eval())
        self.index_path: Path | None = None
        self.info = ""
        self._index: FeatureIndex | None = None

    @property
    def index(self) -> FeatureIndex:
        """Read once.

        Raises:
            SvcError: there is none, or it is of another encoder's content.
        """
        if self.index_path is None:
            raise SvcError(f"voice {self.name} has no index: build it (rvc.build_voice_index), name one, or set index_rate to 0")
        if self._index is None:
            index = FeatureIndex.read(self.index_path)
            if index.width(0) != self.config.content_width:
                raise SvcError(f"{self.index_path} is for content of {index.width(0)} values per frame, this voice hears "
                               f"{self.config.content_width}: take the voice's own index")  # fmt: skip
            self._index = index
        return self._index

    def check(self, settings: ConversionSettings) -> ConversionSettings:
        """The settings, if this voice can do all they ask for.

        Raises:
            SvcError: unknown speaker or pitch method, no index for a ratio above 0, or a stage that RVC does not have.
        """
        asked = [f"{name} ({flag})" for name, flag in NOT_HERE.items() if getattr(settings, name)]
        if asked:
            raise SvcError(f"{', '.join(asked)}: not for RVC voices, switch it off")
        if settings.like_original:
            raise SvcError("like_original (--like_original) is so-vits-svc's timing: switch it off for RVC voices")
        self.speaker_id(settings.speaker)
        resolve_method(settings.f0_method, self.pretrain_folder)
        if settings.cluster_ratio:
            if not settings.feature_retrieval:
                raise SvcError("RVC voices are pulled by their index: switch feature_retrieval (-fr) on, or set the ratio (-cr) to 0")
            self.index  # noqa: B018 - a missing index shall be told now
        return settings

    def convert(
        self, audio: Audio, settings: ConversionSettings | None = None, *, melody: F0Track | None = None
    ) -> Audio:
        """The same words and melody in this voice, at its rate or at the one that the settings say."""
        result = super().convert(audio, settings, melody=melody)
        rate_hz = getattr(settings, "resample_hz", 0)
        return resample(result, rate_hz) if rate_hz >= LOWEST_RATE_HZ else result

    def convert_file(
        self, path: Path | str, folder: Path | str, settings: ConversionSettings | None = None, *,
        name: str | None = None, melody: F0Track | None = None,
    ) -> Path:  # fmt: skip
        """Convert a recording into `folder`; another rate than the voice's needs the whole result in memory."""
        if getattr(settings, "resample_hz", 0) < LOWEST_RATE_HZ:
            return super().convert_file(path, folder, settings, name=name, melody=melody)
        result = self.convert(read_audio(path), settings, melody=melody)
        return write_audio(Path(folder) / (name or self.result_name(Path(path), settings)), result)

    def mode_name(self, settings: ConversionSettings) -> str:
        return "rvc"

    def fingerprint(self) -> str:
        """Short name of exactly these weights, and of the index that goes with them."""
        return fingerprint(self.generator, [self.index_path] if self.index_path else [])

    def resynthesise(self, audio: Audio, speaker: str | int | None = None) -> Audio:
        """A recording of the speaker through posterior and decoder only: as good as this decoder can sound.

        Raises:
            SvcError: a small model, whose posterior was removed.
        """
        if not self.has_posterior:
            raise SvcError(f"voice {self.name} is a small model without the posterior (enc_q): take the G_*.pth "
                           "that training wrote, or leave copies out")  # fmt: skip
        data, settings = self.config.data, ConversionSettings()
        stft = Stft(n_fft=data.filter_length, hop_samples=data.hop_length, win_samples=data.win_length).to(self.device)
        g = self.generator.embed_speaker(torch.tensor([self.speaker_id(speaker)], device=self.device))
        estimator = self._estimator("auto", None)

        @torch.inference_mode()
        def copy_piece(piece: PieceInput) -> np.ndarray:
            spec = stft(torch.from_numpy(piece.samples)[None].to(self.device))
            mask = torch.ones_like(spec[:, :1])
            noise = Noise(torch.Generator().manual_seed(settings.seed))
            latents = sample_latents(*self.generator.enc_q(spec, mask, g), mask, noise)
            f0_hz = torch.as_tensor(estimator(piece.samples).f0_hz, dtype=torch.float32, device=self.device)[None]
            return self.generator.dec(latents, f0_hz if self.config.f0 else None, g, noise=noise)[0, 0].float().cpu().numpy()

        return convert_long(audio, copy_piece, settings, output_hz=self.sample_rate_hz, hop_samples=self.hop_samples)

    def _piece_converter(
        self, audio: Recording, settings: ConversionSettings, melody: F0Track | None
    ) -> Callable[[PieceInput], np.ndarray]:
        self.check(settings)
        choices, ratio, index = _Choices.of(settings), settings.cluster_ratio, self.index if settings.cluster_ratio else None
        blend = None if index is None else lambda content: index.blend(content, 0, ratio)
        opening = resample(audio.slice_s(0.0, STATISTICS_SECONDS), CONTENT_HZ)
        encoder = self.encoder.for_recording(opening.samples) if opening.n_samples else self.encoder
        speaker = torch.tensor([self.speaker_id(settings.speaker)], device=self.device)

        def convert_piece(piece: PieceInput) -> np.ndarray:
            n_frames = len(piece.samples) // self.hop_samples
            f0_hz = self._melody(piece, settings, choices, melody) if self.config.f0 else None
            narrow = without_rumble(resample_samples(piece.samples, self.sample_rate_hz, CONTENT_HZ))
            # The encoder loses frames at the end: it hears some more, so that the result is not short.
            longer = np.pad(narrow, (0, CONTEXT_SAMPLES), mode="reflect" if len(narrow) > CONTEXT_SAMPLES else "constant")
            content = encoder.encode(longer.astype(np.float32))  # [N50, D]
            content = guided_content(content, f0_hz, n_frames=n_frames, blend=blend, protect=choices.protect)
            return self._sing(content, f0_hz, speaker, settings)

        return convert_piece

    def _melody(
        self, piece: PieceInput, settings: ConversionSettings, choices: _Choices, melody: F0Track | None
    ) -> np.ndarray:
        """f0 of a piece in Hz, 0 = unvoiced, float64 [N]."""
        if melody is not None:
            track = self._part_of(melody, piece)
        else:
            estimator = self._estimator(settings.f0_method, settings.f0_threshold)
            track = estimator(piece.samples)
            track = F0Track(smoothed(track.f0_hz, estimator.method, choices.filter_radius), track.hop_s)
        track = track.transposed(settings.transpose_semitones)
        return (track.mean_filtered() if settings.f0_mean_pooling else track).f0_hz.astype(np.float64)

    @torch.inference_mode()
    def _sing(
        self, content: Tensor, f0_hz: np.ndarray | None, speaker: Tensor, settings: ConversionSettings
    ) -> np.ndarray:
        noise = Noise(torch.Generator().manual_seed(settings.seed))
        inputs = network_inputs(content, f0_hz, self.device)
        with freed_memory_kept():
            out = self.generator.infer(*inputs, speaker, noise_scale=settings.noise_scale, noise=noise)
        return out.audio[0, 0].float().cpu().numpy()


def load_voice(
    source: Path | str,
    *,
    index: Path | str | None = None,
    version: str | None = None,
    device: str = "cpu",
    pretrain_folder: Path | str = Path("pretrain"),
    checkpoint: str = "best",
) -> RvcVoice:
    """Load a voice from a small model, from an experiment's folder, or from its G_*.pth (config.json beside it).

    Args:
        index: added_*.index to take instead of the one that belongs to the voice (see rvc_index.find_index).
        version: "v1" or "v2" where an RVC config.json does not tell.
        checkpoint: which of a folder's: "best" on held-out clips where the training measured that, or "newest".

    Raises:
        SvcError: nothing found, config and weights that do not fit (every difference named), a file that would run code.
    """
    source, pretrain_folder = Path(source), Path(pretrain_folder)
    path = _checkpoint_in(source, checkpoint) if source.is_dir() else source
    model, name, step = _read_weights(path, version)
    config = model.config
    generator = RvcSynthesizer(config.settings())
    report = load_weights(generator, model.weights, may_miss=("enc_q.",))
    encoder = load_encoder(config.encoder, folder=pretrain_folder, device=device, width=config.content_width)
    voice = RvcVoice(config, generator.to(device), encoder, name=name, pretrain_folder=pretrain_folder)
    voice.info, voice.step, voice.folder = model.info, step, path.parent
    voice.has_posterior = not report.missing
    voice.middle_pitches_hz = read_middle_pitches(path.parent)
    named = Path(index) if index else find_index(name, _index_places(path), version=config.version)
    if named is not None and not named.is_file():
        raise SvcError(f"no index at {named}: name an added_*.index, or leave it out")
    voice.index_path = named
    return voice


def _index_places(path: Path) -> list[Path]:
    """Beside a model and above it, and where RVC keeps indexes when the model lies in assets/weights."""
    root = path.parent.parent
    return [path.parent, root, root / "indices", root.parent / "logs"]


def _read_weights(path: Path, version: str | None) -> tuple[SmallModel, str, int | None]:
    """The weights with their config, the voice's name, and the step where the file's name tells it."""
    if not path.is_file():
        raise SvcError(f"no RVC voice at {path}: give a small model, an experiment's folder, or its G_*.pth")
    if is_small_model(read_checkpoint(path)):
        return read_small_model(path), path.stem, None
    state = read_rvc_checkpoint(path).model
    config = Config.load(path.parent / CONFIG_NAME, version=version)
    number = path.stem.removeprefix("G_")
    name = next(iter(config.spk), path.parent.name)
    return SmallModel(state, config, info=path.name), name, int(number) if number.isdigit() else None


def _checkpoint_in(folder: Path, checkpoint: str) -> Path:
    """The G_*.pth of an experiment, else its only small model."""
    if checkpoint not in ("best", "newest"):
        raise SvcError(f"checkpoint {checkpoint!r}: choose best or newest, or name one G_*.pth")
    record = read_progress(folder)
    if record is not None:
        return folder / f"G_{record.best.step if record.best and checkpoint == 'best' else record.step}.pth"
    found = sorted(folder.glob("G_*.pth"), key=lambda path: (len(path.stem), path.stem))
    small = _small_models(folder)
    if found:
        return found[-1]
    if len(small) != 1:
        names = ", ".join(path.name for path in small) or "none"
        raise SvcError(f"{folder} has no G_*.pth and not one small model ({names}): train a voice there, or name the file")
    return small[0]


def is_rvc_voice(source: Path | str) -> bool:
    """Whether a folder or a file is an RVC voice: by the config beside it, else by what is in the file."""
    source = Path(source)
    folder = source if source.is_dir() else source.parent
    if not (source.is_dir() or (source.is_file() and source.suffix == ".pth")):
        return False
    config = folder / CONFIG_NAME
    if config.is_file() and (source.is_dir() or source.name.startswith("G_")):
        return SPEAKERS_KEY in config.read_text(encoding="utf-8-sig")
    paths = _small_models(folder) if source.is_dir() else [source]
    return any(map(_hears_as_rvc, paths))


def _hears_as_rvc(path: Path) -> bool:
    stored: dict[str, Any] = read_checkpoint(path)
    weights = stored.get("weight") or stored.get("model")
    return isinstance(weights, dict) and CONTENT in weights


def _small_models(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.pth")) if path.name[:2] not in ("G_", "D_")]
