"""HuBERT / ContentVec sets: layer outputs with and without the final projection, and the convolutions."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch

from svcnb.features.content.hubert import HubertEncoder, hubert_from_state, stored_heads
from svcnb.files.checkpoint import read_checkpoint
from tests.parity_sets.registry import ReferenceSet, Row, check

LAYER = re.compile(r"^(?P<clip>.+)/layer(?P<layer>\d+)(?P<projected>_final_proj)?$")
CONVOLUTIONS = re.compile(r"^(?P<clip>.+)/conv_features(_every(?P<step>\d+)ch)?$")


@check("hubert")
def check_hubert(reference: ReferenceSet) -> Iterator[Row]:
    state, n_heads = _weights(reference)
    tolerance = reference.tolerance("abs")
    for name in sorted(reference.arrays):
        if match := LAYER.match(name):
            projected = match["projected"] is not None
            network = hubert_from_state(
                state, n_layers=int(match["layer"]), n_heads=n_heads, projected=projected
            )
            ours = HubertEncoder(network, name=name).encode(reference.tensor(f"{match['clip']}/wav"))
            reference.compared.add(f"{match['clip']}/wav")  # an input
            yield reference.compare(name, ours[None], tolerance)
        elif match := CONVOLUTIONS.match(name):
            network = hubert_from_state(state, n_layers=1, n_heads=n_heads)
            with torch.no_grad():
                ours = network.hubert.feature_extractor(reference.tensor(f"{match['clip']}/wav")[None])
            yield reference.compare(name, ours[:, :: int(match["step"] or 1)], tolerance)


def _weights(reference: ReferenceSet) -> tuple[dict[str, torch.Tensor], int | None]:
    """Weights from the stored fairseq file if there is one, else from the formula; and number of heads."""
    stored = sorted(reference.folder.glob("*.pt"))
    n_heads = reference.meta.get("n_heads")
    if not stored:
        return reference.weights(), n_heads
    checkpoint = read_checkpoint(stored[0])
    return checkpoint.get("model", checkpoint), stored_heads(checkpoint) or n_heads
