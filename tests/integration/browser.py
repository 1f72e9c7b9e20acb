"""A headless Chromium, driven over its DevTools protocol by a pair of pipes. Nothing of it outlives the test."""
import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time

FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --no-default-browser-check
    --disable-background-networking --disable-component-update --disable-sync --disable-extensions --disable-dev-shm-usage
    --disable-default-apps --mute-audio --hide-scrollbars --remote-debugging-pipe --force-color-profile=srgb
    --proxy-server=direct:// --lang=en-US""".split()


class Browser:
    """One tab. console: errors and warnings that it printed; requests: the URLs that it asked for."""

    def __init__(self, width=1280, height=900):
        self.folder = tempfile.mkdtemp(prefix="weir-chromium-")
        to_read, self.to = os.pipe()
        self.come, to_write = os.pipe()

        def pipes():  # 3 and 4 are what the browser looks for; they may be each other's here
            a, b = (fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in (to_read, to_write))
            os.dup2(a, 3)
            os.dup2(b, 4)

        self.proc = subprocess.Popen([shutil.which("chromium"), *FLAGS, f"--user-data-dir={self.folder}", "about:blank"],
                                     stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                     preexec_fn=pipes, close_fds=False, start_new_session=True,
                                     env={**os.environ, "HOME": self.folder, "TZ": "UTC"})
        os.close(to_read)
        os.close(to_write)
        self.ready = select.poll()
        self.ready.register(self.come, select.POLLIN)
        self.buf, self.number, self.session = b"", 0, None
        self.console, self.requests = [], []
        try:
            target = self.send("Target.createTarget", url="about:blank")["targetId"]
            self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Network", "Log", "Accessibility"):
                self.send(domain + ".enable")
            self.size(width, height)
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.proc.pid, signal.SIGKILL)  # its own group, made for it
        self.proc.wait(10)
        for fd in (self.to, self.come):
            os.close(fd)
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- the protocol

    def _message(self, timeout):
        end = time.monotonic() + timeout
        while b"\0" not in self.buf:
            left = end - time.monotonic()
            if left <= 0 or not self.ready.poll(left * 1000):
                return None
            got = os.read(self.come, 1 << 16)
            assert got, "the browser ended"
            self.buf += got
        text, self.buf = self.buf.split(b"\0", 1)
        return json.loads(text)

    def _event(self, m):
        p = m.get("params", {})
        if m.get("method") == "Network.requestWillBeSent":
            self.requests.append(p["request"]["url"])
        elif m.get("method") == "Runtime.exceptionThrown":
            self.console.append(json.dumps(p["exceptionDetails"]))
        elif m.get("method") == "Runtime.consoleAPICalled" and p["type"] in ("error", "warning", "assert"):
            self.console.append(json.dumps(p["args"]))
        elif m.get("method") == "Log.entryAdded" and p["entry"]["level"] in ("error", "warning"):
            self.console.append(f'{p["entry"]["text"]} {p["entry"].get("url", "")}')

    def send(self, method, timeout=15, **params):
        self.number += 1
        m = {"id": self.number, "method": method, "params": params}
        if self.session:
            m["sessionId"] = self.session
        os.write(self.to, json.dumps(m).encode() + b"\0")
        end = time.monotonic() + timeout
        while True:
            m = self._message(end - time.monotonic())
            assert m, f"{method}: no answer within {timeout} s"
            if m.get("id") == self.number:
                assert "error" not in m, (method, m["error"])
                return m["result"]
            self._event(m)

    # ---- what a user does and sees

    def size(self, width, height, mobile=False):
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        self.send("Emulation.setTouchEmulationEnabled", enabled=mobile)

    def scheme(self, value):
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])

    def go(self, url):
        r = self.send("Page.navigate", url=url)
        assert "errorText" not in r, r

    def js(self, expression):
        r = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in r, r["exceptionDetails"]
        return r["result"].get("value")

    def wait(self, expression, timeout=8, why=""):
        end = time.monotonic() + timeout
        while True:
            value = self.js(f"(() => {{ try {{ const v = {expression}; return v instanceof Node || v }} catch {{ return null }} }})()")
            if value:
                return value
            assert time.monotonic() < end, f"within {timeout} s: {why or expression}; it says {self.js('document.body.innerText')[:1500]}"
            time.sleep(0.03)

    def click(self, expression):
        """With the mouse, at the middle of that element."""
        self.wait(f"{expression} && ({expression}).getClientRects().length")
        x, y = self.js(f"(e => {{ e.scrollIntoView({{block: 'center'}}); const r = e.getBoundingClientRect();"
                       f" return [r.x + r.width / 2, r.y + r.height / 2]; }})({expression})")
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text):
        self.send("Input.insertText", text=text)

    def key(self, name, code, text=None, shift=False):
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code,
                      modifiers=8 if shift else 0, **({"text": text} if text and kind == "keyDown" else {}))

    def shot(self, path, y=0, height=None):
        """The whole page, or a part of it."""
        width, whole = self.js("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
        data = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True,
                         clip={"x": 0, "y": y, "width": width, "height": height or whole - y, "scale": 1})["data"]
        with open(path, "wb") as f:
            f.write(base64.b64decode(data))

    def tree(self):
        """[(role, name)] as a screen reader has them."""
        return [(n.get("role", {}).get("value"), n.get("name", {}).get("value", ""))
                for n in self.send("Accessibility.getFullAXTree")["nodes"] if not n.get("ignored")]
