"""Find the files of one voice in a folder or zip file as shared online, whatever its files are called.

Public collections hold one generator (G_*.pth, or any *.pth), a config.json (or any *.json), and perhaps
cluster centers (kmeans*.pt), an index (feature_and_index.pkl) and a diffusion model with its yaml, in any
subfolder.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePath, PurePosixPath
from typing import TypeVar

from svcnb import SvcError
from svcnb.data.extractor import MEDIAN_F0_FILE
from svcnb.features.content.retrieval import INDEX_FILE
from svcnb.files.archives import ArchiveError, list_archive, read_member, unpack
from svcnb.models.diffusion.checkpoint import (
    CONFIG_NAME as DIFFUSION_CONFIG,
)
from svcnb.models.diffusion.checkpoint import (
    DIFFUSION_FOLDER,
    DiffusionFiles,
)
from svcnb.models.sovits.config import Config, speaker_ids
from svcnb.training.checkpoints import STATE_NAME, best_step, recorded_best

log = logging.getLogger(__name__)
UNPACKED_FOLDER = Path("data/unpacked")
CONFIG_NAME = "config.json"
MAX_JSON_BYTES = 1_000_000
MAX_SEARCHED_FILES = 20_000
GENERATOR = re.compile(r"G_.*\.pth")
BASE_OR_OTHER = re.compile(r"(D_.*|G_0|rmvpe|DPHuBERT.*)\.pth", re.I)
CENTERS = re.compile(r"kmeans.*\.pt", re.I)
DIFFUSION_MODEL = re.compile(r"(model_(?P<step>\d+)|.*diff.*)\.pt", re.I)
CHECKPOINTS = ("best", "newest")
# The first is taken from the weights; of the encoder the weights show only the width, which is ssl_dim.
ONLY_SUGGESTED = ("use_automatic_f0_prediction", "speech_encoder")


@dataclass(frozen=True)
class VoiceFiles:
    """Paths of the parts of one voice.

    Attributes:
        name: of the voice: of its folder, or of the zip file.
        weights, config: always there.
        retrieval_folder: with cluster centers or an index.
        diffusion: files of shallow diffusion that are not in the folder diffusion/ beside the weights.
    """

    name: str
    weights: Path
    config: Path
    retrieval_folder: Path
    diffusion: DiffusionFiles = field(default_factory=DiffusionFiles)


@dataclass(frozen=True)
class _Contents:
    """The files below a folder or in an archive, and how to read a small one."""

    source: Path
    paths: list[PurePosixPath]
    read: Callable[[PurePosixPath], bytes]

    def beside(self, path: PurePosixPath) -> list[PurePosixPath]:
        return [other for other in self.paths if other.parent == path.parent]


def find_voice(
    source: Path,
    *,
    config: Path | None = None,
    checkpoint: str = "best",
    unpacked_folder: Path = UNPACKED_FOLDER,
) -> VoiceFiles:
    """The files of the one voice in a folder or a zip file, or of a named checkpoint.

    From a zip file only the voice's own files are unpacked, once, into a folder below `unpacked_folder`,
    whose path is logged; nothing is written beside the zip file.

    Args:
        config: the config to use instead of the one that is found.
        checkpoint: "best" or "newest", where one folder holds several.

    Raises:
        SvcError: no voice, several candidates (all are named), or a zip file that is refused (see archives).
    """
    check_choice(checkpoint)
    if is_archive(source):
        weights = _unpack_voice(source, config, checkpoint, unpacked_folder)
        return replace(_plain(weights, config, checkpoint), name=source.stem)
    if source.is_dir() and not _holds_a_voice(source):
        return _search(_contents_of_folder(source), config, checkpoint)
    return _plain(source, config, checkpoint)


def is_archive(source: Path) -> bool:
    """Whether it is a zip file by its name; checkpoints are zip files too, inside."""
    return source.suffix.lower() == ".zip"


def speakers_in(source: Path) -> list[str]:
    """Names of a voice's speakers in the order of their ids, from its config; empty if there is none."""
    contents = _contents_of_zip(source) if is_archive(source) else _contents_of_folder(source)
    stored = {path: _read_json(contents, path) for path in contents.paths}
    configs = [path for path, values in stored.items() if "spk" in values]
    if not configs:
        return []
    nearest = min(configs, key=lambda path: (len(path.parts), path.name != CONFIG_NAME, path))
    named = speaker_ids(stored[nearest]["spk"])
    return sorted(named, key=named.get)


