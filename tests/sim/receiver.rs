//! A receiver's host: notes every POST, and responds as its behaviour is.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use turmoil::net::{TcpListener, TcpStream};

use crate::{
    coverage::{Coverage, Kind},
    ledger::{Arrival, Entry, Ledger},
    support::receiver::{Connection, Request},
    world::Trace,
};

/// Where a receiver listens.
pub const PORT: u16 = 80;

/// The response of a receiver to a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Behaviour {
    /// Answers 200.
    Well,
    /// Answers 200, so much later.
    Slow(Duration),
    /// Answers 200 to some, 500 to most.
    Failing,
    /// Answers 429, and asks to wait this many seconds.
    Busy(u32),
    /// Sends no response.
    Hanging,
    /// Answers 410.
    Gone,
}

/// State that survives a receiver's crashes.
pub struct Receiver {
    pub name: String,
    number: usize,
    behaviour: Mutex<Behaviour>,
    random: Mutex<StdRng>,
    ledger: Arc<Ledger>,
    coverage: Coverage,
    trace: Trace,
}

impl Receiver {
    pub fn new(number: usize, seed: u64, ledger: Arc<Ledger>, coverage: Coverage, trace: Trace) -> Arc<Self> {
        Arc::new(Self {
            name: format!("receiver-{number}"),
            number,
            behaviour: Mutex::new(Behaviour::Well),
            random: Mutex::new(StdRng::seed_from_u64(seed + number as u64)),
            ledger,
            coverage,
            trace,
        })
    }

    pub fn is_now(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }

    /// Serves until the host crashes.
    pub async fn run(self: Arc<Self>) -> turmoil::Result {
        let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            let (receiver, mut connection) = (Arc::clone(&self), Connection::over(stream));
            tokio::spawn(async move {
                while let Some(request) = connection.request().await {
                    receiver.respond(request, &mut connection).await;
                }
            });
        }
    }

    async fn respond(&self, request: Request, connection: &mut Connection<TcpStream>) {
        let (webhook_id, timestamp) = (request.webhook_id().to_owned(), request.header("webhook-timestamp"));
        let behaviour = *self.behaviour.lock().unwrap();
        let (wait, status, kind) = match behaviour {
            Behaviour::Failing if self.random.lock().unwrap().random_ratio(1, 4) => {
                (Duration::ZERO, 200, None)
            }
            Behaviour::Well => (Duration::ZERO, 200, None),
            Behaviour::Slow(wait) => (wait, 200, Some(Kind::AnsweredSlowly)),
            Behaviour::Failing => (Duration::ZERO, 500, Some(Kind::AnsweredWithAnError)),
            Behaviour::Busy(_) => (Duration::ZERO, 429, Some(Kind::AskedToWait)),
            Behaviour::Hanging => (Duration::ZERO, 0, Some(Kind::Hung)),
            Behaviour::Gone => (Duration::ZERO, 410, Some(Kind::AnsweredGone)),
        };
        kind.into_iter().for_each(|kind| self.coverage.add(kind));
        let bytes = request.body.len();
        self.trace.note(&self.name, format_args!("{webhook_id} at {timestamp}, {bytes} bytes: {status}"));
        // Slow ones are taken before the response: that it is lost makes a repetition, and no loss.
        let (path, body) = (request.path, request.body.into());
        let arrival = Arrival { receiver: self.number, path, webhook_id, body, taken: status == 200 };
        self.ledger.note(Entry::Arrived(arrival));
        if behaviour == Behaviour::Hanging {
            return connection.wait_for_end().await;
        }
        tokio::time::sleep(wait).await;
        let header = match behaviour {
            Behaviour::Busy(seconds) => format!("retry-after: {seconds}\r\n"),
            _ => String::new(),
        };
        connection.send(format!("HTTP/1.1 {status} -\r\ncontent-length: 0\r\n{header}\r\n")).await;
    }
}
