"""The reference pages are what the code says now, and every field says what it is."""

from __future__ import annotations

import pytest
import typer

from apportion.deployments.cli import app
from apportion.deployments.reference.commands import commands_page, shown_commands
from apportion.deployments.reference.configuration import FILES, configuration_page, is_number, sections, unit
from tests.paths import ROOT

REFERENCE = ROOT / "docs" / "reference"
COMMANDS = typer.main.get_command(app)
FIELDS = {
    f"{model.__name__}.{name}": (name, field)
    for file in FILES
    for _, model in sections(file.model)
    for name, field in model.model_fields.items()
}
PARAMETERS = {
    f"{name} {parameter.name}": parameter for name, command in shown_commands(COMMANDS) for parameter in command.params
}


@pytest.mark.parametrize(
    ("page", "made"), [("configuration.md", configuration_page()), ("commands.md", commands_page(COMMANDS))]
)
def test_the_pages_are_fresh(page: str, made: str) -> None:
    assert (REFERENCE / page).read_text() == made, f"{page} is old: run `make reference`"


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_has_a_description_and_a_number_has_a_unit(field: str) -> None:
    name, info = FIELDS[field]
    assert info.description
    assert f"`{name}`" in configuration_page()
    if is_number(info.annotation):
        assert unit(name, info.description)


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_every_argument_and_option_has_a_help_text(parameter: str) -> None:
    assert PARAMETERS[parameter].help


def test_every_command_that_help_lists_is_on_the_page_with_an_explanation() -> None:
    page = commands_page(COMMANDS)
    for name, command in shown_commands(COMMANDS):
        assert f"## `apportion {name}`" in page
        assert command.help
    assert "apportion reference" not in page
