"""A real ComfyUI server with this pack in its custom_nodes, driven over HTTP and its websocket."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import websocket

from .forking import Forked, run_script

REPO = Path(__file__).resolve().parents[1]
PACK_FOLDER = "ComfyUI-PALP"  # the name under custom_nodes/
#: What hosts load: this repository, or an unpacked archive of it (devtools/archive.py).
PACK = Path(os.environ.get("PALP_PACK") or REPO).resolve()
SKIP_REASON = (
    "ComfyUI is not found. Get it with `pip install comfy-cli && comfy install`, which puts it in ~/comfy/ComfyUI, or "
    "set COMFYUI_PATH to the folder that has its main.py; its requirements.txt must be installed in this environment."
)

START_TIMEOUT = 180.0  # seconds; the imports of a cold disk take most of it
STOP_TIMEOUT = 15.0  # seconds between terminate and kill
LOG_TAIL = 60  # lines shown when the server fails
TEXT_EVENT = 3  # the host's BinaryEventTypes.TEXT


def find_comfyui() -> Path | None:
    """$COMFYUI_PATH, else ~/comfy/ComfyUI, else the ComfyUI that this pack is installed in."""
    named = os.environ.get("COMFYUI_PATH")
    if named:
        path = Path(named).expanduser().resolve()
        if not (path / "main.py").is_file():
            raise ValueError(f"COMFYUI_PATH is {named}, where no main.py is. Name the folder of ComfyUI itself.")
        return path
    candidates = [Path("~/comfy/ComfyUI").expanduser()]
    if REPO.parent.name == "custom_nodes":
        candidates.append(REPO.parents[1])
    return next((path for path in candidates if (path / "main.py").is_file()), None)


def make_base_directory(path: Path, packs: dict[str, Path] | None = None) -> Path:
    """The folders that the host expects below `path`; `packs` (name: folder) are linked, this one unless told."""
    for name in ("custom_nodes", "models/checkpoints", "models/loras", "models/embeddings", "input", "output", "user"):
        (path / name).mkdir(parents=True, exist_ok=True)
    for name, folder in ({PACK_FOLDER: PACK} if packs is None else packs).items():
        (path / "custom_nodes" / name).symlink_to(folder, target_is_directory=True)
    return path


class PromptRejectedError(Exception):
    """The host refused a prompt before running it. `node_errors` is the host's dict, by node id."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(json.dumps(answer, indent=1))
        self.error: dict[str, Any] = answer.get("error", {})
        self.node_errors: dict[str, Any] = answer.get("node_errors", {})


@dataclass(frozen=True)
class Message:
    """One message of the websocket. Texts arrive as type "text" with data {"node": id, "text": text}."""

    type: str
    data: dict[str, Any]


@dataclass
class Result:
    """What a run said and left behind."""

    prompt_id: str
    messages: list[Message] = field(default_factory=list)
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)  # node id: its ui output, from the history

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        return [message.data for message in self.messages if message.type == kind]

    @property
    def status(self) -> str:
        """success, error or interrupted."""
        ends = [m.type.removeprefix("execution_") for m in self.messages if m.type in END_TYPES]
        return ends[-1] if ends else "unknown"

    @property
    def error(self) -> dict[str, Any] | None:
        """The host's report (node_id, node_type, exception_type, exception_message, traceback), if a node failed."""
        return next(iter(self.of_type("execution_error")), None)

    @property
    def progress(self) -> list[tuple[str, int, int]]:
        """(node id, value, maximum) of each step of a progress bar."""
        return [(data["node"], data["value"], data["max"]) for data in self.of_type("progress")]

    @property
    def texts(self) -> list[tuple[str, str]]:
        """(node id, text) of each progress text, in one line."""
        return [(data["node"], " ".join(data["text"].split())) for data in self.of_type("text")]

    @property
    def executed(self) -> list[str]:
        """The nodes that ran, in order; those taken from the cache are absent."""
        return [data["node"] for data in self.of_type("executing") if data["node"] is not None]

    @property
    def images(self) -> list[dict[str, str]]:
        """All images in the outputs, as the host names them: filename, subfolder, type."""
        return [image for output in self.outputs.values() for image in output.get("images", [])]

    def require_success(self) -> Result:
        if self.status != "success":
            raise AssertionError(f"The run ended with {self.status}: {json.dumps(self.error, indent=1)}")
        return self


END_TYPES = ("execution_success", "execution_error", "execution_interrupted")


