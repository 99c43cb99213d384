"""Exported voices: the graph in onnxruntime gives the output of the PyTorch network, at any length."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from svcnb import MissingExtra, SvcError
from svcnb.audio.audio import Audio
from svcnb.cli.main import main
from svcnb.conversion.settings import ConversionSettings
from svcnb.models import sovits
from svcnb.models.sovits.checkpoint import save_sovits_checkpoint
from svcnb.models.sovits.export import (
    ExportedGenerator,
    ExportReport,
    OnnxGenerator,
    check_export,
    example_inputs,
    exportable,
    with_exported,
)
from svcnb.nn.layers import Noise
from svcnb.nn.onnx import StoredNoise
from tests.toys.small_voice import tiny_config as small_config
from tests.toys.tiny_voice import tiny_config as family_config

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

TOLERANCE = 1e-5  # of full scale; found: below 1e-6


def family(**model) -> sovits.Config:
    """so-vits-svc's architecture with its own decoder, two speakers and the loudness embedding, tiny."""
    config = family_config()
    config.model = config.model.model_copy(update={"speech_encoder": "vec256l9", "ssl_dim": 256} | model)
    return config


def other_variants() -> sovits.Config:
    """The other variants: one speaker, no loudness, transformer flow, anti-aliased snake decoder."""
    config = family(
        use_transformer_flow=True,
        use_depthwise_conv=False,
        flow_share_parameter=False,
        n_layers_trans_flow=1,
        vocoder_name="nsf-snake-hifigan",
        vol_embedding=False,
        n_speakers=1,
        use_automatic_f0_prediction=False,
    )
    config.spk = {"ada": 0}
    return config


def small_two() -> sovits.Config:
    """Our own frame decoder, two speakers."""
    config = small_config()
    config.spk, config.model.n_speakers = {"ada": 0, "bob": 1}, 2
    return config


@dataclass
class Exported:
    voice: Path
    report: ExportReport
    config: sovits.Config


@pytest.fixture(scope="module", params=[family, other_variants, small_two], ids=lambda make: make.__name__)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    config, folder = request.param(), tmp_path_factory.mktemp("voice")
    save_voice(config, folder)
    return Exported(folder, sovits.export_voice(folder, folder / "graph" / "mine.onnx"), config)


def save_voice(config: sovits.Config, folder: Path) -> Path:
    config.save(folder / "config.json")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = sovits.build(config).generator
        for parameter in generator.flow.parameters():  # an untrained flow is the identity
            torch.nn.init.normal_(parameter, std=0.1)
    save_sovits_checkpoint(
        folder / "G_0.pth", model_state=generator.state_dict(), iteration=0, learning_rate=1e-4
    )
    return folder


