"""Learn the centres of the bundled content encoder from a folder of recordings of many voices.

    python -m pretrain.make_soft_units ../shared/voices/librispeech-251 --output pretrain/soft_units.safetensors

One file per voice is best (each file is normalised by itself). 251 files, 52 minutes: a quarter of a minute.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from svcnb.audio.audio import find_audio_files, read_audio
from svcnb.features.content.soft_units import SoftUnitNetwork, SoftUnitSettings
from svcnb.features.content.waveform import SAMPLE_RATE_HZ

ATTRIBUTION = (
    "Centres learned from LibriSpeech train-clean-100 (251 readers, one sentence each), "
    "CC BY 4.0, (c) 2014 Vassil Panayotov, Guoguo Chen, Daniel Povey, Sanjeev Khudanpur"
)

Voice = tuple[torch.Tensor, torch.Tensor]  # gain [M], cepstra [N, C]


def average_reader(network: SoftUnitNetwork, voices: list[Voice]) -> None:
    """Set the network's mean and spread to the average over voices; each voice counts the same.

    Voices are drawn towards the average they are to give, so it is taken again from itself.
    """
    for _ in range(3):
        own = [network.moments(gain, [cepstra]) for gain, cepstra in voices]
        network.mean.copy_(torch.stack([s.mean for s in own]).mean(0))
        network.spread.copy_(torch.stack([s.spread for s in own]).mean(0))


def learn_centres(points: np.ndarray, n_centres: int, *, seed: int, n_iterations: int) -> np.ndarray:
    import faiss

    kmeans = faiss.Kmeans(points.shape[1], n_centres, niter=n_iterations, seed=seed, max_points_per_centroid=2000)
    kmeans.train(points)
    print(f"{len(points)} frames, {n_centres} centres, mean squared distance {kmeans.obj[-1] / len(points):.2f}")
    return kmeans.centroids


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", type=Path, help="folder of audio files, one voice per file")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("soft_units.safetensors"))
    parser.add_argument("--n-centres", type=int, default=SoftUnitSettings.n_centres)
    parser.add_argument("--power-floor", type=float, default=SoftUnitSettings.power_floor)
    parser.add_argument("--temperature", type=float, default=SoftUnitSettings.temperature)
    parser.add_argument("--n-iterations", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    torch.set_num_threads(1)  # sums in one order: the same file again on the same machine
    settings = SoftUnitSettings(n_centres=options.n_centres, temperature=options.temperature, power_floor=options.power_floor)
    network = SoftUnitNetwork(settings)
    voices: list[Voice] = []
    for path in tqdm(find_audio_files(options.recordings), desc="cepstra"):
        waveform = torch.from_numpy(read_audio(path, sample_rate_hz=SAMPLE_RATE_HZ).samples)[None]
        gain = network.gain([waveform])
        voices.append((gain, network.cepstra(waveform, gain)[0]))
    average_reader(network, voices)
    points = [network.normalised(c[None], network.moments(gain, [c]))[0] for gain, c in voices]
    centres = learn_centres(torch.cat(points).numpy(), settings.n_centres, seed=options.seed, n_iterations=options.n_iterations)
    network.centres.copy_(torch.from_numpy(centres))
    network.save(options.output, metadata={"data": ATTRIBUTION, "seed": options.seed, "n_iterations": options.n_iterations})
    print(f"{options.output}: {options.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