class ComfyServer:
    """`with ComfyServer(find_comfyui(), make_base_directory(tmp_path)) as server: server.queue(prompt)`.

    The process is ended when the context closes, whatever happened inside.
    """

    def __init__(self, comfyui: Path, base_directory: Path) -> None:
        self.comfyui = comfyui
        self.base_directory = base_directory
        self.client_id = uuid.uuid4().hex
        self.port = _free_port()
        self._process: Forked | subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log_path(self) -> Path:
        return self.base_directory / "server.log"

    def __enter__(self) -> ComfyServer:
        self.start()
        return self

    def __exit__(self, *_exception) -> None:
        self.stop()

    def start(self) -> None:
        script = self.comfyui / "main.py"
        self._process = run_script(script, self._arguments(), self.comfyui, _child_environment(), self.log_path)
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def restart(self) -> None:
        """A fresh process on the same port and folders: nothing cached, custom nodes imported anew."""
        self.stop()
        self.start()

    def log(self) -> str:
        """Everything that the server printed, over restarts."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def get(self, path: str) -> Any:
        """The JSON answer to a GET, for example get("/system_stats")."""
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.load(answer)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON answer to a POST, None if it is empty."""
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def object_info(self) -> dict[str, Any]:
        """The description of each node that the host loaded, by node id."""
        return self.get("/object_info")

    def interrupt(self) -> None:
        """Stop the running prompt. Can be called from `on_message` while `queue` waits."""
        self.post("/interrupt", {})

    def free(self) -> None:
        """Ask the host to unload its models and forget its cached outputs."""
        self.post("/free", {"unload_models": True, "free_memory": True})

    def file(self, image: dict[str, str]) -> Path:
        """The path of an image that a result names."""
        return self.base_directory / image["type"] / image["subfolder"] / image["filename"]

    def queue(
        self,
        prompt: dict[str, Any],
        timeout: float = 600.0,
        on_message: Callable[[Message], None] | None = None,
    ) -> Result:
        """Run a prompt (API JSON) to its end. `on_message` sees each message as it comes and may interrupt.

        A prompt that the host does not accept raises PromptRejectedError; a failing node does not raise, see
        Result.status. Past `timeout` seconds the run is interrupted and TimeoutError is raised.
        """
        connection = websocket.create_connection(f"ws://127.0.0.1:{self.port}/ws?clientId={self.client_id}")
        try:
            result = Result(self._submit(prompt))
            self._follow(connection, result, time.monotonic() + timeout, on_message)
        finally:
            connection.close()
        result.outputs = self.get(f"/history/{result.prompt_id}")[result.prompt_id]["outputs"]
        return result

    def wait(self, prompt_id: str, timeout: float = 600.0) -> dict[str, Any]:
        """The history's entry (outputs, status) of a prompt that something else queued, once it has ended."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            history = self.get(f"/history/{prompt_id}")
            if prompt_id in history:
                return history[prompt_id]
            time.sleep(0.2)
        raise TimeoutError(f"The run did not end in time.\n{self._log_tail()}")

    def _submit(self, prompt: dict[str, Any]) -> str:
        try:
            return self.post("/prompt", {"prompt": prompt, "client_id": self.client_id})["prompt_id"]
        except urllib.error.HTTPError as error:
            raise PromptRejectedError(json.load(error)) from error

    def _follow(
        self,
        connection: websocket.WebSocket,
        result: Result,
        deadline: float,
        on_message: Callable[[Message], None] | None,
    ) -> None:
        """Collect this prompt's messages until the host says that it works on no node of it any more."""
        while True:
            connection.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                message = _parse(connection.recv())
            except websocket.WebSocketTimeoutException:
                self.interrupt()
                raise TimeoutError(f"The run did not end in time.\n{self._log_tail()}") from None
            except (websocket.WebSocketException, OSError) as error:
                raise RuntimeError(f"The server went away during a run.\n{self._log_tail()}") from error
            if message is None or message.data.get("prompt_id", result.prompt_id) != result.prompt_id:
                continue
            result.messages.append(message)
            if on_message:
                on_message(message)
            if message.type == "executing" and message.data["node"] is None and "prompt_id" in message.data:
                return

    def _arguments(self) -> list[str]:
        base = str(self.base_directory)
        database = f"sqlite:///{self.base_directory / 'user' / 'comfyui.db'}"  # else it lies in the host's folder
        options = ["--cpu", "--port", str(self.port), "--base-directory", base, "--database-url", database]
        return [*options, "--disable-auto-launch", "--disable-api-nodes"]

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended with code {self._process.returncode}.\n{self._log_tail()}")
            try:
                self.get("/system_stats")
                return
            except OSError:  # not listening yet
                time.sleep(0.2)
        raise TimeoutError(f"ComfyUI was not ready within {START_TIMEOUT:.0f} s.\n{self._log_tail()}")

    def _log_tail(self) -> str:
        return "\n".join(self.log().splitlines()[-LOG_TAIL:])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _child_environment() -> dict[str, str]:
    """Ours, without what would change the host's imports or make it look for models online.

    One thread: tiny models lose more to handing work around than they win, and another test may run beside.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("COMFY", "PYTHONPATH"))}
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    return kept | offline | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def _parse(frame: str | bytes) -> Message | None:
    """A message of JSON, or a progress text; previews, which are binary too, are left out."""
    if isinstance(frame, str):
        content = json.loads(frame)
        return Message(content["type"], content.get("data") or {})
    event, length = struct.unpack_from(">II", frame)
    if event != TEXT_EVENT:
        return None
    node = frame[8 : 8 + length].decode()
    return Message("text", {"node": node, "text": frame[8 + length :].decode()})