@pytest.mark.parametrize("n_frames", [5, 61, 240])
def test_the_graph_gives_the_output_of_torch_at_any_length(exported: Exported, n_frames: int) -> None:
    graph = ExportedGenerator(exported.report.path)
    config, network = exportable(exported.voice)
    inputs = example_inputs(config, n_frames, mixes=network.mixes, seed=n_frames)
    inputs["f0"][:, n_frames // 2 :][:, :3] = 0  # the source is noise there
    with torch.no_grad():
        expected = network(**inputs)
    audio = graph.run(inputs)
    assert audio.shape == (1, 1, n_frames * config.data.hop_length)
    assert expected.abs().max() > 0.01 and torch.isfinite(audio).all()
    torch.testing.assert_close(audio, expected, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(graph.run(inputs), audio, atol=0, rtol=0)  # deterministic


def test_inputs_and_description_are_those_the_family_reads(exported: Exported) -> None:
    mixes, volume = len(exported.config.spk) > 1, exported.config.model.vol_embedding
    assert exported.report.inputs == ("c", "f0", "mel2ph", "uv", "noise", "sid", *(["vol"] if volume else []))
    graph = ExportedGenerator(exported.report.path)
    assert graph.inputs == exported.report.inputs and graph.n_mixed == (2 if mixes else 0)
    assert [node.name for node in graph.session.get_outputs()] == ["audio"]
    described = json.loads(exported.report.description_path.read_text(encoding="utf-8"))
    assert (
        described.items()
        >= {
            "Name": "mine",
            "Type": "SoVits",
            "SoVits4": True,
            "SoVits3": False,
            "CharaMix": mixes,
            "Volume": volume,
            "Rate": exported.config.data.sampling_rate,
            "Hop": exported.config.data.hop_length,
            "HiddenSize": exported.config.model.ssl_dim,
            "Characters": list(exported.config.spk),
            "Cluster": "",
        }.items()
    )
    assert described["Hubert"] == ("svcnb-units" if exported.config.is_small else "vec-256-layer-9")


def test_the_check_finds_it_equal_and_refuses_another_voice(exported: Exported, tmp_path: Path) -> None:
    deviations = check_export(exported.report.path, exported.voice, n_frames=(20, 33))
    assert list(deviations) == [20, 33] and max(deviations.values()) < TOLERANCE
    other = save_voice(family() if not exported.config.model.vol_embedding else other_variants(), tmp_path)
    with pytest.raises(SvcError):
        check_export(exported.report.path, other)


class SameNoise(Noise):
    """The given noise for the latents, start phases 0, and the exported graph's noise for the source."""

    def __init__(self, latents: torch.Tensor) -> None:
        self.latents, self.stored = latents, StoredNoise()

    def normal(self, shape: tuple[int, ...], *, like: torch.Tensor) -> torch.Tensor:
        return self.latents if shape == tuple(self.latents.shape) else self.stored(torch.empty(shape))

    def uniform(self, shape: tuple[int, ...], *, like: torch.Tensor) -> torch.Tensor:
        return torch.zeros(shape)


@pytest.mark.parametrize("make", [family, other_variants, small_two])
def test_the_exported_network_gives_the_output_of_the_voice(make) -> None:
    """The same numbers, except for rounding in a running sum over the samples."""
    config = make()
    torch.manual_seed(0)
    generator = sovits.build(config).generator.eval()
    inputs = example_inputs(config, 50, mixes=False, seed=1)
    content = inputs["c"][:, inputs["mel2ph"][0] - 1].transpose(1, 2)
    expected = generator.infer(
        content,
        inputs["f0"],
        inputs["uv"],
        inputs["sid"][None],
        volume=inputs.get("vol"),
        noise_scale=1.0,
        noise=SameNoise(inputs["noise"]),
    ).audio
    with torch.no_grad():
        audio = OnnxGenerator(generator, mixes=False)(**inputs)
    assert (audio - expected).abs().max() < 2e-3 * expected.abs().max()


def test_the_first_content_frame_is_number_one_and_zero_is_silence() -> None:
    config = family()
    network = OnnxGenerator(sovits.build(config).generator.eval(), mixes=False)
    inputs = example_inputs(config, 20, mixes=False)
    silent = inputs | {"mel2ph": torch.zeros_like(inputs["mel2ph"])}
    with torch.no_grad():
        assert torch.equal(network(**silent), network(**silent | {"c": torch.randn_like(inputs["c"])}))
        nothing = inputs | {"c": torch.zeros_like(inputs["c"])}
        assert torch.equal(network(**silent), network(**nothing)) and not torch.equal(
            network(**silent), network(**inputs)
        )


def test_a_voice_that_is_not_a_voice_or_has_another_suffix_is_refused(tmp_path: Path, monkeypatch) -> None:
    folder = save_voice(other_variants(), tmp_path / "one")
    with pytest.raises(SvcError, match="name it mine.onnx"):
        sovits.export_voice(folder, tmp_path / "mine.pth")
    with pytest.raises(SvcError, match="one speaker: there is nothing to mix"):
        sovits.export_voice(folder, tmp_path / "mine.onnx", mixes=True)
    assert main(["export", str(tmp_path / "nowhere"), str(tmp_path / "mine.onnx")]) == 2
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    with pytest.raises(MissingExtra, match=r"svcnb\[onnx\]"):
        sovits.export_voice(folder, tmp_path / "mine.onnx")
    assert not list(tmp_path.glob("mine*"))


def test_a_song_can_be_converted_by_the_exported_voice(tmp_path: Path) -> None:
    from tests.toys.small_voice import save_small_voice

    folder = save_small_voice(tmp_path / "voice", speakers=("ada", "bob"))
    assert main(["export", str(folder), str(tmp_path / "duo.onnx"), "--check"]) == 0
    voice = sovits.load_voice(folder)
    exported = with_exported(voice, tmp_path / "duo.onnx")
    time = np.arange(33000) / 22050
    song = Audio((0.2 * np.sin(2 * np.pi * 200 * time)).astype(np.float32), 22050)
    for choice in ({"speaker": "bob"}, {"speaker_mix": "ada=1>0, bob=0>1"}):
        settings = ConversionSettings(f0_method="dio", **choice)
        ours, theirs = (one.convert(song, settings).samples for one in (voice, exported))
        assert len(theirs) == len(ours) and np.corrcoef(ours, theirs)[0, 1] > 0.99, (
            "only the noise in it differs"
        )
    with pytest.raises(SvcError, match="no f0 predictor"):
        exported.generator.infer(*[torch.zeros(1, 1, 4)] * 4, predict_f0=True)
