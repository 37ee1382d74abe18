"""Runs the commands in documents as they stand.

    documents.py DOCUMENT...

The documents are one story: they share the gateway, the receiver and the directory, in the order given. They start the gateway
and the receiver themselves: `tidings serve`, `dev` and `receive` go on in the background, as in a terminal of their own, until the
next of their kind or the end. The shell itself reads each block of sh, so quotes, variables and heredocs mean the same as to a
reader. This file also stands in for the programs that the blocks call, and puts free ports in the place of those in the documents.
A block of text right after one of sh is its output.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
# The event in the file that documents publish.
EVENT = '{"event":"message_created","id":2,"content":"Hello","message_type":0,"conversation":{"id":1,"status":"open"}}'
# Where the documents have the gateway and the receiver.
GATEWAY_IN_DOCUMENTS = "127.0.0.1:50051"
RECEIVER_IN_DOCUMENTS = "127.0.0.1:9000"
RUN_TIMEOUT_S = 120
END_TIMEOUT_S = 30
# The exit code of an import that refused an object. Allowed where the document shows the output.
REFUSED = 65

BLOCK = re.compile(r"^```sh\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)
# A field mask as grpcurl takes it: the message instead of the string that it is in JSON.
MASK = re.compile(r'("update_mask": *)\{"paths": *(\[[^]]*\])\}')
# In the response of CreateAccessToken.
TOKEN = re.compile(r'"token": *"(tdg_[^"]+)"')
# The programs that this file stands in for, and those of the system that the documents use. Nothing else is in the path.
STAND_INS = ("grpcurl", "curl", "tidings", "cargo", "just", "ssh")
PROGRAMS = ("base64", "cat", "cp", "mv", "openssl", "tee")
# What a reader has stopped the gateway for.
STOPPED = "the gateway is stopped"
# Commands that call a gateway.
CALLERS = (
    "import", "backup", "publish", "subscriptions", "deliveries", "events", "replay", "tokens", "audit", "stats", "notices",
)
# Commands on a data directory that no gateway uses.
ALONE = ("check", "rotate-secrets-key")
# The addresses of a gateway that documents do not choose.
ANY_PORTS = {
    "TIDINGS_GRPC_LISTEN": "127.0.0.1:0",
    "TIDINGS_HTTP_LISTEN": "127.0.0.1:0",
    "TIDINGS_CONSOLE_LISTEN": "127.0.0.1:0",
    "TIDINGS_LOG_FORMAT": "json",
}
START_TIMEOUT_S = 30
# In a delivery that a receiver verified.
VERIFIED = re.compile(r"^webhook-signature: v1,\S+ \(valid\)$", re.MULTILINE)


def main(*documents):
    with tempfile.TemporaryDirectory() as commands, tempfile.TemporaryDirectory() as directory:
        for name in STAND_INS:
            stand_in = Path(commands) / name
            stand_in.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" {name} "$@"\n')
            stand_in.chmod(0o755)
        for name in PROGRAMS:
            (Path(commands) / name).symlink_to(shutil.which(name))
        write_hooks(Path(directory) / "hooks.jsonl")
        (Path(directory) / "event.json").write_text(EVENT)
        os.environ["STATE"] = str(Path(commands) / "state")
        Path(os.environ["STATE"]).mkdir()
        environment = os.environ | {"PATH": commands, "PATH_OF_PROGRAMS": os.environ["PATH"]}
        try:
            for document in documents:
                blocks = BLOCK.findall((ROOT / document).read_text())
                if not blocks:
                    raise SystemExit(f"{document} has no block of sh")
                for script, output in blocks:
                    run(script, output, environment, directory)
                    if document == "README.md" and "tidings publish" in script:
                        wait_for("receiver", lambda text: VERIFIED.search(text))
                        print("The receiver got a webhook and verified it.")
        finally:
            failed = [name for name in ("watcher", "receiver", "gateway") if stop(name) not in (0, None)]
        if failed:
            raise SystemExit(f"ended with an error: {', '.join(failed)}")


def write_hooks(path):
    """The bodies that the documents import: 22, of which the third is not one of the twelve events."""
    captured = ROOT / "tests/chatwoot/captured"
    message, other = (
        json.dumps(json.loads((captured / name).read_text()))
        for name in ("message_created-1.json", "conversation_opened-1.json")
    )
    path.write_text("\n".join([message] * 2 + [other] + [message] * 19) + "\n")


def run(script, output, environment, directory):
    """Runs one block. An access token in its output is $TOKEN to the following ones."""
    if STOPPED in script.lower():
        stop("gateway")
    ended = subprocess.run(
        ["/bin/bash", "-c", "set -eu\n" + script],
        env=environment | {"TOKEN": os.environ.get("TOKEN", "")},
        cwd=directory,
        timeout=RUN_TIMEOUT_S,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if output else None,
        text=True,
    )
    print(ended.stdout, end="", flush=True)
    if ended.returncode != 0 and not (output and ended.returncode == REFUSED):
        raise SystemExit("a command of the document failed")
    if output and not ended.stdout.endswith(output):
        raise SystemExit(f"the document shows another output:\n{output}")
    if created := TOKEN.search(ended.stdout):
        os.environ["TOKEN"] = created[1]


def state(name):
    """What is known of a program in the background: its pid and its address; None without one."""
    path = Path(os.environ["STATE"]) / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def address_of(name):
    if (known := state(name)) is None:
        raise SystemExit(f"the document has started no {name}")
    return known["address"]


def start(name, command, address, environment):
    """Starts a program in the background, and waits until `address` finds its own in the output."""
    stop(name)
    output = Path(os.environ["STATE"]) / f"{name}.txt"
    with output.open("w") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment, start_new_session=True
        )
    remember = Path(os.environ["STATE"]) / f"{name}.json"
    remember.write_text(json.dumps({"pid": process.pid, "address": ""}))
    found = wait_for(name, address, lambda: process.poll() is None)
    remember.write_text(json.dumps({"pid": process.pid, "address": found}))
    return 0


def wait_for(name, find, is_alive=lambda: True):
    """Waits until `find` finds something in the output of a program in the background."""
    output = Path(os.environ["STATE"]) / f"{name}.txt"
    end = time.monotonic() + START_TIMEOUT_S
    while not (found := find(output.read_text())):
        if time.monotonic() > end or not is_alive():
            raise SystemExit(f"the {name} did not do what it should:\n{output.read_text()}")
        time.sleep(0.05)
    return found


def stop(name):
    """Ends a program in the background as its user would. Returns whether it failed; None without one."""
    if (known := state(name)) is None:
        return None
    (Path(os.environ["STATE"]) / f"{name}.json").unlink()
    if known["pid"] is None:
        return None
    try:
        os.kill(known["pid"], signal.SIGINT)
        end = time.monotonic() + END_TIMEOUT_S
        while is_running(known["pid"]) and time.monotonic() < end:
            time.sleep(0.05)
        if is_running(known["pid"]):
            os.kill(known["pid"], signal.SIGKILL)
            return 1
    except ProcessLookupError:
        return 1
    return 0


def is_running(pid):
    """A process that ended stays as a zombie if nobody waits for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def grpcurl(arguments):
    """Makes the same call with buf. Returns the exit code."""
    data, options = "{}", []
    arguments = iter(arguments)
    positional = []
    for argument in arguments:
        match argument:
            case "-plaintext":
                pass
            case "-d":
                data = next(arguments)
                data = sys.stdin.read() if data == "@" else data
            case "-H":
                options += ["--header", next(arguments)]
            case "-emit-defaults":
                options.append("--emit-defaults")
            case _ if argument.startswith("-"):
                print(f"{__file__} does not know the option of buf curl for {argument}", file=sys.stderr)
                return 2
            case _:
                positional.append(argument)
    address, *verb = positional
    if address == GATEWAY_IN_DOCUMENTS:
        address = address_of("gateway")
    elif address != os.environ["GATEWAY"]:
        print(f"{address} is not the gateway's address", file=sys.stderr)
        return 2
    url = "http://" + address
    match verb:
        case ["list"]:
            options.append("--list-services")
        case ["list", _]:
            options.append("--list-methods")
        case ["describe", *symbol]:
            return describe(url, symbol)
        case [method]:
            if RECEIVER_IN_DOCUMENTS in data:
                data = data.replace(RECEIVER_IN_DOCUMENTS, address_of("receiver"))
            data = MASK.sub(buf_mask, data)
            options += ["--data", data]
            url += "/" + urllib.parse.quote(method)
        case _:
            print("which method?", file=sys.stderr)
            return 2
    return buf_curl(*options, url)


