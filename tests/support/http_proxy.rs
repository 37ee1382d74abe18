//! An HTTP proxy: tunnels, and requests that are passed on one by one. It resolves every name to this
//! machine.

use std::{io, net::Ipv4Addr};

use tokio::{
    io::{AsyncWriteExt, BufReader, copy_bidirectional},
    net::TcpStream,
};

use super::receiver::{Connection, Receiver, read_message};

/// A proxy, whose requests are noted. It serves everybody, or only clients with this `Proxy-Authorization`.
pub async fn http_proxy(authorization: Option<&'static str>) -> Receiver {
    // A connection ends when either side does.
    Receiver::on_connections(move |client| async move { drop(serve(client, authorization).await) }).await
}

async fn serve(mut client: Connection, authorization: Option<&str>) -> io::Result<()> {
    while let Some(request) = client.request().await {
        let shown = request.headers.get("proxy-authorization").and_then(|value| value.to_str().ok());
        if authorization.is_some() && shown != authorization {
            client.send("HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 3\r\n\r\nwho").await;
            return Ok(());
        }
        if request.method == "CONNECT" {
            let mut endpoint = connect(&request.path).await?;
            client.send("HTTP/1.1 200 Connection established\r\nvia: 1.1 test\r\n\r\n").await;
            copy_bidirectional(&mut client.stream, &mut endpoint).await?;
            return Ok(());
        }
        let rest = request.path.strip_prefix("http://").expect("the whole URL");
        let (authority, path) = rest.split_at(rest.find('/').expect("a path"));
        let lines = request.head.split_inclusive("\r\n").skip(1);
        let headers: String = lines.filter(|line| !line.starts_with("proxy-")).collect();
        let mut endpoint = BufReader::new(connect(authority).await?);
        let passed_on = format!("{} {path} HTTP/1.1\r\n{headers}{}", request.method, request.body);
        endpoint.write_all(passed_on.as_bytes()).await?;
        let (head, _, body) = read_message(&mut endpoint).await?;
        client.send([head.into_bytes(), body].concat()).await;
    }
    Ok(())
}

/// Connects to this machine, for every name.
async fn connect(authority: &str) -> io::Result<TcpStream> {
    let (_, port) = authority.rsplit_once(':').expect("a port");
    TcpStream::connect((Ipv4Addr::LOCALHOST, port.parse().expect("a port is a number"))).await
}
