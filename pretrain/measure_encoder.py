"""Evaluate content encoders by phone and speaker probes: one table for several encoders.

    python -m pretrain.measure_encoder --readers ../shared/voices/librispeech [--files data/encoder.safetensors]

Needs flite. --files evaluates files of make_encoder, their output and the output of their last block.
Columns: accuracy of a linear phone probe over non-silent frames, trained on three flite voices (rms, awb,
kal16) and tested on other sentences of slt, which is in the training data of neither probe nor encoder, and
of rms; ABX error across voices (is X, by slt, nearer to A, the same phone by rms, or to B, another phone by
rms?); accuracy of a linear speaker probe over frames of the readers, trained on their first sentences and
tested on the others. All in percent.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.phones import PHONES, SILENCE, LabelledClip, synthesize
from pretrain.sentences import PROBE_SENTENCES, TEST_SENTENCES
from svcnb.audio.audio import find_audio_files, read_audio
from svcnb.features.content.bundled import LearnedUnits, load_network
from svcnb.features.content.encoders import load_encoder

SAMPLE_RATE_HZ = 16000
HOP_SAMPLES = 320
PROBE_VOICES = ("rms", "awb", "kal16")
UNSEEN_VOICE, SEEN_VOICE = "slt", "rms"
N_TEST_CLIPS = 3  # of each reader
ABX_TOKENS = 12  # of each phone and voice
QUIET_DB = 40.0  # frames this far below a recording's loud frames are not in the speaker probe

Encode = Callable[[np.ndarray], Tensor]  # samples [T] at 16 kHz -> [N, D]


@dataclass(frozen=True)
class Scores:
    """One row of the table; accuracies and errors as ratios in 0..1."""

    width: int
    phones_unseen: float
    phones_seen: float
    abx_error: float
    speaker: float
    times_real_time: float


@dataclass(frozen=True)
class Material:
    """Evaluation data."""

    probe: list[LabelledClip]
    unseen: list[LabelledClip]
    seen: list[LabelledClip]
    readers: dict[str, list[np.ndarray]]

    @classmethod
    def make(cls, readers_folder: Path) -> Material:
        folders = sorted(path for path in readers_folder.iterdir() if path.is_dir())
        return cls(
            probe=[synthesize(text, voice) for voice in PROBE_VOICES for text in PROBE_SENTENCES],
            unseen=[synthesize(text, UNSEEN_VOICE) for text in TEST_SENTENCES],
            seen=[synthesize(text, SEEN_VOICE) for text in TEST_SENTENCES],
            readers={
                f.name: [read_audio(p, sample_rate_hz=SAMPLE_RATE_HZ).samples for p in find_audio_files(f)]
                for f in folders
            },
        )


def mfcc(samples: np.ndarray) -> Tensor:
    """13 MFCCs and their deltas, [N, 26]: the baseline."""
    import librosa

    framed = {"sr": SAMPLE_RATE_HZ, "n_mfcc": 13, "n_fft": 512, "win_length": 400, "hop_length": HOP_SAMPLES}
    n_frames = max(1, len(samples) // HOP_SAMPLES)
    cepstra = librosa.feature.mfcc(y=np.pad(samples, (0, HOP_SAMPLES)), **framed)[:, : n_frames + 1]
    deltas = librosa.feature.delta(cepstra, width=5, mode="nearest")
    return torch.from_numpy(np.concatenate([cepstra, deltas])[:, :n_frames].T.copy())


def bound(name: str, folder: Path) -> Encode:
    """An encoder by name, with the statistics of each recording, as in conversion."""
    encoder = load_encoder(name, folder=folder)
    return lambda samples: encoder.for_recording(samples).encode(samples)


def output_and_hidden(path: Path) -> dict[str, Encode]:
    """Output and last block's output of an encoder file written by make_encoder."""
    encoder = LearnedUnits(load_network(path))
    bands = encoder.network.bands

    @torch.no_grad()
    def hidden(samples: np.ndarray) -> Tensor:
        power = bands.power(torch.from_numpy(samples)[None])
        return encoder.network.hidden(bands(power, bands.statistics(power)))[0]

    return {path.stem: encoder.encode, f"{path.stem}, last block": hidden}


def labelled_frames(clips: Iterable[LabelledClip], encode: Encode) -> tuple[Tensor, Tensor]:
    """Features [N, D] and phone numbers [N] of the non-silent frames."""
    features, labels = [], []
    for clip in clips:
        frames = encode(clip.samples)
        numbers, trust = clip.frame_labels()
        n = min(len(frames), len(numbers))
        not_silent = torch.from_numpy((numbers[:n] != SILENCE) & (trust[:n] > 0))
        features.append(frames[:n][not_silent])
        labels.append(torch.from_numpy(numbers[:n])[not_silent])
    return torch.cat(features), torch.cat(labels)


def linear_probe(
    train: tuple[Tensor, Tensor], tests: list[tuple[Tensor, Tensor]], *, n_classes: int
) -> list[float]:
    """Accuracies of one linear classifier (cross-entropy, small weight decay) on several test sets."""
    points, labels = train
    mean, std = points.mean(0), points.std(0).clamp_min(1e-5)
    points = (points - mean) / std
    torch.manual_seed(0)
    layer = torch.nn.Linear(points.shape[1], n_classes)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.02, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    for _ in range(300):
        optimizer.zero_grad()
        F.cross_entropy(layer(points), labels).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return [float((layer((x - mean) / std).argmax(1) == y).float().mean()) for x, y in tests]


