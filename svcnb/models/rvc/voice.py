"""A trained RVC voice: load once, convert many."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svcnb import SvcError
from svcnb.audio.audio import Audio, read_audio, resample, resample_samples, write_audio
from svcnb.audio.spectral import Stft
from svcnb.conversion.long_audio import Chunk
from svcnb.conversion.settings import ConversionSettings
from svcnb.conversion.voice import LoadedVoice, Run, VoiceInfo, fingerprint
from svcnb.data.extractor import read_median_f0
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
from svcnb.models.rvc.network import RvcSynthesizer
from svcnb.models.rvc.pipeline import guided_content, network_inputs, smoothed, without_rumble
from svcnb.models.rvc.prepare import CONFIG_NAME
from svcnb.models.settings import RvcConversionSettings
from svcnb.nn.layers import Noise, fold_weight_norm, sample_latents
from svcnb.training.checkpoints import read_progress

MAX_PROTECT = 0.5
LOWEST_RATE_HZ = 16000  # of results: the original ignores lower values
SPEAKERS_KEY = '"spk_embed_dim"'  # in no other family's config.json
CONTEXT_SAMPLES = 1280  # more than the frames that content encoders lose at the end of a recording
UNSUPPORTED = {
    "auto_predict_f0": "-a", "enhance": "-eh", "shallow_diffusion": "-shd", "only_diffusion": "-od", "speaker_mix": "-usm",
}  # fmt: skip


@dataclass(frozen=True)
class _RvcOnly:
    """Settings that only RVC has; RVC's defaults where the settings are another family's."""

    protect: float = 0.33
    filter_radius: int = 3

    @classmethod
    def of(cls, settings: ConversionSettings) -> _RvcOnly:
        if isinstance(settings, RvcConversionSettings):
            return cls(settings.protect, settings.filter_radius)
        return cls()


class Voice(LoadedVoice):
    """A synthesizer with its content encoder, its pitch estimators and its index.

    Args:
        config: the voice's configuration.
        info: name, folder, step ...
        index: path of the index, None if there is none; read when it is first needed.
        about: free text stored in the small model.
        has_posterior: False for small models.
    """

    WITHOUT_POSTERIOR = "a small model"

    def __init__(
        self,
        config: Config,
        generator: RvcSynthesizer,
        encoder: ContentEncoder,
        info: VoiceInfo | None = None,
        *,
        index: Path | None = None,
        about: str = "",
        has_posterior: bool = False,
    ) -> None:
        info = info or VoiceInfo()
        super().__init__(
            encoder,
            info,
            speakers=config.spk or {info.name: 0},
            n_speakers=config.model.spk_embed_dim,
            sample_rate_hz=config.data.sampling_rate,
            hop_samples=config.data.hop_length,
            device=next(generator.parameters()).device,
            has_posterior=has_posterior,
        )
        self.config = config
        self.generator = fold_weight_norm(generator.eval())
        self.index_path = index
        self.about = about
        self._index: FeatureIndex | None = None

    @property
    def index(self) -> FeatureIndex:
        """The voice's index; its file is read once.

        Raises:
            SvcError: there is none, or it was made from another encoder's content.
        """
        if self.index_path is None:
            raise SvcError(
                f"voice {self.name} has no index: build it (rvc.build_voice_index), name one, "
                "or set index_rate to 0"
            )
        if self._index is None:
            index = FeatureIndex.read(self.index_path)
            if index.width(0) != self.config.content_width:
                raise SvcError(
                    f"{self.index_path} is for content of {index.width(0)} values per frame, this "
                    f"voice uses {self.config.content_width}: use the voice's index"
                )
            self._index = index
        return self._index

    def check(self, settings: ConversionSettings) -> ConversionSettings:
        """Check that this voice supports the settings; return them.

        Raises:
            SvcError: unknown speaker or pitch method, no index for a ratio above 0, or a stage that RVC does not have.
        """
        unsupported = [f"{name} ({flag})" for name, flag in UNSUPPORTED.items() if getattr(settings, name)]
        if unsupported:
            raise SvcError(f"{', '.join(unsupported)}: not for RVC voices, switch it off")
        if settings.like_original:
            raise SvcError(
                "like_original (--like_original) is so-vits-svc's timing: switch it off for RVC voices"
            )
        self.speaker_id(settings.speaker)
        resolve_method(settings.f0_method, self.pretrain_folder)
        if settings.cluster_ratio:
            if not settings.feature_retrieval:
                raise SvcError(
                    "feature retrieval of RVC voices needs the index: switch feature_retrieval "
                    "(-fr) on, or set the ratio (-cr) to 0"
                )
            self.index  # noqa: B018 - raises now if the index is missing
        return settings

    def convert(
        self, audio: Audio, settings: ConversionSettings | None = None, *, f0: F0Track | None = None
    ) -> Audio:
        """Convert a recording: same words and melody, at the voice's rate or at settings.resample_hz."""
        result = super().convert(audio, settings, f0=f0)
        rate_hz = getattr(settings, "resample_hz", 0)
        return resample(result, rate_hz) if rate_hz >= LOWEST_RATE_HZ else result

    def convert_file(
        self,
        path: Path | str,
        folder: Path | str,
        settings: ConversionSettings | None = None,
        *,
        name: str | None = None,
        f0: F0Track | None = None,
    ) -> Path:
        """Convert a recording into `folder`; with settings.resample_hz the whole result is held in memory."""
        if getattr(settings, "resample_hz", 0) < LOWEST_RATE_HZ:
            return super().convert_file(path, folder, settings, name=name, f0=f0)
        result = self.convert(read_audio(path), settings, f0=f0)
        return write_audio(Path(folder) / (name or self.result_name(Path(path), settings)), result)

    def mode_name(self, settings: ConversionSettings) -> str:
        return "rvc"

    def fingerprint(self) -> str:
        """Short hash of the weights, and of the index used with them."""
        return fingerprint(self.generator, [self.index_path] if self.index_path else [])

    def convert_chunk(self, chunk: Chunk, run: Run) -> np.ndarray:
        f0 = self.chunk_f0(chunk, run)
        content = self.encode(chunk.audio, run.encoder)
        content = self.retrieve(content, f0, run.settings)
        return self.synthesize(content, f0, run.settings)

    def encode(self, audio: Audio, encoder: ContentEncoder | None = None) -> Tensor:
        """Content after a high-pass at 48 Hz: float32 [N50, D], a few frames more than the recording has."""
        samples = without_rumble(resample_samples(audio.samples, audio.sample_rate_hz, CONTENT_HZ))
        # The encoder loses frames at the end: the samples are padded, so that no frames are missing.
        longer = np.pad(
            samples, (0, CONTEXT_SAMPLES), mode="reflect" if len(samples) > CONTEXT_SAMPLES else "constant"
        )
        longer = longer.astype(np.float32)
        return (encoder or self.encoder.for_recording(longer)).encode(longer)

    def chunk_f0(self, chunk: Chunk, run: Run) -> F0Track:
        """f0 of a chunk; without pitch guidance none is estimated, all frames are unvoiced."""
        if self.config.f0:
            return super().chunk_f0(chunk, run)
        return F0Track(
            np.zeros(len(chunk.samples) // self.hop_samples), self.hop_samples / self.sample_rate_hz
        )

    def estimate_chunk_f0(self, chunk: Chunk, settings: ConversionSettings) -> F0Track:
        """Estimated f0 of a chunk; with a median over three frames for harvest, as in RVC."""
        track = super().estimate_chunk_f0(chunk, settings)
        method = resolve_method(settings.f0_method, self.pretrain_folder)
        return F0Track(smoothed(track.f0_hz, method, _RvcOnly.of(settings).filter_radius), track.hop_s)

    def retrieve(self, content: Tensor, f0: F0Track, settings: ConversionSettings | None = None) -> Tensor:
        """Content [N50, D] blended with the index (less in unvoiced frames), on the frames of f0: [N, D]."""
        settings = settings or RvcConversionSettings()
        ratio, index = settings.cluster_ratio, self.index if settings.cluster_ratio else None
        return guided_content(
            content,
            self._f0_hz(f0),
            n_frames=f0.n_frames,
            protect=_RvcOnly.of(settings).protect,
            blend=None if index is None else lambda frames: index.blend(frames, 0, ratio),
        )

    @torch.inference_mode()
    def synthesize(
        self, content: Tensor, f0: F0Track, settings: ConversionSettings | None = None
    ) -> np.ndarray:
        settings = settings or RvcConversionSettings()
        noise = Noise(torch.Generator().manual_seed(settings.seed))
        speaker = torch.tensor([self.speaker_id(settings.speaker)], device=self.device)
        inputs = network_inputs(content, self._f0_hz(f0), self.device)
        with freed_memory_kept():
            out = self.generator.infer(*inputs, speaker, noise_scale=settings.noise_scale, noise=noise)
        return out.audio[0, 0].float().cpu().numpy()

    def _f0_hz(self, f0: F0Track) -> np.ndarray | None:
        """float64 [N] in Hz, 0 = unvoiced; None for a network without pitch guidance."""
        return f0.f0_hz.astype(np.float64) if self.config.f0 else None

    @torch.inference_mode()
    def decode_posterior(self, chunk: Chunk, speaker_id: int) -> np.ndarray:
        spec = self._stft(torch.from_numpy(chunk.samples)[None].to(self.device))  # [1, F, N]
        mask = torch.ones_like(spec[:, :1])
        noise = Noise(torch.Generator().manual_seed(ConversionSettings().seed))
        g = self.generator.embed_speaker(torch.tensor([speaker_id], device=self.device))
        latents = sample_latents(*self.generator.enc_q(spec, mask, g), mask, noise)
        f0_hz = torch.as_tensor(self.estimate_f0(chunk.audio).f0_hz, dtype=torch.float32, device=self.device)[
            None
        ]
        return (
            self.generator.dec(latents, f0_hz if self.config.f0 else None, g, noise=noise)[0, 0]
            .float()
            .cpu()
            .numpy()
        )

    @cached_property
    def _stft(self) -> Stft:
        data = self.config.data
        stft = Stft(n_fft=data.filter_length, hop_samples=data.hop_length, win_samples=data.win_length)
        return stft.to(self.device)


def load_voice(
    source: Path | str,
    *,
    index: Path | str | None = None,
    version: str | None = None,
    device: str = "cpu",
    pretrain_folder: Path | str = Path("pretrain"),
    checkpoint: str = "best",
) -> Voice:
    """Load a voice from a small model, from an experiment's folder, or from its G_*.pth (config.json beside it).

    Args:
        index: added_*.index to use instead of the one that belongs to the voice (see index.find_index).
        version: "v1" or "v2" if an RVC config.json does not contain it.
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
    named = Path(index) if index else find_index(name, _index_folders(path), version=config.version)
    if named is not None and not named.is_file():
        raise SvcError(f"no index at {named}: name an added_*.index, or leave it out")
    return Voice(
        config,
        generator.to(device),
        encoder,
        VoiceInfo(name, path.parent, step, read_median_f0(path.parent), pretrain_folder),
        index=named,
        about=model.info,
        has_posterior=not report.missing,
    )


def _index_folders(path: Path) -> list[Path]:
    """A model's folder, its parent, and RVC's folders of indexes for models in assets/weights."""
    root = path.parent.parent
    return [path.parent, root, root / "indices", root.parent / "logs"]


def _read_weights(path: Path, version: str | None) -> tuple[SmallModel, str, int | None]:
    """The weights with their config, the voice's name, and the step if it is in the file's name."""
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
        raise SvcError(
            f"{folder} has no G_*.pth and not exactly one small model ({names}): "
            "train a voice there, or name the file"
        )
    return small[0]


def is_rvc_voice(source: Path | str) -> bool:
    """Whether a folder or a file is an RVC voice: by the config beside it, else by the weights in it."""
    source = Path(source)
    folder = source if source.is_dir() else source.parent
    if not (source.is_dir() or (source.is_file() and source.suffix == ".pth")):
        return False
    config = folder / CONFIG_NAME
    if config.is_file() and (source.is_dir() or source.name.startswith("G_")):
        return SPEAKERS_KEY in config.read_text(encoding="utf-8-sig")
    paths = _small_models(folder) if source.is_dir() else [source]
    return any(map(_looks_like_rvc, paths))


def _looks_like_rvc(path: Path) -> bool:
    stored: dict[str, Any] = read_checkpoint(path)
    weights = stored.get("weight") or stored.get("model")
    return isinstance(weights, dict) and CONTENT in weights


def _small_models(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.pth")) if path.name[:2] not in ("G_", "D_")]
