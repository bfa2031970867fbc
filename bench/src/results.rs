//! What was measured.

use crate::process::Split;
use crate::workloads::Workload;

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// In the workload's unit.
    pub value: f64,
    /// Microseconds of the worker's processor time per call, if counted.
    pub cpu: Option<Split>,
    /// The share of calls that the grace answered, if there is one.
    pub grace: Option<f64>,
}

impl Sample {
    /// A value alone.
    pub fn of(value: f64) -> Self {
        Self {
            value,
            cpu: None,
            grace: None,
        }
    }
}

/// A contender's figure of a name ("p50"; "" if it has only one) in all rounds.
#[derive(Debug)]
pub struct Row {
    /// The contender.
    pub label: &'static str,
    /// The figure's name.
    pub figure: &'static str,
    /// One for each round.
    pub samples: Vec<Sample>,
}

/// Smallest, middle and largest of some values, and the quartiles.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The smallest.
    pub min: f64,
    /// The median.
    pub median: f64,
    /// The largest.
    pub max: f64,
    /// What a quarter and three quarters of them do not exceed.
    pub quartiles: [f64; 2],
}

impl Spread {
    /// Of at least one value.
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        // Between two values, as far as the share is between their places.
        let quantile = |share: f64| {
            let place = share * (values.len() - 1) as f64;
            let (below, above) = (values[place as usize], values[place.ceil() as usize]);
            below + (above - below) * place.fract()
        };
        Some(Self {
            min,
            median: quantile(0.5),
            max,
            quartiles: [quantile(0.25), quantile(0.75)],
        })
    }
}

impl Spread {
    /// The range between the quartiles.
    pub fn between(&self) -> f64 {
        self.quartiles[1] - self.quartiles[0]
    }
}

impl Row {
    /// Of the values.
    pub fn spread(&self) -> Option<Spread> {
        Spread::of(self.samples.iter().map(|sample| sample.value))
    }

    /// Of the processor time per call, medians of the event loop's and the
    /// other threads'.
    pub fn cpu(&self) -> Option<Split> {
        let median = |part: fn(Split) -> f64| {
            let cpu = self.samples.iter().filter_map(|sample| sample.cpu);
            Spread::of(cpu.map(part)).map(|spread| spread.median)
        };
        Some(Split {
            event_loop: median(|cpu| cpu.event_loop)?,
            pools: median(|cpu| cpu.pools)?,
        })
    }

    /// The median share of calls that the grace answered.
    pub fn grace(&self) -> Option<f64> {
        let grace = self.samples.iter().filter_map(|sample| sample.grace);
        Spread::of(grace).map(|spread| spread.median)
    }

    /// Its name in the table.
    pub fn name(&self) -> String {
        format!("{} {}", self.label, self.figure).trim().to_owned()
    }
}

/// A workload with what was measured.
#[derive(Debug)]
pub struct Outcome {
    /// The workload.
    pub workload: &'static Workload,
    /// By contender and figure.
    pub rows: Vec<Row>,
}

impl Outcome {
    /// Adds what a round gave for a contender.
    pub fn add(&mut self, label: &'static str, figures: Vec<(&'static str, Sample)>) {
        for (figure, sample) in figures {
            match self.position(label, figure) {
                Some(index) => self.rows[index].samples.push(sample),
                None => self.rows.push(Row {
                    label,
                    figure,
                    samples: vec![sample],
                }),
            }
        }
    }

    /// The row of a contender's figure.
    pub fn row(&self, label: &str, figure: &str) -> Option<&Row> {
        Some(&self.rows[self.position(label, figure)?])
    }

    fn position(&self, label: &str, figure: &str) -> Option<usize> {
        let same = |row: &Row| row.label == label && row.figure == figure;
        self.rows.iter().position(same)
    }

    /// How a row's median compares with that of the reference.
    pub fn ratio(&self, row: &Row) -> Option<f64> {
        let reference = self.row(self.workload.reference, row.figure)?;
        Some(row.spread()?.median / reference.spread()?.median)
    }
}

/// All that was measured.
#[derive(Debug, Default)]
pub struct Results {
    /// In the order of the workloads.
    pub outcomes: Vec<Outcome>,
}

impl Results {
    /// A row, if it was measured.
    pub fn row(&self, workload: &str, label: &str, figure: &str) -> Option<&Row> {
        let mut outcomes = self.outcomes.iter();
        let outcome = outcomes.find(|outcome| outcome.workload.name == workload)?;
        outcome.row(label, figure)
    }

    /// A row's median.
    pub fn median(&self, workload: &str, label: &str, figure: &str) -> Option<f64> {
        Some(self.row(workload, label, figure)?.spread()?.median)
    }
}

/// A figure with as many digits as it deserves.
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        size if size >= 0.01 => 3,
        0.0 => 0,
        _ => 4,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workloads::WORKLOADS;

    #[test]
    fn medians_of_odd_and_even_numbers_of_values() {
        let spread = |values: &[f64]| Spread::of(values.iter().copied());
        assert_eq!(spread(&[]), None);
        let expected = |quartiles| {
            let (min, median, max) = (1.0, 2.0, 9.0);
            Some(Spread {
                min,
                median,
                max,
                quartiles,
            })
        };
        assert_eq!(spread(&[9.0, 1.0, 2.0]), expected([1.5, 5.5]));
        assert_eq!(spread(&[9.0, 1.0, 1.0, 3.0]), expected([1.0, 4.5]));
    }

    #[test]
    fn ratios_refer_to_the_same_figure_of_the_reference() {
        let workload = WORKLOADS
            .iter()
            .find(|workload| workload.name == "computing");
        let mut outcome = Outcome {
            workload: workload.unwrap(),
            rows: Vec::new(),
        };
        let figures = |p50, p99| vec![("p50", Sample::of(p50)), ("p99", Sample::of(p99))];
        outcome.add("idle", figures(10.0, 100.0));
        outcome.add("nice 0", figures(20.0, 300.0));
        let ratios: Vec<_> = outcome.rows.iter().map(|row| outcome.ratio(row)).collect();
        assert_eq!(ratios, [Some(1.0), Some(1.0), Some(2.0), Some(3.0)]);
    }

    #[test]
    fn numbers_have_the_digits_that_count() {
        let texts = [0.0, 0.0003, 0.25, 2.9, 36.02, 152.4, 65_038.76].map(number);
        assert_eq!(
            texts,
            ["0", "0.0003", "0.250", "2.90", "36.0", "152", "65039"]
        );
    }
}
