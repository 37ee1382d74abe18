//! A client of a gateway, in the words of the domain. Calls that should succeed end the test when they do
//! not.

use std::time::Duration;

use prost_types::FieldMask;
use tidings::proto::v1::{
    self, EventType, access_token_service_client::AccessTokenServiceClient,
    audit_service_client::AuditServiceClient, backup_service_client::BackupServiceClient, delivery::State,
    delivery_service_client::DeliveryServiceClient, event_service_client::EventServiceClient,
    notice_service_client::NoticeServiceClient, notice_sink::Kind,
    subscription_service_client::SubscriptionServiceClient,
};
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt, wrappers::UnboundedReceiverStream};
use tonic::{
    Code, Request, Status, Streaming,
    client::Grpc,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use super::{events::publish_request, eventually, in_time, secret_scan::Channel};

/// The most events that a batch may have.
const BATCH_EVENTS_MAX: usize = 1000;

/// A client of a gateway. Every response is scanned for secrets.
#[derive(Clone)]
pub struct Client {
    pub channel: Channel,
    pub subscriptions: SubscriptionServiceClient<Channel>,
    pub events: EventServiceClient<Channel>,
    pub deliveries: DeliveryServiceClient<Channel>,
    pub audit: AuditServiceClient<Channel>,
    pub tokens: AccessTokenServiceClient<Channel>,
    pub backups: BackupServiceClient<Channel>,
    pub notices: NoticeServiceClient<Channel>,
}

/// A subscription that was made.
#[derive(Clone, Debug)]
pub struct Subscribed {
    pub name: String,
    /// The secret that its POSTs are signed with.
    pub secret: String,
}

impl Subscribed {
    /// The name of the delivery of the event with this id to this subscription.
    pub fn delivery(&self, event_id: &str) -> String {
        format!("{}/deliveries/{event_id}", self.name)
    }
}

/// How many deliveries are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub pending: usize,
    pub retrying: usize,
    pub succeeded: usize,
    pub failed: usize,
    pub cancelled: usize,
}

impl Counts {
    /// Deliveries that are not over.
    pub fn owed(self) -> usize {
        self.pending + self.retrying
    }

    /// Deliveries in any state.
    pub fn all(self) -> usize {
        self.owed() + self.succeeded + self.failed + self.cancelled
    }
}

/// A subscription to every type of event.
pub fn subscription(url: impl Into<String>) -> v1::Subscription {
    v1::Subscription {
        url: url.into(),
        event_types: EventType::all().map(Into::into).collect(),
        ..Default::default()
    }
}

/// A policy of at most this many attempts.
pub fn attempts(max_attempts: i32) -> Option<v1::RetryPolicy> {
    Some(v1::RetryPolicy { max_attempts, ..Default::default() })
}

/// A policy of at most this many attempts and these waits between them.
pub fn retry_policy(
    max_attempts: i32,
    min_backoff: Duration,
    max_backoff: Duration,
) -> Option<v1::RetryPolicy> {
    let (min_backoff, max_backoff) = (duration(min_backoff), duration(max_backoff));
    Some(v1::RetryPolicy { max_attempts, min_backoff, max_backoff, ..Default::default() })
}

/// A duration of the protocol.
pub fn duration(duration: Duration) -> Option<prost_types::Duration> {
    Some(duration.try_into().unwrap())
}

/// A request to change the fields that are set in `change`, or those that these paths name if there are any.
pub fn update_request(change: v1::Subscription, paths: &[&str]) -> v1::UpdateSubscriptionRequest {
    let update_mask =
        (!paths.is_empty()).then(|| FieldMask { paths: paths.iter().map(ToString::to_string).collect() });
    v1::UpdateSubscriptionRequest { subscription: Some(change), update_mask, validate_only: false }
}

/// The last part of a name.
pub fn id_of(name: &str) -> &str {
    name.rsplit('/').next().unwrap()
}

/// All rows of a list: `call` makes one of its pages, and returns the rows and the token of the next page.
pub async fn all_pages<T>(mut call: impl AsyncFnMut(String) -> (Vec<T>, String)) -> Vec<T> {
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let (rows, next) = call(page_token).await;
        all.extend(rows);
        if next.is_empty() {
            return all;
        }
        page_token = next;
    }
}

