"""Tests of all f0 predictors on tones of known f0; and torchaudio without its binary."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from svcnb import MissingExtra
from svcnb.features.pitch.classical import (
    FrameGrid,
    PitchError,
    PitchSettings,
    center_f0,
    sample_f0,
    stretch_f0,
)
from svcnb.features.pitch.estimator import PitchEstimator
from svcnb.features.pitch.neural import RmvpeMel, RmvpePredictor, load_rmvpe, run_in_blocks
from svcnb.features.pitch.rmvpe import Rmvpe, RmvpeLayout, decode_salience
from svcnb.files.optional_imports import ensure_torchaudio, import_optional

RATE_HZ, HOP_SAMPLES = 44100, 512
PACKAGES = {
    "fcpe": "torchfcpe",
    "crepe": "torchcrepe",
    "dio": "pyworld",
    "harvest": "pyworld",
    "pm": "parselmouth",
}
FAST_METHODS = [name for name in PACKAGES if name != "crepe"]  # crepe: 4 s of CPU time per second of audio
TINY = RmvpeLayout(n_blocks=1, en_de_layers=2, inter_layers=1, en_out_channels=2)


@cache
def estimator(method: str, sample_rate_hz: int = RATE_HZ, hop_samples: int = HOP_SAMPLES) -> PitchEstimator:
    if importlib.util.find_spec(PACKAGES[method]) is None:
        pytest.skip(f"{PACKAGES[method]} is not installed: {method} not tested")
    return PitchEstimator(method, sample_rate_hz=sample_rate_hz, hop_samples=hop_samples)


def tone(f0_hz: np.ndarray | float, seconds: float, sample_rate_hz: int = RATE_HZ) -> np.ndarray:
    """Harmonics 1-10 at 1/k, peak 0.4."""
    f0_hz = np.broadcast_to(f0_hz, round(seconds * sample_rate_hz))
    phase = 2 * np.pi * np.cumsum(f0_hz) / sample_rate_hz
    wave = sum(np.sin(k * phase) / k for k in range(1, 11))
    return (0.4 * wave / np.abs(wave).max()).astype(np.float32)


def cents(f0_hz: np.ndarray, truth_hz: np.ndarray | float) -> np.ndarray:
    return 1200 * np.log2(f0_hz / truth_hz)


@pytest.mark.parametrize("method", PACKAGES)
def test_a_220_hz_tone_is_found_within_20_cents(method: str):
    middle = estimator(method)(tone(220.0, 0.4)).f0_hz[8:26]
    assert (middle > 0).all()
    assert np.abs(cents(middle, 220.0)).max() < 20


@pytest.mark.parametrize("method", PACKAGES)
def test_silence_is_unvoiced(method: str):
    assert not estimator(method)(np.zeros(RATE_HZ // 2, np.float32)).voiced.any()


def test_white_noise_is_unvoiced_for_the_default_method():
    noise = 0.1 * np.random.default_rng(0).standard_normal(RATE_HZ).astype(np.float32)
    assert estimator("fcpe")(noise).voiced.mean() < 0.05


@pytest.mark.parametrize("method", FAST_METHODS)
@pytest.mark.parametrize("n_samples", [512 * 40, 512 * 41 - 1, 20011])
def test_there_are_t_over_hop_frames_for_any_length(method: str, n_samples: int):
    assert estimator(method)(tone(220.0, 1.0)[:n_samples]).n_frames == n_samples // 512


@pytest.mark.parametrize("method", PACKAGES)
@pytest.mark.parametrize("n_samples", [0, 1, 511, 512, 1300])
def test_inputs_shorter_than_a_window_give_t_over_hop_frames(method: str, n_samples: int):
    found = estimator(method)(tone(220.0, 0.1)[:n_samples])
    assert found.n_frames == n_samples // 512
    assert np.isfinite(found.f0_hz).all()


@pytest.mark.parametrize("method", FAST_METHODS)
def test_more_frames_may_be_requested(method: str):
    assert estimator(method)(tone(220.0, 0.5), n_frames=44).n_frames == 44


@pytest.mark.parametrize("method", FAST_METHODS)
@pytest.mark.parametrize(("sample_rate_hz", "hop_samples"), [(22050, 256), (16000, 160), (32000, 640)])
def test_other_rates_and_hops_give_the_same_pitch(method: str, sample_rate_hz: int, hop_samples: int):
    rising = 200 * 2 ** (np.arange(sample_rate_hz) / sample_rate_hz)  # an octave in a second
    track = estimator(method, sample_rate_hz, hop_samples)(tone(rising, 1.0, sample_rate_hz))
    assert track.n_frames == sample_rate_hz // hop_samples
    inner = slice(len(track.f0_hz) // 8, -len(track.f0_hz) // 8)
    assert track.voiced[inner].all()
    # WORLD's T // hop + 1 frames are squeezed into T // hop as the original does it: half a frame late on average
    allowed = 5 + 1200 * track.hop_s / 2
    assert np.median(np.abs(cents(track.f0_hz[inner], 200 * 2 ** track.times_s[inner]))) < allowed


@pytest.mark.parametrize("method", FAST_METHODS)
def test_vibrato_is_tracked_with_its_rate_and_extent(method: str):
    times_s = np.arange(RATE_HZ) / RATE_HZ
    track = estimator(method)(tone(300 * 2 ** (0.5 / 12 * np.sin(2 * np.pi * 5.5 * times_s)), 1.0))
    truth_hz = 300 * 2 ** (0.5 / 12 * np.sin(2 * np.pi * 5.5 * track.times_s))
    inner = slice(12, -12)
    assert np.median(np.abs(cents(track.f0_hz[inner], truth_hz[inner]))) < 12
    assert np.ptp(cents(track.f0_hz[inner], 300.0)) == pytest.approx(100, abs=25)


@pytest.mark.parametrize("method", PACKAGES)
def test_two_calls_give_the_same_f0(method: str):
    sung = tone(250.0, 0.3)
    np.random.seed(1)
    first = estimator(method)(sung).f0_hz
    np.random.seed(2)
    assert (estimator(method)(sung).f0_hz == first).all()


def test_values_outside_the_range_are_unvoiced():
    if importlib.util.find_spec("torchfcpe") is None:
        pytest.skip("torchfcpe is not installed: fcpe not tested")
    settings = PitchSettings(f0_min_hz=300)
    low = PitchEstimator("fcpe", sample_rate_hz=RATE_HZ, hop_samples=HOP_SAMPLES, settings=settings)
    assert not low(tone(220.0, 0.5)).voiced.any()


@pytest.mark.parametrize("samples", [np.zeros((2, 4000)), np.full(4000, np.nan)])
def test_stereo_and_nan_are_refused(samples: np.ndarray):
    with pytest.raises(PitchError, match="finite mono samples"):
        estimator("dio")(samples)


# ---------------------------------------------------------------- long recordings


def test_blocks_do_not_change_the_f0_of_a_long_recording():
    # fcpe normalises over the whole input, so blocks may differ by a fraction of a cent
    times_s = np.arange(16000 * 16) / 16000
    samples = tone(200 * 2 ** (times_s / 16 + 0.3 / 12 * np.sin(2 * np.pi * 5 * times_s)), 16.0, 16000)
    predictor = estimator("fcpe", 16000, 160).predictor
    whole = predictor.run(samples)[:1600]
    blocks = run_in_blocks(predictor.run, samples, 160, block_frames=480)
    both = (whole > 0) & (blocks > 0)
    assert both.mean() > 0.99 and ((whole > 0) == (blocks > 0)).mean() > 0.995
    assert np.abs(cents(blocks[both], whole[both])).mean() < 1


def test_every_frame_of_a_block_comes_from_its_own_time():
    samples = np.arange(160 * 2000, dtype=np.float32)  # each frame's first sample identifies its position
    frames = run_in_blocks(lambda block: block[::160], samples, 160, block_frames=320)
    assert (frames == samples[::160]).all()


# ---------------------------------------------------------------- rmvpe


def save_rmvpe(folder: Path, layout: RmvpeLayout = TINY, *, wrapped: bool = True) -> Rmvpe:
    torch.manual_seed(0)
    network = Rmvpe(layout).eval()
    state = network.state_dict()
    torch.save({"model": state} if wrapped else state, folder / "rmvpe.pt")
    return network


def test_rmvpe_reads_its_sizes_from_the_file(tmp_path: Path):
    saved = save_rmvpe(tmp_path)
    mel = torch.randn(1, 128, 45, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(load_rmvpe(tmp_path / "rmvpe.pt")(mel), saved(mel))


def test_rmvpe_runs_the_skip_filter_in_the_bare_layout_only(tmp_path: Path):
    saved = save_rmvpe(tmp_path, wrapped=False)
    loaded = load_rmvpe(tmp_path / "rmvpe.pt")
    mel = torch.randn(1, 128, 32, generator=torch.Generator().manual_seed(1))
    assert loaded.unet.runs_skip_filter and not saved.unet.runs_skip_filter
    with torch.no_grad():
        assert not torch.allclose(loaded(mel), saved(mel), atol=1e-6)


def test_rmvpe_reads_a_bare_file_without_skip_filter_in_half_precision(tmp_path: Path):
    torch.manual_seed(0)
    layout = RmvpeLayout(n_blocks=1, en_de_layers=2, inter_layers=1, en_out_channels=2, skip_filter="absent")
    torch.save(
        {k: v.half() if v.is_floating_point() else v for k, v in Rmvpe(layout).state_dict().items()},
        tmp_path / "rmvpe.pt",
    )
    loaded = load_rmvpe(tmp_path / "rmvpe.pt")
    assert not hasattr(loaded.unet, "tf")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_rmvpe_keeps_the_published_names_and_size():
    with torch.device("meta"):
        state = Rmvpe().state_dict()
    assert len(state) == 801
    assert sum(value.numel() for value in state.values()) == pytest.approx(92.0e6, rel=1e-3)


def test_rmvpe_gives_a_track_on_the_models_grid(tmp_path: Path):
    save_rmvpe(tmp_path)
    predictor = PitchEstimator(
        "auto",
        sample_rate_hz=RATE_HZ,
        hop_samples=HOP_SAMPLES,
        settings=PitchSettings(pretrain_folder=tmp_path),
    )
    assert predictor.method == "rmvpe"
    assert predictor(tone(220.0, 0.7)).n_frames == round(0.7 * RATE_HZ) // HOP_SAMPLES


def test_rmvpe_in_blocks_equals_rmvpe_in_one_run(tmp_path: Path):
    save_rmvpe(tmp_path)
    network = load_rmvpe(tmp_path / "rmvpe.pt")
    mel = RmvpeMel()
    samples = tone(200 * 2 ** (np.arange(16000 * 12) / 96000), 12.0, 16000)

    def salience(block: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(mel(torch.from_numpy(block)[None]))[0].numpy()

    whole = salience(samples)[:1200]
    assert np.abs(run_in_blocks(salience, samples, 160, block_frames=320) - whole).max() < 1e-5


def test_a_file_that_is_no_rmvpe_is_refused(tmp_path: Path):
    torch.save({"model": {"weight": torch.zeros(3)}}, tmp_path / "rmvpe.pt")
    with pytest.raises(PitchError, match="holds no RMVPE weights"):
        RmvpePredictor(FrameGrid(RATE_HZ, HOP_SAMPLES), PitchSettings(pretrain_folder=tmp_path), "cpu")


def test_salience_is_decoded_by_the_local_mean_and_the_threshold():
    salience = torch.zeros(4, 360)
    salience[0, 100] = 1.0  # bin 100 alone
    salience[1, [100, 101]] = 0.5  # half way to the next bin
    salience[2, 100] = 0.05  # not above the threshold
    salience[3, [0, 2]] = torch.tensor([0.4, 0.2])  # at the edge
    f0_hz = decode_salience(salience, 0.05).double().numpy()
    expected = [10 * 2 ** ((1997.3794084376191 + 20 * position) / 1200) for position in (100, 100.5, 2 / 3)]
    assert f0_hz[[0, 1, 3]] == pytest.approx(expected, rel=1e-6)
    assert f0_hz[2] == 0


# ---------------------------------------------------------------- grids


def test_sampling_at_other_times_is_linear_in_log_f0_between_voiced_frames():
    times_s = np.arange(5) * 0.01
    assert sample_f0(
        times_s, np.array([100, 110, 0, 200, 420.0]), np.array([0.005, 0.013, 0.017])
    ) == pytest.approx([np.sqrt(100 * 110), 110, 0])


def test_there_is_no_interpolation_over_an_octave_jump():
    assert sample_f0(np.array([0, 0.01]), np.array([100, 200.0]), np.array([0.004, 0.006])).tolist() == [
        100,
        200,
    ]


def test_times_beyond_the_source_are_unvoiced():
    assert sample_f0(np.arange(3) * 0.01, np.full(3, 100.0), np.array([0.029, 0.05])).tolist() == [100, 0]
    assert sample_f0(np.zeros(0), np.zeros(0), np.arange(3)).tolist() == [0, 0, 0]


def test_stretching_to_the_same_length_changes_nothing():
    f0_hz = np.array([0, 100, 101, 0, 200.0])
    assert stretch_f0(f0_hz, 5).tolist() == f0_hz.tolist()


def test_centering_pads_one_more_on_the_left_and_crops_on_both_sides():
    assert center_f0(np.ones(3), 6).tolist() == [0, 0, 1, 1, 1, 0]
    assert center_f0(np.arange(7.0), 4).tolist() == [1, 2, 3, 4]


# ---------------------------------------------------------------- packages


def test_a_missing_package_names_the_pip_command():
    with pytest.raises(
        MissingExtra, match=r'no_such_pitch_package is not installed; run: pip install "svcnb\[f0\]"'
    ):
        import_optional("no_such_pitch_package", "f0")


@pytest.fixture
def fake_torchaudio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An importable torchaudio of our own; the real one comes back afterwards."""
    real = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "torchaudio"}
    for name in real:
        del sys.modules[name]
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "torchaudio"
    package.mkdir()
    yield package
    for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
        del sys.modules[name]
    sys.modules.update(real)


