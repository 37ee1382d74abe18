//! Splits a sequence of JSON objects without parsing them: finds the beginning, end and line of each.
//!
//! An object may span several lines. After a malformed one, reading continues at the next line that begins
//! with `{`. With one object on each line that is the next object. Inside an indented object no line begins
//! so.

use std::io::{self, Read};

/// Longest object, in bytes: the largest webhook body that the gateway accepts.
pub const OBJECT_BYTES_MAX: usize = 1 << 20;
/// Bytes of one read.
const CHUNK_BYTES: usize = 64 * 1024;
/// The byte order mark, which some editors put at the beginning of UTF-8 files.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The objects of an input.
pub(super) struct Objects<R> {
    input: R,
    /// Bytes that were read. Those before `start` are done.
    buffer: Vec<u8>,
    start: usize,
    /// Buffer of one read.
    chunk: Box<[u8]>,
    /// The line of `start`, from 1.
    line: u64,
    ended: bool,
}

/// An object, or a problem at its position.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// The line that it begins on, from 1.
    pub(super) line: u64,
    /// Its bytes without surrounding white space, or the problem.
    pub(super) object: Result<Vec<u8>, String>,
}

impl<R: Read> Objects<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            input,
            buffer: Vec::new(),
            start: 0,
            chunk: vec![0; CHUNK_BYTES].into(),
            line: 1,
            ended: false,
        }
    }

    /// Returns the next object; `None` at the end.
    ///
    /// # Errors
    ///
    /// The input cannot be read.
    pub(super) fn next(&mut self) -> io::Result<Option<Found>> {
        let Some(first) = self.skip_space()? else { return Ok(None) };
        let line = self.line;
        let object = match first {
            b'{' => match self.length()? {
                Ok(length) => {
                    let object = self.rest()[..length].to_vec();
                    self.consume(length);
                    Ok(object)
                }
                Err(problem) => {
                    self.skip_to_object()?;
                    Err(self.with_skipped_lines(problem, line))
                }
            },
            b'[' => {
                self.skip_to_object()?;
                let problem = "must be a JSON object, not an array: convert the file with jq -c '.[]'";
                Err(self.with_skipped_lines(problem, line))
            }
            _ => {
                self.skip_line()?;
                Err("must be a JSON object".to_owned())
            }
        };
        Ok(Some(Found { line, object }))
    }

    fn rest(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Reads more bytes; false at the end.
    fn fill(&mut self) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        self.buffer.drain(..self.start);
        self.start = 0;
        let read = loop {
            match self.input.read(&mut self.chunk) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.buffer.extend_from_slice(&self.chunk[..read]);
        self.ended = read == 0;
        Ok(!self.ended)
    }

    fn consume(&mut self, length: usize) {
        let lines = self.rest()[..length].iter().filter(|byte| **byte == b'\n').count();
        self.line += lines as u64;
        self.start += length;
    }

    /// Skips white space. Returns the next byte; `None` at the end.
    fn skip_space(&mut self) -> io::Result<Option<u8>> {
        loop {
            match self.rest().iter().position(|byte| !byte.is_ascii_whitespace()) {
                Some(at) => {
                    self.consume(at);
                    if self.line == 1 && self.begins_with_mark()? {
                        self.consume(BYTE_ORDER_MARK.len());
                        continue;
                    }
                    return Ok(Some(self.rest()[0]));
                }
                None => {
                    self.consume(self.rest().len());
                    if !self.fill()? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    fn begins_with_mark(&mut self) -> io::Result<bool> {
        while self.rest().len() < BYTE_ORDER_MARK.len()
            && BYTE_ORDER_MARK.starts_with(self.rest())
            && self.fill()?
        {}
        Ok(self.rest().starts_with(BYTE_ORDER_MARK))
    }

    /// The length of the object that begins here, or its problem.
    fn length(&mut self) -> io::Result<Result<usize, &'static str>> {
        const TOO_LONG: &str = "is longer than 1 MiB";
        let (mut nesting, mut length) = (Nesting::default(), 0);
        loop {
            let within = &self.rest()[length..];
            for byte in &within[..within.len().min(OBJECT_BYTES_MAX - length)] {
                length += 1;
                match nesting.step(*byte) {
                    Ok(false) => {}
                    Ok(true) => return Ok(Ok(length)),
                    Err(problem) => return Ok(Err(problem)),
                }
            }
            if length == OBJECT_BYTES_MAX {
                return Ok(Err(TOO_LONG));
            }
            if !self.fill()? {
                return Ok(Err("ends before it is complete"));
            }
        }
    }

    /// Skips to the next line that begins with a brace, or to the end.
    fn skip_to_object(&mut self) -> io::Result<()> {
        self.skip_until(|before, byte| before == b'\n' && byte == b'{')
    }

    fn skip_line(&mut self) -> io::Result<()> {
        self.skip_until(|before, _| before == b'\n')
    }

    fn skip_until(&mut self, is_there: impl Fn(u8, u8) -> bool) -> io::Result<()> {
        let mut before = 0;
        loop {
            let found =
                self.rest().iter().position(|byte| is_there(std::mem::replace(&mut before, *byte), *byte));
            self.consume(found.unwrap_or(self.rest().len()));
            if found.is_some() || !self.fill()? {
                return Ok(());
            }
        }
    }

    /// Adds the skipped lines to the problem, so that no line is skipped silently.
    fn with_skipped_lines(&self, problem: &str, line: u64) -> String {
        match self.line {
            _ if self.rest().is_empty() => format!("{problem}; no further object was found"),
            next if next > line + 1 => format!("{problem}; reading continues at line {next}"),
            _ => problem.to_owned(),
        }
    }
}

/// The open braces, brackets and strings of an object. Detects a malformed object early, so that few lines
/// are skipped.
#[derive(Default)]
struct Nesting {
    open: Vec<u8>,
    in_string: bool,
    escaped: bool,
    /// The last byte outside of strings and white space.
    before: u8,
}

impl Nesting {
    /// Takes the next byte. Returns true if it completes the object.
    fn step(&mut self, byte: u8) -> Result<bool, &'static str> {
        const BROKEN: &str = "is not JSON: its braces and brackets do not match";
        if self.in_string {
            match byte {
                b'\n' => return Err("is not JSON: a string in it does not end on its line"),
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return Ok(false);
        }
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => return Ok(false),
            b'"' => self.in_string = true,
            b'{' | b'[' if self.may_open() => self.open.push(byte),
            b'}' if self.open.pop() == Some(b'{') => {}
            b']' if self.open.pop() == Some(b'[') => {}
            b'{' | b'[' | b'}' | b']' => return Err(BROKEN),
            _ => {}
        }
        self.before = byte;
        Ok(self.open.is_empty())
    }

    fn may_open(&self) -> bool {
        matches!((self.open.last(), self.before), (None, _) | (Some(b'{'), b':') | (Some(b'['), b'[' | b','))
    }
}

#[cfg(any(test, fuzzing))]
pub mod fuzz;
#[cfg(test)]
mod tests;