def curl(arguments):
    """Makes the same request to the gateway. An error of the gateway fails, too."""
    for name, there in (("gateway", GATEWAY_IN_DOCUMENTS), ("receiver", RECEIVER_IN_DOCUMENTS)):
        if any(there in argument for argument in arguments):
            arguments = [argument.replace(there, address_of(name)) for argument in arguments]
    program = shutil.which("curl", path=os.environ["PATH_OF_PROGRAMS"])
    return subprocess.run([program, "--silent", "--show-error", "--fail-with-body", *arguments]).returncode


def buf_mask(mask):
    """The field mask as buf takes it."""
    camel_case = (re.sub("_(.)", lambda match: match[1].upper(), path) for path in json.loads(mask[2]))
    return mask[1] + json.dumps(",".join(camel_case))


def describe(url, symbol):
    """Asks reflection for the symbols; buf has no verb for it."""
    for name in symbol:
        request = ["--data", json.dumps({"fileContainingSymbol": name.lstrip(".")})]
        method = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        response = buf_curl(*request, url + method, capture=True)
        if response.returncode != 0 or "fileDescriptorResponse" not in json.loads(response.stdout):
            print(f"reflection does not know {name}: {response.stdout}{response.stderr}", file=sys.stderr)
            return 1
    return 0 if symbol else buf_curl("--list-services", url)


