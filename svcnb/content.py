"""Content encoders: what is said or sung, 50 frames a second, with as little of the voice as possible.

One table. A new encoder is a new row, and a `load` function only where its network is a new one. Files
made with fairseq load without fairseq.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svcnb import MissingExtra, SvcError
from svcnb.checkpoint import CheckpointError, load_weights, read_checkpoint, to_plain_names
from svcnb.downloads import find_weights, has_weights
from svcnb.learned_units import LearnedUnits, load_network
from svcnb.soft_units import SoftUnitNetwork, SoftUnits
from svcnb.torchaudio_parts import ensure_torchaudio

SAMPLE_RATE_HZ = 16000
HEAD_WIDTH = 64  # of every published HuBERT; a file's own config is believed first
EXPAND_MODES = ("left", "nearest", "linear")


class ContentError(SvcError):
    """An encoder that is unknown, absent, or does not belong to the voice."""


class ContentEncoder(Protocol):
    """What every encoder offers; samples are mono at 16 kHz."""

    name: str
    width: int
    hop_samples: int
    network: nn.Module

    def encode(self, samples: Tensor | np.ndarray) -> Tensor:
        """float32 [N, D] of samples [T], on the encoder's device."""

    def for_recording(self, *clips: Tensor | np.ndarray) -> ContentEncoder:
        """The encoder bound to the statistics of one voice's recordings; itself where it needs none."""


