"""Every notebook is executed, in order, on real recordings, and its output files are checked.

Training runs once for all tests; sizes are small, so numbers show that everything works, not how good a voice
becomes. The defaults of the forms are tested by `make demo`'s recordings, here only the named parameters
differ.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.places import DEMO_VOICES, PROJECT
from tests.sources import NOTEBOOKS, parameters
from tests.toys.small_voice import save_small_voice

pytest.importorskip("papermill")

N_RECORDINGS = 5
N_STEPS = 40
N_TOUR_STEPS = 12
N_DIFFUSION_STEPS = 30
N_RVC_EPOCHS = 3
CELL_TIMEOUT_S = 300


@dataclass
class Run:
    """The notebooks of one user, in one workspace."""

    workspace: Path
    song: Path
    executed: dict[str, dict] = field(default_factory=dict)

    def execute(self, name: str, suffix: str = "", **values: object) -> dict:
        """Run one notebook with these parameters; papermill only warns of unknown names, so they are checked here."""
        import papermill

        path = PROJECT / "notebooks" / f"{name}.ipynb"
        unknown = set(values) - set(parameters(path))
        assert not unknown, f"{name} has no parameter {unknown}"
        output = self.workspace / f"{name}{suffix}.ipynb"
        papermill.execute_notebook(
            path,
            output,
            parameters={"workspace": str(self.workspace), **values},
            cwd=PROJECT,
            progress_bar=False,
            execution_timeout=CELL_TIMEOUT_S,
        )
        self.executed[name + suffix] = json.loads(output.read_text(encoding="utf-8"))
        return self.executed[name + suffix]

    def outputs(self, name: str, mime: str) -> list[str]:
        cells = [cell for cell in self.executed[name]["cells"] if cell["cell_type"] == "code"]
        found = [
            output["data"][mime]
            for cell in cells
            for output in cell["outputs"]
            if mime in output.get("data", {})
        ]
        return ["".join(text) if isinstance(text, list) else text for text in found]


def choose_recordings(voices: Path) -> tuple[list[Path], Path]:
    """Recordings of one speaker to train on, and one of somebody else to convert."""
    folders = sorted(
        {path.parent for path in voices.rglob("*.flac")}, key=lambda folder: folder.name, reverse=True
    )
    folders = [folder for folder in folders if len(list(folder.glob("*.flac"))) >= N_RECORDINGS]
    if len(folders) < 2:
        folders = [DEMO_VOICES / "raw" / "ada", DEMO_VOICES / "raw" / "bruno"]
    target, other = folders[0], folders[1]
    return sorted(target.glob("*.flac"))[:N_RECORDINGS], sorted(other.glob("*.flac"))[0]


def start_run(workspace: Path, voices: Path) -> Run:
    """A workspace with recordings of one speaker to train on, and somebody else's to convert."""
    recordings, other = choose_recordings(voices)
    raw = workspace / "data" / "raw" / "me"
    raw.mkdir(parents=True)
    for path in recordings:
        shutil.copy(path, raw)
    return Run(workspace, Path(shutil.copy(other, workspace / "a song.flac")))


def execute_mixing_rvc_and_the_tour(run: Run) -> None:
    for step in (0, 100):
        save_small_voice(run.workspace / "data" / "models" / "duo", speakers=("ada", "bob"), step=step)
    run.execute(
        "21_mix_and_export", voice_folder="data/models/duo", wav=run.song.name, first_weight=30, half=True
    )
    run.execute(
        "30_rvc_train",
        recordings="data/raw/me",
        experiment="data/models/my rvc",
        max_minutes=0.0,
        total_epoch=N_RVC_EPOCHS,
        device="cpu",
    )
    run.execute(
        "31_rvc_convert",
        wav=run.song.name,
        model="data/models/my rvc",
        transpose=2,
        wav_format="wav",
        device="cpu",
    )
    first = min((run.workspace / "data" / "raw" / "me").glob("*.flac")).name
    own = {
        "recording": f"data/raw/me/{first}",
        "voice_recordings": "data/raw/me",
        "other_recording": run.song.name,
    }
    run.execute("10_how_it_works", max_minutes=0.0, max_steps=N_TOUR_STEPS, **own)


