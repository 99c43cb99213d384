"""Whole conversions compared with RVC's: our pipeline, with the original's segment boundaries."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from svcnb.features.content.retrieval import FeatureIndex
from svcnb.models.rvc.network import RvcSynthesizer
from svcnb.models.rvc.pipeline import network_inputs
from tests.parity_sets import formula
from tests.parity_sets.registry import ReferenceSet, Row, difference, find_set
from tests.parity_sets.rvc import build_rvc
from tests.parity_sets.rvc_original import (
    PipelineParts,
    PipelineSettings,
    RvcPitch,
    Windows,
    convert_recording,
    to_int16,
)
from tests.parity_sets.voices import RecordedNoise

SPEAKER, INDEX_RATE = 1, 0.75
FULL_SCALE = 32768
# with the recordings' values of protect and rms_mix_rate if a case does not set them
CASES: dict[str, dict] = {
    "plain": {},
    "chunked": {"windows": Windows(query_s=1.0, center_s=3.0, longest_s=4.0)},
    "index": {"protect": 0.33},
    "rms": {"rms_mix_rate": 0.25, "transpose_semitones": 5},
    "protect": {"protect": 0.2},
}


def encode(samples_16k: np.ndarray) -> Tensor:
    """The content encoder of the recordings: frames of 25 ms times a random matrix."""
    matrix = formula.gauss(1, "toyenc256", (256, 400)) / 20
    frames = np.lib.stride_tricks.sliding_window_view(np.asarray(samples_16k, np.float32), 400)[::320]
    return torch.from_numpy((10 * frames) @ matrix.T).float()


def read_index(reference: ReferenceSet) -> FeatureIndex | None:
    paths = sorted(reference.folder.glob("added_*.index"))
    return FeatureIndex.read(paths[0]) if paths else None


def make_parts(model: RvcSynthesizer, index: FeatureIndex | None) -> PipelineParts:
    def infer(content: Tensor, f0_hz: np.ndarray | None) -> np.ndarray:
        inputs = network_inputs(content, f0_hz, torch.device("cpu"))
        out = model.infer(*inputs, torch.tensor([SPEAKER]), noise=RecordedNoise())
        return out.audio[0, 0].numpy()

    blend = None if index is None else lambda content: index.blend(content, 0, INDEX_RATE)
    return PipelineParts(encode, infer, model.settings.sampling_rate, RvcPitch("pm"), blend)


def _is_the_network(other: ReferenceSet) -> bool:
    meta = other.meta
    return (meta["version"], meta["sample_rate"], bool(meta["f0"]), meta["seed"]) == ("v1", 40000, True, 1)


def pipeline_rows(reference: ReferenceSet) -> Iterator[Row]:
    """Two rows per case: the first seconds, and length with loudness."""
    if not reference.has("pipeline/in16k"):
        return
    tolerance = reference.tolerance("end_to_end_abs")
    twin = find_set(reference, "rvc", _is_the_network)
    if twin is None:
        yield Row(
            "pipeline/*",
            float("inf"),
            tolerance,
            note="the rvc set that this one depends on is not beside it",
        )
        return
    model, samples = build_rvc(twin).generator, reference.arrays["pipeline/in16k"]
    reference.compared.add("pipeline/in16k")
    for case, given in CASES.items():
        name = f"pipeline/{case}"
        if not reference.has(name):
            continue
        settings = PipelineSettings(**{"protect": 0.5, "rms_mix_rate": 1.0} | given)
        parts = make_parts(model, read_index(reference) if case == "index" else None)
        ours = to_int16(convert_recording(samples, parts, settings, like_original=True))
        theirs = reference.arrays[name].astype(np.float64) / FULL_SCALE
        reference.compared |= {name, f"{name}_len_rms"}
        yield difference(name, ours[: len(theirs)] / FULL_SCALE, theirs, tolerance)
        n_theirs, rms = reference.arrays[f"{name}_len_rms"]
        yield difference(f"{name} length", [len(ours)], [n_theirs], 0.0)
        own_rms = np.sqrt(np.mean(ours.astype(np.float64) ** 2))
        yield difference(f"{name} rms", [own_rms], [rms], tolerance, relative=True)
        exact = convert_recording(samples, parts, settings)
        wanted = len(samples) * parts.output_hz // 16000
        yield Row(
            f"{name} exactly as long",
            float(abs(len(exact) - wanted)),
            0.0,
            note="ours; the original ends early",
        )
