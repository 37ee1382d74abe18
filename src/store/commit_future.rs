//! The future of a write.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::sync::oneshot;

use super::error::StoreError;

/// The result of a write, once it is durable. Dropping it does not undo the write.
#[derive(Debug)]
pub struct CommitFuture<T>(oneshot::Receiver<Result<T, StoreError>>);

impl<T> CommitFuture<T> {
    /// A future and the sender that resolves it.
    pub fn pair() -> (oneshot::Sender<Result<T, StoreError>>, Self) {
        let (sender, receiver) = oneshot::channel();
        (sender, Self(receiver))
    }

    /// A future that is resolved already.
    pub fn ready(result: Result<T, StoreError>) -> Self {
        let (sender, commit) = Self::pair();
        drop(sender.send(result));
        commit
    }
}

impl<T> Future for CommitFuture<T> {
    type Output = Result<T, StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // A sender that was dropped means that the writer has stopped.
        Pin::new(&mut self.0).poll(context).map(|result| result.unwrap_or(Err(StoreError::Closed)))
    }
}
