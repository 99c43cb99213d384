"""Compare the losses, gradients and updates of so-vits-svc's training step with the recordings."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from svcnb import losses
from svcnb.checkpoint import load_weights, to_plain_names
from svcnb.models.discriminators import MultiPeriodDiscriminator
from svcnb.models.layers import slice_segments
from svcnb.models.sovits import SynthesizerTrn, TrainOutput
from svcnb.spectral import MelSpectrogram
from tests.parity_sets.registry import ReferenceSet, Row
from tests.parity_sets.voices import RecordedNoise, formula_weights, has_predictor


class TrainingRun:
    """The original's training step on the set's one batch, with its optimisers."""

    def __init__(self, model: SynthesizerTrn, reference: ReferenceSet) -> None:
        self.model, self.reference = model, reference
        config = reference.config
        self.discriminator = MultiPeriodDiscriminator(config["model"].get("use_spectral_norm", False)).eval()
        load_weights(self.discriminator, formula_weights(self.discriminator, reference, prefix="disc:"))
        data = config["data"]
        self.mel = MelSpectrogram(
            sample_rate_hz=data["sampling_rate"],
            n_fft=data["filter_length"],
            hop_samples=data["hop_length"],
            win_samples=data["win_length"],
            n_mels=data["n_mel_channels"],
            fmin_hz=data["mel_fmin"],
            fmax_hz=data["mel_fmax"],
        )
        self.audio, self.spec = reference.tensor("in/train_y"), reference.tensor("in/train_spec")
        section = config["train"]
        adamw = {"lr": section["learning_rate"], "betas": tuple(section["betas"]), "eps": section["eps"]}
        self.optimizer_g = torch.optim.AdamW(model.parameters(), **adamw)
        self.optimizer_d = torch.optim.AdamW(self.discriminator.parameters(), **adamw)

    def generate(self) -> TrainOutput:
        """Generator forward; keeps the mel and waveform slices that the losses compare."""
        stored, reference = self.reference.tensor, self.reference
        noise = RecordedNoise(*([stored("in/noise_q")] if reference.has("in/noise_q") else []))
        out = self.model(
            stored("in/train_c"),
            stored("in/train_f0"),
            stored("in/train_uv"),
            self.spec,
            stored("in/train_spk"),
            stored("in/train_lengths"),
            stored("in/train_vol") if reference.has("in/train_vol") else None,
            noise=noise,
        )
        frames, hop = self.model.segment_frames, self.model.hop_samples
        self.real_mel = slice_segments(self.mel.project(self.spec), out.slice_start, frames)
        self.fake_mel = self.mel(out.audio)
        self.real = slice_segments(self.audio, out.slice_start * hop, frames * hop)
        return out

    def discriminator_loss(self, out: TrainOutput) -> Tensor:
        real_scores, _ = self.discriminator(self.real)
        fake_scores, _ = self.discriminator(out.audio.detach())
        return losses.discriminator_loss(real_scores, fake_scores)

    def generator_losses(self, out: TrainOutput) -> dict[str, Tensor]:
        """Weighted terms, named as the original logs them."""
        section = self.reference.config["train"]
        with torch.no_grad():
            _, real_maps = self.discriminator(self.real)
        fake_scores, fake_maps = self.discriminator(out.audio)
        terms = {
            "mel": losses.mel_loss(self.real_mel, self.fake_mel) * section["c_mel"],
            "kl": losses.kl_loss(out.z_p, out.logs_q, out.m_p, out.logs_p, out.mask) * section["c_kl"],
            "fm": losses.feature_loss(real_maps, fake_maps),
            "gen": losses.adversarial_loss(fake_scores),
        }
        if out.pred_lf0 is not None:
            terms["lf0"] = losses.lf0_loss(out.pred_lf0, out.lf0)
        return terms

    def gradient_norms(self, total: Tensor) -> dict[str, float]:
        """Norm of every generator parameter's gradient, under all the names it has in checkpoints."""
        self.optimizer_g.zero_grad()
        total.backward()
        named = to_plain_names(dict(self.model.named_parameters(remove_duplicate=False)))
        return {name: 0.0 if p.grad is None else p.grad.double().norm().item() for name, p in named.items()}


def total_norm(module: torch.nn.Module) -> float:
    norms = [p.grad.double().norm() for p in module.parameters() if p.grad is not None]
    return torch.stack(norms).norm().item()