def buf_curl(*arguments, capture=False):
    command = [os.environ["BUF"], "curl", "--protocol", "grpc", "--http2-prior-knowledge", *arguments]
    environment = os.environ | {"PATH": os.environ["PATH_OF_PROGRAMS"]}
    ended = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=capture, text=True)
    return ended if capture else ended.returncode


def tidings(arguments):
    """Runs the program. Those that run until a signal go on in the background. Returns the exit code."""
    binary = os.environ["GATEWAY_BINARY"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")}
    arguments = [any_port(argument) for argument in arguments]
    match arguments:
        case ["serve", *_]:
            stop("gateway")
            start("gateway", [binary, *arguments], listening, environment | ANY_PORTS)
            # The copy of the key that its operator keeps.
            if Path("tidings-data/secrets.key").exists():
                shutil.copy("tidings-data/secrets.key", "secrets.key")
            return 0
        case ["dev", *_]:
            stop("gateway")
            ports = ("--grpc-listen", "--http-listen", "--console-listen", "--listen")
            command = [binary, *arguments, *(part for port in ports for part in (port, "127.0.0.1:0"))]
            start("receiver", command, lambda text: find_address(r"^receiver +http://([^/ ]+)/", text), environment)
            output = (Path(os.environ["STATE"]) / "receiver.txt").read_text()
            # It is one program with the receiver.
            gateway = {"pid": None, "address": find_address(r"^gateway +http://(\S+)", output)}
            (Path(os.environ["STATE"]) / "gateway.json").write_text(json.dumps(gateway))
            return 0
        case ["receive", *options]:
            if "--listen" not in options:
                arguments += ["--listen", "127.0.0.1:0"]
            if "--subscribe" in options:
                arguments += ["--address", "http://" + address_of("gateway")]
            # Beside the one of `tidings dev`.
            has_own = (gateway := state("gateway")) is not None and gateway["pid"] is None
            return start("watcher" if has_own else "receiver", [binary, *arguments], received_at, environment)
        case ["deliveries", "tail", *_]:
            return until_a_signal([binary, *arguments, "--address", "http://" + address_of("gateway")], environment)
        case [command, *_] if command in CALLERS:
            arguments += ["--address", "http://" + address_of("gateway")]
        case [command, *_] if command in ALONE:
            stop("gateway")
    return subprocess.run([binary, *arguments], env=environment, timeout=RUN_TIMEOUT_S).returncode


def until_a_signal(command, environment):
    """Runs a command that a person ends, and ends it. Returns 0 if it was still running."""
    process = subprocess.Popen(command, env=environment)
    try:
        return process.wait(1) or 1
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        return 0 if process.wait(END_TIMEOUT_S) in (0, 130) else 1


def any_port(argument):
    """An address to listen on, with any free port in place of its own."""
    return re.sub(r"^(\d+\.\d+\.\d+\.\d+):\d+$", r"\1:0", argument)


def listening(log):
    """The gRPC address in the log of a gateway."""
    for line in log.splitlines():
        if line.startswith("{") and (address := json.loads(line).get("grpc.listen")):
            return address.replace("0.0.0.0:", "127.0.0.1:")
    return None


def received_at(output):
    """The address of a receiver, once it has subscribed, if it does."""
    return find_address(r"^listening on http://(\S+)$", output)


def find_address(pattern, text):
    found = re.search(pattern, text, re.MULTILINE)
    return found and found[1]


def ssh(arguments):
    """There is no such host: looks at the form of the command."""
    return 0 if re.fullmatch(r"-L \d+:127\.0\.0\.1:\d+ \S+\.example\.com", " ".join(arguments)) else 1


def cargo(arguments):
    """Runs the program; other commands must be among those that .ci/run runs."""
    match arguments:
        case ["run", "--release", "--", *of_tidings]:
            return tidings(of_tidings)
        case ["install", "--path", "."]:
            # What it would install is under test.
            return 0
    command = " ".join(["cargo", *arguments])
    return stands_in(ROOT / ".ci/run", rf"\b{re.escape(command)}$", command)


def just(arguments):
    """Looks for the recipe."""
    return stands_in(ROOT / "justfile", rf"^{re.escape(arguments[0])}\b.*:", "just " + arguments[0])


def stands_in(path, pattern, command):
    if re.search(pattern, path.read_text(), re.MULTILINE):
        return 0
    print(f"{path} does not have {command}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in STAND_INS:
        print("$", *sys.argv[1:], flush=True)
        sys.exit(globals()[sys.argv[1]](sys.argv[2:]))
    main(*sys.argv[1:])
