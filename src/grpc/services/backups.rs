//! `BackupService`.

use std::pin::Pin;

use futures_util::{Stream, stream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{
    gateway::{BackupPart, BackupRun, FileSum},
    grpc::wire::{audited::AuditedCalls, status::GrpcError},
    proto::v1::{
        self, backup_service_server::BackupService, create_backup_response as response,
        create_backup_response::Part,
    },
};

/// Handler of the call about backups.
pub(in crate::grpc) struct Backups {
    pub(in crate::grpc) audited: AuditedCalls,
    pub(in crate::grpc) shutdown: CancellationToken,
}

#[tonic::async_trait]
impl BackupService for Backups {
    type CreateBackupStream = Pin<Box<dyn Stream<Item = Result<v1::CreateBackupResponse, Status>> + Send>>;

    async fn create_backup(
        &self,
        request: Request<v1::CreateBackupRequest>,
    ) -> Result<Response<Self::CreateBackupStream>, Status> {
        let begun = self.audited.run(
            request,
            |_, fields, _| fields.grant().check_all_accounts("a backup"),
            async |gateway, ()| Ok(gateway.begin_backup().await?),
        );
        let steps = (Step::Start(begun.await?.into_inner()), self.shutdown.clone());
        let responses = stream::try_unfold(steps, async |(step, shutdown)| {
            let next = step.next(&shutdown).await?;
            let response = |part| v1::CreateBackupResponse { part: Some(part) };
            Ok(next.map(|(part, step)| (response(part), (step, shutdown))))
        });
        Ok(Response::new(Box::pin(responses)))
    }
}

/// How far the responses have come.
enum Step {
    /// Nothing was sent.
    Start(BackupRun),
    /// This many files were sent.
    Files(BackupRun, i32),
    /// Everything was sent.
    Over,
}

impl Step {
    async fn next(self, shutdown: &CancellationToken) -> Result<Option<(Part, Self)>, Status> {
        let (run, count) = match self {
            Self::Start(run) => {
                let start = response::Start {
                    format: i32::try_from(run.format()).unwrap_or(i32::MAX),
                    create_time: Some(run.time().into()),
                    size_bytes: i64::try_from(run.bytes()).unwrap_or(i64::MAX),
                };
                return Ok(Some((Part::Start(start), Self::Files(run, 0))));
            }
            Self::Files(run, count) => (run, count),
            Self::Over => return Ok(None),
        };
        let read = shutdown.run_until_cancelled(run.next()).await;
        let (run, part) = read.ok_or_else(GrpcError::shutting_down)?.map_err(GrpcError::from)?;
        let (part, count) = match part {
            Some(BackupPart::File(path)) => (Part::File(response::File { path }), count),
            Some(BackupPart::Data(data)) => (Part::Data(data), count),
            Some(BackupPart::FileEnd(FileSum { bytes, checksum })) => {
                let size_bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
                (Part::FileEnd(response::FileEnd { size_bytes, checksum }), count + 1)
            }
            None => return Ok(Some((Part::End(response::End { file_count: count }), Self::Over))),
        };
        Ok(Some((part, Self::Files(run, count))))
    }
}
