//! The disk without a gateway.

use std::{fs::File, io::Write, time::Instant};

use anyhow::Context;
use prost::Message;

use crate::load::{account, now_micros, stamped};

/// Durable events per second, `batch` at a time.
pub fn measure(batch: usize, writes: u64) -> anyhow::Result<f64> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).context("cannot create a directory")?;
    let mut file = File::create(dir.path().join("appended"))?;
    let event = stamped(account(0), 1, now_micros()).encode_to_vec();
    let write = event.repeat(batch);
    let start = Instant::now();
    for _ in 0..writes {
        file.write_all(&write)?;
        file.sync_data()?;
    }
    Ok(writes as f64 * batch as f64 / start.elapsed().as_secs_f64())
}
