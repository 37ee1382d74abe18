<?php
// Publishes an event to Tidings over TLS and watches its delivery: the Connect protocol with JSON over HTTP/1.1, no generated code.
const PARENT = 'accounts/1', NAME = PARENT . '/subscriptions/example-php';

/** An error of the server: its code, its message and its details. */
class CallError extends Exception {
    function __construct(public readonly array $error) { parent::__construct($error['code'] . ': ' . ($error['message'] ?? '')); }
    /** The detail of this type as JSON, or null. */
    function detail(string $type): ?array {
        foreach ($this->error['details'] ?? [] as $detail) if ($detail['type'] === $type) return $detail['debug'] ?? [];
        return null;
    }
}
function open(string $method, string $type, string $body) {
    $call = curl_init('https://' . getenv('TIDINGS_ADDRESS') . "/tidings.v1.$method");
    curl_setopt_array($call, [CURLOPT_CAINFO => getenv('TIDINGS_CA'), CURLOPT_POSTFIELDS => $body, CURLOPT_RETURNTRANSFER => true, CURLOPT_TIMEOUT => 30,
        CURLOPT_HTTPHEADER => ["content-type: $type", 'connect-protocol-version: 1', 'authorization: Bearer ' . getenv('TIDINGS_TOKEN')]]);
    return $call;
}
function call(string $method, array $request): array {
    $call = open($method, 'application/json', json_encode($request));
    if (($body = curl_exec($call)) === false) throw new Exception(curl_error($call));
    $response = json_decode($body, true, flags: JSON_THROW_ON_ERROR);
    return curl_getinfo($call, CURLINFO_RESPONSE_CODE) === 200 ? $response : throw new CallError($response);
}
/** Publishes. Repeats the call, which its eventId makes safe, when the server says how long to wait. */
function publish(array $request, int $attempts = 5): array {
    for ($attempt = 1; ; $attempt++) try { return call('EventService/PublishEvent', $request)['result']; } catch (CallError $error) {
        if (!($wait = $error->detail('google.rpc.RetryInfo')) || $attempt === $attempts) throw $error;
        usleep((int) (1e6 * (float) $wait['retryDelay'])); // "1.5s" is 1.5.
    }
}
function message(int $id): array {
    return ['messageCreated' => ['message' => ['id' => (string) $id, 'content' => 'Hello', 'messageType' => 'MESSAGE_TYPE_INCOMING', 'createdAt' => gmdate('Y-m-d\TH:i:s\Z'),
        'account' => ['id' => '1'], 'sender' => ['contact' => ['id' => '7', 'name' => 'Ann']], 'conversation' => ['id' => '3', 'inboxId' => '1', 'accountId' => '1', 'status' => 'open']]]];
}
try { call('SubscriptionService/CreateSubscription', ['parent' => PARENT, 'subscriptionId' => 'example-php', 'subscription' => ['url' => getenv('WEBHOOK_URL'), 'eventTypes' => ['EVENT_TYPE_MESSAGE_CREATED']]]); }
catch (CallError $error) { if ($error->error['code'] !== 'already_exists') throw $error; }
$request = ['parent' => PARENT, 'eventId' => 'php-' . bin2hex(random_bytes(8)), 'event' => message(42)];
// A stream: messages with five bytes before each, flags and length. CURLOPT_HEADERFUNCTION and CURLOPT_WRITEFUNCTION get it as it comes.
[$begun, $delivered, $stream, $query] = [false, false, '', json_encode(['parent' => NAME])];
$watch = open('DeliveryService/WatchDeliveries', 'application/connect+json', "\0" . pack('N', strlen($query)) . $query);
curl_setopt($watch, CURLOPT_HEADERFUNCTION, function ($_, $line) use (&$begun) { $begun = $begun || trim($line) === ''; return strlen($line); });
curl_setopt($watch, CURLOPT_WRITEFUNCTION, function ($_, $bytes) use (&$stream, &$delivered, $request) {
    for ($stream .= $bytes; strlen($stream) >= 5 && strlen($stream) >= 5 + ($length = unpack('N', $stream, 1)[1]); $stream = substr($stream, 5 + $length)) {
        $delivery = json_decode(substr($stream, 5, $length), true)['delivery'] ?? [];
        if (str_ends_with($delivery['name'] ?? '', "/{$request['eventId']}") && $delivery['state'] === 'STATE_SUCCEEDED') $delivered = true;
    }
    return strlen($bytes);
});
curl_multi_add_handle($streams = curl_multi_init(), $watch);
$until = function (bool &$happened) use ($streams) { do { curl_multi_exec($streams, $running); curl_multi_select($streams, 0.1); } while (!$happened && $running); $happened || exit("the watch ended\n"); };
$until($begun); // From now on no change is missed.
echo "watch begun\n";
for ($i = 0; $i < 2; $i++) echo 'published, duplicate: ', json_encode(publish($request)['duplicate'] ?? false), "\n";
try { publish(['parent' => PARENT, 'event' => message(0)]); }
catch (CallError $error) { foreach ($error->detail('google.rpc.BadRequest')['fieldViolations'] as $violation) echo "refused: {$violation['field']} {$violation['description']}\n"; }
$until($delivered);
echo "delivered\n";
