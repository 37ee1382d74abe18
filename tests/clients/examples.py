#!/usr/bin/env python3
"""Builds and runs the examples against a gateway with TLS and tokens, and checks what each prints.

    tests/clients/examples.py BINARY DIRECTORY [NAME...]

DIRECTORY is what tests/clients/install was given; what is built goes below DIRECTORY/examples. The commands are those of
examples/README.md. Without a NAME it runs all of them.
"""

import functools
import glob
import http.server
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
ADMIN_TOKEN = "0123456789abcdef0123456789abcdef"
BUILD_TIMEOUT_S = 600
RUN_TIMEOUT_S = 120
JAVA = "/usr/share/java"
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


def commands(built, directory):
    """For each example the commands that build it, and the one that runs it."""
    protos = sorted(str(path.relative_to(ROOT / "proto")) for path in (ROOT / "proto/tidings/v1").glob("*.proto"))
    proto = ["-I", ROOT / "proto"]
    # error_details.proto comes with PyPI's googleapis-common-protos; distributions have it elsewhere.
    (google,) = glob.glob(str(directory / "venv/lib/python*/site-packages"))
    rpc = ["-I", google, "google/rpc/error_details.proto", "google/rpc/status.proto"]
    python = directory / "venv/bin/python"

    def out(name):
        (built / name).mkdir(parents=True, exist_ok=True)
        return built / name

    def npm(name, *more):
        return [["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"], *more], EXAMPLES / name

    classes, go = out("java/classes"), out("go/src/github.com/tidings-gateway/tidings/gen/go/tidings/v1")
    jars = ":".join(glob.glob(f"{JAVA}/grpc-*.jar") + glob.glob(f"{JAVA}/netty-*.jar") + [
        f"{JAVA}/{name}.jar" for name in ("protobuf", "protobuf-util", "guava", "proto-google-common-protos", "perfmark-api", "geronimo-annotation-1.3-spec", "opencensus-api", "gson", "failureaccess")
    ])
    pkg = "$(pkg-config --cflags --libs grpc++ protobuf)"
    cpp = out("cpp")
    return {
        "python": ([[python, "-m", "grpc_tools.protoc", *proto, f"--python_out={out('python')}", f"--grpc_python_out={out('python')}", *protos]],
                   [python, "main.py"], {"PYTHONPATH": str(out("python"))}),
        "node": ([["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"]], ["node", "main.js"], {}),
        "typescript-connect": ([["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"], ["npx", "buf", "generate"]], ["npx", "tsx", "main.ts"], {}),
        "go": ([["protoc", *proto, f"--go_out={built}/go/src", f"--go-grpc_out={built}/go/src", *protos],
                ["go", "build", "-o", f"{built}/go/example", "."]],
               [f"{built}/go/example"], {"GO111MODULE": "off", "GOPATH": f"{built}/go:/usr/share/gocode", "GOCACHE": f"{built}/go/cache"}),
        "ruby": ([["grpc_tools_ruby_protoc", *proto, f"--ruby_out={out('ruby')}", f"--grpc_out={out('ruby')}", *protos]],
                 ["ruby", f"-I{out('ruby')}", "main.rb"], {}),
        "cpp": ([["protoc", *proto, f"--cpp_out={cpp}", f"--grpc_out={cpp}", "--plugin=protoc-gen-grpc=/usr/bin/grpc_cpp_plugin", *protos],
                 ["protoc", f"--cpp_out={cpp}", *rpc],
                 ["make", "--silent", "-j2", f"OUT={cpp}"]],
                [f"{cpp}/example"], {}),
        "java": ([["protoc", *proto, f"--java_out={out('java/src')}", f"--grpc_out={out('java/src')}", "--plugin=protoc-gen-grpc=/usr/bin/grpc_java_plugin", *protos],
                  ["sh", "-c", f"javac -proc:none -nowarn -d {classes} -cp {jars} $(find {built}/java/src -name '*.java') *.java"]],
                 ["java", "-cp", f"{classes}:{jars}", "Main"], {}),
        "php": ([], ["php", "main.php"], {}),
        "rust": ([["cargo", "build", "--quiet"]], ["cargo", "run", "--quiet"], {"CARGO_TARGET_DIR": str(built / "rust")}),
        "browser": ([["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"], ["npx", "buf", "generate"],
                     ["npx", "esbuild", "main.ts", "--bundle", "--outfile=main.js", "--log-level=warning"]],
                    ["node", ROOT / "tests/clients/page.js"], {}),
    }


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
            for name, (builds, command, settings) in commands(built, directory).items():
                if names and name not in names:
                    continue
                print(f"-- {name}", flush=True)
                # An account has one subscription of each URL.
                own = environment | settings | {"WEBHOOK_URL": f"http://127.0.0.1:{receiver.server_port}/{name}"}
                try:
                    for build in builds:
                        run(build, EXAMPLES / name, own, BUILD_TIMEOUT_S)
                    check(name, run(command, EXAMPLES / name, own, RUN_TIMEOUT_S))
                except AssertionError as failure:
                    print(failure, file=sys.stderr, flush=True)
                    failed.append(name)
        finally:
            if (code := gateway.end()) != 0:
                failed.append(f"the gateway ({code})")
    if failed:
        raise SystemExit("failed: " + ", ".join(failed))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