impl Client {
    pub fn new(channel: Channel) -> Self {
        Self {
            subscriptions: SubscriptionServiceClient::new(channel.clone()),
            events: EventServiceClient::new(channel.clone()),
            deliveries: DeliveryServiceClient::new(channel.clone()),
            audit: AuditServiceClient::new(channel.clone()),
            tokens: AccessTokenServiceClient::new(channel.clone()),
            backups: BackupServiceClient::new(channel.clone()),
            notices: NoticeServiceClient::new(channel.clone()),
            channel,
        }
    }

    /// The same connection with an access token on every call.
    pub fn with_token(&self, token: &str) -> Self {
        self.with_authorization(&format!("Bearer {token}"))
    }

    /// The same connection with this metadata `authorization` on every call.
    pub fn with_authorization(&self, value: &str) -> Self {
        Self::new(self.channel.clone().with_authorization(value))
    }

    /// Adds a subscription to the account.
    pub async fn subscribe(&self, account: i64, subscription: v1::Subscription) -> Subscribed {
        self.try_subscribe(account, subscription).await.unwrap()
    }

    pub async fn try_subscribe(
        &self,
        account: i64,
        subscription: v1::Subscription,
    ) -> Result<Subscribed, Status> {
        let request = v1::CreateSubscriptionRequest {
            parent: format!("accounts/{account}"),
            subscription: Some(subscription),
            ..Default::default()
        };
        self.create(request).await
    }

    /// Makes a subscription.
    pub async fn create(&self, request: v1::CreateSubscriptionRequest) -> Result<Subscribed, Status> {
        let created = self.subscriptions.clone().create_subscription(request).await?.into_inner();
        Ok(Subscribed { name: created.subscription.unwrap().name, secret: created.signing_secret })
    }

    pub async fn subscription(&self, name: &str) -> v1::Subscription {
        let request = v1::GetSubscriptionRequest { name: name.into() };
        let got = self.subscriptions.clone().get_subscription(request).await.unwrap();
        got.into_inner().subscription.unwrap()
    }

    /// All subscriptions of an account, `accounts/1`, or of all, `accounts/-`.
    pub async fn all_subscriptions(&self, parent: &str) -> Vec<v1::Subscription> {
        all_pages(async |page_token| {
            let parent = parent.to_owned();
            let request =
                v1::ListSubscriptionsRequest { parent, page_size: 1000, page_token, ..Default::default() };
            let page = self.subscriptions.clone().list_subscriptions(request).await.unwrap().into_inner();
            (page.subscriptions, page.next_page_token)
        })
        .await
    }

    /// Waits until the subscription is in this state.
    pub async fn subscription_in(&self, name: &str, state: v1::subscription::State) -> v1::Subscription {
        eventually(
            &format!("{state:?}"),
            async || self.subscription(name).await,
            |seen| seen.state() == state,
        )
        .await
    }

    /// Changes the fields that are set in `change`, of the subscription with its name.
    pub async fn update(&self, change: v1::Subscription) -> v1::Subscription {
        self.try_update(change, &[]).await.unwrap()
    }

    /// Changes the fields that these paths name, or those that are set without paths.
    pub async fn try_update(
        &self,
        change: v1::Subscription,
        paths: &[&str],
    ) -> Result<v1::Subscription, Status> {
        let updated = self.subscriptions.clone().update_subscription(update_request(change, paths)).await?;
        Ok(updated.into_inner().subscription.unwrap())
    }

    pub async fn pause(&self, name: &str) -> v1::Subscription {
        self.try_pause(name).await.unwrap()
    }

    pub async fn try_pause(&self, name: &str) -> Result<v1::Subscription, Status> {
        let request = v1::PauseSubscriptionRequest { name: name.into() };
        let paused = self.subscriptions.clone().pause_subscription(request).await?;
        Ok(paused.into_inner().subscription.unwrap())
    }

    pub async fn resume(&self, name: &str) -> v1::Subscription {
        let request = v1::ResumeSubscriptionRequest { name: name.into() };
        let resumed = self.subscriptions.clone().resume_subscription(request).await.unwrap();
        resumed.into_inner().subscription.unwrap()
    }

    pub async fn delete(&self, name: &str, force: bool) -> Result<(), Status> {
        let request = v1::DeleteSubscriptionRequest { name: name.into(), force, ..Default::default() };
        self.subscriptions.clone().delete_subscription(request).await.map(drop)
    }

    /// Makes another signing secret; the older one signs as well for so long.
    pub async fn rotate(&self, name: &str, overlap: Duration) -> v1::RotateSigningSecretResponse {
        self.try_rotate(name, Some(overlap)).await.unwrap()
    }

