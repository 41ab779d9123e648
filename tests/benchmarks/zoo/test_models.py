from __future__ import annotations

import json

import numpy as np
import pytest
from transformers import AutoConfig, AutoTokenizer

from benchmarks.zoo.evaluate import MODELS_FOLDER, Scores, evaluate, saved_models
from benchmarks.zoo.specs import ZOO
from benchmarks.zoo.tasks import FAMILIES, Example, generate
from benchmarks.zoo.tokenizer import build_tokenizer


@pytest.fixture(scope="module")
def scores():
    pool = [folder for folder in saved_models() if not ZOO[folder.name].thinks]
    return evaluate(pool, generate("test", 420, seed=11))


def family_score(scores: Scores, family: str, model: str) -> float:
    rows = [example.task in FAMILIES[family] for example in scores.examples]
    return float(scores.right[np.array(rows), scores.models.index(model)].mean())


def test_every_model_is_there_and_all_are_small():
    assert {folder.name for folder in saved_models()} == set(ZOO)
    files = [file for file in MODELS_FOLDER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 16_000_000


@pytest.mark.parametrize("name", ZOO)
def test_saved_shape_and_tokenizer_are_those_of_the_spec(name):
    tokenizer, config = (
        AutoTokenizer.from_pretrained(MODELS_FOLDER / name),
        AutoConfig.from_pretrained(MODELS_FOLDER / name),
    )
    wanted_tokenizer = build_tokenizer(thinks=ZOO[name].thinks)
    wanted = ZOO[name].config(wanted_tokenizer)
    for field in (
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "intermediate_size",
        "max_position_embeddings",
    ):
        assert getattr(config, field) == getattr(wanted, field)
    assert config.hidden_size // config.num_attention_heads == ZOO[name].head_size
    assert tokenizer.get_vocab() == wanted_tokenizer.get_vocab()
    assert tokenizer.chat_template == wanted_tokenizer.chat_template
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (config.eos_token_id, config.pad_token_id)


@pytest.mark.parametrize("name", ZOO)
def test_cards_state_the_model_they_lie_beside(name):
    card = (MODELS_FOLDER / name / "README.md").read_text()
    training = json.loads((MODELS_FOLDER / name / "training.json").read_text())
    assert f"{training['parameters']:,} parameters" in card
    assert f"{training['steps']:,} steps" in card


def test_there_is_something_to_route(scores):
    _, best = scores.best_single()
    assert 0.5 < best <= 0.85
    assert scores.oracle() >= best + 0.07
    assert scores.means()[scores.models[0]] > 0.25


@pytest.mark.parametrize(("family", "specialist"), [("numbers", "finch"), ("strings", "lark")])
def test_specialists_are_best_in_their_field_and_nowhere_else(scores, family, specialist):
    assert max(scores.models, key=lambda model: family_score(scores, family, model)) == specialist
    assert scores.best_single()[0] != specialist
    for other in set(FAMILIES) - {family}:
        assert family_score(scores, other, specialist) < family_score(scores, other, "heron")


def test_scores_add_up():
    examples = tuple(Example(str(index), "x", task, 1) for index, task in enumerate(["add", "add", "kind"]))
    scores = Scores(("a", "b"), examples, np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]))
    assert scores.best_single() == ("a", pytest.approx(2 / 3))
    assert scores.oracle() == pytest.approx(2 / 3)
    assert scores.by_task()["add"] == {"a": 0.5, "b": 0.0}
    assert scores.by_grade()[1] == pytest.approx({"a": 2 / 3, "b": 1 / 3})
    summary = json.loads(json.dumps(scores.summary()))
    assert summary["headroom"] == pytest.approx(0.0)
