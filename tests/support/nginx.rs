//! A real nginx in front of a receiver, as a reverse proxy that speaks HTTP/2 over TLS.

use std::{fs, net::SocketAddr, process::Stdio, time::Duration};

use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time::sleep,
};

use super::{POLL_INTERVAL, certificates::Authority, closed_address, skipped};

/// An nginx that runs. Killed when it is dropped.
pub struct Nginx {
    pub address: SocketAddr,
    pub authority: Authority,
    _process: Child,
    _files: TempDir,
}

impl Nginx {
    /// Starts one that passes every request on to `receiver`; `server` has more lines of its configuration.
    /// `None` where nginx is not installed.
    pub async fn in_front_of(receiver: SocketAddr, server: &str) -> Option<Self> {
        let authority = Authority::new();
        let files = tempfile::tempdir().unwrap();
        authority.server("localhost").write(files.path());
        loop {
            let address = closed_address();
            let configuration = configuration(&files, address, receiver, server);
            fs::write(files.path().join("nginx.conf"), configuration).unwrap();
            let mut command = Command::new("nginx");
            command.arg("-p").arg(files.path()).args(["-c", "nginx.conf", "-e", "error.log"]);
            // Where Debian has it is not on everybody's path.
            let path = std::env::var("PATH").unwrap_or_default();
            command.env("PATH", format!("{path}:/usr/sbin")).stdin(Stdio::null()).kill_on_drop(true);
            let mut process = match command.spawn() {
                Ok(process) => process,
                Err(error) => {
                    skipped(&format!("nginx cannot be started: {error}"));
                    return None;
                }
            };
            while process.try_wait().unwrap().is_none() {
                if TcpStream::connect(address).await.is_ok() {
                    return Some(Self { address, authority, _process: process, _files: files });
                }
                sleep(POLL_INTERVAL).await;
            }
            let log = fs::read_to_string(files.path().join("error.log")).unwrap_or_default();
            assert!(log.contains("bind()"), "nginx ended: {log}");
            // Somebody else took the port meanwhile.
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// A URL that leads there.
    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }
}

fn configuration(files: &TempDir, address: SocketAddr, receiver: SocketAddr, server: &str) -> String {
    let files = files.path().display();
    format!(
        "daemon off;
        master_process off;
        pid {files}/nginx.pid;
        error_log {files}/error.log;
        events {{}}
        http {{
            access_log off;
            client_body_temp_path {files}/body;
            proxy_temp_path {files}/proxy;
            fastcgi_temp_path {files}/fastcgi;
            uwsgi_temp_path {files}/uwsgi;
            scgi_temp_path {files}/scgi;
            server {{
                listen {address} ssl http2;
                ssl_certificate {files}/cert.pem;
                ssl_certificate_key {files}/key.pem;
                {server}
                location / {{ proxy_pass http://{receiver}; }}
            }}
        }}"
    )
}
