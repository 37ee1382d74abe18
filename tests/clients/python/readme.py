"""Runs the lines with grpcurl in the README, or in another document, as they stand, against a gateway and a receiver.

    readme.py [DOCUMENT]

The shell itself reads them, so quotes, variables and heredocs mean what they mean to a reader. In place of grpcurl stands
this very file, which makes a call of `buf curl` of it; a field mask is the one thing that the two take differently.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.parse
from pathlib import Path

README = Path(__file__).resolve().parents[3] / "README.md"
# Where the README has the gateway and the receiver.
GATEWAY_OF_README = "127.0.0.1:50051"
RECEIVER_OF_README = "127.0.0.1:9000"
RUN_TIMEOUT_S = 120

# A field mask as grpcurl takes it: the message in place of the string that it has in JSON.
MASK = re.compile(r'("update_mask": *)\{"paths": *(\[[^]]*\])\}')
# As CreateAccessToken answers.
TOKEN = re.compile(r'"token": *"(tdg_[^"]+)"')
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def main(document=README):
    from receiver import Receiver

    blocks = [block for block in BLOCK.findall(Path(document).read_text()) if "grpcurl" in block]
    if not blocks:
        raise SystemExit(f"{document} has no block of sh with grpcurl")
    receiver = Receiver()
    with tempfile.TemporaryDirectory() as commands:
        # Nothing else is at hand: the README should need nothing else.
        grpcurl = Path(commands) / "grpcurl"
        grpcurl.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" grpcurl "$@"\n')
        grpcurl.chmod(0o755)
        cat = Path(commands) / "cat"
        cat.symlink_to("/bin/cat")
        environment = os.environ | {"PATH": commands, "PATH_OF_BUF": os.environ["PATH"], "RECEIVER": receiver.address}
        run(["\n".join(block for block in blocks if not needs_token(block))], environment)
        # Where the README has the administrator's token.
        (Path(commands) / "admin.token").write_text(os.environ["ADMIN_TOKEN"] + "\n")
        environment["GATEWAY"] = os.environ["GUARDED_GATEWAY"]
        run([block for block in blocks if needs_token(block)], environment, commands)
    arrival = receiver.next()
    print(f"The receiver got {json.loads(arrival.body)['event']}.")
    receiver.close()


def needs_token(block):
    """Whether its calls are for a gateway that asks for tokens."""
    return "authorization: Bearer" in block


def run(scripts, environment, where=None):
    """Runs one after another. An access token that one of them is answered is $TOKEN to the next."""
    for script in scripts:
        ended = subprocess.run(
            ["/bin/bash", "-c", "set -eu\n" + script],
            env=environment,
            cwd=where,
            timeout=RUN_TIMEOUT_S,
            stdout=subprocess.PIPE,
            text=True,
        )
        print(ended.stdout, end="", flush=True)
        if ended.returncode != 0:
            raise SystemExit("a line of the document did not do what it says")
        if answered := TOKEN.search(ended.stdout):
            environment["TOKEN"] = answered[1]


def grpcurl(arguments):
    """Does what grpcurl would do with these arguments. Returns the exit code."""
    print("$ grpcurl", *arguments, flush=True)
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
                print(f"what {argument} is to buf curl has to be said in {__file__}", file=sys.stderr)
                return 2
            case _:
                positional.append(argument)
    address, *verb = positional
    if address != GATEWAY_OF_README:
        print(f"{address} is not where the gateway is by default", file=sys.stderr)
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
            data = MASK.sub(buf_mask, data.replace(RECEIVER_OF_README, os.environ["RECEIVER"]))
            options += ["--data", data]
            url += "/" + urllib.parse.quote(method)
        case _:
            print("which method?", file=sys.stderr)
            return 2
    return buf_curl(*options, url)


def buf_mask(mask):
    """The field mask as buf takes it."""
    camel_case = (re.sub("_(.)", lambda match: match[1].upper(), path) for path in json.loads(mask[2]))
    return mask[1] + json.dumps(",".join(camel_case))


def describe(url, symbol):
    """Asks reflection for the symbols; buf has no verb for it."""
    for name in symbol:
        asked = ["--data", json.dumps({"fileContainingSymbol": name.lstrip(".")})]
        answer = buf_curl(*asked, url + "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", capture=True)
        if answer.returncode != 0 or "fileDescriptorResponse" not in json.loads(answer.stdout):
            print(f"reflection does not know {name}: {answer.stdout}{answer.stderr}", file=sys.stderr)
            return 1
    return 0 if symbol else buf_curl("--list-services", url)


def buf_curl(*arguments, capture=False):
    command = [os.environ["BUF"], "curl", "--protocol", "grpc", "--http2-prior-knowledge", *arguments]
    environment = os.environ | {"PATH": os.environ["PATH_OF_BUF"]}
    ended = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=capture, text=True)
    return ended if capture else ended.returncode


if __name__ == "__main__":
    sys.exit(grpcurl(sys.argv[2:]) if sys.argv[1:2] == ["grpcurl"] else main(*sys.argv[1:]))
