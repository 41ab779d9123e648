"""The reference pages are what the code says now, and every field says what it is."""

from __future__ import annotations

import re

import pytest
import typer

from apportion.deployments.cli import app
from apportion.deployments.ingress.ingress import api
from apportion.deployments.ingress.known_fields import FIELDS as REQUEST_FIELDS
from apportion.deployments.ingress.known_fields import Kind
from apportion.deployments.reference.commands import commands_page, shown_commands
from apportion.deployments.reference.configuration import FILES, configuration_page, is_number, sections, unit
from apportion.deployments.reference.fields import KINDS, fields_page, treatment
from apportion.deployments.reference.metrics import metrics_page
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
    ("page", "made"),
    [
        ("configuration.md", configuration_page()),
        ("commands.md", commands_page(COMMANDS)),
        ("fields.md", fields_page()),
        ("metrics.md", metrics_page()),
    ],
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


@pytest.mark.parametrize(
    ("kind", "field", "word"),
    [
        ("chat", "temperature", "engine"),
        ("chat", "tool_choice", "read"),
        ("chat", "prompt_cache_key", "read"),
        ("chat", "store", "unused"),
        ("chat", "input", ""),
        ("completion", "suffix", "engine"),
        ("response", "store", "unused"),
        ("message", "stop_sequences", "engine"),
        ("message", "max_tokens", "read"),
        ("embedding", "dimensions", "engine"),
        ("embedding", "input", "read"),
        ("tokenize", "messages", "read"),
    ],
)
def test_fields_are_treated_as_the_page_says(kind: Kind, field: str, word: str) -> None:
    assert treatment(kind, field) == word


def test_only_what_would_have_to_be_kept_is_refused() -> None:
    refused = {(kind, field) for kind in KINDS for field in REQUEST_FIELDS[kind] if treatment(kind, field) == "refused"}
    assert refused == {("response", name) for name in ("background", "conversation", "previous_response_id", "prompt")}


def test_every_call_stands_in_the_table_of_calls() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    for route in api.routes:
        if route.include_in_schema:
            path = re.sub(r"\{\w+_id\}", "ID", route.path.replace("{name:path}", "NAME"))
            assert any(f"{method} {path}`" in page for method in route.methods), path