    pub async fn try_rotate(
        &self,
        name: &str,
        overlap: Option<Duration>,
    ) -> Result<v1::RotateSigningSecretResponse, Status> {
        let request = v1::RotateSigningSecretRequest {
            name: name.into(),
            overlap: overlap.and_then(duration),
            ..Default::default()
        };
        Ok(in_time(self.subscriptions.clone().rotate_signing_secret(request)).await?.into_inner())
    }

    /// POSTs the made-up event of this type.
    pub async fn test(&self, name: &str, event_type: EventType) -> v1::TestSubscriptionResponse {
        self.try_test(name, event_type).await.unwrap()
    }

    pub async fn try_test(
        &self,
        name: &str,
        event_type: EventType,
    ) -> Result<v1::TestSubscriptionResponse, Status> {
        let request = v1::TestSubscriptionRequest { name: name.into(), event_type: event_type.into() };
        Ok(in_time(self.subscriptions.clone().test_subscription(request)).await?.into_inner())
    }

    /// Publishes an event under an id that the gateway makes.
    pub async fn publish(&self, account: i64, event: v1::Event) -> v1::PublishResult {
        self.publish_as(account, "", event).await
    }

    /// Publishes an event under this id.
    pub async fn publish_as(&self, account: i64, id: &str, event: v1::Event) -> v1::PublishResult {
        self.try_publish(publish_request(account, id, event)).await.unwrap()
    }

    pub async fn try_publish(&self, request: v1::PublishEventRequest) -> Result<v1::PublishResult, Status> {
        Ok(self.events.clone().publish_event(request).await?.into_inner().result.unwrap())
    }

    /// Publishes in batches as large as they may be.
    pub async fn publish_all(
        &self,
        requests: impl IntoIterator<Item = v1::PublishEventRequest>,
    ) -> Vec<v1::PublishResult> {
        let requests: Vec<_> = requests.into_iter().collect();
        let mut results = Vec::new();
        for batch in requests.chunks(BATCH_EVENTS_MAX) {
            results.extend(self.try_publish_batch(batch.to_vec()).await.unwrap());
        }
        results
    }

    pub async fn try_publish_batch(
        &self,
        requests: Vec<v1::PublishEventRequest>,
    ) -> Result<Vec<v1::PublishResult>, Status> {
        let batch = v1::BatchPublishEventsRequest { requests, ..Default::default() };
        Ok(self.events.clone().batch_publish_events(batch).await?.into_inner().results)
    }

    /// An open stream: messages go through the one, responses come through the other.
    pub async fn publish_stream(
        &self,
    ) -> (mpsc::UnboundedSender<v1::StreamPublishEventsRequest>, Streaming<v1::StreamPublishEventsResponse>)
    {
        let (sender, messages) = mpsc::unbounded_channel();
        let messages = UnboundedReceiverStream::new(messages);
        let responses = in_time(self.events.clone().stream_publish_events(messages)).await;
        (sender, responses.expect("the stream opens").into_inner())
    }

    /// Publishes as soon as the store has room again.
    pub async fn publish_when_there_is_room(&self, request: v1::PublishEventRequest) {
        let publish = async || self.try_publish(request.clone()).await.map_err(|status| status.code());
        let stored = eventually("stored", publish, |result| *result != Err(Code::ResourceExhausted)).await;
        stored.expect("it is stored once there is room");
    }

    /// The POST of a stored event to a subscription.
    pub async fn render(&self, event: &str, subscription: &str) -> v1::RenderEventResponse {
        let request = v1::RenderEventRequest {
            source: Some(v1::render_event_request::Source::Name(event.into())),
            subscription: subscription.into(),
            ..Default::default()
        };
        self.events.clone().render_event(request).await.unwrap().into_inner()
    }

    /// All stored events of an account, the latest first.
    pub async fn stored_events(&self, account: i64) -> Vec<v1::Event> {
        all_pages(async |page_token| {
            let parent = format!("accounts/{account}");
            let request = v1::ListEventsRequest { parent, page_size: 1000, page_token, ..Default::default() };
            let page = self.events.clone().list_events(request).await.unwrap().into_inner();
            (page.events, page.next_page_token)
        })
        .await
    }

    pub async fn retry(&self, name: &str) -> v1::Delivery {
        self.try_retry(name).await.unwrap()
    }

    pub async fn try_retry(&self, name: &str) -> Result<v1::Delivery, Status> {
        let request = v1::RetryDeliveryRequest { name: name.into() };
        Ok(self.deliveries.clone().retry_delivery(request).await?.into_inner().delivery.unwrap())
    }

