//! What a server writes, with lines that are too long cut out of it.
//!
//! rmcp drops a line that is too long, and whoever waits for the answer in it waits until its time is
//! over. Here the line is replaced by an error for that call.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use serde_json::Value;
use tokio::io::{AsyncBufRead as _, AsyncRead, BufReader, ReadBuf};

use crate::classify::too_large;

/// What is kept of the beginning and of the end of a line, to find out whose answer it is.
const KEPT: usize = 512;
/// Ends what was passed of a line that is cut. No JSON holds this byte, so nobody takes the part for the
/// whole.
const CUT: &[u8] = b"\0\n";

/// Reads lines, and passes them on as they are while they are no longer than the limit.
pub(super) struct LineLimit<R> {
    inner: BufReader<R>,
    line: Line,
    /// What stands in the place of what was cut, as far as it is not yet read.
    pending: Vec<u8>,
}

impl<R: AsyncRead> LineLimit<R> {
    /// Lines of `inner` may have up to `limit` bytes, without their end.
    pub(super) fn new(inner: R, limit: usize) -> Self {
        Self {
            inner: BufReader::new(inner),
            line: Line::new(limit),
            pending: Vec::new(),
        }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for LineLimit<R> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        // Reading nothing means the end, so it goes on until there is something.
        while buf.filled().len() == before && buf.remaining() > 0 {
            if !this.pending.is_empty() {
                let passed = this.pending.len().min(buf.remaining());
                buf.put_slice(&this.pending[..passed]);
                this.pending.drain(..passed);
                continue;
            }
            let mut inner = Pin::new(&mut this.inner);
            let bytes = ready!(inner.as_mut().poll_fill_buf(cx))?;
            if bytes.is_empty() {
                break;
            }
            let Taken { pass, consume } = this.line.take(bytes, buf.remaining());
            buf.put_slice(&bytes[..pass]);
            inner.consume(consume);
            this.line.replacement(&mut this.pending);
        }
        Poll::Ready(Ok(()))
    }
}

/// Of some bytes: how many are passed on, and how many are done with.
struct Taken {
    pass: usize,
    consume: usize,
}

/// The line that is being read.
struct Line {
    limit: usize,
    length: usize,
    head: Vec<u8>,
    tail: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Passing,
    /// Too long: what was passed has to be ended.
    Cutting,
    /// The rest is dropped. Nobody knows yet whose answer it is.
    Dropping,
    /// The rest is dropped, and the call has its error.
    Answered,
    /// It is over, and may still tell whose answer it was.
    Over,
}

impl Line {
    const fn new(limit: usize) -> Self {
        Self {
            limit,
            length: 0,
            head: Vec::new(),
            tail: Vec::new(),
            state: State::Passing,
        }
    }

    /// Takes bytes up to the end of the line, with room for `room` of them.
    fn take(&mut self, bytes: &[u8], room: usize) -> Taken {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let part = end.unwrap_or(bytes.len());
        if self.state != State::Passing {
            self.keep(&bytes[..part]);
            if end.is_some() {
                match self.state {
                    State::Dropping => self.state = State::Over,
                    _ => self.begin(),
                }
            }
            return Taken {
                pass: 0,
                consume: part + usize::from(end.is_some()),
            };
        }
        let left = self.limit - self.length;
        let pass = part.min(left).min(room);
        self.keep(&bytes[..pass]);
        self.length += pass;
        if pass < part {
            if pass == left {
                self.state = State::Cutting;
            }
            return Taken {
                pass,
                consume: pass,
            };
        }
        let ends = end.is_some() && pass < room;
        if ends {
            self.begin();
        }
        let pass = pass + usize::from(ends);
        Taken {
            pass,
            consume: pass,
        }
    }

    /// Writes what stands in the place of what was cut.
    fn replacement(&mut self, into: &mut Vec<u8>) {
        let id = match self.state {
            State::Cutting => {
                into.extend_from_slice(CUT);
                id_in_head(&self.head).ok()
            }
            State::Over => id_in_tail(&self.head, &self.tail),
            _ => return,
        };
        if let Some(id) = &id {
            into.extend_from_slice(too_large::message(id, self.limit).as_bytes());
            into.push(b'\n');
        }
        match (self.state, id) {
            (State::Over, _) => self.begin(),
            (_, Some(_)) => self.state = State::Answered,
            (_, None) => self.state = State::Dropping,
        }
    }

