"""The table of weights: file name, source, licence, and which choices need them. Nothing here reads or fetches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

BUNDLED_FOLDER = Path(__file__).resolve().parents[2] / "pretrain"
OPENAI = "https://openaipublic.azureedge.net/main/whisper/models"
GITHUB = "https://github.com"
HUGGING_FACE = "https://huggingface.co"
SOVITS_BASE = f"{HUGGING_FACE}/datasets/ms903/sovits4.0-768vec-layer12/resolve/main"
SOVITS_BASE_VOLUME = f"{HUGGING_FACE}/datasets/1asbgdh/sovits4.0-volemb-vec768/resolve/main"
DIFFUSION_BASE = "ms903/Diff-SVC-refactor-pre-trained-model/resolve/main/fix_pitch_add_vctk_600k/model_0.pt"
RVC_PAGE = "lj1995/VoiceConversionWebUI"
ONNX_ENCODERS = {
    "vec256l9-onnx": "vec-256-layer-9.onnx",
    "vec256l12-onnx": "vec-256-layer-12.onnx",
    "vec768l9-onnx": "vec-768-layer-9.onnx",
    "vec768l12-onnx": "vec-768-layer-12.onnx",
    "hubertsoft-onnx": "hubert-soft.onnx",
}
UNKNOWN_CHECKSUM = "unknown: first use records it"


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


def _sovits_base(choice: str, source: str, kind: str, *, mirror: str = "") -> tuple[Weights, Weights]:
    """G and D that so-vits-svc starts a training from; `source` is their folder on the page."""
    name, folder = choice.replace("base_volume", "volume"), f"sovits_{choice}"

    def row(letter: str, network: str, used_for: str) -> Weights:
        published = f"clean_{letter}_320000.pth"
        return Weights(
            f"sovits-{name}-{network}",
            f"{folder}/{letter}_0.pth",
            used_for,
            f"Hugging Face, ms903/sovits4.0-768vec-layer12: {source}/{published}, renamed",
            "see its page",
            (choice,),
            url=f"{SOVITS_BASE}/{source}/{published}",
            mirrors=(f"{mirror}/{published}",) if mirror else (),
            other_names=() if mirror else (f"{letter}_0.pth",),
        )

    used_for = f"base model for training {kind}"
    return (
        row("G", "generator", f"{used_for}: svcnb train --base pretrain/{folder}"),
        row("D", "discriminator", f"{used_for}, the discriminator beside it"),
    )


def _rvc_base(folder: str, rate: str, *, f0: bool) -> tuple[Weights, Weights]:
    """G and D that RVC starts a training from."""
    version = "v2" if folder.endswith("v2") else "v1"
    choice = f"base_rvc_{version}_{rate}" + ("" if f0 else "_no_f0")
    kind = f"RVC {version} at {rate}" + ("" if f0 else " without pitch guidance")

    def row(letter: str, name: str) -> Weights:
        file_name = f"{folder}/{'f0' if f0 else ''}{letter}{rate}.pth"
        return Weights(
            f"{choice.removeprefix('base_').replace('_', '-')}-{name}",
            file_name,
            f"base model for training {kind}, the {name}",
            f"Hugging Face, {RVC_PAGE}: {file_name}",
            "MIT (the program's; see its page)",
            (choice,),
            url=f"{HUGGING_FACE}/{RVC_PAGE}/resolve/main/{file_name}",
        )

    return row("G", "generator"), row("D", "discriminator")


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
            "contentvec",
            "checkpoint_best_legacy_500.pt",
            "content encoders vec768l12 and vec256l9",
            "ContentVec's own page (ContentVec_legacy, 500 classes), or RVC's hubert_base.pt (the same weights), "
            "on Hugging Face in lj1995/VoiceConversionWebUI",
            "MIT",
            ("vec768l12", "vec256l9"),
            n_bytes=190_000_000,
            url=f"{HUGGING_FACE}/{RVC_PAGE}/resolve/main/hubert_base.pt",
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
        *_sovits_base("base", "sovits_768l12_pre_large_320k", "so-vits-svc 4.1 (vec768l12)"),
        *_sovits_base(
            "base_volume",
            "vol_emb",
            "so-vits-svc 4.1 with loudness embedding (--vol_embedding)",
            mirror=SOVITS_BASE_VOLUME,
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
        *(
            row
            for folder in ("pretrained", "pretrained_v2")
            for rate in ("32k", "40k", "48k")
            for f0 in (True, False)
            for row in _rvc_base(folder, rate, f0=f0)
        ),
    )
}