def _holds_a_voice(folder: Path) -> bool:
    """Whether checkpoints are directly in the folder; a base model beside other weights does not count."""
    weights = [path.name for path in folder.glob("*.pth")]
    trained = [name for name in weights if GENERATOR.fullmatch(name) and not BASE_OR_OTHER.fullmatch(name)]
    others = [name for name in weights if not BASE_OR_OTHER.fullmatch(name)]
    return bool(trained) or ("G_0.pth" in weights and not others)


def _plain(source: Path, config: Path | None, checkpoint: str) -> VoiceFiles:
    """A checkpoint, or a folder that holds one directly."""
    weights, beside = locate_voice(source, config, checkpoint)
    if config is None and not beside.is_file():
        found = _configs_beside(_contents_of_folder(weights.parent, deep=False), PurePosixPath(weights.name))
        beside = weights.parent / found if found else beside
    return VoiceFiles(weights.parent.name, weights, beside, weights.parent)


def _search(contents: _Contents, config: Path | None, checkpoint: str) -> VoiceFiles:
    root, parts = contents.source, _choose(contents, config, checkpoint)
    return VoiceFiles(
        name=root.name,
        weights=root / parts.weights,
        config=config or root / parts.config,
        retrieval_folder=root / (parts.retrieval[0].parent if parts.retrieval else parts.weights.parent),
        diffusion=DiffusionFiles(root / parts.diffusion_model, root / parts.diffusion_config)
        if parts.diffusion_model
        else DiffusionFiles(),
    )


# Choose the voice's files -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Parts:
    weights: PurePosixPath
    config: PurePosixPath | None
    retrieval: list[PurePosixPath]
    diffusion_model: PurePosixPath | None
    diffusion_config: PurePosixPath | None


def _choose(contents: _Contents, config: Path | None, checkpoint: str) -> _Parts:
    weights = _choose_weights(contents, checkpoint)
    model = _choose_diffusion(contents)
    stored = [path for path in contents.paths if CENTERS.fullmatch(path.name) or path.name == INDEX_FILE]
    retrieval = _nearest_folder(stored, weights)
    yamls = [path for path in contents.beside(model) if path.suffix in (".yaml", ".yml")] if model else []
    return _Parts(
        weights=weights,
        config=None if config else _choose_config(contents, weights),
        retrieval=retrieval,
        diffusion_model=model if len(yamls) == 1 else None,
        diffusion_config=yamls[0] if len(yamls) == 1 else None,
    )


def _choose_weights(contents: _Contents, checkpoint: str) -> PurePosixPath:
    all_weights = [path for path in contents.paths if path.suffix.lower() == ".pth"]
    generators = [path for path in all_weights if GENERATOR.fullmatch(path.name)]
    unnumbered = [path for path in all_weights if path not in generators]
    others = [path for path in unnumbered if not BASE_OR_OTHER.fullmatch(path.name)]
    trained = [path for path in generators if not BASE_OR_OTHER.fullmatch(path.name)]
    candidates = trained or [*generators, *others]
    if not candidates:
        raise SvcError(
            f"no voice in {contents.source}: expected a G_*.pth, or one other *.pth, and its config.json"
        )
    if len({path.parent for path in candidates}) > 1 or (len(candidates) > 1 and not trained):
        raise SvcError(f"several voices in {contents.source}: name one of {_listed(candidates)}")
    record, best = candidates[0].parent / STATE_NAME, None
    if checkpoint == "best" and record in contents.paths:
        best = recorded_best(contents.read(record), contents.source / record)
    return newest_or(best, candidates)


