"""Bad input: the message names the file and the fix, the rest is processed, no incomplete file is written."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from svcnb import SvcError
from svcnb.audio.audio import Audio, write_audio
from svcnb.audio.settings import CutSettings
from svcnb.cli import main as cli
from svcnb.conversion.settings import ConversionSettings
from svcnb.data.clips import cut_folder
from svcnb.data.extraction import FeatureReport
from svcnb.data.feature_store import FeatureStore
from svcnb.data.settings import PrepareSettings
from svcnb.models import sovits
from svcnb.models.settings import ClusterSettings
from svcnb.training.settings import TrainSettings
from tests.places import PROJECT
from tests.toys.small_voice import save_small_voice, tiny_config

RATE_HZ = 22050
HOP = 256
CUT = CutSettings(sample_rate_hz=RATE_HZ)
QUICK = PrepareSettings(f0_method="dio")
DIO = ConversionSettings(f0_method="dio", audio_format="wav")

pytestmark = pytest.mark.filterwarnings("ignore:nothing in this recording is louder")
pytest.importorskip("pyworld")


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run where a user runs them: bundled weights are found below the project's folder."""
    monkeypatch.chdir(PROJECT)


def tone(seconds: float, rate_hz: int = RATE_HZ, f0_hz: float = 180.0) -> np.ndarray:
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.3 * sum(np.sin(2 * np.pi * f0_hz * k * t) / k for k in range(1, 6))).astype(np.float32)


def write_tone(path: Path, seconds: float = 1.6, **choices) -> Path:
    return write_audio(path, Audio(tone(seconds, **choices), choices.get("rate_hz", RATE_HZ)))


def files_below(folder: Path) -> set[str]:
    """Every file, hidden ones included, to detect leftovers of writing."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def one_line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# ------------------------------------------------------------------------------------------ recordings

TOO_SHORT = {"one sample.wav": 1, "hundred samples.wav": 100, "one hop.wav": HOP}
# Name -> a word of the reason that every door gives.
BROKEN = {
    "nan.wav": "NaN or infinite",
    "infinite.wav": "NaN or infinite",
    "empty.wav": "not readable as audio",
    "list.wav": "not readable as audio",
    "cut.flac": "damaged or cut short",
    "no samples.wav": "holds no samples",
}
GOOD = {"good.wav", "studio.flac", "studio.wav"}


def write_mixed_recordings(folder: Path) -> Path:
    """Good recordings among every kind of bad ones."""
    folder.mkdir(parents=True)
    write_tone(folder / "good.wav")
    for name, n_samples in TOO_SHORT.items():
        soundfile.write(folder / name, tone(1)[10 : 10 + n_samples], RATE_HZ)
    stereo = np.stack([tone(1.6, 96000), tone(1.6, 96000, 220.0)], axis=1)
    for name in ("studio.flac", "studio.wav"):
        soundfile.write(folder / name, stereo, 96000, subtype="PCM_24")
    broken = tone(1.6)
    for name, value in (("nan.wav", np.nan), ("infinite.wav", -np.inf)):
        broken[1000:1003] = value
        soundfile.write(folder / name, broken, RATE_HZ, subtype="FLOAT")
    (folder / "empty.wav").write_bytes(b"")
    (folder / "list.wav").write_text("milk\neggs\n" * 100)
    whole = write_tone(folder / "cut.flac", 4.0).read_bytes()
    (folder / "cut.flac").write_bytes(whole[: len(whole) // 2])
    soundfile.write(folder / "no samples.wav", np.zeros(0, np.float32), RATE_HZ)
    return folder


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`ada`: good and bad recordings; `bob`: one good recording."""
    folder = tmp_path_factory.mktemp("mixed") / "raw"
    write_mixed_recordings(folder / "ada")
    write_tone(folder / "bob" / "fine.wav", f0_hz=120.0)
    return folder


@pytest.fixture(scope="module")
def prepared(mixed: Path) -> tuple[Path, FeatureReport]:
    """Features of all of them, as if they were clips, and the report."""
    return mixed.parent / "features", sovits.prepare(tiny_config(), mixed, mixed.parent / "features", QUICK)


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_voice(tmp_path_factory.mktemp("voices") / "untrained")


