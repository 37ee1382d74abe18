//! What is counted and measured, and its text for Prometheus.
//!
//! Counting costs an atomic addition or two: every series exists from the start, and none is looked up by its labels. There
//! are as many series as words in this file, however many accounts and subscriptions there are. What the store alone
//! knows is asked for when somebody looks ([`Metrics::watch_store`]).

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use prometheus::{Encoder, Histogram, IntCounter, IntGauge, Registry, TextEncoder};

use crate::{
    domain::{
        audit::AuditOutcome,
        delivery::{Attempt, DeliveryState, Outcome},
        time::UnixMicros,
    },
    event::StoredEvent,
    proto::v1::EventType,
};

mod connections;
mod denied;
mod ingest;
mod make;
mod store;

pub use connections::{CloseReason, ConnectionMetrics};
pub use denied::CallDenied;
pub use ingest::{IngestMetrics, IngestOutcome};
pub use store::StoreReport;

use make::{counter, counters, event_types, gauge, histogram, labelled_gauges};
use store::StoreGauges;

/// What the text is, for the header of an answer: the format that Prometheus and everything like it reads.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Why a publish is refused, as the `reason` of `google.rpc.ErrorInfo` says. A reason that is not listed is counted with
/// the last one.
pub const REFUSAL_REASONS: [&str; 14] = [
    "ACCOUNT_MISMATCH",
    "BACKLOG_FULL",
    "DEADLINE_EXCEEDED",
    "DISK_FULL",
    "EVENT_EXISTS",
    "FIELD_INVALID",
    "FIELD_REQUIRED",
    "INTERNAL",
    "OVERLOADED",
    "RATE_LIMITED",
    "SHUTTING_DOWN",
    "STORAGE_FAILED",
    "STORE_FULL",
    "OTHER",
];

const OUTCOMES: [&str; 6] = ["ok", "http_status", "timeout", "connect", "io", "blocked"];
const ENDS: [&str; 3] = ["succeeded", "failed", "cancelled"];
const AUDIT_OUTCOMES: [&str; 3] = ["unknown", "ok", "refused"];

/// From a quarter of a millisecond, which a commit takes at least, up to the longest wait of a caller.
const ACCEPT_SECONDS: &[f64] = &[
    0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 2.5, 5.0,
    10.0,
];
/// A paused subscription makes an hour of it.
const ARRIVAL_SECONDS: &[f64] = &[
    0.0005, 0.001, 0.002, 0.003, 0.004, 0.006, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0, 300.0, 3600.0,
];
/// Up to the longest timeout that is usual.
const ATTEMPT_SECONDS: &[f64] = &[
    0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 2.5, 5.0,
    10.0, 30.0,
];
const COMMIT_SECONDS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 2.5,
];
const COMMIT_RECORDS: &[f64] =
    &[0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0];

type Report = Box<dyn Fn(&mut dyn FnMut(&StoreReport)) + Send + Sync>;

