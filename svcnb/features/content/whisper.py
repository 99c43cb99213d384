"""Whisper's encoder as content ("whisper-ppg"), from OpenAI's files {"dims", "model_state_dict"}.

The network is transformers' WhisperEncoder; its sizes are the file's dims. It was trained on windows of
30 s, always full: shorter sound is followed by silence. Longer sound is heard in several windows.
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
OVERLAP_SHARE = 1 / 6  # of a window: 5 s of 30
FADE_SHARE = 1 / 30  # 1 s of 30
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
    """One window of waveform [B, T] -> [B, N, D], N = `window_frames` of 20 ms, whatever T (at most N hops) is."""

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
        """Log-mel power [B, M, 2N] of waveform [B, T], filled with silence to a full window.

        Powers more than 8 decades below the window's loudest are raised to that; then (x + 4) / 4.
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
    """Whisper's encoder output (after its last norm), 50 frames a second.

    Up to one window (30 s; the file's n_audio_ctx says) the numbers are the original's. Longer sound is
    encoded in full windows on the 20 ms grid, spread evenly and overlapping by 5 s or more. Each seam lies in
    the middle of an overlap, where both windows have heard at least 2 s beyond it, and over 1 s the one fades
    linearly into the other: the content has neither gap nor step. (The original drops what is beyond 30 s.)
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
        """Content [N, D] of the full window that begins at a frame."""
        piece = waveform[start_frame * HOP_SAMPLES :][: self.network.window_frames * HOP_SAMPLES]
        return self.network(piece[None])[0]

    def for_recording(self, *clips: Tensor | np.ndarray) -> WhisperEncoder:
        """Itself: Whisper needs no statistics of the voice."""
        return self


def window_starts(n_frames: int, window: int) -> list[int]:
    """First frames of the windows that cover a recording: evenly spread, the last one ends where the frames do."""
    if n_frames <= window:
        return [0]
    overlap = round(window * OVERLAP_SHARE)
    n_steps = math.ceil((n_frames - window) / (window - overlap))
    return [(n_frames - window) * i // n_steps for i in range(n_steps + 1)]


def _join(before: Tensor, after: Tensor, start: int, *, n_shared: int) -> Tensor:
    """`before` [N, D] and `after` [W, D], which begins at frame `start`, faded in the middle of their shared frames."""
    n_fade = max(1, min(n_shared, round(len(after) * FADE_SHARE)))
    first = start + (n_shared - n_fade) // 2
    share = (torch.arange(n_fade, device=after.device) + 0.5).unsqueeze(1) / n_fade
    faded = (1 - share) * before[first : first + n_fade] + share * after[first - start :][:n_fade]
    return torch.cat([before[:first], faded, after[first - start + n_fade :]])


def load_whisper(path: Path, *, name: str) -> WhisperEncoder:
    """Encoder from one of OpenAI's files; its decoder stays unused.

    Raises:
        CheckpointError: another kind of file, or weights that do not fit its dims (every difference named).
    """
    checkpoint = read_checkpoint(path)
    dims, state = checkpoint.get("dims"), checkpoint.get("model_state_dict")
    if not isinstance(dims, dict) or not isinstance(state, dict) or any(key not in dims for key in NEEDED_DIMS):
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
