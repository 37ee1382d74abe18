"""A client certificate and no token: tries to read, to subscribe, and to make itself an administrator.

CERT_DIR has ca.pem, client.pem and client.key (README.md).
"""

import os
from pathlib import Path

import grpc

from hostile import ADDRESS, Caller, Scope, reason, subscriptions, tokens

files = Path(os.environ["CERT_DIR"])
ca, key, certificate = [(files / name).read_bytes() for name in ("ca.pem", "client.key", "client.pem")]
credentials = grpc.ssl_channel_credentials(ca, key, certificate)
port = ADDRESS.rsplit(":", 1)[1]
attacker = Caller(None, grpc.secure_channel(f"localhost:{port}", credentials))
admin = tokens.AccessToken(scopes=[Scope.SCOPE_ADMIN])
for method, request in [
    (attacker.subscriptions.ListSubscriptions, subscriptions.ListSubscriptionsRequest(parent="accounts/-")),
    (attacker.tokens.ListAccessTokens, tokens.ListAccessTokensRequest()),
    (attacker.tokens.CreateAccessToken, tokens.CreateAccessTokenRequest(access_token=admin)),
]:
    try:
        attacker(method, request)
        print("done:", type(request).__name__)
    except grpc.RpcError as error:
        print(f"refused with {reason(error)}:", type(request).__name__)