    pub async fn cancel(&self, name: &str) -> v1::Delivery {
        self.try_cancel(name).await.unwrap()
    }

    pub async fn try_cancel(&self, name: &str) -> Result<v1::Delivery, Status> {
        let request = v1::CancelDeliveryRequest { name: name.into() };
        Ok(self.deliveries.clone().cancel_delivery(request).await?.into_inner().delivery.unwrap())
    }

    pub async fn replay(&self, request: v1::ReplayDeliveriesRequest) -> v1::ReplayDeliveriesResponse {
        self.deliveries.clone().replay_deliveries(request).await.unwrap().into_inner()
    }

    pub async fn watch(&self, parent: &str) -> Result<Streaming<v1::WatchDeliveriesResponse>, Status> {
        let request = v1::WatchDeliveriesRequest { parent: parent.into(), states: vec![] };
        Ok(in_time(self.deliveries.clone().watch_deliveries(request)).await?.into_inner())
    }

    pub async fn delivery(&self, name: &str) -> v1::Delivery {
        let request = v1::GetDeliveryRequest { name: name.into() };
        self.deliveries.clone().get_delivery(request).await.unwrap().into_inner().delivery.unwrap()
    }

    /// Waits until the delivery is in this state.
    pub async fn delivery_in(&self, name: &str, state: State) -> v1::Delivery {
        self.delivery_when(name, &format!("{state:?}"), |delivery| delivery.state() == state).await
    }

