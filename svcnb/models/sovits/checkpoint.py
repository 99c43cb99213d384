"""Checkpoint files of so-vits-svc, base models to start from, weight interpolation with the base model."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from svcnb import SvcError
from svcnb.files.checkpoint import (
    BUFFER,
    each_once,
    load_weights,
    memory_key,
    newest_pair,
    read_checkpoint,
    read_safetensors,
    to_plain_names,
    write_checkpoint,
)
from svcnb.files.disk import copy_file
from svcnb.files.pretrained_table import BUNDLED_FOLDER
from svcnb.files.unpickling import CheckpointError
from svcnb.models.sovits.config import Config

SOVITS_BETAS, SOVITS_EPSILON = (0.8, 0.99), 1e-9
ENCODER_OF_WIDTH = {
    96: "svcnb-units", 256: "vec256l9", 768: "vec768l12", 1024: "whisper-ppg", 1280: "whisper-ppg-large",
}  # fmt: skip
OTHER_FAMILIES = {
    "posterior_encoder.": "a so-vits-svc 4.0-v2 (VISinger2) model, another architecture that svcnb does not convert with",
    "text_encoder.": "a so-vits-svc 4.0-v2 (VISinger2) model, another architecture that svcnb does not convert with",
    "enc_p.emb_phone.": "an RVC voice: use the RVC recipe",
    "enc_p.ssl_proj.": "a GPT-SoVITS voice: use the GPT-SoVITS recipe",
    "discriminators.": "a discriminator (D_*.pth): give the G_*.pth beside it",
    "denoise_fn.": "a diffusion model: give it as the diffusion model of a voice",
    "generator.": "a vocoder: give it as the vocoder of a voice",
}
BUNDLED_BASE = BUNDLED_FOLDER / "base_voice.safetensors"  # its config is in its metadata
AUTO_BASE, NO_BASE = "auto", "none"
KEPT_BASE = "base_voice.safetensors"  # in a voice's folder
# Tensors that a base model may have in another size: one row per speaker.
PER_SPEAKER = ("emb_g.",)
MAY_MISS = ("enc_q.", "f0_decoder.", "emb_vol.")
# Small voices that start from the bundled base: learning rate, and the base's weight in the saved checkpoint.
FINE_TUNING_RATE, FINE_TUNING_BASE_RATIO = 5e-4, 0.15


# so-vits-svc's files -------------------------------------------------------------------------------


@dataclass(frozen=True)
class SovitsCheckpoint:
    """A G_*.pth or D_*.pth: `iteration` is the epoch (so-vits-svc's meaning), the step is in the file name.

    trained: our own key; the weights from which training resumes, by the network's names, for the parameters
    that `model` holds interpolated (see weight interpolation below).
    """

    model: dict[str, Tensor]
    iteration: int
    optimizer: dict[str, Any] | None
    learning_rate: float
    trained: dict[str, Tensor] | None = None


def save_sovits_checkpoint(
    path: str | Path,
    *,
    model_state: Mapping[str, Tensor],
    iteration: int,
    learning_rate: float,
    optimizer_state: Mapping[str, Any] | None = None,
    whole_state: Mapping[str, Tensor] | None = None,
    trained: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a file that so-vits-svc 4.0/4.1 reads: old weight-norm names, its four keys.

    Without `optimizer_state` the state of a fresh AdamW is written, as so-vits-svc's release tool does: its
    loader refuses a file whose optimiser has another number of parameters.

    Args:
        whole_state: the weights before some were removed: the parameters of the fresh optimiser.
        trained: see SovitsCheckpoint; our own key, written if given.
    """
    model = to_plain_names(each_once(model_state, lambda value: value.detach().cpu()))
    counted = model if whole_state is None else to_plain_names(whole_state)
    contents = {
        "model": model,
        "iteration": int(iteration),
        "optimizer": dict(optimizer_state)
        if optimizer_state
        else _fresh_optimizer_state(counted, learning_rate),
        "learning_rate": float(learning_rate),
    }
    if trained:
        contents["trained"] = {name: value.detach().cpu() for name, value in trained.items()}
    return write_checkpoint(path, contents)


def _fresh_optimizer_state(model: Mapping[str, Tensor], learning_rate: float) -> dict[str, Any]:
    unique = {memory_key(value): value for name, value in model.items() if not BUFFER.search(name)}
    parameters = [nn.Parameter(torch.empty(0)) for _ in unique]
    return torch.optim.AdamW(
        parameters, lr=learning_rate, betas=SOVITS_BETAS, eps=SOVITS_EPSILON
    ).state_dict()


def read_sovits_checkpoint(path: str | Path) -> SovitsCheckpoint:
    """Read a G_*.pth or D_*.pth of so-vits-svc 4.0/4.1 (or ours), weights in the dtype they were stored in."""
    stored = read_checkpoint(path)
    model = stored.get("model")
    if not isinstance(model, dict) or not any(isinstance(v, Tensor) for v in model.values()):
        raise CheckpointError(
            f"{path} has the keys {sorted(map(str, stored))[:8]}, expected 'model' as in a G_*.pth file."
        )
    return SovitsCheckpoint(
        model=model,
        iteration=int(stored.get("iteration") or 0),
        optimizer=stored.get("optimizer"),
        learning_rate=float(stored.get("learning_rate") or 0.0),
        trained=stored.get("trained"),
    )


def slim_sovits(state: Mapping[str, Tensor], *, half: bool = False) -> dict[str, Tensor]:
    """The weights that conversion needs: without the posterior encoder `enc_q`, about a third of the file."""
    kept = {name: value for name, value in to_plain_names(state).items() if "enc_q" not in name}
    return (
        each_once(kept, lambda value: value.half() if value.is_floating_point() else value) if half else kept
    )


def describe_sovits(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The model section of config.json, as far as the tensors of a so-vits-svc 4.x generator determine it.

    Further keys: `version` ("4.0" or "4.1", a guess: both share one layout), `speech_encoder`
    (a guess from the width), `has_posterior` (False: release file, training cannot continue from it).
    Dropout, dilations and speaker names cannot be derived from tensors; those keys are absent.
    """
    state = to_plain_names(state)
    if not {"emb_g.weight", "pre.weight", "enc_p.f0_emb.weight"} <= state.keys():
        raise CheckpointError(_not_sovits(state))
    hidden, ssl_dim, _ = state["pre.weight"].shape
    ffn = state["enc_p.enc_.ffn_layers.0.conv_1.weight"]
    has = {
        "vol_embedding": "emb_vol.weight" in state,
        "use_depthwise_conv": any(".depth_conv." in name for name in state),
        "flow_share_parameter": any(name.startswith("flow.wn.") for name in state),
        "use_automatic_f0_prediction": any(name.startswith("f0_decoder.") for name in state),
        "use_transformer_flow": "flow.flows.0.enc.cond_pre.weight" in state,
    }
    switches_of_41 = has["vol_embedding"] or has["use_depthwise_conv"] or has["use_transformer_flow"]
    return {
        "version": "4.1"
        if ssl_dim != 256 or switches_of_41 or not has["use_automatic_f0_prediction"]
        else "4.0",
        "ssl_dim": ssl_dim,
        "speech_encoder": ENCODER_OF_WIDTH.get(ssl_dim),
        "n_speakers": state["emb_g.weight"].shape[0],
        "gin_channels": state["emb_g.weight"].shape[1],
        "hidden_channels": hidden,
        "inter_channels": state["enc_p.proj.weight"].shape[0] // 2,
        "filter_channels": ffn.shape[0],
        "kernel_size": ffn.shape[2],
        "n_layers": _count(state, "enc_p.enc_.attn_layers."),
        "n_heads": hidden // state["enc_p.enc_.attn_layers.0.emb_rel_k"].shape[2],
        "has_posterior": any(name.startswith("enc_q.") for name in state),
        **has,
        **_describe_flow(state, transformer=has["use_transformer_flow"]),
        **_describe_decoder(state),
    }


def _not_sovits(state: Mapping[str, Any]) -> str:
    for prefix, what in OTHER_FAMILIES.items():
        if any(name.startswith(prefix) for name in state):
            return f"this is {what}."
    first = sorted(state)[:4]
    return f"not a so-vits-svc 4.x generator: first tensors {first}, expected emb_g.weight and pre.weight."


def _count(state: Mapping[str, Any], prefix: str) -> int:
    return len({name[len(prefix) :].split(".", 1)[0] for name in state if name.startswith(prefix)})


def _describe_flow(state: Mapping[str, Tensor], *, transformer: bool) -> dict[str, int]:
    """n_flow_layer counts WaveNet layers per coupling, or couplings if the flow is a transformer."""
    if not transformer:
        return {"n_flow_layer": _count(state, "flow.flows.0.enc.in_layers.")}
    couplings = {name.split(".")[2] for name in state if name.startswith("flow.flows.") and ".enc." in name}
    layers = _count(state, "flow.flows.0.enc.self_attn_layers.")
    return {"n_flow_layer": len(couplings), "n_layers_trans_flow": layers}


def _describe_decoder(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Sizes of the HiFi-GAN decoder; our own small decoder keeps them in its config only."""
    if "dec.ups.0.weight_g" not in state:
        return {"vocoder_name": "svcnb-frame"}
    n_ups = _count(state, "dec.ups.")
    n_kernels = _count(state, "dec.resblocks.") // n_ups
    kernels = [state[f"dec.ups.{i}.weight_v"].shape[2] for i in range(n_ups)]
    # A noise convolution's kernel is twice the product of the upsampling rates after it (1 for the last).
    products = [max(1, state[f"dec.noise_convs.{i}.weight"].shape[2] // 2) for i in range(n_ups)]
    rates = [
        kernels[0] // 2,
        *(before // after for before, after in zip(products, products[1:], strict=False)),
    ]
    first = "convs1.0" if "dec.resblocks.0.convs1.0.weight_v" in state else "convs.0"
    return {
        "vocoder_name": "nsf-snake-hifigan" if _count(state, "dec.snakes.") else "nsf-hifigan",
        "resblock": "1" if first == "convs1.0" else "2",
        "resblock_kernel_sizes": [
            state[f"dec.resblocks.{j}.{first}.weight_v"].shape[2] for j in range(n_kernels)
        ],
        "upsample_rates": rates,
        "upsample_kernel_sizes": kernels,
        "upsample_initial_channel": state["dec.conv_pre.weight_g"].shape[0],
    }


log = logging.getLogger(__name__)


def choose_base(base: Path | str | None, config: Config) -> Path | None:
    """The base to start from: as named; "auto": the bundled one if the config has its sizes; "none": None."""
    if base in (None, NO_BASE):
        return None
    if base != AUTO_BASE:
        return Path(base)
    if not (config.is_small and BUNDLED_BASE.is_file()):
        return None
    return BUNDLED_BASE if _fits(config, bundled_config()) else None


def bundled_config() -> Config:
    """The config that the bundled base was trained with."""
    return Config.model_validate(read_about(BUNDLED_BASE)["config"])


def read_about(base: Path) -> dict[str, Any]:
    """Metadata of a base voice's file: its data, steps and minutes of training, and its config."""
    return json.loads(read_safetensors(base)[1]["svcnb"])


def _fits(config: Config, base: Config) -> bool:
    model = config.model.model_copy(
        update={name: getattr(base.model, name) for name in ("n_speakers", "vol_embedding")}
    )
    lengths = ("sampling_rate", "hop_length", "filter_length", "unit_interpolate_mode")
    return model == base.model and all(
        getattr(config.data, name) == getattr(base.data, name) for name in lengths
    )


def use_fine_tuning(config: Config, base: Path | None) -> None:
    """Settings for fine-tuning the bundled base: learning rate, weight interpolation (off for others)."""
    is_bundled = base == BUNDLED_BASE
    changes = (
        {"learning_rate": FINE_TUNING_RATE, "base_share": FINE_TUNING_BASE_RATIO}
        if is_bundled
        else {"base_share": 0.0}
    )
    config.train = config.train.model_copy(update=changes)


def keep_base(base: Path | None, voice_folder: Path, config: Config) -> None:
    """Copy the base into the voice's folder, where weight interpolation needs it when training resumes."""
    kept = voice_folder / KEPT_BASE
    if base is not None and config.train.base_share > 0 and base != kept:
        copy_file(base, kept)


def kept_base(voice_folder: Path, config: Config) -> Path | None:
    """The base model that a run's weights are interpolated with; None without interpolation.

    Raises:
        SvcError: the base was removed.
    """
    if config.train.base_share == 0:
        return None
    path = voice_folder / KEPT_BASE
    if not path.is_file():
        raise SvcError(
            f"{path} is missing, and training cannot resume without it: put the base voice that "
            "this voice started from back there, or train into another folder"
        )
    return path


def start_from(base: Path, generator: nn.Module, discriminator: nn.Module | None) -> None:
    """Warm start from base weights. If the base has other speakers, each new speaker starts as their mean.

    Args:
        base: a G_*.pth or .safetensors, or a folder with G_*.pth and D_*.pth.

    Raises:
        SvcError: no base there, or weights of another architecture (every difference named).
    """
    pair = newest_pair(base) if base.is_dir() else None
    if base.is_dir() and pair is None:
        raise SvcError(
            f"no G_*.pth with its D_*.pth in {base}: put G_0.pth and D_0.pth of the base model there"
        )
    generator_path, discriminator_path = pair or (base, None)
    stored = _read(generator_path)
    report = load_weights(generator, stored, may_miss=MAY_MISS, may_skip=PER_SPEAKER)
    log.info("started from %s: %s", generator_path.name, report)
    if "emb_g.weight" in report.reshaped:
        with torch.no_grad():
            generator.emb_g.weight.copy_(
                stored["emb_g.weight"].float().mean(0, keepdim=True).expand_as(generator.emb_g.weight)
            )
    if discriminator is not None and discriminator_path is not None:
        load_weights(discriminator, read_sovits_checkpoint(discriminator_path).model)


class WeightInterpolation:
    """Weight interpolation of a generator in training with the base model it started from.

    Fine-tuning on a few minutes of one speaker moves the weights further from the base than speaker
    similarity needs: with a fraction of the base's weights, the words of unseen source speakers are converted
    more intelligibly. Training continues with the weights that are not interpolated.

    Args:
        base_ratio: weight of the base, 0..1; tables with one row per speaker are not interpolated.

    Source: WiSE-FT (Wortsman et al. 2022).
    """

    def __init__(self, generator: nn.Module, base_ratio: float) -> None:
        self.base_ratio = base_ratio
        self.start = {
            name: value.detach().clone()
            for name, value in generator.named_parameters()
            if not name.startswith(PER_SPEAKER)
        }

    @contextmanager
    def applied(self, generator: nn.Module) -> Iterator[dict[str, Tensor]]:
        """Inside the block the generator has the interpolated weights, afterwards its own (yielded)."""
        moved = {name: value for name, value in generator.named_parameters() if name in self.start}
        own = {name: value.detach().clone() for name, value in moved.items()}
        try:
            with torch.no_grad():
                for name, value in moved.items():
                    value.lerp_(self.start[name], self.base_ratio)
            yield own
        finally:
            set_parameters(generator, own)


def set_parameters(generator: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Set parameters by name."""
    parameters = dict(generator.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(value)


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    return read_sovits_checkpoint(path).model
