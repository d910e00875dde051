"""The end of the host's process while a node trains: it waits until what was learned is saved."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from signal import SIGTERM, getsignal, signal

import comfy.model_management
from server import PromptServer

LONGEST_WAIT = 60.0  # seconds for a step and for saving; a process that hangs would be worse than a loss


@contextmanager
def cancelled_at_exit() -> Iterator[None]:
    """Inside, the end of the process (Ctrl-C, SIGTERM) cancels the training as the page does, and waits for it.

    The host runs nodes in a thread that would end with the process, wherever it is. In the main thread, where other
    programs may run them, Ctrl-C interrupts the training itself.
    """
    if threading.current_thread() is threading.main_thread():
        yield
        return
    over = threading.Event()

    def cancel() -> None:
        comfy.model_management.interrupt_current_processing(True)
        over.wait(LONGEST_WAIT)

    atexit.register(cancel)
    try:
        with _before_sigterm(cancel):
            yield
    finally:
        over.set()
        atexit.unregister(cancel)


@contextmanager
def _before_sigterm(cancel: Callable[[], None]) -> Iterator[None]:
    """Inside, SIGTERM has its usual effect after `cancel`. The main thread, which alone may set it, runs the server."""
    found: list = []

    def end(number: int, _frame: object) -> None:
        cancel()
        signal(number, found[0])
        os.kill(os.getpid(), number)

    def install() -> None:
        if threading.current_thread() is threading.main_thread():
            found.append(signal(SIGTERM, end))

    def remove() -> None:
        if found and getsignal(SIGTERM) is end:
            signal(SIGTERM, found[0])

    loop = PromptServer.instance.loop
    loop.call_soon_threadsafe(install)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(remove)
