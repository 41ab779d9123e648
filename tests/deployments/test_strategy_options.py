"""A strategy and its options: one verdict and one message, whether the command line, a file or a request names them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from apportion.deployments.cli.strategies import read_strategy
from apportion.deployments.config.service import parse_config
from apportion.deployments.ingress.openai import parse
from apportion.deployments.ingress.rules import Rules
from apportion.router.assignment import STRATEGIES, Mip, Static
from apportion.router.assignment.options import OPTIONS_HELP, STRATEGY_HELP, checked_strategy
from apportion.router.checked import options_of
from apportion.router.errors import ApportionError, InvalidRequestError

MODELS = ("small", "large")
PRICES = {"input_usd_per_million": 1, "output_usd_per_million": 2, "max_model_len": 100}

GOOD: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in STRATEGIES),
    ("mip", {"gap": 0.01, "time_limit_s": 0.2}),
    ("mip", {"gap": "0.01"}),
    ("robust_mip", {"kind": "cost", "confidence": 0.95}),
    ("robust_mip", {"kind": "gamma", "gamma": 0, "quantile": 0.2}),
    ("threshold", {"target": 0.5, "limits": "ignore"}),
    ("static", {"model": 1}),
]
BAD: list[tuple[str, dict[str, Any], str]] = [
    ("magic", {}, "strategy 'magic': unknown; use one of threshold"),
    ("mip", {"gop": 1}, "strategy 'mip': no option 'gop'; it takes gap, time_limit_s"),
    ("mip", {"rows": "x"}, "strategy 'mip': no option 'rows'"),
    ("mip", {"name": "x"}, "strategy 'mip': no option 'name'"),
    ("mip", {"gap": "wide"}, "strategy 'mip': gap: input should be a valid number"),
    ("mip", {"gap": -1}, "strategy 'mip': gap is -1.0; give a relative gap"),
    ("mip", {"gap": "nan"}, "strategy 'mip': gap is nan"),
    ("greedy", {"gap": 0.1}, "strategy 'greedy': no option 'gap'; it takes time_limit_s"),
    ("greedy", {"time_limit_s": 0}, "strategy 'greedy': time_limit_s is 0.0; give seconds"),
    ("robust_mip", {"kind": "mild"}, "strategy 'robust_mip': kind: input should be 'quantile', 'gamma' or 'cost'"),
    ("robust_mip", {"quantile": 2}, "strategy 'robust_mip': quantile is 2"),
    ("robust_mip", {"kind": "cost", "gamma": 0.5}, "strategy 'robust_mip': gamma"),
    ("static", {"model": 2}, "strategy 'static': there is no model 2; give an index from 0 to 1"),
    ("static", {"model": -1}, "strategy 'static': there is no model -1"),
    ("per_query", {"limits": "repiar"}, "strategy 'per_query': limits: input should be 'repair' or 'ignore'"),
]


def on_the_command_line(name: str, options: dict[str, Any]) -> None:
    read_strategy(name, [f"{key}={value}" for key, value in options.items()], MODELS)


def in_the_configuration(name: str, options: dict[str, Any]) -> None:
    models = [{"name": model, "source": f"org/{model}", **PRICES} for model in MODELS]
    routing = {"strategy": name, "options": options}
    parse_config({"models": models, "predictor": {"artefact": "x"}, "routing": routing})


def in_a_request(name: str, options: dict[str, Any]) -> None:
    message = {"role": "user", "content": "hi"}
    body = {"model": "auto", "messages": [message], "routing": {"strategy": name, "options": options}}
    parse("chat", json.dumps(body).encode(), {}, Rules(MODELS))


DOORS = (on_the_command_line, in_the_configuration, in_a_request)


@pytest.mark.parametrize(("name", "options"), GOOD)
def test_what_one_door_takes_all_take(name: str, options: dict[str, Any]) -> None:
    for door in DOORS:
        door(name, options)


@pytest.mark.parametrize(("name", "options", "says"), BAD)
def test_what_one_door_refuses_all_refuse_in_the_same_words(name: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequestError) as checked:
        checked_strategy(name, options, len(MODELS))
    core = checked.value.message.partition(" (got ")[0]  # a value is a string on the command line
    assert core.startswith(says)
    for door in DOORS:
        with pytest.raises(ApportionError) as refused:
            door(name, options)
        assert core in refused.value.message


def test_values_have_the_types_of_their_strategy() -> None:
    assert checked_strategy("mip", {"gap": "0.5"}) == Mip(gap=0.5)
    assert read_strategy("static", ["model=large"], MODELS) == Static(model=1)


def test_help_names_every_strategy_and_every_option_with_a_meaning() -> None:
    for name, kind in STRATEGIES.items():
        assert f"{name}: " in STRATEGY_HELP
        assert all(f"{option.name} (" in OPTIONS_HELP and option.meaning for option in options_of(kind).values())