/// Everything that is counted since the process began. `app` makes the one that there is and hands it down.
pub struct Metrics {
    registry: Registry,
    store: OnceLock<(StoreGauges, Report)>,
    /// By event type, from 1 on.
    events_accepted: Vec<IntCounter>,
    /// In the order of [`REFUSAL_REASONS`].
    publishes_refused: Vec<IntCounter>,
    /// In the order of [`ENDS`].
    deliveries_settled: Vec<IntCounter>,
    /// In the order of [`OUTCOMES`].
    attempts: Vec<IntCounter>,
    attempt_seconds: Histogram,
    arrival_seconds: Histogram,
    /// In the order of [`CallDenied::ALL`].
    calls_denied: Vec<IntCounter>,
    /// Events that were repeated and not stored again.
    pub events_duplicate: IntCounter,
    /// From the call of publish to its commit, in seconds; of those that were not refused.
    pub accept_seconds: Histogram,
    deliveries_created: IntCounter,
    deliveries_reopened: IntCounter,
    /// Owed deliveries that went with their subscription.
    pub deliveries_dropped: IntCounter,
    /// POSTs under way, but for those of TestSubscription.
    pub attempts_in_flight: IntGauge,
    /// Lanes that the dispatcher keeps, since they have something to do.
    pub lanes_active: IntGauge,
    /// Lanes that go slower than their subscriptions allow.
    pub lanes_slowed: IntGauge,
    /// Lanes that wait for a place among the attempts under way.
    pub lanes_waiting: IntGauge,
    /// Lanes that have more in the store, and wait until fewer read.
    pub lanes_waiting_to_read: IntGauge,
    /// Reads of the next deliveries of one conversation, contact or inbox.
    pub lane_order_key_reads: IntCounter,
    /// What the windows of all lanes take up, in bytes.
    pub lane_windows_bytes: IntGauge,
    /// Ordered lanes that read no further, since they keep as many conversations apart as they may.
    pub lanes_out_of_order_keys: IntGauge,
    /// Connections to endpoints.
    pub endpoint_connections: Open,
    /// Calls that are being answered.
    pub grpc_calls: Open,
    /// Connections of gRPC clients.
    pub grpc_connections: Open,
    /// What became of these, and the certificates that they are shown.
    pub connections: ConnectionMetrics,
    /// Webhooks that came in over HTTP.
    pub ingest: IngestMetrics,
    commits: IntCounter,
    commit_seconds: Histogram,
    commit_events: Histogram,
    commit_settlements: Histogram,
    /// Volumes whose detail was read from the disk.
    pub volumes_read: IntCounter,
    /// How long the sync alone takes, of any commit, in seconds.
    pub sync_seconds: Histogram,
    /// In the order of [`AUDIT_OUTCOMES`].
    audit_records: Vec<IntCounter>,
    /// Calls that were refused and left no record, since none could be written.
    pub audit_unrecorded: IntCounter,
    /// Audit records that were removed since they are old.
    pub audit_removed_for_age: IntCounter,
    /// Audit records that were removed since there were too many.
    pub audit_removed_for_size: IntCounter,
}