EXTENSION_USER = "from . import _extension\nparts = _extension._IS_TORCHAUDIO_EXT_AVAILABLE\n"


def test_a_torchaudio_that_loads_is_left_as_it_is(fake_torchaudio: Path):
    (fake_torchaudio / "__init__.py").write_text(EXTENSION_USER)
    (fake_torchaudio / "_extension.py").write_text("_IS_TORCHAUDIO_EXT_AVAILABLE = True\n")
    assert ensure_torchaudio().parts is True
    assert ensure_torchaudio() is sys.modules["torchaudio"]


@pytest.mark.parametrize("error", ["OSError('libcudart.so.13')", "RuntimeError('CUDA versions differ')"])
def test_torchaudio_without_its_binary_gives_its_python_parts(fake_torchaudio: Path, error: str):
    (fake_torchaudio / "__init__.py").write_text(EXTENSION_USER)
    (fake_torchaudio / "_extension.py").write_text(f"raise {error}\n")
    assert ensure_torchaudio().parts is False


def test_a_torchaudio_that_fails_altogether_leaves_nothing_behind(fake_torchaudio: Path):
    (fake_torchaudio / "__init__.py").write_text("from . import _extension, broken\n")
    (fake_torchaudio / "_extension.py").write_text("raise OSError('libcudart.so.13')\n")
    (fake_torchaudio / "broken.py").write_text("raise OSError('more is missing')\n")
    with pytest.raises(MissingExtra, match="more is missing"):
        ensure_torchaudio()
    assert not [name for name in sys.modules if name.split(".")[0] == "torchaudio"]