def _choose_config(contents: _Contents, weights: PurePosixPath) -> PurePosixPath:
    beside = _configs_beside(contents, weights)
    if beside:
        return beside
    configs = [path for path in contents.paths if _is_config(contents, path)]
    if not configs:
        raise SvcError(f"no config.json for {weights} in {contents.source}: name that of its training (-c)")
    if len(configs) > 1:
        raise SvcError(
            f"several configs for {weights} in {contents.source}: name one with -c, of {_listed(configs)}"
        )
    return configs[0]


def _configs_beside(contents: _Contents, weights: PurePosixPath) -> PurePosixPath | None:
    """config.json in the same folder, else the one with the weights' name, else the only one."""
    found = [path for path in contents.beside(weights) if _is_config(contents, path)]
    named = [path for path in found if path.name == CONFIG_NAME]
    named = named or [path for path in found if path.stem == weights.stem]
    if len(named or found) > 1:
        raise SvcError(
            f"several configs beside {weights} in {contents.source}: name one with -c, of {_listed(found)}"
        )
    return (named or found or [None])[0]


def _is_config(contents: _Contents, path: PurePosixPath) -> bool:
    """Whether it is a voice's config: JSON with the sections that all of them have."""
    stored = _read_json(contents, path)
    return isinstance(stored.get("model"), dict) and isinstance(stored.get("data"), dict)


def _read_json(contents: _Contents, path: PurePosixPath) -> dict:
    """Contents of a small JSON file; empty for any other file."""
    if path.suffix.lower() != ".json":
        return {}
    try:
        stored = json.loads(contents.read(path).decode("utf-8-sig"))
    except (ValueError, ArchiveError):  # not JSON, or far too long for a config
        return {}
    return stored if isinstance(stored, dict) else {}


def _choose_diffusion(contents: _Contents) -> PurePosixPath | None:
    """The diffusion model with the most steps, if all are in one folder."""
    matches = {path: DIFFUSION_MODEL.fullmatch(path.name) for path in contents.paths}
    found = [path for path, match in matches.items() if match and not CENTERS.fullmatch(path.name)]
    if len({path.parent for path in found}) != 1:
        return None
    return max(found, key=lambda path: (int(matches[path]["step"] or 0), path.name))


def _nearest_folder(paths: list[PurePosixPath], weights: PurePosixPath) -> list[PurePosixPath]:
    """The paths beside the weights, else all of them if they are in one folder."""
    beside = [path for path in paths if path.parent == weights.parent]
    return beside or (paths if len({path.parent for path in paths}) == 1 else [])


def _listed(paths: Iterable[PurePosixPath], most: int = 10) -> str:
    names = sorted(map(str, paths))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


# Folders and archives ---------------------------------------------------------------------------------------------


def _contents_of_folder(folder: Path, *, deep: bool = True) -> _Contents:
    paths = []
    for path in folder.rglob("*") if deep else folder.iterdir():
        if path.is_file() and not path.name.startswith("."):
            paths.append(PurePosixPath(path.relative_to(folder).as_posix()))
        if len(paths) > MAX_SEARCHED_FILES:
            raise SvcError(
                f"{folder} holds more than {MAX_SEARCHED_FILES} files: name the voice's own folder"
            )
    return _Contents(folder, sorted(paths), lambda path: _read_small(folder / path))


def _read_small(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_JSON_BYTES)


def _contents_of_zip(path: Path) -> _Contents:
    members = list_archive(path)
    read = partial(read_member, path, max_bytes=MAX_JSON_BYTES)
    return _Contents(path, sorted(members), lambda member: read(members[member]))


