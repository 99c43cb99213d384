"""Do the enhancer and shallow diffusion bring a voice's output closer to recordings of the speaker?

    python -m tests.benchmarks.measure_extras VOICE --target FOLDER --unseen NAME [NAME ...] [--k_steps N [N ...]]

Sentences of the speaker that were not in any training data are converted into the voice: by the generator
alone, enhanced (-eh) by the vocoder in VOICE/vocoder, and refined by the diffusion model in VOICE/diffusion
with several numbers of noise steps (-shd). Means over sentences: distance of log mel spectra to the recording
(mean absolute difference of natural logarithms, the vocoder's bands), mel-cepstral distance in dB, and
speaker similarity (Resemblyzer cosine) to the speaker's other recordings.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from svcnb.audio.audio import Audio, find_audio_files, read_audio, resample
from svcnb.conversion.settings import ConversionSettings
from svcnb.evaluation.mel_cepstral import mel_cepstral_distance
from svcnb.evaluation.metrics import SpeakerSimilarity
from svcnb.models.sovits.voice import load_voice
from svcnb.models.vocoder.files import find_vocoder, load_vocoder
from tests.benchmarks.measure_voices import N_REFERENCES


class Distances:
    """The loaded metrics."""

    def __init__(self, vocoder: Path, references: Sequence[Path]) -> None:
        loaded = load_vocoder(vocoder)
        self.mel, self.rate_hz = loaded.mel, loaded.settings.sampling_rate
        self.references, self.similarity = references, SpeakerSimilarity()

    def log_mel(self, audio: Audio) -> torch.Tensor:
        return self.mel(torch.from_numpy(resample(audio, self.rate_hz).samples)[None])[0]

    def row(self, recordings: Sequence[Audio], results: Sequence[Audio]) -> list[float]:
        pairs = list(zip(recordings, results, strict=True))
        mel = [(self.log_mel(a) - self.log_mel(b)).abs().mean().item() for a, b in pairs]
        cepstral_db = [mel_cepstral_distance(a, b, align=False).mean_db for a, b in pairs]
        return [
            float(np.mean(mel)),
            float(np.mean(cepstral_db)),
            self.similarity.compare(results, self.references),
        ]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("voice", type=Path)
    parser.add_argument("--target", type=Path, required=True, help="folder with recordings of the speaker")
    parser.add_argument("--unseen", nargs="+", required=True, help="names of sentences kept out of training")
    parser.add_argument("--k_steps", type=int, nargs="*", default=[10, 30, 100], help="noise steps to try")
    parser.add_argument("--second_encoding", action="store_true", help="as -se")
    options = parser.parse_args()
    paths = find_audio_files(options.target)
    recordings = [read_audio(path) for path in paths if path.stem in options.unseen]
    vocoder = find_vocoder(None, voice_folder=options.voice)
    distances = Distances(
        vocoder, [path for path in paths if path.stem not in options.unseen][-N_REFERENCES:]
    )
    voice = load_voice(options.voice, vocoder=vocoder)
    variants = {"the voice alone": {}, "enhanced": {"enhance": True}}
    shallow = {"shallow_diffusion": True, "second_encoding": options.second_encoding}
    variants |= {f"diffusion, {n} noise steps": shallow | {"k_step": n} for n in options.k_steps}
    print("| | log mel distance | mel-cepstral distance, dB | similarity |\n|---|---|---|---|")
    for name, choices in variants.items():
        results = [voice.convert(audio, ConversionSettings(**choices)) for audio in recordings]
        mel, cepstral_db, similarity = distances.row(recordings, results)
        print(f"| {name} | {mel:.3f} | {cepstral_db:.2f} | {similarity:.3f} |", flush=True)


if __name__ == "__main__":
    main()
