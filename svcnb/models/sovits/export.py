"""Export a voice to one ONNX file for inference without Python, and compare it with the PyTorch network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svcnb import SvcError
from svcnb.files.disk import write_json
from svcnb.files.onnx_files import check_onnx_name, open_onnx, write_onnx
from svcnb.models.sovits.config import Config
from svcnb.models.sovits.files import find_voice
from svcnb.models.sovits.network import InferOutput, SynthesizerTrn
from svcnb.models.sovits.voice import Voice, read_generator
from svcnb.nn.layers import Noise
from svcnb.nn.onnx import exportable_copy

EXAMPLE_FRAMES = 40
FRAME_AXES = {"c": {1: "content_frames"}, "f0": {1: "frames"}, "mel2ph": {1: "frames"}, "uv": {1: "frames"},
              "noise": {2: "frames"}, "vol": {1: "frames"}, "audio": {2: "samples"}}  # fmt: skip
CONTENT_HZ = 50  # frames per second of content encoders


@dataclass(frozen=True)
class ExportReport:
    """An exported voice: the graph, the description beside it, the graph's inputs in order, and the graph's size."""

    path: Path
    description_path: Path
    inputs: tuple[str, ...]
    n_bytes: int

    def __str__(self) -> str:
        return f"{self.path}: {self.n_bytes / 1e6:.1f} MB, inputs {', '.join(self.inputs)}; {self.description_path.name}"


def export_voice(
    source: Path | str, output: Path | str, *, mixes: bool | None = None, checkpoint: str = "best"
) -> ExportReport:
    """Write a voice as FILE.onnx with so-vits-svc's inputs and outputs, and FILE.json, which describes it.

    The graph takes content, f0 and speaker (see OnnxGenerator) and returns the waveform, for any number of
    frames. Encoder, pitch estimator and f0 predictor are not included. so-vits-svc's decoders and our own
    small one can be exported; the file of the latter runs wherever ONNX runs, but its description names our
    own encoder, which other programs do not have.

    Args:
        source: folder of a voice, its checkpoint or a zip file.
        output: the .onnx file.
        mixes: whether the input `sid` holds weights of all speakers per frame; None: if there are several.
        checkpoint: which of a folder's, "best" or "newest".

    Raises:
        SvcError: no such voice, another suffix.
        MissingExtra: onnx is not installed.

    Source: so-vits-svc 4.1, onnx_export.py (names, description).
    """
    output = Path(output)
    check_onnx_name(output)
    config, graph = exportable(source, mixes=mixes, checkpoint=checkpoint)
    example = example_inputs(config, EXAMPLE_FRAMES, mixes=graph.mixes)
    names = tuple(example)
    axes = {name: FRAME_AXES[name] for name in (*names, "audio") if name in FRAME_AXES}
    if graph.mixes:
        axes["sid"] = {0: "frames"}
    write_onnx(graph, example, output, axes)
    described = write_json(
        output.with_suffix(".json"), describe_export(config, output.stem, mixes=graph.mixes)
    )
    return ExportReport(output, described, names, output.stat().st_size)


def exportable(
    source: Path | str, *, mixes: bool | None = None, checkpoint: str = "best"
) -> tuple[Config, OnnxGenerator]:
    """A voice's config and the network that is exported; also the reference for the graph's output."""
    files = find_voice(Path(source), checkpoint=checkpoint)
    config, generator, _ = read_generator(files.weights, files.config)
    n_speakers = _n_speakers(config)
    if mixes and n_speakers < 2:
        raise SvcError(f"voice {files.name} has one speaker: there is nothing to mix, leave out `mixes`")
    return config, OnnxGenerator(generator, mixes=n_speakers > 1 if mixes is None else mixes).eval()


def describe_export(config: Config, name: str, *, mixes: bool) -> dict[str, Any]:
    """The description for programs that load the graph, with the keys of so-vits-svc's own.

    Source: so-vits-svc 4.1, onnx_export.py; `Hubert` is the encoder's name if it is not a ContentVec one.
    """
    model, data = config.model, config.data
    contentvec = {"vec768l12": "vec-768-layer-12", "vec256l9": "vec-256-layer-9"}
    names = sorted(config.spk, key=config.spk.get) or [str(number) for number in range(model.n_speakers)]
    return {
        "Folder": name,
        "Name": name,
        "Type": "SoVits",
        "Rate": data.sampling_rate,
        "Hop": data.hop_length,
        "Cluster": "",
        "Hubert": contentvec.get(model.speech_encoder, model.speech_encoder),
        "SoVits3": False,
        "SoVits4": True,
        "CharaMix": mixes,
        "Volume": model.vol_embedding,
        "HiddenSize": model.ssl_dim,
        "Characters": names,
    }


def example_inputs(config: Config, n_frames: int, *, mixes: bool, seed: int = 0) -> dict[str, Tensor]:
    """Example inputs in the graph's order, with random content and a gliding f0: to trace and to check it."""
    draw = torch.Generator().manual_seed(seed)
    n_content = max(1, round(n_frames * config.data.hop_length / config.data.sampling_rate * CONTENT_HZ))
    frames = torch.arange(n_frames)
    voiced = (frames % 20 < 15).float()[None]
    inputs = {
        "c": torch.randn(1, n_content, config.model.ssl_dim, generator=draw),
        "f0": 220 * 2 ** (0.5 * torch.sin(frames / 10))[None],
        "mel2ph": (1 + frames * n_content // n_frames)[None],
        "uv": voiced,
        "noise": 0.4 * torch.randn(1, config.model.inter_channels, n_frames, generator=draw),
        "sid": torch.zeros(1, dtype=torch.long),
    }
    if mixes:
        inputs["sid"] = torch.rand(n_frames, _n_speakers(config), generator=draw).softmax(dim=1)
    if config.model.vol_embedding:
        inputs["vol"] = 0.1 * voiced
    return inputs


class ExportedGenerator(nn.Module):
    """An exported voice, run by onnxruntime on the CPU; a replacement for the network it was exported from.

    Attributes:
        inputs: names, in the graph's order.
        n_mixed: speakers whose weights the graph takes per frame; 0 where it takes one speaker's id.
        n_latents: channels of the noise.

    Raises:
        MissingExtra: onnxruntime is not installed.
    """

    def __init__(self, path: Path | str) -> None:
        super().__init__()
        self.session = open_onnx(path, "svcnb export VOICE")
        shapes = {node.name: node.shape for node in self.session.get_inputs()}
        self.inputs = tuple(shapes)
        self.n_mixed = shapes["sid"][1] if len(shapes["sid"]) == 2 else 0
        self.n_latents = shapes["noise"][1]

    def run(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Waveform float32 [1, 1, T] from the graph's own inputs."""
        arrays = {name: inputs[name].cpu().numpy() for name in self.inputs}
        return torch.from_numpy(self.session.run(["audio"], arrays)[0])

    def infer(
        self,
        content: Tensor,
        f0: Tensor,
        voiced: Tensor,
        speaker: Tensor,
        *,
        volume: Tensor | None = None,
        noise_scale: float = 0.35,
        predict_f0: bool = False,
        noise: Noise | None = None,
    ) -> InferOutput:
        """As SynthesizerTrn.infer, for one item; the latents get the same noise, the harmonic source its own.

        Raises:
            SvcError: predict_f0, or several speakers for a graph that takes one.
        """
        if predict_f0:
            raise SvcError("an exported voice has no f0 predictor: leave auto_predict_f0 (-a) off")
        n_frames = content.shape[2]
        drawn = (noise or Noise()).normal((1, self.n_latents, n_frames), like=f0)
        inputs = {
            "c": content.transpose(1, 2).contiguous(),
            "f0": f0,
            "mel2ph": 1 + torch.arange(n_frames)[None],
            "uv": voiced,
            "noise": noise_scale * drawn,
            "sid": self._speaker(speaker, n_frames),
            "vol": volume,
        }
        return InferOutput(self.run(inputs), f0)

    def _speaker(self, speaker: Tensor, n_frames: int) -> Tensor:
        mixed = speaker.is_floating_point()
        if not self.n_mixed:
            if mixed:
                raise SvcError(
                    "this voice was exported for one speaker at a time: export it with mixes=True to mix"
                )
            return speaker[0]
        if not mixed:
            return nn.functional.one_hot(speaker[0], self.n_mixed).float().expand(n_frames, -1).contiguous()
        return nn.functional.pad(speaker, (0, self.n_mixed - speaker.shape[1]))


def with_exported(voice: Voice, path: Path | str) -> Voice:
    """The same voice with an exported file as its network: converts whole songs, to compare by listening."""
    return voice.with_generator(ExportedGenerator(path), torch.device("cpu"))


def check_export(
    path: Path | str, source: Path | str, *, n_frames: tuple[int, ...] = (60, 211)
) -> dict[int, float]:
    """Largest deviation of an exported voice from the PyTorch network, for several lengths.

    Returns:
        number of frames -> largest difference of two samples; full scale is 1.
    """
    exported = ExportedGenerator(path)
    config, network = exportable(source, mixes=exported.n_mixed > 0)
    deviations = {}
    for n in n_frames:
        inputs = example_inputs(config, n, mixes=network.mixes, seed=n)
        if tuple(inputs) != exported.inputs:
            raise SvcError(
                f"{path} has the inputs {', '.join(exported.inputs)}, this voice {', '.join(inputs)}: "
                "was it made from another voice? Export it again"
            )
        with torch.no_grad():
            deviations[n] = float((exported.run(inputs) - network(**inputs)).abs().max())
    return deviations


def _n_speakers(config: Config) -> int:
    """Number of speakers that a mix can name: up to the highest id that has a name."""
    return max(config.spk.values(), default=config.model.n_speakers - 1) + 1


class OnnxGenerator(nn.Module):
    """The exported graph: content, f0 and speaker to waveform, one item at a time.

    Args:
        generator: trained; it is copied, not changed.
        mixes: whether `sid` holds weights per frame instead of one id.

    Source: so-vits-svc 4.1's exported graphs, whose input and output names these are.
    """

    def __init__(self, generator: SynthesizerTrn, *, mixes: bool) -> None:
        super().__init__()
        self.network, self.mixes = exportable_copy(generator), mixes

    def forward(
        self,
        c: Tensor,
        f0: Tensor,
        mel2ph: Tensor,
        uv: Tensor,
        noise: Tensor,
        sid: Tensor,
        vol: Tensor | None = None,
    ) -> Tensor:
        """Synthesize the waveform.

        Args:
            c: content [1, N50, D] from the encoder.
            f0: [1, N] in Hz, gaps interpolated.
            mel2ph: long [1, N], for each frame the number of its content frame, counted from 1; 0 = silence.
            uv: [1, N], 1 = voiced.
            noise: [1, C, N], standard normal times the wanted noise scale.
            sid: long [1], the speaker; or, if speakers are mixed, float [N, S], rows sum to 1.
            vol: [1, N], loudness, if the voice is conditioned on it.

        Returns:
            waveform [1, 1, N * hop].
        """
        from_zero = F.pad(c, (0, 0, 1, 0))  # [1, 1 + N50, D], row 0 is silence
        content = from_zero[0].index_select(0, mel2ph[0]).t().unsqueeze(0)  # [1, D, N]
        g = self.network.embed_speaker(sid if self.mixes else sid.unsqueeze(0))
        prior = self.network.prior(content, f0, uv, volume=vol)
        z_p = (prior.m_p + noise * prior.logs_p.exp()) * prior.mask
        z = self.network.flow(z_p, prior.mask, g, reverse=True)
        return self.network.dec(z * prior.mask, self.network.source_f0(f0, uv), g)
