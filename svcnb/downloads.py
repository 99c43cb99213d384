"""The weights that svcnb can use: under which file name, from where, for what. Only this module may use the network.

Nothing is fetched unless `fetch` is called. Files lie under the names that the voice families use, so
that a folder filled for another program serves here too.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from svcnb import MissingExtra, SvcError
from svcnb.disk import write_text

CHECKSUMS_NAME = "checksums.json"
BUNDLED_FOLDER = Path(__file__).resolve().parent.parent / "pretrain"
OPENAI = "https://openaipublic.azureedge.net/main/whisper/models"
GITHUB = "https://github.com"
HUGGING_FACE = "https://huggingface.co"
SOVITS_BASE = f"{HUGGING_FACE}/datasets/ms903/sovits4.0-768vec-layer12/resolve/main/sovits_768l12_pre_large_320k"


class WeightsMissing(SvcError):
    """Weights that are not on this machine; the message says which file to put where."""


@dataclass(frozen=True)
class Weights:
    """One row. `url` None: the family points to a page, not to a file, see `source`. `sha256` None: the
    first fetch records it in the folder's checksums.json, later ones compare."""

    name: str
    file_name: str
    used_for: str
    source: str
    licence: str
    url: str | None = None
    n_bytes: int | None = None  # rounded, for a first idea
    sha256: str | None = None
    other_names: tuple[str, ...] = ()
    member: str | None = None  # what to take out of a zip file at `url`
    bundled: bool = False


WEIGHTS: dict[str, Weights] = {
    row.name: row
    for row in (
        Weights(
            "svcnb-units",
            "svcnb_units.safetensors",
            "content encoder svcnb-units (bundled)",
            "part of svcnb; made by pretrain/make_encoder.py",
            "MIT, data CC BY 4.0",
            bundled=True,
        ),
        Weights(
            "soft-units",
            "soft_units.safetensors",
            "content encoder soft-units (bundled)",
            "part of svcnb; made by pretrain/make_soft_units.py",
            "MIT, data CC BY 4.0",
            bundled=True,
        ),
        Weights(
            "contentvec",
            "checkpoint_best_legacy_500.pt",
            "content encoders vec768l12 and vec256l9",
            "ContentVec's own page (ContentVec_legacy, 500 classes), or RVC's hubert_base.pt (the same weights), "
            "on Hugging Face in lj1995/VoiceConversionWebUI",
            "MIT",
            n_bytes=190_000_000,
            url=f"{HUGGING_FACE}/lj1995/VoiceConversionWebUI/resolve/main/hubert_base.pt",
            other_names=("hubert_base.pt",),
        ),
        Weights(
            "hubert-soft",
            "hubert-soft-0d54a1f4.pt",
            "content encoder hubertsoft",
            "bshall/hubert on GitHub, release v0.1",
            "MIT",
            url=f"{GITHUB}/bshall/hubert/releases/download/v0.1/hubert-soft-0d54a1f4.pt",
        ),
        Weights(
            "whisper-medium",
            "medium.pt",
            "content encoder whisper-ppg",
            "OpenAI's Whisper",
            "MIT",
            url=f"{OPENAI}/345ae4da62f9b3d59415adc60127b97c714f32e89e936602e85993674d08dcb1/medium.pt",
            sha256="345ae4da62f9b3d59415adc60127b97c714f32e89e936602e85993674d08dcb1",
        ),
        Weights(
            "whisper-large",
            "large-v2.pt",
            "content encoder whisper-ppg-large",
            "OpenAI's Whisper",
            "MIT",
            url=f"{OPENAI}/81f7c96c852ee8fc832187b0132e569d6c3065a3252ed18e56effd0b6a73e524/large-v2.pt",
            sha256="81f7c96c852ee8fc832187b0132e569d6c3065a3252ed18e56effd0b6a73e524",
        ),
        Weights(
            "rmvpe",
            "rmvpe.pt",
            "f0 method rmvpe",
            "yxlllc/RMVPE on GitHub, release 230917 (rmvpe.zip: rename its model.pt), or RVC's rmvpe.pt",
            "MIT",
            url=f"{GITHUB}/yxlllc/RMVPE/releases/download/230917/rmvpe.zip",
            member="model.pt",
        ),
        Weights(
            "nsf-hifigan",
            "nsf_hifigan/model",
            "vocoder of shallow diffusion and of the enhancer (with config.json beside it)",
            "openvpi/vocoders on GitHub, release nsf-hifigan-v1, nsf_hifigan_20221211.zip (unpack into pretrain/)",
            "CC BY-NC-SA 4.0",
        ),
        Weights(
            "sovits-base-generator",
            "G_0.pth",
            "base model for training so-vits-svc 4.1 (vec768l12); put it into the voice's own folder",
            "Hugging Face, ms903/sovits4.0-768vec-layer12: sovits_768l12_pre_large_320k/clean_G_320000.pth, renamed",
            "see its page",
            url=f"{SOVITS_BASE}/clean_G_320000.pth",
        ),
        Weights(
            "sovits-base-discriminator",
            "D_0.pth",
            "base model for training so-vits-svc 4.1, the discriminator; put it into the voice's own folder",
            "Hugging Face, ms903/sovits4.0-768vec-layer12: sovits_768l12_pre_large_320k/clean_D_320000.pth, renamed",
            "see its page",
            url=f"{SOVITS_BASE}/clean_D_320000.pth",
        ),
    )
}


