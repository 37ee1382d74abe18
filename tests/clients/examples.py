#!/usr/bin/env python3
"""Builds and runs the examples against a gateway with TLS and tokens, and checks what each prints.

    tests/clients/examples.py BINARY DIRECTORY [NAME...]

DIRECTORY is what tests/clients/install was given; what is built goes below DIRECTORY/examples. The commands are those of
examples/README.md. Without a NAME it runs all of them.
"""

import functools
import glob
import hashlib
import http.server
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import typing
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
ADMIN_TOKEN = "0123456789abcdef0123456789abcdef"
BUILD_TIMEOUT_S = 600
RUN_TIMEOUT_S = 120
# The beginnings of the names of the contract's files that the examples need. Java and C++ take long to compile the others.
CONTRACT = ("chatwoot", "delivery", "event", "subscription")
# Directories in an example that a build makes.
BUILT = {"gen", "node_modules", "target"}
JAVA = "/usr/share/java"
# Debian's netty takes the ALPN that gRPC needs from OpenSSL alone, by netty-tcnative, whose library it seeks under TCNATIVE's name.
TCNATIVE = "libnetty_tcnative.so"
JARS = [f"grpc-{part}" for part in ("api", "context", "core", "netty", "protobuf", "protobuf-lite", "stub")]
JARS += [f"netty-{part}" for part in ("buffer", "codec", "codec-http", "codec-http2", "codec-socks", "common", "handler", "handler-proxy")]
JARS += [f"netty-{part}" for part in ("resolver", "tcnative", "transport", "transport-native-epoll", "transport-native-unix-common")]
JARS += ["protobuf", "protobuf-util", "guava", "failureaccess", "gson", "proto-google-common-protos", "perfmark-api", "opencensus-api"]
JARS += ["geronimo-annotation-1.3-spec"]
# The Ruby library has no way to see that a watch has begun.
WITHOUT_BEGUN = {"ruby"}


