"""Headless Chromium, driven over two pipes by its DevTools protocol: no driver program, no package.

Messages are JSON objects that end with a zero byte (chromium --remote-debugging-pipe: it reads descriptor 3 and writes
descriptor 4). Protocol: https://chromedevtools.github.io/devtools-protocol/.
"""

import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip


class Page:
    """One tab of a browser. `requests` has the URL of every request since the tab was opened.

    Args:
        profile: an empty folder.
        flags: more flags of Chromium.
    """

    def __init__(self, profile: Path, *flags: str):
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # A shell moves the pipes to descriptors 3 and 4, which may be in use in this process.
        move = f'exec 8<&{theirs_in} 9>&{theirs_out}; exec 3<&8 4>&9; exec "$0" "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", move, CHROMIUM, *FLAGS, *flags, f"--user-data-dir={profile}", "--remote-debugging-pipe"],
            pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self._number, self._buffer, self._session, self.requests = 0, b"", None, []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "DOM"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params) -> dict:
        """Calls one method of the protocol and returns its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def evaluate(self, script: str):
        """The JSON value of a JavaScript expression, awaited when it is a promise."""
        result = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"].get("exception", {}).get("description", script))
        return result["result"].get("value")

    def wait_for(self, condition: str, seconds: float = 120.0) -> None:
        """Waits until the JavaScript expression `condition` is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(condition):
            if time.monotonic() > end:
                raise TimeoutError(f"{condition}; the page says: {self.evaluate('document.body.innerText')}")
            time.sleep(0.03)

    def choose_file(self, selector: str, path: Path) -> None:
        """Picks a file for an `<input type=file>`, as a user does."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def close(self) -> None:
        """Ends the browser."""
        self._session = None
        self.send("Browser.close")
        self._process.wait(30)
        os.close(self._in)
        os.close(self._out)

    def _read(self, seconds: float = 120.0) -> dict:
        while b"\0" not in self._buffer:
            if not select.select([self._in], [], [], seconds)[0]:
                raise TimeoutError(f"Chromium says nothing for {seconds:g} s")
            data = os.read(self._in, 1 << 20)
            if not data:
                raise EOFError("Chromium has ended")
            self._buffer += data
        raw, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(raw)
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])
        return message
