//! Everything that was measured, as JSON for programs.

use serde_json::{Value, json};

use crate::machine::Machine;
use crate::process::Split;
use crate::results::{Outcome, Results, Row, Sample};
use crate::targets::{TARGETS, Target, Verdict};

/// The text of the file; `compared` are the results of another build.
pub fn document(
    results: &Results,
    compared: Option<&Results>,
    machine: &Machine,
    rounds: usize,
) -> String {
    let targets = TARGETS.iter().map(|one| target(one, results));
    let document = json!({
        "machine": {
            "date": machine.date,
            "cores": machine.cores,
            "processor": machine.processor,
            "kernel": machine.kernel,
            "nginx": machine.nginx,
        },
        "rounds": rounds,
        "workloads": workloads(results),
        "compared": compared.map(workloads),
        "targets": targets.collect::<Value>(),
    });
    format!("{document}\n")
}

fn target(target: &Target, results: &Results) -> Value {
    let (verdict, value) = match target.verdict(results) {
        Verdict::NotMeasured => ("not measured", None),
        Verdict::Reached(value) => ("reached", Some(value)),
        Verdict::Missed(value) => ("missed", Some(value)),
    };
    json!({
        "target": target.text,
        "verdict": verdict,
        "value": value,
        "bound": target.bound(),
    })
}

fn workloads(results: &Results) -> Value {
    results.outcomes.iter().map(workload).collect()
}

fn workload(outcome: &Outcome) -> Value {
    let workload = outcome.workload;
    json!({
        "name": workload.name,
        "title": workload.title,
        "unit": workload.unit.text(),
        "reference": workload.reference,
        "rows": outcome.rows.iter().map(|one| row(outcome, one)).collect::<Value>(),
    })
}

fn row(outcome: &Outcome, row: &Row) -> Value {
    let spread = row.spread();
    let part = |pick: fn(Split) -> f64| row.cpu().map(pick);
    let rounds = |pick: fn(&Sample) -> f64| row.samples.iter().map(pick).collect::<Value>();
    json!({
        "contender": row.label,
        "figure": row.figure,
        "median": spread.map(|spread| spread.median),
        "min": spread.map(|spread| spread.min),
        "max": spread.map(|spread| spread.max),
        "quartiles": spread.map(|spread| spread.quartiles),
        "ratio": outcome.ratio(row),
        "cpu_event_loop_us": part(|cpu| cpu.event_loop),
        "cpu_other_threads_us": part(|cpu| cpu.pools),
        "grace": row.grace(),
        "rounds": rounds(|sample| sample.value),
    })
}