class Receiver(http.server.BaseHTTPRequestHandler):
    """Accepts every webhook."""

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def serve(handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def run(command, where, environment, timeout):
    """Runs a command to its end; its output. Leaves no process of it behind."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command, cwd=where, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(timeout)
        except BaseException as ended:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(ended, subprocess.TimeoutExpired):
                raise
            code = f"not over after {timeout} s"
        output.seek(0)
        text = output.read()
    if code != 0:
        raise AssertionError(f"{' '.join(map(str, command))}: {code}\n{text}")
    return text


def certificate(directory):
    """An authority, ca.pem, and its certificate of localhost, cert.pem."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    make = ["openssl", "req", "-x509", *key, "-days", "2"]
    authority = ["-subj", "/CN=Authority of the examples", "-keyout", "ca-key.pem", "-out", "ca.pem"]
    leaf = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"]
    leaf += ["-CA", "ca.pem", "-CAkey", "ca-key.pem", "-keyout", "key.pem", "-out", "cert.pem"]
    for arguments in (authority, leaf):
        subprocess.run([*make, *arguments], cwd=directory, check=True, capture_output=True)


def create_token(directory, address):
    """A token that may publish and manage in account 1."""
    import grpc
    from tidings.v1 import access_token_service_pb2 as tokens, access_token_service_pb2_grpc

    tls = grpc.ssl_channel_credentials((directory / "ca.pem").read_bytes())
    scopes = [tokens.AccessToken.SCOPE_PUBLISH, tokens.AccessToken.SCOPE_MANAGE]
    with grpc.secure_channel(address, tls) as channel:
        request = tokens.CreateAccessTokenRequest(access_token={"scopes": scopes, "accounts": ["accounts/1"]})
        metadata = [("authorization", f"Bearer {ADMIN_TOKEN}")]
        return access_token_service_pb2_grpc.AccessTokenServiceStub(channel).CreateAccessToken(request, metadata=metadata, timeout=30).token


class Example(typing.NamedTuple):
    """How an example is built and run, in its directory. Generated code goes below `generated`."""

    builds: list
    run: list
    generated: Path
    settings: dict = {}


def examples(built, directory):
    """How each example is built and run."""
    paths = sorted(path for part in CONTRACT for path in (ROOT / "proto").glob(f"tidings/v1/{part}*.proto"))
    protos = ["-I", ROOT / "proto", *(str(path.relative_to(ROOT / "proto")) for path in paths)]
    # error_details.proto comes with PyPI's googleapis-common-protos; distributions have it elsewhere.
    (google,) = glob.glob(f"{directory}/venv/lib/python*/site-packages")
    python = directory / "venv/bin/python"
    gen = {name: built / name / "gen" for name in ("python", "go", "ruby", "cpp", "java", "php", "rust")}
    npm = {name: EXAMPLES / name / "node_modules" for name in ("node", "typescript-connect", "browser")}
    install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    jars = ":".join(f"{JAVA}/{name}.jar" for name in JARS)

    def protoc(name, *plugins, program=("protoc",)):
        return [*program, *(f"--{plugin}_out={gen[name]}" for plugin in plugins), *protos]

    grpc_plugin = "--plugin=protoc-gen-grpc=/usr/bin/grpc_{}_plugin"
    sources = f"$(find {gen['java']} -name '*.java') *.java"
    return {
        "python": Example(
            [protoc("python", "python", "grpc_python", program=(python, "-m", "grpc_tools.protoc"))],
            [python, "main.py"],
            gen["python"],
            {"PYTHONPATH": str(gen["python"]), "PYTHONDONTWRITEBYTECODE": "1"},
        ),
        "node": Example([install], ["node", "main.js"], npm["node"]),
        "typescript-connect": Example([install, ["npx", "buf", "generate"]], ["npx", "tsx", "main.ts"], npm["typescript-connect"]),
        "go": Example(
            [
                ["mkdir", f"{gen['go']}/src"],
                ["protoc", f"--go_out={gen['go']}/src", f"--go-grpc_out={gen['go']}/src", *protos],
                ["go", "build", "-o", gen["go"] / "example", "."],
            ],
            [gen["go"] / "example"],
            gen["go"],
            {"GO111MODULE": "off", "GOPATH": f"{gen['go']}:/usr/share/gocode", "GOCACHE": str(built / "go/cache")},
        ),
        "ruby": Example(
            [protoc("ruby", "ruby", "grpc", program=("grpc_tools_ruby_protoc",))], ["ruby", f"-I{gen['ruby']}", "main.rb"], gen["ruby"]
        ),
        "cpp": Example(
            [
                protoc("cpp", "cpp", "grpc", program=("protoc", grpc_plugin.format("cpp"))),
                ["protoc", f"--cpp_out={gen['cpp']}", "-I", google, "google/rpc/error_details.proto", "google/rpc/status.proto"],
                ["make", "--silent", "-j2", f"OUT={gen['cpp']}"],
            ],
            [gen["cpp"] / "example"],
            gen["cpp"],
        ),
        "java": Example(
            [
                protoc("java", "java", "grpc", program=("protoc", grpc_plugin.format("java"))),
                ["sh", "-c", f"cp /usr/lib/*/jni/libnetty-tcnative.so {gen['java']}/{TCNATIVE}"],
                ["sh", "-c", f"javac -J-XX:+UseSerialGC -proc:none -nowarn -d {gen['java']} -cp {jars} {sources}"],
            ],
            ["java", f"-Djava.library.path={gen['java']}", "-cp", f"{gen['java']}:{jars}", "Main"],
            gen["java"],
        ),
        "php": Example([], ["php", "main.php"], gen["php"]),
        "rust": Example([["cargo", "build", "--quiet"]], ["cargo", "run", "--quiet"], gen["rust"], {"CARGO_TARGET_DIR": str(built / "rust")}),
        "browser": Example(
            [install, ["npx", "buf", "generate"], ["npx", "esbuild", "main.ts", "--bundle", "--outfile=gen/main.js", "--log-level=warning"]],
            ["node", ROOT / "tests/clients/page.js"],
            npm["browser"],
        ),
    }


def inputs(name, example):
    """A digest of all that a build depends on: its commands, the contract, the example's files and the distribution."""
    files = (file for top in (ROOT / "proto", EXAMPLES / name) for file in top.rglob("*") if BUILT.isdisjoint(file.relative_to(top).parts))
    digest = hashlib.sha256(repr((example.builds, sorted(example.settings.items()))).encode())
    for file in [Path("/etc/debian_version"), *sorted(files)]:
        if file.is_file():
            digest.update(f"\0{file}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def build(name, example, environment):
    """Builds an example, unless it was built from the same files."""
    stamp, digest = example.generated / ".inputs", inputs(name, example)
    if stamp.exists() and stamp.read_text() == digest:
        return
    shutil.rmtree(example.generated, ignore_errors=True)
    example.generated.mkdir(parents=True)
    for command in example.builds:
        run(command, EXAMPLES / name, environment, BUILD_TIMEOUT_S)
    stamp.write_text(digest)


def check(name, output):
    lines = output.splitlines()
    expected = ["watch begun"] * (name not in WITHOUT_BEGUN) + ["published, duplicate: false", "published, duplicate: true"]
    refused = [line for line in lines if line.startswith("refused: event.message_created.message.id ")]
    if [line for line in lines if line in expected] != expected or len(refused) != 1 or lines[-1] != "delivered":
        raise AssertionError(f"it printed\n{output}")


def main(binary, directory, *names):
    from run import Gateway

    directory = Path(directory).resolve()
    built = directory / "examples"
    sys.path.insert(0, str(directory / "stubs"))
    receiver, pages = serve(Receiver), serve(functools.partial(Files, directory=EXAMPLES / "browser"))
    origin = f"http://127.0.0.1:{pages.server_port}"
    failed = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory() as data_dir, tempfile.TemporaryDirectory() as certificates:
        certificates = Path(certificates)
        certificate(certificates)
        arguments = ["--data-dir", data_dir, "--egress-allow", "127.0.0.0/8", "--cors-allow-origins", origin]
        arguments += ["--grpc-tls-cert-file", str(certificates / "cert.pem"), "--grpc-tls-key-file", str(certificates / "key.pem")]
        gateway = Gateway(binary, arguments, TIDINGS_ADMIN_TOKEN=ADMIN_TOKEN)
        try:
            address = "localhost:" + gateway.address.rpartition(":")[2]
            environment = os.environ | {
                "TIDINGS_ADDRESS": address,
                "TIDINGS_CA": str(certificates / "ca.pem"),
                "TIDINGS_TOKEN": create_token(certificates, address),
                "PAGE": origin,
            }
            for name, example in examples(built, directory).items():
                if names and name not in names:
                    continue
                print(f"-- {name}", end="", flush=True)
                begin = time.monotonic()
                # An account has one subscription of each URL.
                own = environment | example.settings | {"WEBHOOK_URL": f"http://127.0.0.1:{receiver.server_port}/{name}"}
                try:
                    build(name, example, own)
                    check(name, run(example.run, EXAMPLES / name, own, RUN_TIMEOUT_S))
                except AssertionError as failure:
                    print(f"\n{failure}", file=sys.stderr, flush=True)
                    failed.append(name)
                print(f": {time.monotonic() - begin:.0f} s", flush=True)
        finally:
            if (code := gateway.end()) != 0:
                failed.append(f"the gateway ({code})")
    if failed:
        raise SystemExit("failed: " + ", ".join(failed))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
