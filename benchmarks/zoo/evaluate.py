"""Scores models of the zoo by greedy decoding: `python -m benchmarks.zoo.evaluate --split test`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

from apportion.deployments import zoo
from apportion.router.arrays import FloatArray
from apportion.router.variants import variant_name
from benchmarks.zoo.grader import grade
from benchmarks.zoo.tasks import GRADES, TASKS, Example, Split, generate
from benchmarks.zoo.tokenizer import THINK

MODELS_FOLDER = zoo.MODELS
DIRECT, THINKING = "direct", "think"
_MAX_NEW_TOKENS, _MAX_THOUGHT_TOKENS = 24, 96


def saved_models(folder: Path = MODELS_FOLDER) -> list[Path]:
    """The folders under `folder` that hold a model, cheapest (fewest bytes of weights) first."""
    found = (file.parent for file in folder.glob("*/model.safetensors"))
    return sorted(found, key=lambda path: (_weight_bytes(path), path.name))


def _weight_bytes(folder: Path) -> int:
    return (folder / "model.safetensors").stat().st_size


class Greedy:
    """A saved model that answers greedily, in float32."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self._network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    @property
    def ways(self) -> dict[str, bool]:
        """How it can be asked: whether to think first, by the name of each way; one without a name if it never does."""
        return {DIRECT: False, THINKING: True} if THINK in self.tokenizer.get_vocab() else {"": False}

    def answers_to(self, prompts: Sequence[str], *, think: bool = False) -> list[str]:
        """Answers to questions, one a prompt, with the thoughts before them."""
        texts = [
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=think,
            )
            for prompt in prompts
        ]
        return self.answers(texts, _MAX_THOUGHT_TOKENS if think else _MAX_NEW_TOKENS)

    @torch.inference_mode()
    def answers(self, texts: Sequence[str], max_tokens: int = _MAX_NEW_TOKENS, batch: int = 256) -> list[str]:
        """How rendered chats go on, in order."""
        answers = [""] * len(texts)
        by_length = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        for start in range(0, len(texts), batch):
            rows = by_length[start : start + batch]
            given = [texts[row] for row in rows]
            inputs = self.tokenizer(given, return_tensors="pt", padding=True, add_special_tokens=False)
            inputs.pop("token_type_ids", None)
            tokens = self._network.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
            decoded = self.tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            for row, answer in zip(rows, decoded, strict=True):
                answers[row] = answer
        return answers


def answers_of(folder: Path, prompts: Sequence[str]) -> list[str]:
    """Greedy answers of the model saved in `folder`, one a prompt, without a thought."""
    return Greedy(folder).answers_to(prompts)


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores `(n_examples, n_models)` of models, or of ways of asking them, on the same examples."""

    models: tuple[str, ...]
    examples: tuple[Example, ...]
    right: FloatArray

    def of(self, models: Sequence[str]) -> Scores:
        """Those of some of the models."""
        return Scores(tuple(models), self.examples, self.right[:, [self.models.index(model) for model in models]])

    def means(self) -> dict[str, float]:
        """Mean score of each model."""
        return dict(zip(self.models, self.right.mean(axis=0).tolist(), strict=True))

    def best_single(self) -> tuple[str, float]:
        """The model with the highest mean score, and that score."""
        return max(self.means().items(), key=lambda item: item[1])

    def oracle(self) -> float:
        """Mean score where every prompt goes to a model that answers it well, if there is one."""
        return float(self.right.max(axis=1).mean())

    def by_task(self) -> dict[str, dict[str, float]]:
        """task -> model -> mean score."""
        return {task: self._means_where([e.task == task for e in self.examples]) for task in TASKS}

    def by_grade(self) -> dict[int, dict[str, float]]:
        """difficulty -> model -> mean score."""
        return {grade: self._means_where([e.difficulty == grade for e in self.examples]) for grade in GRADES}

    def cell(self, task: str, grade: int) -> FloatArray:
        """Mean scores `(n_models,)` on one task's questions of one grade."""
        rows = [example.task == task and example.difficulty == grade for example in self.examples]
        return np.asarray(self.right[np.array(rows)].mean(axis=0))

    def _means_where(self, rows: list[bool]) -> dict[str, float]:
        if not any(rows):
            return {}
        return dict(zip(self.models, self.right[np.array(rows)].mean(axis=0).tolist(), strict=True))

    def half_widths(self) -> dict[str, float]:
        """Half the width of the 95 % interval of each model's mean score."""
        widths = 1.96 * np.sqrt(self.right.var(axis=0) / len(self.examples))
        return dict(zip(self.models, widths.tolist(), strict=True))

    def summary(self) -> dict[str, object]:
        """Everything above as JSON takes it."""
        name, score = self.best_single()
        return {
            "n_examples": len(self.examples),
            "scores": self.means(),
            "half_width_95": self.half_widths(),
            "best_single": name,
            "oracle": self.oracle(),
            "headroom": self.oracle() - score,
            "by_task": self.by_task(),
            "by_difficulty": {str(grade): means for grade, means in self.by_grade().items()},
        }


def evaluate(folders: Sequence[Path], examples: Sequence[Example]) -> Scores:
    """Let every model answer every example, in each of its ways."""
    prompts = [example.prompt for example in examples]
    columns: dict[str, list[float]] = {}
    for folder in folders:
        model = Greedy(folder)
        for way, think in model.ways.items():
            answers = model.answers_to(prompts, think=think)
            name = variant_name(folder.name, way) if way else folder.name
            columns[name] = [grade(answer, example) for answer, example in zip(answers, examples, strict=True)]
    return Scores(tuple(columns), tuple(examples), np.array(list(columns.values())).T)


def table_of(scores: Scores) -> Table:
    """Scores by task and by grade, in percent."""
    table = Table("", *scores.models, title=f"right answers, %, {len(scores.examples)} prompts")
    rows = {**scores.by_task(), **{f"grade {grade}": means for grade, means in scores.by_grade().items()}}
    for label, means in rows.items():
        table.add_row(label, *(f"{100 * means[m]:.0f}" if means else "-" for m in scores.models))
    table.add_section()
    table.add_row("all", *(f"{100 * mean:.1f}" for mean in scores.means().values()))
    return table


def main(
    folder: Annotated[Path, typer.Option(help="Folder with one folder a model.")] = MODELS_FOLDER,
    model: Annotated[str, typer.Option(help="A model's name, or all.")] = "all",
    split: Annotated[Split, typer.Option(help="Which prompts: zoo, predictor or test.")] = "test",
    n: Annotated[int, typer.Option(help="How many prompts.")] = 2800,
    seed: Annotated[int, typer.Option(help="Seed of the prompts.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the scores to this file as well.")] = None,
) -> None:
    """Score one or all models on questions of one split, in the even mix of tasks and grades."""
    folders = [path for path in saved_models(folder) if model in ("all", path.name)]
    if not folders:
        raise typer.BadParameter(f"no model {model!r} under {folder}; train it with python -m benchmarks.zoo.train")
    scores = evaluate(folders, generate(split, n, seed))
    console = Console(width=100)
    console.print(table_of(scores))
    name, best = scores.best_single()
    oracle = scores.oracle()
    console.print(f"best single: {name} {best:.3f}   oracle: {oracle:.3f}   headroom: {oracle - best:.3f}")
    if json_file:
        json_file.write_text(json.dumps(scores.summary(), indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
