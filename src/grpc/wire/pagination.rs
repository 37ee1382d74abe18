//! Pages of lists: opaque tokens, and rows up to a count and a number of bytes.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::Message;
use sha2::{Digest, Sha256};

use super::{request_fields::Fields, status::GrpcError};
use crate::gateway::{GatewayError, Page};

/// Default rows of a page.
const PAGE_SIZE_DEFAULT: usize = 50;
/// Most rows of a page.
const PAGE_SIZE_MAX: usize = 1000;
/// Most bytes of a page's rows; one row may be larger. Larger pages would hold up other calls.
const PAGE_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of rows that are made before other calls get their turn.
const TURN_BYTES: usize = 32 * 1024;
/// Bytes of a row's tag and length, in addition to its own encoding.
const ROW_OVERHEAD_BYTES: usize = 6;
/// Rows read at once. Limits the memory of a page with large rows.
const ROWS_READ_MAX: usize = 100;

/// Version of the tokens. Others are rejected.
const TOKEN_VERSION: u32 = 1;

/// A list with page tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::grpc) enum PageKind {
    Subscriptions = 1,
    Events = 2,
    Deliveries = 3,
    Replay = 4,
    AccessTokens = 5,
    AuditRecords = 7,
    Accounts = 8,
    NoticeSinks = 9,
}

/// Start of a page. Each list uses the fields that it needs.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(in crate::grpc) struct Cursor {
    /// After this name.
    #[prost(string, tag = "1")]
    pub(in crate::grpc) name: String,
    /// After the event with this sequence number.
    #[prost(uint64, tag = "2")]
    pub(in crate::grpc) seq: u64,
    /// After the delivery to this subscription.
    #[prost(uint64, tag = "3")]
    pub(in crate::grpc) subscription: u64,
    /// Up to the event with this sequence number.
    #[prost(uint64, tag = "4")]
    pub(in crate::grpc) until: u64,
    /// As of this time, in microseconds since the epoch.
    #[prost(int64, tag = "5")]
    pub(in crate::grpc) time: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Token {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(uint32, tag = "2")]
    list: u32,
    #[prost(fixed64, tag = "3")]
    parameters: u64,
    #[prost(message, optional, tag = "4")]
    cursor: Option<Cursor>,
}

/// The page size, or the default if it is not set.
pub(in crate::grpc) fn size(fields: &mut Fields, page_size: i32) -> usize {
    match usize::try_from(page_size) {
        Ok(0) => PAGE_SIZE_DEFAULT,
        Ok(size) => size.min(PAGE_SIZE_MAX),
        Err(_) => {
            fields.violations.invalid("page_size", "must not be negative");
            PAGE_SIZE_DEFAULT
        }
    }
}

/// Reads and writes the tokens of one list with one set of parameters.
pub(in crate::grpc) struct PageTokens {
    list: PageKind,
    parameters: u64,
}

impl PageTokens {
    /// `request` is the call's request without page size and token: these parameters must be the same for
    /// every page.
    pub(in crate::grpc) fn of(list: PageKind, request: &impl Message) -> Self {
        let digest = Sha256::digest(request.encode_to_vec());
        let start = digest.first_chunk().expect("a SHA-256 has 32 bytes");
        Self { list, parameters: u64::from_be_bytes(*start) }
    }

    /// The start of the page; `None` for the first one.
    pub(in crate::grpc) fn read(&self, token: &str) -> Result<Option<Cursor>, GrpcError> {
        if token.is_empty() {
            return Ok(None);
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| GrpcError::page_token())?;
        let token = Token::decode(bytes.as_slice()).map_err(|_| GrpcError::page_token())?;
        let Token { version, list, parameters, cursor } = token;
        if version != TOKEN_VERSION || list != self.list as u32 || parameters != self.parameters {
            return Err(GrpcError::page_token());
        }
        cursor.map(Some).ok_or_else(GrpcError::page_token)
    }

    /// The token of the next page; empty on the last one.
    pub(in crate::grpc) fn write(&self, next: Option<Cursor>) -> String {
        let token = |cursor| Token {
            version: TOKEN_VERSION,
            list: self.list as u32,
            parameters: self.parameters,
            cursor: Some(cursor),
        };
        next.map(|cursor| URL_SAFE_NO_PAD.encode(token(cursor).encode_to_vec())).unwrap_or_default()
    }
}

