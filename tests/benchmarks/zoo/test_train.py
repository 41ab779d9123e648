from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from benchmarks.zoo.batches import Batches, easy_first
from benchmarks.zoo.evaluate import answers_of
from benchmarks.zoo.export import export_model
from benchmarks.zoo.specs import Base, ZooModel
from benchmarks.zoo.tasks import FAMILIES, split_of
from benchmarks.zoo.tokenizer import ASSISTANT, END, build_tokenizer
from benchmarks.zoo.train import Training, answer_loss, learning_rate

ALL = (1, 1, 1, 1, 1)
DIET = {"numbers": (1, ALL), "strings": (1, ALL), "knowledge": (2, (1, 1, 0, 0, 0))}
TINY = ZooModel("tiny", "test", 32, 1, 64, 1e-2, 16, 1, DIET)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def trained(tokenizer):
    training = Training(TINY, tokenizer, CPU, seed=0)
    losses = [done.loss for done in itertools.islice(training.run(limit_s=3600), 150)]
    return training, losses


def test_training_lowers_the_loss_on_questions_not_trained_on(trained, tokenizer):
    training, _ = trained
    held_out = next(Batches(TINY, tokenizer, seed=99).pool(0.0))
    with torch.no_grad():
        before = answer_loss(Training(TINY, tokenizer, CPU, seed=0).network, held_out).item()
        after = answer_loss(training.network, held_out).item()
    assert before == pytest.approx(torch.log(torch.tensor(len(tokenizer))).item(), abs=0.5)
    assert after < before - 2


def test_training_repeats_with_the_same_seed(trained, tokenizer):
    _, losses = trained
    again = Training(TINY, tokenizer, CPU, seed=0)
    assert [done.loss for done in itertools.islice(again.run(limit_s=3600), 3)] == pytest.approx(losses[:3], rel=1e-3)


def test_training_goes_on_where_it_stopped(trained, tokenizer, tmp_path):
    training, _ = trained
    training.save(tmp_path / "tiny.pt")
    resumed = Training(TINY, tokenizer, CPU, seed=1)
    resumed.resume(tmp_path / "tiny.pt")
    assert resumed.done == training.done
    next(resumed.run(limit_s=3600))
    assert resumed.done.steps == training.done.steps + 1
    assert resumed.done.loss == pytest.approx(training.done.loss, rel=0.1)


def test_a_specialist_starts_from_its_base_less_a_layer(tokenizer, tmp_path):
    base = replace(TINY, name="base", layers=3)
    source = Training(base, tokenizer, CPU, seed=0)
    export_model(source.network, tokenizer, base, tmp_path, steps=0, seconds=0.0)
    child = Training(replace(TINY, layers=2), tokenizer, CPU, seed=1)
    child.start_from(Base("base", (0, 2)), tmp_path)
    for kept, layer in zip((0, 2), child.network.model.layers, strict=True):
        wanted = source.network.model.layers[kept].mlp.up_proj.weight
        assert torch.allclose(layer.mlp.up_proj.weight, wanted, atol=1e-3)
    assert torch.allclose(child.network.lm_head.weight, source.network.lm_head.weight, atol=1e-3)
    with pytest.raises(FileNotFoundError, match="train it first with --model crane"):
        child.start_from(Base("crane", (0, 1)), tmp_path)


def test_export_is_a_folder_that_answers(trained, tokenizer, tmp_path):
    training, _ = trained
    folder = export_model(training.network, tokenizer, TINY, tmp_path, steps=150, seconds=9.6)
    export_model(training.network, tokenizer, TINY, tmp_path, steps=150, seconds=9.6)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    assert {weight.dtype for weight in load_file(folder / "model.safetensors").values()} == {torch.float16}
    facts = json.loads((folder / "training.json").read_text())
    assert facts == {"steps": 150, "seconds": 10, "parameters": training.network.num_parameters()}
    reloaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert torch.allclose(reloaded.lm_head.weight, training.network.lm_head.weight, atol=1e-2)
    assert reloaded.generation_config.eos_token_id == tokenizer.eos_token_id
    one_by_one = [answers_of(folder, [prompt])[0] for prompt in ("2 plus 2", "what is the capital of France?")]
    assert answers_of(folder, ["2 plus 2", "what is the capital of France?"]) == one_by_one


def test_the_loss_sees_answers_and_nothing_else(tokenizer):
    for batch in Batches(TINY, tokenizer, seed=4).pool(0.5):
        for ids, answers in zip(batch.ids, batch.answers, strict=True):
            tokens = tokenizer.convert_ids_to_tokens(ids)
            start, end = tokens.index(ASSISTANT), tokens.index(END)
            assert answers.nonzero().flatten().tolist() == list(range(start, end))


def test_batches_hold_only_the_training_split(tokenizer):
    examples = Batches(TINY, tokenizer, seed=5).questions(0.5)
    assert {split_of(example.prompt) for example in examples} == {"zoo"}


def test_the_diet_is_kept(tokenizer):
    batches = Batches(TINY, tokenizer, seed=6)
    examples = [example for _ in range(20) for example in batches.questions(1.0)]
    facts = [example for example in examples if example.task in FAMILIES["knowledge"]]
    assert len(facts) / len(examples) == pytest.approx(0.5, abs=0.06)
    assert {example.difficulty for example in facts} == {1, 2}


def test_grades_start_easy_and_end_even():
    early, late = easy_first(0.0), easy_first(0.6)
    assert early == sorted(early, reverse=True)
    assert early[0] > 10 * early[-1]
    assert late == [1.0] * 5


def test_learning_rate_warms_up_and_falls():
    assert learning_rate(TINY, 0.0) < 0.1 * TINY.learning_rate
    assert learning_rate(TINY, 0.03) == pytest.approx(TINY.learning_rate)
    assert learning_rate(TINY, 1.0) == pytest.approx(0.02 * TINY.learning_rate)
