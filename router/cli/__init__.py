"""The command `apportion`. Modules of the commands import what is heavy only when they run."""

from __future__ import annotations

from router.cli.application import app
from router.cli.assign import assign
from router.cli.calibrate import calibrate
from router.cli.evaluate import evaluate
from router.cli.key import key
from router.cli.predict import predict
from router.cli.serve import serve
from router.cli.train import train

app.command()(train)
app.command()(calibrate)
app.command()(predict)
app.command()(assign)
app.command()(evaluate)
app.command()(serve)
app.command()(key)

__all__ = ["app"]
