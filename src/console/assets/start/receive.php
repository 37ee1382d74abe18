<?php
// php -S 127.0.0.1:9000 receive.php
$secret = getenv("TIDINGS_SIGNING_SECRET");
$body = file_get_contents("php://input");
$expected = "sha256=" . hash_hmac("sha256", $_SERVER["HTTP_X_CHATWOOT_TIMESTAMP"] . "." . $body, $secret);
$genuine = hash_equals($expected, $_SERVER["HTTP_X_CHATWOOT_SIGNATURE"] ?? "");
http_response_code($genuine ? 204 : 401);
error_log($_SERVER["HTTP_WEBHOOK_ID"] . ($genuine ? " genuine " : " forged ") . $body);
