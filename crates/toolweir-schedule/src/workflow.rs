//! What a schedule starts.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::Serialize;
use temporalio_common::{
    data_converters::{
        DataConverter, PayloadConversionError, RawValue, SerializationContextData,
        WorkflowSerializationContext,
    },
    protos::temporal::api::{
        common::v1::{Memo, Payload, Payloads, Priority, WorkflowType},
        schedule::v1::{ScheduleAction, schedule_action::Action},
        taskqueue::v1::TaskQueue,
        workflow::v1::NewWorkflowExecutionInfo,
    },
};
use toolweir_core::ConfigError;

use crate::times::check_seconds;

/// Fits the narrowest of the server's stores together with what the server adds.
const LONGEST_NAME: usize = 200;
const LONGEST_FAIRNESS_KEY: usize = 64;
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3650 * 24 * 3600);

/// What the builder was told.
#[derive(Clone, Default)]
pub(crate) struct Workflow {
    pub(crate) workflow_type: String,
    pub(crate) task_queue: String,
    pub(crate) id_prefix: Option<String>,
    pub(crate) input: Vec<Payload>,
    pub(crate) memo: BTreeMap<String, Payload>,
    pub(crate) execution_timeout: Option<Duration>,
    pub(crate) run_timeout: Option<Duration>,
    pub(crate) priority_key: Option<u8>,
    pub(crate) fairness_key: Option<String>,
}

impl Workflow {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        check_name("workflow", &self.workflow_type)?;
        check_name("task_queue", &self.task_queue)?;
        if let Some(prefix) = &self.id_prefix {
            check_name("workflow_id", prefix)?;
        }
        let second = Duration::from_secs(1);
        if let Some(limit) = self.execution_timeout {
            check_seconds("execution_timeout", limit, second, LONGEST_TIMEOUT)?;
        }
        if let Some(limit) = self.run_timeout {
            let most = self.execution_timeout.unwrap_or(LONGEST_TIMEOUT);
            check_seconds("run_timeout", limit, second, most)?;
        }
        if let Some(key) = self.priority_key.filter(|key| !(1..=5).contains(key)) {
            return Err(ConfigError::new(
                "priority_key",
                key,
                "from 1, the most urgent, to 5",
            ));
        }
        match &self.fairness_key {
            Some(key) if key.is_empty() || key.len() > LONGEST_FAIRNESS_KEY => {
                Err(ConfigError::new(
                    "fairness_key",
                    format!("{key:?}"),
                    format!("1 to {LONGEST_FAIRNESS_KEY} bytes long"),
                ))
            }
            _ => Ok(()),
        }
    }

    /// With what the client's data converter makes of the input: a codec that encrypts workflow
    /// inputs encrypts these.
    pub(crate) async fn to_proto(
        &self,
        schedule_id: &str,
        converter: &DataConverter,
    ) -> Result<ScheduleAction, PayloadConversionError> {
        let context = SerializationContextData::Workflow(WorkflowSerializationContext::new());
        let input = if self.input.is_empty() {
            None
        } else {
            let input = RawValue::new(self.input.clone());
            let payloads = converter.to_payloads(&context, &input).await?;
            Some(Payloads { payloads })
        };
        let mut memo = Memo::default();
        for (key, value) in &self.memo {
            let value = RawValue::new(vec![value.clone()]);
            let value = converter.to_payload(&context, &value).await?;
            memo.fields.insert(key.clone(), value);
        }
        let start = NewWorkflowExecutionInfo {
            workflow_id: self.id_prefix.as_deref().unwrap_or(schedule_id).to_owned(),
            workflow_type: Some(WorkflowType {
                name: self.workflow_type.clone(),
            }),
            task_queue: Some(TaskQueue {
                name: self.task_queue.clone(),
                ..Default::default()
            }),
            input,
            workflow_execution_timeout: self.execution_timeout.and_then(|d| d.try_into().ok()),
            workflow_run_timeout: self.run_timeout.and_then(|d| d.try_into().ok()),
            memo: (!memo.fields.is_empty()).then_some(memo),
            priority: self.priority(),
            ..Default::default()
        };
        Ok(ScheduleAction {
            action: Some(Action::StartWorkflow(start)),
        })
    }

    fn priority(&self) -> Option<Priority> {
        if self.priority_key.is_none() && self.fairness_key.is_none() {
            return None;
        }
        Some(Priority {
            priority_key: self.priority_key.map_or(0, i32::from),
            fairness_key: self.fairness_key.clone().unwrap_or_default(),
            ..Default::default()
        })
    }
}

