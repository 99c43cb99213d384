"""Build the so-vits-svc networks of a set, with its weights and the random numbers of its recordings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from svcnb.files.checkpoint import load_weights, to_plain_names
from svcnb.models.sovits.checkpoint import read_sovits_checkpoint
from svcnb.models.sovits.network import SynthesizerTrn
from svcnb.nn.layers import Noise
from tests.parity_sets.registry import ReferenceSet, Row


class RecordedNoise(Noise):
    """Random numbers of the recordings: a recorded array if one has the shape, else the neutral value."""

    def __init__(self, *recorded: Tensor) -> None:
        super().__init__()
        self.recorded = {tuple(array.shape): array for array in recorded}

    def normal(self, shape: tuple[int, ...], *, like: Tensor) -> Tensor:
        return self.recorded.get(tuple(shape), torch.zeros(shape)).to(like)

    def uniform(self, shape: tuple[int, ...], *, like: Tensor) -> Tensor:
        return torch.zeros(shape).to(like)

    def segment_uniform(self, n_items: int, *, like: Tensor) -> Tensor:
        return torch.full((n_items,), 0.5).to(like)

    def pitch_factor(self, n_items: int, *, like: Tensor) -> Tensor:
        return torch.ones(n_items, 1).to(like)


@contextmanager
def recording_threads() -> Iterator[None]:
    """Two threads, as in the recordings: the order of a convolution's sums depends on their number.

    The posterior's first convolution adds 1025 magnitudes of up to 150 per output; with one thread its
    latents change by 2.6e-5, more than the tolerance and as much as the error of the recorded ones (checked
    in
    float64).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def formula_weights(
    module: torch.nn.Module, reference: ReferenceSet, *, prefix: str = ""
) -> dict[str, Tensor]:
    """State dict with plain names for `module`: the formula's values; fixed buffers are unchanged.

    If several names share one tensor, the last one in keys.txt is used, as the recording wrote them in this
    order.
    """
    own = to_plain_names(module.state_dict(keep_vars=True))
    order = [name for name in reference.keys if name in own] if not prefix else list(own)
    shapes = {name: tuple(own[name].shape) for name in order}
    made = reference.weights(shapes, prefix=prefix)
    last_of_tensor = {id(own[name]): name for name in order if name in made}
    return {
        name: made.get(last_of_tensor.get(id(value), name), value.detach()) for name, value in own.items()
    }


def build_generator(reference: ReferenceSet) -> SynthesizerTrn:
    """The set's network in eval mode, weights from a stored G_*.pth, else from the formula."""
    config = reference.config
    model = SynthesizerTrn(
        config["data"]["filter_length"] // 2 + 1,
        config["train"]["segment_size"] // config["data"]["hop_length"],
        version=reference.meta.get("version", "4.1"),
        **config["model"],
    )
    stored = sorted(reference.folder.glob("G_*.pth"))
    if stored:
        state = read_sovits_checkpoint(stored[0]).model
    else:
        state = formula_weights(model, reference)
        state["dec.conv_post.weight_g"] = state["dec.conv_post.weight_g"] * reference.meta.get(
            "post_gain", 1.0
        )
    load_weights(model, state)
    return model.eval()


def key_rows(module: torch.nn.Module, reference: ReferenceSet) -> Iterator[Row]:
    """Compare names and shapes of our state dict with keys.txt."""
    ours = {name: tuple(value.shape) for name, value in to_plain_names(module.state_dict()).items()}
    wrong = sorted(
        name for name in ours.keys() | reference.keys.keys() if ours.get(name) != reference.keys.get(name)
    )
    note = f"differ: {', '.join(wrong[:5])}" if wrong else ""
    if not wrong and list(ours) != list(reference.keys):
        note = "same names, other order"
    yield Row("keys.txt", float(len(wrong)), 0.0, note=note)
    if reference.has("meta/param_count"):
        yield reference.compare("meta/param_count", sum(p.numel() for p in module.parameters()), 0.0)


def has_predictor(model: SynthesizerTrn) -> bool:
    return model.settings.use_automatic_f0_prediction
