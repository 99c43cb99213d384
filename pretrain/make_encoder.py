"""Train the learned content encoder.

    python -m pretrain.make_encoder DATA STATE [--minutes 120] [--steps 4000] [--start FILE --new SPEAKERS] [--device cuda]

DATA is the output folder of pretrain.make_encoder_data; STATE is written every two minutes, and the same call
resumes from it. The moving average of the weights is written beside it as STATE with the suffix .safetensors,
ready for svcnb. --start fine-tunes such a file, regularized towards its content for all but the new speakers;
the written weights are then interpolated between base and fine-tuned weights (WiSE-FT).
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from pretrain.encoder_batches import Batch, BatchMaker, ClipStore, PerturbSettings
from pretrain.encoder_losses import EncoderLosses, LossSettings, TrainingHeads
from svcnb.features.content.bundled import ContentNetwork, ContentNetworkSettings, load_network, save_network
from svcnb.files.checkpoint import read_checkpoint
from svcnb.files.disk import atomic_path
from svcnb.training.launch import stop_requests

WARM_STEPS = 200
COOL_RATIO = 0.3  # of all steps: linear decay of the learning rate to 0
AVERAGE = 0.998  # decay of the moving average of the weights, per step
SAVE_S, REPORT_S = 120.0, 30.0


class EncoderTraining:
    """Networks, optimiser and step count: the content of a state file."""

    def __init__(
        self,
        network: ContentNetwork,
        speakers: list[str],
        n_teacher: int,
        *,
        losses: LossSettings,
        learning_rate: float,
        device: str,
    ) -> None:
        self.network, self.speakers, self.device = network.to(device), speakers, device
        self.heads = TrainingHeads(network, len(speakers), n_teacher).to(device)
        self.average = {name: value.detach().clone() for name, value in network.state_dict().items()}
        self.losses = EncoderLosses(network, self.heads, losses)
        self.learning_rate = learning_rate
        self.optimizer = torch.optim.AdamW(
            self.losses.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.02
        )
        self.use_bfloat16 = _bfloat16_is_fast(device)
        self.step = 0
        self.base_state: dict[str, torch.Tensor] = {}
        self.base_ratio = 0.0

    def set_base(self, base: ContentNetwork, known: torch.Tensor, *, ratio: float) -> None:
        """Regularize towards a base encoder for its training speakers, bool [S]; interpolate the output with `ratio`."""
        self.losses.regularize_towards(base, known)
        self.base_state, self.base_ratio = base.state_dict(), ratio

    def train_step(self, batch: Batch, n_steps: int) -> dict[str, float]:
        """One optimiser step; returns the loss terms."""
        cooling = (n_steps - self.step) / (COOL_RATIO * n_steps)
        rate = self.learning_rate * max(0.0, min(1.0, (self.step + 1) / WARM_STEPS, cooling))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        generator = torch.Generator().manual_seed(self.step)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.use_bfloat16):
            losses = self.losses(_moved(batch, self.device), self.step, generator)
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.total(losses).backward()
        torch.nn.utils.clip_grad_norm_(self.losses.parameters(), 5.0)
        self.optimizer.step()
        self.step += 1
        self._average()
        return {name: value.item() for name, value in losses.items()}

    @torch.no_grad()
    def _average(self) -> None:
        keep = min(AVERAGE, self.step / (self.step + 10))
        for name, value in self.network.state_dict().items():
            self.average[name].lerp_(value, 1 - keep)

    def output_weights(self) -> dict[str, torch.Tensor]:
        """Weights for svcnb: moving average, interpolated with the base encoder if there is one.

        Source: Wortsman et al. 2022 (WiSE-FT): interpolated weights generalise to unseen speakers better than
            either.
        """
        if not self.base_state:
            return self.average
        return {
            name: value.lerp(self.base_state[name].to(value.device), self.base_ratio)
            for name, value in self.average.items()
        }

    def save(self, path: Path, metadata: dict[str, object]) -> None:
        state = {
            "step": self.step,
            "speakers": self.speakers,
            "network": self.network.state_dict(),
            "average": self.average,
            "heads": self.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        with atomic_path(path) as temporary:
            torch.save(state, temporary)
        averaged = ContentNetwork(self.network.settings)
        averaged.load_state_dict(self.output_weights())
        save_network(averaged, path.with_suffix(".safetensors"), metadata={**metadata, "steps": self.step})

    def load(self, path: Path) -> None:
        """Resume from a state; speaker-dependent heads are reinitialised if the data has other speakers."""
        state = read_checkpoint(path)
        self.network.load_state_dict(state["network"])
        self.average = {name: value.to(self.device) for name, value in state["average"].items()}
        self.step = state["step"]
        if state["speakers"] == self.speakers:
            self.heads.load_state_dict(state["heads"])
            self.optimizer.load_state_dict(state["optimizer"])
            return
        own = self.heads.state_dict()
        fitting = {name: value for name, value in state["heads"].items() if value.shape == own[name].shape}
        self.heads.load_state_dict(own | fitting)
        print(
            f"the data has {len(self.speakers)} speakers, the state {len(state['speakers'])}: the optimiser state is reset"
        )


@torch.no_grad()
def set_prior_statistics(network: ContentNetwork, store: ClipStore, *, n_clips: int = 100) -> None:
    """Set the prior of the band statistics to the average over clips of the data."""
    found = []
    for clip in store.clips[:: max(1, len(store.clips) // n_clips)]:
        waveform = torch.from_numpy(clip["samples"].astype(np.float32) / 32768)[None]
        statistics = network.bands.statistics(network.bands.power(waveform))
        found.append(torch.stack([statistics.mean[0], statistics.std[0]]))
    mean, std = torch.stack(found).mean(0)
    network.bands.mean.copy_(mean)
    network.bands.spread.copy_(std)


def _bfloat16_is_fast(device: str) -> bool:
    """False for CPUs without bfloat16 instructions, where matrix products are a hundred times slower."""
    known = getattr(torch.cpu, "get_capabilities", dict)()
    return device != "cpu" or bool(known.get("avx512_bf16"))


def _moved(batch: Batch, device: str) -> Batch:
    return (
        batch if device == "cpu" else Batch(**{name: value.to(device) for name, value in vars(batch).items()})
    )


def _report(step: int, n_steps: int, seconds_left: float, recent: dict[str, list[float]]) -> str:
    metrics = ", ".join(f"{name} {np.mean(values):.3f}" for name, values in recent.items())
    return f"step {step} of {n_steps}, {seconds_left / 60:.0f} minutes left: {metrics}"


def run(
    training: EncoderTraining, maker: BatchMaker, options: argparse.Namespace, stop: threading.Event
) -> None:
    """Train until the step or time limit or a stop request; the state is saved in any case."""
    probabilities = maker.store.probabilities(options.synthetic_ratio)
    metadata = {
        "data": options.attribution,
        "losses": asdict(training.losses.settings),
        "perturbation": asdict(maker.settings),
    }
    recent: dict[str, list[float]] = defaultdict(list)
    started = saved = reported = time.monotonic()
    first_step = training.step
    while (
        training.step < options.steps
        and time.monotonic() - started < options.minutes * 60
        and not stop.is_set()
    ):
        losses = training.train_step(maker.draw(options.clips, options.seconds, probabilities), options.steps)
        for name, value in losses.items():
            recent[name].append(value)
        now = time.monotonic()
        if now - reported > REPORT_S:
            per_step = (now - started) / (training.step - first_step)
            left = min((options.steps - training.step) * per_step, options.minutes * 60 - (now - started))
            print(_report(training.step, options.steps, left, recent), flush=True)
            with options.state.with_suffix(".jsonl").open("a") as log:
                means = {name: round(float(np.mean(values)), 4) for name, values in recent.items()}
                log.write(
                    json.dumps({"step": training.step, "seconds": round(now - started), **means}) + "\n"
                )
            recent.clear()
            reported = now
        if now - saved > SAVE_S:
            training.save(options.state, metadata)
            saved = now
    training.save(options.state, metadata)
    print(f"{options.state}: step {training.step}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("state", type=Path)
    parser.add_argument("--minutes", type=float, default=120.0, help="time limit of this call")
    parser.add_argument(
        "--steps", type=int, default=4000, help="total; the learning rate decays to 0 over the last third"
    )
    parser.add_argument("--start", type=Path, help="base encoder to fine-tune and to regularize towards")
    parser.add_argument(
        "--new", nargs="*", default=[], help="speakers without regularization towards the base encoder"
    )
    parser.add_argument(
        "--base-ratio", type=float, default=0.5, help="weight of --start in the written weights (WiSE-FT)"
    )
    parser.add_argument("--clips", type=int, default=6, help="per step; each in two perturbed views")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each crop")
    parser.add_argument(
        "--synthetic-ratio", type=float, default=0.4, help="ratio of synthetic speech in a batch"
    )
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    for name, default in asdict(LossSettings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    parser.add_argument("--attribution", default="", help="attribution of the data, for the file's metadata")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    store = ClipStore(options.data)
    print(
        f"{len(store.clips)} clips, {store.n_seconds.sum() / 60:.0f} minutes, {len(store.speakers)} speakers"
    )
    if options.start:
        network, base = load_network(options.start), load_network(options.start).to(options.device)
    else:
        network = ContentNetwork(ContentNetworkSettings())
        set_prior_statistics(network, store)
    losses = LossSettings(**{name: getattr(options, name) for name in asdict(LossSettings())})
    training = EncoderTraining(
        network,
        store.speakers,
        len(store.teacher_mean),
        losses=losses,
        learning_rate=options.learning_rate,
        device=options.device,
    )
    if options.start:
        known = torch.tensor([speaker not in options.new for speaker in store.speakers])
        training.set_base(base, known, ratio=options.base_ratio)
    if options.state.exists():
        training.load(options.state)
    bands = ContentNetwork(network.settings).bands
    bands.load_state_dict(
        {name.removeprefix("bands."): v for name, v in training.average.items() if name.startswith("bands.")}
    )
    maker = BatchMaker(store, bands, settings=PerturbSettings(), seed=options.seed + training.step)
    with stop_requests() as stop:
        run(training, maker, options, stop)


if __name__ == "__main__":
    main()
