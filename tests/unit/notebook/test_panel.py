"""The panel is made from the settings class of the voice's family: no list of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from svcnb.conversion.settings import ConversionSettings
from svcnb.files.options import options_of
from svcnb.models.settings import RvcConversionSettings
from svcnb.notebook.workspace import open_workspace
from tests.toys.small_voice import save_small_voice
from tests.toys.toy_rvc import tiny_rvc_config

widgets = pytest.importorskip("ipywidgets")


@pytest.fixture
def panel(tmp_path: Path):
    from svcnb.models import rvc
    from svcnb.models.rvc.checkpoint import RvcCheckpoint, write_rvc_checkpoint
    from svcnb.notebook.panel import ConversionPanel

    save_small_voice(tmp_path / "data" / "models" / "me")
    config = tiny_rvc_config("v2")
    (tmp_path / "data" / "models" / "rvc").mkdir()
    config.save(tmp_path / "data" / "models" / "rvc" / "config.json")
    state = rvc.build(config).generator.state_dict()
    write_rvc_checkpoint(
        tmp_path / "data" / "models" / "rvc" / "G_1.pth", RvcCheckpoint(state, 1, None, 1e-4)
    )
    panel = ConversionPanel(open_workspace(str(tmp_path)))
    panel.fields["voice"].value = "me"
    return panel


def shown(panel) -> tuple[list[str], list[str]]:
    """Labels of the fields in sight, and of those in the accordion."""
    (accordion,) = [child for child in panel.view.children if isinstance(child, widgets.Accordion)]
    rows = [
        child
        for child in panel.view.children
        if isinstance(child, widgets.HBox) and panel.button not in child.children
    ]
    assert accordion.selected_index is None
    return [row.children[0].description for row in rows], [
        row.children[0].description for row in accordion.children[0].children
    ]


@pytest.mark.parametrize(
    ("voice", "settings_class"), [("me", ConversionSettings), ("rvc", RvcConversionSettings)]
)
def test_every_option_of_the_family_is_there_the_advanced_ones_folded_away(
    panel, voice: str, settings_class: type
) -> None:
    panel.fields["voice"].value = voice
    options = options_of(settings_class).values()
    assert set(panel.fields) == {"voice", "recording", *(option.name for option in options)}
    basic, advanced = shown(panel)
    assert basic == [option.label for option in options if not option.advanced]
    assert advanced == [option.label for option in options if option.advanced] and advanced


def test_an_untouched_form_gives_the_defaults(panel) -> None:
    assert panel.settings() == ConversionSettings(speaker=panel.fields["speaker"].value)
    panel.fields["voice"].value = "rvc"
    assert panel.settings() == RvcConversionSettings(speaker=panel.fields["speaker"].value)


def test_what_was_set_is_in_the_settings_with_help_beside_it(panel) -> None:
    panel.fields["cluster_ratio"].value, panel.fields["speaker_mix"].value = 0.5, "ada=0.5,bob=0.5"
    panel.fields["f0_method"].value, panel.fields["enhance"].value = "dio", True
    settings = panel.settings()
    assert (settings.cluster_ratio, settings.f0_method, settings.enhance) == (0.5, "dio", True)
    assert set(settings.speaker_mix) == {"ada", "bob"}
    texts = [
        row.children[1].value
        for row in panel.view.children
        if isinstance(row, widgets.HBox) and len(row.children) == 2
    ]
    assert any(options_of(ConversionSettings)["cluster_ratio"].help[1:] in text for text in texts)


def test_sliders_are_within_what_is_accepted(panel) -> None:
    for name, option in options_of(ConversionSettings).items():
        if option.slider:
            widget, limits = panel.fields[name], dict(option.limits)
            assert (widget.min, widget.max, widget.step) == option.slider and widget.value == option.default
            assert widget.min >= limits.get("ge", limits.get("gt")) and widget.max <= limits["le"], name


def test_another_voice_of_the_family_keeps_what_was_set(panel, tmp_path: Path) -> None:
    save_small_voice(tmp_path / "data" / "models" / "you")
    panel.fields["k_step"].value = 60
    panel.fields["voice"].options = [*panel.fields["voice"].options, "you"]
    panel.fields["voice"].value = "you"
    assert panel.fields["k_step"].value == 60
