"""A trained so-vits voice: load once, convert many."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from svcnb import SvcError
from svcnb.audio.audio import Audio
from svcnb.audio.loudness import volume_envelope
from svcnb.audio.recording import Recording
from svcnb.audio.spectral import SincResample, Stft
from svcnb.conversion.long_audio import Chunk
from svcnb.conversion.retrieval import FeatureBlend, VoiceRetrieval
from svcnb.conversion.settings import ConversionSettings
from svcnb.conversion.voice import STATISTICS_SECONDS, LoadedVoice, Run, VoiceInfo, fingerprint
from svcnb.data.extractor import read_median_f0
from svcnb.device import freed_memory_kept
from svcnb.features.content.encoders import align_to_frames, encoder_for_width, load_encoder
from svcnb.features.content.waveform import SAMPLE_RATE_HZ as CONTENT_HZ
from svcnb.features.pitch.estimator import resolve_method
from svcnb.features.pitch.track import F0Track
from svcnb.files.checkpoint import LoadReport, load_weights
from svcnb.models.diffusion.checkpoint import (
    DiffusionFiles,
)
from svcnb.models.diffusion.network import Unit2Mel
from svcnb.models.sovits.checkpoint import describe_sovits, read_sovits_checkpoint
from svcnb.models.sovits.config import Config
from svcnb.models.sovits.files import find_voice, refuse_misfit, step_of
from svcnb.models.sovits.network import SynthesizerTrn
from svcnb.models.sovits.pipeline import Features, Refiners, mixed_ids, mixed_weights, stage_after_generator
from svcnb.nn.layers import Noise, sample_latents

if TYPE_CHECKING:
    from svcnb.features.content.encoders import ContentEncoder


class Voice(LoadedVoice):
    """A generator with its content encoder and its pitch estimators, ready to convert.

    With settings.only_diffusion the diffusion model replaces the generator; a voice may also have no
    generator at all (see load_diffusion_voice).

    Args:
        config: the voice's configuration.
        generator: trained; a diffusion model where there is no generator.
        info: name, folder, step ...
        retrieval: cluster centers and index of the voice, if it has any.
        vocoder: path of the vocoder for enhancer and diffusion; None searches for one, see `find_vocoder`.
        diffusion: files of the diffusion model to use, as far as they are named.
        has_posterior: False for release files; without it there is no copy synthesis (see resynthesise).
    """

    WITHOUT_POSTERIOR = "a release file"

    def __init__(
        self,
        config: Config,
        generator: SynthesizerTrn | Unit2Mel,
        encoder: ContentEncoder,
        info: VoiceInfo | None = None,
        *,
        retrieval: VoiceRetrieval | None = None,
        vocoder: Path | None = None,
        diffusion: DiffusionFiles | None = None,
        has_posterior: bool = True,
    ) -> None:
        super().__init__(
            encoder,
            info or VoiceInfo(),
            speakers=config.spk,
            n_speakers=config.model.n_speakers,
            sample_rate_hz=config.data.sampling_rate,
            hop_samples=config.data.hop_length,
            device=next(generator.parameters()).device,
            has_posterior=has_posterior,
        )
        self.config = config
        self.generator = generator.eval()
        self.retrieval = retrieval or VoiceRetrieval(None, speakers=self.speakers, width=config.model.ssl_dim)
        self.refiners = Refiners(
            config,
            name=self.name,
            speakers=self.speakers,
            folder=self.folder,
            pretrain_folder=self.pretrain_folder,
            device=self.device,
            vocoder_path=vocoder,
            diffusion_files=diffusion,
        )

    def with_generator(self, generator: Any, device: torch.device) -> Voice:
        """The same voice with another network that takes the same inputs (an exported one); no posterior."""
        other = copy.copy(self)
        other.generator, other.device, other.has_posterior = generator, device, False
        return other

    def check(self, settings: ConversionSettings) -> ConversionSettings:
        """Check that this voice supports the settings, before any long computation starts; return them.

        Raises:
            SvcError: unknown speaker or pitch method (valid names given), no f0 decoder, no centers or index
                for a ratio above 0, or ones that do not fit this voice; no vocoder or diffusion model
                although the settings need one.
        """
        if settings.auto_predict_f0 and not self.config.model.use_automatic_f0_prediction:
            raise SvcError(
                f"voice {self.name} was trained without an f0 decoder: leave auto_predict_f0 (-a) off"
            )
        if settings.speaker_mix:
            self._check_mix(settings)
        elif settings.feature_retrieval and not settings.cluster_ratio:
            warnings.warn(
                "feature_retrieval (-fr) does nothing while cluster_ratio (-cr) is 0: raise the ratio",
                stacklevel=3,
            )
        resolve_method(settings.f0_method, self.pretrain_folder)
        self._blend(settings)
        if isinstance(self.generator, Unit2Mel) and not settings.only_diffusion:
            raise SvcError(
                f"voice {self.name} was loaded with its diffusion model alone: switch only_diffusion (-od) on"
            )
        self.refiners.check(settings)
        return settings

    def _check_mix(self, settings: ConversionSettings) -> None:
        self._mixed_ids(settings)
        unused = {
            "speaker (-s)": settings.speaker is not None,
            "cluster_ratio (-cr)": settings.cluster_ratio > 0,
        }
        if named := [name for name, given in unused.items() if given]:
            warnings.warn(
                f"{' and '.join(named)} cannot be used while speakers are mixed (-usm): ignored", stacklevel=4
            )

    def _mixed_ids(self, settings: ConversionSettings) -> list[int]:
        timeline = settings.speaker_mix
        ids = [self.speaker_id(name) for name in timeline] if len(self.speakers) > 1 else []
        return mixed_ids(timeline, name=self.name, speakers=self.speakers, ids=ids)

    def _blend(self, settings: ConversionSettings) -> FeatureBlend | None:
        """Feature retrieval as a function on content; None where speakers are mixed (it is per speaker)."""
        if settings.speaker_mix:
            return None
        return self.retrieval.pull(settings, self.speaker_id(settings.speaker))

    def fingerprint(self) -> str:
        """Short hash of the weights, and of the files of centers, index and vocoder used with them."""
        return fingerprint(self.generator, [*self.retrieval.files(), *self.refiners.vocoder_files()])

    def mode_name(self, settings: ConversionSettings) -> str:
        """so-vits-svc's name of the conversion mode."""
        return "diff" if settings.only_diffusion else "sovdiff" if settings.shallow_diffusion else "sovits"

    def start(self, audio: Recording, settings: ConversionSettings, f0: F0Track | None = None) -> Run:
        run = super().start(audio, settings, f0)
        if settings.auto_predict_f0:
            self._warn_if_sung(audio.slice_s(0.0, STATISTICS_SECONDS), settings)
        return run

    def convert_chunk(self, chunk: Chunk, run: Run) -> np.ndarray:
        settings = run.settings
        f0 = self.chunk_f0(chunk, run)
        if settings.like_original:
            content = run.encoder.encode(self._sinc_resampler(torch.from_numpy(chunk.samples)).numpy())
        else:
            content = self.encode(chunk.audio, run.encoder)
        content = self.retrieve(content, f0, settings)
        speaker, volume = self._speaker_of(chunk, f0.n_frames, run), self.volume(chunk.samples, settings)
        return self.synthesize(content, f0, settings, speaker=speaker, volume=volume)

    def retrieve(self, content: Tensor, f0: F0Track, settings: ConversionSettings | None = None) -> Tensor:
        """Content [N50, D] stretched to the frames of f0, then blended with cluster centers or the index: [N, D]."""
        content = align_to_frames(content.T, f0.n_frames, mode=self.config.data.unit_interpolate_mode).T
        blend = self._blend(settings or ConversionSettings())
        return content if blend is None else blend(content)

    def volume(self, samples: np.ndarray, settings: ConversionSettings | None = None) -> Tensor | None:
        """Loudness [N] of float32 [T] at the voice's rate; None where the network is not conditioned on it."""
        if self.config.model.vol_embedding or (settings is not None and settings.only_diffusion):
            return volume_envelope(torch.from_numpy(samples), self.hop_samples)
        return None

    @torch.inference_mode()
    def synthesize(
        self,
        content: Tensor,
        f0: F0Track,
        settings: ConversionSettings | None = None,
        *,
        speaker: Tensor | None = None,
        volume: Tensor | None = None,
    ) -> np.ndarray:
        """The waveform, float32 [N * hop_samples]; refined by enhancer or shallow diffusion if so set.

        Args:
            content: float32 [N, D] from `retrieve`.
            f0: N frames, 0 Hz where unvoiced.
            settings: seed, noise, f0 prediction, stages after the generator, and the speaker.
            speaker: id [1, 1] or weights [N, S] of a mix; None takes the settings' speaker.
            volume: float32 [N] from `volume`, where the voice is conditioned on it.
        """
        settings = settings or ConversionSettings()
        if speaker is None:
            speaker = torch.tensor([[self.speaker_id(settings.speaker)]], device=self.device)
        as_row = lambda values: torch.as_tensor(values, dtype=torch.float32, device=self.device)[None]  # noqa: E731
        features = Features(
            content.T[None].to(self.device),
            as_row(f0.interpolated()),
            as_row(f0.voiced.astype(np.float32)),
            None if volume is None else volume[None].to(self.device),
            speaker,
        )
        samples, features = self._generate(features, settings)
        stage = stage_after_generator(settings)
        if stage == "diffusion":
            return self.refiners.diffuse(samples, self._reencoded(samples, features, settings), settings)
        return self.refiners.enhance(samples, features.f0_hz, settings) if stage == "enhancer" else samples

    def _generate(self, features: Features, settings: ConversionSettings) -> tuple[np.ndarray, Features]:
        """Samples [T], and the features with the f0 that was used (predicted or given)."""
        noise = Noise(torch.Generator().manual_seed(settings.seed))
        if settings.only_diffusion:
            return self.refiners.diffuse_alone(features, settings, noise), features
        with freed_memory_kept():
            result = self.generator.infer(
                features.content,
                features.f0_hz,
                features.voiced,
                features.speaker,
                volume=features.volume,
                noise_scale=settings.noise_scale,
                predict_f0=settings.auto_predict_f0,
                noise=noise,
            )
        return result.audio[0, 0].float().cpu().numpy(), replace(features, f0_hz=result.f0_hz)

    def _reencoded(self, samples: np.ndarray, features: Features, settings: ConversionSettings) -> Features:
        """With `second_encoding`: the features with the content of the generator's output."""
        if not settings.second_encoding:
            return features
        content = self.encode(Audio(samples, self.sample_rate_hz)).T  # [D, N50]
        mode = self.refiners.diffuser().config.data.unit_interpolate_mode
        return replace(features, content=align_to_frames(content, features.content.shape[2], mode=mode)[None])

    def _speaker_of(self, chunk: Chunk, n_frames: int, run: Run) -> Tensor:
        """The speaker of the N frames of a chunk: id [1, 1], or weights [N, S] where speakers are mixed."""
        settings = run.settings
        if not settings.speaker_mix:
            return torch.tensor([[self.speaker_id(settings.speaker)]], device=self.device)
        ids = self._mixed_ids(settings)
        grid = {"hop_samples": self.hop_samples, "duration_s": run.duration_s}
        return mixed_weights(settings.speaker_mix, ids, chunk, n_frames, **grid).to(self.device)

    @cached_property
    def _sinc_resampler(self) -> SincResample:
        """The original's resampler, from the voice's rate to the encoder's."""
        return SincResample(self.sample_rate_hz, CONTENT_HZ)

    @torch.inference_mode()
    def decode_posterior(self, chunk: Chunk, speaker_id: int) -> np.ndarray:
        spec = self._stft(torch.from_numpy(chunk.samples)[None].to(self.device))  # [1, F, N]
        f0 = self.estimate_f0(chunk.audio)
        rows = np.stack([f0.interpolated(), f0.voiced])
        f0_hz, voiced = torch.as_tensor(rows, dtype=torch.float32, device=self.device)[:, None]  # [1, N] each
        mask = torch.ones_like(f0_hz)[:, None]
        noise = Noise(torch.Generator().manual_seed(ConversionSettings().seed))
        g = self.generator.embed_speaker(torch.tensor([[speaker_id]], device=self.device))
        latents = sample_latents(*self.generator.enc_q(spec, mask, g), mask, noise)
        audio = self.generator.dec(latents, self.generator.source_f0(f0_hz, voiced), g, noise=noise)
        return audio[0, 0].float().cpu().numpy()

    @cached_property
    def _stft(self) -> Stft:
        data = self.config.data
        stft = Stft(n_fft=data.filter_length, hop_samples=data.hop_length, win_samples=data.win_length)
        return stft.to(self.device)


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
    """Load a voice from its folder, from one checkpoint, or from a zip file as voices are shared online.

    Files of so-vits-svc 4.0 and 4.1 load unchanged, also with unusual names and in nested folders (see
    files.find_voice); release files lack the posterior, which is not needed here.
    A config without an encoder's name (4.0) gets it from the width of the content.

    Args:
        cluster_model: cluster centers or an index (kmeans_*.pt, feature_and_index.pkl, RVC's added_*.index)
            to use instead of those beside the weights.
        vocoder: folder, `model` file or released zip of the vocoder to use instead of the one that
            `vocoder.find_vocoder` finds; only conversions with enhancer or diffusion need one.
        diffusion: files of the diffusion model to use instead of the one in the folder diffusion/ beside the weights;
            only conversions with diffusion need one.
        checkpoint: which of a folder's: "best" on held-out clips where the training measured that, else the
            newest; or "newest".

    Raises:
        SvcError: nothing found, config and weights that do not fit (every difference named), a file that
            would run code.
    """
    files = find_voice(Path(source), config=Path(config) if config else None, checkpoint=checkpoint)
    loaded, generator, report = read_generator(files.weights, files.config)
    model, folder, pretrain_folder = loaded.model, files.weights.parent, Path(pretrain_folder)
    encoder = load_encoder(model.speech_encoder, folder=pretrain_folder, device=device, width=model.ssl_dim)
    info = VoiceInfo(files.name, folder, step_of(files.weights), read_median_f0(folder), pretrain_folder)
    retrieval = VoiceRetrieval(
        files.retrieval_folder,
        named=Path(cluster_model) if cluster_model else None,
        speakers=dict(loaded.spk) or {"0": 0},
        width=model.ssl_dim,
    )
    return Voice(
        loaded,
        generator.to(device),
        encoder,
        info,
        retrieval=retrieval,
        vocoder=Path(vocoder) if vocoder else None,
        diffusion=diffusion or files.diffusion,
        has_posterior=not report.missing,
    )


def read_generator(weights_path: Path, config_path: Path) -> tuple[Config, SynthesizerTrn, LoadReport]:
    """A voice's generator, its config with the encoder's name filled in, and the report of missing weights.

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
