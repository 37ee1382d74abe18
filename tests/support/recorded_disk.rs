//! What a power cut may leave of a directory: a gateway is run with `interposer/recorder.c`, which records every
//! call that changes a file; from any beginning of the record, the states are made that the directory could have
//! after a power cut there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
};

use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};

/// One call that changed something, or a mark of the test.
#[derive(Clone, Debug)]
pub enum Operation {
    /// A file was made.
    Create(PathBuf),
    /// A file got this length.
    SetLength(PathBuf, usize),
    /// Bytes were written at an offset.
    Write(PathBuf, usize, Vec<u8>),
    /// A file or a directory was synced.
    Sync(PathBuf),
    Rename(PathBuf, PathBuf),
    /// A file or a directory was removed.
    Remove(PathBuf),
    MakeDir(PathBuf),
    /// What the test noted at this place ([`Recording::mark`]).
    Mark(String),
}

impl Operation {
    /// Whether it changes which files there are, or makes something durable: the places where a power cut does
    /// most.
    pub fn is_rare(&self) -> bool {
        !matches!(self, Self::Write(..) | Self::Mark(_))
    }
}

/// A record that grows.
#[derive(Clone)]
pub struct Recording {
    file: PathBuf,
    dir: PathBuf,
}

const KIND_OF_MARK: u8 = b'm';

impl Recording {
    /// Of what is done below `dir` (an absolute path), in this file.
    pub fn new(file: PathBuf, dir: &Path) -> Self {
        Self { file, dir: dir.to_owned() }
    }

    /// The environment of a gateway that is to be recorded, beside the library itself.
    pub fn variables(&self) -> [(&'static str, String); 2] {
        let text = |path: &Path| path.to_str().expect("paths of tests are UTF-8").to_owned();
        [("RECORD", text(&self.file)), ("RECORDED_DIR", text(&self.dir))]
    }

    /// Notes something after everything that has happened so far, and before everything that begins later.
    pub fn mark(&self, text: &str) {
        let length = u32::try_from(text.len()).expect("marks are short");
        let mut entry = vec![KIND_OF_MARK];
        entry.extend([0; 8]);
        entry.extend(0_u32.to_le_bytes());
        entry.extend(length.to_le_bytes());
        entry.extend(text.as_bytes());
        let file = File::options().append(true).create(true).open(&self.file);
        file.and_then(|mut file| file.write_all(&entry)).expect("there is room");
    }

    /// Everything so far. Paths are relative to the directory.
    pub fn operations(&self) -> Vec<Operation> {
        let bytes = fs::read(&self.file).expect("something was recorded");
        let (mut rest, mut operations) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            let kind = rest[0];
            let number = u64::from_le_bytes(rest[1..9].try_into().expect("8 bytes"));
            let lengths =
                [9, 13].map(|at| u32::from_le_bytes(rest[at..at + 4].try_into().expect("4 bytes")) as usize);
            let (first, after) = rest[17..].split_at(lengths[0]);
            let (second, after) = after.split_at(lengths[1]);
            rest = after;
            let number = usize::try_from(number).expect("64 bits");
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("paths of tests are UTF-8");
            if kind == KIND_OF_MARK {
                operations.push(Operation::Mark(text(second)));
                continue;
            }
            let path = |bytes| {
                let path = PathBuf::from(text(bytes));
                path.strip_prefix(&self.dir).expect("only calls below it are recorded").to_owned()
            };
            let at = path(first);
            if first.ends_with(b" (deleted)") {
                continue; // It has no name any more: nobody finds it after a power cut.
            }
            operations.push(match kind {
                b'c' => Operation::Create(at),
                b't' => Operation::SetLength(at, number),
                b'w' => Operation::Write(at, number, second.to_vec()),
                b's' => Operation::Sync(at),
                b'r' => Operation::Rename(at, path(second)),
                b'u' | b'x' => Operation::Remove(at),
                b'd' => Operation::MakeDir(at),
                other => panic!("no kind of entry: {other}"),
            });
        }
        operations
    }
}

/// What becomes of that which was not synced before the power was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unsynced {
    /// All is there.
    Kept,
    /// Nothing is there: no byte that its file's last sync does not cover, no name that its directory's last sync
    /// does not cover.
    Dropped,
    /// As above, but a sync of anything made all names durable until then, as file systems with a journal do.
    DroppedBehindJournal,
    /// Names are there, but none of the bytes.
    BytesDropped,
    /// Names and lengths of files are there, with zeros for bytes.
    BytesZeroed,
    /// Bytes are there, but no name that its directory's last sync does not cover.
    NamesDropped,
    /// Any of the sectors of each write are there, and all names.
    Torn,
    /// Any of the sectors of each write are there, and names as of the last sync.
    TornBehindJournal,
    /// Any of the writes are there, whatever their order, and the first so many of the changes of names.
    Reordered,
}

