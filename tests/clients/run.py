#!/usr/bin/env python3
"""Runs a gateway, and against it the clients in other languages, buf by reflection alone, and the commands in documents.

    tests/clients/run.py BINARY DIRECTORY

DIRECTORY is what tests/clients/install was given.
"""

import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

HERE = Path(__file__).resolve().parent
START_TIMEOUT_S = 30
END_TIMEOUT_S = 30
CLIENT_TIMEOUT_S = 300
# Documents with commands. Those of one group continue each other, in their order.
DOCUMENTS = (
    ("README.md",),
    ("docs/publishing.md",),
    ("docs/http.md",),
    ("docs/receiving.md",),
    ("docs/operating.md", "docs/security.md"),
    ("docs/chatwoot.md",),
    ("docs/notices.md",),
    ("docs/console.md",),
    ("docs/questions.md",),
    ("CONTRIBUTING.md",),
)
# Of the gateway that asks for tokens.
ADMIN_TOKEN = "0123456789abcdef0123456789abcdef"


class Gateway:
    """The real binary with these arguments and further settings; on ports of its own, unless they say otherwise."""

    def __init__(self, binary, arguments, **settings):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")}
        environment |= {"TIDINGS_GRPC_LISTEN": "127.0.0.1:0", "TIDINGS_HTTP_LISTEN": "127.0.0.1:0", "TIDINGS_CONSOLE_LISTEN": "127.0.0.1:0"}
        environment |= {"TIDINGS_LOG_FORMAT": "json"} | settings
        self.process = subprocess.Popen(
            [binary, "serve", *arguments], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, env=environment, text=True
        )
        self.log = []
        listening = queue.Queue()
        self.reader = threading.Thread(target=self._read, args=(listening,), daemon=True)
        self.reader.start()
        try:
            self.address, self.console = listening.get(timeout=START_TIMEOUT_S)
        except queue.Empty:
            self.address = None
        if self.address is None:
            self.process.kill()
            raise SystemExit("the gateway did not start:\n" + "".join(self.log))

    def _read(self, listening):
        for line in self.process.stderr:
            self.log.append(line)
            if line.startswith("{") and (entry := json.loads(line)).get("grpc.listen"):
                listening.put((entry["grpc.listen"], entry["console"]))
        listening.put((None, None))

    def end(self):
        """Ends it as a service manager would. Returns its exit code."""
        self.process.terminate()
        try:
            return self.process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
        finally:
            self.reader.join(END_TIMEOUT_S)
            self.process.stderr.close()


def run(command, where, environment):
    """Runs a client to its end. Returns its exit code, and leaves no process of it behind."""
    process = subprocess.Popen(command, cwd=where, env=environment, start_new_session=True)
    try:
        return process.wait(CLIENT_TIMEOUT_S)
    except BaseException as ended:
        # What the client has started is of its group.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(ended, subprocess.TimeoutExpired):
            return f"not over after {CLIENT_TIMEOUT_S} s"
        raise


def main(binary, directory):
    directory = Path(directory).resolve()
    python = str(directory / "venv/bin/python")
    tests = [python, "-m", "unittest", "--verbose"]
    clients = {
        "Python": ([*tests, "test_gateway"], HERE / "python"),
        "celai-chatwoot": ([*tests, "test_celai", "test_behind"], HERE / "python"),
        "Node.js": (["npm", "test", "--silent"], HERE / "node"),
        "buf": ([*tests, "test_buf"], HERE / "python"),
        "first steps": ([*tests, "test_start"], HERE / "python"),
    }
    clients |= {" ".join(group): ([python, "documents.py", *group], HERE / "python") for group in DOCUMENTS}
    failed = []
    # So that a signal, too, ends the gateway.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory() as data_dir, tempfile.TemporaryDirectory() as guarded_dir:
        loopback = ["--egress-allow", "127.0.0.0/8"]
        gateway = Gateway(binary, ["--data-dir", data_dir, *loopback])
        guarded = Gateway(binary, ["--data-dir", guarded_dir, *loopback], TIDINGS_ADMIN_TOKEN=ADMIN_TOKEN)
        environment = os.environ | {
            "GATEWAY_BINARY": str(Path(binary).resolve()),
            "GATEWAY": gateway.address,
            "GUARDED_GATEWAY": guarded.address,
            "CONSOLE": gateway.console,
            "GUARDED_CONSOLE": guarded.console,
            "ADMIN_TOKEN": ADMIN_TOKEN,
            "BUF": str(HERE / "node/node_modules/.bin/buf"),
            "PYTHONPATH": str(directory / "stubs"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        try:
            for name, (command, where) in clients.items():
                print(f"-- {name}", flush=True)
                if (code := run(command, where, environment)) != 0:
                    failed.append(f"{name} ({code})")
        finally:
            for name, ending in {"the gateway": gateway, "the guarded gateway": guarded}.items():
                if (code := ending.end()) != 0:
                    failed.append(f"{name} ({code})")
    if key := re.search(r"whs(?:ec|k)_[A-Za-z0-9+/=]{24}", "".join(gateway.log + guarded.log)):
        failed.append(f"the log, which shows {key[0]}")
    if failed:
        print("".join(gateway.log + guarded.log), file=sys.stderr)
        raise SystemExit("failed: " + ", ".join(failed))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
