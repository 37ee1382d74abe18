//! Counters, gauges and histograms, and their text for Prometheus.
//!
//! Counting costs an atomic addition or two: every series exists from the start, and none is looked up by its
//! labels. The number of series is fixed, however many accounts and subscriptions there are. The store's
//! figures are read when the text is rendered ([`Metrics::watch_store`]).

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use prometheus::{Encoder, Histogram, IntCounter, IntGauge, Registry, TextEncoder};

use crate::{
    domain::{
        audit::AuditOutcome,
        delivery::{Attempt, DeliveryState, Outcome},
        notice::NoticeKind,
        time::UnixMicros,
    },
    event::StoredEvent,
    proto::v1::EventType,
};

mod auth;
mod connections;
mod delivery_stats;
mod in_flight;
mod ingest;
mod rate_limited;
mod register;
mod store;

pub use auth::CallDenied;
pub use connections::{CallRefused, CloseReason, ConnectionMetrics, Listener};
pub use delivery_stats::{AttemptCounts, DeliveryStats, LatestResults, StatsPeriod, StatsReport};
pub use in_flight::{InFlightGauge, InFlightGuard};
pub use ingest::{IngestMetrics, IngestOutcome, KeptReason};
pub use rate_limited::RateLimited;
pub use store::StoreReport;

use register::{counter, counters, event_types, gauge, histogram, labelled_gauges};
use store::StoreGauges;

/// Content type of the text: Prometheus's exposition format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Why a publish was refused: the `reason` of `google.rpc.ErrorInfo`. Any other reason is counted as the last
/// one.
pub const REFUSAL_REASONS: [&str; 17] = [
    "ACCOUNT_MISMATCH",
    "BACKLOG_FULL",
    "DEADLINE_EXCEEDED",
    "DISK_FULL",
    "EVENT_EXISTS",
    "FIELD_INVALID",
    "FIELD_REQUIRED",
    "INTERNAL",
    "MESSAGE_MALFORMED",
    "MESSAGE_TOO_LARGE",
    "OVERLOADED",
    "RATE_LIMITED",
    "RECORD_DAMAGED",
    "SHUTTING_DOWN",
    "STORAGE_FAILED",
    "STORE_FULL",
    "OTHER",
];

const OUTCOMES: [&str; 8] =
    ["ok", "http_status", "timeout", "connect", "io", "blocked", "damaged", "expired"];
const ENDS: [&str; 3] = ["succeeded", "failed", "cancelled"];
const BACKUP_OUTCOMES: [&str; 2] = ["complete", "incomplete"];
const AUDIT_OUTCOMES: [&str; 3] = ["unknown", "ok", "refused"];

/// From a quarter of a millisecond, the shortest commit, to the longest time that a caller waits.
const ACCEPT_SECONDS: &[f64] = &[
    0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 2.5, 5.0,
    10.0,
];
/// Up to an hour: a paused subscription delivers late.
const ARRIVAL_SECONDS: &[f64] = &[
    0.0005, 0.001, 0.002, 0.003, 0.004, 0.006, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0, 300.0, 3600.0,
];
/// Up to the longest usual timeout.
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

