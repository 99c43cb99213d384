"""Train the learned content encoder.

    python -m pretrain.make_encoder DATA STATE [--minutes 120] [--steps 4000] [--start FILE --new SPEAKERS] [--device cuda]

DATA is the folder that pretrain.make_encoder_data filled; STATE a file that is written every two minutes: the
same call goes on from there. The average of the weights over the last steps is written beside it, as
STATE with the ending .safetensors, ready for svcnb. --start goes on from such a file, and keeps near what it
gives for all speakers but the new ones; what is written then is the mean of the earlier weights and the new.
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
COOL_SHARE = 0.3  # of all steps: the learning rate falls to 0
AVERAGE = 0.998  # of the weights, per step
SAVE_S, REPORT_S = 120.0, 30.0


class EncoderTraining:
    """The networks, the optimiser and the count of steps: everything that a state file holds."""

    def __init__(self, network: ContentNetwork, speakers: list[str], n_heard: int, *, losses: LossSettings, learning_rate: float, device: str) -> None:
        self.network, self.speakers, self.device = network.to(device), speakers, device
        self.heads = TrainingHeads(network, len(speakers), n_heard).to(device)
        self.average = {name: value.detach().clone() for name, value in network.state_dict().items()}
        self.losses = EncoderLosses(network, self.heads, losses)
        self.learning_rate = learning_rate
        self.optimizer = torch.optim.AdamW(self.losses.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.02)
        self.halves = _halves_are_quick(device)
        self.step = 0
        self.former: dict[str, torch.Tensor] = {}
        self.former_share = 0.0

    def go_on_from(self, former: ContentNetwork, known: torch.Tensor, *, share: float) -> None:
        """Keep near an earlier encoder for the speakers it knows, bool [S], and write weights that are `share` its own."""
        self.losses.hold_to(former, known)
        self.former, self.former_share = former.state_dict(), share

    def train_step(self, batch: Batch, n_steps: int) -> dict[str, float]:
        """One update; the loss terms."""
        cooling = (n_steps - self.step) / (COOL_SHARE * n_steps)
        rate = self.learning_rate * max(0.0, min(1.0, (self.step + 1) / WARM_STEPS, cooling))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        generator = torch.Generator().manual_seed(self.step)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.halves):
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

    def written(self) -> dict[str, torch.Tensor]:
        """The weights for svcnb: the average over steps, on the way back to the earlier encoder as far as asked.

        Source: Wortsman et al. 2022 (WiSE-FT): between the two, unheard voices are understood better than by either.
        """
        if not self.former:
            return self.average
        return {name: value.lerp(self.former[name].to(value.device), self.former_share) for name, value in self.average.items()}

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
        averaged.load_state_dict(self.written())
        save_network(averaged, path.with_suffix(".safetensors"), metadata={**metadata, "steps": self.step})

    def load(self, path: Path) -> None:
        """Go on from a state; the heads that know the speakers start anew where other speakers are in the data."""
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
        print(f"the data has {len(self.speakers)} speakers, the state {len(state['speakers'])}: the optimiser starts anew")


@torch.no_grad()
def learn_average_reader(network: ContentNetwork, store: ClipStore, *, n_clips: int = 100) -> None:
    """The prior of the band statistics: means over clips spread over the data."""
    found = []
    for clip in store.clips[:: max(1, len(store.clips) // n_clips)]:
        waveform = torch.from_numpy(clip["samples"].astype(np.float32) / 32768)[None]
        statistics = network.bands.statistics(network.bands.power(waveform))
        found.append(torch.stack([statistics.mean[0], statistics.spread[0]]))
    mean, spread = torch.stack(found).mean(0)
    network.bands.mean.copy_(mean)
    network.bands.spread.copy_(spread)


def _halves_are_quick(device: str) -> bool:
    """Where a processor has no instructions for them, half-precision products take a hundred times as long."""
    known = getattr(torch.cpu, "get_capabilities", dict)()
    return device != "cpu" or bool(known.get("avx512_bf16"))


def _moved(batch: Batch, device: str) -> Batch:
    return batch if device == "cpu" else Batch(**{name: value.to(device) for name, value in vars(batch).items()})


def _report(step: int, n_steps: int, seconds_left: float, recent: dict[str, list[float]]) -> str:
    figures = ", ".join(f"{name} {np.mean(values):.3f}" for name, values in recent.items())
    return f"step {step} of {n_steps}, {seconds_left / 60:.0f} minutes left: {figures}"


def run(training: EncoderTraining, maker: BatchMaker, options: argparse.Namespace, stop: threading.Event) -> None:
    """Steps until the minutes or the steps are over, or a wish to stop; the state is saved in any case."""
    shares = maker.store.shares(options.synthetic_share)
    metadata = {"data": options.attribution, "losses": asdict(training.losses.settings), "perturbation": asdict(maker.settings)}
    recent: dict[str, list[float]] = defaultdict(list)
    started = saved = reported = time.monotonic()
    first_step = training.step
    while training.step < options.steps and time.monotonic() - started < options.minutes * 60 and not stop.is_set():
        losses = training.train_step(maker.draw(options.clips, options.seconds, shares), options.steps)
        for name, value in losses.items():
            recent[name].append(value)
        now = time.monotonic()
        if now - reported > REPORT_S:
            per_step = (now - started) / (training.step - first_step)
            left = min((options.steps - training.step) * per_step, options.minutes * 60 - (now - started))
            print(_report(training.step, options.steps, left, recent), flush=True)
            with options.state.with_suffix(".jsonl").open("a") as log:
                means = {name: round(float(np.mean(values)), 4) for name, values in recent.items()}
                log.write(json.dumps({"step": training.step, "seconds": round(now - started), **means}) + "\n")
            recent.clear()
            reported = now
        if now - saved > SAVE_S:
            training.save(options.state, metadata)
            saved = now
    training.save(options.state, metadata)
    print(f"{options.state}: step {training.step}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("state", type=Path)
    parser.add_argument("--minutes", type=float, default=120.0, help="of this call")
    parser.add_argument("--steps", type=int, default=4000, help="in all; the learning rate falls to 0 over the last third")
    parser.add_argument("--start", type=Path, help="an earlier encoder to go on from, and to keep near")
    parser.add_argument("--new", nargs="*", default=[], help="speakers that the earlier encoder need not be right about")
    parser.add_argument("--former-share", type=float, default=0.5, help="of --start in the weights that are written")
    parser.add_argument("--clips", type=int, default=6, help="per step; each is seen as two voices")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each")
    parser.add_argument("--synthetic-share", type=float, default=0.4, help="of the synthesisers' speech in a batch")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    for name, default in asdict(LossSettings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    parser.add_argument("--attribution", default="", help="of the data, for the file's metadata")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    store = ClipStore(options.data)
    print(f"{len(store.clips)} clips, {store.n_seconds.sum() / 60:.0f} minutes, {len(store.speakers)} speakers")
    if options.start:
        network, former = load_network(options.start), load_network(options.start).to(options.device)
    else:
        network = ContentNetwork(ContentNetworkSettings())
        learn_average_reader(network, store)
    losses = LossSettings(**{name: getattr(options, name) for name in asdict(LossSettings())})
    training = EncoderTraining(network, store.speakers, len(store.heard_mean), losses=losses, learning_rate=options.learning_rate, device=options.device)
    if options.start:
        known = torch.tensor([speaker not in options.new for speaker in store.speakers])
        training.go_on_from(former, known, share=options.former_share)
    if options.state.exists():
        training.load(options.state)
    bands = ContentNetwork(network.settings).bands
    bands.load_state_dict({name.removeprefix("bands."): v for name, v in training.average.items() if name.startswith("bands.")})
    maker = BatchMaker(store, bands, settings=PerturbSettings(), seed=options.seed + training.step)
    with stop_requests() as stop:
        run(training, maker, options, stop)


if __name__ == "__main__":
    main()
