"""The weights that svcnb can use: under which file name, from where, for what. Only this module and transfer use the network.

Nothing is fetched unless `fetch` is called. Files lie under the names that the voice families use, so
that a folder filled for another program serves here too.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from svcnb import SvcError
from svcnb.archives import ArchiveError, list_archive, unpack
from svcnb.disk import write_json
from svcnb.transfer import TransferError, download

CHECKSUMS_NAME = "checksums.json"
BUNDLED_FOLDER = Path(__file__).resolve().parent.parent / "pretrain"
OPENAI = "https://openaipublic.azureedge.net/main/whisper/models"
GITHUB = "https://github.com"
HUGGING_FACE = "https://huggingface.co"
HUGGING_FACE_VARIABLE = "HF_ENDPOINT"  # Hugging Face's own programs read a mirror's address there, too
SOVITS_BASE = f"{HUGGING_FACE}/datasets/ms903/sovits4.0-768vec-layer12/resolve/main"
SOVITS_BASE_VOLUME = f"{HUGGING_FACE}/datasets/1asbgdh/sovits4.0-volemb-vec768/resolve/main"
DIFFUSION_BASE = "ms903/Diff-SVC-refactor-pre-trained-model/resolve/main/fix_pitch_add_vctk_600k/model_0.pt"
ONNX_ENCODERS = {
    "vec256l9-onnx": "vec-256-layer-9.onnx",
    "vec256l12-onnx": "vec-256-layer-12.onnx",
    "vec768l9-onnx": "vec-768-layer-9.onnx",
    "vec768l12-onnx": "vec-768-layer-12.onnx",
    "hubertsoft-onnx": "hubert-soft.onnx",
}
UNKNOWN_CHECKSUM = "unknown: first use records it"
UNCHECKED_SUFFIX = ".unchecked"
IN_PACKAGES = ("auto", "fcpe", "crepe", "dio", "harvest", "pm")  # f0 methods whose weights pip installs, or that have none


class WeightsMissing(SvcError):
    """Weights that are not on this machine; the message says which file to put where."""


@dataclass(frozen=True)
class Weights:
    """One row.

    Attributes:
        file_name: where it lies below pretrain/.
        used_for: in words.
        source: where a person finds it.
        needed_for: the choices that need it: an encoder's name, an f0 method, an option.
        url: None where the family points to a page, not to a file.
        mirrors: further addresses, tried in this order.
        member: which file of the archive it is where an address ends in .zip. Where `file_name` has a folder, the
            files beside it (its config, its licence) come along.
        companions: files that must be there as well.
        n_bytes: rounded, for a first idea; None: not known.
        sha256: of the file; None: the first use records it in the folder's checksums.json, later ones compare.
        other_names: file names under which other programs keep it.
        bundled: part of the project.
    """

    name: str
    file_name: str
    used_for: str
    source: str
    licence: str
    needed_for: tuple[str, ...] = ()
    url: str | None = None
    mirrors: tuple[str, ...] = ()
    member: str | None = None
    companions: tuple[str, ...] = ()
    n_bytes: int | None = None
    sha256: str | None = None
    other_names: tuple[str, ...] = ()
    bundled: bool = False

    @property
    def size(self) -> str:
        """The size in words: about, since hosts repack files."""
        if self.bundled:
            return f"{(BUNDLED_FOLDER / self.file_name).stat().st_size / 1e6:.1f} MB"
        return f"{self.n_bytes / 1e6:.0f} MB" if self.n_bytes else "?"

    @property
    def checksum(self) -> str:
        """The published checksum, or that there is none yet."""
        return self.sha256 or ("part of the project" if self.bundled else UNKNOWN_CHECKSUM)


@dataclass(frozen=True)
class Fetched:
    """Weights that are on this machine now.

    Attributes:
        path: the file.
        mirror: host it came from; "" where it was there already, the archive's name where that was put there by hand.
        n_bytes: of the file.
        kept_bytes: what a broken download before had left, of the file or of its archive.
        sha256: of the file; "" for bundled ones.
        verified: what the checksum was compared with.
    """

    path: Path
    mirror: str
    n_bytes: int
    kept_bytes: int
    sha256: str
    verified: str


WEIGHTS: dict[str, Weights] = {
    row.name: row
    for row in (
        Weights(
            "svcnb-units",
            "svcnb_units.safetensors",
            "content encoder svcnb-units (bundled)",
            "part of svcnb; made by pretrain/make_encoder.py",
            "MIT, data CC BY 4.0",
            ("svcnb-units",),
            bundled=True,
        ),
        Weights(
            "soft-units",
            "soft_units.safetensors",
            "content encoder soft-units (bundled)",
            "part of svcnb; made by pretrain/make_soft_units.py",
            "MIT, data CC BY 4.0",
            ("soft-units",),
            bundled=True,
        ),
        Weights(
            "contentvec",
            "checkpoint_best_legacy_500.pt",
            "content encoders vec768l12 and vec256l9",
            "ContentVec's own page (ContentVec_legacy, 500 classes), or RVC's hubert_base.pt (the same weights), "
            "on Hugging Face in lj1995/VoiceConversionWebUI",
            "MIT",
            ("vec768l12", "vec256l9"),
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
            ("hubertsoft",),
            url=f"{GITHUB}/bshall/hubert/releases/download/v0.1/hubert-soft-0d54a1f4.pt",
        ),
        Weights(
            "whisper-medium",
            "medium.pt",
            "content encoder whisper-ppg",
            "OpenAI's Whisper",
            "MIT",
            ("whisper-ppg",),
            n_bytes=1_530_000_000,
            url=f"{OPENAI}/345ae4da62f9b3d59415adc60127b97c714f32e89e936602e85993674d08dcb1/medium.pt",
            sha256="345ae4da62f9b3d59415adc60127b97c714f32e89e936602e85993674d08dcb1",
        ),
        Weights(
            "whisper-large",
            "large-v2.pt",
            "content encoder whisper-ppg-large",
            "OpenAI's Whisper",
            "MIT",
            ("whisper-ppg-large",),
            n_bytes=3_090_000_000,
            url=f"{OPENAI}/81f7c96c852ee8fc832187b0132e569d6c3065a3252ed18e56effd0b6a73e524/large-v2.pt",
            sha256="81f7c96c852ee8fc832187b0132e569d6c3065a3252ed18e56effd0b6a73e524",
        ),
        Weights(
            "whisper-small",
            "small.pt",
            "content encoder whisper-ppg-small",
            "OpenAI's Whisper",
            "MIT",
            ("whisper-ppg-small",),
            n_bytes=480_000_000,
            url=f"{OPENAI}/9ecf779972d90ba49c06d968637d720dd632c55bbf19d441fb42bf17a411e794/small.pt",
            sha256="9ecf779972d90ba49c06d968637d720dd632c55bbf19d441fb42bf17a411e794",
        ),
        Weights(
            "chinese-hubert-large",
            "chinese-hubert-large-fairseq-ckpt.pt",
            "content encoder cnhubertlarge",
            "Hugging Face, TencentGameMate/chinese-hubert-large",
            "see its page",
            ("cnhubertlarge",),
            url=f"{HUGGING_FACE}/TencentGameMate/chinese-hubert-large/resolve/main/chinese-hubert-large-fairseq-ckpt.pt",
        ),
        Weights(
            "dphubert",
            "DPHuBERT-sp0.75.pth",
            "content encoder dphubert",
            "Hugging Face, pyf98/DPHuBERT",
            "MIT (the program's; see its page)",
            ("dphubert",),
            url=f"{HUGGING_FACE}/pyf98/DPHuBERT/resolve/main/DPHuBERT-sp0.75.pth",
        ),
        Weights(
            "wavlm-base-plus",
            "WavLM-Base+.pt",
            "content encoder wavlmbase+",
            "the page of Microsoft's WavLM in microsoft/unilm on GitHub (wavlm, WavLM Base+)",
            "CC BY-SA 3.0 (check on its page)",
            ("wavlmbase+",),
        ),
        *(
            Weights(
                encoder,
                file_name,
                f"content encoder {encoder}",
                "Hugging Face, NaruseMioShirakana/MoeSS-SUBModel",
                "see its page",
                (encoder,),
                url=f"{HUGGING_FACE}/NaruseMioShirakana/MoeSS-SUBModel/resolve/main/{file_name}",
            )
            for encoder, file_name in ONNX_ENCODERS.items()
        ),
        Weights(
            "rmvpe",
            "rmvpe.pt",
            "f0 method rmvpe",
            "yxlllc/RMVPE on GitHub, release 230917 (rmvpe.zip: rename its model.pt), or RVC's rmvpe.pt",
            "MIT",
            ("rmvpe",),
            url=f"{GITHUB}/yxlllc/RMVPE/releases/download/230917/rmvpe.zip",
            mirrors=(f"{HUGGING_FACE}/datasets/ylzz1997/rmvpe_pretrain_model/resolve/main/rmvpe.pt",),
            member="model.pt",
            n_bytes=370_000_000,  # 92.0 M values of 4 bytes
        ),
        Weights(
            "nsf-hifigan",
            "nsf_hifigan/model",
            "vocoder of shallow diffusion and of the enhancer (with config.json beside it)",
            "openvpi/vocoders on GitHub, release nsf-hifigan-v1, nsf_hifigan_20221211.zip (unpack into pretrain/)",
            "CC BY-NC-SA 4.0",
            ("shallow_diffusion", "only_diffusion", "enhance"),
            url=f"{GITHUB}/openvpi/vocoders/releases/download/nsf-hifigan-v1/nsf_hifigan_20221211.zip",
            member="model",
            companions=("nsf_hifigan/config.json",),
            n_bytes=57_000_000,  # 14.18 M values of 4 bytes
        ),
        Weights(
            "sovits-base-generator",
            "sovits_base/G_0.pth",
            "base model for training so-vits-svc 4.1 (vec768l12): svcnb train --base pretrain/sovits_base",
            "Hugging Face, ms903/sovits4.0-768vec-layer12: sovits_768l12_pre_large_320k/clean_G_320000.pth, renamed",
            "see its page",
            ("base",),
            url=f"{SOVITS_BASE}/sovits_768l12_pre_large_320k/clean_G_320000.pth",
            other_names=("G_0.pth",),
        ),
        Weights(
            "sovits-base-discriminator",
            "sovits_base/D_0.pth",
            "base model for training so-vits-svc 4.1, the discriminator beside it",
            "Hugging Face, ms903/sovits4.0-768vec-layer12: sovits_768l12_pre_large_320k/clean_D_320000.pth, renamed",
            "see its page",
            ("base",),
            url=f"{SOVITS_BASE}/sovits_768l12_pre_large_320k/clean_D_320000.pth",
            other_names=("D_0.pth",),
        ),
        Weights(
            "sovits-volume-generator",
            "sovits_base_volume/G_0.pth",
            "base model with loudness embedding (--vol_embedding): svcnb train --base pretrain/sovits_base_volume",
            "Hugging Face, ms903/sovits4.0-768vec-layer12: vol_emb/clean_G_320000.pth, renamed",
            "see its page",
            ("base_volume",),
            url=f"{SOVITS_BASE}/vol_emb/clean_G_320000.pth",
            mirrors=(f"{SOVITS_BASE_VOLUME}/clean_G_320000.pth",),
        ),
        Weights(
            "sovits-volume-discriminator",
            "sovits_base_volume/D_0.pth",
            "base model with loudness embedding, the discriminator beside it",
            "Hugging Face, ms903/sovits4.0-768vec-layer12: vol_emb/clean_D_320000.pth, renamed",
            "see its page",
            ("base_volume",),
            url=f"{SOVITS_BASE}/vol_emb/clean_D_320000.pth",
            mirrors=(f"{SOVITS_BASE_VOLUME}/clean_D_320000.pth",),
        ),
        Weights(
            "diffusion-base",
            "diffusion_base/model_0.pt",
            "base model for training shallow diffusion",
            "Hugging Face, ms903/Diff-SVC-refactor-pre-trained-model: fix_pitch_add_vctk_600k/model_0.pt",
            "see its page",
            ("base_diffusion",),
            url=f"{HUGGING_FACE}/datasets/{DIFFUSION_BASE}",
            mirrors=(f"{HUGGING_FACE}/{DIFFUSION_BASE}",),
            n_bytes=221_000_000,  # 55.2 M values of 4 bytes
        ),
    )
}


def weights_for(choices: Iterable[str]) -> list[Weights]:
    """The rows that some choices need: encoders, f0 methods, options, or names of rows. Empty choices are passed over.

    Raises:
        SvcError: a choice that nothing in the table is for; the known ones are named.
    """
    choices = [choice for choice in choices if choice and choice not in IN_PACKAGES]
    known = {choice for row in WEIGHTS.values() for choice in (row.name, *row.needed_for)}
    for choice in choices:
        if choice not in known:
            raise SvcError(f"{choice!r} needs no weights that svcnb knows: choose among {', '.join(sorted(known))}")
    return [row for row in WEIGHTS.values() if {row.name, *row.needed_for} & set(choices)]


TABLE_HEADINGS = ("name", "needed for", "file", "size", "licence", "sha256", "here")


def table_of(rows: Iterable[Weights], folder: str | Path = Path("pretrain")) -> list[tuple[str, ...]]:
    """A line of words for each row, under TABLE_HEADINGS."""
    folder = Path(folder)
    return [
        (
            row.name, ", ".join(row.needed_for), row.file_name, row.size, row.licence,
            f"{row.sha256[:12]}..." if row.sha256 else row.checksum, "yes" if _present(row, folder) else "no",
        )
        for row in rows
    ]  # fmt: skip


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
        raise WeightsMissing(how_to_get(row, folder))
    return found


def fetch(name: str, folder: str | Path = Path("pretrain")) -> Fetched:
    """The weights, downloaded into `folder` if they are not there; broken downloads go on where they stopped.

    An archive that was put into `folder` by hand is unpacked instead. The file appears under its name only when its
    checksum agrees with the published one, or with the one that the first use recorded.

    Raises:
        WeightsMissing: no mirror gave the file: says why for each, and which file to put where without a network; or
            what is there is not the file that it should be.
    """
    row, folder = _row(name), Path(folder)
    found = _present(row, folder)
    if found is not None:
        checked = ("", "part of the project") if row.bundled else _verify(row, folder, found, found.name)
        return Fetched(found, "", found.stat().st_size, 0, *checked)
    troubles = []
    for address in _addresses(row):
        try:
            return _fetch_from(address, row, folder)
        except (TransferError, ArchiveError, WeightsMissing) as error:
            troubles.append(str(error))
    raise WeightsMissing(". ".join([*troubles, how_to_get(row, folder)]))


def how_to_get(row: Weights, folder: Path) -> str:
    """One line: which file belongs where, and where it is found; also for a machine without a network."""
    files = " and ".join(str(folder / file_name) for file_name in (row.file_name, *row.companions))
    also = f" (or {', '.join(row.other_names)})" if row.other_names else ""
    told = f"{files}{also} is not there, needed for: {row.used_for}. Source: {row.source}."
    if not row.url:
        return told
    archive = _last_part(row.url)
    by_hand = f"save it as {folder / row.file_name}"
    if archive.endswith(".zip"):
        by_hand = f"put {archive} into {folder} and run the same"
    return f"{told} `svcnb weights {row.name} --fetch` downloads it; without a network, get {row.url} elsewhere and {by_hand}."


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
    if not all((folder / companion).is_file() for companion in row.companions):
        return None
    return next((path for path in places if path.is_file()), None)


def _addresses(row: Weights) -> list[str]:
    """Where to try, in order; a mirror of Hugging Face that the user named comes first."""
    addresses = [address for address in (row.url, *row.mirrors) if address]
    mirror = os.environ.get(HUGGING_FACE_VARIABLE, "").rstrip("/")
    if mirror:
        named = [mirror + address.removeprefix(HUGGING_FACE) for address in addresses if address.startswith(HUGGING_FACE)]
        addresses = [*named, *addresses]
    return list(dict.fromkeys(addresses))


def _last_part(address: str) -> str:
    return urlsplit(address).path.rpartition("/")[2]


def _fetch_from(address: str, row: Weights, folder: Path) -> Fetched:
    path = folder / row.file_name
    unchecked = path.with_name(path.name + UNCHECKED_SUFFIX)
    mirror, kept_bytes = urlsplit(address).netloc, 0
    if address.endswith(".zip"):
        archive = folder / _last_part(address)
        by_hand = archive.is_file()
        if by_hand:
            mirror = archive.name
        else:
            kept_bytes = download(address, archive)
        try:
            _unpack_row(row, archive, unchecked)
        except (ArchiveError, WeightsMissing):
            if not by_hand:
                archive.unlink()
            raise
    else:
        kept_bytes = download(address, unchecked)
    try:
        checked = _verify(row, folder, unchecked, row.file_name)
    except WeightsMissing:
        unchecked.unlink()
        raise
    unchecked.replace(path)
    return Fetched(path, mirror, path.stat().st_size, kept_bytes, *checked)


def _unpack_row(row: Weights, archive: Path, target: Path) -> None:
    """Write the wanted member to `target`, and what lies beside it where the row has a folder; remove the archive."""
    members = list_archive(archive)
    found = [place for place in members if place.name == row.member]
    if len(found) != 1:
        raise WeightsMissing(f"{archive} holds {len(found)} files called {row.member}, expected one: is it another archive?")
    targets = {members[found[0]]: target}
    if "/" in row.file_name:
        beside = [place for place in members if place.parent == found[0].parent and place != found[0]]
        targets |= {members[place]: target.parent / place.name for place in beside}
    unpack(archive, targets)
    archive.unlink()


def _verify(row: Weights, folder: Path, path: Path, name: str) -> tuple[str, str]:
    """(checksum, what it was compared with) of a file that belongs under `name`; the first one is recorded.

    Raises:
        WeightsMissing: it is another file.
    """
    found, recorded = sha256_of(path), _recorded(folder).get(name)
    published = row.sha256 if name == row.file_name else None
    if (published or recorded or found) != found:
        whose = "the published one" if published else f"the one in {folder / CHECKSUMS_NAME}"
        raise WeightsMissing(f"{folder / name} is another file than expected: its sha256 {found} is not {whose}, "
                             f"{published or recorded}. Remove it and fetch it again")  # fmt: skip
    if not (published or recorded):
        write_json(folder / CHECKSUMS_NAME, {**_recorded(folder), name: found})
        return found, "recorded now (none is published)"
    return found, "equal to the published checksum" if published else "equal to the checksum of the first use"


def _recorded(folder: Path) -> dict[str, str]:
    path = folder / CHECKSUMS_NAME
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
