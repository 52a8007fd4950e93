//! One plot of all comparisons: seconds, on a logarithmic scale.

use std::fmt::Write as _;

use crate::results::{Results, Row, Sample, median, seconds, thousands};

const WIDTH: f64 = 860.0;
/// Where the bars begin; labels are before.
const LEFT: f64 = 330.0;
const RIGHT: f64 = 760.0;
const TOP: f64 = 64.0;
const BAR: f64 = 13.0;
const GAP: f64 = 14.0;

/// Colours of light and dark surroundings.
const STYLE: &str = "
svg { font: 12px sans-serif; background: #fff; --ink: #1f2328; --grid: #d1d9e0; --ours: #0a7d55; --theirs: #8c959f }
@media (prefers-color-scheme: dark) {
 svg { background: #0d1117; --ink: #e6edf3; --grid: #3d444d; --ours: #3fb98a; --theirs: #6e7681 }
}
text { fill: var(--ink) }
line { stroke: var(--grid) }
.ours { fill: var(--ours) }
.theirs { fill: var(--theirs) }
.small { font-size: 10px }
.end { text-anchor: end }
.middle { text-anchor: middle }
.title { font-size: 15px; font-weight: bold }
";

/// A bar: who, seconds, and whether it is ours.
type Bar<'a> = (&'a str, f64, bool);

/// A logarithmic axis, in powers of ten.
struct Axis {
    low: i32,
    high: i32,
}

impl Axis {
    fn of(groups: &[(String, Vec<Bar<'_>>)]) -> Self {
        let all = groups.iter().flat_map(|(_, bars)| bars);
        let (mut low, mut high) = (0, 1);
        for (_, s, _) in all {
            low = low.min(decade(*s).floor() as i32);
            high = high.max(decade(*s).ceil() as i32);
        }
        Self { low, high }
    }

    fn x(&self, s: f64) -> f64 {
        let (low, high) = (f64::from(self.low), f64::from(self.high));
        LEFT + (decade(s) - low) / (high - low) * (RIGHT - LEFT)
    }

    fn draw(&self, text: &mut String, bottom: f64) {
        for decade in self.low..=self.high {
            let s = 10_f64.powi(decade);
            let (x, y) = (self.x(s), bottom + 14.0);
            let label = if s < 1.0 {
                format!("{:.0} ms", s * 1e3)
            } else {
                format!("{s:.0} s")
            };
            writeln!(
                text,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP:.0}\" y2=\"{bottom:.0}\"/>\
                 <text class=\"small middle\" x=\"{x:.1}\" y=\"{y:.0}\">{label}</text>",
            )
            .unwrap();
        }
    }
}

/// Below a millisecond nothing is told apart.
fn decade(s: f64) -> f64 {
    s.max(1e-3).log10()
}

/// Every comparison's medians as bars, one group for each thing that was measured; readable in light and dark.
pub(crate) fn svg(results: &Results, facts: &str) -> String {
    let groups = groups(&results.rows);
    let axis = Axis::of(&groups);
    let bars: usize = groups.iter().map(|(_, bars)| bars.len()).sum();
    let height = TOP + bars as f64 * BAR + groups.len() as f64 * GAP + 50.0;
    let facts = escaped(facts);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" \
         aria-label=\"Seconds of mirrorlog and of its peers\">\n<style>{STYLE}</style>\n\
         <text class=\"title\" x=\"12\" y=\"22\">Seconds, logarithmic; shorter is better</text>\n\
         <text class=\"small\" x=\"12\" y=\"40\">{facts}</text>\n"
    );
    axis.draw(&mut text, height - 40.0);
    let mut y = TOP + GAP / 2.0;
    for (label, bars) in &groups {
        let (x, middle) = (LEFT - 10.0, y + bars.len() as f64 * BAR / 2.0 + 4.0);
        let label = escaped(label);
        writeln!(
            text,
            "<text class=\"end\" x=\"{x:.0}\" y=\"{middle:.1}\">{label}</text>"
        )
        .unwrap();
        for (who, s, is_ours) in bars {
            let class = if *is_ours { "ours" } else { "theirs" };
            let (width, height) = ((axis.x(*s) - LEFT).max(1.0), BAR - 2.0);
            let (end, baseline) = (LEFT + width + 4.0, y + BAR - 3.5);
            let label = format!("{} {}", escaped(who), seconds(*s));
            writeln!(
                text,
                "<rect class=\"{class}\" x=\"{LEFT:.0}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>\
                 <text class=\"small\" x=\"{end:.1}\" y=\"{baseline:.1}\">{label}</text>",
            )
            .unwrap();
            y += BAR;
        }
        y += GAP;
    }
    text.push_str("</svg>\n");
    text
}

/// Rows of the same thing and size share our bar: the first row's.
fn groups(rows: &[Row]) -> Vec<(String, Vec<Bar<'_>>)> {
    let mut groups: Vec<(String, Vec<Bar<'_>>)> = Vec::new();
    let middle = |samples: &[Sample]| median(samples.iter().map(|one| one.seconds));
    for row in rows {
        let label = format!("{}, {} files", row.what, thousands(row.files));
        let theirs = (row.peer, middle(&row.theirs), false);
        let theirs = row.is_compared().then_some(theirs);
        if let Some((_, bars)) = groups.iter_mut().find(|(other, _)| *other == label) {
            bars.extend(theirs);
            continue;
        }
        let mut bars = vec![("mirrorlog", middle(&row.ours), true)];
        bars.extend(theirs);
        groups.push((label, bars));
    }
    groups
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
