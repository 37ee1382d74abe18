//! Errors of the gRPC library itself, which come without a reason and partly with a code that blames the server: they
//! get those of the contract.

use http::Response;
use tonic::{Code, Status, body::Body};

use super::status::GrpcError;

/// What the library says of a message that it cannot take apart.
const OF_MALFORMED: [&str; 4] =
    ["protocol error", "Error decompressing", "Unexpected EOF", "Missing request message"];

/// Replaces the error in a response, if it is one of the library.
pub(in crate::grpc) fn explain_response(mut response: Response<Body>) -> Response<Body> {
    // An error before any message is in the headers.
    let found = Status::from_header_map(response.headers());
    if let Some(mut explained) = found.as_ref().and_then(explain).map(Status::from) {
        if let Some(status) = found {
            explained.metadata_mut().as_mut().extend(status.metadata().clone().into_headers());
        }
        response = explained.into_http();
    }
    response
}

/// The error in the words of the contract, if it is one of the library.
pub(in crate::grpc) fn explain(status: &Status) -> Option<GrpcError> {
    if !status.details().is_empty() {
        return None;
    }
    let message = status.message();
    match status.code() {
        Code::OutOfRange => Some(too_large(message)),
        Code::ResourceExhausted if message.starts_with("Error decompressing") => Some(too_large(message)),
        Code::Internal if OF_MALFORMED.iter().any(|start| message.starts_with(start)) => {
            Some(GrpcError::new(Code::InvalidArgument, "MESSAGE_MALFORMED", shortened(message)))
        }
        Code::Unimplemented => {
            Some(GrpcError::new(Code::Unimplemented, "ENCODING_UNKNOWN", shortened(message)))
        }
        _ => None,
    }
}

/// Past the bound on a message, in bytes.
pub(in crate::grpc) fn message_too_large(max: usize) -> GrpcError {
    too_large(&max.to_string())
}

/// Past the bound on a message. Its value is the last number of the library's text.
fn too_large(message: &str) -> GrpcError {
    let max =
        message.rsplit(|c: char| !c.is_ascii_digit()).find(|number| !number.is_empty()).unwrap_or_default();
    let text = format!(
        "the message has more than {max} bytes (grpc_message_bytes_max, before and after decompression): send less in one message"
    );
    GrpcError::new(Code::InvalidArgument, "MESSAGE_TOO_LARGE", text)
        .with_metadata("limit", "grpc_message_bytes_max")
        .with_metadata("max", max)
}

fn shortened(message: &str) -> String {
    message.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_library_get_a_reason_and_others_stay() {
        let too_large =
            "Error, decoded message length too large: found 5000000 bytes, the limit is: 4194304 bytes";
        let bomb = "Error decompressing: size limit, of 4194304 bytes, exceeded while decompressing message";
        for (status, reason) in [
            (Status::out_of_range(too_large), Some("MESSAGE_TOO_LARGE")),
            (Status::resource_exhausted(bomb), Some("MESSAGE_TOO_LARGE")),
            (Status::internal("Missing request message."), Some("MESSAGE_MALFORMED")),
            (Status::unimplemented("Content is compressed with `br`"), Some("ENCODING_UNKNOWN")),
            (Status::cancelled("gone"), None),
            (Status::internal("anything else"), None),
            (GrpcError::internal().into(), None),
        ] {
            let explained = explain(&status);
            assert_eq!(explained.as_ref().map(GrpcError::reason), reason, "{status:?}");
            if reason == Some("MESSAGE_TOO_LARGE") {
                let status = Status::from(explained.unwrap());
                assert!(status.message().contains("4194304") && status.message().len() <= 200);
            }
        }
    }
}
