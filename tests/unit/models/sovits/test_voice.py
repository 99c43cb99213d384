"""so-vits voices: configs, training that resumes, loading with helpful errors, conversion."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from svcnb import SvcError
from svcnb.audio.audio import Audio, read_audio, write_audio
from svcnb.conversion.settings import ConversionSettings
from svcnb.data.settings import PrepareSettings
from svcnb.features.pitch.track import F0Track
from svcnb.models import sovits
from svcnb.models.sovits.checkpoint import read_sovits_checkpoint, save_sovits_checkpoint
from svcnb.models.sovits.config import Config
from svcnb.training.settings import TrainSettings

RATE_HZ = 22050
SETTINGS = {"device": "cpu", "log_every_steps": 1}


def sung_tone(f0_hz: float, seconds: float) -> Audio:
    """Harmonics with a slow vibrato and a pause in the middle."""
    time = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    phase = 2 * np.pi * np.cumsum(f0_hz * (1 + 0.01 * np.sin(2 * np.pi * 5 * time))) / RATE_HZ
    samples = sum(np.sin(k * phase) / k for k in range(1, 12)) * 0.15
    samples[int(0.45 * len(samples)) : int(0.55 * len(samples))] = 0
    return Audio(samples.astype(np.float32), RATE_HZ)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of two speakers, their features (WORLD's f0, which is fast) and a voice of three steps."""
    folder = tmp_path_factory.mktemp("recipe")
    for speaker, f0_hz in (("low", 110.0), ("high", 220.0)):
        for i in range(3):
            write_audio(folder / "clips" / speaker / f"{i}.flac", sung_tone(f0_hz * (1 + 0.03 * i), 1.6))
    report = sovits.prepare(
        Config.small(), folder / "clips", folder / "features", PrepareSettings(f0_method="dio")
    )
    assert len(report.done) == 6
    sovits.train(folder / "features", folder / "voice", TrainSettings(max_steps=3, **SETTINGS))
    return folder


@pytest.fixture(scope="module")
def voice(trained: Path) -> sovits.Voice:
    return sovits.load_voice(trained / "voice")


def test_config_survives_a_round_trip_unchanged(tmp_path: Path) -> None:
    for config in (Config.small(), Config.full("4.0"), Config.full()):
        assert Config.load(config.save(tmp_path / "config.json")) == config


def test_full_config_is_written_with_the_familys_keys_only(tmp_path: Path) -> None:
    stored = json.loads(Config.full().save(tmp_path / "config.json").read_text())
    assert set(stored) == {"train", "data", "model", "spk"} and len(stored["train"]) == 22
    assert not {"c_stft", "c_hear", "c_prior", "max_frames"} & set(stored["train"])