/// Reads rows after `after` until the page is full by count or bytes. `show` returns a row's position and its
/// message. Returns the messages, and the position after which the next page starts.
pub(in crate::grpc) async fn fill<Row, Position, Shown, Reading>(
    size: usize,
    mut after: Option<Position>,
    mut read: impl FnMut(Option<Position>, usize) -> Reading,
    show: impl Fn(&Row) -> (Position, Shown),
) -> Result<(Vec<Shown>, Option<Position>), GatewayError>
where
    Position: Clone,
    Shown: Message,
    Reading: Future<Output = Result<Page<Row, Position>, GatewayError>>,
{
    let mut page = Vec::new();
    let (mut bytes, mut of_turn) = (0, 0);
    loop {
        let limit = (size - page.len()).min(ROWS_READ_MAX);
        let part = read(after.clone(), limit).await?;
        // The store stopped at its limit for one read, and there may be more.
        let stopped_early = part.rows.len() < limit;
        for row in &part.rows {
            let (position, row) = show(row);
            bytes += row.encoded_len() + ROW_OVERHEAD_BYTES;
            // A page has at least one row, so that every list ends.
            if bytes > PAGE_BYTES_MAX && !page.is_empty() {
                return Ok((page, after));
            }
            if bytes - of_turn > TURN_BYTES {
                of_turn = bytes;
                tokio::task::yield_now().await;
            }
            page.push(row);
            after = Some(position);
        }
        match part.next {
            Some(next) if page.len() < size && !stopped_early => after = Some(next),
            next => return Ok((page, next)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::ListEventsRequest;

    fn request(parent: &str) -> ListEventsRequest {
        ListEventsRequest { parent: parent.into(), ..Default::default() }
    }

    #[test]
    fn a_token_is_valid_for_its_own_list_and_parameters_only() {
        let cursor = Cursor { name: "a".into(), seq: 7, subscription: 9, until: 11, time: -13 };
        let tokens = PageTokens::of(PageKind::Events, &request("accounts/1"));
        let token = tokens.write(Some(cursor.clone()));
        assert_eq!(tokens.read(&token).unwrap(), Some(cursor));
        assert!(PageTokens::of(PageKind::Deliveries, &request("accounts/1")).read(&token).is_err());
        assert!(PageTokens::of(PageKind::Events, &request("accounts/2")).read(&token).is_err());
        for garbage in ["x", "????", "AAAA", &token[1..], &format!("{token}="), &"A".repeat(10_000)] {
            assert!(tokens.read(garbage).is_err(), "{garbage:?} was accepted");
        }
        assert_eq!(tokens.write(None), "");
        assert_eq!(tokens.read("").unwrap(), None);
    }

    /// A list of the numbers from 0, each shown as a message of `bytes`.
    async fn fill_numbers(
        count: u64,
        size: usize,
        bytes: usize,
        after: Option<u64>,
    ) -> (Vec<u64>, Option<u64>) {
        let read = |after: Option<u64>, limit: usize| async move {
            let start = after.map_or(0, |after| after + 1);
            let end = count.min(start + u64::try_from(limit).unwrap());
            let next = (end < count).then(|| end - 1);
            Ok(Page { rows: (start..end).collect(), next })
        };
        let show = |n: &u64| (*n, Cursor { name: "x".repeat(bytes), seq: *n, ..Cursor::default() });
        let (page, next) = fill(size, after, read, show).await.unwrap();
        (page.iter().map(|row| row.seq).collect(), next)
    }

    #[tokio::test]
    async fn a_page_ends_at_its_size_and_the_list_at_its_last_row() {
        assert_eq!(fill_numbers(5, 3, 1, None).await, (vec![0, 1, 2], Some(2)));
        assert_eq!(fill_numbers(5, 3, 1, Some(2)).await, (vec![3, 4], None));
        assert_eq!(fill_numbers(3, 3, 1, None).await, (vec![0, 1, 2], None));
        assert_eq!(fill_numbers(0, 3, 1, None).await, (vec![], None));
        let (page, next) = fill_numbers(1000, 999, 1, None).await;
        assert_eq!((page.len(), next), (999, Some(998)));
    }

    #[tokio::test]
    async fn a_page_ends_where_the_store_stops_early() {
        let read = |after: Option<u64>, _| async move {
            Ok(Page { rows: after.into_iter().collect(), next: Some(after.unwrap_or(0) + 10) })
        };
        let show = |n: &u64| (*n, Cursor { seq: *n, ..Cursor::default() });
        assert_eq!(fill(50, None, read, show).await.unwrap(), (vec![], Some(10)));
        let (page, next) = fill(50, Some(10), read, show).await.unwrap();
        assert_eq!((page[0].seq, next), (10, Some(20)), "not after the last row, but where the read stopped");
    }

    #[tokio::test]
    async fn a_page_of_large_rows_ends_at_its_bytes_and_loses_none() {
        let (mut after, mut seen) = (None, Vec::new());
        loop {
            let (page, next) = fill_numbers(9, 1000, 1024 * 1024, after).await;
            assert!((1..=3).contains(&page.len()), "{page:?}");
            seen.extend(page);
            after = next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, (0..9).collect::<Vec<_>>());
        assert_eq!(fill_numbers(2, 10, PAGE_BYTES_MAX + 1, None).await, (vec![0], Some(0)));
    }
}