def test_cutting_skips_each_bad_recording_with_its_reason_and_cuts_the_rest(
    mixed: Path, tmp_path: Path
) -> None:
    report = cut_folder(mixed, tmp_path / "clips", CUT)
    reasons = {path.name: reason for path, reason in report.skipped}
    assert set(reasons) == set(BROKEN) | set(TOO_SHORT)
    assert all(words in reasons[name] for name, words in BROKEN.items()), reasons
    assert all("min_clip_s" in reasons[name] or "threshold_db" in reasons[name] for name in TOO_SHORT), (
        reasons
    )
    assert {cuts.source.name for cuts in report.files} == GOOD | {"fine.wav"}
    assert all(
        soundfile.info(path).samplerate == RATE_HZ and soundfile.info(path).channels == 1
        for path in report.clips
    )
    clips = {path.relative_to(tmp_path / "clips").as_posix() for path in report.clips}
    assert files_below(tmp_path / "clips") == clips | {"ada/cuts.json", "bob/cuts.json"}


def test_extraction_skips_each_bad_clip_with_its_reason_and_stores_the_rest(prepared) -> None:
    features, report = prepared
    reasons = {clip.path.name: reason for clip, reason in report.skipped}
    assert set(reasons) == set(BROKEN) | set(TOO_SHORT)
    assert all(words in reasons[name] for name, words in BROKEN.items()), reasons
    assert all("shorter than the 0.29 s needed" in reasons[name] for name in TOO_SHORT), reasons
    kept = {f"ada/{name}" for name in GOOD} | {"bob/fine.wav"}
    assert set(report.done) == set(FeatureStore.open(features).names()) == kept
    assert {name.split("_")[0] for name in files_below(features)} == {
        "config.json",
        "features",
        "index.json",
        "settings.json",
    }


def test_a_second_extraction_tries_only_the_bad_clips_again(mixed: Path, prepared) -> None:
    features, _ = prepared
    report = sovits.prepare(tiny_config(), mixed, features, QUICK)
    assert not report.done and len(report.reused) == 4 and len(report.skipped) == len(BROKEN) + len(TOO_SHORT)


def test_converting_many_writes_the_good_ones_and_lists_the_others(
    mixed: Path, voice: Path, tmp_path: Path, capsys
) -> None:
    sources = sorted((mixed / "ada").iterdir())
    code = cli.main(
        ["convert", str(voice), *map(str, sources), "-f0p", "dio", "-wf", "wav", "-o", str(tmp_path / "out")]
    )
    message = capsys.readouterr().err
    assert code == cli.EXIT_USER_ERROR and f"{len(BROKEN)} of {len(sources)} conversions failed" in message
    lines = message.splitlines()
    assert all(any(name in line and words in line for line in lines) for name, words in BROKEN.items())
    results = {f"{name}_0key_ada_sovits_dio.wav" for name in GOOD | set(TOO_SHORT)}
    assert files_below(tmp_path / "out") == results


@pytest.mark.parametrize("n_samples", [1, 2, 100, HOP, HOP + 1])
@pytest.mark.parametrize("rate_hz", [8000, RATE_HZ, 96000])
def test_the_shortest_recordings_convert_to_their_own_length(
    n_samples: int, rate_hz: int, voice: Path, tmp_path: Path
) -> None:
    loaded = sovits.load_voice(voice)
    soundfile.write(tmp_path / "short.wav", tone(0.1, rate_hz)[5 : 5 + n_samples], rate_hz)
    expected = round(n_samples * RATE_HZ / rate_hz)
    if expected == 0:
        with pytest.raises(SvcError, match="short.wav"):
            loaded.convert_file(tmp_path / "short.wav", tmp_path / "out", DIO)
        assert not files_below(tmp_path / "out")
    else:
        assert (
            soundfile.info(loaded.convert_file(tmp_path / "short.wav", tmp_path / "out", DIO)).frames
            == expected
        )


def test_a_folder_where_a_file_is_expected_is_named(voice: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "song.wav").mkdir()
    with pytest.raises(SvcError, match="song.wav.*is a folder"):
        sovits.load_voice(voice).convert_file(tmp_path / "song.wav", tmp_path / "out", DIO)
    assert cli.main(["convert", str(voice), str(tmp_path / "song.wav")]) == cli.EXIT_USER_ERROR
    assert "song.wav" in capsys.readouterr().err
    write_tone(tmp_path / "raw/ada/good.wav")
    (tmp_path / "raw/ada/folder.wav").mkdir()
    assert len(cut_folder(tmp_path / "raw", tmp_path / "clips", CUT).clips) == 1
    assert not files_below(tmp_path / "out")