def has_weights(name: str, folder: str | Path = Path("pretrain")) -> bool:
    """Whether the weights are in `folder` (or bundled), under any of their names."""
    return _present(_row(name), Path(folder)) is not None


def find_weights(name: str, folder: str | Path = Path("pretrain")) -> Path:
    """Where the weights are; nothing is downloaded.

    Raises:
        WeightsMissing: not there; the message names the file, the folder and the source.
    """
    row, folder = _row(name), Path(folder)
    found = _present(row, folder)
    if found is None:
        raise WeightsMissing(_how_to_get(row, folder))
    return found


def fetch(name: str, folder: str | Path = Path("pretrain")) -> Path:
    """The weights, downloaded into `folder` if they are not there; a broken download leaves nothing behind.

    Raises:
        WeightsMissing: no public address is known, the network failed, or the file is not the expected one.
    """
    row, folder = _row(name), Path(folder)
    found = _present(row, folder)
    if found is not None:
        return found
    if row.url is None:
        raise WeightsMissing(_how_to_get(row, folder))
    checksum = row.sha256 or _recorded(folder).get(row.file_name)
    path = _download(row, folder, checksum)
    if checksum is None:
        _record(folder, row.file_name, sha256_of(path))
    return path


def sha256_of(path: str | Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _row(name: str) -> Weights:
    if name not in WEIGHTS:
        raise SvcError(f"weights {name!r} are not known, expected one of {', '.join(WEIGHTS)}.")
    return WEIGHTS[name]


def _present(row: Weights, folder: Path) -> Path | None:
    places = [folder / file_name for file_name in (row.file_name, *row.other_names)]
    if row.bundled:  # also beside the package, wherever the program was started
        places.append(BUNDLED_FOLDER / row.file_name)
    return next((path for path in places if path.is_file()), None)


def _how_to_get(row: Weights, folder: Path) -> str:
    also = f" (or {', '.join(row.other_names)})" if row.other_names else ""
    fetching = f" svcnb.downloads.fetch({row.name!r}) downloads it." if row.url else ""
    return f"{row.used_for} needs {folder / row.file_name}{also}, which is not there. Source: {row.source}.{fetching}"


def _download(row: Weights, folder: Path, checksum: str | None) -> Path:
    try:
        import pooch
        import requests  # pooch's own requirement; its errors come through
    except ImportError as error:
        raise MissingExtra("downloads need pooch: pip install pooch") from error

    folder.mkdir(parents=True, exist_ok=True)
    known_hash = f"sha256:{checksum}" if checksum else None
    zipped = row.member is not None
    try:
        # pooch downloads to a temporary name, compares the hash, then renames
        fetched = pooch.retrieve(
            row.url,
            known_hash=None if zipped else known_hash,
            fname=f"{row.file_name}.zip" if zipped else row.file_name,
            path=folder,
            processor=pooch.Unzip(members=[row.member], extract_dir=f"{row.file_name}.unzipped") if zipped else None,
            progressbar=True,
        )
    except (OSError, ValueError, requests.RequestException) as error:
        raise WeightsMissing(f"{row.file_name} was not downloaded from {row.url}: {error}. {_how_to_get(row, folder)}") from error
    return _out_of_zip(row, folder, fetched, checksum) if zipped else Path(fetched)


def _out_of_zip(row: Weights, folder: Path, members: list[str], checksum: str | None) -> Path:
    """Move the one wanted member into place and remove the archive."""
    unpacked, path = Path(members[0]), folder / row.file_name
    if checksum and sha256_of(unpacked) != checksum:
        raise WeightsMissing(f"{row.file_name} from {row.url} is not the file that was fetched here before. Remove {unpacked.parent}.")
    unpacked.replace(path)
    unpacked.parent.rmdir()
    (folder / f"{row.file_name}.zip").unlink()
    return path


def _recorded(folder: Path) -> dict[str, str]:
    path = folder / CHECKSUMS_NAME
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _record(folder: Path, file_name: str, checksum: str) -> None:
    write_text(folder / CHECKSUMS_NAME, json.dumps({**_recorded(folder), file_name: checksum}, indent=1))
