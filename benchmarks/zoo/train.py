"""Trains the zoo: `python -m benchmarks.zoo.train --model wren --minutes 12`.

Time is the dial: the learning rate follows a cosine over the wanted minutes, whatever the machine makes of
them. A training that is interrupted (Ctrl-C, SIGTERM) goes on where it was with --resume.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated

import torch
import torch.nn.functional as F  # noqa: N812
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from apportion.deployments.zoo import MODELS
from benchmarks.zoo.batches import Batch, Batches
from benchmarks.zoo.card import write_cards
from benchmarks.zoo.export import export_model
from benchmarks.zoo.specs import ZOO, Base, ZooModel
from benchmarks.zoo.tokenizer import build_tokenizer

_WARM_UP_SHARE = 0.03
_FINAL_RATE_SHARE = 0.02
_LOG_EVERY_STEPS = 100

console = Console()


@dataclass(slots=True)
class Progressed:
    """How far a training has come."""

    steps: int = 0
    seconds: float = 0.0
    loss: float = math.nan


def learning_rate(model: ZooModel, progress: float) -> float:
    """Linear warm-up, then a cosine down to 2 % of the model's rate; `progress` runs from 0 to 1."""
    if progress < _WARM_UP_SHARE:
        return model.learning_rate * (0.05 + 0.95 * progress / _WARM_UP_SHARE)
    done = min(1.0, (progress - _WARM_UP_SHARE) / (1.0 - _WARM_UP_SHARE))
    return model.learning_rate * (_FINAL_RATE_SHARE + (1 - _FINAL_RATE_SHARE) * 0.5 * (1 + math.cos(math.pi * done)))


def answer_loss(network: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy over the answers' tokens; padding is behind them, so causal attention hides it."""
    hidden = network.model(input_ids=batch.ids[:, :-1], use_cache=False).last_hidden_state
    return F.cross_entropy(network.lm_head(hidden[batch.answers]), batch.ids[:, 1:][batch.answers])


class Training:
    """One model in training: network, optimiser, data and the time spent so far."""

    def __init__(self, model: ZooModel, tokenizer: PreTrainedTokenizerFast, device: torch.device, seed: int) -> None:
        torch.manual_seed(seed)
        self.model, self.device, self.tokenizer = model, device, tokenizer
        self.network = LlamaForCausalLM(model.config(tokenizer)).to(device)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), betas=(0.9, 0.98), weight_decay=0.05)
        self.done = Progressed()
        self.seed = seed

    def start_from(self, base: Base, folder: Path) -> None:
        """Take the weights of the base model saved under `folder`, less the layers that are not kept.

        Raises FileNotFoundError where the base model has not been trained yet.
        """
        if not (folder / base.name / "config.json").exists():
            raise FileNotFoundError(
                f"{self.model.name} starts from {base.name}, which is not in {folder}: "
                f"train it first with --model {base.name}, or all with --model all"
            )
        trained = LlamaForCausalLM.from_pretrained(folder / base.name, dtype=torch.float32)
        trained.model.layers = torch.nn.ModuleList(trained.model.layers[index] for index in base.kept_layers)
        trained.resize_token_embeddings(len(self.tokenizer), mean_resizing=False)
        self.network.load_state_dict(trained.state_dict())

    def resume(self, state_file: Path) -> None:
        """Take up the state that `save` wrote."""
        state = torch.load(state_file, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.done = Progressed(**state["done"])

    def save(self, state_file: Path) -> None:
        """Write everything that `resume` needs; the file appears whole or not at all."""
        done = {"steps": self.done.steps, "seconds": self.done.seconds, "loss": self.done.loss}
        state = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(), "done": done}
        part = state_file.with_suffix(".part")
        torch.save(state, part)
        part.replace(state_file)

    def run(self, limit_s: float) -> Iterator[Progressed]:
        """Train until `limit_s` seconds are spent in all, yielding after every step."""
        batches = Batches(self.model, self.tokenizer, self.seed + self.done.steps)
        self.network.train()
        started = time.monotonic() - self.done.seconds
        while self.done.seconds < limit_s:
            for batch in batches.pool(self.done.seconds / limit_s):
                self._step(batch, self.done.seconds / limit_s)
                self.done.seconds = time.monotonic() - started
                yield self.done

    def _step(self, batch: Batch, progress: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.model, progress)
        loss = answer_loss(self.network, Batch(batch.ids.to(self.device), batch.answers.to(self.device)))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.done.steps += 1
        smooth = 0.98 if self.done.steps > 1 else 0.0
        before = self.done.loss if self.done.steps > 1 else 0.0
        self.done.loss = smooth * before + (1 - smooth) * loss.item()


@contextmanager
def until_told_to_stop() -> Iterator[list[int]]:
    """A list that stays empty until SIGTERM or SIGINT arrives, so that a training can end tidily."""
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def train(training: Training, minutes: float, out: Path, export_minutes: float, state_file: Path) -> bool:
    """Train for `minutes` in all, exporting as it goes; False where it was told to stop before."""
    limit_s, next_export_s = minutes * 60, training.done.seconds + export_minutes * 60
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[now]}"),
    )
    with until_told_to_stop() as stopped, Progress(*columns, console=console, refresh_per_second=1) as bar:
        shown = bar.add_task(training.model.name, total=limit_s, now="")
        for done in training.run(limit_s):
            bar.update(shown, completed=done.seconds, now=f"step {done.steps}  loss {done.loss:.3f}")
            if done.steps % _LOG_EVERY_STEPS == 0 and not console.is_terminal:
                print(
                    f"{training.model.name} {done.seconds:.0f}s step {done.steps} loss {done.loss:.4f}",
                    flush=True,
                )
            if done.seconds >= next_export_s:
                training.save(state_file)
                export_model(training.network, training.tokenizer, training.model, out, done.steps, done.seconds)
                next_export_s += export_minutes * 60
            if stopped:
                break
    training.save(state_file)
    export_model(training.network, training.tokenizer, training.model, out, training.done.steps, training.done.seconds)
    return not stopped


def pick_device(name: str) -> torch.device:
    """The device of that name; `auto` is a GPU where there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def main(
    model: Annotated[str, typer.Option(help="A model's name, or all.")] = "all",
    minutes: Annotated[float | None, typer.Option(help="Training time a model; its own share if not given.")] = None,
    out: Annotated[Path, typer.Option(help="Folder that receives one folder a model.")] = MODELS,
    state: Annotated[Path, typer.Option(help="Folder for the states that --resume takes up.")] = Path("out/zoo"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of weights and data.")] = 0,
    export_minutes: Annotated[float, typer.Option(help="Time between exports on the way.")] = 10.0,
    resume: Annotated[bool, typer.Option(help="Go on from the saved state, where there is one.")] = False,
) -> None:
    """Train one model of the zoo, or all of them one after another."""
    if model != "all" and model not in ZOO:
        raise typer.BadParameter(f"no model {model!r}; choose all or one of {', '.join(ZOO)}")
    state.mkdir(parents=True, exist_ok=True)
    for spec in ZOO.values() if model == "all" else (ZOO[model],):
        training = Training(spec, build_tokenizer(thinks=spec.thinks), pick_device(device), seed)
        state_file = state / f"{spec.name}.pt"
        if resume and state_file.exists():
            training.resume(state_file)
        elif spec.base:
            training.start_from(spec.base, out)
        if not train(training, minutes or spec.minutes, out, export_minutes, state_file):
            console.print(f"{spec.name} stopped early; --resume goes on")
            break
        write_cards(out, {spec.name})


if __name__ == "__main__":
    typer.run(main)