/// Inputs may hold what logs must not, so they are counted and not shown.
impl fmt::Debug for Workflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workflow")
            .field("workflow_type", &self.workflow_type)
            .field("task_queue", &self.task_queue)
            .field("id_prefix", &self.id_prefix)
            .field("inputs", &self.input.len())
            .field("memo", &self.memo.keys())
            .field("execution_timeout", &self.execution_timeout)
            .field("run_timeout", &self.run_timeout)
            .field("priority_key", &self.priority_key)
            .field("fairness_key", &self.fairness_key)
            .finish()
    }
}

/// A name that the server takes and a person can read back.
pub(crate) fn check_name(field: &'static str, name: &str) -> Result<(), ConfigError> {
    let is_short = (1..=LONGEST_NAME).contains(&name.len());
    if is_short && !name.chars().any(char::is_control) {
        return Ok(());
    }
    // What is too long is not repeated in full.
    let shown: String = name.chars().take(LONGEST_NAME).collect();
    Err(ConfigError::new(
        field,
        format!("{shown:?}"),
        format!("1 to {LONGEST_NAME} bytes long, without control characters"),
    ))
}

/// `value` as plain JSON, which SDKs of every language read.
pub(crate) fn json_payload<T: Serialize + ?Sized>(
    field: &'static str,
    value: &T,
) -> Result<Payload, ConfigError> {
    let data = serde_json::to_vec(value).map_err(|error| {
        ConfigError::new(field, format!("not ({error})"), "serialisable as JSON")
    })?;
    Ok(Payload {
        metadata: [("encoding".to_owned(), b"json/plain".to_vec())].into(),
        data,
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workflow() -> Workflow {
        Workflow {
            workflow_type: "Sync".into(),
            task_queue: "sync".into(),
            ..Workflow::default()
        }
    }

    /// Refused because of `field`, after `change`.
    fn refused(field: &str, change: impl FnOnce(&mut Workflow)) {
        let mut workflow = workflow();
        workflow.check().unwrap();
        change(&mut workflow);
        let error = workflow.check().unwrap_err();
        assert_eq!(error.field(), field, "{workflow:?}: {error}");
    }

    #[test]
    fn what_cannot_be_right_is_named() {
        let second = Duration::from_secs(1);
        refused("workflow", |w| w.workflow_type.clear());
        refused("task_queue", |w| w.task_queue = "x".repeat(201));
        refused("workflow_id", |w| w.id_prefix = Some("a\nb".into()));
        refused("execution_timeout", |w| {
            w.execution_timeout = Some(Duration::ZERO);
        });
        refused("run_timeout", |w| w.run_timeout = Some(second / 2));
        refused("run_timeout", |w| {
            w.execution_timeout = Some(second);
            w.run_timeout = Some(second * 2);
        });
        refused("priority_key", |w| w.priority_key = Some(0));
        refused("priority_key", |w| w.priority_key = Some(6));
        refused("fairness_key", |w| w.fairness_key = Some("k".repeat(65)));
    }

    #[tokio::test]
    async fn inputs_are_plain_json_and_not_in_the_debug_output() {
        let mut workflow = workflow();
        let input = json_payload("input", &("anna", 7)).unwrap();
        workflow.input.push(input);
        workflow
            .memo
            .insert("user".into(), json_payload("memo", "anna").unwrap());
        workflow.fairness_key = Some("ben".into());
        assert!(!format!("{workflow:?}").contains("anna"));

        let action = workflow
            .to_proto("sync/1", &DataConverter::default())
            .await
            .unwrap();
        let Some(Action::StartWorkflow(start)) = action.action else {
            panic!("{action:?}");
        };
        assert_eq!(start.workflow_id, "sync/1");
        let payloads = start.input.unwrap().payloads;
        assert_eq!(payloads.len(), 1);
        assert_eq!(payloads[0].data, br#"["anna",7]"#);
        assert_eq!(payloads[0].metadata["encoding"], b"json/plain");
        assert_eq!(start.memo.unwrap().fields["user"].data, br#""anna""#);
        let priority = start.priority.unwrap();
        assert_eq!(
            (priority.priority_key, priority.fairness_key.as_str()),
            (0, "ben")
        );
        assert!(start.workflow_execution_timeout.is_none());
    }
}
