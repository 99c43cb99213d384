"""Speaker mixing: reading a mix, its weights over a song, and the conversion with two speakers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from svcnb import SvcError
from svcnb.audio.audio import Audio
from svcnb.conversion.long_audio import Chunk
from svcnb.conversion.settings import ConversionSettings
from svcnb.conversion.speaker_mix import MixError, read_mix, weights_at, write_mix
from svcnb.models import sovits
from svcnb.models.sovits.pipeline import mixed_weights
from svcnb.plots.audio import plot_speaker_mix
from svcnb.plots.style import png_bytes
from tests.toys.small_voice import save_small_voice

FADE = {"ada": [(0.0, 0.5, 1.0, 0.0), (0.5, 1.0, 0.0, 0.0)], "bob": [(0.0, 1.0, 0.0, 1.0)]}


# ------------------------------------------------------------------------------------------------- reading


def test_a_text_a_mapping_and_every_file_give_the_same_timeline(tmp_path: Path) -> None:
    for name in ("mix.json", "mix.csv"):
        write_mix(tmp_path / name, FADE)
    (tmp_path / "spkmix.py").write_text(
        "# comment\nother = 3\nmix = {0: [[0., 0.5, 1, 0], [0.5, 1, 0, 0]], 1: [[0, 1, 0, 1]]}\n"
    )
    texts = ("ada=1 > 0@0.5 > 0, bob=0>1", "bob = 0 > 1;\n ada = 1@0 > 0@0.5 > 0@1")
    for source in (FADE, *texts, tmp_path / "mix.json", str(tmp_path / "mix.csv")):
        assert read_mix(source) == FADE, source
    numbered = read_mix(tmp_path / "spkmix.py")
    assert list(numbered.values()) == list(FADE.values()) and list(numbered) == ["0", "1"]


def test_a_constant_mix_and_a_sudden_change_can_be_written() -> None:
    assert read_mix("ada=0.7, bob=0.3") == {"ada": [(0, 1, 0.7, 0.7)], "bob": [(0, 1, 0.3, 0.3)]}
    assert read_mix("ada=1>1@0.4>0@0.4>0, bob=1")["ada"] == [(0, 0.4, 1, 1), (0.4, 1, 0, 0)]
    assert read_mix("ada=1>3>2, bob=1")["ada"] == [(0, 0.5, 1, 3), (0.5, 1, 3, 2)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("ada=1", "two speakers or more, found ada"),
        ("ada, bob=1", "'ada' is not a speaker with a weight"),
        ("ada=1, ada=2", "named twice"),
        ("ada=1>soon, bob=1", "'soon' is not a weight"),
        ("ada=1@0.6>0@0.2, bob=1", "must rise from 0 to 1"),
        ({"ada": [[0, 0.5, 1, 0]], "bob": 1}, "'ada' ends at 0.5, expected 1"),
        ({"ada": [[0, 0.5, 1, 0], [0.6, 1, 0, 0]], "bob": 1}, r"ramp 2 .* starts at 0.6, expected 0.5"),
        ({"ada": [[0, 0.5, 1, 0], [0.4, 1, 0, 0]], "bob": 1}, "starts at 0.4, expected 0.5"),
        ({"ada": [[0, 0, 1, 1], [0, 1, 1, 1]], "bob": 1}, "ends at 0, not after its start"),
        ({"ada": [[0, 1, 1]], "bob": 1}, "expected four numbers"),
        ({"ada": -1, "bob": 1}, "cannot be negative"),
        ({"ada": float("nan"), "bob": 1}, "expected four numbers"),
        ({"ada": [], "bob": 1}, "no ramp"),
        ({"ada": "much", "bob": 1}, "neither a weight"),
        ("nowhere.json", "nowhere.json cannot be read"),
    ],
)
def test_a_wrong_mix_is_reported_with_its_speaker_and_position(wrong: object, message: str) -> None:
    with pytest.raises(MixError, match=message):
        read_mix(wrong)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mix.json", "[1, 2]"),
        ("mix.json", "{"),
        ("mix.csv", "speaker,start\nada,0\n"),
        ("mix.csv", "speaker,start,end,weight_at_start,weight_at_end\nada,zero,1,1,1\n"),
        ("mix.py", "import os\n"),
        ("mix.py", "mix = {0: open('x')}"),
    ],
)
def test_a_file_without_a_mix_is_refused_and_never_executed(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(MixError, match=f"{name} contains no speaker mix"):
        read_mix(tmp_path / name)


# ------------------------------------------------------------------------------------------------- weights


def test_weights_are_ramps_that_add_up_to_one_and_hold_their_ends() -> None:
    weights = weights_at(FADE, np.array([-1.0, 0.0, 0.25, 0.5, 0.9, 1.0, 2.0]))
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(weights[:, 0], [1, 1, 0.5 / 0.75, 0, 0, 0, 0], atol=1e-6)


def test_weights_are_equal_where_all_are_0() -> None:
    np.testing.assert_array_equal(weights_at(read_mix("ada=1>0, bob=1>0"), np.array([1.0])), [[0.5, 0.5]])


# ------------------------------------------------------------------------------------------------- a voice


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> sovits.Voice:
    return sovits.load_voice(save_small_voice(tmp_path_factory.mktemp("duo"), speakers=("ada", "bob")))


def tone(seconds: float) -> Audio:
    time = np.arange(round(22050 * seconds)) / 22050
    return Audio((0.2 * np.sin(2 * np.pi * 200 * time)).astype(np.float32), 22050)


def settings(**choices) -> ConversionSettings:
    return ConversionSettings(f0_method="dio", **choices)


def test_all_weight_on_one_speaker_is_that_speaker(voice: sovits.Voice) -> None:
    audio = tone(1.5)
    alone = {name: voice.convert(audio, settings(speaker=name)).samples for name in ("ada", "bob")}
    for name, text in (("ada", "ada=1, bob=0"), ("bob", "0=0, bob=3")):
        mixed = voice.convert(audio, settings(speaker_mix=text)).samples
        np.testing.assert_allclose(mixed, alone[name], atol=1e-5)
    assert np.abs(alone["ada"] - alone["bob"]).max() > 1e-3


def test_weights_follow_the_time_in_the_song_however_it_is_cut(voice: sovits.Voice) -> None:
    """Every frame of every chunk has the weights of its own time, without drift from counting frames."""
    duration_s, rate_hz, n_pad = 60.0, voice.sample_rate_hz, 11025
    for start_s in (0.0, 12.345, 59.2):
        samples = np.zeros(2 * n_pad + 22016, np.float32)
        chunk = Chunk(samples, rate_hz, n_pad, start_s, 22016 / rate_hz)
        weights = mixed_weights(
            read_mix(FADE),
            [0, 1],
            chunk,
            len(samples) // voice.hop_samples,
            hop_samples=voice.hop_samples,
            duration_s=duration_s,
        )
        times_s = start_s - n_pad / rate_hz + np.arange(len(weights)) * voice.hop_samples / rate_hz
        np.testing.assert_allclose(weights.numpy(), weights_at(FADE, times_s / duration_s), atol=1e-6)


def test_a_song_in_chunks_is_mixed_as_a_whole(voice: sovits.Voice, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []

    def record(timeline, ids: list[int], chunk: Chunk, n_frames: int, **grid) -> torch.Tensor:
        weights = mixed_weights(timeline, ids, chunk, n_frames, **grid)
        first = chunk.n_pad_samples // voice.hop_samples
        seen.append(
            weights.numpy()[
                first : first + round(chunk.duration_s * voice.sample_rate_hz / voice.hop_samples)
            ]
        )
        return weights

    monkeypatch.setattr("svcnb.models.sovits.voice.mixed_weights", record)
    voice.convert(tone(6.0), settings(speaker_mix="ada=1>0, bob=0>1", max_chunk_s=1.5))
    assert len(seen) >= 4
    starts = [chunk[0, 0] for chunk in seen]
    assert starts == sorted(starts, reverse=True) and starts[0] > 0.99
    assert seen[-1][-1, 0] == pytest.approx(0, abs=0.01)


def test_settings_that_a_mix_cannot_use_are_ignored_with_a_warning(voice: sovits.Voice) -> None:
    with pytest.warns(UserWarning, match=r"speaker \(-s\) and cluster_ratio \(-cr\) cannot be used"):
        voice.check(settings(speaker_mix="ada=1, bob=1", speaker="ada", cluster_ratio=0.5))


def test_a_mix_that_does_not_fit_the_voice_is_refused(voice: sovits.Voice, tmp_path: Path) -> None:
    for text, message in (
        ("ada=1, eve=1", "no speaker 'eve': choose one of ada, bob"),
        ("ada=1, 0=1", "more than once: ada, 0"),
    ):
        with pytest.raises(SvcError, match=message):
            voice.check(settings(speaker_mix=text))
    single = sovits.load_voice(save_small_voice(tmp_path))
    with pytest.raises(SvcError, match=r"has one speaker, ada: mixing \(-usm\) needs"):
        single.check(settings(speaker_mix="ada=1, bob=1"))


def test_settings_keep_a_mix_as_numbers_and_results_are_named_as_in_the_original(voice: sovits.Voice) -> None:
    chosen = settings(speaker_mix="ada=1>0, bob=1")
    again = ConversionSettings(**json.loads(chosen.model_dump_json()))
    assert again == chosen and settings(speaker_mix="").speaker_mix is None
    assert voice.result_name(Path("song.wav"), chosen) == "song.wav_0key_spk_mix_sovits_dio.flac"
    with pytest.raises(MixError, match="3 is not a speaker mix"):
        settings(speaker_mix=3)


def test_a_mix_is_plotted() -> None:
    figure = plot_speaker_mix(FADE, 12.0, title="who sings")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["ada", "bob"]
    assert axes.get_xlim() == (0, 12) and axes.get_ylim() == (0, 100)
    assert png_bytes(figure).startswith(b"\x89PNG")
