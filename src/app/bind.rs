//! Binding the addresses that the settings name.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::net::TcpListener;

/// Binds a listener. `setting` names the address in the error.
pub(super) async fn bind(address: SocketAddr, setting: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        let flag = setting.replace('_', "-");
        format!("cannot listen on {setting} {address} (choose another address with --{flag}; port 0 is any free one)")
    })
}