/// All metrics of the process. `app` creates the only instance and hands it down.
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
    /// Attempts over time, by subscription.
    pub delivery_stats: DeliveryStats,
    attempt_seconds: Histogram,
    arrival_seconds: Histogram,
    /// In the order of [`CallDenied::ALL`].
    calls_denied: Vec<IntCounter>,
    /// Events published again with the same id, and not stored again.
    pub events_duplicate: IntCounter,
    /// Seconds from the call of publish to its commit. Refused calls are left out.
    pub accept_seconds: Histogram,
    deliveries_created: IntCounter,
    deliveries_reopened: IntCounter,
    /// Unfinished deliveries deleted with their subscription, or removed with a damaged index.
    pub deliveries_dropped: IntCounter,
    /// POSTs under way, without those of TestSubscription.
    pub attempts_in_flight: InFlightGauge,
    /// Lanes in memory: those with work to do.
    pub lanes_active: IntGauge,
    /// Lanes under a throttle.
    pub lanes_slowed: IntGauge,
    /// Lanes that wait for the rate limit of their subscription.
    pub rate_limited: RateLimited,
    /// Lanes that wait for a free attempt slot.
    pub lanes_waiting: IntGauge,
    /// Lanes that wait to read more deliveries from the store.
    pub lanes_waiting_to_read: IntGauge,
    /// Reads of the next deliveries of one conversation, contact or inbox.
    pub lane_order_key_reads: IntCounter,
    /// Memory of the deliveries that all lanes have prefetched, in bytes.
    pub lane_windows_bytes: IntGauge,
    /// Ordered lanes that stopped reading at the limit of order keys.
    pub lanes_out_of_order_keys: IntGauge,
    /// Connections to endpoints.
    pub endpoint_connections: InFlightGauge,
    /// Attempts without a free file descriptor for a connection: made again, and not counted as attempts.
    pub attempts_postponed: IntCounter,
    /// The wall clock was set ahead, and back.
    clock_steps: Vec<IntCounter>,
    /// In the order of [`Listener`].
    accepts_failed: Vec<IntCounter>,
    /// gRPC calls under way.
    pub grpc_calls: InFlightGauge,
    /// Connections of gRPC clients.
    pub grpc_connections: InFlightGauge,
    /// Why those were closed, and the server's certificate.
    pub connections: ConnectionMetrics,
    /// Webhooks received over HTTP.
    pub ingest: IngestMetrics,
    commits: IntCounter,
    commit_seconds: Histogram,
    commit_events: Histogram,
    commit_settlements: Histogram,
    /// Volumes whose details were read from the disk.
    pub volumes_read: IntCounter,
    /// Damaged records that were found, each once.
    pub records_damaged: IntCounter,
    /// Seconds of the sync alone, of any commit.
    pub sync_seconds: Histogram,
    /// In the order of [`AUDIT_OUTCOMES`].
    audit_records: Vec<IntCounter>,
    /// Refused calls without an audit record, because it could not be written.
    pub audit_unrecorded: IntCounter,
    /// Audit records removed because of their age.
    pub audit_removed_for_age: IntCounter,
    /// Audit records removed because of their size.
    pub audit_removed_for_size: IntCounter,
    /// In the order of [`BACKUP_OUTCOMES`].
    backups: Vec<IntCounter>,
    /// In the order of [`NoticeKind`].
    notices: Vec<IntCounter>,
    /// Notices that a sink did not get because too many wait for it.
    pub notices_dropped: IntCounter,
}

