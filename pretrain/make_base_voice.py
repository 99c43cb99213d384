"""Train the base model: the small size on many speakers. New models are fine-tuned from its weights.

    python -m pretrain.make_base_voice WORK --recordings FOLDER [FOLDER ...] [--without 2033 3080] --minutes 120

WORK gets the clips, the features and the training run, each of which an interrupted call resumes; after
training the weights are in WORK/base_voice.safetensors, ready for svcnb.

The recordings are at 16 kHz, the model at 22.05 kHz: the losses cover frequencies below 7.6 kHz only, and the
decoder's output layer for the bands above is copied from the highest trained ones, a better initialization
than silence.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from torch import Tensor

from pretrain.make_encoder_data import recordings
from pretrain.moonshine_features import MoonshineFeatures, PerceptualNetworks
from svcnb import SvcError
from svcnb.audio.settings import CutSettings
from svcnb.data.clips import cut_folder
from svcnb.files.checkpoint import write_own
from svcnb.files.disk import copy_file
from svcnb.models import sovits
from svcnb.models.sovits.checkpoint import choose_base, read_about, read_sovits_checkpoint
from svcnb.nn.frame_decoder import SUBFRAMES
from svcnb.training.checkpoints import read_progress
from svcnb.training.perceptual import EncoderFeatures
from svcnb.training.settings import TrainSettings

TRAINED_HZ = 7600.0  # the losses cover frequencies below
COPIED_FROM_HZ = 7000.0  # bands from here to TRAINED_HZ initialize those above
LR_DECAY = 0.995  # per epoch of about 60 steps


def gather(folders: list[Path], without: list[str], raw: Path) -> None:
    """One folder per speaker, with links to the recordings."""
    for path, reader in recordings(folders, without):
        link = raw / reader / path.name
        if not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            os.symlink(path.resolve(), link)
    if not raw.is_dir():
        raise SvcError(f"no recordings in {', '.join(map(str, folders))}, expected folders with audio files")


def base_config(options: argparse.Namespace) -> sovits.Config:
    config = sovits.Config.small()
    changes = {
        "loss_max_hz": TRAINED_HZ,
        "lr_decay": options.lr_decay,
        "learning_rate": options.learning_rate,
    }
    if options.crop_frames:
        segment_size = options.crop_frames // 2 * config.data.hop_length
        changes |= {"max_frames": options.crop_frames, "segment_size": segment_size}
    config.train = config.train.model_copy(update=changes)
    return config


def copy_start(start: Path | None, path: Path) -> Path | None:
    """Copy the start model: training from the bundled base file itself would use the settings of a new voice."""
    if start is None:
        return None
    return path if path.is_file() else copy_file(start, path)


def choose_perceptual_network(moonshine: Path | None, sample_rate_hz: int) -> PerceptualNetworks | None:
    """The bundled encoder and Moonshine; without Moonshine's folder None, the default of the training."""
    if moonshine is None:
        return None
    own = EncoderFeatures.bundled(sample_rate_hz=sample_rate_hz)
    return PerceptualNetworks(own, MoonshineFeatures(moonshine, sample_rate_hz=sample_rate_hz))


def extend_upwards(state: dict[str, Tensor], config: sovits.Config) -> dict[str, Tensor]:
    """Initialize the weights of frequency bands above the recordings' bandwidth from the highest trained bands."""
    state = dict(state)
    for name in ("dec.head.weight", "dec.head.bias"):
        value = state[name].clone()
        rows = value.unflatten(0, (SUBFRAMES * 4, -1))  # [S * 4, F, ...], a view
        per_hz = 2 * (rows.shape[1] - 1) / config.data.sampling_rate
        first, last = round(COPIED_FROM_HZ * per_hz), round(TRAINED_HZ * per_hz)
        rows[:, last:] = rows[:, first:last].mean(1, keepdim=True)
        state[name] = value
    posterior = state["enc_q.pre.weight"].clone()  # [C, F, 1], over linear bins
    posterior[:, round(TRAINED_HZ * 2 * (posterior.shape[1] - 1) / config.data.sampling_rate) :] = 0
    return state | {"enc_q.pre.weight": posterior}


def write_base(voice: Path, path: Path, attribution: str, *, start: Path | None = None) -> Path:
    """Write the newest checkpoint in float16, with config, training time and data attribution as metadata.

    start: the model that training started from; its steps and minutes are added.
    """
    progress = read_progress(voice)
    config = sovits.Config.load(voice / "config.json")
    state = extend_upwards(read_sovits_checkpoint(voice / f"G_{progress.step}.pth").model, config)
    previous = read_about(start) if start else {"steps": 0, "minutes": 0}
    steps, minutes = previous["steps"] + progress.step, previous["minutes"] + round(progress.seconds / 60)
    about = {"kind": "base voice", "data": attribution, "steps": steps, "minutes": minutes}
    float16_state = {name: value.half() for name, value in state.items()}
    return write_own(path, float16_state, about | {"config": config.to_dict()})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, help="folder for all output")
    parser.add_argument("--recordings", type=Path, nargs="+", required=True, help="folders of read speech")
    parser.add_argument("--without", nargs="*", default=[], help="speakers to leave out")
    parser.add_argument("--minutes", type=float, default=120.0, help="total training time")
    parser.add_argument(
        "--start", default="none", help="file of an earlier base model, or auto for the bundled one"
    )
    parser.add_argument("--batch_size", type=int, help="crops per step (default: the small size's)")
    parser.add_argument(
        "--crop_frames",
        type=int,
        help="longest crop; the decoder is trained on half of it (default: the size's)",
    )
    parser.add_argument("--learning_rate", type=float, default=1e-3, help="initial learning rate")
    parser.add_argument(
        "--lr_decay", type=float, default=LR_DECAY, help="factor of the learning rate per epoch"
    )
    parser.add_argument("--encoder", default="svcnb-units")
    parser.add_argument(
        "--moonshine", type=Path, help="unpacked packages (see pretrain/moonshine.py): second perceptual loss"
    )
    parser.add_argument("--attribution", default="", help="attribution of the data, for the file's metadata")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    work: Path = options.work
    gather(options.recordings, options.without, work / "raw")
    config = base_config(options)
    cut_folder(work / "raw", work / "clips", CutSettings(sample_rate_hz=config.data.sampling_rate))
    prepare = sovits.PrepareSettings(encoder=options.encoder, device="cpu")
    print(sovits.prepare(config, work / "clips", work / "features", prepare))
    start = copy_start(choose_base(options.start, config), work / "start.safetensors")
    settings = TrainSettings(max_minutes=options.minutes, device=options.device, keep_checkpoints=2)
    report = sovits.train(
        work / "features",
        work / "voice",
        settings,
        base=start,
        batch_size=options.batch_size,
        listener=choose_perceptual_network(options.moonshine, config.data.sampling_rate),
    )
    path = write_base(work / "voice", work / "base_voice.safetensors", options.attribution, start=start)
    print(f"{report.step} steps: {path}")


if __name__ == "__main__":
    main()
