"""`svcnb rvc`: from a folder of recordings to a song, and RVC's files, on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
import torch

from svcnb.audio.audio import write_audio
from svcnb.cli import main as cli
from svcnb.models import rvc
from svcnb.models.rvc.checkpoint import (
    RvcCheckpoint,
    SmallModel,
    read_small_model,
    write_rvc_checkpoint,
    write_small_model,
)
from svcnb.models.rvc.export import check_onnx, export_onnx
from tests.toys.toy_rvc import sung, tiny_config, tiny_rvc_config, write_recordings

pytest.importorskip("faiss")
TINY = tiny_config()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an experiment `me`, made by the command, of a size that trains in seconds."""
    folder = tmp_path_factory.mktemp("cli rvc")
    write_recordings(folder / "raw", seconds=(2.0, 3.0, 2.5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rvc.Config, "small", classmethod(lambda cls: TINY))
        train = [
            "rvc",
            "train",
            str(folder / "raw"),
            str(folder / "me"),
            "--max_steps",
            "3",
            "--f0_method",
            "dio",
            "-d",
            "cpu",
        ]
        assert cli.main(train) == 0
    write_audio(folder / "song.wav", sung(1.5, f0_hz=300))
    return folder


def small_model(folder: Path, name: str, *, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    config = tiny_rvc_config()
    state = rvc.build(config).generator.state_dict()
    return write_small_model(folder / f"{name}.pth", SmallModel.of(state, config, info=f"{name}'s"))


def test_train_tells_what_it_left_out_and_leaves_a_voice(
    trained: Path, capsys: pytest.CaptureFixture
) -> None:
    (trained / "raw" / "notes.txt").write_text("no sound")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rvc.Config, "small", classmethod(lambda cls: TINY))
        command = [
            "rvc",
            "train",
            str(trained / "raw"),
            str(trained / "me"),
            "--max_steps",
            "3",
            "--f0_method",
            "dio",
            "-d",
            "cpu",
        ]
        assert cli.main(command) == 2  # other recordings than those it was cut from
        assert "overwrite" in capsys.readouterr().err
        assert cli.main([*command, "--overwrite"]) == 0
    told = capsys.readouterr()
    assert "skipped notes.txt" in told.err and "added_IVF" in told.out
    assert (trained / "me" / "G_3.pth").is_file()


def test_convert_writes_a_song_as_long_as_it_was(trained: Path, capsys: pytest.CaptureFixture) -> None:
    out = trained / "out"
    command = [
        "rvc",
        "convert",
        str(trained / "me"),
        str(trained / "song.wav"),
        "-t",
        "3",
        "--f0_method",
        "dio",
        "-o",
        str(out),
    ]
    assert cli.main([*command, "--wav_format", "wav"]) == 0
    path = out / "song.wav_3key_me_0.75_rvc_dio.wav"
    assert capsys.readouterr().out.strip() == str(path)
    assert soundfile.info(path).frames == 48000 and soundfile.info(path).samplerate == 32000
    assert cli.main([*command, "--resample_sr", "16000", "--index_rate", "0"]) == 0
    assert soundfile.info(out / "song.wav_3key_me_rvc_dio.flac").samplerate == 16000


def test_the_general_commands_take_rvc_voices_too(trained: Path) -> None:
    command = [
        "convert",
        str(trained / "me"),
        str(trained / "song.wav"),
        "-f0p",
        "dio",
        "-cr",
        "0.5",
        "-fr",
        "-o",
        str(trained / "o2"),
    ]
    assert cli.main(command) == 0
    assert (trained / "o2" / "song.wav_0key_me_0.5_rvc_dio.flac").is_file()
    assert cli.main([*command, "-eh"]) == 2


def test_index_is_built_again(trained: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["rvc", "index", str(trained / "me")]) == 0
    assert "vectors" in capsys.readouterr().out


def test_small_models_are_told_changed_and_merged(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    one, other = small_model(tmp_path, "one"), small_model(tmp_path, "two", seed=1)
    assert cli.main(["rvc", "info", str(one), "--set", "mine"]) == 0
    assert "RVC v1, 32k, with pitch guidance, 3 speakers: mine" in capsys.readouterr().out
    merged = tmp_path / "both.pth"
    assert cli.main(["rvc", "merge", str(one), str(other), str(merged), "--ratio", "0.25"]) == 0
    assert read_small_model(merged).info == "0.25 of one, rest two"
    assert cli.main(["rvc", "info", str(tmp_path / "none.pth")]) == 2


def test_a_small_model_is_extracted(tmp_path: Path) -> None:
    config = tiny_rvc_config("v2")
    config.save(tmp_path / "config.json")
    write_rvc_checkpoint(
        tmp_path / "G_10.pth", RvcCheckpoint(rvc.build(config).generator.state_dict(), 1, None, 1e-4)
    )
    assert (
        cli.main(
            ["rvc", "extract", str(tmp_path / "G_10.pth"), str(tmp_path / "me.pth"), "--info", "ten steps"]
        )
        == 0
    )
    assert read_small_model(tmp_path / "me.pth").info == "ten steps"


def test_an_exported_graph_has_rvcs_inputs_and_sings_the_same(
    trained: Path, capsys: pytest.CaptureFixture
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    path = trained / "me.onnx"
    assert cli.main(["rvc", "onnx", str(trained / "me"), str(path), "--check"]) == 0
    deviations = [
        float(line.split(" by ")[1].split()[0])
        for line in capsys.readouterr().out.splitlines()
        if " by " in line
    ]
    assert len(deviations) == 2 and max(deviations) < 1e-4
    inputs = [node.name for node in onnxruntime.InferenceSession(str(path)).get_inputs()]
    assert inputs == ["phone", "phone_lengths", "pitch", "pitchf", "ds", "rnd"]


@pytest.mark.parametrize("f0", [True, False])
def test_rvcs_own_network_is_exported_too(tmp_path: Path, f0: bool) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from svcnb.models.rvc.voice import Voice

    config = tiny_rvc_config("v1", f0=f0)
    voice = Voice(config, rvc.build(config).generator, encoder=None)
    deviations = check_onnx(voice, export_onnx(voice, tmp_path / "voice.onnx"))
    assert max(deviations.values()) < 1e-4
