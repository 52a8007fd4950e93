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

/// A bar: who, seconds, and whether it is ours.
type Bar<'a> = (&'a str, f64, bool);

/// Every comparison's medians as bars, one group for each thing that was measured; readable in light and dark.
pub(crate) fn svg(results: &Results, facts: &str) -> String {
    let groups = groups(&results.rows);
    let all: Vec<f64> = groups
        .iter()
        .flat_map(|(_, bars)| bars.iter().map(|(_, s, _)| *s))
        .collect();
    let decade = |s: f64| s.max(1e-3).log10();
    let low = all.iter().copied().map(decade).fold(0.0, f64::min).floor();
    let high = all.iter().copied().map(decade).fold(0.0, f64::max).ceil();
    let x = |s: f64| LEFT + (decade(s) - low) / (high - low).max(1.0) * (RIGHT - LEFT);
    let bars: usize = groups.iter().map(|(_, bars)| bars.len()).sum();
    let height = TOP + bars as f64 * BAR + groups.len() as f64 * GAP + 50.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" \
         aria-label=\"Seconds of mirrorlog and of its peers\">\n<style>\n\
         svg {{ font: 12px sans-serif; background: #fff; --ink: #1f2328; --grid: #d1d9e0; --ours: #0a7d55; --theirs: #8c959f }}\n\
         @media (prefers-color-scheme: dark) {{ svg {{ background: #0d1117; --ink: #e6edf3; --grid: #3d444d; --ours: #3fb98a; \
         --theirs: #6e7681 }} }}\n\
         text {{ fill: var(--ink) }} line {{ stroke: var(--grid) }} .ours {{ fill: var(--ours) }} .theirs {{ fill: var(--theirs) }}\n\
         .small {{ font-size: 10px }} .end {{ text-anchor: end }} .middle {{ text-anchor: middle }} .title {{ font-size: 15px; font-weight: bold }}\n\
         </style>\n<text class=\"title\" x=\"12\" y=\"22\">Seconds, logarithmic; shorter is better</text>\n\
         <text class=\"small\" x=\"12\" y=\"40\">{}</text>\n",
        escaped(facts)
    );
    let bottom = height - 40.0;
    for decade in low as i32..=high as i32 {
        let s = 10_f64.powi(decade);
        writeln!(
            text,
            "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{TOP:.0}\" y2=\"{bottom:.0}\"/>\
             <text class=\"small middle\" x=\"{0:.1}\" y=\"{1:.0}\">{2}</text>",
            x(s),
            bottom + 14.0,
            if s < 1.0 {
                format!("{:.0} ms", s * 1e3)
            } else {
                format!("{s:.0} s")
            },
        )
        .unwrap();
    }
    let mut y = TOP + GAP / 2.0;
    for (label, bars) in &groups {
        let middle = y + bars.len() as f64 * BAR / 2.0 + 4.0;
        writeln!(
            text,
            "<text class=\"end\" x=\"{:.0}\" y=\"{middle:.1}\">{}</text>",
            LEFT - 10.0,
            escaped(label)
        )
        .unwrap();
        for (who, s, is_ours) in bars {
            let class = if *is_ours { "ours" } else { "theirs" };
            writeln!(
                text,
                "<rect class=\"{class}\" x=\"{LEFT:.0}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>\
                 <text class=\"small\" x=\"{:.1}\" y=\"{:.1}\">{} {}</text>",
                (x(*s) - LEFT).max(1.0),
                BAR - 2.0,
                x(*s).max(LEFT + 1.0) + 4.0,
                y + BAR - 3.5,
                escaped(who),
                seconds(*s),
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
