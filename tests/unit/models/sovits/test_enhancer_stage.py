"""The enhancer in a conversion: f0, length, and errors about missing files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from svcnb import SvcError
from svcnb.audio.audio import Audio, read_audio, write_audio
from svcnb.cli.main import main
from svcnb.conversion.settings import ConversionSettings
from svcnb.models import sovits
from svcnb.models.sovits.pipeline import Refiners, stage_after_generator
from svcnb.models.vocoder.enhancer import Enhancer
from svcnb.models.vocoder.network import VocoderError
from tests.toys.small_voice import save_small_voice
from tests.unit.models.vocoder.test_network import CONFIG, write_vocoder

SMALL = CONFIG | {
    "sampling_rate": 22050,
    "hop_size": 256,
    "n_fft": 1024,
    "win_size": 1024,
    "fmax": 11025,
    "upsample_rates": [16, 16],
    "upsample_kernel_sizes": [32, 32],
}
FULL = SMALL | {
    "sampling_rate": 44100,
    "hop_size": 512,
    "n_fft": 2048,
    "win_size": 2048,
    "upsample_rates": [16, 32],
    "upsample_kernel_sizes": [32, 64],
}


@pytest.fixture(scope="module")
def voice_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_small_voice(tmp_path_factory.mktemp("stage") / "voice")
    write_vocoder(folder / "vocoder", SMALL)
    return folder


@pytest.fixture(scope="module")
def song() -> Audio:
    time = np.arange(22050 + 77) / 22050
    return Audio((0.3 * np.sin(2 * np.pi * 200 * time)).astype(np.float32), 22050)


def settings(**choices) -> ConversionSettings:
    return ConversionSettings(f0_method="dio", **choices)


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"enhancer_adaptive_key": 4},
        {"enhancer_adaptive_key": -5},
        {"pad_seconds": 0.0},
        {"clip_seconds": 0.3, "crossfade_seconds": 0.1},
        {"like_original": True},
        {"loudness_envelope_ratio": 0.5},
    ],
    ids=str,
)
def test_enhanced_conversion_is_as_long_as_the_source_and_different(
    voice_folder: Path, song: Audio, choices: dict
) -> None:
    voice = sovits.load_voice(voice_folder)
    plain, enhanced = (voice.convert(song, settings(enhance=on, **choices)).samples for on in (False, True))
    assert len(enhanced) == len(plain) and np.isfinite(enhanced).all()
    assert len(enhanced) == song.n_samples or "like_original" in choices
    assert np.abs(enhanced - plain).max() > 1e-3
    np.testing.assert_array_equal(voice.convert(song, settings(enhance=True, **choices)).samples, enhanced)


def test_voice_and_vocoder_may_have_different_rates(voice_folder: Path, song: Audio, tmp_path: Path) -> None:
    voice = sovits.load_voice(voice_folder, vocoder=write_vocoder(tmp_path / "full", FULL))
    enhanced = voice.convert(song, settings(enhance=True))
    assert (enhanced.sample_rate_hz, enhanced.n_samples) == (22050, song.n_samples)
    assert 0 < np.abs(enhanced.samples).max() < 1


def test_the_vocoder_gets_the_f0_of_the_voice(
    voice_folder: Path, song: Audio, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[np.ndarray] = []

    def record(self, samples, f0_hz, *, noise=None):
        given.append(f0_hz)
        return samples

    monkeypatch.setattr(Enhancer, "__call__", record)
    voice = sovits.load_voice(voice_folder)
    for semitones in (0, 12):
        voice.convert(song, settings(enhance=True, transpose_semitones=semitones, max_chunk_s=60))
    medians_hz = [np.median(f0_hz) for f0_hz in given]
    assert medians_hz[0] == pytest.approx(200, rel=0.01) and medians_hz[1] == pytest.approx(400, rel=0.01)


def test_a_missing_vocoder_raises_before_anything_is_converted(tmp_path: Path, song: Audio, capsys) -> None:
    folder = save_small_voice(tmp_path / "voice")
    voice = sovits.load_voice(folder, pretrain_folder=tmp_path / "pretrain")
    wanted = r"(?s)voice/vocoder or .*pretrain/nsf_hifigan.*nsf_hifigan_20221211.zip.*svcnb vocoder CLIPS .*voice/vocoder"
    with pytest.raises(VocoderError, match=wanted):
        voice.check(settings(enhance=True))
    voice.check(settings())
    source = write_audio(tmp_path / "song.wav", song)
    words = [
        "convert",
        str(folder),
        str(source),
        "-eh",
        "--vocoder",
        str(tmp_path / "none"),
        "-o",
        str(tmp_path / "out"),
    ]
    assert main(words) == 2 and "no such vocoder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_flags_reach_the_enhancer(voice_folder: Path, song: Audio, tmp_path: Path) -> None:
    source, vocoder = write_audio(tmp_path / "song.wav", song), write_vocoder(tmp_path / "mine", SMALL)
    results = []
    for number, flags in enumerate(
        ([], ["-eh"], ["-eh", "-eak", "5"], ["-eh", "--vocoder", str(vocoder / "model")])
    ):
        words = [
            "convert",
            str(voice_folder),
            str(source),
            "-f0p",
            "dio",
            "-wf",
            "wav",
            "-o",
            str(tmp_path / str(number)),
        ]
        assert main([*words, *flags]) == 0
        results.append(read_audio(next((tmp_path / str(number)).glob("*.wav"))).samples)
    assert all(len(samples) == song.n_samples for samples in results)
    assert not np.array_equal(results[0], results[1]) and not np.array_equal(results[1], results[2])
    np.testing.assert_array_equal(results[1], results[3])


def test_evaluations_notice_another_vocoder(tmp_path: Path) -> None:
    folder = save_small_voice(tmp_path / "voice")
    fingerprints = {sovits.load_voice(folder, pretrain_folder=tmp_path).fingerprint()}
    fingerprints.add(
        sovits.load_voice(
            folder, pretrain_folder=write_vocoder(tmp_path / "nsf_hifigan", SMALL).parent
        ).fingerprint()
    )
    write_vocoder(folder / "vocoder", FULL)
    fingerprints.add(sovits.load_voice(folder, pretrain_folder=tmp_path).fingerprint())
    assert len(fingerprints) == 3


def test_shallow_diffusion_replaces_the_enhancer_with_a_warning(
    voice_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    voice, both = sovits.load_voice(voice_folder), settings(enhance=True, shallow_diffusion=True)
    monkeypatch.setattr(
        Refiners,
        "diffuser",
        lambda self: SimpleNamespace(
            network=SimpleNamespace(k_step_max=1000, decoder=SimpleNamespace(timesteps=1000))
        ),
    )
    with pytest.warns(UserWarning, match="enhance .-eh. is ignored"):
        voice.check(both)
    assert stage_after_generator(both) == "diffusion"


def test_adaptive_key_out_of_range_is_refused_by_its_flag() -> None:
    with pytest.raises(SvcError, match="enhancer_adaptive_key .-eak. is 30: expected from -24 to 24"):
        ConversionSettings(enhancer_adaptive_key=30)
