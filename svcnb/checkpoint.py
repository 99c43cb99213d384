"""Read and write weights: state dicts, so-vits-svc's G_*.pth / D_*.pth, safetensors.

Old weight-norm names (`conv.weight_g`, `conv.weight_v`) are what files hold; torch's parametrised names
(`conv.parametrizations.weight.original0`, `...original1`) are what modules have. Loading takes both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from svcnb.disk import atomic_path, watched_file
from svcnb.unpickling import CheckpointError, UnsafePickle, load_pickled

__all__ = [
    "CheckpointError",
    "LoadReport",
    "SovitsCheckpoint",
    "UnsafePickle",
    "atomic_path",
    "describe_sovits",
    "load_weights",
    "mix_states",
    "newest_pair",
    "prune_checkpoints",
    "read_checkpoint",
    "read_own",
    "read_safetensors",
    "read_sovits_checkpoint",
    "save_sovits_checkpoint",
    "slim_sovits",
    "to_parametrized_names",
    "to_plain_names",
    "write_checkpoint",
    "write_own",
    "write_safetensors",
]

PARAMETRIZED = re.compile(r"^(?P<module>(?:.*\.)?)parametrizations\.(?P<name>\w+)\.original(?P<part>[01])$")
PLAIN = re.compile(r"^(?P<module>(?:.*\.)?)(?P<name>\w+)_(?P<part>[gv])$")
STEP = re.compile(r"^(?P<letter>[GD])_(?P<step>\d+)\.pth$")
# Filters of the snake activations: stored, but no parameters, so no optimiser counts them.
BUFFER = re.compile(r"(^|\.)(upsample\.filter|downsample\.lowpass\.filter)$")
MOST_NAMED = 12  # differences of two models: all of a missing encoder would be hundreds
SOVITS_BETAS, SOVITS_EPSILON = (0.8, 0.99), 1e-9
ENCODER_OF_WIDTH = {
    96: "svcnb-units", 200: "soft-units", 256: "vec256l9", 768: "vec768l12", 1024: "whisper-ppg", 1280: "whisper-ppg-large",
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


# Reading -------------------------------------------------------------------------------------------


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The dictionary in a torch file, on the CPU, read without running anything the file contains.

    Classes of programs that are not installed (fairseq, omegaconf, argparse, GPT-SoVITS' HParams) come
    back as plain dictionaries.

    Raises:
        UnsafePickle: the file asks for anything but tensors, arrays and plain values; each is named.
        CheckpointError: missing, empty, cut short, no torch file, or no dictionary inside.
    """
    loaded = load_pickled(path)
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}, expected a dictionary of weights.")
    return loaded


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file. Check the name, or download it first.")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})
    except SafetensorError as error:
        raise CheckpointError(f"{path} is no complete safetensors file ({error}). Download or copy it again.") from error


def write_safetensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    """Write tensors and text metadata; the file appears whole or not at all."""
    from safetensors.torch import save

    # clone: safetensors refuses tensors that share memory
    whole = save({n: t.detach().cpu().clone().contiguous() for n, t in tensors.items()}, dict(metadata or {}))
    with atomic_path(path) as temporary:
        temporary.write_bytes(whole)  # its own save_file would hide the file from other users (mode 600)
    return Path(path)


# Names and loading ---------------------------------------------------------------------------------


def to_plain_names(state: Mapping[str, Any]) -> dict[str, Any]:
    """`X.parametrizations.weight.original0/1` renamed to `X.weight_g/_v`, order kept."""
    return {_plain_name(name): value for name, value in state.items()}


def to_parametrized_names(state: Mapping[str, Any]) -> dict[str, Any]:
    """The reverse of `to_plain_names`. A `weight_v` without its `weight_g` is spectral norm's, and stays."""
    return {_parametrized_name(name, state): value for name, value in state.items()}


def _plain_name(name: str) -> str:
    match = PARAMETRIZED.match(name)
    return f"{match['module']}{match['name']}_{'gv'[int(match['part'])]}" if match else name


