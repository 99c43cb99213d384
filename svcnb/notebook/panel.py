"""The conversion panel of notebook 05: widgets for the settings, a button, and the results. Needs ipywidgets 7 or 8."""

from __future__ import annotations

import html
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from svcnb import MissingExtra, SvcError
from svcnb.audio.audio import read_audio
from svcnb.conversion.settings import ConversionSettings
from svcnb.notebook.display import show_audio

if TYPE_CHECKING:
    from svcnb.conversion.voice import LoadedVoice
    from svcnb.notebook.workspace import Workspace


def speakers_of(voice: Path) -> list[str]:
    """Speaker names of a voice's folder or zip file, in order of their numbers; empty where it has no config."""
    from svcnb.models.sovits.files import speakers_in

    return speakers_in(voice)


# ------------------------------------------------------------------------------------------------- the panel


@dataclass
class ConversionPanel:
    """A form over ConversionSettings: choose, press Convert, listen, look at the melody, change, press again.

    Attributes:
        fields: widgets by name: voice, recording and the names of ConversionSettings.
        view: the widget to display.
        result_path: the newest result, None before the first.
    """

    workspace: Workspace
    fields: dict[str, Any] = field(default_factory=dict)
    view: Any = None
    result_path: Path | None = None
    _loaded: dict[Path, LoadedVoice] = field(default_factory=dict)

    def __post_init__(self) -> None:
        widgets = _ipywidgets()
        voices, recordings = self.workspace.voices(), self.workspace.recordings()
        if not voices:
            raise SvcError("no trained voice in data/models: run 03_train first")
        if not recordings:
            raise SvcError("no recording in data/raw or data/demo: upload one to data/raw")
        self.fields = _make_fields(widgets, voices, recordings)
        self.button = widgets.Button(description="Convert", button_style="primary", icon="microphone")
        self.progress = widgets.IntProgress(value=0, max=3, layout=widgets.Layout(width="30%"))
        self.status = widgets.HTML("ready")
        self.output = widgets.Output()
        self.fields["voice"].observe(self._fill_speakers, names="value")
        self._fill_speakers()
        self.button.on_click(self._on_click)
        foot = widgets.HBox([self.button, self.progress, self.status])
        self.view = widgets.VBox([*self.fields.values(), foot, self.output])

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.view)

    def settings(self) -> ConversionSettings:
        """The settings that the form shows now."""
        chosen = {name: widget.value for name, widget in self.fields.items() if name in ConversionSettings.model_fields}
        return ConversionSettings(**chosen)

    def convert(self) -> Path:
        """Convert the chosen recording; the voice stays loaded for the next one."""
        folder = self.workspace.find(Path("data/models") / self.fields["voice"].value)
        source = self.workspace.find(self.fields["recording"].value)
        voice = self._voice(folder)
        self.progress.value = 1
        self.result_path = voice.convert_file(source, self.workspace.make("data/converted"), self.settings())
        self.progress.value = 2
        self._show(voice, source)
        self.progress.value = 3
        return self.result_path

    def _on_click(self, _button: Any) -> None:
        self.button.disabled, self.progress.value = True, 0
        self.status.value = "converting ..."
        started = time.monotonic()
        self.output.clear_output()
        try:
            path = self.convert()
            self.status.value = html.escape(f"{path.name} in {time.monotonic() - started:.1f} s")
        except SvcError as error:
            self.status.value = f'<span style="color:#b00020">{html.escape(str(error))}</span>'
        finally:
            self.button.disabled = False

    def _voice(self, folder: Path) -> LoadedVoice:
        from svcnb.device import choose_device
        from svcnb.models.auto import load_any_voice

        if folder not in self._loaded:
            self._loaded = {folder: load_any_voice(folder, device=choose_device())}
        return self._loaded[folder]

    def _show(self, voice: LoadedVoice, source: Path) -> None:
        from IPython.display import display

        from svcnb.plots.audio import plot_comparison

        before, after = read_audio(source), read_audio(self.result_path)
        method = self.fields["f0_method"].value
        tracks = (voice.estimate_f0(before, method), voice.estimate_f0(after, method))
        with self.output:
            display(show_audio(before, "source"), show_audio(after, self.result_path.name))
            display(plot_comparison(before, after, tracks))

    def _fill_speakers(self, _change: Any = None) -> None:
        folder = self.workspace.find(Path("data/models") / self.fields["voice"].value)
        names = speakers_of(folder)
        self.fields["speaker"].options = names
        self.fields["speaker"].value = names[0] if names else None


def _ipywidgets() -> Any:
    try:
        import ipywidgets
    except ImportError:
        raise MissingExtra('the panel needs ipywidgets: pip install "svcnb[notebooks]"') from None
    return ipywidgets


def _choices(name: str) -> list[str]:
    return list(get_args(ConversionSettings.model_fields[name].annotation))


def _make_fields(widgets: Any, voices: list[str], recordings: list[str]) -> dict[str, Any]:
    look = {"style": {"description_width": "11em"}, "layout": widgets.Layout(width="36em")}
    default = {name: info.default for name, info in ConversionSettings.model_fields.items()}

    def slider(name: str, low: float, high: float, step: float, label: str) -> Any:
        numbers = {"min": low, "max": high, "step": step, "readout_format": ".0f" if step >= 1 else ".2f"}
        return widgets.FloatSlider(value=default[name], description=label, **numbers, **look)

    def choice(options: list[str], label: str) -> Any:
        return widgets.Dropdown(options=options, value=options[0] if options else None, description=label, **look)

    def tick(name: str, label: str) -> Any:
        return widgets.Checkbox(value=default[name], description=label, **look)

    return {
        "voice": choice(voices, "voice"),
        "speaker": choice([], "speaker"),
        "recording": choice(recordings, "recording"),
        "transpose_semitones": slider("transpose_semitones", -36, 36, 1, "semitones up"),
        "f0_method": choice(_choices("f0_method"), "f0 predictor"),
        "cluster_ratio": slider("cluster_ratio", 0, 1, 0.05, "pull to the voice (04)"),
        "feature_retrieval": tick("feature_retrieval", "pull by retrieval (index), not centres"),
        "loudness_envelope_ratio": slider("loudness_envelope_ratio", 0, 1, 0.05, "loudness: source to voice"),
        "noise_scale": slider("noise_scale", 0, 1, 0.05, "noise"),
        "slice_db": slider("slice_db", -80, -10, 1, "silence below (dB)"),
        "auto_predict_f0": tick("auto_predict_f0", "predict the melody (speech only)"),
        "f0_mean_pooling": tick("f0_mean_pooling", "smooth the melody"),
        "enhance": tick("enhance", "enhancer (needs a vocoder)"),
        "shallow_diffusion": tick("shallow_diffusion", "shallow diffusion (20)"),
        "k_step": slider("k_step", 1, 1000, 1, "its noise steps"),
        "second_encoding": tick("second_encoding", "it hears the words in the result"),
        "audio_format": choice(_choices("audio_format"), "file format"),
    }