# ----------------------------------------------------------------------------------------------- names

NAMES = [
    "two words", "it's \"quoted\"", "#$()&;%", "歌声", "🎤🎶", "-rf", "dot.", "Ada", "ada", "x" * 200, "声" * 66,
    "cafe\u0301", "caf\u00e9", "a\nb", "*?[1]", "~", "NUL",
]  # fmt: skip


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording in a folder of its own for every name, cut, extracted and trained on for a step."""
    folder = tmp_path_factory.mktemp("names")
    for number, name in enumerate(NAMES):
        write_tone(folder / "raw" / name / f"{name}.wav", 1.2, f0_hz=110.0 + 7 * number)
    report = cut_folder(folder / "raw", folder / "clips", CUT)
    assert len(report.clips) == len(NAMES) and not report.skipped
    assert len(sovits.prepare(tiny_config(), folder / "clips", folder / "features", QUICK).done) == len(NAMES)
    sovits.train(
        folder / "features", folder / "voice", TrainSettings(max_steps=1, device="cpu"), batch_size=2
    )
    return folder


def test_any_speaker_name_goes_from_the_folder_into_the_voice(named: Path) -> None:
    stored = json.loads((named / "voice/config.json").read_text(encoding="utf-8"))["spk"]
    assert list(stored) == sorted(NAMES) and sorted(stored.values()) == list(range(len(NAMES)))
    assert list(sovits.load_voice(named / "voice").speakers) == sorted(NAMES)
    assert cut_folder(named / "raw", named / "clips", CUT).n_reused == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_any_name_converts_into_a_file_with_that_name(name: str, named: Path, tmp_path: Path) -> None:
    voice = sovits.load_voice(named / "voice")
    settings = DIO.model_copy(update={"speaker": name})
    path = voice.convert_file(named / "raw" / name / f"{name}.wav", tmp_path / "out", settings)
    assert files_below(tmp_path / "out") == {path.name}
    assert path.name.startswith(name) and len(os.fsencode(path.name)) <= 255
    assert soundfile.info(path).frames == round(1.2 * RATE_HZ)


def test_long_names_that_differ_at_their_end_give_different_results(voice: Path) -> None:
    loaded = sovits.load_voice(voice)
    names = [loaded.result_name(Path("x" * 240 + f"{number}.wav"), DIO) for number in range(3)]
    assert len(set(names)) == 3 and all(len(name) <= 240 for name in names)


def test_recordings_whose_names_differ_in_case_only_give_two_results(voice: Path, tmp_path: Path) -> None:
    songs = [str(write_tone(tmp_path / name, 0.3)) for name in ("Song.wav", "song.wav")]
    assert cli.main(["convert", str(voice), *songs, "-f0p", "dio", "-o", str(tmp_path / "out")]) == 0
    assert len({name.casefold() for name in files_below(tmp_path / "out")}) == 2


def test_a_name_with_a_leading_dash_is_taken_after_two_dashes(
    voice: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    write_tone(tmp_path / "-rf.wav", 0.3)
    monkeypatch.setattr(
        sovits, "load_voice", lambda path, _load=sovits.load_voice, **parts: _load(voice, **parts)
    )
    pretrain = PROJECT / "pretrain"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pretrain").symlink_to(pretrain)
    assert cli.main(["convert", "-f0p", "dio", "-o", "out", "--", str(voice), "-rf.wav"]) == 0
    assert files_below(tmp_path / "out") == {"-rf.wav_0key_ada_sovits_dio.flac"}


def test_names_that_are_not_utf8_are_skipped_with_a_fix(tmp_path: Path) -> None:
    """Such names come from old zip files; they cannot be stored in a JSON file."""
    bad = os.fsdecode(b"caf\xe9")
    try:
        (tmp_path / bad).mkdir()
    except OSError:
        pytest.skip("this file system takes only names that are text")
    (tmp_path / bad).rmdir()
    for speaker in ("ada", bad):
        write_tone(tmp_path / "raw" / speaker / f"{bad}.wav")
    report = cut_folder(tmp_path / "raw", tmp_path / "clips", CUT)
    assert [path.parent.name for path in report.clips] == ["ada"]
    assert [(path.parent.name, "rename" in reason) for path, reason in report.skipped] == [(bad, True)]
    write_tone(tmp_path / "raw/ada/good.wav")
    extracted = sovits.prepare(tiny_config(), tmp_path / "raw", tmp_path / "features", QUICK)
    assert extracted.done == ["ada/good.wav"]
    assert [("rename" in reason) for _, reason in extracted.skipped] == [True, True]


# -------------------------------------------------------------------------------------------- speakers


@pytest.fixture(scope="module")
def duet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_voice(tmp_path_factory.mktemp("voices") / "duet", speakers=("ada", "bob"))


def test_a_voice_of_two_speakers_reports_which_one_it_uses(duet: Path, tmp_path: Path, capsys) -> None:
    song = write_tone(tmp_path / "song.wav", 0.3)
    arguments = ["convert", str(duet), str(song), "-f0p", "dio", "-o", str(tmp_path / "out")]
    assert cli.main(arguments) == 0
    message = capsys.readouterr().err
    assert "ada" in message and "bob" in message and "-s" in message
    assert files_below(tmp_path / "out") == {"song.wav_0key_ada_sovits_dio.flac"}
    assert cli.main([*arguments, "-s", "bob"]) == 0
    assert "-s" not in capsys.readouterr().err
    assert "song.wav_0key_bob_sovits_dio.flac" in files_below(tmp_path / "out")


@pytest.mark.parametrize("wanted", ["carla", "2", "ADA", "-1"])
def test_an_unknown_speaker_raises_with_the_known_ones(wanted: str, duet: Path, tmp_path: Path) -> None:
    voice = sovits.load_voice(duet)
    song = write_tone(tmp_path / "song.wav", 0.3)
    with pytest.raises(SvcError) as caught:
        voice.convert_file(song, tmp_path / "out", DIO.model_copy(update={"speaker": wanted}))
    assert "choose one of ada, bob" in one_line(caught) and repr(wanted) in str(caught.value)
    assert not files_below(tmp_path / "out")


def test_a_voice_trained_for_one_speaker_is_not_continued_with_two(
    tmp_path: Path, prepared, named: Path
) -> None:
    write_tone(tmp_path / "clips/ada/a.flac")
    sovits.prepare(tiny_config(), tmp_path / "clips", tmp_path / "features", QUICK)
    sovits.train(tmp_path / "features", tmp_path / "voice", TrainSettings(max_steps=1, device="cpu"))
    before = {name: (tmp_path / "voice" / name).read_bytes() for name in files_below(tmp_path / "voice")}
    write_tone(tmp_path / "clips/bob/b.flac", f0_hz=120.0)
    sovits.prepare(tiny_config(), tmp_path / "clips", tmp_path / "features", QUICK)
    with pytest.raises(SvcError, match="another configuration"):
        sovits.train(tmp_path / "features", tmp_path / "voice", TrainSettings(max_steps=2, device="cpu"))
    assert before == {
        name: (tmp_path / "voice" / name).read_bytes() for name in files_below(tmp_path / "voice")
    }


# ------------------------------------------------------------------------------ other settings, other sizes


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of three clips and a voice of two steps with two checkpoints."""
    folder = tmp_path_factory.mktemp("trained")
    for number in range(3):
        write_tone(folder / f"clips/ada/{number}.flac", f0_hz=150.0 + 10 * number)
    sovits.prepare(tiny_config(), folder / "clips", folder / "features", QUICK)
    settings = TrainSettings(max_steps=2, save_every_steps=1, log_every_steps=1, device="cpu")
    sovits.train(folder / "features", folder / "voice", settings, batch_size=2)
    return folder


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copy"))