def align_to_frames(features: Tensor, n_frames: int, *, mode: str = "nearest") -> Tensor:
    """Stretch content features to the acoustic frame grid.

    Args:
        features: float32 [D, N_in], usually 50 frames per second.
        n_frames: wanted length, at least 1; normally T // hop_samples.
        mode: "nearest" repeats frames, "left" likewise but never skips one (with more frames than wanted it
            keeps the first ones), "linear" interpolates; use what the checkpoint was trained with.

    Returns:
        float32 [D, n_frames], same device.

    Raises:
        ValueError: empty features, n_frames < 1 (the message gives both numbers), or an unknown mode.

    Source: so-vits-svc 4.1, config key data.unit_interpolate_mode.
    """
    if mode not in EXPAND_MODES:
        raise ValueError(f"unit_interpolate_mode is {mode!r}, expected one of {', '.join(EXPAND_MODES)}")
    if features.ndim != 2 or not features.shape[1] or n_frames < 1:
        raise ValueError(f"cannot stretch features of shape {tuple(features.shape)} to {n_frames} frames; both need one frame")
    if mode == "linear":
        return F.interpolate(features[None], size=n_frames, mode="linear")[0]
    n_in = features.shape[1]
    if mode == "left" and n_in > n_frames:
        return features[:, :n_frames]
    # whole numbers: the original's float comparisons for "left" differ from this in ties only
    return features[:, torch.arange(n_frames, device=features.device) * n_in // n_frames]


# The table -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EncoderRow:
    """One encoder. `layer`: transformer layers that are run (1-based, no norm after the last);
    `projected`: the file's final projection follows; `padding_samples`: zeros put at each end."""

    name: str
    weights: str  # name in downloads.WEIGHTS
    width: int
    load: Callable[[EncoderRow, Path], ContentEncoder]
    layer: int = 0
    projected: bool = False
    padding_samples: int = 0
    hop_samples: int = 320
    note: str = ""


def _load_hubert_row(row: EncoderRow, path: Path) -> HubertEncoder:
    checkpoint = read_checkpoint(path)
    network = hubert_from_state(
        checkpoint.get("model", checkpoint), n_layers=row.layer, n_heads=stored_heads(checkpoint), projected=row.projected
    )
    return HubertEncoder(network, name=row.name, padding_samples=row.padding_samples)


def _load_soft_units(row: EncoderRow, path: Path) -> SoftUnits:
    return SoftUnits(SoftUnitNetwork.load(path))


def _load_learned_units(row: EncoderRow, path: Path) -> LearnedUnits:
    return LearnedUnits(load_network(path))


ENCODERS: dict[str, EncoderRow] = {
    row.name: row
    for row in (
        EncoderRow(
            "vec768l12", "contentvec", 768, _load_hubert_row, layer=12, note="ContentVec; the default of so-vits-svc 4.1, and RVC v2's"
        ),
        EncoderRow(
            "vec256l9", "contentvec", 256, _load_hubert_row, layer=9, projected=True, note="ContentVec; so-vits-svc 4.0 and RVC v1"
        ),
        # 40 samples = (400 - 320) / 2: as many frames as hops
        EncoderRow(
            "hubertsoft", "hubert-soft", 256, _load_hubert_row, layer=12, projected=True, padding_samples=40, note="soft speech units"
        ),
        EncoderRow("svcnb-units", "svcnb-units", 96, _load_learned_units, note="bundled and learned (from English), needs no download"),
        EncoderRow("soft-units", "soft-units", 200, _load_soft_units, note="bundled, not learned: no language at all; understands less"),
    )
}


def load_encoder(name: str = "auto", *, folder: str | Path = Path("pretrain"), device: str | torch.device = "cpu") -> ContentEncoder:
    """The encoder of that name with its weights from `folder`; "auto" takes the best one that is there.

    Raises:
        ContentError: unknown name. SvcError: weights absent (the message names the file) or unusable.
    """
    row = ENCODERS[resolve_encoder(name, folder)]
    encoder = row.load(row, find_weights(row.weights, folder))
    encoder.network.to(device)
    return encoder


def resolve_encoder(name: str, folder: str | Path = Path("pretrain")) -> str:
    """The name itself if it is in the table; "auto": vec768l12 where its file is in `folder`, else svcnb-units."""
    if name == "auto":
        return "vec768l12" if has_weights("contentvec", folder) else "svcnb-units"
    if name not in ENCODERS:
        raise ContentError(f"speech encoder {name!r} is not known, expected auto or one of {', '.join(ENCODERS)}.")
    return name


def encoder_for_width(ssl_dim: int, speech_encoder: str | None = None) -> str:
    """The encoder of a voice: as its config says or, where it says nothing (4.0), by the content width.

    256 without a name is taken for vec256l9, as so-vits-svc 4.0 knew no other.
    """
    fitting = [row.name for row in ENCODERS.values() if row.width == ssl_dim]
    if speech_encoder is None and fitting:
        return fitting[0]
    if speech_encoder is None:
        widths = sorted({row.width for row in ENCODERS.values()})
        raise ContentError(f"ssl_dim is {ssl_dim}, expected one of {widths}: no known encoder gives that width.")
    name = resolve_encoder(speech_encoder)
    if name not in fitting:
        raise ContentError(
            f"the config names {name} ({ENCODERS[name].width} values per frame) but ssl_dim is {ssl_dim}. "
            f"Set speech_encoder to {' or '.join(fitting) or 'the encoder it was trained with'}."
        )
    return name


# HuBERT --------------------------------------------------------------------------------------------

# (pattern, replacement): names in the file -> names in transformers' HubertModel
FAIRSEQ_NAMES = (
    (r"^feature_extractor\.conv_layers\.(\d+)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
    (r"^feature_extractor\.conv_layers\.0\.2\.", "feature_extractor.conv_layers.0.layer_norm."),
    (r"^layer_norm\.", "feature_projection.layer_norm."),
    (r"^post_extract_proj\.", "feature_projection.projection."),
    (r"^encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.conv."),
    (r"\.self_attn\.", ".attention."),
    (r"\.self_attn_layer_norm\.", ".layer_norm."),
    (r"\.fc1\.", ".feed_forward.intermediate_dense."),
    (r"\.fc2\.", ".feed_forward.output_dense."),
)
SOFT_NAMES = (
    (r"^feature_extractor\.conv(\d+)\.", r"feature_extractor.conv_layers.\1.conv."),
    (r"^feature_extractor\.norm0\.", "feature_extractor.conv_layers.0.layer_norm."),
    (r"^feature_projection\.norm\.", "feature_projection.layer_norm."),
    (r"^positional_embedding\.conv\.", "encoder.pos_conv_embed.conv."),
    (r"^norm\.", "encoder.layer_norm."),
    (r"^proj\.", "final_proj."),
    (r"\.self_attn\.", ".attention."),
    (r"\.linear1\.", ".feed_forward.intermediate_dense."),
    (r"\.linear2\.", ".feed_forward.output_dense."),
    (r"\.norm1\.", ".layer_norm."),
    (r"\.norm2\.", ".final_layer_norm."),
)
TRAINING_ONLY = ("mask_emb", "label_embs_concat", "masked_spec_embed", "label_embedding.")


class HubertNetwork(nn.Module):
    """HuBERT's convolutions and first layers, then the projection where the encoder has one."""

    def __init__(self, hubert: nn.Module, projection: nn.Linear | None) -> None:
        super().__init__()
        self.hubert = hubert
        self.projection = projection

    def conv_features(self, waveform: Tensor) -> Tensor:
        """[B, T] -> [B, C, N]: the convolutions' output, N = (T - 400) // 320 + 1 for the usual kernels."""
        return self.hubert.feature_extractor(waveform)

    def forward(self, waveform: Tensor) -> Tensor:
        content = self.hubert(waveform).last_hidden_state  # [B, N, D]
        return content if self.projection is None else self.projection(content)


class HubertEncoder:
    """ContentVec, HuBERT and hubert-soft: float32 on every device, the waveform is taken as it is.

    Memory grows with the length (about 1 GB for 10 s with the base model, weights included); conversion
    cuts pieces of at most 30 s. Clips are encoded one by one: the group norm over time mixes padding in.
    """

    def __init__(self, network: HubertNetwork, *, name: str, padding_samples: int = 0) -> None:
        config = network.hubert.config
        self.network = network.eval().requires_grad_(False)
        self.name = name
        self.padding_samples = padding_samples
        self.width = network.projection.out_features if network.projection else config.hidden_size
        self.hop_samples = int(np.prod(config.conv_stride))
        self.shortest_samples = 1  # 400 with the usual kernels
        for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
            self.shortest_samples = (self.shortest_samples - 1) * stride + kernel

    @torch.no_grad()
    def encode(self, samples: Tensor | np.ndarray) -> Tensor:
        """float32 [N, D], N = (T + 2 * padding - 400) // 320 + 1; shorter input is filled up to one frame."""
        device = next(self.network.parameters()).device
        waveform = torch.as_tensor(samples, dtype=torch.float32, device=device)
        if waveform.ndim != 1 or not len(waveform):
            raise ValueError(f"samples have shape {tuple(waveform.shape)}, expected [T] with at least one sample")
        waveform = F.pad(waveform, (self.padding_samples, self.padding_samples))
        waveform = F.pad(waveform, (0, max(0, self.shortest_samples - len(waveform))))
        return self.network(waveform[None])[0]

    def for_recording(self, *clips: Tensor | np.ndarray) -> HubertEncoder:
        """Itself: HuBERT needs no statistics of the voice."""
        return self


def stored_heads(checkpoint: Mapping[str, Any]) -> int | None:
    """The number of attention heads in a fairseq file's cfg (newer) or args (older); None if it has neither."""
    cfg, args = checkpoint.get("cfg"), checkpoint.get("args")
    settings = (cfg.get("model") if isinstance(cfg, dict) else None) or args
    return settings.get("encoder_attention_heads") if isinstance(settings, dict) else None


def hubert_from_state(
    state: Mapping[str, Tensor], *, n_layers: int = 0, n_heads: int | None = None, projected: bool = False
) -> HubertNetwork:
    """Build HuBERT in the sizes of a state dict and load it, strictly.

    Args:
        state: fairseq's names, or hubert-soft's (with or without "module." in front).
        n_layers: transformer layers to build; 0 builds all that are stored.
        n_heads: attention heads, which the sizes do not tell; width / 64 when None.
        projected: with the final projection.
    """
    state = _common_names(state)
    stored_layers = len({name.split(".")[2] for name in state if name.startswith("encoder.layers.")})
    if n_layers > stored_layers:
        raise CheckpointError(f"the file has {stored_layers} transformer layers, the encoder needs {n_layers}: another model?")
    config = _hubert_config(state, n_layers=n_layers or stored_layers, n_heads=n_heads)
    hubert = _transformers().HubertModel(config)
    beyond = tuple(f"encoder.layers.{i}." for i in range(config.num_hidden_layers, stored_layers))
    load_weights(hubert, state, may_skip=(*beyond, "final_proj.", *TRAINING_ONLY))
    projection = None
    if projected:
        if "final_proj.weight" not in state:
            raise CheckpointError("the file has no final projection (final_proj or proj): another model?")
        width_out, width_in = state["final_proj.weight"].shape
        projection = nn.Linear(width_in, width_out)
        load_weights(projection, {n.removeprefix("final_proj."): v for n, v in state.items() if n.startswith("final_proj.")})
    return HubertNetwork(hubert, projection).eval()


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise MissingExtra('HuBERT-like encoders need transformers: pip install "svcnb[content]"') from error
    if importlib.util.find_spec("torchaudio"):
        ensure_torchaudio()  # transformers imports it where it is installed, whether it fits this torch or not
    return transformers


def _common_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state under transformers' names, with a joint q/k/v projection split in three."""
    state = {name.removeprefix("module."): value for name, value in to_plain_names(state).items()}
    soft, fairseq = "positional_embedding.conv.weight_v" in state, "encoder.pos_conv.0.weight_v" in state
    if not (soft or fairseq):
        raise CheckpointError(f"no HuBERT weights: the tensors begin {sorted(map(str, state))[:4]}. Is it another model's file?")
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        for pattern, replacement in SOFT_NAMES if soft else FAIRSEQ_NAMES:
            name = re.sub(pattern, replacement, name)
        if ".in_proj_" in name:
            parts = zip(("q_proj.", "k_proj.", "v_proj."), value.chunk(3), strict=True)
            renamed |= {name.replace("in_proj_", part): third for part, third in parts}
        else:
            renamed[name] = value
    if "feature_projection.projection.weight" not in renamed:  # fairseq leaves it out between equal widths
        width = renamed["feature_projection.layer_norm.weight"].shape[0]
        renamed["feature_projection.projection.weight"] = torch.eye(width)
        renamed["feature_projection.projection.bias"] = torch.zeros(width)
    return renamed


def _hubert_config(state: Mapping[str, Tensor], *, n_layers: int, n_heads: int | None) -> Any:
    """transformers' configuration, read off the shapes of `state` (transformers' names)."""
    n_convs = len({name.split(".")[2] for name in state if name.startswith("feature_extractor.conv_layers.")})
    convs = [state[f"feature_extractor.conv_layers.{i}.conv.weight"].shape for i in range(n_convs)]
    hidden, per_group, positions = state["encoder.pos_conv_embed.conv.weight_v"].shape
    return _transformers().HubertConfig(
        hidden_size=hidden,
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads or max(1, hidden // HEAD_WIDTH),
        intermediate_size=state["encoder.layers.0.feed_forward.intermediate_dense.weight"].shape[0],
        conv_dim=[shape[0] for shape in convs],
        conv_kernel=[shape[2] for shape in convs],
        conv_stride=[5, *[2] * (n_convs - 1)],  # not in the shapes; the same in all published models
        conv_bias="feature_extractor.conv_layers.0.conv.bias" in state,
        feat_extract_norm="group",
        do_stable_layer_norm=False,
        num_conv_pos_embeddings=positions,
        num_conv_pos_embedding_groups=hidden // per_group,
        hidden_act="gelu",
        feat_extract_activation="gelu",
        apply_spec_augment=False,
        mask_time_prob=0.0,
        mask_feature_prob=0.0,
    )
