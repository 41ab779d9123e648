from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from apportion.deployments import zoo
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


def test_static_vectors_take_no_encoder_and_no_gpu(tmp_path: Path) -> None:
    """An artefact that says it has them; nothing else of it is read here."""
    artefact = Path(shutil.copytree(zoo.PREDICTOR, tmp_path / "artefact"))
    described = json.loads((artefact / "artefact.json").read_text())
    described["encoder"]["source"] = "static:minilm"
    (artefact / "artefact.json").write_text(json.dumps(described))
    config = configuration(None)
    with_gpu = config.predictor.model_copy(update={"artefact": str(artefact), "num_gpus": 0.5})
    (told,) = Knowledge.of(config.model_copy(update={"predictor": with_gpu})).notices
    assert told.startswith("predictor.num_gpus: static:minilm has no use for a GPU; set 0")
    elsewhere = with_gpu.model_copy(update={"encoder": "/models/minilm"})
    with pytest.raises(ArtefactError, match="encoder '/models/minilm': the artefact holds static vectors"):
        Knowledge.of(config.model_copy(update={"predictor": elsewhere}))