@pytest.mark.parametrize("other", ["f0 method", "rate", "hop", "loudness"])
def test_features_made_with_other_settings_are_refused_by_name_and_kept(other: str, copied: Path) -> None:
    config, settings = tiny_config(), QUICK
    if other == "f0 method":
        settings = PrepareSettings(f0_method="harvest")
    elif other == "loudness":
        settings = PrepareSettings(f0_method="dio", with_volume=True)
    elif other == "rate":
        config.data.sampling_rate = 16000
    else:
        config.data.hop_length = 128
    before = files_below(copied / "features")
    with pytest.raises(SvcError) as caught:
        sovits.prepare(config, copied / "clips", copied / "features", settings)
    named = {
        "f0 method": "pitch_method",
        "rate": "sample_rate_hz",
        "hop": "hop_samples",
        "loudness": "with_volume",
    }[other]
    assert (
        named in one_line(caught) and "--overwrite" in str(caught.value) and "features" in str(caught.value)
    )
    assert files_below(copied / "features") == before and len(FeatureStore.open(copied / "features")) == 3


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("data", "sampling_rate", 16000, "sampling_rate is 16000"),
        ("data", "hop_length", 128, "hop_length is 128"),
        ("model", "speech_encoder", "vec768l12", "speech_encoder is 'vec768l12'"),
        ("model", "vol_embedding", True, "vol_embedding is True"),
    ],
)
def test_training_refuses_a_config_that_the_features_were_not_made_for(
    section, key, value, message, copied: Path
) -> None:
    path = copied / "features/config.json"
    stored = json.loads(path.read_text())
    stored[section][key] = value
    path.write_text(json.dumps(stored))
    with pytest.raises(SvcError) as caught:
        sovits.train(copied / "features", copied / "new", TrainSettings(max_steps=1, device="cpu"))
    assert message in one_line(caught) and "features" in str(caught.value)
    assert not files_below(copied / "new")