impl Unsynced {
    pub const ALL: [Self; 9] = [
        Self::Kept,
        Self::Dropped,
        Self::DroppedBehindJournal,
        Self::BytesDropped,
        Self::BytesZeroed,
        Self::NamesDropped,
        Self::Torn,
        Self::TornBehindJournal,
        Self::Reordered,
    ];
}

/// A file's or a directory's number: it keeps it when it is renamed.
type Node = usize;
/// The names of each directory.
type Names = BTreeMap<Node, BTreeMap<String, Node>>;

const ROOT: Node = 0;

#[derive(Clone)]
enum Change {
    Write(usize, Vec<u8>),
    SetLength(usize),
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write(at, bytes) => write_at(content, *at, bytes),
            Self::SetLength(length) => content.resize(*length, 0),
        }
    }
}

fn write_at(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[at..end].copy_from_slice(bytes);
}

#[derive(Default)]
struct Content {
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

impl Content {
    fn whole(&self) -> Vec<u8> {
        let mut content = self.durable.clone();
        for change in &self.unsynced {
            change.apply(&mut content);
        }
        content
    }
}

/// A change of names: the directory, the name, and the node that has it from then on.
type NameChange = (Node, String, Option<Node>);

/// A directory as of a place in a record, with what is durable of it.
pub struct RecordedDisk {
    files: BTreeMap<Node, Content>,
    next: Node,
    names: Names,
    /// As of each directory's own last sync.
    synced: Names,
    /// As of the last sync of anything.
    journaled: Names,
    /// Since the last sync of anything: each operation's changes.
    unsynced: Vec<Vec<NameChange>>,
}

impl RecordedDisk {
    /// An empty directory.
    pub fn new() -> Self {
        let names = Names::from([(ROOT, BTreeMap::new())]);
        Self {
            files: BTreeMap::new(),
            next: ROOT + 1,
            synced: names.clone(),
            journaled: names.clone(),
            names,
            unsynced: Vec::new(),
        }
    }

    fn find(&self, path: &Path) -> Option<Node> {
        path.iter().try_fold(ROOT, |dir, name| self.names.get(&dir)?.get(name.to_str()?).copied())
    }

    /// The directory of a path, and the last part.
    fn place(&self, path: &Path) -> (Node, String) {
        let dir = self.find(path.parent().unwrap_or(Path::new(""))).expect("its directory was recorded");
        (dir, path.file_name().and_then(|name| name.to_str()).expect("UTF-8").to_owned())
    }

    fn rename(&mut self, changes: Vec<NameChange>) {
        for change in &changes {
            apply_to(&mut self.names, change);
        }
        self.unsynced.push(changes);
    }

    fn content(&mut self, path: &Path) -> &mut Content {
        let node = self.find(path).unwrap_or_else(|| panic!("{path:?} was never made"));
        self.files.get_mut(&node).expect("it is a file")
    }

