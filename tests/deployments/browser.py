"""Chromium without a window, told by its own protocol what to do."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

START_S = 30.0
NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str | None:
    """Where it is installed; None: nowhere."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One page, and what it has said of itself in its log."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.said: list[str] = []

    async def listen(self) -> None:
        async for message in self._socket:
            told = message.json()
            if "id" in told:
                self._answers.pop(told["id"]).set_result(told)
            elif told["method"] in {"Log.entryAdded", "Runtime.exceptionThrown"}:
                self.said.append(str(told["params"]))

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        told = await asyncio.wait_for(answer, START_S)
        assert "error" not in told, told
        result: dict[str, Any] = told["result"]
        return result

    async def look(self, width: int, height: int, scheme: str = "light") -> None:
        """As wide and high, in a colour scheme."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        await self.call("Emulation.setDeviceMetricsOverride", **metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.call("Emulation.setEmulatedMedia", features=features)

    async def evaluate(self, expression: str) -> Any:
        told = await self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    async def until(self, expression: str, timeout_s: float = 15.0) -> None:
        """Waits until a JavaScript expression holds."""
        async with asyncio.timeout(timeout_s):
            while not await self.evaluate(expression):
                await asyncio.sleep(0.1)

    async def screenshot(self) -> bytes:
        """All of the page, however long, as PNG."""
        told = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(told["data"])


@contextlib.asynccontextmanager
async def page_at(url: str) -> AsyncIterator[Page]:
    """The page at a URL, in a browser of its own."""
    program = chromium()
    assert program is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        arguments = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
        quiet = ("--no-first-run", "--disable-background-networking", "--disable-component-update")
        process = await asyncio.create_subprocess_exec(
            program,
            *arguments,
            *quiet,
            f"--user-data-dir={folder}",
            "--remote-debugging-port=0",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with aiohttp.ClientSession() as session:
                port = await _port(folder)
                async with session.put(f"http://127.0.0.1:{port}/json/new?about:blank") as answer:
                    target = await answer.json(content_type=None)
                async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    page = Page(socket)
                    listening = asyncio.create_task(page.listen())
                    try:
                        for room in ("Page", "Runtime", "Log"):
                            await page.call(f"{room}.enable")
                        await page.call("Page.navigate", url=url)
                        await page.until("location.href !== 'about:blank' && document.readyState === 'complete'")
                        yield page
                    finally:
                        listening.cancel()
        finally:
            process.kill()
            await process.wait()


async def _port(folder: str) -> int:
    async with asyncio.timeout(START_S):
        while (port := _written(folder)) is None:
            await asyncio.sleep(0.05)
    return port


def _written(folder: str) -> int | None:
    file = Path(folder) / "DevToolsActivePort"
    lines = file.read_text().splitlines() if file.exists() else []
    return int(lines[0]) if len(lines) > 1 else None