@pytest.fixture(scope="session")
def run(voices_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All notebooks of the main line, executed once."""
    run = start_run(tmp_path_factory.mktemp("work space (1)"), voices_folder)
    run.execute("00_setup")
    run.execute("01_slice", raw_folder="data/raw", max_clip_s=6.0)
    run.execute("02_features", features_folder="data/features/me")
    training = {
        "features_folder": "data/features/me",
        "voice_folder": "data/models/me",
        "device": "cpu",
        "log_every_steps": 10,
    }
    run.execute("03_train", max_minutes=0.0, max_steps=N_STEPS, **training)
    run.execute("03_train", "-again", max_minutes=0.0, max_steps=N_STEPS + 10, **training)
    run.execute(
        "04_cluster",
        features_folder="data/features/me",
        voice_folder="data/models/me",
        wav=run.song.name,
        device="cpu",
    )
    converting = {
        "wav": run.song.name,
        "model": "data/models/me",
        "device": "cpu",
        "trans": 2,
        "wav_format": "wav",
    }
    run.execute("05_convert", cluster_infer_ratio=0.5, **converting)
    paths = {"target": "data/raw/me", "sources": run.song.name, "evaluation_folder": "data/evaluation/me"}
    run.execute("06_evaluate", model="data/models/me", device="cpu", songs="", **paths)
    shallow = {"vocoder_minutes": 0.0, "vocoder_steps": 20, "max_minutes": 0.0, "batch_size": 4, "k_step": 40}
    run.execute(
        "20_shallow_diffusion",
        features_folder="data/features/me",
        voice_folder="data/models/me",
        wav=run.song.name,
        make_vocoder=True,
        max_steps=N_DIFFUSION_STEPS,
        device="cpu",
        **shallow,
    )
    execute_mixing_rvc_and_the_tour(run)
    return run


@pytest.mark.parametrize("name", [path.stem for path in NOTEBOOKS])
def test_every_notebook_runs_to_its_last_cell(run: Run, name: str) -> None:
    cells = [cell for cell in run.executed[name]["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in cells if "".join(cell["source"]).strip())
    assert any("text/html" in output.get("data", {}) for output in cells[-1]["outputs"]), (
        "the last cell lists no files"
    )


@pytest.mark.parametrize("name", [path.stem for path in NOTEBOOKS])
def test_executed_notebooks_stay_small_enough_to_open(run: Run, name: str) -> None:
    assert len(json.dumps(run.executed[name])) < 6e6


def test_setup_makes_a_folder_for_recordings_and_describes_the_machine(run: Run) -> None:
    assert (run.workspace / "data" / "raw" / "me").is_dir()
    page = " ".join(run.outputs("00_setup", "text/html"))
    assert "torch" in page and "free disk" in page and "<audio" in page


def test_slice_makes_mono_clips_within_the_limits(run: Run) -> None:
    clips = sorted((run.workspace / "data" / "clips" / "me").glob("*.flac"))
    assert len(clips) >= N_RECORDINGS
    infos = [soundfile.info(clip) for clip in clips]
    assert all(info.samplerate == 44100 and info.channels == 1 for info in infos)
    assert all(1.0 <= info.duration <= 6.0 + 1e-3 for info in infos)
    whole = sum(soundfile.info(path).duration for path in (run.workspace / "data" / "raw").rglob("*.flac"))
    assert 0.5 * whole < sum(info.duration for info in infos) <= 1.05 * whole
    assert len(run.outputs("01_slice", "image/png")) == 2
    assert sum("<audio" in page for page in run.outputs("01_slice", "text/html")) == 3


def test_features_are_stored_for_every_clip(run: Run) -> None:
    from svcnb.data.feature_store import FeatureStore

    store = FeatureStore.open(run.workspace / "data" / "features" / "me")
    clips = sorted((run.workspace / "data" / "clips").rglob("*.flac"))
    assert len(store) == len(clips)
    voiced = np.concatenate([store.read(name)["f0_hz"] > 0 for name in store.names()])
    assert 0.3 < voiced.mean() < 0.95
    assert len(run.outputs("02_features", "image/png")) == 2


def read_history(run: Run) -> list[dict]:
    lines = (
        (run.workspace / "data" / "models" / "me" / "history.jsonl").read_text(encoding="utf-8").splitlines()
    )
    return [json.loads(line) for line in lines if "losses" in json.loads(line)]


def test_training_writes_a_voice_and_lowers_the_losses(run: Run) -> None:
    folder = run.workspace / "data" / "models" / "me"
    assert (folder / "config.json").is_file() and list(folder.glob("G_*.pth"))
    losses = [entry["losses"] for entry in read_history(run)]
    assert all(np.isfinite(value) for entry in losses for value in entry.values())
    assert losses[-1]["mel"] < losses[0]["mel"]
    assert len(run.outputs("03_train", "image/png")) == 2


def test_training_again_resumes_instead_of_starting_over(run: Run) -> None:
    steps = [entry["step"] for entry in read_history(run)]
    assert steps == sorted(set(steps))
    assert steps[-1] == N_STEPS + 10
    page = " ".join(run.outputs("03_train-again", "text/html"))
    assert f">{N_STEPS + 10}<" in page


def test_clustering_writes_centers_and_an_index_of_the_training_clips(run: Run) -> None:
    from svcnb.data.dataset import load_split
    from svcnb.data.feature_store import FeatureStore
    from svcnb.features.content.retrieval import FeatureIndex, SpeakerCenters

    folder = run.workspace / "data" / "models" / "me"
    store = FeatureStore.open(run.workspace / "data" / "features" / "me")
    content = np.concatenate([store.read(name)["content"] for name in load_split(store).training])
    (path,) = folder.glob("kmeans_*.pt")
    centers = SpeakerCenters.read(path).centers["me"].numpy()
    assert path.name == f"kmeans_{len(content) // 10}.pt" and len(centers) == len(content) // 10
    index = FeatureIndex.read(folder / "feature_and_index.pkl").indexes[0]
    np.testing.assert_array_equal(index.reconstruct_n(0, len(content)), content)
    gaps = np.concatenate(
        [np.square(block[:, None] - centers).sum(axis=2).min(axis=1) for block in np.array_split(content, 20)]
    )
    assert gaps.mean() < 0.3 * content.var(axis=0).sum(), "the centers are no better than a few points"
    assert not list(folder.glob(".*"))


def test_clustering_can_be_seen_and_heard(run: Run) -> None:
    assert len(run.outputs("04_cluster", "image/png")) == 3
    assert sum("<audio" in page for page in run.outputs("04_cluster", "text/html")) == 6
    text = json.dumps(run.executed["04_cluster"])
    assert "mean squared distance" in text and "so-vits-svc uses 10000 centers" in text


def converted(run: Run, voice: str = "me") -> Path:
    (result,) = (run.workspace / "data" / "converted").glob(f"*key_{voice}_*.wav")
    return result


def test_conversion_is_as_long_as_the_source_and_names_its_settings(run: Run) -> None:
    result = converted(run)
    assert abs(soundfile.info(result).duration - soundfile.info(run.song).duration) < 1e-3
    assert "_2key_me_0.5_sovits_" in result.name
    samples, _ = soundfile.read(result)
    assert np.isfinite(samples).all() and np.abs(samples).max() > 0.01


def check_melody(song: Path, result: Path, *, semitones: float) -> None:
    from svcnb.audio.audio import read_audio
    from svcnb.evaluation.metrics import f0_correlation
    from svcnb.features.pitch.estimator import PitchEstimator

    estimate = PitchEstimator("fcpe", sample_rate_hz=22050, hop_samples=256)
    before, after = (estimate(read_audio(path, sample_rate_hz=22050).samples) for path in (song, result))
    assert f0_correlation(before, after) > 0.8
    assert abs(12 * np.log2(after.median_hz() / before.median_hz()) - semitones) < 0.7


def test_conversion_keeps_f0_two_semitones_up(run: Run) -> None:
    check_melody(run.song, converted(run), semitones=2)


def test_conversion_can_be_seen_and_heard(run: Run) -> None:
    assert len(run.outputs("05_convert", "image/png")) == 2
    players = [page for page in run.outputs("05_convert", "text/html") if "<audio" in page]
    assert len(players) == 2 and all("data:audio/mpeg;base64," in page for page in players)
    assert run.outputs("05_convert", "application/vnd.jupyter.widget-view+json"), "the panel was not shown"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"wav": "nowhere.wav"}, "nowhere.wav is neither in"),
        ({"speaker": "nobody"}, "nobody"),
        ({"model": "data/models/tour-me", "enhance": True}, "nsf_hifigan_20221211.zip"),
        ({"cluster_infer_ratio": 0.5, "cluster_model": "data/models/me/config.json"}, "config.json"),
    ],
)
def test_wrong_form_values_raise_in_the_notebook(run: Run, values: dict, message: str) -> None:
    from papermill import PapermillExecutionError

    given = {"wav": run.song.name, "model": "data/models/me", "device": "cpu", "panel": False} | values
    before = sorted((run.workspace / "data" / "converted").iterdir())
    with pytest.raises(PapermillExecutionError) as failed:
        run.execute("05_convert", "-wrong", **given)
    assert message in str(failed.value) and "Error" in failed.value.ename
    assert sorted((run.workspace / "data" / "converted").iterdir()) == before


# --- the tour -----------------------------------------------------------------------------------------------------


def printed_by_the_tour(run: Run, pattern: str) -> list[tuple[float, ...]]:
    """Numbers in the output of the tour that match the pattern, one tuple per match."""
    outputs = [
        output for cell in run.executed["10_how_it_works"]["cells"] for output in cell.get("outputs", [])
    ]
    text = "\n".join("".join(o.get("text", o.get("data", {}).get("text/plain", ""))) for o in outputs)
    return [
        tuple(map(float, found if isinstance(found, tuple) else (found,)))
        for found in re.findall(pattern, text)
    ]


def test_what_the_tour_does_by_hand_is_what_the_package_does(run: Run) -> None:
    differences = [number for (number,) in printed_by_the_tour(run, r"differs? by at most (\S+)")]
    assert len(differences) == 7 and max(differences) < 1e-3
    pairs = printed_by_the_tour(run, r"(-?[\d.]+)(?: cents)? by hand, (-?[\d.]+) by the package")
    assert len(pairs) == 3 and all(by_hand == package for by_hand, package in pairs)
    printed = json.dumps(run.executed["10_how_it_works"])
    assert printed.count("by hand and package equal: True") == 2 and "equal: False" not in printed


def test_the_tour_shows_the_information_in_content_and_falling_losses(run: Run) -> None:
    (by_content,), (by_mel,) = printed_by_the_tour(run, r"moments found again by \w+ +(\d+) %")
    assert by_content > by_mel + 10
    steps = [loss for _, loss in printed_by_the_tour(run, r"after (\d) steps: mel ([\d.]+)")]
    assert len(steps) == 5 and steps == sorted(steps, reverse=True) and steps[-1] < steps[0] - 0.05
    ((moved,),) = printed_by_the_tour(run, r"the flow moves the latents by up to ([\d.]+)")
    assert moved > 0


def test_the_tour_can_be_seen_and_heard(run: Run) -> None:
    assert len(run.outputs("10_how_it_works", "image/png")) == 16
    players = [page for page in run.outputs("10_how_it_works", "text/html") if "<audio" in page]
    assert len(players) == 13 and all("data:audio/mpeg;base64," in page for page in players)


def test_the_tour_writes_a_voice_and_a_conversion(run: Run) -> None:
    from svcnb.training.checkpoints import read_progress

    assert read_progress(run.workspace / "data" / "models" / "tour-me").step == N_TOUR_STEPS
    (result,) = (run.workspace / "data" / "tour" / "converted").iterdir()
    samples, rate_hz = soundfile.read(result)
    assert 0 < len(samples) / rate_hz <= soundfile.info(run.song).duration and np.abs(samples).max() > 0.01
    assert sorted(path.name for path in (run.workspace / "data" / "clips").iterdir()) == ["me"], (
        "it touched the main line"
    )


# --- 20_shallow_diffusion ------------------------------------------------------------------------------------------


def test_shallow_diffusion_writes_a_model_that_converts(run: Run) -> None:
    from svcnb.audio.audio import read_audio
    from svcnb.conversion.settings import ConversionSettings
    from svcnb.models.diffusion.config import Config as DiffusionConfig
    from svcnb.models.sovits.voice import load_voice
    from svcnb.training.checkpoints import read_progress

    voice = run.workspace / "data" / "models" / "me"
    assert read_progress(voice / "diffusion").step == N_DIFFUSION_STEPS
    assert DiffusionConfig.load(voice / "diffusion" / "config.yaml").model.k_step_max == 200
    song = read_audio(run.song).slice_s(0, 1.5)
    result = load_voice(voice).convert(song, ConversionSettings(shallow_diffusion=True, k_step=30))
    assert abs(result.duration_s - song.duration_s) < 1e-3 and np.abs(result.samples).max() > 0.01


def test_shallow_diffusion_can_be_seen_heard_and_compared(run: Run) -> None:
    name = "20_shallow_diffusion"
    assert len(run.outputs(name, "image/png")) == 3
    players = [page for page in run.outputs(name, "text/html") if "<audio" in page]
    assert len(players) == 6 and all("data:audio/mpeg;base64," in page for page in players)
    tables = [page for page in run.outputs(name, "text/html") if "distance in dB" in page]
    assert len(tables) == 1 and all(
        row in tables[0] for row in ("voice", "vocoder alone", "10 noise", "40 noise")
    )


# --- 21_mix_and_export ---------------------------------------------------------------------------------------------


def test_mixing_writes_a_voice_a_release_file_and_an_exported_voice(run: Run) -> None:
    from svcnb.conversion.speaker_mix import read_mix
    from svcnb.files.checkpoint import read_checkpoint

    data = run.workspace / "data"
    one, two, mixed = (
        read_checkpoint(data / "models" / path)["model"]
        for path in ("duo/G_100.pth", "duo/G_0.pth", "mixed/G_100.pth")
    )
    name = "dec.head.weight"
    np.testing.assert_allclose(mixed[name], 0.3 * one[name] + 0.7 * two[name], atol=1e-6)
    released = data / "released"
    assert {path.name for path in released.iterdir()} == {
        "release.pth",
        "config.json",
        "release.onnx",
        "release.json",
    }
    small = read_checkpoint(released / "release.pth")["model"]
    assert not any(key.startswith("enc_q.") for key in small) and str(small[name].dtype) == "torch.float16"
    described = json.loads((released / "release.json").read_text(encoding="utf-8"))
    assert described["CharaMix"] and described["Characters"] == ["ada", "bob"]
    fade = {"ada": [(0.0, 1.0, 1.0, 0.0)], "bob": [(0.0, 1.0, 0.0, 1.0)]}
    assert read_mix(data / "converted" / "speaker_mix.csv") == fade


def test_mixes_can_be_seen_and_heard_and_the_export_is_checked(run: Run) -> None:
    name = "21_mix_and_export"
    assert len(run.outputs(name, "image/png")) == 2
    assert sum("<audio" in page for page in run.outputs(name, "text/html")) == 5
    page = " ".join(run.outputs(name, "text/html"))
    deviations = [float(most) for most in re.findall(r"largest difference ([\d.e-]+)", page)]
    assert len(deviations) == 2 and max(deviations) < 1e-5


# --- 30_rvc_train, 31_rvc_convert ----------------------------------------------------------------------------------


def test_rvc_training_writes_a_voice_with_its_index_and_lowers_the_losses(run: Run) -> None:
    from svcnb.models.rvc.index import find_index
    from svcnb.models.rvc.train import count_steps
    from svcnb.training.checkpoints import read_progress

    voice = run.workspace / "data" / "models" / "my rvc"
    assert read_progress(voice).step == N_RVC_EPOCHS * count_steps(voice)
    assert find_index(voice, [voice]) is not None and list(voice.glob("G_*.pth"))
    lines = [json.loads(line) for line in (voice / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    mel = [line["losses"]["mel"] for line in lines if "losses" in line]
    assert mel[-1] < mel[0] and np.isfinite(mel).all()
    assert len(run.outputs("30_rvc_train", "image/png")) == 2
    table = next(
        page for page in run.outputs("30_rvc_train", "text/html") if "epochs" in page and "<table" in page
    )
    assert all(f">{n * count_steps(voice)}<" in table for n in (20, 100, 200))


def test_rvc_conversion_keeps_length_and_f0(run: Run) -> None:
    from svcnb.audio.audio import read_audio

    result = converted(run, "my rvc")
    assert read_audio(result).duration_s == pytest.approx(read_audio(run.song).duration_s, abs=1 / 40000)
    check_melody(run.song, result, semitones=2)
    assert len(run.outputs("31_rvc_convert", "image/png")) == 2
    assert sum("<audio" in page for page in run.outputs("31_rvc_convert", "text/html")) == 2


# --- 06_evaluate --------------------------------------------------------------------------------------------------


def test_evaluation_measures_the_source_and_copy_synthesis_of_the_target(run: Run) -> None:
    from svcnb.evaluation.results import VoiceEvaluation

    found = VoiceEvaluation.load(run.workspace / "data" / "evaluation" / "me")
    assert not found.skipped and [source.name for source in found.sources] == [run.song.name]
    (source,), (copy,) = found.sources, found.copies
    assert found.target.n_recordings == N_RECORDINGS and 0.8 < found.target.ceiling <= 1
    assert source.similarity_source < found.target.ceiling and copy.similarity > 0.8
    assert source.pitch.correlation > 0.8 and copy.copy.pitch.correlation > 0.8
    distances_db = [copy.copy.distance.mean_db, copy.conversion.distance.mean_db]
    metrics = [*distances_db, source.pitch.rmse_after_shift_cents]
    assert np.isfinite(metrics).all() and min(metrics) > 1


def test_evaluation_writes_a_page_a_table_and_audio(run: Run) -> None:
    folder = run.workspace / "data" / "evaluation" / "me"
    made = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"evaluation.html", "evaluation.csv", "evaluation.json"} <= made
    assert [sum(name.startswith(start) for name in made) for start in ("converted/", "copies/")] == [1, 2]
    page = (folder / "evaluation.html").read_text(encoding="utf-8")
    assert page.count("<audio") == 5 and page.count("<img") == 4


def test_evaluation_can_be_seen_heard_and_read(run: Run) -> None:
    assert len(run.outputs("06_evaluate", "image/png")) == 4
    pages = run.outputs("06_evaluate", "text/html")
    assert sum("<audio" in page for page in pages) == 5
    assert any("what the figures say" in page and "target" in page for page in pages)


# --- the panel ----------------------------------------------------------------------------------------------------


@pytest.fixture
def panel(run: Run, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("ipywidgets")
    from svcnb.notebook.panel import ConversionPanel
    from svcnb.notebook.workspace import open_workspace

    monkeypatch.chdir(PROJECT)
    shutil.copy(run.song, run.workspace / "data" / "raw")
    panel = ConversionPanel(open_workspace(str(run.workspace)))
    panel.fields["voice"].value = "me"
    return panel


def test_panel_offers_the_voices_speakers_and_recordings_there_are(panel) -> None:
    assert panel.fields["voice"].options == ("duo", "me", "mixed", "my rvc", "tour-me")
    assert panel.fields["speaker"].value == "me"
    assert "data/raw/a song.flac" in panel.fields["recording"].options


def test_panel_converts_on_a_click(panel) -> None:
    panel.fields["recording"].value = "data/raw/a song.flac"
    panel.fields["transpose_semitones"].value = -3
    panel.fields["f0_method"].value = "dio"
    panel.fields["cluster_ratio"].value, panel.fields["feature_retrieval"].value = 0.25, True
    panel.button.click()
    assert "Error" not in panel.status.value and "a song.flac" in panel.status.value
    assert panel.result_path.is_file() and "_-3key_me_0.25_" in panel.result_path.name
    assert panel.progress.value == panel.progress.max and not panel.button.disabled


def test_panel_converts_with_an_rvc_voice_too(panel) -> None:
    panel.fields["voice"].value = "my rvc"
    panel.fields["recording"].value = "data/raw/a song.flac"
    panel.button.click()
    assert "Error" not in panel.status.value and "my rvc" in panel.result_path.name


def test_panel_shows_errors_and_stays_usable(panel) -> None:
    panel.fields["recording"].value = "data/raw/a song.flac"
    (panel.workspace.root / "data" / "raw" / "a song.flac").unlink()
    panel.button.click()
    assert "a song.flac is neither in" in panel.status.value
    assert not panel.button.disabled