@pytest.mark.parametrize(
    "content, message",
    [
        ("not json", "not a JSON config"),
        ("{}", "no 'model' section"),
        ('{"model": {"hiden_channels": 1}}', "model.hiden_channels"),
        ('{"model": {}, "train": {"batch_size": 0}}', "train.batch_size"),
        ('{"model": {}, "data": {"c_dim": 256}}', "4.0-v2"),
    ],
)
def test_bad_configs_are_refused_by_what_is_wrong(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(SvcError, match=message):
        Config.load(tmp_path / "config.json")


def test_forks_keys_are_tolerated_where_a_voice_is_only_loaded(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model": {"type_": "hifi-gan"}, "extra": 1}')
    assert Config.load(tmp_path / "config.json", strict=False).model.speech_encoder is None


def test_speakers_are_numbered_in_alphabetical_order(trained: Path) -> None:
    assert Config.load(trained / "features" / "config.json").spk == {"high": 0, "low": 1}


def test_resumed_training_equals_an_uninterrupted_one(trained: Path, tmp_path: Path) -> None:
    for steps in (2, 3):
        sovits.train(trained / "features", tmp_path / "broken", TrainSettings(max_steps=steps, **SETTINGS))
    whole = read_sovits_checkpoint(trained / "voice" / "G_3.pth").model
    resumed = read_sovits_checkpoint(tmp_path / "broken" / "G_3.pth").model
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_training_refuses_a_folder_with_another_configuration(trained: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(trained / "voice", tmp_path / "voice")
    config = Config.load(trained / "voice" / "config.json")
    config.spk = {"somebody": 0}
    config.save(tmp_path / "voice" / "config.json")
    with pytest.raises(SvcError, match="another configuration"):
        sovits.train(trained / "features", tmp_path / "voice", TrainSettings(max_steps=4, **SETTINGS))


def test_warm_start_takes_everything_from_a_base_and_its_mean_speaker_for_new_ones(
    trained: Path, tmp_path: Path
) -> None:
    base = read_sovits_checkpoint(trained / "voice" / "G_3.pth")
    base.model["emb_g.weight"] = torch.randn(5, base.model["emb_g.weight"].shape[1])
    save_sovits_checkpoint(tmp_path / "G_0.pth", model_state=base.model, iteration=1, learning_rate=1e-4)
    config = Config.load(trained / "features" / "config.json")
    networks = sovits.build(config)
    from svcnb.models.sovits.checkpoint import start_from

    start_from(tmp_path / "G_0.pth", networks.generator, None)
    for row in networks.generator.emb_g.weight:
        torch.testing.assert_close(row, base.model["emb_g.weight"].mean(0))
    assert torch.equal(networks.generator.pre.weight, base.model["pre.weight"])


def test_voice_converts_to_the_inputs_length_at_its_own_rate(voice: sovits.Voice) -> None:
    source = Audio(sung_tone(150, 1.3).samples[:-7], 16000)
    result = voice.convert(source, ConversionSettings(f0_method="dio", speaker="low"))
    assert result.sample_rate_hz == RATE_HZ
    assert result.n_samples == round(source.n_samples / 16000 * RATE_HZ)
    assert np.isfinite(result.samples).all() and result.peak > 1e-3


def test_same_seed_gives_the_same_result(voice: sovits.Voice) -> None:
    settings = ConversionSettings(f0_method="dio")
    first, second = (voice.convert(sung_tone(150, 0.6), settings).samples for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_file_and_memory_conversion_agree(voice: sovits.Voice, tmp_path: Path) -> None:
    settings = ConversionSettings(f0_method="dio", audio_format="wav")
    source = write_audio(tmp_path / "a song.wav", sung_tone(150, 1.0))
    path = voice.convert_file(source, tmp_path / "out", settings)
    assert path.name == "a song.wav_0key_high_sovits_dio.wav"
    np.testing.assert_allclose(
        read_audio(path).samples, voice.convert(read_audio(source), settings).samples, atol=1e-4
    )


def test_unknown_speaker_raises_with_the_known_ones(voice: sovits.Voice) -> None:
    with pytest.raises(SvcError, match="high, low"):
        voice.convert(sung_tone(150, 0.5), ConversionSettings(speaker="nobody", f0_method="dio"))


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"enhance": True}, "nsf_hifigan_20221211.zip"),
        ({"cluster_ratio": 0.5}, "svcnb cluster"),
    ],
)
def test_missing_files_raise(choices: dict, message: str, voice: sovits.Voice) -> None:
    with pytest.raises(SvcError, match=message):
        voice.convert(sung_tone(150, 0.5), ConversionSettings(f0_method="dio", **choices))


def test_automatic_f0_warns_on_singing(voice: sovits.Voice) -> None:
    with pytest.warns(UserWarning, match="sounds sung"):
        voice.convert(sung_tone(220, 2.0), ConversionSettings(f0_method="dio", auto_predict_f0=True))


def test_suggested_transposition_matches_the_median_f0(voice: sovits.Voice) -> None:
    octave_above_low = F0Track(np.full(50, 226.0), 0.01)
    assert voice.suggest_transpose(octave_above_low, "low") == -12
    assert voice.suggest_transpose(F0Track(np.zeros(50), 0.01), "low") is None


def test_config_that_does_not_fit_the_weights_raises_with_the_keys(trained: Path, tmp_path: Path) -> None:
    config = Config.load(trained / "voice" / "config.json")
    config.model.n_layers, config.model.ssl_dim = 5, 256
    path = config.save(tmp_path / "config.json")
    with pytest.raises(SvcError, match="(?s)ssl_dim is 256.*n_layers is 5"):
        sovits.load_voice(trained / "voice", config=path)


