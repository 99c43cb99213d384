"""Whisper's encoder as content ("whisper-ppg"), from OpenAI's files {"dims", "model_state_dict"}.

The network is transformers' WhisperEncoder with the sizes in the file's dims. It was trained on windows of
exactly 30 s: shorter audio is zero-padded, longer audio is encoded in several windows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svcnb.audio.spectral import mel_filters
from svcnb.features.content.waveform import (
    HOP_SAMPLES,
    SAMPLE_RATE_HZ,
    as_waveform,
    build_unfilled,
    import_transformers,
)
from svcnb.files.checkpoint import load_weights, read_checkpoint
from svcnb.files.unpickling import CheckpointError

FFT_SAMPLES, MEL_HOP_SAMPLES = 400, 160
OVERLAP_RATIO = 1 / 6  # of a window: 5 s of 30
FADE_RATIO = 1 / 30  # 1 s of 30
NEEDED_DIMS = ("n_mels", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer")
# (pattern, replacement): OpenAI's names -> those of transformers' WhisperEncoder
OPENAI_NAMES = (
    (r"^encoder\.", ""),
    (r"^positional_embedding$", "embed_positions.weight"),
    (r"^ln_post\.", "layer_norm."),
    (r"^blocks\.(\d+)\.attn_ln\.", r"layers.\1.self_attn_layer_norm."),
    (r"^blocks\.(\d+)\.mlp_ln\.", r"layers.\1.final_layer_norm."),
    (r"^blocks\.(\d+)\.mlp\.0\.", r"layers.\1.fc1."),
    (r"^blocks\.(\d+)\.mlp\.2\.", r"layers.\1.fc2."),
    (r"^blocks\.(\d+)\.attn\.query\.", r"layers.\1.self_attn.q_proj."),
    (r"^blocks\.(\d+)\.attn\.key\.", r"layers.\1.self_attn.k_proj."),
    (r"^blocks\.(\d+)\.attn\.value\.", r"layers.\1.self_attn.v_proj."),
    (r"^blocks\.(\d+)\.attn\.out\.", r"layers.\1.self_attn.out_proj."),
)


class WhisperNetwork(nn.Module):
    """One window of waveform [B, T] -> [B, N, D], N = `window_frames` of 20 ms for any T up to N hops."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.width = encoder.config.d_model
        self.window_frames = encoder.config.max_source_positions
        n_mels = encoder.config.num_mel_bins
        scale = {"sample_rate_hz": SAMPLE_RATE_HZ, "fmin_hz": 0.0, "fmax_hz": None}
        filters = mel_filters(n_fft=FFT_SAMPLES, n_mels=n_mels, **scale)
        self.register_buffer("filters", filters, persistent=False)  # [M, F]
        self.register_buffer("window", torch.hann_window(FFT_SAMPLES), persistent=False)

    def log_mel(self, waveform: Tensor) -> Tensor:
        """Log-mel power [B, M, 2N] of waveform [B, T], zero-padded to a full window.

        log10 power, clipped at 8 below the maximum of the window; then (x + 4) / 4.
        Source: OpenAI's Whisper.
        """
        waveform = F.pad(waveform, (0, self.window_frames * HOP_SAMPLES - waveform.shape[-1]))
        framing = {"n_fft": FFT_SAMPLES, "hop_length": MEL_HOP_SAMPLES, "window": self.window, "center": True}
        spectrum = torch.stft(waveform, **framing, return_complex=True)
        power = spectrum[..., :-1].abs().square()  # [B, F, 2N]
        decades = (self.filters @ power).clamp(min=1e-10).log10()
        return (torch.maximum(decades, decades.amax((1, 2), keepdim=True) - 8) + 4) / 4

    def forward(self, waveform: Tensor) -> Tensor:
        return self.encoder(self.log_mel(waveform)).last_hidden_state


