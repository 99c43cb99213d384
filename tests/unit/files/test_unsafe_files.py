"""Every kind of file that people pass on: the real layout loads, and one that asks for code is refused before it runs."""

from __future__ import annotations

import ast
import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svcnb import SvcError
from svcnb.conversion.speaker_mix import read_mix
from svcnb.features.content.clustering import build_index
from svcnb.features.content.encoders import load_encoder
from svcnb.features.content.retrieval import FeatureIndex, SpeakerCenters
from svcnb.features.pitch.neural import load_rmvpe
from svcnb.files.unpickling import UnsafePickle
from svcnb.models.diffusion.checkpoint import read_diffusion_checkpoint
from svcnb.models.diffusion.config import Config as DiffusionConfig
from svcnb.models.sovits.checkpoint import read_sovits_checkpoint
from svcnb.models.sovits.release import compress_voice, mix_voices
from svcnb.models.sovits.voice import load_voice
from svcnb.models.vocoder.files import load_vocoder
from tests.sources import module_name, package_files, syntax_tree
from tests.toys.encoder_files import Layout, hubert_state
from tests.toys.small_voice import save_small_voice
from tests.toys.tiny_diffusion import write_model, write_vocoder
from tests.unit.features.content.test_dphubert import PRUNED, save_dphubert
from tests.unit.features.content.test_encoders import hubert_soft_state
from tests.unit.features.content.test_fairseq import GATED, LARGE, save_fairseq, save_wavlm
from tests.unit.features.content.test_whisper import save_whisper
from tests.unit.features.pitch.test_predictors import save_rmvpe

pytestmark = pytest.mark.filterwarnings("ignore:.*values per frame")  # the encoders' files are small ones
BASE = Layout(heads=((0, 1, 2, 3),) * 12, inner=(20,) * 12)


@dataclass(frozen=True)
class Kind:
    """`write` puts a harmless file of the real layout below a folder and returns its path; `read` reads it."""

    write: Callable[[Path], Path]
    read: Callable[[Path], Any]


def encoder(name: str, file_name: str, save: Callable[[Path], Any]) -> Kind:
    def write(folder: Path) -> Path:
        save(folder / file_name)
        return folder / file_name

    return Kind(write, lambda path: load_encoder(name, folder=path.parent))


def save_contentvec(path: Path) -> None:
    projection = {"final_proj.weight": torch.ones(5, BASE.width), "final_proj.bias": torch.ones(5)}
    torch.save(
        {"model": hubert_state(BASE) | projection, "cfg": {"model": {"encoder_attention_heads": 4}}}, path
    )


def write_centres(folder: Path) -> Path:
    centers = {"n_features_in_": 4, "_n_threads": 4, "cluster_centers_": np.ones((3, 4), np.float32)}
    torch.save({"ada": centers}, folder / "kmeans_10000.pt")
    return folder / "kmeans_10000.pt"


def write_index(folder: Path) -> Path:
    pytest.importorskip("faiss")
    frames = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    (folder / "feature_and_index.pkl").write_bytes(pickle.dumps({0: build_index(frames)}))
    return folder / "feature_and_index.pkl"


def write_voice(folder: Path) -> Path:
    return save_small_voice(folder) / "G_0.pth"


def write_discriminator(folder: Path) -> Path:
    contents = {
        "model": {"discriminators.0.convs.0.weight_g": torch.ones(2)},
        "iteration": 1,
        "optimizer": {},
    }
    torch.save(contents | {"learning_rate": 1e-4}, folder / "D_800.pth")
    return folder / "D_800.pth"


def write_diffusion(folder: Path) -> Path:
    save_small_voice(folder)
    return write_model(folder)


def write_pitch(folder: Path, *, wrapped: bool) -> Path:
    save_rmvpe(folder, wrapped=wrapped)
    return folder / "rmvpe.pt"


