"""Compare the gradient norm of every parameter with the recorded one, also near kinks of the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from svcnb.files.checkpoint import to_plain_names
from tests.parity_sets.registry import ReferenceSet, Row

N_KINKS = 8  # number of perturbed weights that are tried
ROUNDING = 2.0**-24  # of a float32, relative


def gradient_norms(model: nn.Module, total: Tensor) -> dict[str, float]:
    """Norm of every parameter's gradient, under all its names in checkpoints."""
    model.zero_grad()
    total.backward()
    named = to_plain_names(dict(model.named_parameters(remove_duplicate=False)))
    return {name: 0.0 if p.grad is None else p.grad.double().norm().item() for name, p in named.items()}


def gradient_rows(
    model: nn.Module, total: Tensor, compute: Callable[[], Tensor], reference: ReferenceSet
) -> Iterator[Row]:
    """Per-parameter gradient norms of a total loss.

    A gradient that is 0 by symmetry (a key's bias) is rounding, and is compared relative to the norm of all.
    Leaky ReLUs and absolute differences have kinks, where the gradient jumps. On which side of its kink a
    unit is can depend on the processor's rounding, and one such unit changes a bias's gradient by 1e-3. So if
    the norms differ, weights perturbed by float32 rounding are tried as well (`compute` gives the total with
    the current weights), and one of them has to agree in all parameters at once; `model` is left with the
    gradient of the unchanged weights.
    """
    if not reference.has("train0/grad_names"):
        return
    names = [str(name) for name in reference.arrays["train0/grad_names"]]
    theirs = reference.arrays["train0/grad_norms"]
    reference.compared.update({"train0/grad_names", "train0/grad_norms"})
    norms = gradient_norms(model, total)
    missing = sorted(set(names) ^ set(norms))
    yield Row("train0/grad_names", float(len(missing)), 0.0, note=", ".join(missing[:3]))
    rtol = reference.tolerance("grad_norm_rtol")
    row = _compare(norms, names, theirs, rtol)
    if not row.passed:
        tried = [_compare(norms, names, theirs, rtol) for norms in _beside_kinks(model, compute)]
        row = min([row, *tried], key=lambda row: row.deviation)
        gradient_norms(model, compute())
    yield row


def _compare(norms: dict[str, float], names: list[str], theirs: np.ndarray, rtol: float) -> Row:
    floor = 1e-6 * np.linalg.norm(theirs)
    gap = np.abs([norms.get(name, np.inf) for name in names] - theirs) / np.maximum(theirs, floor)
    worst = int(gap.argmax())
    return Row("train0/grad_norms", float(gap[worst]), rtol, True, names[worst])


def _beside_kinks(model: nn.Module, compute: Callable[[], Tensor]) -> Iterator[dict[str, float]]:
    """Norms at weights perturbed by rounding; the weights are restored afterwards."""
    draws = torch.Generator().manual_seed(0)
    kept = [p.detach().clone() for p in model.parameters()]
    for _ in range(N_KINKS):
        with torch.no_grad():
            for p, value in zip(model.parameters(), kept, strict=True):
                p.copy_(value * (1 + ROUNDING * torch.randn(value.shape, generator=draws)))
        yield gradient_norms(model, compute())
    with torch.no_grad():
        for p, value in zip(model.parameters(), kept, strict=True):
            p.copy_(value)
