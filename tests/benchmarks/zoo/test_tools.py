"""The model that calls a tool: what it is taught, how its loops go, and whether it still does what it did."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

from benchmarks.zoo import teach
from benchmarks.zoo.capitals import CAPITALS, capital, conversation, draw_question, made_to_call
from benchmarks.zoo.evaluate import MODELS_FOLDER, Greedy
from benchmarks.zoo.loops import MOST_CALLS, Loop, run_loops, score_tool
from benchmarks.zoo.specs import ZOO, ToolLessons
from benchmarks.zoo.tasks import split_of
from benchmarks.zoo.tokenizer import build_tokenizer

CALLER = "finch"


@pytest.mark.parametrize("pair", [False, True])
def test_a_question_names_its_countries_and_belongs_to_its_split(pair: bool) -> None:
    rng = random.Random(0)
    for _ in range(50):
        asked = draw_question(rng, "test", pair=pair)
        assert split_of(asked.prompt) == "test"
        assert all(country in asked.prompt for country in asked.countries)
        assert asked.answer() == ",".join(CAPITALS[country] for country in asked.countries)
        assert len(asked.countries) == 1 + pair
    assert capital("Atlantis") == "error"


def test_lessons_answer_with_what_the_tool_said() -> None:
    rng = random.Random(3)
    seen: set[str] = set()
    for _ in range(200):
        said: list[str] = []
        for before, turn in itertools.pairwise(conversation(rng, "zoo", questions=2)):
            if before["role"] == "user":
                said = []
            if before["role"] != "tool":
                continue
            told = before["content"]
            said.append(json.loads(told)["capital"] if told.startswith("{") else told)
            if "tool_calls" in turn:
                seen.add("goes on")
            elif told == "error":
                seen.add("failed")
                assert turn["content"] == "error"
            else:
                seen.add("answers")
                assert turn["content"] == ",".join(said)
    assert seen == {"goes on", "failed", "answers"}
    forms = [json.loads(made_to_call(rng, "zoo")[-1]["content"]) for _ in range(20)]
    assert {type(form) for form in forms} == {list, dict}


def test_a_loop_ends_where_the_model_only_calls() -> None:
    loop = Loop([])
    for _ in range(MOST_CALLS + 1):
        assert loop.answer is None
        loop.go_on('[capital(country="Peru")]')
    assert (loop.calls, loop.answer) == (MOST_CALLS, '[capital(country="Peru")]')


def test_teaching_lowers_the_loss_and_repeats() -> None:
    model = replace(ZOO[CALLER], tool_lessons=ToolLessons(steps=12, conversations=4, questions=4))
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    untaught = LlamaForCausalLM(model.config(tokenizer))
    taught = [LlamaForCausalLM(model.config(tokenizer)) for _ in "12"]
    for network in taught:
        network.load_state_dict(untaught.state_dict())
        assert teach.teach(network, tokenizer, model, seed=1) == 12
    held_out = next(teach.Lessons(model.tool_lessons, tokenizer, seed=2).pool())
    with torch.no_grad():
        before, after, again = (teach.answer_loss(one, held_out.conversations).item() for one in (untaught, *taught))
        assert after < before - 1
        assert again == pytest.approx(after, rel=1e-3)
        alone = replace(held_out, beside_tools=held_out.alone)
        assert teach.drift(untaught, untaught, alone).item() == pytest.approx(0, abs=1e-6)
        assert teach.drift(taught[0], untaught, alone).item() > 0
    with pytest.raises(ValueError, match="heron is taught no tool"):
        teach.teach(untaught, tokenizer, ZOO["heron"], seed=0)


def test_the_caller_leaves_capitals_to_the_tool_and_nothing_else() -> None:
    scores = score_tool(MODELS_FOLDER / CALLER, prompts=60, seed=5)
    assert scores.one > 0.95
    assert scores.two > 0.95
    assert scores.one_without < 0.6
    assert scores.others_called < 0.01
    assert scores.others == pytest.approx(scores.others_without, abs=0.08)


def test_what_the_tool_says_counts_be_it_right_or_not() -> None:
    told = {"Rwanda": "Lima", "Nepal": "cold"}
    (loop,) = run_loops(Greedy(MODELS_FOLDER / CALLER), ["capital of Rwanda and of Nepal"], told.__getitem__)
    assert [turn["role"] for turn in loop.messages] == ["user", *("assistant", "tool") * 2]
    assert loop.answer == ",".join(told.values())


def test_cards_and_scores_tell_of_the_tool() -> None:
    card = (MODELS_FOLDER / CALLER / "README.md").read_text()
    tools = json.loads((MODELS_FOLDER / "scores.json").read_text())["tools"]
    assert list(tools) == [CALLER] == [name for name, model in ZOO.items() if model.tool_lessons]
    assert f"| a capital | {100 * tools[CALLER]['one']:.1f} | {100 * tools[CALLER]['one_without']:.1f} |" in card
