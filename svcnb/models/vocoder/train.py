"""Train a vocoder: from clips or features to `model` and `config.json`, resumed where it stopped."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from svcnb import SvcError
from svcnb.audio.audio import Audio
from svcnb.conversion.self_conversion import ConvertingVoice, self_convert_clips
from svcnb.data.dataset import load_split
from svcnb.files.checkpoint import load_weights, read_checkpoint, to_plain_names, write_checkpoint
from svcnb.models.vocoder.config import Config
from svcnb.models.vocoder.data import Segment, SegmentBatches, VocoderClips, collate, open_clips
from svcnb.models.vocoder.files import load_generator
from svcnb.models.vocoder.network import CONFIG_NAME, MODEL_NAMES
from svcnb.models.vocoder.step import StepParts, fresh_state, train_step
from svcnb.nn.layers import Noise
from svcnb.training.checkpoints import RunRecord, read_progress
from svcnb.training.loop import FitHooks, TrainReport, fit
from svcnb.training.settings import TrainSettings
from svcnb.training.state import TrainState, restore, settle
from svcnb.training.validation import drop_later_samples, thin_samples, write_reference, write_sample

MAX_CLIP_S, MAX_MEASURED_S = 8.0, 30.0
N_SAMPLES = 2
NOISE_SEED = 1


def train(
    source: Path | str,
    folder: Path | str,
    settings: TrainSettings,
    *,
    config: Config | None = None,
    base: Path | str | None = None,
    voice: ConvertingVoice | None = None,
) -> TrainReport:
    """Train a vocoder; the same call continues a run that was stopped.

    Args:
        source: features (of any voice on the vocoder's grid), or a folder of clips, whose f0 is then estimated.
        folder: gets `model` (the best on held-out clips so far, as other programs read it), config.json,
            checkpoint_<step>.pt to continue from, state.json, history.jsonl and samples/.
        settings: how long, how often to save, precision, device.
        config: None takes the small one, or that of the run in the folder.
        base: a vocoder to start from: its folder, its `model` or a released zip.
        voice: half of the segments are input_audio as this voice speaks them and shall come out as they were recorded:
            makes an enhancer of the vocoder, for this voice. Spoken clips lie in folder/spoken.

    Raises:
        SvcError: no clips, features on another grid, a run of other sizes in the folder, a base that does not fit.
    """
    source, folder = Path(source), Path(folder)
    if settings.n_processes > 1:
        raise SvcError("a vocoder is trained by one process: leave num_processes at 1")
    folder.mkdir(parents=True, exist_ok=True)
    record = read_progress(folder)
    config = _config_of_run(folder, config, record)
    config.warn_of_unused(folder / CONFIG_NAME)
    settings = settle(settings, config.schedule, folder / CONFIG_NAME)
    state = fresh_state(config, settings)
    store = open_clips(source, folder, config, device=state.accelerator.device.type)
    split = load_split(store, seed=config.seed)
    takes = self_convert_clips(voice, store, folder, unseen=split.validation) if voice is not None else None
    if record is not None:
        load_run(state, folder, record.step)
        restore(state, record)
    elif base is not None:
        load_generator(state.accelerator.unwrap_model(state.generator), Path(base))
    config.save(folder)
    drop_later_samples(folder, state.step)
    clips = VocoderClips(store, takes, in_memory=config.is_small)
    held_out = HeldOut(clips, split.validation, split.training)
    batches = SegmentBatches(
        clips,
        split.training,
        segment_frames=config.segment_frames,
        batch_size=config.batch_size,
        seed=config.seed,
    )
    hooks = FitHooks(
        save=save_run,
        validate=held_out.measure,
        measure=held_out.deciding,
        sample=partial(publish, held_out=held_out),
    )
    return fit(state, batches, train_step, settings, folder=folder, hooks=hooks)


def _config_of_run(folder: Path, wished: Config | None, record: RunRecord | None) -> Config:
    if record is None:
        return wished or Config.small()
    earlier = Config.load(folder / CONFIG_NAME)
    if wished is not None and wished.sizes() != earlier.sizes():
        raise SvcError(
            f"{folder} holds the training of a vocoder of other sizes: give the same config, or another folder"
        )
    return earlier


# ---------------------------------------------------------------- checkpoints


def _parts(state: TrainState) -> dict[str, torch.nn.Module]:
    named = {"generator": state.generator, "discriminator": state.discriminator}
    return {name: state.accelerator.unwrap_model(part) for name, part in named.items() if part is not None}


def _checkpoint_name(step: int) -> str:
    return f"checkpoint_{step}.pt"


def save_run(state: TrainState, folder: Path) -> None:
    """checkpoint_<step>.pt: networks and optimisers."""
    content = {name: to_plain_names(part.state_dict()) for name, part in _parts(state).items()}
    content["optimizers"] = {name: pair[0].state_dict() for name, pair in state.schedules().items()}
    write_checkpoint(folder / _checkpoint_name(state.step), content)


def load_run(state: TrainState, folder: Path, step: int) -> None:
    """Networks and optimisers of the checkpoint of `step`, strictly."""
    stored = read_checkpoint(folder / _checkpoint_name(step))
    for name, part in _parts(state).items():
        load_weights(part, stored[name])
    for name, (optimizer, _) in state.schedules().items():
        optimizer.load_state_dict(stored["optimizers"][name])


def publish(state: TrainState, folder: Path, *, held_out: HeldOut) -> None:
    """Write `model`, what conversions read, from the best checkpoint (the newest where none is measured); and samples."""
    held_out.write_samples(state, folder)
    record = read_progress(folder)
    if record is None:
        return  # the early sample, before the first checkpoint
    step = record.best.step if record.best else record.step
    stored = read_checkpoint(folder / _checkpoint_name(step))
    write_checkpoint(folder / MODEL_NAMES[0], {"generator": stored["generator"]})
    thin_samples(folder, keep=(step,))


# ---------------------------------------------------------------- held-out clips


class HeldOut:
    """Measures and samples a vocoder on clips that it does not train on.

    Attributes:
        deciding: the measure that tells the best checkpoint: "mel" of the recordings' own mels, or "voice_mel",
            where a voice speaks the clips.
    """

    def __init__(self, clips: VocoderClips, names: list[str], others: list[str]) -> None:
        self.clips = clips
        self.with_voice = clips.takes is not None
        self.deciding = "voice_mel" if self.with_voice else "mel"
        settings = clips.store.settings
        self.max_frames = round(MAX_CLIP_S / settings.hop_s)
        n_measured = max(1, round(MAX_MEASURED_S / MAX_CLIP_S))
        self.measured = names[:n_measured]
        self.sampled = (self.measured or others)[:N_SAMPLES]

    def measure(self, state: TrainState) -> dict[str, float]:
        """Mean distance of log mel spectra over all frames; no entry where no clip is held out."""
        if not self.measured:
            return {}
        result = {"mel": self._distance(state, spoken=False)}
        return result | ({"voice_mel": self._distance(state, spoken=True)} if self.with_voice else {})

    def _distance(self, state: TrainState, *, spoken: bool) -> float:
        mel = state.extras["parts"].mel
        total, n_frames = 0.0, 0
        for name in self.measured:
            segment = self.clips.whole(name, take=0 if spoken else None, max_frames=self.max_frames)
            audio = self._resynthesize(state, segment)
            distance = (mel(audio) - mel(segment.audio.to(audio)[None])).abs().mean(dim=1)  # [1, N]
            total, n_frames = total + float(distance.sum()), n_frames + distance.shape[1]
        return total / n_frames

    def write_samples(self, state: TrainState, folder: Path) -> None:
        """The sampled clips as this vocoder gives them back."""
        rate_hz = self.clips.store.settings.sample_rate_hz
        for clip, name in enumerate(self.sampled, start=1):
            segment = self.clips.whole(name, take=0 if self.with_voice else None, max_frames=self.max_frames)
            write_reference(folder, clip, Audio(segment.audio.numpy(), rate_hz))
            write_sample(
                folder, state.step, clip, Audio(self._resynthesize(state, segment)[0].cpu().numpy(), rate_hz)
            )

    @torch.no_grad()
    def _resynthesize(self, state: TrainState, segment: Segment) -> Tensor:
        """[1, T]; the noise is always the same, so that two measurements differ by the network alone."""
        parts: StepParts = state.extras["parts"]
        batch = collate([segment]).to(state.accelerator.device)
        generator = state.accelerator.unwrap_model(state.generator).eval()
        noise = Noise(torch.Generator().manual_seed(NOISE_SEED))
        return generator(parts.mel(batch.input_audio), batch.f0_hz, noise=noise)[:, 0].float()