def _unpack_voice(path: Path, config: Path | None, checkpoint: str, unpacked_folder: Path) -> Path:
    """Unpack the archive's voice into its own folder, under so-vits-svc's file names; path of its weights."""
    contents, members = _contents_of_zip(path), list_archive(path)
    parts = _choose(contents, config, checkpoint)
    wanted = {parts.weights: PurePosixPath(parts.weights.name)}
    if parts.config:
        wanted[parts.config] = PurePosixPath(CONFIG_NAME)
    median_f0 = [member for member in contents.beside(parts.weights) if member.name == MEDIAN_F0_FILE]
    wanted |= {member: PurePosixPath(member.name) for member in [*parts.retrieval, *median_f0]}
    if parts.diffusion_model:
        wanted[parts.diffusion_model] = PurePosixPath(DIFFUSION_FOLDER, parts.diffusion_model.name)
        wanted[parts.diffusion_config] = PurePosixPath(DIFFUSION_FOLDER, DIFFUSION_CONFIG)
    status = path.stat()
    version = zlib.crc32(
        f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}|{sorted(map(str, wanted))}".encode()
    )
    folder = unpacked_folder / f"{path.stem}-{version:08x}"
    if folder.is_dir():
        return folder / parts.weights.name
    temporary = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    n_bytes = unpack(path, {members[member]: temporary / target for member, target in wanted.items()})
    temporary.rename(folder)
    log.info(
        "%s: %.0f MB unpacked into %s, which later calls reuse; remove it to free disk space",
        path,
        n_bytes / 1e6,
        folder,
    )
    return folder / parts.weights.name


AnyPath = TypeVar("AnyPath", bound=PurePath)


def check_choice(checkpoint: str) -> None:
    """Raise a SvcError unless it is one of CHECKPOINTS."""
    if checkpoint not in CHECKPOINTS:
        raise SvcError(f"checkpoint {checkpoint!r}: choose {' or '.join(CHECKPOINTS)}, or name one G_*.pth")


def locate_voice(source: Path, config: Path | None, checkpoint: str = "best") -> tuple[Path, Path]:
    """The G_*.pth of a voice's folder (or the one named), and its config.json.

    Raises:
        SvcError: no checkpoint there.
    """
    check_choice(checkpoint)
    if source.is_dir():
        candidates = list(source.glob("G_*.pth"))
        if not candidates:
            raise SvcError(
                f"no G_*.pth in {source}: train a voice there first, or name the checkpoint itself"
            )
        source = newest_or(best_step(source) if checkpoint == "best" else None, candidates)
    if not source.is_file():
        raise SvcError(f"no checkpoint at {source}: give a voice's folder or its G_*.pth")
    return source, config or source.parent / "config.json"


def newest_or(step: int | None, candidates: Sequence[AnyPath]) -> AnyPath:
    """The checkpoint of a step, else the one with the largest step in its name (G_800_release.pth: none)."""
    chosen = next((path for path in candidates if path.name == f"G_{step}.pth"), None)
    return chosen or max(candidates, key=lambda path: (step_of(path) is not None, len(path.stem), path.stem))


def step_of(weights_path: PurePath) -> int | None:
    """Training steps from the file's name; None if the name has none."""
    number = weights_path.stem.removeprefix("G_")
    return int(number) if number.isdigit() else None


def refuse_misfit(config: Config, described: dict, weights_path: Path, config_path: Path) -> None:
    """Raise a SvcError that names every key in which the config differs from the sizes in the weights."""
    stored = config.model.model_dump()
    differences = [
        f"{key} is {stored[key]} in the config, {value} in the weights"
        for key, value in described.items()
        if key in stored and key not in ONLY_SUGGESTED and stored[key] != value
    ]
    if differences:
        raise SvcError(
            f"{weights_path.name} and {config_path} do not fit: {'; '.join(differences)}. "
            "Give the config.json that was trained with these weights (-c)"
        )
