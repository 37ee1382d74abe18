//! Sends requests over the connections of a pool.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use http::{
    Request, Response, StatusCode, Uri,
    header::{HOST, PROXY_AUTHORIZATION},
    uri::PathAndQuery,
};
use http_body_util::Full;
use tower::Service;

use super::{
    connection::{Connect, Destination, Transport},
    http1::{Http1, PooledBody, Unanswered},
    idle_pool::SharedConnection,
    pool::{Checkout, Pool, PoolHandle, PoolSettings},
    proxy::{Forwarding, ProxyError},
    send_error::{Resend, SendError, is_unprocessed, requires_http1},
    tls::TlsError,
};
use crate::{
    domain::{ids::AccountId, subscription::TlsProfile},
    event::exchange,
};

/// The connections that may carry a request.
pub(crate) struct Target<'a> {
    /// The origin of the request's absolute URL. Requests with the same spelling of the origin and the same
    /// TLS profile share connections; others never do.
    pub(crate) origin: &'a str,
    pub(crate) tls: Option<&'a Arc<TlsProfile>>,
    /// The one that the request is made for.
    pub(crate) account: AccountId,
    /// Whether none that was kept may.
    pub(crate) needs_new: bool,
}

/// What became of a request without a response.
enum NoResponse {
    /// Nothing of it was sent: another connection can have it.
    Unsent(Request<Full<Bytes>>),
    Failed(SendError),
}

impl From<SendError> for NoResponse {
    fn from(error: SendError) -> Self {
        Self::Failed(error)
    }
}

/// The body of a response.
pub(crate) type ResponseBody<C> = PooledBody<<C as Service<Destination>>::Response, PoolHandle<C>>;

/// Sends requests. Clones share the pool.
pub(crate) struct HttpClient<C: Connect>(Arc<Pool<C>>);

/// An HTTP/2 connection with a request under way.
///
/// If nobody waits for the response any more, as after a timeout, further requests go over another
/// connection: one that acknowledges PINGs and does nothing else would be used for ever.
struct InUse<'a, C: Connect> {
    pool: &'a Pool<C>,
    origin: &'a str,
    connection: SharedConnection,
    /// Whether it may carry further requests.
    is_kept: bool,
}

impl<C: Connect> Clone for HttpClient<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C: Connect> HttpClient<C> {
    /// A client with an empty pool. Must be called within a tokio runtime.
    pub(crate) fn new(connector: C, settings: PoolSettings) -> Self {
        Self(Pool::new(connector, settings))
    }

    /// Sends a request and waits for the head of the response.
    ///
    /// An idle connection may turn out to be closed before anything was sent over it; then another one is
    /// used.
    pub(crate) async fn send(
        &self,
        target: Target<'_>,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<ResponseBody<C>>, SendError> {
        let Target { origin, tls, account, needs_new } = target;
        let to = Destination { url: request.uri().clone(), tls: tls.cloned(), needs_http1: false, account };
        let url = &to.url;
        // An origin contains no space.
        let of_profile = tls.map(|tls| format!("{origin} {}", tls.id()));
        let origin = of_profile.as_deref().unwrap_or(origin);
        loop {
            let kept = if needs_new { None } else { self.0.take(origin) };
            let (checkout, kept) = match kept {
                Some(checkout) => (checkout, true),
                // Boxed: this future is large and rare, and would make that of every request as large.
                None => (Box::pin(self.0.connect(origin, &to)).await?, false),
            };
            let sent = match checkout {
                Checkout::Own(connection) => self.send_over_http1(connection, kept, url, request).await,
                Checkout::Shared(shared) => self.send_over_http2(shared, origin, request).await,
            };
            request = match sent {
                Ok(response) => return Ok(response),
                Err(NoResponse::Failed(error)) => return Err(error),
                Err(NoResponse::Unsent(unsent)) => unsent,
            };
            *request.uri_mut() = url.clone();
            request.headers_mut().remove(HOST);
            request.headers_mut().remove(PROXY_AUTHORIZATION);
        }
    }

