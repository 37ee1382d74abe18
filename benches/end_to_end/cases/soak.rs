//! Events are stored and deleted by retention for a long time: do rate, memory or disk change?

use super::{Figure, figure, megabytes};
use crate::{gateway::Start, load::Way, measure::Rig, wire::Expected};

/// A long load.
#[derive(Clone, Copy, Debug)]
pub struct Soak {
    /// Events in all.
    pub events: u64,
    /// Events that retention keeps, approximately.
    pub kept: u64,
}

const PARTS: u64 = 10;
/// One event a call, so that publishing is not faster than delivering. Otherwise the store fills with
/// unfinished deliveries, and publishes are refused.
const WAY: Way = Way::Unary { in_flight: 256 };
/// Approximate encoded bytes of an event with its attempt, to derive the bytes that retention keeps.
const EVENT_BYTES: u64 = 1_000;
/// The smallest possible store.
const KEPT_BYTES_MIN: u64 = 16 * 1024 * 1024;

impl Soak {
    pub(super) fn name(&self) -> String {
        format!("soak of {}, {} kept", self.events, self.kept)
    }

    pub(super) fn run(&self, start: &Start) -> anyhow::Result<Vec<Figure>> {
        const ENDPOINTS: usize = 8;
        let kept_bytes = (self.kept * EVENT_BYTES).max(KEPT_BYTES_MIN);
        let start = start.with("retention_bytes_max", &kept_bytes.to_string());
        let mut rig = Rig::start(&start)?;
        rig.subscribe(ENDPOINTS, false)?;
        let events = self.events / PARTS;
        let expected = Expected { events, endpoints: ENDPOINTS, fan_out: false, hanging: None };
        rig.warm_up(expected)?;
        let (mut figures, mut rates, mut disks) = (Vec::new(), Vec::new(), Vec::new());
        for part in 1..=PARTS {
            let round = rig.round(WAY, expected)?;
            let took = (round.settled - round.published.first) as f64 / 1e6;
            let (rate, disk) = (events as f64 / took, rig.gateway.metric("tidings_store_disk_bytes")?);
            let memory = rig.gateway.usage()?.resident_bytes;
            figures.push(figure(format!("part {part}: settled"), rate, "/s"));
            figures.push(figure(format!("part {part}: disk"), disk / 1e6, "MB"));
            figures.push(figure(format!("part {part}: memory"), megabytes(memory), "MB"));
            rates.push(rate);
            disks.push(disk);
        }
        let (first, last) = (rates[0], rates[rates.len() - 1]);
        let disk_max = disks.iter().copied().fold(0.0, f64::max);
        figures.extend([
            figure("last part's rate of the first's", last / first, ""),
            figure("bytes kept at most, encoded", megabytes(kept_bytes), "MB"),
            figure("largest disk of the bytes kept", disk_max / kept_bytes as f64, ""),
            figure("disk at the end of the bytes kept", disks[disks.len() - 1] / kept_bytes as f64, ""),
            figure("memory, peak", megabytes(rig.gateway.usage()?.resident_bytes_max), "MB"),
        ]);
        Ok(figures)
    }
}
