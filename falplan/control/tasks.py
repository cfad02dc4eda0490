"""Named asyncio tasks: one at a time under each name, and none forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Tasks:
    """Work under way, by name. `when_done` is called after each end."""

    when_done: Callable[[], None] = lambda: None
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self._tasks

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Begin work. What it raises goes to the loop's exception handler."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks[name] = task
        task.add_done_callback(lambda t: self._finished(name, t))

    def _finished(self, name: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(name) is task:
            del self._tasks[name]
        if not task.cancelled() and task.exception():
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"controller task {name}", "exception": task.exception()}
            )
        self.when_done()

    async def cancel(self, *names: str) -> None:
        """End work, but never the work that asks for it, and wait until it has ended."""
        for name in names:
            task = self._tasks.pop(name, None)
            if task and task is not asyncio.current_task():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def wait(self, prefix: str = "") -> None:
        """Wait for work whose name begins so. What it raised was told already."""
        found = [t for n, t in self._tasks.items() if n.startswith(prefix)]
        await asyncio.gather(*found, return_exceptions=True)

    async def cancel_all(self, *, but: str) -> None:
        """End everything, but wait for work whose name begins so."""
        for name, task in list(self._tasks.items()):
            if not name.startswith(but):
                task.cancel()
        await self.wait()