def in_a_zip(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """Reads the file's whole folder from a zip archive."""

    def read_zip(path: Path) -> Any:
        archive = path.parent.with_suffix(".zip")
        with zipfile.ZipFile(archive, "w") as zipped:
            for file in path.parent.iterdir():
                zipped.write(file, file.name)
        return read(archive)

    return read_zip


KINDS = {
    "generator": Kind(write_voice, lambda path: load_voice(path.parent)),
    "generator in a zip": Kind(write_voice, in_a_zip(load_voice)),
    "generator to compress": Kind(write_voice, lambda path: compress_voice(path, path.with_name("small.pth"))),
    "generator to mix": Kind(write_voice, lambda path: mix_voices([save_small_voice(path.parent / "b"), path], path.parent / "mix")),
    "discriminator": Kind(write_discriminator, read_sovits_checkpoint),
    "centres": Kind(write_centres, SpeakerCenters.read),
    "index": Kind(write_index, FeatureIndex.read),
    "diffusion": Kind(write_diffusion, read_diffusion_checkpoint),
    "vocoder": Kind(lambda folder: write_vocoder(folder) / "model", lambda path: load_vocoder(path.parent)),
    "vocoder in a zip": Kind(lambda folder: write_vocoder(folder) / "model", in_a_zip(load_vocoder)),
    "rmvpe": Kind(partial(write_pitch, wrapped=True), load_rmvpe),
    "rmvpe of RVC": Kind(partial(write_pitch, wrapped=False), load_rmvpe),
    "vec768l12": encoder("vec768l12", "checkpoint_best_legacy_500.pt", save_contentvec),
    "vec256l9": encoder("vec256l9", "hubert_base.pt", save_contentvec),
    "hubertsoft": encoder("hubertsoft", "hubert-soft-0d54a1f4.pt", lambda path: torch.save(hubert_soft_state(), path)),
    "whisper-ppg": encoder("whisper-ppg", "medium.pt", save_whisper),
    "whisper-ppg-large": encoder("whisper-ppg-large", "large-v2.pt", save_whisper),
    "cnhubertlarge": encoder("cnhubertlarge", "chinese-hubert-large-fairseq-ckpt.pt", lambda path: save_fairseq(path, LARGE)),
    "dphubert": encoder("dphubert", "DPHuBERT-sp0.75.pth", lambda path: save_dphubert(path, PRUNED)),
    "wavlmbase+": encoder("wavlmbase+", "WavLM-Base+.pt", lambda path: save_wavlm(path, GATED)),
}  # fmt: skip
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


class RunsWhenRead:
    """Pickles as a call: reading it with plain pickle runs the call."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # data/unpacked is made below
    (tmp_path / "files").mkdir()
    return tmp_path / "files"


@each_kind
def test_a_harmless_file_of_the_real_layout_loads(folder: Path, kind: Kind) -> None:
    assert kind.read(kind.write(folder)) is not None


def poison(path: Path, trap: RunsWhenRead) -> None:
    """The same file with a call in a place that no reader needs; test_checkpoint tries every format of such files."""
    if path.suffix == ".pkl":
        contents = pickle.loads(path.read_bytes())
        path.write_bytes(pickle.dumps({**contents, 9: trap}, protocol=4))
        return
    contents = torch.load(path, map_location="cpu", weights_only=False)
    torch.save({**contents, "notes": [{"deep": trap}]}, path)


@each_kind
def test_a_file_that_asks_for_code_is_refused_before_anything_runs(folder: Path, kind: Kind) -> None:
    path, trace = kind.write(folder), folder.parent / "trace"
    poison(path, RunsWhenRead(os.mkdir, str(trace)))
    with pytest.raises(UnsafePickle, match="mkdir"):
        kind.read(path)
    assert not trace.exists()


@each_kind
def test_a_bare_pickle_under_the_files_name_is_refused_too(folder: Path, kind: Kind) -> None:
    path, trace = kind.write(folder), folder.parent / "trace"
    path.write_bytes(pickle.dumps({"model": RunsWhenRead(os.mkdir, str(trace))}))
    with pytest.raises(UnsafePickle, match="mkdir"):
        kind.read(path)
    assert not trace.exists()


def test_a_yaml_that_names_a_python_object_is_refused(folder: Path) -> None:
    config, trace = write_diffusion(folder).with_name("config.yaml"), folder / "trace"
    assert DiffusionConfig.load(config)
    config.write_text(f"{config.read_text()}\nenv: !!python/object/apply:os.mkdir ['{trace}']\n")
    with pytest.raises(SvcError, match="not a YAML config.*python/object/apply"):
        DiffusionConfig.load(config)
    assert not trace.exists()


def test_a_timeline_of_speakers_in_python_is_read_and_not_run(folder: Path) -> None:
    path, trace = folder / "spkmix.py", folder / "trace"
    path.write_text(
        f"import os\nos.mkdir({str(trace)!r})\nspk_mix_map = {{0: [[0.0, 1.0, 1.0, 0.0]], 1: [[0.0, 1.0, 0.0, 1.0]]}}\n"
    )
    assert len(read_mix(path)) == 2
    path.write_text(f"spk_mix_map = {{0: __import__('os').mkdir({str(trace)!r})}}\n")
    with pytest.raises(SvcError, match="spkmix.py contains no speaker mix"):
        read_mix(path)
    assert not trace.exists()


# Readers that could run what they read, and the one place of each that is known not to.
READERS = {
    "torch.load": {"files.unpickling", "features.pitch.neural"},  # both weights_only
    "pickle.load": set(),
    "pickle.loads": {"training.launch"},  # what processes of our own left in a private folder
    "pickle.Unpickler": {"features.content.index_files"},  # builds nothing but containers
    "np.load": set(),
    "numpy.load": set(),
    "yaml.load": set(),
    "yaml.unsafe_load": set(),
    "joblib.load": set(),
    "runpy.run_path": set(),
    "marshal.loads": set(),
}


def test_no_other_place_reads_pickles() -> None:
    for path in package_files():
        for node in ast.walk(syntax_tree(path)):
            if isinstance(node, ast.Attribute | ast.Name) and (name := ast.unparse(node)) in READERS:
                assert module_name(path) in READERS[name], f"{path.name}:{node.lineno}: {name}"
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in ast.unparse(node), f"{path.name}:{node.lineno}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), f"{path.name}:{node.lineno}: {node.func.id}"
