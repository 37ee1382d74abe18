//! A caller with a token, who can call any method by its path.

use std::time::Duration;

use prost::Message;
use prost_types::FileDescriptorSet;
use tidings::proto::{
    self,
    v1::{self, access_token_service_client::AccessTokenServiceClient},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_stream::{Stream, StreamExt, wrappers::UnboundedReceiverStream};
use tonic::{
    Request, Status, Streaming,
    client::Grpc,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataValue,
    transport::Channel,
};

use crate::harness::*;

/// The paths of all methods of the contract.
pub fn methods() -> Vec<String> {
    let set = FileDescriptorSet::decode(proto::DESCRIPTORS).expect("they are built in");
    let mut methods = Vec::new();
    for file in &set.file {
        for service in &file.service {
            let path = |method: &str| format!("/{}.{}/{method}", file.package(), service.name());
            methods.extend(service.method.iter().map(|method| path(method.name())));
        }
    }
    assert!(methods.len() >= 26, "{methods:#?}");
    methods
}

/// A connection of its own, on which every call carries the same metadata.
pub struct Caller {
    channel: Channel,
    header: Option<String>,
}

impl Caller {
    pub async fn new(server: &Server, token: &str) -> Self {
        Self::with_header(server, Some(&format!("Bearer {token}"))).await
    }

    /// With any value of the metadata `authorization`.
    pub async fn with_header(server: &Server, header: Option<&str>) -> Self {
        Self { channel: server.channel().await, header: header.map(str::to_owned) }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(header) = &self.header {
            let value: MetadataValue<_> = header.parse().expect("it can be sent");
            request.metadata_mut().insert("authorization", value);
        }
        request
    }

    fn tokens(&self) -> AccessTokenServiceClient<Channel> {
        AccessTokenServiceClient::new(self.channel.clone())
    }

    pub async fn create(&self, token: v1::AccessToken) -> Result<(v1::AccessToken, String), Status> {
        self.create_request(v1::CreateAccessTokenRequest { access_token: Some(token) }).await
    }

    pub async fn create_request(
        &self,
        request: v1::CreateAccessTokenRequest,
    ) -> Result<(v1::AccessToken, String), Status> {
        let made = in_time(self.tokens().create_access_token(self.request(request))).await?.into_inner();
        Ok((made.access_token.expect("it is shown"), made.token))
    }

    pub async fn get(&self, name: &str) -> Result<v1::AccessToken, Status> {
        let request = self.request(v1::GetAccessTokenRequest { name: name.into() });
        let got = in_time(self.tokens().get_access_token(request)).await?.into_inner();
        Ok(got.access_token.expect("it is shown"))
    }

    pub async fn revoke(&self, name: &str) -> Result<v1::AccessToken, Status> {
        let request = self.request(v1::RevokeAccessTokenRequest { name: name.into() });
        let revoked = in_time(self.tokens().revoke_access_token(request)).await?.into_inner();
        Ok(revoked.access_token.expect("it is shown"))
    }

    pub async fn list(&self) -> Result<Vec<v1::AccessToken>, Status> {
        self.page(0, "").await.map(|(tokens, _)| tokens)
    }

    pub async fn page(&self, size: i32, token: &str) -> Result<(Vec<v1::AccessToken>, String), Status> {
        let request = self.request(v1::ListAccessTokensRequest { page_size: size, page_token: token.into() });
        let page = in_time(self.tokens().list_access_tokens(request)).await?.into_inner();
        Ok((page.access_tokens, page.next_page_token))
    }

    pub async fn watch(&self, parent: &str) -> Result<Streaming<v1::WatchDeliveriesResponse>, Status> {
        let request = self.request(v1::WatchDeliveriesRequest { parent: parent.into(), states: vec![] });
        let mut client = v1::delivery_service_client::DeliveryServiceClient::new(self.channel.clone());
        Ok(in_time(client.watch_deliveries(request)).await?.into_inner())
    }

    /// An open stream: what is sent through the one is answered through the other.
    pub async fn publish_stream(
        &self,
    ) -> (mpsc::UnboundedSender<v1::StreamPublishEventsRequest>, Streaming<v1::StreamPublishEventsResponse>)
    {
        let (sender, messages) = mpsc::unbounded_channel();
        let mut client = v1::event_service_client::EventServiceClient::new(self.channel.clone());
        let request = self.request(UnboundedReceiverStream::new(messages));
        let answers = in_time(client.stream_publish_events(request)).await;
        (sender, answers.expect("the stream opens").into_inner())
    }

    /// Calls any method with an encoded message: the encoded first answer. On the wire all methods are streams.
    pub async fn call(&self, path: &str, message: Vec<u8>) -> Result<Vec<u8>, Status> {
        in_time(self.call_streaming(path, tokio_stream::once(message))).await
    }

    /// Calls a method whose message comes when the test sends it. Returns once the server has let the call through.
    pub async fn slow_call(
        &self,
        server: &Server,
        path: &'static str,
    ) -> (oneshot::Sender<Vec<u8>>, JoinHandle<Result<Vec<u8>, Status>>) {
        let (sender, message) = oneshot::channel();
        let caller = Self { channel: self.channel.clone(), header: self.header.clone() };
        let messages = futures_util::stream::once(async { message.await.expect("a test sends it") });
        let call = tokio::spawn(async move { caller.call_streaming(path, messages).await });
        in_time(async {
            while !server.metrics.text().contains("tidings_grpc_calls_in_flight 1\n") {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        (sender, call)
    }

    async fn call_streaming(
        &self,
        path: &str,
        messages: impl Stream<Item = Vec<u8>> + Send + 'static,
    ) -> Result<Vec<u8>, Status> {
        let mut client = Grpc::new(self.channel.clone());
        client.ready().await.expect("the server is there");
        let answers = client.streaming(self.request(messages), path.parse().expect("a path"), Raw).await?;
        match answers.into_inner().next().await {
            Some(answer) => answer,
            // A stream that ended well, without a word.
            None => Ok(Vec::new()),
        }
    }
}

/// Messages as they are encoded.
struct Raw;

impl Codec for Raw {
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

impl Encoder for Raw {
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

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let len = bytes::Buf::remaining(buffer);
        Ok(Some(bytes::Buf::copy_to_bytes(buffer, len).to_vec()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}
