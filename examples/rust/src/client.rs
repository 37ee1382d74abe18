//! The generated client with its token, the repeated publish, and an event.
use std::{
    env,
    error::Error,
    fs,
    time::{Duration, SystemTime},
};

use tonic::{
    Request, Status,
    metadata::AsciiMetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig},
};
use tonic_types::StatusExt;
use v1::{event::Payload, event_service_client::EventServiceClient, *};

pub mod v1 {
    tonic::include_proto!("tidings.v1");
}

pub const PARENT: &str = "accounts/1";
/// A channel whose calls carry the token.
pub type Authorized = InterceptedService<Channel, Token>;

#[derive(Clone)]
pub struct Token(pub AsciiMetadataValue);

impl Interceptor for Token {
    fn call(&mut self, mut call: Request<()>) -> Result<Request<()>, Status> {
        call.metadata_mut().insert("authorization", self.0.clone());
        Ok(call)
    }
}

/// Publishes. Repeats the call, which its event_id makes safe, when the server says how long to wait.
pub async fn publish(
    events: &mut EventServiceClient<Authorized>,
    request: &PublishEventRequest,
) -> Result<PublishResult, Status> {
    for attempt in 1.. {
        match events.publish_event(request.clone()).await {
            Ok(response) => return response.into_inner().result.ok_or_else(|| Status::internal("no result")),
            Err(status) => match status.get_details_retry_info().and_then(|info| info.retry_delay) {
                Some(delay) if attempt < 5 => tokio::time::sleep(delay).await,
                _ => return Err(status),
            },
        }
    }
    unreachable!("the loop has no end")
}

pub fn publish_request(id: i64, event_id: &str) -> PublishEventRequest {
    let conversation =
        Conversation { id: 3, inbox_id: 1, account_id: 1, status: "open".into(), ..Default::default() };
    let sender = Sender {
        kind: Some(sender::Kind::Contact(Contact { id: 7, name: "Ann".into(), ..Default::default() })),
    };
    let mut message = Message {
        id,
        content: Some("Hello".into()),
        created_at: Some(SystemTime::now().into()),
        ..Default::default()
    };
    message.set_message_type(MessageType::Incoming);
    (message.sender, message.conversation, message.account) =
        (Some(sender), Some(conversation), Some(Account { id: 1, ..Default::default() }));
    let event = Event {
        payload: Some(Payload::MessageCreated(MessageCreated { message: Some(message) })),
        ..Default::default()
    };
    PublishEventRequest {
        parent: PARENT.into(),
        event_id: event_id.into(),
        event: Some(event),
        ..Default::default()
    }
}

/// Connects over TLS, with the token.
pub async fn connect() -> Result<Authorized, Box<dyn Error>> {
    let tls =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(fs::read(env::var("TIDINGS_CA")?)?));
    let endpoint = Channel::from_shared(format!("https://{}", env::var("TIDINGS_ADDRESS")?))?
        .timeout(Duration::from_secs(30))
        .tls_config(tls)?;
    let token: AsciiMetadataValue = format!("Bearer {}", env::var("TIDINGS_TOKEN")?).parse()?;
    Ok(InterceptedService::new(endpoint.connect().await?, Token(token)))
}

pub fn create_request(id: &str, url: String) -> CreateSubscriptionRequest {
    let subscription =
        Subscription { url, event_types: vec![EventType::MessageCreated.into()], ..Default::default() };
    CreateSubscriptionRequest {
        parent: PARENT.into(),
        subscription_id: id.into(),
        subscription: Some(subscription),
        ..Default::default()
    }
}
