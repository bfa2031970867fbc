//! The medians as bars with their spread, one panel per workload, as SVG.

use std::fmt::Write;

use crate::machine::Machine;
use crate::results::{Outcome, Results, Row, Spread, number};

const WIDTH: f64 = 860.0;
const MARGIN: f64 = 16.0;
/// Where bars begin, right of their labels, and end, left of their figures.
const LEFT: f64 = 190.0;
const RIGHT: f64 = 760.0;
const LINE: f64 = 22.0;
const BAR: f64 = 12.0;
const TITLE: f64 = 30.0;
const AXIS: f64 = 30.0;

/// The text of the file.
pub fn document(results: &Results, machine: &Machine) -> String {
    let mut panels = String::new();
    let mut top = 56.0;
    for outcome in &results.outcomes {
        let rows = drawable(outcome);
        if !rows.is_empty() {
            panel(&mut panels, outcome, &rows, top);
            top += TITLE + rows.len() as f64 * LINE + AXIS;
        }
    }
    let height = top + MARGIN;
    let machine = escaped(&machine.text());
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"{MARGIN}\" y=\"26\" font-size=\"16\" font-weight=\"bold\">\
         lua-resty-nonblocking-ffi: median, smallest and largest of all rounds (logarithmic)</text>\n\
         <text x=\"{MARGIN}\" y=\"44\" fill=\"#555555\">{machine}</text>\n\
         {panels}</svg>\n"
    )
}

/// Zero has no place on a logarithmic axis.
fn drawable(outcome: &Outcome) -> Vec<(&Row, Spread)> {
    let rows = outcome
        .rows
        .iter()
        .filter_map(|row| Some((row, row.spread()?)));
    rows.filter(|(_, spread)| spread.min > 0.0).collect()
}

/// From a value to its place, between powers of ten.
struct Scale {
    from: i32,
    to: i32,
}

impl Scale {
    fn of(rows: &[(&Row, Spread)]) -> Self {
        let min = rows
            .iter()
            .map(|(_, spread)| spread.min)
            .fold(f64::MAX, f64::min);
        let max = rows
            .iter()
            .map(|(_, spread)| spread.max)
            .fold(0.0, f64::max);
        let from = min.log10().floor() as i32;
        let to = max.log10().ceil() as i32;
        // A bar of the smallest value should be seen, too.
        let from = if min < 2.0 * 10_f64.powi(from) {
            from - 1
        } else {
            from
        };
        Self {
            from,
            to: to.max(from + 1),
        }
    }

    fn x(&self, value: f64) -> f64 {
        let share = (value.log10() - f64::from(self.from)) / f64::from(self.to - self.from);
        LEFT + share * (RIGHT - LEFT)
    }
}

fn panel(svg: &mut String, outcome: &Outcome, rows: &[(&Row, Spread)], top: f64) {
    let scale = Scale::of(rows);
    let bottom = top + TITLE + rows.len() as f64 * LINE;
    let title = format!(
        "{}, {}",
        outcome.workload.title,
        outcome.workload.unit.text()
    );
    text(svg, MARGIN, top + 20.0, "font-weight=\"bold\"", &title);
    for power in scale.from..=scale.to {
        let value = 10_f64.powi(power);
        let x = scale.x(value);
        line(svg, (x, top + TITLE), (x, bottom), "#dddddd");
        let digits = usize::try_from(-power).unwrap_or(0);
        let label = format!("{value:.digits$}");
        text(
            svg,
            x,
            bottom + 14.0,
            "text-anchor=\"middle\" fill=\"#777777\"",
            &label,
        );
    }
    for (index, (row, spread)) in rows.iter().enumerate() {
        let y = top + TITLE + (index as f64 + 0.5) * LINE;
        let ours = row.label.contains("ours") || outcome.workload.title.contains("ours");
        let colour = if ours { "#2f6db5" } else { "#9aa5b1" };
        let end = scale.x(spread.median);
        let _ = writeln!(
            svg,
            "<rect x=\"{LEFT:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>",
            y - BAR / 2.0,
            end - LEFT,
        );
        let (low, high) = (scale.x(spread.min), scale.x(spread.max));
        line(svg, (low, y), (high, y), "#222222");
        for x in [low, high] {
            line(svg, (x, y - 4.0), (x, y + 4.0), "#222222");
        }
        text(svg, LEFT - 8.0, y + 4.0, "text-anchor=\"end\"", &row.name());
        text(
            svg,
            end.max(high) + 8.0,
            y + 4.0,
            "",
            &number(spread.median),
        );
    }
}

// Writing to a string cannot fail.

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    let _ = writeln!(
        svg,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn text(svg: &mut String, x: f64, y: f64, attributes: &str, text: &str) {
    let text = escaped(text);
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" {attributes}>{text}</text>"
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