def tokens(clips: Iterable[LabelledClip], encode: Encode) -> dict[int, Tensor]:
    """The first few tokens [n, D] of every phone: means over the middle half of its frames."""
    found: dict[int, list[Tensor]] = {}
    for clip in clips:
        frames = encode(clip.samples)
        start_s = 0.0
        for phone in clip.phones:
            quarter = (phone.end_s - start_s) / 4
            first, last = round((start_s + quarter) * 50), round((phone.end_s - quarter) * 50)
            vectors = found.setdefault(phone.index, [])
            if phone.index != SILENCE and len(vectors) < ABX_TOKENS and first < len(frames):
                vectors.append(frames[first : max(first + 1, last)].mean(0))
            start_s = phone.end_s
    return {index: torch.stack(vectors) for index, vectors in found.items() if len(vectors) > 1}


def abx_error(known: dict[int, Tensor], unknown: dict[int, Tensor]) -> float:
    """Fraction of triples with X nearer (by cosine) to the wrong phone, averaged over phone pairs; chance 0.5."""
    center = torch.cat(list(known.values())).mean(0)
    known, unknown = (
        {i: F.normalize(x - center, dim=1) for i, x in side.items()} for side in (known, unknown)
    )
    errors = []
    for right in unknown.keys() & known.keys():
        to_right = unknown[right] @ known[right].T  # [X, A]
        for wrong in known.keys() - {right}:
            to_wrong = unknown[right] @ known[wrong].T  # [X, B]
            lead = to_right[:, :, None] - to_wrong[:, None, :]
            errors.append(float((lead < 0).float().mean() + 0.5 * (lead == 0).float().mean()))
    return float(np.mean(errors))


def loud_frames(samples: np.ndarray, n_frames: int) -> Tensor:
    """Mask of the frames that are not pauses, bool [n_frames]."""
    frames = (
        np.resize(samples, (n_frames, HOP_SAMPLES))
        if len(samples) < HOP_SAMPLES
        else samples[: n_frames * HOP_SAMPLES]
    )
    power = (
        np.square(np.pad(frames.ravel(), (0, n_frames * HOP_SAMPLES - frames.size)))
        .reshape(n_frames, -1)
        .mean(1)
    )
    return torch.from_numpy(power > np.quantile(power, 0.95) * 10 ** (-QUIET_DB / 10))


def speaker_frames(
    readers: dict[str, list[np.ndarray]], encode: Encode, chosen: slice
) -> tuple[Tensor, Tensor]:
    """Features [N, D] and reader numbers [N] of some sentences of each reader."""
    features, labels = [], []
    for number, name in enumerate(sorted(readers)):
        for samples in readers[name][chosen]:
            frames = encode(samples)
            frames = frames[loud_frames(samples, len(frames))]
            features.append(frames)
            labels.append(torch.full((len(frames),), number))
    return torch.cat(features), torch.cat(labels)


def measure(encode: Encode, material: Material) -> Scores:
    """Evaluate one encoder."""
    started = time.perf_counter()
    probe = labelled_frames(material.probe, encode)
    elapsed_s = time.perf_counter() - started
    seconds = sum(len(clip.samples) for clip in material.probe) / SAMPLE_RATE_HZ
    unseen, seen = labelled_frames(material.unseen, encode), labelled_frames(material.seen, encode)
    phones_unseen, phones_seen = linear_probe(probe, [unseen, seen], n_classes=len(PHONES))
    test = speaker_frames(material.readers, encode, slice(-N_TEST_CLIPS, None))
    train = speaker_frames(material.readers, encode, slice(None, -N_TEST_CLIPS))
    return Scores(
        width=probe[0].shape[1],
        phones_unseen=phones_unseen,
        phones_seen=phones_seen,
        abx_error=abx_error(tokens(material.seen, encode), tokens(material.unseen, encode)),
        speaker=linear_probe(train, [test], n_classes=len(material.readers))[0],
        times_real_time=seconds / elapsed_s,
    )


def table(scores: dict[str, Scores], n_readers: int) -> str:
    """Scores as a Markdown table."""
    lines = [
        f"| features | width | phones, unseen voice | phones, seen voice | ABX error | speaker (chance {100 / n_readers:.0f}) | x real time |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, s in scores.items():
        ratios = (s.phones_unseen, s.phones_seen, s.abx_error, s.speaker)
        percentages = " | ".join(f"{100 * ratio:.1f}" for ratio in ratios)
        lines.append(f"| {name} | {s.width} | {percentages} | {s.times_real_time:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--readers", type=Path, required=True, help="folder with one folder of recordings per reader"
    )
    parser.add_argument("--encoders", nargs="*", default=["svcnb-units"], help="names of content.ENCODERS")
    parser.add_argument("--files", type=Path, nargs="*", default=[], help="files of make_encoder")
    parser.add_argument(
        "--folder", type=Path, default=Path(__file__).parent, help="folder of the encoders' weights"
    )
    options = parser.parse_args()
    material = Material.make(options.readers)
    encoders: dict[str, Encode] = {"MFCC": mfcc} | {
        name: bound(name, options.folder) for name in options.encoders
    }
    for path in options.files:
        encoders |= output_and_hidden(path)
    print(
        table({name: measure(encode, material) for name, encode in encoders.items()}, len(material.readers))
    )


if __name__ == "__main__":
    main()
