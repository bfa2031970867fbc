//! The one table, for people.

use crate::results::{Outcome, Results, Row, Spread, number};
use crate::targets::{TARGETS, Verdict};

const HEAD: [&str; 9] = [
    "", "unit", "median", "min", "max", "ratio", "cpu loop", "cpu pool", "grace",
];

/// Prints everything that was measured.
pub fn print(results: &Results) {
    let sections: Vec<Vec<[String; 9]>> = results.outcomes.iter().map(lines).collect();
    let mut widths = HEAD.map(str::len);
    for line in sections.iter().flatten() {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    println!("{}", aligned(&HEAD.map(str::to_owned), &widths));
    for (outcome, lines) in results.outcomes.iter().zip(&sections) {
        println!("\n{}: {}", outcome.workload.name, outcome.workload.title);
        for line in lines {
            println!("{}", aligned(line, &widths));
        }
    }
    println!(
        "\nmedian, min, max: of the rounds. ratio: of the medians, to the contender with 1.00.\n\
         cpu: us of the worker per call, of the event loop and of all its other threads.\n\
         grace: the share of calls that got their result without yielding."
    );
}

fn lines(outcome: &Outcome) -> Vec<[String; 9]> {
    outcome.rows.iter().map(|row| line(outcome, row)).collect()
}

fn line(outcome: &Outcome, row: &Row) -> [String; 9] {
    let spread = row.spread();
    let figure = |value: Option<f64>| value.map_or(String::new(), number);
    let cpu = row.cpu();
    [
        format!("  {}", row.name()),
        outcome.workload.unit.text().to_owned(),
        figure(spread.map(|spread| spread.median)),
        figure(spread.map(|spread| spread.min)),
        figure(spread.map(|spread| spread.max)),
        outcome.ratio(row).map_or(String::new(), ratio),
        figure(cpu.map(|cpu| cpu.event_loop)),
        figure(cpu.map(|cpu| cpu.pools)),
        row.grace()
            .map_or(String::new(), |share| format!("{:.0}%", share * 100.0)),
    ]
}

fn ratio(value: f64) -> String {
    if value < 0.095 {
        format!("{value:.3}")
    } else {
        format!("{value:.2}")
    }
}

/// The first two columns to the left, the others to the right.
fn aligned(cells: &[String; 9], widths: &[usize; 9]) -> String {
    let mut line = String::new();
    for (index, (cell, &width)) in cells.iter().zip(widths).enumerate() {
        let cell = if index < 2 {
            format!("{cell:width$}  ")
        } else {
            format!("{cell:>width$}  ")
        };
        line.push_str(&cell);
    }
    line.trim_end().to_owned()
}

/// Prints what was to be reached, and whether it was.
pub fn print_targets(results: &Results) {
    println!("\nTargets");
    for target in TARGETS {
        let (word, figures) = match target.verdict(results) {
            Verdict::NotMeasured => ("-", "not measured".to_owned()),
            Verdict::Reached(value) => ("reached", figures(value, target.bound())),
            Verdict::Missed(value) => ("MISSED", figures(value, target.bound())),
        };
        println!("  {word:8} {:62} {figures}", target.text);
    }
}

fn figures(value: f64, bound: String) -> String {
    format!("{} ({bound})", number(value))
}

/// Prints the medians of each row here and in another build, with their quartiles. A
/// row is marked if its median is worse by more than the wider spread of the two
/// between their quartiles.
pub fn print_comparison(ours: &Results, other: &Results) {
    println!("\nCompared: median [quartiles], first of the other build");
    for outcome in &ours.outcomes {
        let name = outcome.workload.name;
        for row in &outcome.rows {
            let before = other.row(name, row.label, row.figure);
            let before = before.and_then(Row::spread);
            if let (Some(before), Some(now)) = (before, row.spread()) {
                let higher_is_better = outcome.workload.unit.is_rate();
                let worse = if higher_is_better {
                    before.median - now.median
                } else {
                    now.median - before.median
                };
                let mark = if worse > before.between().max(now.between()) {
                    "WORSE"
                } else {
                    ""
                };
                let place = format!("{name}: {}", row.name());
                let times = now.median / before.median;
                let times = if times.is_nan() {
                    String::new()
                } else {
                    ratio(times)
                };
                let (before, now) = (quartiles(before), quartiles(now));
                let line = format!("  {place:48} {before:30} {now:30} {times:5} {mark}");
                println!("{}", line.trim_end());
            }
        }
    }
}

fn quartiles(spread: Spread) -> String {
    let [lower, upper] = spread.quartiles.map(number);
    format!("{} [{lower}, {upper}]", number(spread.median))
}
