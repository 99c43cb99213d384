"""Compare losses, gradients and updates of the so-vits training step with the recorded ones."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from svcnb.data.batches import Batch
from svcnb.files.checkpoint import load_weights
from svcnb.models.sovits.config import Config
from svcnb.models.sovits.network import SynthesizerTrn
from svcnb.models.sovits.step import StepParts, generator_terms, run_generator, train_step
from svcnb.nn.discriminators import MultiPeriodDiscriminator
from svcnb.training.losses import GeneratorPass, adversarial_terms, loss_weight
from svcnb.training.settings import TrainSettings
from svcnb.training.state import assemble, make_accelerator
from tests.parity_sets.gradients import gradient_rows
from tests.parity_sets.registry import ReferenceSet, Row
from tests.parity_sets.voices import RecordedNoise, formula_weights, has_predictor


class TrainingRun:
    """The training state with the set's batch, without dropout and with the recorded random numbers."""

    def __init__(self, model: SynthesizerTrn, reference: ReferenceSet) -> None:
        self.model, self.reference = model, reference
        config = Config.load(reference.folder / "config.json", strict=False)
        self.train = config.train
        self.discriminator = MultiPeriodDiscriminator(config.model.use_spectral_norm).eval()
        load_weights(self.discriminator, formula_weights(self.discriminator, reference, prefix="disc:"))
        recorded = [reference.tensor("in/noise_q")] if reference.has("in/noise_q") else []
        self.parts = StepParts(config, noise=RecordedNoise(*recorded))
        self.batch = _batch(reference)
        self.state = assemble(
            model,
            self.discriminator,
            make_optimizer=partial(
                torch.optim.AdamW, lr=self.train.learning_rate, betas=self.train.betas, eps=self.train.eps
            ),
            lr_decay=self.train.lr_decay,
            accelerator=make_accelerator(TrainSettings(device="cpu")),
            extras={"parts": self.parts},
        )

    def generate(self) -> GeneratorPass:
        return run_generator(self.model, self.batch, self.parts)

    def weighted_terms(self, result: GeneratorPass) -> dict[str, Tensor]:
        """Weighted terms before any update, named as the original logs them."""
        terms = generator_terms(result, self.train) | adversarial_terms(self.discriminator, result)
        return {name: loss_weight(name, self.train) * loss for name, loss in terms.items()}

    def total(self) -> Tensor:
        """Total loss of the generator, with the current weights."""
        return sum(self.weighted_terms(self.generate()).values())

    def step(self) -> dict[str, float]:
        """One training step; returns the numbers that the original logs for it."""
        losses = {name: value.item() for name, value in train_step(self.state, self.batch).items()}
        return {
            "loss_disc": losses["disc"],
            "grad_norm_d": total_norm(self.discriminator),
            "loss_fm_afterD": losses["fm"],
            "loss_gen_afterD": losses["gen"],
            "loss_gen_all": losses["total"],
            "grad_norm_g": total_norm(self.model),
        }


def _batch(reference: ReferenceSet) -> Batch:
    stored = reference.tensor
    return Batch(
        content=stored("in/train_c"),
        f0_hz=stored("in/train_f0"),
        voiced=stored("in/train_uv"),
        audio=stored("in/train_y"),
        speaker=stored("in/train_spk"),
        lengths=stored("in/train_lengths"),
        volume=stored("in/train_vol") if reference.has("in/train_vol") else None,
        spec=stored("in/train_spec"),
    )


def total_norm(module: torch.nn.Module) -> float:
    norms = [p.grad.double().norm() for p in module.parameters() if p.grad is not None]
    return torch.stack(norms).norm().item()


def output_rows(run: TrainingRun, result: GeneratorPass) -> Iterator[Row]:
    """Outputs of the networks in the first forward pass."""
    reference, out = run.reference, result.out
    latent, waveform = reference.tolerance("latent_abs"), reference.tolerance("waveform_abs")
    mels = {"y_mel": result.target_mel, "y_hat_mel": result.fake_mel}
    for name in ("z", "z_p", "m_p", "logs_p", "m_q", "logs_q", "mask", "lf0", "norm_lf0", "pred_lf0"):
        if reference.has(f"train0/{name}"):
            value = getattr(out, name)
            if "lf0" in name and not has_predictor(run.model):  # the original returns zeros of some shape
                value = np.zeros_like(reference.arrays[f"train0/{name}"])
            yield reference.compare(f"train0/{name}", value, latent)
    for name, value in mels.items():
        if reference.has(f"train0/{name}"):
            yield reference.compare(f"train0/{name}", value, waveform)
    if reference.has("train0/y_hat"):
        yield reference.compare("train0/y_hat", out.audio, waveform)
    if reference.has("train0/ids_slice"):
        yield reference.compare("train0/ids_slice", out.slice_start, 0.0)


def summarise(feature_map: Tensor) -> list[float]:
    x = feature_map.double()
    return [x.mean().item(), x.abs().mean().item(), x.square().mean().sqrt().item(), x.abs().max().item()]


@torch.no_grad()
def discriminator_rows(run: TrainingRun, result: GeneratorPass) -> Iterator[Row]:
    """Scores and summaries of the feature maps on the real and the generated segment."""
    reference = run.reference
    tolerance = reference.tolerance("latent_abs")
    for label, waveform in (("real", result.target_audio), ("gen", result.out.audio)):
        for i, (scores, maps) in enumerate(zip(*run.discriminator(waveform), strict=True)):
            if reference.has(f"disc/{i}_{label}"):
                yield reference.compare(f"disc/{i}_{label}", scores, tolerance)
            if reference.has(f"disc/{i}_fmap_{label}_summary"):
                yield reference.compare(
                    f"disc/{i}_fmap_{label}_summary", [summarise(m) for m in maps], tolerance
                )


def loss_rows(
    reference: ReferenceSet, step: str, values: dict[str, float], tolerance: float
) -> Iterator[Row]:
    for name, value in values.items():
        if reference.has(f"{step}/{name}"):
            yield reference.compare(f"{step}/{name}", np.float64(value), tolerance, relative=True)


def training_rows(model: SynthesizerTrn, reference: ReferenceSet) -> Iterator[Row]:
    if not reference.has("in/train_c"):
        return
    run = TrainingRun(model, reference)
    loss_rtol, norm_rtol = reference.tolerance("loss_rtol"), reference.tolerance("grad_norm_rtol")
    after_rtol = reference.tolerance("after_step_rtol")
    for step in ("train0", "train1"):
        if not any(name.startswith(step) for name in reference.arrays):
            return
        first = step == "train0"
        result = run.generate()
        terms = run.weighted_terms(result)
        before = {"loss_lf0": 0.0} | {f"loss_{name}": value.item() for name, value in terms.items()}
        if first:
            yield from output_rows(run, result)
            yield from discriminator_rows(run, result)
            yield from gradient_rows(model, sum(terms.values()), run.total, reference)
            yield from loss_rows(reference, step, {"grad_norm_g_beforeD": total_norm(model)}, norm_rtol)
        logged = run.step()
        before["loss_disc"] = logged.pop("loss_disc")
        yield from loss_rows(reference, step, before, loss_rtol if first else after_rtol)
        norm_d = {"grad_norm_d": logged.pop("grad_norm_d")}
        yield from loss_rows(reference, step, norm_d, norm_rtol if first else after_rtol)
        yield from loss_rows(reference, step, logged, after_rtol)
