"""Moonshine tiny, a speech recogniser (MIT, Useful Sensors), as a teacher: transcripts and encoder features.

Its weights are in the npm package @usefulsensors/moonshine-js, its vocabulary is in llama-tokenizer-js:

    npm pack @usefulsensors/moonshine-js@0.1.21 llama-tokenizer-js@1.2.2
    for each in *.tgz; do tar xzf $each --one-top-level; done
"""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svcnb import SvcError
from svcnb.evaluation.words import normalise_text

SAMPLE_RATE_HZ = 16000
N_LAYERS, N_HEADS, HEAD_WIDTH = 6, 8, 36
HOP_SAMPLES, OUR_HOP_SAMPLES = 384, 320
# The last layer encodes characters rather than phones; a phone probe on this one is best for unseen speakers.
TEACHER_OUTPUT = "/layers.4/Add_1_output_0"
START, END = 1, 2
TOKENS_PER_S = 6.5  # upper limit of speech rate: longer output is a repetition loop


class Moonshine:
    """The recogniser, loaded once.

    Args:
        folder: of the two unpacked packages.
        n_threads: 0 uses all cores.
    """

    def __init__(self, folder: Path, *, n_threads: int = 0) -> None:
        encoder = read_encoder(folder)  # raises if a file is missing
        import onnxruntime

        encoder.graph.output.add(name=TEACHER_OUTPUT)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads
        self._encoder = onnxruntime.InferenceSession(encoder.SerializeToString(), options)
        self._decoder = onnxruntime.InferenceSession(
            str(_only(folder, "tiny/quantized/decoder_model_merged.onnx")), options
        )
        self._vocabulary = _vocabulary(_only(folder, "llama-tokenizer.js"))

    def features(self, samples: np.ndarray) -> Tensor:
        """Encoder features of samples [T] at 16 kHz, interpolated from 24 ms to 20 ms frames: float32 [N, 288]."""
        states = torch.from_numpy(self._states(samples)[1][0]).T  # [288, M]
        at = (
            torch.arange(max(1, len(samples) // OUR_HOP_SAMPLES)) + 0.5
        ) * OUR_HOP_SAMPLES / HOP_SAMPLES - 0.5
        at = at.clamp(0, states.shape[1] - 1)
        before = at.long()
        after = (before + 1).clamp_max(states.shape[1] - 1)
        return torch.lerp(states[:, before], states[:, after], at - before).T.contiguous()

    def transcribe(self, samples: np.ndarray) -> str:
        """Transcript in lower case without punctuation, with numbers as words."""
        states = self._states(samples)[0]
        past = {
            f"past_key_values.{layer}.{side}.{kind}": np.zeros((0, N_HEADS, 1, HEAD_WIDTH), np.float32)
            for layer in range(N_LAYERS)
            for side in ("decoder", "encoder")
            for kind in ("key", "value")
        }
        names = [output.name for output in self._decoder.get_outputs()]
        tokens = [START]
        for position in range(int(len(samples) / SAMPLE_RATE_HZ * TOKENS_PER_S)):
            given = {
                "input_ids": np.array([tokens[-1:]]),
                "encoder_hidden_states": states,
                "use_cache_branch": np.array([position > 0]),
            }
            found = dict(zip(names, self._decoder.run(None, given | past), strict=True))
            tokens.append(int(found["logits"][0, -1].argmax()))
            if tokens[-1] == END:
                break
            for name in past:
                if position == 0 or ".decoder." in name:
                    past[name] = found[name.replace("past_key_values", "present")]
        text = "".join(self._vocabulary[token] for token in tokens[1:] if token != END)
        return normalise_text(text.replace("▁", " "))

    def _states(self, samples: np.ndarray) -> list[np.ndarray]:
        return self._encoder.run(
            ["last_hidden_state", TEACHER_OUTPUT], {"input_values": samples[None].astype(np.float32)}
        )


def read_encoder(folder: Path) -> Any:
    """Read the encoder's onnx.ModelProto from the folder of the unpacked packages."""
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise SvcError('Moonshine needs the onnx extra: pip install "svcnb[onnx]"') from error
    return onnx.load(str(_only(folder, "tiny/quantized/encoder_model.onnx")))


def _vocabulary(path: Path) -> list[str]:
    """Read the vocabulary from the tokenizer's script: a base64 string of lines."""
    found = re.search(r"vocab_base64\s*=\s*[\"'`]([A-Za-z0-9+/=]+)", path.read_text(encoding="utf-8"))
    if found is None:
        raise SvcError(f"{path} has no vocabulary in it, expected the script of llama-tokenizer-js 1.2.2")
    return base64.b64decode(found.group(1)).decode("utf-8").split("\n")


def _only(folder: Path, ending: str) -> Path:
    found = sorted(path for path in folder.rglob(Path(ending).name) if path.as_posix().endswith(ending))
    if not found:
        raise SvcError(
            f"no {ending} under {folder}, expected the packages named in pretrain/moonshine.py, unpacked there"
        )
    return found[0]
