//! A DNS server for the tests, and how a gateway is made to ask it.
//!
//! A gateway resolves names as its system does. So it runs in a mount namespace with other files at
//! `/etc/resolv.conf` and `/etc/nsswitch.conf`. That takes root, or a system that gives everybody namespaces;
//! elsewhere the tests say that they were skipped.

use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex},
};

use tempfile::TempDir;
use tokio::{net::UdpSocket, process::Command, task::JoinSet};

use super::skipped;

/// The types of records that are asked for here.
const A: u16 = 1;
const AAAA: u16 = 28;

/// Mounts the files, then runs the command that follows.
const SCRIPT: &str = r#"
mount --bind "$1/resolv.conf" /etc/resolv.conf && mount --bind "$1/nsswitch.conf" /etc/nsswitch.conf || exit
shift
exec "$@"
"#;

/// A DNS server on an address of its own. It ends when it is dropped.
pub struct DnsServer {
    shared: Arc<Mutex<Names>>,
    before: Vec<String>,
    _files: TempDir,
    _serving: JoinSet<()>,
}

#[derive(Default)]
struct Names {
    known: HashMap<String, Name>,
    /// Names that end so get no response.
    silent: Option<String>,
    /// Those of them that were looked up.
    asked_in_vain: BTreeSet<String>,
}

#[derive(Default)]
struct Name {
    /// Its addresses at one look-up after another; from the first again at the end.
    rounds: Vec<Vec<IpAddr>>,
    /// How often it was looked up, by type.
    look_ups: HashMap<u16, usize>,
}

impl DnsServer {
    /// Starts one. `None` where the system does not let these tests run.
    pub async fn start() -> Option<Self> {
        let (address, socket) = match bind().await {
            Ok(bound) => bound,
            Err(error) => {
                skipped(&format!("port 53 cannot be had: {error}"));
                return None;
            }
        };
        let files = tempfile::tempdir().unwrap();
        fs::write(files.path().join("resolv.conf"), format!("nameserver {address}\n")).unwrap();
        fs::write(files.path().join("nsswitch.conf"), "hosts: files dns\n").unwrap();
        let Some(before) = in_namespace(files.path()).await else {
            skipped("files in /etc cannot be replaced for a gateway alone");
            return None;
        };
        let shared = Arc::<Mutex<Names>>::default();
        let (names, mut serving) = (Arc::clone(&shared), JoinSet::new());
        serving.spawn(async move { serve(&socket, &names).await });
        Some(Self { shared, before, _files: files, _serving: serving })
    }

    /// From now on `name` leads to these addresses, in turn: the first at the next look-up, the second at the
    /// one after it.
    pub fn set(&self, name: &str, rounds: Vec<Vec<IpAddr>>) {
        let look_ups = HashMap::new();
        self.shared.lock().unwrap().known.insert(name.to_owned(), Name { rounds, look_ups });
    }

    /// From now on names that end so get no response.
    pub fn silence(&self, zone: &str) {
        self.shared.lock().unwrap().silent = Some(zone.to_owned());
    }

    /// Names without a response that were looked up.
    pub fn asked_in_vain(&self) -> BTreeSet<String> {
        self.shared.lock().unwrap().asked_in_vain.clone()
    }

    /// How often the name was looked up since it was set.
    pub fn look_ups(&self, name: &str) -> usize {
        self.shared.lock().unwrap().known[name].look_ups.get(&A).copied().unwrap_or_default()
    }

    /// The words before a command that make it ask this server.
    pub fn before(&self) -> &[String] {
        &self.before
    }
}

/// Takes port 53 of a loopback address that nobody else has.
async fn bind() -> io::Result<(Ipv4Addr, UdpSocket)> {
    let mut last = None;
    for number in 1..=254 {
        let address = Ipv4Addr::new(127, 53, 53, number);
        match UdpSocket::bind((address, 53)).await {
            Ok(socket) => return Ok((address, socket)),
            Err(error) => last = Some(error),
        }
    }
    Err(last.expect("there are many"))
}

/// The words before a command that make it see these files in `/etc`: as root, or as a user who may become
/// root in a namespace.
async fn in_namespace(files: &Path) -> Option<Vec<String>> {
    let files = files.to_str().expect("temporary paths are UTF-8");
    for options in [&["--mount"][..], &["--map-root-user", "--mount"]] {
        let words = [&["unshare"], options, &["sh", "-c", SCRIPT, "sh", files]].concat();
        let mut trying = Command::new(words[0]);
        trying.args(&words[1..]).arg("true").stdin(Stdio::null()).stderr(Stdio::null());
        if trying.status().await.is_ok_and(|status| status.success()) {
            return Some(words.into_iter().map(str::to_owned).collect());
        }
    }
    None
}

async fn serve(socket: &UdpSocket, names: &Mutex<Names>) {
    let mut buffer = [0; 512];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
        let response = respond(&buffer[..length], &mut names.lock().unwrap());
        if let Some(response) = response {
            socket.send_to(&response, from).await.unwrap();
        }
    }
}

/// The response to a query: addresses, none of this type, or that there is no such name.
fn respond(query: &[u8], names: &mut Names) -> Option<Vec<u8>> {
    const HEADER_BYTES: usize = 12;
    const NO_SUCH_NAME: u8 = 3;
    let (mut labels, mut at) = (Vec::new(), HEADER_BYTES);
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(std::str::from_utf8(&query[at + 1..end]).unwrap().to_lowercase());
        at = end;
    }
    // The end of the name, the type, the class.
    let question = &query[HEADER_BYTES..at + 5];
    let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);

    let name = labels.join(".");
    if names.silent.as_ref().is_some_and(|zone| name.ends_with(zone)) {
        names.asked_in_vain.insert(name);
        return None;
    }
    let found = names.known.get_mut(&name).map(|name| name.look_up(kind));
    let records = found.clone().unwrap_or_default();
    let code = if found.is_some() { 0 } else { NO_SUCH_NAME };
    // A response, with authority, recursion as asked for and available.
    let mut response = vec![query[0], query[1], 0x84 | (query[2] & 1), 0x80 | code, 0, 1];
    response.extend(u16::try_from(records.len()).unwrap().to_be_bytes());
    response.extend([0; 4]);
    response.extend(question);
    for address in records {
        let bytes = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        // The name of the question, the type, the class, no time to live.
        response.extend([0xc0, 12]);
        response.extend(kind.to_be_bytes());
        response.extend([0, 1, 0, 0, 0, 0]);
        response.extend(u16::try_from(bytes.len()).unwrap().to_be_bytes());
        response.extend(bytes);
    }
    Some(response)
}

impl Name {
    fn look_up(&mut self, kind: u16) -> Vec<IpAddr> {
        let look_ups = self.look_ups.entry(kind).or_default();
        let round = &self.rounds[*look_ups % self.rounds.len()];
        *look_ups += 1;
        let of_the_kind = |address: &&IpAddr| matches!((kind, address.is_ipv4()), (A, true) | (AAAA, false));
        round.iter().filter(of_the_kind).copied().collect()
    }
}
