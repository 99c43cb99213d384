"""The conversion panel of notebook 05: widgets for the settings, a button, and the results. Needs ipywidgets 7 or 8."""

from __future__ import annotations

import html
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svcnb import MissingExtra, SvcError
from svcnb.audio.audio import read_audio
from svcnb.conversion.settings import ConversionSettings
from svcnb.files.options import Option, options_of
from svcnb.notebook.display import show_audio
from svcnb.plots.page import render

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
    """A form over the settings of the voice's family: choose, press Convert, listen, look at the f0, press again.

    Attributes:
        fields: widgets by name: voice, recording and the options of the settings class.
        view: the widget to display: options that are often used, the others in an accordion, the results.
        result_path: the newest result, None before the first.
    """

    workspace: Workspace
    fields: dict[str, Any] = field(default_factory=dict)
    view: Any = None
    result_path: Path | None = None
    _settings_class: type[ConversionSettings] | None = None
    _loaded: dict[Path, LoadedVoice] = field(default_factory=dict)

    def __post_init__(self) -> None:
        widgets = _ipywidgets()
        voices, recordings = self.workspace.voices(), self.workspace.recordings()
        if not voices:
            raise SvcError("no trained voice in data/models: run 03_train first")
        if not recordings:
            raise SvcError("no recording in data/raw or data/demo: upload one to data/raw")
        self.fields = {"voice": _dropdown("voice", voices), "recording": _dropdown("recording", recordings)}
        self.button = widgets.Button(description="Convert", button_style="primary", icon="microphone")
        self.progress = widgets.IntProgress(value=0, max=3, layout=widgets.Layout(width="30%"))
        self.status = widgets.HTML("ready")
        self.output = widgets.Output()
        self.view = widgets.VBox()
        self._fill()
        self.fields["voice"].observe(self._fill, names="value")
        self.button.on_click(self._on_click)

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.view)

    def settings(self) -> ConversionSettings:
        """The settings that the form shows now."""
        options = options_of(self._settings_class)
        return self._settings_class(
            **{name: _value(option, self.fields[name]) for name, option in options.items()}
        )

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
            self.status.value = render([{"kind": "warning", "text": str(error)}])
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

    def _fill(self, _change: Any = None) -> None:
        """The options of the chosen voice; another voice of the same family keeps what was set."""
        from svcnb.models.auto import conversion_settings_of

        folder = self.workspace.find(Path("data/models") / self.fields["voice"].value)
        if conversion_settings_of(folder) is not self._settings_class:
            self._settings_class = conversion_settings_of(folder)
            self._lay_out(options_of(self._settings_class))
        names = speakers_of(folder)
        self.fields["speaker"].options = names
        self.fields["speaker"].value = names[0] if names else None

    def _lay_out(self, options: dict[str, Option]) -> None:
        widgets = _ipywidgets()
        files = {name: self.fields[name] for name in ("voice", "recording")}
        own = {name: make_widget(option) for name, option in options.items()}
        own["speaker"] = _dropdown(options["speaker"].label, [])
        rows = {
            name: widgets.HBox([widget, widgets.HTML(_small(options[name]))]) for name, widget in own.items()
        }
        folded = widgets.VBox([rows[name] for name, option in options.items() if option.advanced])
        accordion = widgets.Accordion(children=[folded], selected_index=None)
        accordion.set_title(0, "advanced")
        shown = [rows[name] for name, option in options.items() if not option.advanced]
        foot = widgets.HBox([self.button, self.progress, self.status])
        self.fields = files | own
        self.view.children = [*files.values(), *shown, accordion, foot, self.output]


# ------------------------------------------------------------------------------------------------- its widgets


def _ipywidgets() -> Any:
    try:
        import ipywidgets
    except ImportError:
        raise MissingExtra('the panel needs ipywidgets: pip install "svcnb[notebooks]"') from None
    return ipywidgets


def _look() -> dict[str, Any]:
    return {"style": {"description_width": "17em"}, "layout": _ipywidgets().Layout(width="38em")}


def _dropdown(label: str, choices: list[Any]) -> Any:
    value = choices[0] if choices else None
    return _ipywidgets().Dropdown(options=choices, value=value, description=label, **_look())


def _small(option: Option) -> str:
    return f"<small>{html.escape(option.sentence.replace('`', ''), quote=False)}</small>"


def make_widget(option: Option) -> Any:
    """The widget of an option, set to its default."""
    widgets = _ipywidgets()
    common = {"description": option.label, **_look()}
    if option.kind is bool:
        return widgets.Checkbox(value=bool(option.default), **common)
    if option.choices and (option.kind in (int, float) or not option.is_open):
        return widgets.Dropdown(options=list(option.choices), value=option.default, **common)
    if option.slider and option.default is not None:
        low, high, step = option.slider
        kind = widgets.IntSlider if option.kind is int else widgets.FloatSlider
        numbers = {"readout_format": ".0f" if step >= 1 else ".2f"} if option.kind is float else {}
        return kind(value=option.default, min=low, max=high, step=step, **numbers, **common)
    if option.kind in (int, float) and option.default is not None:
        kind = widgets.IntText if option.kind is int else widgets.FloatText
        return kind(value=option.default, **common)
    return widgets.Text(value=str(option.default or ""), placeholder=option.unset, **common)


def _value(option: Option, widget: Any) -> Any:
    """What the widget says; an empty text stands for None."""
    return option.default if widget.value == "" and option.default is None else widget.value
