//! What a server writes, line by line, and never more of a line than is allowed.
//!
//! Who waits for the answer in a line that is too long would wait until its time is over: so of such a
//! line it is found out whose answer it is.

use std::{
    io, mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use serde_json::Value;
use tokio::io::{AsyncBufRead as _, AsyncRead, BufReader};

/// What is kept of the beginning and of the end of a line that is too long.
const KEPT: usize = 512;
/// The room that is kept for the next line when one is done with.
pub(super) const ROOM: usize = 64 * 1024;

/// Reads lines. What is read of one stays when whoever asked for it does not wait for the rest.
pub(super) struct Lines<R> {
    input: BufReader<R>,
    limit: usize,
    line: Line,
}

/// What was found in the input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A line, which [`Lines::text`] holds until the next one is asked for.
    Line,
    /// The answer to this request was too long. It is dropped.
    TooLong(Value),
    /// Nothing more. A line without its end is none.
    End,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Lines of `input` may have up to `limit` bytes, without their end.
    pub(super) fn new(input: R, limit: usize) -> Self {
        Self {
            input: BufReader::new(input),
            limit,
            line: Line::default(),
        }
    }

    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Found>> {
        loop {
            let mut input = Pin::new(&mut self.input);
            let bytes = ready!(input.as_mut().poll_fill_buf(cx))?;
            if bytes.is_empty() {
                return Poll::Ready(Ok(Found::End));
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let part = end.unwrap_or(bytes.len());
            let found = self.line.take(&bytes[..part], end.is_some(), self.limit);
            input.consume(part + usize::from(end.is_some()));
            if let Some(found) = found {
                return Poll::Ready(Ok(found));
            }
        }
    }

    /// The line that was found last.
    pub(super) fn text(&self) -> &[u8] {
        &self.line.text
    }
}

/// The line that is being read.
#[derive(Default)]
struct Line {
    /// All of it, or the beginning of one that is too long.
    text: Vec<u8>,
    /// The end of one that is too long, as far as it was read.
    tail: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, Default)]
enum State {
    #[default]
    Reading,
    /// Too long, and nobody knows yet whose answer it is.
    Dropping,
    /// Too long, and the call has its error.
    Answered,
    /// It is over: the next part begins another one.
    Over,
}

impl Line {
    /// Takes the next part of the line, with which it may end.
    fn take(&mut self, part: &[u8], ends: bool, limit: usize) -> Option<Found> {
        if let State::Over = self.state {
            self.begin();
        }
        let found = match self.state {
            State::Dropping => {
                self.keep_end(part);
                None
            }
            State::Answered => None,
            State::Reading | State::Over => {
                let left = limit - self.text.len();
                if part.len() > left {
                    self.cut(part, left)
                } else {
                    self.text.extend_from_slice(part);
                    ends.then_some(Found::Line)
                }
            }
        };
        if !ends {
            return found;
        }
        let was = mem::replace(&mut self.state, State::Over);
        match was {
            State::Dropping => id_in_tail(&self.text, &self.tail).map(Found::TooLong),
            _ => found,
        }
    }

    /// The line is too long: `part` of it goes on where only `left` bytes are allowed.
    fn cut(&mut self, part: &[u8], left: usize) -> Option<Found> {
        let (allowed, rest) = part.split_at(left);
        self.text.extend_from_slice(allowed);
        let text = mem::take(&mut self.text);
        self.keep_end(&text);
        self.keep_end(rest);
        self.text.extend_from_slice(&text[..text.len().min(KEPT)]);
        let id = id_in_head(&self.text).ok();
        self.state = match id {
            Some(_) => State::Answered,
            None => State::Dropping,
        };
        id.map(Found::TooLong)
    }

    fn keep_end(&mut self, part: &[u8]) {
        let last = part.len().saturating_sub(KEPT);
        self.tail.extend_from_slice(&part[last..]);
        if self.tail.len() > 4 * KEPT {
            self.tail.drain(..self.tail.len() - KEPT);
        }
    }

    fn begin(&mut self) {
        self.text.clear();
        self.text.shrink_to(ROOM);
        self.tail.clear();
        self.state = State::Reading;
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
    use std::{collections::VecDeque, future::poll_fn};

    use proptest::{collection::vec, prelude::*};
    use serde_json::json;
    use tokio::io::ReadBuf;

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

    /// All that is found, with the text of what is a line.
    fn read(text: &[u8], limit: usize, sizes: &[usize]) -> Vec<Result<Vec<u8>, Value>> {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(async {
            let mut lines = Lines::new(Pieces::new(text, sizes), limit);
            let mut all = Vec::new();
            loop {
                let found = poll_fn(|cx| lines.poll_next(cx)).await.unwrap();
                assert!(lines.line.tail.capacity() <= 8 * KEPT);
                match found {
                    Found::Line => all.push(Ok(lines.text().to_vec())),
                    Found::TooLong(id) => all.push(Err(id)),
                    Found::End => return all,
                }
            }
        })
    }

    /// The same, said in one go.
    fn model(text: &[u8], limit: usize) -> Vec<Result<Vec<u8>, Value>> {
        let found = |line: &[u8]| {
            let bare = line.strip_suffix(b"\n");
            let text = bare.unwrap_or(line);
            if text.len() <= limit {
                return bare.map(|bare| Ok(bare.to_vec()));
            }
            let head = &text[..text.len().min(KEPT).min(limit)];
            let tail = &text[text.len().saturating_sub(KEPT)..];
            let id = id_in_head(head).ok();
            let id = id.or_else(|| bare.and_then(|_| id_in_tail(head, tail)));
            id.map(Err)
        };
        let lines = text.split_inclusive(|byte| *byte == b'\n');
        lines.filter_map(found).collect()
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

    #[test]
    fn a_call_whose_answer_is_too_long_is_named_and_the_next_has_its_answer() {
        let result = json!({ "text": "x".repeat(5000) });
        let first = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#);
        let last = format!(r#"{{"jsonrpc":"2.0","result":{result},"id":2}}"#);
        let whole = r#"{"jsonrpc":"2.0","id":3,"result":{}}"#;
        let text = format!("{first}\n{last}\n{whole}\n");
        let found = read(text.as_bytes(), 1000, &[700]);
        let answer = whole.as_bytes().to_vec();
        assert_eq!(found, [Err(json!(1)), Err(json!(2)), Ok(answer)]);
    }

    #[test]
    fn a_line_without_end_is_answered_at_once() {
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":1,"result":"{}"#,
            "x".repeat(100_000)
        );
        assert_eq!(read(text.as_bytes(), 100, &[64]), [Err(json!(1))]);
    }

    #[test]
    fn the_room_of_a_long_line_is_given_back() {
        let mut line = Line::default();
        let long = vec![b'x'; 2 * ROOM];
        assert_eq!(line.take(&long, true, usize::MAX), Some(Found::Line));
        assert_eq!(line.take(b"short", true, usize::MAX), Some(Found::Line));
        assert_eq!(line.text, b"short");
        assert!(line.text.capacity() <= ROOM);
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
        fn in_whatever_pieces_it_comes_the_same_is_found(
            lines in vec(line(), 0..8),
            ended in any::<bool>(),
            limit in 1..400_usize,
            sizes in vec(1..200_usize, 1..4),
        ) {
            let mut text = lines.join(&b'\n');
            if ended {
                text.push(b'\n');
            }
            prop_assert_eq!(read(&text, limit, &sizes), model(&text, limit));
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
