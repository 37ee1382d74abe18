//! Use case of backups: copy everything while publishing goes on.

use std::{sync::Arc, time::Duration};

use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use super::{Gateway, GatewayError};
use crate::{
    domain::time::UnixMicros,
    metrics::Metrics,
    store::{Backup, BackupPart},
};

/// Most backups at once: each keeps removed log files on the disk until it has read them.
pub const BACKUPS_MAX: usize = 1;
/// Longest time of a backup, for the same reason.
pub const BACKUP_TIME_MAX: Duration = Duration::from_hours(12);

/// A backup that has begun.
pub struct BackupRun {
    gateway: Gateway,
    backup: Backup,
    progress: Progress,
    _permit: OwnedSemaphorePermit,
}

/// What is logged and counted when the backup ends, also if its caller goes away.
struct Progress {
    metrics: Arc<Metrics>,
    began: Instant,
    bytes: u64,
    is_complete: bool,
}

impl Gateway {
    /// Begins a backup.
    ///
    /// # Errors
    ///
    /// Another one is running, the store is in memory only, or its disk failed.
    pub async fn begin_backup(&self) -> Result<BackupRun, GatewayError> {
        let permit = Arc::clone(&self.0.backups).try_acquire_owned();
        let permit = permit.map_err(|_| GatewayError::BackupRunning)?;
        let backup = self.0.store.begin_backup().await?;
        tracing::info!(backup.bytes = backup.bytes, "a backup begins");
        let metrics = Arc::clone(&self.0.metrics);
        let progress = Progress { metrics, began: Instant::now(), bytes: 0, is_complete: false };
        Ok(BackupRun { gateway: self.clone(), backup, progress, _permit: permit })
    }
}

impl BackupRun {
    /// The format of the files.
    pub fn format(&self) -> u32 {
        self.backup.format
    }

    /// The moment that the backup is of.
    pub fn time(&self) -> UnixMicros {
        self.backup.time
    }

    /// Bytes of all files, without those of the audit records.
    pub fn bytes(&self) -> u64 {
        self.backup.bytes
    }

    /// Reads the next part; `None` at the end. Dropping it ends the backup.
    ///
    /// # Errors
    ///
    /// The disk could not be read, or the backup takes too long. It is over then.
    pub async fn next(mut self) -> Result<(Self, Option<BackupPart>), GatewayError> {
        if self.progress.began.elapsed() > BACKUP_TIME_MAX {
            return Err(GatewayError::BackupTooSlow(BACKUP_TIME_MAX));
        }
        let gateway = self.gateway.clone();
        let read = gateway.read(move |_| {
            let part = self.backup.parts.next().transpose()?;
            Ok((self, part))
        });
        let (mut run, part) = read.await?;
        match &part {
            Some(BackupPart::Data(data)) => run.progress.bytes += data.len() as u64,
            Some(_) => {}
            None => run.progress.is_complete = true,
        }
        Ok((run, part))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        let Self { metrics, began, bytes, is_complete } = self;
        metrics.backup_ended(*is_complete);
        let seconds = began.elapsed().as_secs_f64();
        if *is_complete {
            tracing::info!(backup.bytes = bytes, backup.seconds = seconds, "a backup was sent whole");
        } else {
            tracing::warn!(
                backup.bytes = bytes,
                backup.seconds = seconds,
                "a backup was not completed: its caller is gone, or it failed"
            );
        }
    }
}
