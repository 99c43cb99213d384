"""DPHuBERT's files {"config", "state_dict"}: a HuBERT (or WavLM) whose layers were pruned, each on its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from svcnb.checkpoint import CheckpointError, load_weights, read_checkpoint
from svcnb.encoder_hubert import HubertEncoder
from svcnb.models.pruned_hubert import PrunedHubert, PrunedHubertSettings, PrunedLayerSettings

RELATIVE_KEYS = ("encoder_total_num_heads", "encoder_remaining_heads", "encoder_num_buckets", "encoder_max_distance")
HUBERT_KEYS = ("encoder_num_heads", "encoder_head_dim")
SHARED_KEYS = (
    "extractor_mode", "extractor_conv_layer_config", "extractor_conv_bias", "encoder_embed_dim",
    "encoder_pos_conv_kernel", "encoder_pos_conv_groups", "encoder_num_layers", "encoder_use_attention",
    "encoder_use_feed_forward", "encoder_ff_interm_features", "encoder_layer_norm_first",
)  # fmt: skip
# Of training only: dropout, layers left out at random, what may be pruned further.
TRAINING_KEYS = (
    "encoder_projection_dropout", "encoder_attention_dropout", "encoder_ff_interm_dropout", "encoder_dropout",
    "encoder_layer_drop", "extractor_prune_conv_channels", "encoder_prune_attention_heads",
    "encoder_prune_attention_layer", "encoder_prune_feed_forward_intermediate", "encoder_prune_feed_forward_layer",
)  # fmt: skip
EXTRACTOR_MODES = ("group_norm", "layer_norm")


def load_dphubert(path: Path, *, name: str) -> HubertEncoder:
    """Encoder from a file of DPHuBERT: the last layer's output, always in evaluation mode.

    The original leaves the network in training mode, so that its dropout and dropped layers make every
    call different; its config's rates have no effect here.

    Raises:
        CheckpointError: another kind of file, config keys that are missing or unknown, or tensors that do
            not fit the config (every difference named).
    """
    checkpoint = read_checkpoint(path)
    config, state = checkpoint.get("config"), checkpoint.get("state_dict")
    if not isinstance(config, dict) or not isinstance(state, dict):
        found = sorted(map(str, checkpoint))[:6]
        raise CheckpointError(f"{path} has the keys {found}, expected 'config' and 'state_dict' as in a DPHuBERT file.")
    network = dphubert_from_state(config, state)
    return HubertEncoder(network, name=name, normalised=bool(config.get("normalize_waveform")))


def dphubert_from_state(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> PrunedHubert:
    """The network of a config, with its weights, strictly."""
    network = PrunedHubert(settings_from_config(config))
    # files that were converted but not pruned have no scale of the channels
    load_weights(network, state, may_miss=("feature_extractor.dummy_weight",))
    return network


def settings_from_config(config: Mapping[str, Any]) -> PrunedHubertSettings:
    """Sizes from DPHuBERT's config keys; `encoder_remaining_heads` tells a WavLM from a HuBERT."""
    relative = "encoder_remaining_heads" in config
    needed = (*SHARED_KEYS, *(RELATIVE_KEYS if relative else HUBERT_KEYS))
    known = {*needed, *TRAINING_KEYS, "normalize_waveform", "aux_num_out"}
    differences = [f"missing {key}" for key in needed if key not in config]
    differences += [f"unknown {key}" for key in config if key not in known]
    if config.get("aux_num_out"):
        differences.append(f"aux_num_out is {config['aux_num_out']}, expected none: a model with another task's output")
    mode = config.get("extractor_mode", "group_norm")
    if mode not in EXTRACTOR_MODES:
        differences.append(f"extractor_mode is {mode!r}, expected one of {', '.join(EXTRACTOR_MODES)}")
    if differences:
        raise CheckpointError(f"this is not the config of a DPHuBERT that is known here: {'; '.join(differences)}.")
    return PrunedHubertSettings(
        convolutions=tuple(tuple(layer) for layer in config["extractor_conv_layer_config"]),
        conv_bias=config["extractor_conv_bias"],
        norm_everywhere=mode == "layer_norm",
        width=config["encoder_embed_dim"],
        position_kernel=config["encoder_pos_conv_kernel"],
        position_groups=config["encoder_pos_conv_groups"],
        layers=tuple(_layer(config, i, relative=relative) for i in range(config["encoder_num_layers"])),
        pre_norm=config["encoder_layer_norm_first"],
        n_buckets=config["encoder_num_buckets"] if relative else 0,
        max_distance=config["encoder_max_distance"] if relative else 0,
    )


def _layer(config: Mapping[str, Any], index: int, *, relative: bool) -> PrunedLayerSettings:
    if relative:
        n_heads = config["encoder_total_num_heads"][index]
        heads = tuple(config["encoder_remaining_heads"][index])
        head_width = config["encoder_embed_dim"] // n_heads
    else:
        n_heads, head_width = config["encoder_num_heads"][index], config["encoder_head_dim"]
        heads = tuple(range(n_heads))
    return PrunedLayerSettings(
        heads=heads if config["encoder_use_attention"][index] else (),
        n_heads=n_heads,
        head_width=head_width,
        n_inner=config["encoder_ff_interm_features"][index] if config["encoder_use_feed_forward"][index] else 0,
    )
