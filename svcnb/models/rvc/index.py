"""RVC's feature index: build it from the content of an experiment's clips under RVC's file name, and find it.

Source: RVC 20240604 (lists, reduction, file names).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from svcnb import SvcError
from svcnb.features.content.clustering import build_index, count_lists
from svcnb.features.content.retrieval import FeatureIndex
from svcnb.files.disk import copy_file

ADDED, TRAINED = "added", "trained"
INDEX_NAME = re.compile(
    r"^added_IVF(?P<lists>\d+)_Flat(_nprobe_\d+)?(_(?P<experiment>.+)_(?P<version>v[12]))?\.index$"
)
LINKED_NAME = re.compile(r"^(?P<experiment>.+?)_(added_)?IVF\d+_Flat.*\.index$")  # as in assets/indices
SAVED_AT = re.compile(r"_e\d+(_s\d+)?$")  # me_e20_s400.pth is a checkpoint of the voice me


@dataclass(frozen=True)
class IndexReport:
    """The index that was built; n_vectors is below n_frames if an hour or more of frames was reduced."""

    path: Path
    n_frames: int
    n_vectors: int
    n_lists: int

    def __str__(self) -> str:
        return f"{self.path.name}: {self.n_vectors} vectors of {self.n_frames} frames in {self.n_lists} lists"


def index_name(n_lists: int, experiment: str, version: str, *, kind: str = ADDED) -> str:
    return f"{kind}_IVF{n_lists}_Flat_nprobe_1_{experiment}_{version}.index"


def write_index(
    features: Iterable[np.ndarray], folder: Path | str, experiment: str, version: str, *, seed: int = 0
) -> IndexReport:
    """Build the index of a voice and write added_IVF..._{experiment}_{version}.index; remove its older ones.

    Args:
        features: content of each clip, [N, D], in a fixed order.

    Raises:
        SvcError: no features, or numbers that are not finite.
    """
    gathered = [np.asarray(clip, np.float32) for clip in features]
    if not gathered:
        raise SvcError(f"no features for the index of {experiment}: extract them first")
    frames = np.concatenate(gathered)
    index = build_index(frames[np.random.default_rng(seed).permutation(len(frames))], seed=seed)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = FeatureIndex({0: index}).write(folder / index_name(count_lists(index.ntotal), experiment, version))
    for old in folder.glob("*.index"):  # find_index would find an older one of less data, too
        found = INDEX_NAME.match(old.name)
        if found and old != path and (found["experiment"], found["version"]) == (experiment, version):
            old.unlink()
    return IndexReport(path, len(frames), index.ntotal, index.nlist)


def find_index(
    model: Path | str, folders: Iterable[Path | str], *, version: str | None = None
) -> Path | None:
    """The index that belongs to a voice: its whole name must match, not a part of it; the newest of several.

    Args:
        model: small model (me.pth, me_e20_s400.pth) or voice folder.
        folders: where to search: `logs`, `assets/indices`, the model's own; also their subfolders with the
            voice's name.
        version: v1 or v2 skips files whose name has the other version.
    """
    wanted = SAVED_AT.sub("", Path(model).stem if Path(model).suffix == ".pth" else Path(model).name)
    found = []
    for folder in map(Path, folders):
        for searched in (folder, folder / wanted):
            candidates = sorted(searched.glob("*.index")) if searched.is_dir() else []
            found += [
                path
                for path in candidates
                if _experiment_of(path) == wanted and not _is_of_another(path, version)
            ]
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def copy_index(source: Path, target: Path, version: str) -> None:
    """Copy a voice's index, if it has one, from its folder to another, under the name for that folder."""
    path = find_index(source, [source], version=version)
    if path is None:
        return
    own = INDEX_NAME.match(path.name)
    copy_file(
        path,
        target / (index_name(int(own["lists"]), target.name, version) if own else f"{target.name}.index"),
    )


def _is_of_another(path: Path, version: str | None) -> bool:
    """Whether an index file's name has another version than the requested one."""
    own = INDEX_NAME.match(path.name)
    return version is not None and own is not None and own["version"] not in (None, version)


def _experiment_of(path: Path) -> str | None:
    """Name of the voice that an index file belongs to; None for trained_*.index, which is empty."""
    if path.name.startswith(TRAINED):
        return None
    own = INDEX_NAME.match(path.name)
    if own:
        return own["experiment"] or path.parent.name  # with older files the name is only in the folder
    linked = LINKED_NAME.match(path.name)
    return linked["experiment"] if linked else path.stem  # a program derived from RVC writes {model}.index
