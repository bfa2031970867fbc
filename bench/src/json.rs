//! Everything that was measured, as JSON for programs.

use std::fmt;

use crate::machine::Machine;
use crate::process::Split;
use crate::results::{Outcome, Results, Row, Sample};
use crate::targets::{TARGETS, Verdict};

/// A JSON value.
enum Value {
    Null,
    Number(f64),
    Text(String),
    List(Vec<Value>),
    Object(Vec<(&'static str, Value)>),
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Number(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(value) if value.is_finite() => write!(f, "{value}"),
            Self::Null | Self::Number(_) => f.write_str("null"),
            Self::Text(text) => write_text(f, text),
            Self::List(values) => {
                f.write_str("[")?;
                for (index, value) in values.iter().enumerate() {
                    let comma = if index > 0 { "," } else { "" };
                    write!(f, "{comma}{value}")?;
                }
                f.write_str("]")
            }
            Self::Object(members) => {
                f.write_str("{")?;
                for (index, (key, value)) in members.iter().enumerate() {
                    let comma = if index > 0 { "," } else { "" };
                    write!(f, "{comma}\"{key}\":{value}")?;
                }
                f.write_str("}\n")
            }
        }
    }
}

fn write_text(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for char in text.chars() {
        match char {
            '"' | '\\' => write!(f, "\\{char}")?,
            '\0'..='\x1f' => write!(f, "\\u{:04x}", char as u32)?,
            _ => write!(f, "{char}")?,
        }
    }
    f.write_str("\"")
}

/// The text of the file.
pub fn document(results: &Results, machine: &Machine, rounds: usize) -> String {
    let machine = Value::Object(vec![
        ("date", machine.date.as_deref().into()),
        ("cores", (machine.cores as f64).into()),
        ("processor", machine.processor.as_str().into()),
        ("kernel", machine.kernel.as_str().into()),
        ("nginx", machine.nginx.as_str().into()),
    ]);
    let workloads = results.outcomes.iter().map(workload).collect();
    let targets = TARGETS.iter().map(|target| {
        let (verdict, value) = match target.verdict(results) {
            Verdict::NotMeasured => ("not measured", None),
            Verdict::Reached(value) => ("reached", Some(value)),
            Verdict::Missed(value) => ("missed", Some(value)),
        };
        Value::Object(vec![
            ("target", target.text.into()),
            ("verdict", verdict.into()),
            ("value", value.into()),
            ("bound", target.bound().as_str().into()),
        ])
    });
    Value::Object(vec![
        ("machine", machine),
        ("rounds", (rounds as f64).into()),
        ("workloads", Value::List(workloads)),
        ("targets", Value::List(targets.collect())),
    ])
    .to_string()
}

fn workload(outcome: &Outcome) -> Value {
    let workload = outcome.workload;
    Value::Object(vec![
        ("name", workload.name.into()),
        ("title", workload.title.into()),
        ("unit", workload.unit.text().into()),
        ("reference", workload.reference.into()),
        (
            "rows",
            Value::List(outcome.rows.iter().map(|one| row(outcome, one)).collect()),
        ),
    ])
}

fn row(outcome: &Outcome, row: &Row) -> Value {
    let spread = row.spread();
    let cpu = row.cpu();
    let all = |pick: fn(&Sample) -> f64| {
        Value::List(
            row.samples
                .iter()
                .map(|sample| pick(sample).into())
                .collect(),
        )
    };
    let part = |pick: fn(Split) -> f64| cpu.map(pick).into();
    Value::Object(vec![
        ("contender", row.label.into()),
        ("figure", row.figure.into()),
        ("median", spread.map(|spread| spread.median).into()),
        ("min", spread.map(|spread| spread.min).into()),
        ("max", spread.map(|spread| spread.max).into()),
        ("ratio", outcome.ratio(row).into()),
        ("cpu_event_loop_us", part(|cpu| cpu.event_loop)),
        ("cpu_other_threads_us", part(|cpu| cpu.pools)),
        ("grace", row.grace().into()),
        ("rounds", all(|sample| sample.value)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_and_leaves_out_what_is_no_number() {
        let value = Value::Object(vec![
            ("a", "say \"hi\"\\\n".into()),
            ("b", Value::List(vec![1.5.into(), f64::NAN.into()])),
            ("c", None::<f64>.into()),
        ]);
        let expected = "{\"a\":\"say \\\"hi\\\"\\\\\\u000a\",\"b\":[1.5,null],\"c\":null}\n";
        assert_eq!(value.to_string(), expected);
    }
}