impl Metrics {
    /// Metrics of a process that began at `start`.
    pub fn new(start: UnixMicros) -> Arc<Self> {
        let r = &Registry::new();
        let build = labelled_gauges(
            r,
            "tidings_build_info",
            "Always 1; the labels say what is running.",
            "version",
            &[env!("CARGO_PKG_VERSION")],
        );
        build[0].set(1);
        gauge(r, "process_start_time_seconds", "When the process began, in seconds since 1970.")
            .set(start.seconds());
        let audit_removed = counters(
            r,
            "tidings_audit_records_removed_total",
            "Audit records that were removed, for their age or since there were more than audit_bytes_max.",
            "reason",
            &["age", "size"],
        );
        Arc::new(Self {
            events_accepted: counters(
                r,
                "tidings_events_accepted_total",
                "Events stored, by type.",
                "type",
                &event_types(),
            ),
            events_duplicate: counter(
                r,
                "tidings_events_duplicate_total",
                "Events published again and answered as the first time.",
            ),
            publishes_refused: counters(
                r,
                "tidings_publishes_refused_total",
                "Calls of PublishEvent and BatchPublishEvents and events of streams that were refused, by reason.",
                "reason",
                &REFUSAL_REASONS,
            ),
            calls_denied: counters(
                r,
                "tidings_calls_denied_total",
                "Calls that were not allowed to their caller, by reason.",
                "reason",
                &CallDenied::ALL.map(CallDenied::word),
            ),
            accept_seconds: histogram(
                r,
                "tidings_accept_duration_seconds",
                "From a checked publish to its commit on disk; what was refused does not count.",
                ACCEPT_SECONDS,
            ),
            deliveries_created: counter(
                r,
                "tidings_deliveries_created_total",
                "Deliveries that accepted events made, one for each subscription that wanted it.",
            ),
            deliveries_settled: counters(
                r,
                "tidings_deliveries_settled_total",
                "Deliveries that came to their end, by how.",
                "state",
                &ENDS,
            ),
            deliveries_reopened: counter(
                r,
                "tidings_deliveries_reopened_total",
                "Deliveries that were over and became owed again, since a caller wanted it.",
            ),
            deliveries_dropped: counter(
                r,
                "tidings_deliveries_dropped_total",
                "Owed deliveries that were removed with their subscription.",
            ),
            attempts: counters(
                r,
                "tidings_attempts_total",
                "Attempts to deliver, by outcome; without TestSubscription.",
                "outcome",
                &OUTCOMES,
            ),
            attempt_seconds: histogram(
                r,
                "tidings_attempt_duration_seconds",
                "How long an attempt takes, whatever comes of it.",
                ATTEMPT_SECONDS,
            ),
            arrival_seconds: histogram(
                r,
                "tidings_publish_to_arrival_seconds",
                "From an event's create_time to the 2xx answer to a first attempt.",
                ARRIVAL_SECONDS,
            ),
            attempts_in_flight: gauge(r, "tidings_attempts_in_flight", "Attempts under way."),
            lanes_active: gauge(
                r,
                "tidings_lanes_active",
                "Subscriptions that have something in memory: to send, under way, or to look for later.",
            ),
            lanes_slowed: gauge(
                r,
                "tidings_lanes_slowed",
                "Subscriptions sent to slower than they allow, since their endpoint asked for it or gave no answer.",
            ),
            lanes_waiting: gauge(
                r,
                "tidings_lanes_waiting",
                "Subscriptions with something to send that wait until fewer attempts are under way in all.",
            ),
            lanes_waiting_to_read: gauge(
                r,
                "tidings_lanes_waiting_to_read",
                "Subscriptions with more to send than is in memory that wait until fewer read, at lane_reads_in_flight_max.",
            ),
            lane_order_key_reads: counter(
                r,
                "tidings_lane_order_key_reads_total",
                "Reads of the next deliveries of one conversation of an ordered subscription, past lane_order_key_window or stuck.",
            ),
            lane_windows_bytes: gauge(
                r,
                "tidings_lane_windows_bytes",
                "About how much memory the deliveries take up that are kept to be sent next.",
            ),
            lanes_out_of_order_keys: gauge(
                r,
                "tidings_lanes_out_of_order_keys",
                "Ordered subscriptions that read no further, since lane_order_keys_max conversations of theirs wait.",
            ),
            endpoint_connections: Open(gauge(
                r,
                "tidings_endpoint_connections",
                "Connections to endpoints, in use and kept.",
            )),
            grpc_calls: Open(gauge(
                r,
                "tidings_grpc_calls_in_flight",
                "Calls that are being answered, but for open streams.",
            )),
            grpc_connections: Open(gauge(r, "tidings_grpc_connections", "Connections of gRPC clients.")),
            connections: ConnectionMetrics::new(r),
            ingest: IngestMetrics::new(r),
            commits: counter(r, "tidings_commits_total", "Commits of events and settlements to the disk."),
            commit_seconds: histogram(
                r,
                "tidings_commit_duration_seconds",
                "How long a commit takes, from the first write to the end of fdatasync.",
                COMMIT_SECONDS,
            ),
            volumes_read: counter(
                r,
                "tidings_volumes_read_total",
                "Volumes of some thousand events that were read back into memory, mostly to answer lists.",
            ),
            sync_seconds: histogram(
                r,
                "tidings_sync_duration_seconds",
                "How long flush and fdatasync take, of commits and of changes of subscriptions.",
                COMMIT_SECONDS,
            ),
            commit_events: histogram(r, "tidings_commit_events", "Events in a commit.", COMMIT_RECORDS),
            commit_settlements: histogram(
                r,
                "tidings_commit_settlements",
                "Settlements in a commit.",
                COMMIT_RECORDS,
            ),
            audit_records: counters(
                r,
                "tidings_audit_records_total",
                "Calls that change something and left an audit record, by outcome.",
                "outcome",
                &AUDIT_OUTCOMES,
            ),
            audit_unrecorded: counter(
                r,
                "tidings_audit_unrecorded_total",
                "Refused calls that left no audit record: the disk is full, or too many wait to be written.",
            ),
            audit_removed_for_age: audit_removed[0].clone(),
            audit_removed_for_size: audit_removed[1].clone(),
            store: OnceLock::new(),
            registry: r.clone(),
        })
    }

    /// Counts an event that was stored and is owed to so many; `event_type` is the number of its [`EventType`].
    pub fn event_accepted(&self, event_type: i32, deliveries: usize) {
        self.deliveries_created.inc_by(deliveries as u64);
        let place = usize::try_from(event_type - 1).ok();
        if let Some(counter) = place.and_then(|place| self.events_accepted.get(place)) {
            counter.inc();
        }
    }