    fn begin(&mut self) {
        self.length = 0;
        self.head.clear();
        self.tail.clear();
        self.state = State::Passing;
    }

    fn keep(&mut self, bytes: &[u8]) {
        let missing = KEPT.min(self.limit) - self.head.len();
        let first = bytes.len().min(missing);
        self.head.extend_from_slice(&bytes[..first]);
        let last = bytes.len().saturating_sub(KEPT);
        self.tail.extend_from_slice(&bytes[last..]);
        if self.tail.len() > 4 * KEPT {
            self.tail.drain(..self.tail.len() - KEPT);
        }
    }
}

/// Why the beginning of a line does not tell whose answer it is.
#[derive(Debug, PartialEq, Eq)]
enum NoId {
    /// It is a result, or an error: its id may come last.
    Later,
    /// It is no answer, or no JSON.
    Never,
}

/// The id at the beginning of an answer: `{"jsonrpc":"2.0","id":7,"result":`. A server's own request
/// has an id too, which is none of ours: so it takes the name of what comes after.
fn id_in_head(head: &[u8]) -> Result<Value, NoId> {
    let mut rest = skip(head, b'{').ok_or(NoId::Never)?;
    let mut id = None;
    loop {
        let (name, after) = string(rest).ok_or(NoId::Never)?;
        rest = skip(after, b':').ok_or(NoId::Never)?;
        match name {
            b"result" | b"error" => return id.ok_or(NoId::Later),
            b"id" | b"jsonrpc" => {}
            _ => return Err(NoId::Never),
        }
        let (value, after) = scalar(rest).ok_or(NoId::Never)?;
        if name == b"id" {
            id = Some(value);
        }
        rest = skip(after, b',').ok_or(NoId::Never)?;
    }
}

/// The id at the end of an answer: `,"id":7}` or `,"id":7,"jsonrpc":"2.0"}`.
///
/// In a line that is JSON nothing else ends so: a `}` at the end closes the message, what stands before
/// it is its last value, and a quote within a string has a backslash before it.
fn id_in_tail(head: &[u8], tail: &[u8]) -> Option<Value> {
    if id_in_head(head) != Err(NoId::Later) {
        return None;
    }
    let rest = tail.trim_ascii_end().strip_suffix(b"}")?.trim_ascii_end();
    let version = last_member(rest, b"\"jsonrpc\"");
    let rest = version.map_or(rest, |(_, before)| before);
    Some(last_member(rest, b"\"id\"")?.0)
}

/// The value at the end and what is before it, where `text` ends with `,name:value`.
fn last_member<'a>(text: &'a [u8], name: &[u8]) -> Option<(Value, &'a [u8])> {
    let colon = text.iter().rposition(|byte| *byte == b':')?;
    let (before, value) = text.split_at(colon);
    let before = before.trim_ascii_end().strip_suffix(name)?;
    let before = before.trim_ascii_end().strip_suffix(b",")?;
    let (value, rest) = scalar(&value[1..])?;
    rest.trim_ascii()
        .is_empty()
        .then_some((value, before.trim_ascii_end()))
}

/// What comes after `byte`, which is next but for spaces.
fn skip(text: &[u8], byte: u8) -> Option<&[u8]> {
    text.trim_ascii_start().strip_prefix(&[byte])
}

/// A string without anything escaped, and what comes after it.
fn string(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = skip(text, b'"')?;
    let end = text.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
    (text[end] == b'"').then(|| (&text[..end], &text[end + 1..]))
}