def test_a_run_is_not_resumed_with_features_of_other_settings(copied: Path) -> None:
    settings = PrepareSettings(f0_method="dio", with_volume=True, overwrite=True)
    sovits.prepare(tiny_config(), copied / "clips", copied / "features", settings)
    before = files_below(copied / "voice")
    with pytest.raises(SvcError, match="another configuration than the features"):
        sovits.train(copied / "features", copied / "voice", TrainSettings(max_steps=3, device="cpu"))
    assert files_below(copied / "voice") == before


def test_a_batch_size_above_the_number_of_clips_is_reduced(copied: Path, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        report = sovits.train(
            copied / "features", copied / "new", TrainSettings(max_steps=1, device="cpu"), batch_size=50
        )
    assert report.step == 1 and "batch_size 50 is more than the 3 clips" in caplog.text


# -------------------------------------------------------------------------------------------- cut files


def cut_file(path: Path, keep_ratio: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep_ratio)])


@pytest.mark.parametrize("keep_ratio", [0.0, 0.0001, 0.01, 0.5, 0.99, 0.99999])
def test_truncated_weights_are_named_and_nothing_is_written(keep_ratio: float, copied: Path, capsys) -> None:
    cut_file(copied / "voice/G_2.pth", keep_ratio)
    song = write_tone(copied / "song.wav", 0.3)
    before = files_below(copied / "voice")
    for command in (
        ["convert", copied / "voice", song, "--checkpoint", "newest", "-o", copied / "out"],
        ["train", copied / "features", copied / "voice", "--max_steps", 3, "--resume", "-d", "cpu"],
    ):
        assert cli.main([str(word) for word in command]) == cli.EXIT_USER_ERROR
        message = capsys.readouterr().err.strip().splitlines()[-1]
        assert "G_2.pth" in message and message.endswith(("copy it again.", "Get it again."))
    assert files_below(copied / "voice") == before and not files_below(copied / "out")
    assert sovits.load_voice(copied / "voice/G_1.pth").speakers == {"ada": 0}