    /// Waits until `wanted` accepts the delivery.
    pub async fn delivery_when(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&v1::Delivery) -> bool,
    ) -> v1::Delivery {
        eventually(what, async || self.delivery(name).await, wanted).await
    }

    /// All deliveries of an account in one of these states, or in any if there are none. The latest first.
    pub async fn deliveries_in(&self, account: i64, states: &[State]) -> Vec<v1::Delivery> {
        all_pages(async |page_token| {
            let request = v1::ListDeliveriesRequest {
                parent: format!("accounts/{account}/subscriptions/-"),
                page_size: 1000,
                page_token,
                states: states.iter().map(|state| i32::from(*state)).collect(),
                ..Default::default()
            };
            let page = self.deliveries.clone().list_deliveries(request).await.unwrap().into_inner();
            (page.deliveries, page.next_page_token)
        })
        .await
    }

    /// The deliveries of a subscription by state; `accounts/1/subscriptions/-` means all of the account.
    pub async fn counts(&self, parent: &str) -> Counts {
        let request = v1::SummarizeDeliveriesRequest { parent: parent.into() };
        let summary = self.deliveries.clone().summarize_deliveries(request).await.unwrap().into_inner();
        let mut counts = Counts::default();
        for row in summary.counts {
            let count = match row.state() {
                State::Pending => &mut counts.pending,
                State::Retrying => &mut counts.retrying,
                State::Succeeded => &mut counts.succeeded,
                State::Failed => &mut counts.failed,
                State::Cancelled => &mut counts.cancelled,
                State::Unspecified => panic!("no state: {row:?}"),
            };
            *count += usize::try_from(row.count()).unwrap();
        }
        counts
    }

    /// Creates a sink of notices of these kinds, or of all if there are none.
    pub async fn try_sink(
        &self,
        parent: &str,
        id: &str,
        url: String,
        kinds: &[Kind],
    ) -> Result<Subscribed, Status> {
        let kinds = kinds.iter().map(|kind| i32::from(*kind)).collect();
        let request = v1::CreateNoticeSinkRequest {
            parent: parent.to_owned(),
            notice_sink_id: id.to_owned(),
            notice_sink: Some(v1::NoticeSink { url, kinds, ..Default::default() }),
            ..Default::default()
        };
        let created = self.notices.clone().create_notice_sink(request).await?.into_inner();
        Ok(Subscribed { name: created.notice_sink.unwrap().name, secret: created.signing_secret })
    }

    pub async fn sink(&self, parent: &str, id: &str, url: String, kinds: &[Kind]) -> Subscribed {
        self.try_sink(parent, id, url, kinds).await.unwrap()
    }

    pub async fn notice_sink(&self, name: &str) -> v1::NoticeSink {
        let request = v1::GetNoticeSinkRequest { name: name.to_owned() };
        self.notices.clone().get_notice_sink(request).await.unwrap().into_inner().notice_sink.unwrap()
    }

    /// Waits until `wanted` accepts the counts of the deliveries of a subscription.
    pub async fn counts_when(&self, parent: &str, what: &str, wanted: impl Fn(Counts) -> bool) -> Counts {
        eventually(what, async || self.counts(parent).await, |counts| wanted(*counts)).await
    }

    /// Waits until all deliveries of the account are over.
    pub async fn nothing_owed(&self, account: i64) {
        let look = async || self.deliveries_in(account, &[State::Pending, State::Retrying]).await;
        eventually("over", look, Vec::is_empty).await;
    }

    /// All audit records, the newest first.
    pub async fn audit_records(&self) -> Vec<v1::AuditRecord> {
        all_pages(async |page_token| {
            let parent = "accounts/-".to_owned();
            let request =
                v1::ListAuditRecordsRequest { parent, page_size: 1000, page_token, ..Default::default() };
            let page = self.audit.clone().list_audit_records(request).await.unwrap().into_inner();
            (page.audit_records, page.next_page_token)
        })
        .await
    }

    /// Makes an access token; returns its text as well.
    pub async fn create_token(&self, token: v1::AccessToken) -> Result<(v1::AccessToken, String), Status> {
        let request = v1::CreateAccessTokenRequest { access_token: Some(token), ..Default::default() };
        let made = in_time(self.tokens.clone().create_access_token(request)).await?.into_inner();
        Ok((made.access_token.expect("it is shown"), made.token))
    }

    pub async fn token(&self, name: &str) -> Result<v1::AccessToken, Status> {
        let request = v1::GetAccessTokenRequest { name: name.into() };
        let got = in_time(self.tokens.clone().get_access_token(request)).await?.into_inner();
        Ok(got.access_token.expect("it is shown"))
    }

    pub async fn revoke_token(&self, name: &str) -> Result<v1::AccessToken, Status> {
        let request = v1::RevokeAccessTokenRequest { name: name.into() };
        let revoked = in_time(self.tokens.clone().revoke_access_token(request)).await?.into_inner();
        Ok(revoked.access_token.expect("it is shown"))
    }

    /// The first access tokens: as many as a page has.
    pub async fn all_tokens(&self) -> Result<Vec<v1::AccessToken>, Status> {
        self.token_page(0, "").await.map(|(tokens, _)| tokens)
    }

    pub async fn token_page(
        &self,
        page_size: i32,
        page_token: &str,
    ) -> Result<(Vec<v1::AccessToken>, String), Status> {
        let request = v1::ListAccessTokensRequest { page_size, page_token: page_token.into() };
        let page = in_time(self.tokens.clone().list_access_tokens(request)).await?.into_inner();
        Ok((page.access_tokens, page.next_page_token))
    }

    /// Calls any method by its path with an encoded message. Returns the first response, encoded.
    pub async fn call(&self, path: &str, message: Vec<u8>) -> Result<Vec<u8>, Status> {
        in_time(self.call_with(path, tokio_stream::once(message))).await
    }

    /// The same with encoded messages that come when the stream has them. On the wire all methods are
    /// streams.
    pub async fn call_with(
        &self,
        path: &str,
        messages: impl Stream<Item = Vec<u8>> + Send + 'static,
    ) -> Result<Vec<u8>, Status> {
        let mut client = Grpc::new(self.channel.clone());
        client.ready().await.expect("the server is there");
        let path = path.parse().expect("a path");
        let responses = client.streaming(Request::new(messages), path, Encoded).await?;
        // A stream may end well without a message.
        responses.into_inner().next().await.unwrap_or(Ok(Vec::new()))
    }
}

/// Messages as they are encoded.
struct Encoded;

impl Codec for Encoded {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Encoded {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(buffer, &item);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

impl Decoder for Encoded {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let length = bytes::Buf::remaining(buffer);
        Ok(Some(bytes::Buf::copy_to_bytes(buffer, length).to_vec()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

/// Attempts without the fields that are in memory only, and not in lists: headers, address and times of the steps.
pub fn as_stored(attempts: &[v1::DeliveryAttempt]) -> Vec<v1::DeliveryAttempt> {
    let stored = |attempt: &v1::DeliveryAttempt| v1::DeliveryAttempt {
        request_headers: Vec::new(),
        response_headers: Vec::new(),
        remote_address: String::new(),
        dns_duration: None,
        connect_duration: None,
        tls_duration: None,
        first_byte_duration: None,
        ..attempt.clone()
    };
    attempts.iter().map(stored).collect()
}