class WhisperEncoder:
    """Whisper's encoder output (after its last norm), 50 frames per second.

    Up to one window (30 s; the file's n_audio_ctx) the values equal the original's. Longer audio is encoded
    in full windows on the 20 ms grid, evenly spaced and overlapping by at least 5 s. In the middle of each
    overlap, where both windows have at least 2 s of further context, the content is cross-faded linearly over
    1 s, without gap or step. (The original drops everything after 30 s.)
    """

    def __init__(self, network: WhisperNetwork, *, name: str) -> None:
        self.network = network.eval().requires_grad_(False)
        self.name = name
        self.width = network.width
        self.hop_samples = HOP_SAMPLES

    @torch.no_grad()
    def encode(self, samples: Tensor | np.ndarray) -> Tensor:
        """float32 [N, D], N = T // 320, at least 1."""
        waveform = as_waveform(samples, self.network.filters.device)
        n_frames, window = max(1, len(waveform) // HOP_SAMPLES), self.network.window_frames
        starts = window_starts(n_frames, window)
        joined = self._window(waveform, starts[0])[:n_frames]
        for previous, start in zip(starts, starts[1:], strict=False):
            joined = _join(joined, self._window(waveform, start), start, n_shared=previous + window - start)
        return joined

    def _window(self, waveform: Tensor, start_frame: int) -> Tensor:
        """Content [N, D] of the full window that starts at a frame."""
        window = waveform[start_frame * HOP_SAMPLES :][: self.network.window_frames * HOP_SAMPLES]
        return self.network(window[None])[0]

    def for_recording(self, *clips: Tensor | np.ndarray) -> WhisperEncoder:
        """Itself: Whisper needs no statistics of the speaker."""
        return self


def window_starts(n_frames: int, window: int) -> list[int]:
    """Start frames of evenly spaced windows that cover a recording; the last one ends at the last frame."""
    if n_frames <= window:
        return [0]
    overlap = round(window * OVERLAP_RATIO)
    n_steps = math.ceil((n_frames - window) / (window - overlap))
    return [(n_frames - window) * i // n_steps for i in range(n_steps + 1)]


def _join(before: Tensor, after: Tensor, start: int, *, n_shared: int) -> Tensor:
    """Cross-fade `before` [N, D] and `after` [W, D] (from frame `start`) in the middle of their overlap."""
    n_fade = max(1, min(n_shared, round(len(after) * FADE_RATIO)))
    first = start + (n_shared - n_fade) // 2
    weight = (torch.arange(n_fade, device=after.device) + 0.5).unsqueeze(1) / n_fade
    faded = (1 - weight) * before[first : first + n_fade] + weight * after[first - start :][:n_fade]
    return torch.cat([before[:first], faded, after[first - start + n_fade :]])


def load_whisper(path: Path, *, name: str) -> WhisperEncoder:
    """Encoder from one of OpenAI's files; the decoder is not used.

    Raises:
        CheckpointError: another kind of file, or weights that do not fit its dims (all differences are
            listed).
    """
    checkpoint = read_checkpoint(path)
    dims, state = checkpoint.get("dims"), checkpoint.get("model_state_dict")
    if (
        not isinstance(dims, dict)
        or not isinstance(state, dict)
        or any(key not in dims for key in NEEDED_DIMS)
    ):
        raise CheckpointError(
            f"{path} has the keys {sorted(map(str, checkpoint))[:6]}, expected 'model_state_dict' and 'dims' with "
            f"{', '.join(NEEDED_DIMS)}, as in OpenAI's Whisper files. Is it another model's?"
        )
    return WhisperEncoder(_network(dims, state), name=name)


def _network(dims: Mapping[str, Any], state: Mapping[str, Tensor]) -> WhisperNetwork:
    first_layer = "encoder.blocks.0.mlp.0.weight"
    if first_layer not in state:
        found = sorted(map(str, state))[:4]
        raise CheckpointError(f"no {first_layer} among the weights, which begin {found}. Is the file whole?")
    config = import_transformers().WhisperConfig(
        num_mel_bins=dims["n_mels"],
        max_source_positions=dims["n_audio_ctx"],
        d_model=dims["n_audio_state"],
        encoder_attention_heads=dims["n_audio_head"],
        encoder_layers=dims["n_audio_layer"],
        encoder_ffn_dim=state[first_layer].shape[0],
    )
    from transformers.models.whisper.modeling_whisper import WhisperEncoder as TransformersEncoder

    encoder = build_unfilled(TransformersEncoder, config)
    load_weights(encoder, {_own_name(name): value for name, value in state.items()}, may_skip=("decoder.",))
    return WhisperNetwork(encoder)


def _own_name(name: str) -> str:
    for pattern, replacement in OPENAI_NAMES:
        name = re.sub(pattern, replacement, name)
    return name
