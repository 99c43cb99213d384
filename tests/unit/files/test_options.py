"""One table of options: an option that is added to a settings class is found in every place, without another edit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest

from svcnb.conversion import settings as conversion_settings
from svcnb.files.options import Settings, SettingsError, option, options_of
from tests.test_notebook_text import FORM, check_form, load_builder
from tests.toys.small_voice import save_small_voice


class Brighter(conversion_settings.ConversionSettings):
    """The settings of a conversion with two options more."""

    brightness_db: float = option(
        1.5,
        "gain of the high frequencies",
        unit="dB",
        original="-br --brightness",
        group="quality",
        ge=0,
        le=12,
        slider=(0, 6, 0.5),
        note="as an example",
    )
    tilt: Literal["flat", "dark"] = option("flat", "spectral tilt", group="quality", advanced=True)


@pytest.fixture
def brighter(monkeypatch: pytest.MonkeyPatch) -> type[Settings]:
    """ConversionSettings with the options, as if they were written there."""
    from svcnb.models import auto

    monkeypatch.setattr(conversion_settings, "ConversionSettings", Brighter)
    monkeypatch.setattr(auto, "ConversionSettings", Brighter)
    return Brighter


def test_a_new_option_is_in_the_help_and_is_read(brighter: type[Settings]) -> None:
    from svcnb.cli.main import build_parser, find_command
    from svcnb.cli.parser import read_settings

    text = " ".join(find_command("convert").format_help().split())
    assert "-br, --brightness N gain of the high frequencies (dB, from 0 to 12, default 1.5)" in text
    assert "--tilt {flat,dark} spectral tilt (default flat)" in text
    given = build_parser().parse_args(["convert", "voice", "song.wav", "-br", "3"])
    assert read_settings(given, brighter).brightness_db == 3
    with pytest.raises(SettingsError, match=r"brightness_db \(-br\) is 13.0: expected from 0 to 12"):
        brighter(brightness_db=13.0)


def test_a_new_option_is_on_the_panel(brighter: type[Settings], tmp_path: Path) -> None:
    widgets = pytest.importorskip("ipywidgets")
    from svcnb.notebook.panel import ConversionPanel
    from svcnb.notebook.workspace import open_workspace

    save_small_voice(tmp_path / "data" / "models" / "me")
    panel = ConversionPanel(open_workspace(str(tmp_path)))
    panel.fields["voice"].value = "me"
    slider = panel.fields["brightness_db"]
    assert isinstance(slider, widgets.FloatSlider) and (slider.value, slider.max, slider.step) == (
        1.5,
        6,
        0.5,
    )
    assert panel.fields["tilt"].options == ("flat", "dark") and slider.description == "brightness"
    slider.value = 4
    assert panel.settings().brightness_db == 4


def test_a_new_option_is_a_form_field_and_one_without_a_mark_is_found(brighter: type[Settings]) -> None:
    builder = load_builder()
    help_line, line, *_ = builder.write_form(
        "brightness  #@option convert --brightness\ntilt  #@option convert --tilt"
    ).splitlines()
    assert help_line == "#@markdown Gain of the high frequencies (dB)."
    form = FORM.match(line)
    check_form("brightness", 1.5, form["form"])
    assert json.loads(form["form"]) == {"type": "slider", "min": 0, "max": 6, "step": 0.5}
    by_hand = 'cluster_ratio  #@option convert -cr\ntilt = "flat"  #@param ["flat"]\nbrightness_db = 1.0  #@param {"type": "number"}'
    assert builder.unmarked_options(by_hand) == ["tilt", "brightness_db"]
    with pytest.raises(ValueError, match="no option --brilliance"):
        builder.write_form("brightness  #@option convert --brilliance")


def test_a_new_option_is_a_row_of_the_table(brighter: type[Settings]) -> None:
    assert (
        "| `-br --brightness` | | 1.5 | gain of the high frequencies (dB); as an example |"
        in load_builder().option_rows("`inference_main.py`")
    )


class Example(Settings):
    """One option of each kind."""

    count: int | Literal["auto"] | None = option(None, "clips", unset="the config's")
    names: tuple[str, ...] = option((), "names", unset="none")
    folder: Path = option(Path("data"), "folder")
    words: bool = option(True, "count words", flags="--no_words")
    share: float = option(0.5, "part", gt=0, lt=1)
    hidden: int = 3


def test_an_option_is_read_from_its_field() -> None:
    found = options_of(Example)
    assert list(found) == ["count", "names", "folder", "words", "share"]
    assert [(option.kind, option.many, option.is_open) for option in found.values()] == [
        (int, False, True),
        (str, True, True),
        (Path, False, True),
        (bool, False, True),
        (float, False, True),
    ]
    assert found["count"].choices == ("auto",) and found["count"].default_text == "the config's"
    assert found["share"].range_text == "above 0 and below 1" and found["words"].flags == ("--no_words",)


def test_fields_that_do_nothing_in_a_family_are_no_options() -> None:
    from svcnb.models.settings import RvcConversionSettings

    offered = options_of(RvcConversionSettings)
    assert not RvcConversionSettings.not_offered & set(offered)
    assert RvcConversionSettings.not_offered <= set(conversion_settings.ConversionSettings.model_fields)
    assert offered["cluster_ratio"].original == ("--index_rate",)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"share": 1}, r"share \(--share\) is 1: expected above 0 and below 1"),
        ({"count": "many"}, r"count \(--count\) is 'many'"),
        ({"part": 1}, "part is none of Example: known are count, names"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_flag(values: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        Example(**values)
    assert "\n" not in str(caught.value)


def test_choices_are_those_that_the_package_takes() -> None:
    """Settings classes load no torch, so they name again what the networks' modules define; here both are compared."""
    from svcnb.cli.settings import RvcTraining, VoiceFiles
    from svcnb.data.settings import PrepareSettings
    from svcnb.features.content.encoders import ENCODERS
    from svcnb.features.pitch.estimator import METHODS
    from svcnb.models.rvc import network
    from svcnb.models.rvc.config import RATE_NAMES
    from svcnb.models.rvc.train import BASES
    from svcnb.models.settings import MixSettings, RvcConversionSettings
    from svcnb.models.sovits.files import CHECKPOINTS
    from svcnb.models.sovits.release import MIX_MODES

    prepare, conversion = options_of(PrepareSettings), options_of(conversion_settings.ConversionSettings)
    assert prepare["encoder"].choices == ("auto", *ENCODERS)
    assert set(prepare["f0_method"].choices) == {"auto", *METHODS} == set(conversion["f0_method"].choices)
    assert options_of(VoiceFiles)["checkpoint"].choices == CHECKPOINTS
    assert options_of(MixSettings)["mode"].choices == MIX_MODES
    training = options_of(RvcTraining)
    assert training["sample_rate"].choices == tuple(RATE_NAMES) and training["base"].choices == BASES
    assert training["version"].choices == tuple(sorted(network.CONTENT_WIDTHS))
    assert options_of(RvcConversionSettings)["noise_scale"].default == network.NOISE_SCALE