def _parametrized_name(name: str, state: Mapping[str, Any]) -> str:
    match = PLAIN.match(name)
    if not match:
        return name
    partner = f"{match['module']}{match['name']}_{'v' if match['part'] == 'g' else 'g'}"
    if partner not in state:
        return name
    return f"{match['module']}parametrizations.{match['name']}.original{'gv'.index(match['part'])}"


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did; the names are those of the file (old weight-norm names).

    `missing`: in the module only (kept its own values). `unexpected`: in the file only (unused).
    `reshaped`: in both, with another shape (kept its own values).
    """

    taken: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]

    def __str__(self) -> str:
        rest = [f"{len(n)} {word}" for word in ("missing", "unexpected", "reshaped") if (n := getattr(self, word))]
        return ", ".join([f"{len(self.taken)} tensors taken", *rest])


def load_weights(
    module: nn.Module, state: Mapping[str, Any], *, may_miss: tuple[str, ...] = (), may_skip: tuple[str, ...] = ()
) -> LoadReport:
    """Copy a state dict into a module, strictly but for differences that are declared by name.

    Args:
        state: names and tensors, with old or new weight-norm names; other dtypes are cast.
        may_miss: prefixes that the state may lack, e.g. ("enc_q.",) for a released voice.
        may_skip: prefixes whose stored tensors may stay unused, because the module lacks them or has
            another shape, e.g. ("emb_g.",) when a base model with other speakers is fine-tuned.

    Raises:
        CheckpointError: any other difference; one message lists all of them, and nothing was copied.
    """
    stored = to_plain_names(state)
    own = {_plain_name(name): (name, value) for name, value in module.state_dict().items()}
    common = [name for name in own if name in stored]
    reshaped = [name for name in common if _shape(stored[name]) != tuple(own[name][1].shape)]
    differences = [
        *(f"missing {n} {_shape(own[n][1])}" for n in own if n not in stored and not n.startswith(may_miss)),
        *(f"unexpected {n} {_shape(stored[n])}" for n in stored if n not in own and not n.startswith(may_skip)),
        *(f"{n} is {_shape(stored[n])}, expected {_shape(own[n][1])}" for n in reshaped if not n.startswith(may_skip)),
    ]
    if differences:
        raise CheckpointError(
            f"the weights do not fit {type(module).__name__}, {len(differences)} differences: {'; '.join(differences)}. "
            "Check that the config belongs to these weights."
        )
    taken = [name for name in common if name not in set(reshaped)]
    module.load_state_dict({own[name][0]: stored[name] for name in taken}, strict=False)
    return LoadReport(
        taken=tuple(taken),
        missing=tuple(n for n in own if n not in stored),
        unexpected=tuple(n for n in stored if n not in own),
        reshaped=tuple(reshaped),
    )


def _shape(value: Any) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, Tensor) else f"a {type(value).__name__}"


def write_own(path: str | Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Path:
    """Write weights of our own making with what they are; `read_own` reads both."""
    # one entry: the library writes several in random order
    return write_safetensors(path, tensors, {"svcnb": json.dumps(about)})


def read_own(path: str | Path, *, kind: str, version: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of such a file, and what it says about them.

    Raises:
        CheckpointError: another kind of file, or another version.
    """
    tensors, metadata = read_safetensors(path)
    about = json.loads(metadata.get("svcnb", "{}"))
    if (about.get("kind"), about.get("version")) != (kind, version):
        raise CheckpointError(f"{path} is no {kind} file of version {version}. Get the bundled one again.")
    return tensors, about


def write_checkpoint(path: str | Path, contents: Mapping[str, Any]) -> Path:
    """Write a torch file; it appears whole or not at all."""
    with atomic_path(path) as temporary, watched_file(temporary) as file:
        torch.save(dict(contents), file)
    return Path(path)


# so-vits-svc's files -------------------------------------------------------------------------------


@dataclass(frozen=True)
class SovitsCheckpoint:
    """A G_*.pth or D_*.pth: `iteration` is the epoch (so-vits-svc's meaning), the step is in the file name.

    trained: ours; the weights that training goes on with, by the network's own names, where `model` has others of them.
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

    Without `optimizer_state` the state of a fresh AdamW is written, as its own release tool does: its
    loader refuses a file whose optimiser counts other parameters.

    Args:
        whole_state: the weights before some were left out; a fresh optimiser counts these, as the network has them.
        trained: see SovitsCheckpoint; a key of our own, written where it is given.
    """
    model = to_plain_names(_each_once(model_state, lambda value: value.detach().cpu()))
    counted = model if whole_state is None else to_plain_names(whole_state)
    contents = {
        "model": model,
        "iteration": int(iteration),
        "optimizer": dict(optimizer_state) if optimizer_state else _fresh_optimizer_state(counted, learning_rate),
        "learning_rate": float(learning_rate),
    }
    if trained:
        contents["trained"] = {name: value.detach().cpu() for name, value in trained.items()}
    return write_checkpoint(path, contents)


