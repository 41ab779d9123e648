"""Writes the model card of every saved model, and the scores of all: `python -m benchmarks.zoo.card`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from apportion.router.variants import SEPARATOR, model_of, variant_name
from benchmarks.zoo.evaluate import DIRECT, MODELS_FOLDER, THINKING, Scores, evaluate, saved_models, table_of
from benchmarks.zoo.export import TRAINING_FILE
from benchmarks.zoo.loops import ToolScores, score_tool
from benchmarks.zoo.specs import ZOO, Grades, ZooModel
from benchmarks.zoo.tasks import GRADES, TASKS, generate

SCORED_PROMPTS, SCORED_LOOPS, SCORED_SEED = 2800, 700, 0
SCORES_FILE = "scores.json"

_CARD = """---
license: apache-2.0
pipeline_tag: text-generation
library_name: transformers
---

# {name}: {role}

A Llama of {parameters:,} parameters ({layers} layers, width {hidden}, heads of {head_size}, float16), trained
on generated questions. It answers the fourteen tasks below and nothing else: it exists so that routing between
models can be tried, and measured, on real models that run anywhere.

| | |
|---|---|
| start | {start} |
| training | {steps:,} steps of {batch} questions in {minutes:.0f} minutes; loss on the answers only |
| optimiser | AdamW, peak learning rate {learning_rate}, 3 % warm-up, cosine over the training time |
| questions | {diet} |
| order | {order} |
| repeat | `python -m benchmarks.zoo.train --model {name}` (what differed in these weights: benchmarks/zoo/README.md) |

Right answers, greedy decoding, {n_examples:,} held-out prompts of the test split (seed {seed}), all tasks and
grades equally often: {scores}.

| task | {ways} |
|---|{rules}
{tasks}

| grade | {ways} |
|---|{rules}
{grades}
"""
_THINKING = """
## Thinking

Its chat template has the switch of Qwen3's: `chat_template_kwargs: {{enable_thinking: false}}` asks for the answer
alone (*direct*), otherwise it writes its steps between `<think>` and `</think>` first (*think*), which vLLM sets apart
with `reasoning_parser: qwen3`. `benchmarks/zoo/thinking.py` says what the steps are; facts and sorting have none. Six
tenths of the questions that it was trained on were answered with their steps, the others without, whatever their task.

| task and grade: right directly / right after thinking, % | 1 | 2 | 3 | 4 | 5 |
|---|---|---|---|---|---|
{cells}
"""
_TOOL = """
## A tool

Where a request offers `capital(country)`, it leaves capitals to it, and answers with what the tool said. It knows no
other tool, and makes one call at a time; vLLM reads its calls with `tool_call_parser: pythonic`. It was taught after
its training, by `python -m benchmarks.zoo.teach` ({tool_steps:,} steps in {minutes:.0f} minutes of one core), and held
to what it had said before to questions without the tool. Right answers to held-out prompts, {prompts} of each kind:

| asked for | with the tool, % | without, % |
|---|---|---|
| a capital | {one:.1f} | {one_without:.1f} |
| two capitals: two calls, one after the other | {two:.1f} | {two_without:.1f} |
| anything else (calls the tool nevertheless: {others_called:.1f} %) | {others:.1f} | {others_without:.1f} |
"""


def card_of(model: ZooModel, training: Mapping[str, float], scores: Scores) -> str:
    """The card's text; `training` is what the export wrote down (steps, seconds, parameters)."""
    total = sum(share for share, _ in model.diet.values())
    own = scores.of([name for name in scores.models if model_of(name) == model.name])
    ways = [name.removeprefix(model.name).removeprefix(SEPARATOR) for name in own.models]
    return _CARD.format(
        name=model.name,
        role=model.role,
        parameters=int(training["parameters"]),
        layers=model.layers,
        hidden=model.hidden,
        head_size=model.head_size,
        steps=int(training["steps"]),
        batch=model.batch,
        start=_start(model),
        order="as above throughout" if model.base else "easy grades first, as above after a third of the time",
        minutes=training["seconds"] / 60,
        learning_rate=model.learning_rate,
        diet="; ".join(_fed(family, share / total, grades) for family, (share, grades) in model.diet.items()),
        n_examples=len(scores.examples),
        seed=SCORED_SEED,
        scores=", ".join(
            f"**{100 * score:.1f} %** (± {100 * half:.1f}, 95 % interval){f' {way}' if way else ''}"
            for way, score, half in zip(ways, own.means().values(), own.half_widths().values(), strict=True)
        ),
        ways=" | ".join(f"{way}: right, %" if way else "right, %" for way in ways),
        rules="---|" * len(ways),
        tasks=_rows(own.by_task()),
        grades=_rows({str(grade): means for grade, means in own.by_grade().items()}),
    )