def output_rows(run: TrainingRun, out: TrainOutput) -> Iterator[Row]:
    """Networks' outputs of the first forward pass."""
    reference = run.reference
    latent, waveform = reference.tolerance("latent_abs"), reference.tolerance("waveform_abs")
    mels = {"y_mel": run.real_mel, "y_hat_mel": run.fake_mel}
    for name in ("z", "z_p", "m_p", "logs_p", "m_q", "logs_q", "mask", "lf0", "norm_lf0", "pred_lf0"):
        if reference.has(f"train0/{name}"):
            value = getattr(out, name)
            if "lf0" in name and not has_predictor(run.model):  # the original gives zeros, of whatever shape
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
def discriminator_rows(run: TrainingRun, out: TrainOutput) -> Iterator[Row]:
    """Scores and summaries of the feature maps on the real and the generated segment."""
    reference = run.reference
    tolerance = reference.tolerance("latent_abs")
    for label, waveform in (("real", run.real), ("gen", out.audio)):
        for i, (scores, maps) in enumerate(zip(*run.discriminator(waveform), strict=True)):
            if reference.has(f"disc/{i}_{label}"):
                yield reference.compare(f"disc/{i}_{label}", scores, tolerance)
            if reference.has(f"disc/{i}_fmap_{label}_summary"):
                yield reference.compare(f"disc/{i}_fmap_{label}_summary", [summarise(m) for m in maps], tolerance)


def loss_rows(reference: ReferenceSet, step: str, values: dict[str, float], tolerance: float) -> Iterator[Row]:
    for name, value in values.items():
        if reference.has(f"{step}/{name}"):
            yield reference.compare(f"{step}/{name}", np.float64(value), tolerance, relative=True)


def gradient_rows(run: TrainingRun, norms: dict[str, float]) -> Iterator[Row]:
    """Per-parameter norms; a gradient that is 0 by symmetry (a key's bias) is rounding, compared with the whole."""
    reference = run.reference
    if not reference.has("train0/grad_names"):
        return
    names = [str(name) for name in reference.arrays["train0/grad_names"]]
    theirs = reference.arrays["train0/grad_norms"]
    missing = [name for name in names if name not in norms]
    reference.compared.update({"train0/grad_names", "train0/grad_norms"})
    yield Row("train0/grad_names", float(len(missing)), 0.0, note=", ".join(missing[:3]))
    floor = 1e-6 * np.linalg.norm(theirs)
    gap = np.abs([norms.get(name, np.inf) for name in names] - theirs) / np.maximum(theirs, floor)
    worst = int(gap.argmax())
    yield Row("train0/grad_norms", float(gap[worst]), reference.tolerance("grad_norm_rtol"), True, names[worst])


def training_step(run: TrainingRun, out: TrainOutput) -> dict[str, float]:
    """Discriminator update, then generator update against the new discriminator; the numbers the original logs."""
    loss_d = run.discriminator_loss(out)
    run.optimizer_d.zero_grad()
    loss_d.backward()
    logged = {"loss_disc": loss_d.item(), "grad_norm_d": total_norm(run.discriminator)}
    run.optimizer_d.step()
    terms = run.generator_losses(out)
    total = sum(terms.values())
    run.optimizer_g.zero_grad()
    total.backward()
    logged |= {"loss_fm_afterD": terms["fm"].item(), "loss_gen_afterD": terms["gen"].item()}
    logged |= {"loss_gen_all": total.item(), "grad_norm_g": total_norm(run.model)}
    run.optimizer_g.step()
    return logged


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
        out = run.generate()
        terms = run.generator_losses(out)
        before = {"loss_lf0": 0.0} | {f"loss_{name}": value.item() for name, value in terms.items()}
        if first:
            yield from output_rows(run, out)
            yield from discriminator_rows(run, out)
            norms = run.gradient_norms(sum(terms.values()))
            yield from gradient_rows(run, norms)
            yield from loss_rows(reference, step, {"grad_norm_g_beforeD": total_norm(model)}, norm_rtol)
            out = run.generate()  # its graph was used up
        logged = training_step(run, out)
        before["loss_disc"] = logged.pop("loss_disc")
        yield from loss_rows(reference, step, before, loss_rtol if first else after_rtol)
        norm_d = {"grad_norm_d": logged.pop("grad_norm_d")}
        yield from loss_rows(reference, step, norm_d, norm_rtol if first else after_rtol)
        yield from loss_rows(reference, step, logged, after_rtol)