    /// Makes the next operation of the record.
    pub fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Create(path) | Operation::MakeDir(path) => {
                let (dir, name) = self.place(path);
                let node = self.next;
                self.next += 1;
                if matches!(operation, Operation::Create(_)) {
                    self.files.insert(node, Content::default());
                } else {
                    for names in [&mut self.names, &mut self.synced, &mut self.journaled] {
                        names.insert(node, BTreeMap::new());
                    }
                }
                self.rename(vec![(dir, name, Some(node))]);
            }
            Operation::SetLength(path, length) => {
                self.content(path).unsynced.push(Change::SetLength(*length));
            }
            Operation::Write(path, at, bytes) => {
                self.content(path).unsynced.push(Change::Write(*at, bytes.clone()));
            }
            Operation::Sync(path) => {
                let node = self.find(path).expect("what is synced was recorded");
                match self.files.get_mut(&node) {
                    Some(content) => {
                        for change in std::mem::take(&mut content.unsynced) {
                            change.apply(&mut content.durable);
                        }
                    }
                    None => drop(self.synced.insert(node, self.names[&node].clone())),
                }
                self.journaled = self.names.clone();
                self.unsynced.clear();
            }
            Operation::Rename(from, to) => {
                let node = self.find(from).expect("what is renamed was recorded");
                let ((from_dir, from), (to_dir, to)) = (self.place(from), self.place(to));
                self.rename(vec![(from_dir, from, None), (to_dir, to, Some(node))]);
            }
            Operation::Remove(path) => {
                let (dir, name) = self.place(path);
                self.rename(vec![(dir, name, None)]);
            }
            Operation::Mark(_) => {}
        }
    }

    /// Writes the directory that a power cut here may leave to `to`.
    pub fn write_state(&self, unsynced: Unsynced, random: &mut StdRng, to: &Path) {
        let names = match unsynced {
            Unsynced::Dropped | Unsynced::NamesDropped => self.synced.clone(),
            Unsynced::DroppedBehindJournal | Unsynced::TornBehindJournal => self.journaled.clone(),
            Unsynced::Reordered => {
                let mut names = self.journaled.clone();
                let kept = random.random_range(0..=self.unsynced.len());
                self.unsynced[..kept].iter().flatten().for_each(|change| apply_to(&mut names, change));
                names
            }
            _ => self.names.clone(),
        };
        self.write_dir(ROOT, &names, unsynced, random, to);
    }

    fn write_dir(&self, dir: Node, names: &Names, unsynced: Unsynced, random: &mut StdRng, to: &Path) {
        fs::create_dir_all(to).expect("there is room");
        for (name, node) in &names[&dir] {
            let to = to.join(name);
            match self.files.get(node) {
                Some(content) => {
                    fs::write(&to, content_after(content, unsynced, random)).expect("there is room");
                    restrict(&to);
                }
                None => self.write_dir(*node, names, unsynced, random, &to),
            }
        }
    }

    /// The files below `dir` that are not as recorded: a call that the recorder does not know, for instance.
    pub fn differences(&self, dir: &Path) -> BTreeSet<PathBuf> {
        let mut differing = BTreeSet::new();
        let mut nodes = vec![(ROOT, PathBuf::new())];
        while let Some((node, path)) = nodes.pop() {
            match self.names.get(&node) {
                Some(names) => {
                    let there = fs::read_dir(dir.join(&path)).into_iter().flatten();
                    let there = there.map(|entry| entry.expect("it can be read").file_name());
                    let unknown = there.filter(|name| !names.contains_key(name.to_str().unwrap_or_default()));
                    differing.extend(unknown.map(|name| path.join(name)));
                    nodes.extend(names.iter().map(|(name, node)| (*node, path.join(name))));
                }
                None if fs::read(dir.join(&path)).ok() != Some(self.files[&node].whole()) => {
                    differing.insert(path);
                }
                None => {}
            }
        }
        differing
    }
}

fn apply_to(names: &mut Names, (dir, name, node): &NameChange) {
    let names = names.get_mut(dir).expect("directories stay known");
    match node {
        Some(node) => drop(names.insert(name.clone(), *node)),
        None => drop(names.remove(name)),
    }
}

/// The gateway refuses keys that others may read.
fn restrict(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("it was just written");
}

fn content_after(content: &Content, unsynced: Unsynced, random: &mut StdRng) -> Vec<u8> {
    let mut after = content.durable.clone();
    match unsynced {
        Unsynced::Kept | Unsynced::NamesDropped => return content.whole(),
        Unsynced::Dropped | Unsynced::DroppedBehindJournal | Unsynced::BytesDropped => {}
        Unsynced::BytesZeroed => after.resize(content.whole().len().max(after.len()), 0),
        Unsynced::Reordered => {
            let kept = content.unsynced.iter().filter(|_| random.random());
            kept.for_each(|change| change.apply(&mut after));
        }
        Unsynced::Torn | Unsynced::TornBehindJournal => {
            let sector = *[512, 4096].choose(random).expect("there are two");
            for change in &content.unsynced {
                match change {
                    Change::SetLength(_) => change.apply(&mut after),
                    Change::Write(at, bytes) => tear(&mut after, *at, bytes, sector, random),
                }
            }
        }
    }
    after
}

/// Writes some of the sectors that the bytes are on; the length is that after the whole write.
fn tear(content: &mut Vec<u8>, at: usize, bytes: &[u8], sector: usize, random: &mut StdRng) {
    let mut from = 0;
    while from < bytes.len() {
        let to = ((at + from) / sector * sector + sector - at).min(bytes.len());
        if random.random() {
            write_at(content, at + from, &bytes[from..to]);
        } else if content.len() < at + to {
            content.resize(at + to, 0);
        }
        from = to;
    }
}