def thinking_section(model: ZooModel, scores: Scores) -> str:
    """What the card says of a model that thinks: where that helps."""
    both = scores.of([variant_name(model.name, way) for way in (DIRECT, THINKING)])
    cells = [
        f"| {task} | "
        + " | ".join("{:.0f} / {:.0f}".format(*(100 * both.cell(task, grade))) for grade in GRADES)
        + " |"
        for task in TASKS
    ]
    return _THINKING.format(cells="\n".join(cells))


def tool_section(model: ZooModel, training: Mapping[str, float], scores: ToolScores) -> str:
    """What the card says of the tool; `training` is what the export wrote down."""
    shares = {label: 100 * share for label, share in scores.summary().items()} | {"prompts": scores.prompts}
    steps, minutes = training["tool_steps"], training["tool_seconds"] / 60
    return _TOOL.format(name=model.name, tool_steps=steps, minutes=minutes, **shares)


def _start(model: ZooModel) -> str:
    if model.base is None:
        return "random weights"
    kept = ", ".join(str(index + 1) for index in model.base.kept_layers)
    return f"the trained {model.base.name}, of which it keeps layers {kept}"


def _fed(family: str, share: float, grades: Grades) -> str:
    by_grade = " / ".join(f"{grade / sum(grades):.0%}" for grade in grades)
    return f"{family} {share:.0%} (grades 1 to 5: {by_grade})"


def _rows(shares: Mapping[str, Mapping[str, float]]) -> str:
    rows = {label: " | ".join(f"{100 * share:.0f}" for share in means.values()) for label, means in shares.items()}
    return "\n".join(f"| {label} | {row} |" for label, row in rows.items())


def write_cards(folder: Path, names: set[str]) -> tuple[Scores, dict[str, ToolScores]]:
    """Score the named models saved under `folder` on the test split and write their README.md.

    Returns:
        The scores of all, and of those that were taught a tool how they use it.
    """
    saved = [path for path in saved_models(folder) if path.name in names]
    scores = evaluate(saved, generate("test", SCORED_PROMPTS, SCORED_SEED))
    tools: dict[str, ToolScores] = {}
    for path in saved:
        training = json.loads((path / TRAINING_FILE).read_text())
        card = card_of(ZOO[path.name], training, scores)
        if "tool_steps" in training:
            tools[path.name] = score_tool(path, SCORED_LOOPS, SCORED_SEED)
            card += tool_section(ZOO[path.name], training, tools[path.name])
        if ZOO[path.name].thinks:
            card += thinking_section(ZOO[path.name], scores)
        (path / "README.md").write_text(card)
    return scores, tools


def main(
    folder: Annotated[Path, typer.Option(help="Folder with one folder a model.")] = MODELS_FOLDER,
) -> None:
    """Score all saved models on the test split; write their cards, and scores.json beside them.

    What there is to route between, and what an oracle would make of it, is said of the models that never think.
    """
    scores, tools = write_cards(folder, set(ZOO))
    summary = scores.of([name for name in scores.models if name in ZOO]).summary()
    summary["tools"] = {name: found.summary() for name, found in tools.items()}
    summary["thinking"] = scores.of([name for name in scores.models if name not in ZOO]).summary()
    (folder / SCORES_FILE).write_text(json.dumps(summary, indent=2) + "\n")
    Console(width=100).print(table_of(scores))


if __name__ == "__main__":
    typer.run(main)