/// A string or a whole number, and what comes after it.
fn scalar(text: &[u8]) -> Option<(Value, &[u8])> {
    if let Some((string, rest)) = string(text) {
        let string = std::str::from_utf8(string).ok()?;
        return Some((string.into(), rest));
    }
    let text = text.trim_ascii_start();
    let digits = |byte: &u8| !byte.is_ascii_digit() && *byte != b'-';
    let end = text.iter().position(digits).unwrap_or(text.len());
    let number: i64 = std::str::from_utf8(&text[..end]).ok()?.parse().ok()?;
    Some((number.into(), &text[end..]))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::{collection::vec, prelude::*};
    use rmcp::{
        RoleClient,
        model::{JsonRpcMessage, ServerJsonRpcMessage},
        transport::{Transport as _, async_rw::AsyncRwTransport},
    };
    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, sink};

    use super::*;
    use crate::classify::tests::quick;

    /// Gives these pieces, and is not ready in between.
    struct Pieces {
        left: VecDeque<Vec<u8>>,
        ready: bool,
    }

    impl Pieces {
        fn new(text: &[u8], sizes: &[usize]) -> Self {
            let mut sizes = sizes.iter().cycle();
            let mut rest = text;
            let mut left = VecDeque::new();
            while !rest.is_empty() {
                let size = sizes
                    .next()
                    .map_or(rest.len(), |size| (*size).min(rest.len()));
                left.push_back(rest[..size].to_vec());
                rest = &rest[size..];
            }
            Self { left, ready: true }
        }
    }

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.ready = !self.ready;
            if !self.ready {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if let Some(mut piece) = self.left.pop_front() {
                let rest = piece.split_off(piece.len().min(buf.remaining()));
                buf.put_slice(&piece);
                if !rest.is_empty() {
                    self.left.push_front(rest);
                }
            }
            Poll::Ready(Ok(()))
        }
    }

    async fn read(text: &[u8], limit: usize, sizes: &[usize], reads: &[usize]) -> Vec<u8> {
        let mut limited = LineLimit::new(Pieces::new(text, sizes), limit);
        let (mut all, mut reads) = (Vec::new(), reads.iter().cycle());
        loop {
            let mut part = vec![0; reads.next().copied().unwrap_or(4096)];
            let length = limited.read(&mut part).await.unwrap();
            let line = &limited.line;
            let kept = line.head.capacity() + line.tail.capacity() + limited.pending.capacity();
            assert!(kept < 32 * KEPT, "{kept} bytes are kept");
            if length == 0 {
                return all;
            }
            all.extend_from_slice(&part[..length]);
        }
    }

    /// The same, said in one go.
    fn model(text: &[u8], limit: usize) -> Vec<u8> {
        let mut all = Vec::new();
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let bare = line.strip_suffix(b"\n").unwrap_or(line);
            if bare.len() <= limit {
                all.extend_from_slice(line);
                continue;
            }
            all.extend_from_slice(&bare[..limit]);
            all.extend_from_slice(CUT);
            let head = &bare[..bare.len().min(KEPT).min(limit)];
            let tail = &bare[bare.len().saturating_sub(KEPT)..];
            let id = match id_in_head(head) {
                Ok(id) => Some(id),
                Err(_) if line.len() == bare.len() => None,
                Err(_) => id_in_tail(head, tail),
            };
            if let Some(id) = id {
                all.extend_from_slice(too_large::message(&id, limit).as_bytes());
                all.push(b'\n');
            }
        }
        all
    }

    fn id_of(line: &str) -> Option<Value> {
        let (head, tail) = (line.as_bytes(), line.as_bytes());
        id_in_head(head).ok().or_else(|| id_in_tail(head, tail))
    }

    #[test]
    fn the_id_is_found_first_or_last() {
        for line in [
            r#"{"jsonrpc":"2.0","id":7,"result":{"#,
            r#"{"id":7,"jsonrpc":"2.0","error":{"#,
            r#" { "jsonrpc" : "2.0" , "id" : 7 , "result" : ["#,
            r#"{"jsonrpc":"2.0","result":{"a":"b"},"id":7}"#,
            r#"{"result":{},"id" : 7 , "jsonrpc" : "2.0" } "#,
            r#"{"error":{"code":1},"jsonrpc":"2.0","id":7}"#,
        ] {
            assert_eq!(id_of(line), Some(json!(7)), "{line}");
        }
        let named = r#"{"jsonrpc":"2.0","id":"a-7","result":{"#;
        assert_eq!(id_of(named), Some(json!("a-7")));
    }

    #[test]
    fn what_is_no_answer_has_no_id() {
        for line in [
            // The server's own requests and notifications.
            r#"{"jsonrpc":"2.0","id":7,"method":"ping","params":{}}"#,
            r#"{"jsonrpc":"2.0","method":"ping","params":{},"id":7}"#,
            r#"{"jsonrpc":"2.0","id":7}"#,
            // The ids of others, within the answer.
            r#"{"jsonrpc":"2.0","result":{"a":1,"id":7}}"#,
            r#"{"jsonrpc":"2.0","result":[{"a":1,"id":7}]}"#,
            r#"{"jsonrpc":"2.0","result":"a,\"id\":7"}"#,
            r#"{"jsonrpc":"2.0","result":",\"id\":7}"}"#,
            r#"{"jsonrpc":"2.0","result":{},"my\"id":7}"#,
            r#"{"jsonrpc":"2.0","result":{},"id":7.5}"#,
            r#"{"jsonrpc":"2.0","result":{},"id":{}}"#,
            "",
            "{",
            "hello",
        ] {
            assert_eq!(id_of(line), None, "{line}");
        }
    }

    #[tokio::test]
    async fn a_call_whose_answer_is_cut_has_an_error_and_the_next_has_its_answer() {
        let long = "x".repeat(5000);
        let result = json!({ "content": [{ "type": "text", "text": long }] });
        let short = json!({ "content": [{ "type": "text", "text": "y" }] });
        let first = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#);
        let last = format!(r#"{{"jsonrpc":"2.0","result":{result},"id":2}}"#);
        let whole = format!(r#"{{"jsonrpc":"2.0","id":3,"result":{short}}}"#);
        let text = format!("{first}\n{last}\n{whole}\n");
        let limited = LineLimit::new(Pieces::new(text.as_bytes(), &[700]), 1000);
        let mut transport = AsyncRwTransport::<RoleClient, _, _>::new_client(limited, sink());
        for expected in [1, 2] {
            let Some(JsonRpcMessage::Error(error)) = transport.receive().await else {
                panic!("an error takes the place of what was cut");
            };
            assert_eq!(error.id, Some(rmcp::model::RequestId::Number(expected)));
            assert_eq!(too_large::limit_in(&error.error), Some(1000));
        }
        let answer: Option<ServerJsonRpcMessage> = transport.receive().await;
        assert!(
            matches!(answer, Some(JsonRpcMessage::Response(_))),
            "{answer:?}"
        );
        assert!(transport.receive().await.is_none());
    }

    #[tokio::test]
    async fn a_line_without_end_is_answered_at_once() {
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":1,"result":"{}"#,
            "x".repeat(100_000)
        );
        let read = read(text.as_bytes(), 100, &[64], &[64]).await;
        let mut lines = read.split(|byte| *byte == b'\n');
        assert_eq!(lines.next().unwrap().len(), 101);
        assert!(lines.next().unwrap().starts_with(b"{"));
    }

    fn line() -> impl Strategy<Value = Vec<u8>> {
        let message = ("[a-z\\\\\"{}:, ]{0,80}", 0_u32..9, 0..4).prop_map(|(text, id, order)| {
            let text = json!(text);
            match order {
                0 => format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"t":{text}}}}}"#),
                1 => format!(r#"{{"jsonrpc":"2.0","result":{{"t":{text}}},"id":{id}}}"#),
                2 => format!(r#"{{"error":{{"t":{text}}},"id":{id},"jsonrpc":"2.0"}}"#),
                _ => format!(r#"{{"jsonrpc":"2.0","id":{id},"method":{text}}}"#),
            }
            .into_bytes()
        });
        let long = (0..2000_usize).prop_map(|spaces| {
            let spaces = " ".repeat(spaces);
            format!(r#"{{"jsonrpc":"2.0","result":[{spaces}],"id":4}}"#).into_bytes()
        });
        prop_oneof![4 => message, 2 => vec(any::<u8>(), 0..300), 1 => long, 1 => Just(vec![])]
    }

    proptest! {
        #![proptest_config(quick())]

        #[test]
        fn in_whatever_pieces_it_comes_and_is_read_the_outcome_is_the_same(
            lines in vec(line(), 0..8),
            ended in any::<bool>(),
            limit in 1..400_usize,
            sizes in vec(1..200_usize, 1..4),
            reads in vec(1..200_usize, 1..4),
        ) {
            let mut text = lines.join(&b'\n');
            if ended {
                text.push(b'\n');
            }
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let passed = runtime.block_on(read(&text, limit, &sizes, &reads));
            prop_assert_eq!(
                String::from_utf8_lossy(&passed).into_owned(),
                String::from_utf8_lossy(&model(&text, limit)).into_owned()
            );
        }

        #[test]
        fn an_id_that_is_found_is_the_messages_own(line in line()) {
            // A line that is JSON: what is found is what a parser finds.
            if let Ok(message) = serde_json::from_slice::<Value>(&line)
                && let Some(id) = id_of(&String::from_utf8_lossy(&line))
            {
                prop_assert_eq!(Some(&id), message.get("id"));
                prop_assert!(message.get("method").is_none());
            }
        }
    }
}
