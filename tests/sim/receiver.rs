//! A receiver's host: notes what is POSTed to it, and answers as its mood is.

use std::{
    convert::Infallible,
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use turmoil::net::TcpListener;

use crate::{
    ledger::{Arrival, Entry, Ledger},
    tally::{Kind, Tally},
    world::Trace,
};

/// Where a receiver listens.
pub const PORT: u16 = 80;

/// What a receiver does with a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mood {
    /// Answers 200.
    Well,
    /// Answers 200, so much later.
    Slow(Duration),
    /// Answers 200 to some, 500 to most.
    Failing,
    /// Answers 429, and asks to wait so many seconds.
    Busy(u32),
    /// Does not answer.
    Hanging,
    /// Answers 410.
    Gone,
}

/// What outlives a receiver's crashes.
pub struct Receiver {
    pub name: String,
    number: usize,
    mood: Mutex<Mood>,
    random: Mutex<StdRng>,
    ledger: Arc<Ledger>,
    tally: Tally,
    trace: Trace,
}

impl Receiver {
    pub fn new(number: usize, seed: u64, ledger: Arc<Ledger>, tally: Tally, trace: Trace) -> Arc<Self> {
        Arc::new(Self {
            name: format!("receiver-{number}"),
            number,
            mood: Mutex::new(Mood::Well),
            random: Mutex::new(StdRng::seed_from_u64(seed + number as u64)),
            ledger,
            tally,
            trace,
        })
    }

    pub fn is_now(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// Serves until the host crashes.
    pub async fn run(self: Arc<Self>) -> turmoil::Result {
        let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            let receiver = Arc::clone(&self);
            let service = service_fn(move |request| Arc::clone(&receiver).answer(request));
            let connection =
                http1::Builder::new().auto_date_header(false).serve_connection(TokioIo::new(stream), service);
            // How a connection ends is the other end's business.
            tokio::spawn(async move { drop(connection.await) });
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Empty<Bytes>>, hyper::Error> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let header = |name: &str| head.headers[name].to_str().unwrap().to_owned();
        let (webhook_id, timestamp) = (header("webhook-id"), header("webhook-timestamp"));
        let mood = *self.mood.lock().unwrap();
        let (wait, status, kind) = match mood {
            Mood::Failing if self.random.lock().unwrap().random_ratio(1, 4) => (Duration::ZERO, 200, None),
            Mood::Well => (Duration::ZERO, 200, None),
            Mood::Slow(wait) => (wait, 200, Some(Kind::AnsweredSlowly)),
            Mood::Failing => (Duration::ZERO, 500, Some(Kind::AnsweredWithAnError)),
            Mood::Busy(_) => (Duration::ZERO, 429, Some(Kind::AskedToWait)),
            Mood::Hanging => (Duration::MAX, 0, Some(Kind::Hung)),
            Mood::Gone => (Duration::ZERO, 410, Some(Kind::AnsweredGone)),
        };
        kind.into_iter().for_each(|kind| self.tally.add(kind));
        self.trace
            .note(&self.name, format_args!("{webhook_id} at {timestamp}, {} bytes: {status}", body.len()));
        // Slow ones count as taken before they answer: that the answer is lost makes a repetition, and no loss.
        let path = head.uri.path().to_owned();
        let arrival = Arrival { receiver: self.number, path, webhook_id, body, taken: status == 200 };
        self.ledger.note(Entry::Arrived(arrival));
        if wait == Duration::MAX {
            pending::<Infallible>().await;
        }
        tokio::time::sleep(wait).await;
        let mut response = Response::builder().status(status);
        if let Mood::Busy(seconds) = mood {
            response = response.header("retry-after", seconds);
        }
        Ok(response.body(Empty::new()).unwrap())
    }
}
