//! JSON objects one after another, taken apart without being read: where each begins and ends, and on which line.
//!
//! An object may go over several lines. Where one is broken, reading goes on at the next line that begins with `{`: in files of one
//! object on each line that is the next one, and within an object that was written prettily no line begins so.

use std::io::{self, Read};

/// Longest object, in bytes: as long as a body that the gateway takes.
pub const OBJECT_BYTES_MAX: usize = 1 << 20;
/// How much is read at a time.
const CHUNK_BYTES: usize = 64 * 1024;
/// What some editors put in front of a text in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The objects of an input.
pub(super) struct Objects<R> {
    input: R,
    /// What was read; what is before `start` is done with.
    buffer: Vec<u8>,
    start: usize,
    /// What is read into.
    chunk: Box<[u8]>,
    /// The line that `start` is on, from 1.
    line: u64,
    ended: bool,
}

/// What stands where an object should be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// The line that it begins on, from 1.
    pub(super) line: u64,
    /// Its bytes, without what is around it, or what is wrong with it.
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

    /// The next object; none at the end.
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
                    Err(self.with_what_is_skipped(problem, line))
                }
            },
            b'[' => {
                self.skip_to_object()?;
                let problem =
                    "must be a JSON object, and is an array: jq -c '.[]' makes a line of each element";
                Err(self.with_what_is_skipped(problem, line))
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

    /// Reads on; false at the end.
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

    /// Passes by white space, and tells what comes then; none at the end.
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

    /// How long the object is that begins here, or why it is none.
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

    /// Goes to the next line that begins with a brace, or to the end.
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

    /// Nothing is passed by in silence.
    fn with_what_is_skipped(&self, problem: &str, line: u64) -> String {
        match self.line {
            _ if self.rest().is_empty() => format!("{problem}; no further object was found"),
            next if next > line + 1 => format!("{problem}; reading goes on at line {next}"),
            _ => problem.to_owned(),
        }
    }
}

/// How far an object is open. Tells what is broken as soon as braces and texts do, so that little more than what is broken is passed by.
#[derive(Default)]
struct Nesting {
    open: Vec<u8>,
    within_text: bool,
    escaped: bool,
    /// The last byte that was no white space and in no text.
    before: u8,
}

impl Nesting {
    /// Takes the next byte. Whether the object is complete with it.
    fn step(&mut self, byte: u8) -> Result<bool, &'static str> {
        const BROKEN: &str = "is not JSON: its braces and brackets do not go together";
        if self.within_text {
            match byte {
                b'\n' => return Err("is not JSON: a text in it does not end on its line"),
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.within_text = false,
                _ => {}
            }
            return Ok(false);
        }
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => return Ok(false),
            b'"' => self.within_text = true,
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
