//! Every reason of an error: the `reason` of `google.rpc.ErrorInfo` in gRPC, and of the JSON that webhook ingress
//! responds with. The only list of them; docs/errors.md shows it.

/// A reason.
#[derive(Clone, Copy, Debug)]
pub struct Reason {
    /// The stable word.
    pub name: &'static str,
    /// The gRPC code, or the HTTP status of webhook ingress, or both.
    pub codes: &'static str,
    /// What happened.
    pub meaning: &'static str,
    /// What the caller can do.
    pub remedy: &'static str,
}

const fn row(name: &'static str, codes: &'static str, meaning: &'static str, remedy: &'static str) -> Reason {
    Reason { name, codes, meaning, remedy }
}

/// Every reason.
pub const REASONS: &[Reason] = &[
    row(
        "FIELD_REQUIRED",
        "INVALID_ARGUMENT",
        "A required field is not set.",
        "Set it. `BadRequest` names every such field.",
    ),
    row(
        "FIELD_INVALID",
        "INVALID_ARGUMENT; 422",
        "A field breaks a rule, or a message is nested too deeply.",
        "Correct it. `BadRequest`, or `faults` of webhook ingress, names every field and its rule.",
    ),
    row(
        "ACCOUNT_MISMATCH",
        "INVALID_ARGUMENT",
        "Two fields name different accounts.",
        "Name the same account: that of the parent, and that in the event.",
    ),
    row(
        "PAGE_TOKEN_INVALID",
        "INVALID_ARGUMENT",
        "The page token is not one of this list with these parameters.",
        "Begin with the first page; change nothing but `page_size` and `page_token` between pages.",
    ),
    row(
        "MESSAGE_TOO_LARGE",
        "INVALID_ARGUMENT",
        "The message has more than 4 MiB, before or after decompression, or more than 100,000 parts, or as JSON 200,000 \
         values. Metadata: `limit`, `max`; of a stream `message_index`.",
        "Send less in one message: fewer events in a batch, shorter texts.",
    ),
    row(
        "HEADER_INVALID",
        "INVALID_ARGUMENT",
        "A header of the Connect protocol has no valid value.",
        "Correct it: the message names it.",
    ),
    row(
        "REQUESTS_STREAM",
        "UNIMPLEMENTED",
        "The requests of the method are a stream, and the call came over the Connect protocol.",
        "Use gRPC for it, or BatchPublishEvents.",
    ),
    row(
        "MESSAGE_MALFORMED",
        "INVALID_ARGUMENT",
        "The bytes are no message of this method.",
        "Generate the client from the contract; look for what changes bytes in between.",
    ),
    row(
        "ENCODING_UNKNOWN",
        "UNIMPLEMENTED",
        "The message is compressed in a way that the server does not know.",
        "Compress with gzip or zstd, or not at all.",
    ),
    row(
        "METHOD_UNKNOWN",
        "UNIMPLEMENTED",
        "The service or the method does not exist.",
        "Take one that the message names.",
    ),
    row(
        "SUBSCRIPTION_NOT_FOUND",
        "NOT_FOUND",
        "The subscription does not exist.",
        "Look at its name; ListSubscriptions has all.",
    ),
    row(
        "NOTICE_SINK_NOT_FOUND",
        "NOT_FOUND",
        "The sink of notices does not exist.",
        "Look at its name; ListNoticeSinks has all.",
    ),
    row(
        "EVENT_NOT_FOUND",
        "NOT_FOUND",
        "The event does not exist, or retention has removed it.",
        "Look at its name; ListEvents has all that are kept.",
    ),
    row(
        "DELIVERY_NOT_FOUND",
        "NOT_FOUND",
        "The subscription has no delivery of this event, or retention has removed it.",
        "Look at its name; ListDeliveries has all that are kept.",
    ),
    row(
        "ACCESS_TOKEN_NOT_FOUND",
        "NOT_FOUND",
        "The access token does not exist.",
        "Look at its name; ListAccessTokens has all.",
    ),
    row(
        "SUBSCRIPTION_EXISTS",
        "ALREADY_EXISTS",
        "Another subscription of the account has this id, or this URL. `ResourceInfo` names it.",
        "Change that one, or choose another id or URL.",
    ),
    row(
        "NOTICE_SINK_EXISTS",
        "ALREADY_EXISTS",
        "Another sink of notices has this id. `ResourceInfo` names it.",
        "Change that one, or choose another id.",
    ),
    row(
        "EVENT_EXISTS",
        "ALREADY_EXISTS; 409",
        "Another event with this id is stored, with other content.",
        "Give every event an id of its own.",
    ),
    row(
        "REQUEST_ID_REUSED",
        "ALREADY_EXISTS",
        "The request id was used for another request within 24 hours.",
        "Make a new UUID for every request; repeat one only with the same request.",
    ),
    row(
        "TOKEN_MISSING",
        "UNAUTHENTICATED",
        "The call has no access token, and no client certificate that stands for one.",
        "Send `authorization: Bearer` and the token.",
    ),
    row(
        "TOKEN_INVALID",
        "UNAUTHENTICATED",
        "There is no such access token.",
        "Send a token as CreateAccessToken returned it.",
    ),
    row("TOKEN_EXPIRED", "UNAUTHENTICATED", "The access token has expired.", "Create another one."),
    row("TOKEN_REVOKED", "UNAUTHENTICATED", "The access token was revoked.", "Create another one."),
    row(
        "TOKEN_ENDED",
        "UNAUTHENTICATED",
        "The access token ended while the call was running.",
        "Call again with another one.",
    ),
    row(
        "SCOPE_DENIED",
        "PERMISSION_DENIED",
        "The access token does not have the scope that the method needs.",
        "Use a token with the scope that the message names.",
    ),
    row(
        "ACCOUNT_DENIED",
        "PERMISSION_DENIED",
        "The access token does not have this account.",
        "Use a token for the account; `accounts/-` needs one for all accounts.",
    ),
    row(
        "ETAG_MISMATCH",
        "ABORTED",
        "The subscription has changed since you read it.",
        "Read it again, and repeat the change.",
    ),
    row(
        "UNDELIVERED_EVENTS",
        "FAILED_PRECONDITION",
        "The subscription has unfinished deliveries. Metadata: `count`.",
        "Wait until they are made, or set `force` to delete them with it.",
    ),
    row(
        "DELIVERY_OVER",
        "FAILED_PRECONDITION",
        "The delivery succeeded and cannot be retried, or succeeded or failed and cannot be cancelled.",
        "Nothing. ReplayDeliveries queues delivered events again.",
    ),
    row(
        "ROTATIONS_OVERLAP",
        "FAILED_PRECONDITION",
        "Three older secrets or schemes still sign.",
        "Wait until the first of them ends, or rotate with an `overlap` of `0s`.",
    ),
    row(
        "FIRST_TOKEN_NOT_ADMIN",
        "FAILED_PRECONDITION",
        "The first access token must be able to create others.",
        "Create one with the scope admin for all accounts first.",
    ),
    row("BACKUP_RUNNING", "FAILED_PRECONDITION", "Another backup is running.", "Wait until it has ended."),
    row(
        "BACKUP_TOO_SLOW",
        "FAILED_PRECONDITION",
        "The backup was not read within 12 hours, and was ended.",
        "Read it faster: nearer to the gateway, to a faster disk.",
    ),
    row(
        "NOTHING_TO_BACK_UP",
        "FAILED_PRECONDITION",
        "The store is in memory only, as in tests.",
        "Use a gateway with a data directory.",
    ),
    row(
        "SUBSCRIPTION_LIMIT",
        "RESOURCE_EXHAUSTED",
        "The account has reached its number of subscriptions, or its share of their bytes. Metadata: `limit`, `max`, for \
         bytes `share`.",
        "Delete some, or have the operator raise the limit.",
    ),
    row(
        "NOTICE_SINK_LIMIT",
        "RESOURCE_EXHAUSTED",
        "The account has 10 sinks of notices, or there are 10 for all accounts. Metadata: `max`.",
        "Delete one, or let one sink receive more kinds of notices.",
    ),
    row(
        "TOKEN_LIMIT",
        "RESOURCE_EXHAUSTED",
        "The gateway has reached its number of access tokens, or the administrator its share of them. Metadata: `limit`, \
         `max`, `share`.",
        "Revoke tokens that nobody needs, or have the operator raise the limit.",
    ),
    row(
        "RATE_LIMITED",
        "RESOURCE_EXHAUSTED; 429",
        "This address made too many calls without a valid token, or too many of health and reflection, or sent too many \
         webhooks with an unknown path or a wrong signature.",
        "Correct the token, path or secret, and wait as `RetryInfo` or `Retry-After` says.",
    ),
    row(
        "OVERLOADED",
        "RESOURCE_EXHAUSTED; 429",
        "Too many calls or events are in progress, or the gateway has too few file descriptors. Metadata: `limit`, `max`.",
        "Wait as `RetryInfo` or `Retry-After` says, and repeat with the same `event_id`.",
    ),
    row(
        "BACKLOG_FULL",
        "RESOURCE_EXHAUSTED; 429",
        "The backlog of one matching subscription is full, or the account has its share of the backlog. The event is \
         refused for all subscriptions. Metadata: `owed`, `share`, `limit`, `max`.",
        "Repair, pause or delete the endpoint that is behind, and wait as `RetryInfo` says.",
    ),
    row(
        "STORE_FULL",
        "RESOURCE_EXHAUSTED; 429",
        "The account has its share of the store in unfinished deliveries. Metadata: `owed_bytes`, `share`, `limit`, `max`.",
        "As with BACKLOG_FULL; or have the operator give the store more room.",
    ),
    row(
        "DISK_FULL",
        "RESOURCE_EXHAUSTED; 503",
        "The disk has no free space. Deliveries continue.",
        "Wait as `RetryInfo` says; the operator makes room.",
    ),
    row(
        "DEADLINE_EXCEEDED",
        "DEADLINE_EXCEEDED; 503",
        "The call was not done in time, or its message did not arrive in time. A write may still take effect.",
        "Repeat with the same `event_id` or `request_id`.",
    ),
    row(
        "SHUTTING_DOWN",
        "UNAVAILABLE; 503",
        "The gateway is stopping.",
        "Wait as `RetryInfo` says, and repeat with the same `event_id`.",
    ),
    row(
        "STORAGE_FAILED",
        "UNAVAILABLE; 503",
        "The gateway's disk failed. A write may have taken effect.",
        "The operator reads the log. Repeat later with the same `event_id`.",
    ),
    row(
        "RECORD_DAMAGED",
        "DATA_LOSS; 500",
        "The disk has lost the event that the call names.",
        "Nothing. The operator reads [damaged records](delivery.md#damaged-records).",
    ),
    row("INTERNAL", "INTERNAL; 500", "A bug of the gateway.", "The operator reads the log, and reports it."),
    row(
        "NOT_FOUND",
        "404",
        "No source has this path.",
        "POST to `/chatwoot/` and the path of the source, as its file has it.",
    ),
    row("METHOD_NOT_ALLOWED", "405", "The request is not a POST.", "POST, as Chatwoot does."),
    row(
        "SIGNATURE_INVALID",
        "401",
        "The signature is missing, wrong or too old.",
        "Give the source the secret that Chatwoot signs with, and correct the clocks.",
    ),
    row(
        "DELIVERY_INVALID",
        "400",
        "The header `X-Chatwoot-Delivery` is too long, or has other characters than A-Z a-z 0-9 . _ ~ -.",
        "Send a UUID, as Chatwoot does, or leave the header out.",
    ),
    row(
        "LOOP_DETECTED",
        "508",
        "The event has come through too many gateways, by the header `CDN-Loop`.",
        "Delete the subscription that sends the events of a gateway back to it.",
    ),
    row("BODY_TOO_LARGE", "413", "The body is larger than `ingest_body_bytes_max`.", "Raise the setting."),
    row("BODY_TOO_SLOW", "408", "The body did not arrive in time.", "Look at the network in between."),
    row("BODY_BROKEN", "400", "The connection ended before the body was whole.", "Send it again."),
];

/// Whether a reason is in the list.
pub fn is_listed(name: &str) -> bool {
    REASONS.iter().any(|reason| reason.name == name)
}
