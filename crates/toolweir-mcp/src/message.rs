//! What a server writes, read as a message.

use rmcp::model::{
    CallToolResult, ContentBlock, JsonRpcMessage, JsonRpcResponse, JsonRpcVersion2_0, MetaObject,
    RequestId, ResultType, ServerJsonRpcMessage, ServerResult,
};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Some editors' and shells' programs begin their output so. RFC 8259, section 8.1, allows it to be passed
/// over.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Reads one message, as rmcp reads it.
///
/// rmcp takes what it reads for every kind of message and of result in turn, with a copy of it for each
/// next try. Nearly all that is read here is what a tool returned: so that is tried first, which takes a
/// tenth of the time. Whatever is anything else, or more, is left to rmcp.
pub(crate) fn read(text: &[u8]) -> Result<ServerJsonRpcMessage, serde_json::Error> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let answer = serde_json::from_slice::<ToolAnswer>(text).ok();
    match answer.and_then(ToolAnswer::message) {
        Some(message) => Ok(message),
        None => serde_json::from_slice(text),
    }
}

/// What a tool returned, and nothing beside it: what has another member too may be something else.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolAnswer {
    jsonrpc: JsonRpcVersion2_0,
    id: RequestId,
    result: Returned,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Returned {
    result_type: Option<ResultType>,
    content: Option<Vec<ContentBlock>>,
    // Nothing, and nothing at all, are not the same.
    #[serde(default, deserialize_with = "present")]
    structured_content: Option<Value>,
    is_error: Option<bool>,
    #[serde(rename = "_meta")]
    meta: Option<MetaObject>,
}

fn present<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(value).map(Some)
}

impl ToolAnswer {
    /// As rmcp has it: a result without a type is complete, and one without content is of no tool.
    fn message(self) -> Option<ServerJsonRpcMessage> {
        let returned = self.result;
        let is_complete = returned
            .result_type
            .as_ref()
            .is_none_or(ResultType::is_complete);
        let has_content = returned.content.is_some()
            || returned.structured_content.is_some()
            || returned.is_error.is_some();
        if !is_complete || !has_content {
            return None;
        }
        let mut result = CallToolResult::default();
        result.result_type = returned.result_type;
        result.content = returned.content.unwrap_or_default();
        result.structured_content = returned.structured_content;
        result.is_error = returned.is_error;
        result.meta = returned.meta;
        Some(JsonRpcMessage::Response(JsonRpcResponse {
            jsonrpc: self.jsonrpc,
            id: self.id,
            result: ServerResult::CallToolResult(result),
        }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use serde_json::{Map, json};

    use super::*;
    use crate::classify::tests::quick;

    fn as_json(message: &ServerJsonRpcMessage) -> Value {
        serde_json::to_value(message).unwrap()
    }

    fn is_tool_answer(message: &Value) -> bool {
        let answer = serde_json::from_str::<ToolAnswer>(&message.to_string());
        answer.is_ok_and(|answer| answer.message().is_some())
    }

    #[test]
    fn what_a_tool_returns_is_read_at_once() {
        for result in [
            json!({ "content": [] }),
            json!({ "content": [{ "type": "text", "text": "é\u{0}" }], "isError": true }),
            json!({ "structuredContent": null }),
            json!({ "resultType": "complete", "content": [], "_meta": { "a": 1 } }),
        ] {
            let message = json!({ "jsonrpc": "2.0", "id": 7, "result": result });
            assert!(is_tool_answer(&message), "{message}");
        }
    }

    #[test]
    fn what_is_no_answer_of_a_tool_is_left_to_rmcp() {
        let content = json!({ "content": [] });
        for message in [
            json!({ "jsonrpc": "2.0", "id": 7, "result": {} }),
            json!({ "jsonrpc": "2.0", "id": 7, "result": { "resultType": "task", "content": [] } }),
            json!({ "jsonrpc": "2.0", "id": 7, "result": { "tools": [], "content": [] } }),
            json!({ "jsonrpc": "2.0", "id": 7, "result": { "_meta": {} } }),
            json!({ "jsonrpc": "2.0", "id": 7, "result": content, "error": {} }),
            json!({ "jsonrpc": "2.0", "id": 7, "result": content, "method": "ping" }),
            json!({ "jsonrpc": "1.0", "id": 7, "result": content }),
            json!({ "jsonrpc": "2.0", "id": null, "result": content }),
            json!({ "jsonrpc": "2.0", "result": content }),
        ] {
            assert!(!is_tool_answer(&message), "{message}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_passed_over() {
        let text = br#"{"jsonrpc":"2.0","id":7,"result":{"content":[]}}"#;
        let marked = [BYTE_ORDER_MARK, text].concat();
        assert_eq!(
            as_json(&read(&marked).unwrap()),
            as_json(&read(text).unwrap())
        );
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from),
            Just(json!("complete")),
            Just(json!("task")),
            Just(json!({ "type": "text", "text": "a" })),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..4).prop_map(Value::from),
                vec((name(), inner), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    fn name() -> impl Strategy<Value = String> {
        prop_oneof![
            4 => prop::sample::select(vec![
                "content", "structuredContent", "isError", "_meta", "resultType", "type", "text",
                "tools", "contents",
            ])
            .prop_map(String::from),
            1 => "\\PC{0,4}",
        ]
    }

    fn message() -> impl Strategy<Value = Value> {
        let member = prop_oneof![
            6 => (Just("result"), vec((name(), value()), 0..5).prop_map(|members| {
                Value::Object(members.into_iter().collect::<Map<_, _>>())
            })),
            1 => (prop::sample::select(vec!["result", "error", "method", "id", "a"]), value()),
        ];
        vec(member, 1..3).prop_map(|members| {
            let mut message = json!({ "jsonrpc": "2.0", "id": 7 });
            for (name, value) in members {
                message[name] = value;
            }
            message
        })
    }

    proptest! {
        #![proptest_config(quick())]

        #[test]
        fn it_is_read_as_rmcp_reads_it(message in message()) {
            let text = message.to_string();
            let ours = read(text.as_bytes());
            let theirs = serde_json::from_str::<ServerJsonRpcMessage>(&text);
            match (ours, theirs) {
                (Ok(ours), Ok(theirs)) => {
                    prop_assert_eq!(as_json(&ours), as_json(&theirs));
                    prop_assert_eq!(
                        std::mem::discriminant(&ours),
                        std::mem::discriminant(&theirs)
                    );
                }
                (Err(_), Err(_)) => {}
                (ours, theirs) => prop_assert!(false, "{:?} and {:?}", ours, theirs),
            }
        }

        #[test]
        fn no_text_is_too_strange(text in vec(any::<u8>(), 0..200)) {
            let _ = read(&text);
        }
    }
}