    /// Counts a publish that was refused for this reason.
    pub fn publish_refused(&self, reason: &str) {
        let listed = REFUSAL_REASONS.iter().position(|listed| *listed == reason);
        self.publishes_refused[listed.unwrap_or(REFUSAL_REASONS.len() - 1)].inc();
    }

    /// Counts a call that was written down with this outcome.
    pub fn audited(&self, outcome: AuditOutcome) {
        let place = match outcome {
            AuditOutcome::Unknown => 0,
            AuditOutcome::Ok => 1,
            AuditOutcome::Refused => 2,
        };
        self.audit_records[place].inc();
    }

    /// Counts an attempt to deliver `event`.
    pub fn attempt_ended(&self, event: &StoredEvent, attempt: &Attempt, is_first: bool) {
        self.attempts[place_of_outcome(attempt.outcome)].inc();
        self.attempt_seconds.observe(attempt.duration.as_secs_f64());
        if is_first && attempt.outcome == Outcome::Ok {
            let end = attempt.start_time.plus(attempt.duration);
            self.arrival_seconds.observe(end.since(event.create_time).as_secs_f64());
        }
    }

    /// Counts that a delivery went from one state to another.
    pub fn delivery_moved(&self, was_owed: bool, state: DeliveryState) {
        let end = match state {
            DeliveryState::Succeeded => 0,
            DeliveryState::Failed => 1,
            DeliveryState::Cancelled => 2,
            DeliveryState::Pending | DeliveryState::Retrying { .. } => {
                if !was_owed {
                    self.deliveries_reopened.inc();
                }
                return;
            }
        };
        if was_owed {
            self.deliveries_settled[end].inc();
        }
    }

    /// Counts a commit and what was in it.
    pub fn committed(&self, events: usize, settlements: usize, took: Duration) {
        self.commits.inc();
        self.commit_seconds.observe(took.as_secs_f64());
        self.commit_events.observe(count(events));
        self.commit_settlements.observe(count(settlements));
    }

    /// From now on asks `report` whenever somebody looks, for what the store alone knows. It calls what it is given while nothing
    /// of the store's books changes, so that gauges and counters add up; or does not, once the store is gone. The first to
    /// ask for this is heard.
    pub fn watch_store(&self, report: impl Fn(&mut dyn FnMut(&StoreReport)) + Send + Sync + 'static) {
        self.store.get_or_init(|| (StoreGauges::new(&self.registry), Box::new(report)));
    }

    /// Everything, as Prometheus reads it. Asks the store, which may look at the disk: call it where blocking is allowed.
    pub fn text(&self) -> String {
        let mut families = None;
        if let Some((gauges, report)) = self.store.get() {
            report(&mut |report| {
                gauges.set(report);
                families = Some(self.registry.gather());
            });
        }
        let families = families.unwrap_or_else(|| self.registry.gather());
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&families, &mut text)
            .expect("it is written to memory, and no family is empty");
        String::from_utf8(text).expect("names, labels and numbers are text")
    }
}

/// Counts what is open at a time.
#[derive(Clone, Debug)]
pub struct Open(IntGauge);

/// Something that is open until this is dropped.
#[derive(Debug)]
pub struct Opened(IntGauge);

impl Open {
    /// Counts one more.
    pub fn one(&self) -> Opened {
        self.0.inc();
        Opened(self.0.clone())
    }
}

impl Default for Open {
    /// A count that nobody looks at.
    fn default() -> Self {
        Self(IntGauge::new("unseen", "Not registered.").expect("the name is valid"))
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn place_of_outcome(outcome: Outcome) -> usize {
    match outcome {
        Outcome::Ok => 0,
        Outcome::HttpStatus => 1,
        Outcome::Timeout => 2,
        Outcome::Connect => 3,
        Outcome::Io => 4,
        Outcome::Blocked => 5,
    }
}

/// As a histogram takes it: counts of a commit are far below 2^32.
fn count(records: usize) -> f64 {
    u32::try_from(records).map_or(f64::INFINITY, f64::from)
}

#[cfg(test)]
mod tests;
