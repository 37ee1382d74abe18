//! POSTs without a gateway: hyper's client in one process, the receiver in another.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{Request, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::task::JoinSet;

use crate::{
    children::{self, Helper, Role},
    wire::{Listening, PostOrder, Posted},
};

/// POSTs per second, and the client's CPU time for 10,000.
pub fn measure(in_flight: usize, count: u64) -> anyhow::Result<(f64, Option<f64>)> {
    let (mut receiver, mut webhook_client) = (Helper::start(Role::Receiver)?, Helper::start(Role::Poster)?);
    let listening: Listening = receiver.answer()?;
    let order = PostOrder { address: listening.endpoints[0], in_flight, count };
    let _: Posted = webhook_client.ask(&PostOrder { count: count / 20 + 1, ..order })?;
    let before = webhook_client.usage()?;
    let posted: Posted = webhook_client.ask(&order)?;
    let cpu_seconds = webhook_client.usage()?.cpu_seconds - before.cpu_seconds;
    Ok((count as f64 / posted.seconds, Some(cpu_seconds / count as f64 * 10_000.0)))
}

/// Executes orders from standard input.
pub fn serve() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new()).build(connector);
    children::obey(|order: PostOrder| runtime.block_on(post(&client, order)))
}

async fn post(client: &Client<HttpConnector, Full<Bytes>>, order: PostOrder) -> anyhow::Result<Posted> {
    let PostOrder { address, in_flight, count } = order;
    let (body, left) = (Bytes::from(super::typical_body()), Arc::new(AtomicU64::new(count)));
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..in_flight {
        let (client, body, left) = (client.clone(), body.clone(), Arc::clone(&left));
        tasks.spawn(async move {
            let one_less = |left: u64| left.checked_sub(1);
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
                let request = Request::post(format!("http://{address}/webhooks"))
                    .header(CONTENT_TYPE, "application/json")
                    .body(Full::new(body.clone()))?;
                let response = client.request(request).await?;
                ensure!(response.status() == StatusCode::OK, "the receiver responded {}", response.status());
                response.into_body().collect().await?;
            }
            Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a task of the client panicked")??;
    }
    Ok(Posted { seconds: start.elapsed().as_secs_f64() })
}