def _each_once(state: Mapping[str, Tensor], change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Every tensor changed; names that share one still do (shared flow layers are stored once)."""
    changed: dict[tuple, Tensor] = {}
    keys = {name: _memory(value) for name, value in state.items()}
    for name, value in state.items():
        if keys[name] not in changed:
            changed[keys[name]] = change(value)
    return {name: changed[key] for name, key in keys.items()}


def _memory(value: Tensor) -> tuple:
    return value.data_ptr(), value.shape, value.dtype


def _fresh_optimizer_state(model: Mapping[str, Tensor], learning_rate: float) -> dict[str, Any]:
    unique = {_memory(value): value for name, value in model.items() if not BUFFER.search(name)}
    parameters = [nn.Parameter(torch.empty(0)) for _ in unique]
    return torch.optim.AdamW(parameters, lr=learning_rate, betas=SOVITS_BETAS, eps=SOVITS_EPSILON).state_dict()


def read_sovits_checkpoint(path: str | Path) -> SovitsCheckpoint:
    """Read a G_*.pth or D_*.pth of so-vits-svc 4.0/4.1 (or ours), weights in the dtype they were stored in."""
    stored = read_checkpoint(path)
    model = stored.get("model")
    if not isinstance(model, dict) or not any(isinstance(v, Tensor) for v in model.values()):
        raise CheckpointError(f"{path} has the keys {sorted(map(str, stored))[:8]}, expected 'model' as in a G_*.pth file.")
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
    return _each_once(kept, lambda value: value.half() if value.is_floating_point() else value) if half else kept


def mix_states(states: Mapping[str, Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """Weighted sum of every tensor of several models of one architecture, in the dtype of the first.

    Args:
        states: by the name that errors call them.
        weights: one for each; they are taken as they are.

    Raises:
        CheckpointError: a tensor that only some have, or of another shape; the differences are named.
    """
    (first_name, first), *others = ((name, to_plain_names(state)) for name, state in states.items())
    differences = [text for name, other in others for text in _state_differences(first_name, first, name, other)]
    if differences:
        named = "; ".join(differences[:MOST_NAMED]) + ("; ..." if len(differences) > MOST_NAMED else "")
        raise CheckpointError(f"these models cannot be mixed, {len(differences)} differences: {named}. "
                              "Take models of one architecture and one encoder, all whole or all released")  # fmt: skip
    models = [first, *(other for _, other in others)]
    mixed: dict[tuple, Tensor] = {}
    keys = {name: tuple(_memory(model[name]) for model in models) for name in first}
    for name, key in keys.items():
        if key not in mixed:
            parts = (weight * model[name].double() for weight, model in zip(weights, models, strict=True))
            mixed[key] = first[name] if BUFFER.search(name) else sum(parts).to(first[name].dtype)
    return {name: mixed[key] for name, key in keys.items()}


def _state_differences(name: str, one: Mapping[str, Any], other_name: str, other: Mapping[str, Any]) -> list[str]:
    found = [f"{key} is in {name}, not in {other_name}" for key in one if key not in other]
    found += [f"{key} is in {other_name}, not in {name}" for key in other if key not in one]
    shared = [key for key in one if key in other and _shape(one[key]) != _shape(other[key])]
    return found + [f"{key} is {_shape(one[key])} in {name}, {_shape(other[key])} in {other_name}" for key in shared]


def _numbered(folder: str | Path, letter: str) -> dict[int, Path]:
    matches = ((STEP.match(path.name), path) for path in Path(folder).glob(f"{letter}_*.pth"))
    return {int(match["step"]): path for match, path in matches if match}


def newest_pair(folder: str | Path) -> tuple[Path, Path] | None:
    """G_n.pth and D_n.pth of the largest step n that has both; None where there is no such pair."""
    generators, discriminators = _numbered(folder, "G"), _numbered(folder, "D")
    steps = generators.keys() & discriminators.keys()
    return (generators[max(steps)], discriminators[max(steps)]) if steps else None


def prune_checkpoints(folder: str | Path, keep: int) -> list[Path]:
    """Delete all but the `keep` highest steps of each letter; base models (*_0.pth) stay. 0 keeps all."""
    if keep <= 0:
        return []
    removed = []
    for letter in "GD":
        numbered = _numbered(folder, letter)
        removed += [numbered[step] for step in sorted(numbered.keys() - {0})[:-keep]]
    for path in removed:
        path.unlink()
    return removed


def describe_sovits(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The model section of config.json, as far as the tensors of a so-vits-svc 4.x generator tell it.

    Beside the config's keys: `version` ("4.0" or "4.1", a guess: both share one layout), `speech_encoder`
    (a guess from the width), `has_posterior` (False: released file, cannot be trained on).
    Tensors do not tell the dropout, the dilations and the speakers' names; those keys are absent.
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
        "version": "4.1" if ssl_dim != 256 or switches_of_41 or not has["use_automatic_f0_prediction"] else "4.0",
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
    return f"not a so-vits-svc 4.x generator: its tensors begin {sorted(state)[:4]}, expected emb_g.weight and pre.weight."


def _count(state: Mapping[str, Any], prefix: str) -> int:
    return len({name[len(prefix) :].split(".", 1)[0] for name in state if name.startswith(prefix)})


def _describe_flow(state: Mapping[str, Tensor], *, transformer: bool) -> dict[str, int]:
    """n_flow_layer means WaveNet layers per coupling, or couplings where the flow is a transformer."""
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
    rates = [kernels[0] // 2, *(before // after for before, after in zip(products, products[1:], strict=False))]
    first = "convs1.0" if "dec.resblocks.0.convs1.0.weight_v" in state else "convs.0"
    return {
        "vocoder_name": "nsf-snake-hifigan" if _count(state, "dec.snakes.") else "nsf-hifigan",
        "resblock": "1" if first == "convs1.0" else "2",
        "resblock_kernel_sizes": [state[f"dec.resblocks.{j}.{first}.weight_v"].shape[2] for j in range(n_kernels)],
        "upsample_rates": rates,
        "upsample_kernel_sizes": kernels,
        "upsample_initial_channel": state["dec.conv_pre.weight_g"].shape[0],
    }
