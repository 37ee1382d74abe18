//! Changes of deliveries as server-sent events: each is one row of the list, as HTML.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use askama::Template;
use axum::{
    body::{Body, Bytes},
    extract::Path,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use futures_util::Stream;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Streaming;

use super::{Failure, Visitor, deliveries};
use crate::{
    console::{forms::Fields, server::stream_permit},
    limits::Permit,
    proto::v1::{self, delivery::State},
};

/// Time between two comments on a stream where nothing happens: a browser that is gone is noticed.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Rows that a stream sends in one [`BEAT`] at most: more than anybody reads. Further changes wait in the
/// services, which leave some out: the event `behind` makes the page load the list again.
const ROWS_PER_BEAT: usize = 25;
const BEAT: Duration = Duration::from_millis(500);
/// How long a browser waits until it opens a stream again, in milliseconds.
const RETRY: &str = "retry: 3000\n\n";

pub(super) async fn deliveries(
    visitor: Visitor,
    Path(account): Path<i64>,
    fields: Fields,
) -> Result<Response, Failure> {
    let Some(permit) = stream_permit(&visitor.parts, visitor.address) else {
        // The browser polls instead.
        return Ok((StatusCode::SERVICE_UNAVAILABLE, "Too many live pages are open.\n").into_response());
    };
    let filter = deliveries::filter(account, &fields);
    // The states are compared here: a row that leaves the filter has to be seen once more.
    let request = v1::WatchDeliveriesRequest { parent: filter.parent.clone(), states: Vec::new() };
    let changes =
        visitor.api.deliveries().watch_deliveries(visitor.api.stream_request(request)).await?.into_inner();
    let mut heartbeat = interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    heartbeat.reset();
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let shutdown: CancellationToken = visitor.parts.shutdown.clone();
    let rows = Rows {
        changes,
        filter,
        heartbeat,
        beat,
        rows_left: 0,
        is_behind: false,
        ended: Box::pin(shutdown.cancelled_owned()),
        signed_out: Box::pin(visitor.signed_out.clone().cancelled_owned()),
        begun: false,
        _permit: permit,
    };
    Ok(([(CONTENT_TYPE, "text/event-stream; charset=utf-8")], Body::from_stream(rows)).into_response())
}

/// The stream of one browser. A browser that does not read it makes the services leave changes out, and says
/// how many.
struct Rows {
    changes: Streaming<v1::WatchDeliveriesResponse>,
    filter: v1::ListDeliveriesRequest,
    heartbeat: Interval,
    beat: Interval,
    /// Rows that may be sent before the next beat.
    rows_left: usize,
    /// The browser knows that changes wait, or are left out.
    is_behind: bool,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    signed_out: Pin<Box<WaitForCancellationFutureOwned>>,
    begun: bool,
    _permit: Permit,
}

impl Stream for Rows {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if !std::mem::replace(&mut self.begun, true) {
            return Poll::Ready(Some(Ok(Bytes::from_static(RETRY.as_bytes()))));
        }
        if self.ended.as_mut().poll(context).is_ready() || self.signed_out.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        loop {
            if self.rows_left == 0 {
                if self.beat.poll_tick(context).is_pending() {
                    if std::mem::replace(&mut self.is_behind, true) {
                        return Poll::Pending;
                    }
                    return Poll::Ready(Some(Ok(sse("behind", "now"))));
                }
                self.rows_left = ROWS_PER_BEAT;
                self.is_behind = false;
            }
            match Pin::new(&mut self.changes).poll_next(context) {
                Poll::Ready(Some(Ok(change))) => {
                    // Each was read from the store, whether the filter matches or not.
                    self.rows_left -= 1;
                    if let Some(event) = event(&self.filter, &change) {
                        return Poll::Ready(Some(Ok(event)));
                    }
                }
                // The token ended, or the gateway stops.
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(None),
                Poll::Pending => break,
            }
        }
        match self.heartbeat.poll_tick(context) {
            Poll::Ready(_) => Poll::Ready(Some(Ok(Bytes::from_static(b": \n\n")))),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// One change as an event: `row` for a row of the list, `gone` for one that the filter no longer matches.
fn event(filter: &v1::ListDeliveriesRequest, change: &v1::WatchDeliveriesResponse) -> Option<Bytes> {
    let delivery = change.delivery.as_ref()?;
    if !filter.event_types.is_empty() && !filter.event_types.contains(&delivery.event_type) {
        return None;
    }
    let row = deliveries::Row::of(delivery);
    if !matches(filter, delivery) {
        return Some(sse("gone", &row.key));
    }
    row.render().ok().map(|html| sse("row", &html))
}

fn matches(filter: &v1::ListDeliveriesRequest, delivery: &v1::Delivery) -> bool {
    let state: i32 = delivery.state;
    let last = delivery.attempts.last();
    let class = last.map(|attempt| attempt.http_status / 100);
    let outcome = last.map(|attempt| attempt.outcome);
    let created = delivery.create_time.map_or(0, |time| time.seconds);
    (filter.states.is_empty() || filter.states.contains(&state))
        && (filter.http_status_classes.is_empty()
            || class.is_some_and(|class| filter.http_status_classes.contains(&class)))
        && (filter.outcomes.is_empty() || outcome.is_some_and(|outcome| filter.outcomes.contains(&outcome)))
        && filter.start_time.is_none_or(|start| created >= start.seconds)
        && state != i32::from(State::Unspecified)
}

/// One event: every line of its data has the prefix.
fn sse(name: &str, data: &str) -> Bytes {
    let mut text = format!("event: {name}\n");
    for line in data.lines() {
        text.push_str("data: ");
        text.push_str(line);
        text.push('\n');
    }
    text.push('\n');
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(state: State) -> v1::WatchDeliveriesResponse {
        let delivery = v1::Delivery {
            name: "accounts/1/subscriptions/crm/deliveries/e-1".to_owned(),
            event_type: 4,
            state: state.into(),
            ..Default::default()
        };
        v1::WatchDeliveriesResponse { delivery: Some(delivery), skipped_count: 0 }
    }

    #[test]
    fn a_change_is_a_row_or_takes_one_away() {
        let filter = v1::ListDeliveriesRequest { states: vec![State::Failed.into()], ..Default::default() };
        let row = event(&filter, &change(State::Failed)).unwrap();
        let row = std::str::from_utf8(&row).unwrap();
        assert!(row.starts_with("event: row\ndata: <tr"), "{row}");
        assert!(
            row.ends_with("\n\n")
                && row.lines().skip(1).all(|line| line.is_empty() || line.starts_with("data: "))
        );
        assert_eq!(event(&filter, &change(State::Succeeded)).unwrap(), "event: gone\ndata: crm/e-1\n\n");
        let other = v1::ListDeliveriesRequest { event_types: vec![1], ..Default::default() };
        assert_eq!(event(&other, &change(State::Failed)), None);
    }
}