@pytest.mark.parametrize("keep_ratio", [0.0, 0.5, 0.99])
def test_truncated_centers_are_named_and_nothing_is_written(keep_ratio: float, copied: Path, capsys) -> None:
    pytest.importorskip("faiss")
    sovits.fit_voice_centers(copied / "features", copied / "voice", ClusterSettings(n_centers=4))
    (centers,) = (copied / "voice").glob("kmeans_*.pt")
    cut_file(centers, keep_ratio)
    song = write_tone(copied / "song.wav", 0.3)
    command = ["convert", copied / "voice", song, "-cr", 0.5, "-f0p", "dio", "-o", copied / "out"]
    assert cli.main([str(word) for word in command]) == cli.EXIT_USER_ERROR
    (message,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert centers.name in message
    assert not files_below(copied / "out")


@pytest.mark.parametrize("keep_ratio", [0.0, 0.3, 0.99])
def test_a_truncated_config_is_named(keep_ratio: float, copied: Path) -> None:
    for folder in ("voice", "features"):
        cut_file(copied / folder / "config.json", keep_ratio)
    with pytest.raises(SvcError, match=r"voice.config.json is not a JSON config"):
        sovits.load_voice(copied / "voice")
    with pytest.raises(SvcError, match=r"features.config.json is not a JSON config"):
        sovits.train(copied / "features", copied / "new", TrainSettings(max_steps=1, device="cpu"))
    assert not files_below(copied / "new")


@pytest.mark.parametrize("name", ["settings.json", "index.json", "features_000"])
@pytest.mark.parametrize("keep_ratio", [0.0, 0.5, 0.98])
def test_a_truncated_feature_file_is_named_with_the_fix_and_overwriting_repairs_it(
    name, keep_ratio, copied
) -> None:
    (path,) = (copied / "features").glob(f"{name}*")
    cut_file(path, keep_ratio)
    with pytest.raises(SvcError) as caught:
        sovits.train(copied / "features", copied / "new", TrainSettings(max_steps=1, device="cpu"))
    assert path.name in one_line(caught) and "--overwrite" in str(caught.value)
    assert not list((copied / "new").glob("*.pth"))
    settings = PrepareSettings(f0_method="dio", overwrite=True)
    assert len(sovits.prepare(tiny_config(), copied / "clips", copied / "features", settings).done) == 3
    assert (
        sovits.train(copied / "features", copied / "new", TrainSettings(max_steps=1, device="cpu")).step == 1
    )


def test_a_truncated_part_of_an_unfinished_extraction_is_named(copied: Path) -> None:
    (shard,) = (copied / "features").glob("features_*.safetensors")
    (copied / "features/part_00000.safetensors").write_bytes(shard.read_bytes()[:100])
    with pytest.raises(SvcError, match="part_00000.safetensors is broken .*delete it and extract again"):
        FeatureStore.open(copied / "features")


@pytest.mark.parametrize("keep_ratio", [0.0, 0.5, 0.99])
def test_a_truncated_training_state_is_named_and_the_checkpoints_are_kept(
    keep_ratio: float, copied: Path
) -> None:
    cut_file(copied / "voice/state.json", keep_ratio)
    with pytest.raises(SvcError, match="state.json is not a training state"):
        sovits.train(copied / "features", copied / "voice", TrainSettings(max_steps=3, device="cpu"))
    assert (copied / "voice/G_2.pth").exists()
    assert sovits.load_voice(copied / "voice", checkpoint="newest").step == 2


def test_an_incomplete_line_of_history_is_dropped_and_training_resumes(copied: Path) -> None:
    history = copied / "voice/history.jsonl"
    lines = history.read_text().splitlines()
    history.write_text("\n".join(lines) + '\n{"step": 2, "epo')
    settings = TrainSettings(max_steps=3, log_every_steps=1, device="cpu")
    assert sovits.train(copied / "features", copied / "voice", settings).step == 3
    steps = [json.loads(line)["step"] for line in history.read_text().splitlines()]
    assert (
        steps == sorted(steps)
        and steps[-1] == 3
        and steps[: len(lines)] == [json.loads(line)["step"] for line in lines]
    )


def test_a_truncated_list_of_clips_is_named_and_deleting_it_repairs_it(tmp_path: Path) -> None:
    write_tone(tmp_path / "raw/ada/a.wav")
    cut_folder(tmp_path / "raw", tmp_path / "clips", CUT)
    for keep_ratio in (0.5, 0.0):
        cut_file(tmp_path / "clips/ada/cuts.json", keep_ratio)
        with pytest.raises(SvcError, match="cuts.json.*delete it"):
            cut_folder(tmp_path / "raw", tmp_path / "clips", CUT)
    (tmp_path / "clips/ada/cuts.json").unlink()
    assert len(cut_folder(tmp_path / "raw", tmp_path / "clips", CUT).clips) == 1