def test_newest_checkpoint_is_taken_by_its_step(trained: Path, tmp_path: Path) -> None:
    from svcnb.models.sovits.files import locate_voice

    for step in (900, 1000, 30):
        (tmp_path / f"G_{step}.pth").touch()
    assert locate_voice(tmp_path, None)[0].name == "G_1000.pth"


def test_a_checkpoint_in_so_vits_svcs_layout_loads(voices_of_the_family: Path) -> None:
    config = Config.load(voices_of_the_family / "config.json", strict=False)
    networks = sovits.build(config)
    state = read_sovits_checkpoint(voices_of_the_family / "G_0.pth").model
    from svcnb.files.checkpoint import load_weights, to_plain_names

    assert set(to_plain_names(networks.generator.state_dict())) == set(state)
    load_weights(networks.generator, state)


@pytest.fixture
def voices_of_the_family(reference_folder: Path | None) -> Path:
    found = sorted(reference_folder.glob("*/G_0.pth")) if reference_folder else []
    if not found:
        pytest.skip("no recorded G_0.pth here")
    return found[0].parent


class TinyDiscriminator(torch.nn.Module):
    """Scores a waveform as the real one does, with one convolution."""

    def __init__(self, use_spectral_norm: bool) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv1d(1, 4, 15, stride=8)

    def forward(self, waveform: torch.Tensor) -> tuple[list[torch.Tensor], list[list[torch.Tensor]]]:
        features = self.convolution(waveform)
        return [features.flatten(1)], [[features]]


def test_adversarial_training_writes_both_networks_and_resumes(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    monkeypatch.setattr("svcnb.models.sovits.step.MultiPeriodDiscriminator", TinyDiscriminator)
    features = shutil.copytree(trained / "features", tmp_path / "features")
    config = Config.load(features / "config.json")
    config.train.c_adversarial = 1.0
    config.save(features / "config.json")
    for steps in (1, 2):
        report = sovits.train(
            features, tmp_path / "voice", TrainSettings(max_steps=steps, **SETTINGS), batch_size=2
        )
    assert {"disc", "gen", "fm", "mel", "kl", "total"} <= set(report.last_losses)
    assert {path.name for path in (tmp_path / "voice").glob("[GD]_*.pth")} == {
        "G_1.pth",
        "D_1.pth",
        "G_2.pth",
        "D_2.pth",
    }
    assert Config.load(tmp_path / "voice" / "config.json").train.batch_size == 2


def test_an_edited_f0_is_used_instead_of_the_recordings(voice: sovits.Voice, tmp_path: Path) -> None:
    source = sung_tone(150, 1.5)
    curve = F0Track(np.full(voice.estimate_f0(source, "dio").n_frames, 300.0), 256 / RATE_HZ).to_csv(
        tmp_path / "curve.csv"
    )
    edited = voice.convert(source, ConversionSettings(f0_method="dio"), f0=F0Track.from_csv(curve))
    own = voice.convert(source, ConversionSettings(f0_method="dio"))
    assert voice.estimate_f0(edited, "dio").median_hz() == pytest.approx(300, rel=0.02)
    assert voice.estimate_f0(own, "dio").median_hz() == pytest.approx(150, rel=0.02)


def test_a_given_f0_is_aligned_by_time_in_every_chunk(voice: sovits.Voice) -> None:
    from svcnb.conversion.long_audio import Chunk

    f0 = F0Track(np.arange(1.0, 401.0), 0.01)
    hop_s = voice.hop_samples / RATE_HZ
    chunk = Chunk(np.zeros(voice.hop_samples * 100, np.float32), RATE_HZ, 40 * voice.hop_samples, 0.3, 0.4)
    part = voice._slice_f0(f0, chunk).f0_hz
    assert not part[: int((40 * hop_s - 0.3) / hop_s)].any(), "unvoiced before the start of the recording"
    assert part[40] == round(0.3 / 0.01) + 1
