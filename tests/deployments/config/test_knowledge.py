from __future__ import annotations

import numpy as np
import pytest

from apportion.deployments.config.knowledge import Knowledge
from apportion.router.errors import ArtefactError
from tests.deployments.local_router import NAMES, configuration

OWL = {"name": "owl"}
ROOK = {"name": "rook", "prior_success": 0.6}


def test_known_models_have_their_means_in_any_order_and_others_what_is_stated() -> None:
    known = Knowledge.of(configuration(None)).mean_success
    config = configuration(None, newcomers=[OWL, ROOK])
    turned = config.model_copy(update={"models": config.models[::-1]})
    found = Knowledge.of(turned)
    np.testing.assert_array_equal(found.mean_success, [0.6, 0.0, *known[::-1]])
    assert found.by_name_only == {"owl"}


def test_a_fleet_that_the_artefact_knows_needs_no_word() -> None:
    assert Knowledge.of(configuration(None)).notices == ()


def test_a_prior_that_is_not_needed_any_more_is_told() -> None:
    config = configuration(None)
    wren = config.models[0].model_copy(update={"prior_success": 0.5})
    (told,) = Knowledge.of(config.model_copy(update={"models": (wren, *config.models[1:])})).notices
    assert told == "wren: the predictor knows it, so its prior_success 0.5 is not used; remove it"


def test_models_that_are_not_served_are_told() -> None:
    config = configuration(None)
    (told,) = Knowledge.of(config.model_copy(update={"models": config.models[:2]})).notices
    assert told == f"the predictor knows {', '.join(NAMES[2:])} too, which the configuration does not serve"


def test_a_fleet_of_which_nothing_is_known_is_refused() -> None:
    config = configuration(None, newcomers=[OWL, ROOK])
    with pytest.raises(ArtefactError, match="train it for one of these at least"):
        Knowledge.of(config.model_copy(update={"models": config.models[4:]}))


def test_a_model_that_makes_embeddings_is_told_as_such() -> None:
    bert = {"name": "bert", "engine_args": {"runner": "pooling"}, "output_usd_per_million": 0}
    assert Knowledge.of(configuration(None, newcomers=[bert])).notices == (
        "bert: it makes embeddings; only /v1/embeddings asks it",
    )
