"""Compare the gradient of every parameter with the recorded norms, kinks of the networks included."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from svcnb.files.checkpoint import to_plain_names
from tests.parity_sets.registry import ReferenceSet, Row

N_KINKS = 8  # other sides of kinks that are tried
ROUNDING = 2.0**-24  # of a float32, relative


def gradient_norms(model: nn.Module, total: Tensor) -> dict[str, float]:
    """Norm of every parameter's gradient, under all the names it has in checkpoints."""
    model.zero_grad()
    total.backward()
    named = to_plain_names(dict(model.named_parameters(remove_duplicate=False)))
    return {name: 0.0 if p.grad is None else p.grad.double().norm().item() for name, p in named.items()}


def gradient_rows(
    model: nn.Module, total: Tensor, compute: Callable[[], Tensor], reference: ReferenceSet
) -> Iterator[Row]:
    """Per-parameter norms of a total loss; one that is 0 by symmetry (a key's bias) is rounding, compared with the whole.

    Leaky rectifiers and absolute differences have kinks, where the gradient jumps. Which side a unit that lies on its
    kink falls is decided by the processor's rounding, and one such unit moves a bias by 1e-3. So where the norms are
    off, weights that differ from these by a float32's rounding are tried as well (`compute` is the total with the weights
    of the moment), and one of them has to agree in all parameters at once; `model` is left with the gradient of the
    unchanged weights.
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
    """Norms at weights moved by rounding; afterwards the weights are as before."""
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