impl Metrics {
    /// Creates the metrics of a process that started at `start`.
    pub fn new(start: UnixMicros) -> Arc<Self> {
        let r = &Registry::new();
        let build = labelled_gauges(
            r,
            "tidings_build_info",
            "Always 1. The label is the version that runs.",
            "version",
            &[env!("CARGO_PKG_VERSION")],
        );
        build[0].set(1);
        gauge(r, "process_start_time_seconds", "Start of the process, in seconds since 1970.")
            .set(start.seconds());
        let audit_removed = counters(
            r,
            "tidings_audit_records_removed_total",
            "Audit records removed, by reason: older than retention_age, or beyond the size limit.",
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
                "Events published again with the same id and content, and not stored again.",
            ),
            publishes_refused: counters(
                r,
                "tidings_publishes_refused_total",
                "Refused publishes, by reason. One is a call of PublishEvent or BatchPublishEvents, or one event of a stream.",
                "reason",
                &REFUSAL_REASONS,
            ),
            calls_denied: counters(
                r,
                "tidings_calls_denied_total",
                "Calls rejected by access control, by reason.",
                "reason",
                &CallDenied::ALL.map(CallDenied::label),
            ),
            accept_seconds: histogram(
                r,
                "tidings_accept_duration_seconds",
                "Time from a validated publish to its commit on disk. Refused publishes are left out.",
                ACCEPT_SECONDS,
            ),
            deliveries_created: counter(
                r,
                "tidings_deliveries_created_total",
                "Deliveries created: one for each accepted event and subscription that matches it.",
            ),
            deliveries_settled: counters(
                r,
                "tidings_deliveries_settled_total",
                "Deliveries that reached a final state, by state.",
                "state",
                &ENDS,
            ),
            deliveries_reopened: counter(
                r,
                "tidings_deliveries_reopened_total",
                "Deliveries in a final state that RetryDelivery or ReplayDeliveries queued again.",
            ),
            deliveries_dropped: counter(
                r,
                "tidings_deliveries_dropped_total",
                "Unfinished deliveries deleted with their subscription, or removed with a damaged index.",
            ),
            attempts: counters(
                r,
                "tidings_attempts_total",
                "Delivery attempts, by outcome. Without those of TestSubscription.",
                "outcome",
                &OUTCOMES,
            ),
            attempt_seconds: histogram(
                r,
                "tidings_attempt_duration_seconds",
                "Duration of an attempt, whatever its outcome.",
                ATTEMPT_SECONDS,
            ),
            arrival_seconds: histogram(
                r,
                "tidings_publish_to_arrival_seconds",
                "Time from an event's create_time to the 2xx response to a first attempt.",
                ARRIVAL_SECONDS,
            ),
            attempts_in_flight: InFlightGauge::new(gauge(
                r,
                "tidings_attempts_in_flight",
                "Delivery attempts under way.",
            )),
            lanes_active: gauge(
                r,
                "tidings_lanes_active",
                "Subscriptions with work in memory: deliveries to send or under way, or a retry to wait for.",
            ),
            lanes_slowed: gauge(
                r,
                "tidings_lanes_slowed",
                "Subscriptions that are throttled because their endpoint asked for it or did not respond.",
            ),
            rate_limited: RateLimited::new(gauge(
                r,
                "tidings_lanes_rate_limited",
                "Subscriptions whose deliveries wait for their own rate_limit.",
            )),
            lanes_waiting: gauge(
                r,
                "tidings_lanes_waiting",
                "Subscriptions that wait for a free attempt slot.",
            ),
            lanes_waiting_to_read: gauge(
                r,
                "tidings_lanes_waiting_to_read",
                "Subscriptions that wait to read more deliveries from the store, at the limit of concurrent reads.",
            ),
            lane_order_key_reads: counter(
                r,
                "tidings_lane_order_key_reads_total",
                "Reads for one conversation of an ordered subscription that has more deliveries than its part of the prefetch.",
            ),
            lane_windows_bytes: gauge(
                r,
                "tidings_lane_windows_bytes",
                "Memory of prefetched deliveries, in bytes, approximately.",
            ),
            lanes_out_of_order_keys: gauge(
                r,
                "tidings_lanes_out_of_order_keys",
                "Ordered subscriptions that stopped reading because too many of their conversations wait.",
            ),
            endpoint_connections: InFlightGauge::new(gauge(
                r,
                "tidings_endpoint_connections",
                "Connections to endpoints, in use and idle.",
            )),
            attempts_postponed: counter(
                r,
                "tidings_attempts_postponed_total",
                "Attempts that had no file descriptor for a connection. They are made again, and count as attempts nowhere else.",
            ),
            clock_steps: counters(
                r,
                "tidings_clock_steps_total",
                "Times that the wall clock was set by a minute or more while the gateway ran, by direction.",
                "direction",
                &["ahead", "back"],
            ),
            accepts_failed: counters(
                r,
                "tidings_accepts_failed_total",
                "Failures to accept a connection, as without a free file descriptor, by listener. Accepting pauses for a moment.",
                "listener",
                &connections::LISTENERS,
            ),
            grpc_calls: InFlightGauge::new(gauge(
                r,
                "tidings_grpc_calls_in_flight",
                "gRPC calls under way, without open streams.",
            )),
            grpc_connections: InFlightGauge::new(gauge(
                r,
                "tidings_grpc_connections",
                "Open connections of gRPC clients.",
            )),
            connections: ConnectionMetrics::new(r),
            ingest: IngestMetrics::new(r),
            commits: counter(r, "tidings_commits_total", "Commits of events and settlements to the disk."),
            commit_seconds: histogram(
                r,
                "tidings_commit_duration_seconds",
                "Duration of a commit, from the first write to the end of fdatasync.",
                COMMIT_SECONDS,
            ),
            volumes_read: counter(
                r,
                "tidings_volumes_read_total",
                "Volumes (blocks of a few thousand events) whose details were read from disk, mostly for list calls.",
            ),
            records_damaged: counter(
                r,
                "tidings_records_damaged_total",
                "Records that the disk has lost, each counted when it is first read. See the log for what they were.",
            ),
            sync_seconds: histogram(
                r,
                "tidings_sync_duration_seconds",
                "Duration of flush and fdatasync, for commits, audit records, and changes of subscriptions and access tokens.",
                COMMIT_SECONDS,
            ),
            commit_events: histogram(r, "tidings_commit_events", "Events per commit.", COMMIT_RECORDS),
            commit_settlements: histogram(
                r,
                "tidings_commit_settlements",
                "Settlements per commit.",
                COMMIT_RECORDS,
            ),
            audit_records: counters(
                r,
                "tidings_audit_records_total",
                "Calls on record, by outcome; repeats of what changed nothing share a record.",
                "outcome",
                &AUDIT_OUTCOMES,
            ),
            audit_unrecorded: counter(
                r,
                "tidings_audit_unrecorded_total",
                "Refused calls without an audit record: the disk was full, or too many records waited to be written.",
            ),
            audit_removed_for_age: audit_removed[0].clone(),
            audit_removed_for_size: audit_removed[1].clone(),
            backups: counters(
                r,
                "tidings_backups_total",
                "Backups that ended: sent whole, or cut off by their caller or a failure.",
                "outcome",
                &BACKUP_OUTCOMES,
            ),
            notices: counters(
                r,
                "tidings_notices_total",
                "Notices stored for sinks, by kind. One for several sinks counts once.",
                "kind",
                &NoticeKind::all().map(NoticeKind::name).collect::<Vec<_>>(),
            ),
            notices_dropped: counter(
                r,
                "tidings_notices_dropped_total",
                "Notices that a sink did not get because 10,000 wait for it.",
            ),
            delivery_stats: DeliveryStats::new(start),
            store: OnceLock::new(),
            registry: r.clone(),
        })
    }

    /// Counts a step of the wall clock by so many microseconds.
    pub fn clock_stepped(&self, micros: i64) {
        self.clock_steps[usize::from(micros < 0)].inc();
    }

    /// Counts a failure to accept a connection.
    pub fn accept_failed(&self, listener: Listener) {
        self.accepts_failed[listener as usize].inc();
    }

    /// Counts a stored event and its deliveries. `event_type` is the number of its [`EventType`].
    pub fn event_accepted(&self, event_type: i32, deliveries: usize) {
        self.deliveries_created.inc_by(deliveries as u64);
        let index = usize::try_from(event_type - 1).ok();
        if let Some(counter) = index.and_then(|index| self.events_accepted.get(index)) {
            counter.inc();
        }
    }

    /// Counts a refused publish. Unknown reasons are counted as `OTHER`.
    pub fn publish_refused(&self, reason: &str) {
        let listed = REFUSAL_REASONS.iter().position(|listed| *listed == reason);
        self.publishes_refused[listed.unwrap_or(REFUSAL_REASONS.len() - 1)].inc();
    }

    /// Counts a notice that was stored for sinks.
    pub fn notice_stored(&self, kind: NoticeKind) {
        self.notices[kind.index()].inc();
    }

    /// Counts a backup that ended.
    pub fn backup_ended(&self, is_complete: bool) {
        self.backups[usize::from(!is_complete)].inc();
    }

    /// Counts calls that an audit record of this outcome stands for.
    pub fn audited(&self, outcome: AuditOutcome, calls: u64) {
        let index = match outcome {
            AuditOutcome::Unknown => 0,
            AuditOutcome::Ok => 1,
            AuditOutcome::Refused => 2,
        };
        self.audit_records[index].inc_by(calls);
    }

    /// Counts an attempt to deliver `event`. The arrival time is measured for first attempts.
    pub fn attempt_ended(&self, event: &StoredEvent, attempt: &Attempt, is_first: bool) {
        self.attempts[outcome_index(attempt.outcome)].inc();
        if !attempt.outcome.is_of_request() {
            return; // Nothing was sent.
        }
        self.attempt_seconds.observe(attempt.duration.as_secs_f64());
        if is_first && attempt.outcome == Outcome::Ok {
            let end = attempt.start_time.plus(attempt.duration);
            self.arrival_seconds.observe(end.since(event.create_time).as_secs_f64());
        }
    }

    /// Counts a change of a delivery's state. `was_owed` is true if it was pending or retrying before.
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

    /// Counts a commit with its numbers of events and settlements.
    pub fn committed(&self, events: usize, settlements: usize, took: Duration) {
        self.commits.inc();
        self.commit_seconds.observe(took.as_secs_f64());
        self.commit_events.observe(count(events));
        self.commit_settlements.observe(count(settlements));
    }

    /// Calls `report` for the store's figures whenever the text is rendered. `report` calls its argument
    /// while the store cannot change, so that gauges and counters add up; it does not call it once the store
    /// is gone. Only the first call of this method has an effect.
    pub fn watch_store(&self, report: impl Fn(&mut dyn FnMut(&StoreReport)) + Send + Sync + 'static) {
        self.store.get_or_init(|| (StoreGauges::new(&self.registry), Box::new(report)));
    }

    /// Renders all metrics. Asks the store, which may read the disk: call it where blocking is allowed.
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

fn outcome_index(outcome: Outcome) -> usize {
    match outcome {
        Outcome::Ok => 0,
        Outcome::HttpStatus => 1,
        Outcome::Timeout => 2,
        Outcome::Connect => 3,
        Outcome::Io => 4,
        Outcome::Blocked => 5,
        Outcome::Damaged => 6,
        Outcome::Expired => 7,
    }
}

/// A count as a histogram observes it. The counts of a commit are far below 2^32.
fn count(records: usize) -> f64 {
    u32::try_from(records).map_or(f64::INFINITY, f64::from)
}

#[cfg(test)]
mod tests;