    async fn send_over_http1(
        &self,
        connection: Box<Http1<C::Response>>,
        kept: bool,
        url: &Uri,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<ResponseBody<C>>, NoResponse> {
        exchange::note(|exchange| {
            exchange.remote_address = connection.remote;
            // There is one already if an idle connection broke before.
            exchange.request_headers.retain(|(name, _)| name != HOST);
            exchange.request_headers.push((HOST, connection.host.clone()));
        });
        to_origin_form(&mut request, url, &connection);
        let origin = Arc::clone(&connection.origin);
        let Unanswered { mut error, is_unread } = match connection.send(request).await {
            Ok((response, connection)) => {
                refused_by_proxy(response.status(), connection.forwarding.as_ref())?;
                let home = PoolHandle(Arc::clone(&self.0));
                return Ok(response.map(|incoming| PooledBody::new(incoming, connection, home)));
            }
            Err(unanswered) => unanswered,
        };
        if kept {
            // One connection is dead, so the others probably are.
            self.0.forget(&origin);
            if let Some(unsent) = error.take_message() {
                return Err(NoResponse::Unsent(unsent));
            }
        }
        let resend = if kept && is_unread { Resend::Once } else { Resend::Never };
        Err(SendError::Broken { error: error.into_error(), kept, resend }.into())
    }

    async fn send_over_http2(
        &self,
        connection: SharedConnection,
        origin: &str,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<ResponseBody<C>>, NoResponse> {
        exchange::note(|exchange| exchange.remote_address = connection.remote);
        let mut used = InUse { pool: &self.0, origin, connection, is_kept: false };
        let sent = used.connection.sender.try_send_request(request).await;
        let kept = used.connection.has_responded.fetch_or(sent.is_ok(), Ordering::Relaxed);
        let mut error = match sent {
            Ok(response) => {
                used.is_kept = true;
                return Ok(response.map(PooledBody::multiplexed));
            }
            Err(error) => error,
        };
        if let (false, Some(tls)) = (kept, used.connection.reads.tls_failure()) {
            return Err(SendError::Connect(TlsError::Ended(tls.clone()).into()).into());
        }
        let unsent = error.take_message();
        let is_unprocessed = unsent.is_some() || is_unprocessed(error.error());
        if requires_http1(error.error()) {
            self.0.http1_origins().note(origin);
        }
        // The end of one stream says nothing about the others.
        used.is_kept = !is_unprocessed;
        if let (true, Some(unsent)) = (kept, unsent) {
            return Err(NoResponse::Unsent(unsent));
        }
        let resend = if is_unprocessed { Resend::Unprocessed } else { Resend::Never };
        Err(SendError::Broken { error: error.into_error(), kept, resend }.into())
    }
}

impl<C: Connect> Drop for InUse<'_, C> {
    fn drop(&mut self) {
        if !self.is_kept {
            self.pool.retire(self.origin, &self.connection);
        }
    }
}

/// Turns a request to an absolute URL into HTTP/1's origin form: the path, and the host as a header. A
/// forwarding proxy gets the absolute form.
fn to_origin_form<T: Transport>(request: &mut Request<Full<Bytes>>, url: &Uri, connection: &Http1<T>) {
    request.headers_mut().insert(HOST, connection.host.clone());
    if let Some(Forwarding { authorization }) = &connection.forwarding {
        if let Some(authorization) = authorization {
            request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
        }
        return;
    }
    let path = url.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
}

/// Fails if the response is the proxy's own: it requires credentials. Any other may come from the endpoint.
fn refused_by_proxy(status: StatusCode, forwarding: Option<&Forwarding>) -> Result<(), SendError> {
    if forwarding.is_some() && status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
        return Err(SendError::Connect(ProxyError::Refused(status).into()));
    }
    Ok(())
}
