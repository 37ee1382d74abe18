"""Runs the commands in documents as they stand, against a gateway and a receiver.

    documents.py DOCUMENT...

The documents are one story: they share the gateway, the receiver and the directory, in the order given. The shell itself
reads each block of sh, so quotes, variables and heredocs mean the same as to a reader. This file also stands in for the
programs that the blocks call: grpcurl, curl, tidings, cargo and just. A block of text right after one of sh is its output.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.parse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
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
STAND_INS = ("grpcurl", "curl", "tidings", "cargo", "just")
PROGRAMS = ("base64", "cat", "cp", "mv", "openssl", "tee")


def main(*documents):
    from receiver import Receiver

    receiver = Receiver()
    with tempfile.TemporaryDirectory() as commands, tempfile.TemporaryDirectory() as directory:
        for name in STAND_INS:
            stand_in = Path(commands) / name
            stand_in.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" {name} "$@"\n')
            stand_in.chmod(0o755)
        for name in PROGRAMS:
            (Path(commands) / name).symlink_to(shutil.which(name))
        write_hooks(Path(directory) / "hooks.jsonl")
        # The copy of the key that its operator has kept.
        shutil.copy(os.environ["KEY_FILE"], Path(directory) / "secrets.key")
        environment = os.environ | {
            "PATH": commands,
            "PATH_OF_PROGRAMS": os.environ["PATH"],
            "RECEIVER": receiver.address,
        }
        for document in documents:
            blocks = BLOCK.findall((ROOT / document).read_text())
            if not blocks:
                raise SystemExit(f"{document} has no block of sh")
            for script, output in blocks:
                run(script, output, environment, directory)
    arrival = receiver.next()
    print(f"The receiver got {json.loads(arrival.body)['event']}.")
    receiver.close()


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
    if "authorization: Bearer" in script:
        (Path(directory) / "admin.token").write_text(os.environ["ADMIN_TOKEN"] + "\n")
        environment = environment | {"GATEWAY": os.environ["GUARDED_GATEWAY"]}
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
    if address not in (GATEWAY_IN_DOCUMENTS, os.environ["GATEWAY"]):
        print(f"{address} is not the gateway's address", file=sys.stderr)
        return 2
    url = "http://" + os.environ["GATEWAY"]
    match verb:
        case ["list"]:
            options.append("--list-services")
        case ["list", _]:
            options.append("--list-methods")
        case ["describe", *symbol]:
            return describe(url, symbol)
        case [method]:
            data = MASK.sub(buf_mask, data.replace(RECEIVER_IN_DOCUMENTS, os.environ["RECEIVER"]))
            options += ["--data", data]
            url += "/" + urllib.parse.quote(method)
        case _:
            print("which method?", file=sys.stderr)
            return 2
    return buf_curl(*options, url)


def curl(arguments):
    """Makes the same request to the gateway. An error of the gateway fails, too."""
    there = {GATEWAY_IN_DOCUMENTS: os.environ["GATEWAY"], RECEIVER_IN_DOCUMENTS: os.environ["RECEIVER"]}
    for address, actual in there.items():
        arguments = [argument.replace(address, actual) for argument in arguments]
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
    """Runs the program. Commands that run until a signal get it once they listen. Returns the exit code."""
    binary = os.environ["GATEWAY_BINARY"]
    arguments = [any_port(argument) for argument in arguments]
    match arguments:
        case ["serve", *options]:
            sys.path.append(str(ROOT / "tests/clients"))
            from run import Gateway

            return Gateway(binary, options).end()
        case ["receive", *_]:
            return until_it_listens([binary, *arguments])
        case ["import" | "backup", *_]:
            arguments += ["--address", "http://" + os.environ["GATEWAY"]]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")}
    return subprocess.run([binary, *arguments], env=environment, timeout=RUN_TIMEOUT_S).returncode


def any_port(argument):
    """An address to listen on, with any free port in place of its own."""
    return re.sub(r"^(\d+\.\d+\.\d+\.\d+):\d+$", r"\1:0", argument)


def until_it_listens(command):
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    listens = process.stdout.readline().startswith("listening on ")
    process.send_signal(signal.SIGTERM)
    ended = process.wait(END_TIMEOUT_S)
    process.stdout.close()
    return ended if listens else 1


def cargo(arguments):
    """Runs the program; other commands must be among those that .ci/run runs."""
    match arguments:
        case ["run", "--release", "--", *of_tidings]:
            return tidings(of_tidings)
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
