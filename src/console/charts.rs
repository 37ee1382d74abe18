//! Charts as SVG: bars over time, and lines in the rows of a list.

use std::fmt::{self, Write};

use askama::filters::HtmlSafe;

use super::view;

/// What one bar shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bar {
    /// Lower part.
    pub(super) good: i64,
    /// Upper part.
    pub(super) bad: i64,
}

/// Bars side by side, the latest one on the right.
#[derive(Clone, Debug)]
pub(super) struct Bars {
    /// For those who do not see it.
    pub(super) label: String,
    pub(super) bars: Vec<Bar>,
}

const BAR_WIDTH: i64 = 10;
const HEIGHT: i64 = 100;

impl fmt::Display for Bars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = self.bars.iter().map(|bar| bar.good + bar.bad).max().unwrap_or(0).max(1);
        let count = i64::try_from(self.bars.len()).unwrap_or(0).max(1);
        // The label is made of numbers and of words of ours.
        write!(
            f,
            r#"<svg class="bars" viewBox="0 0 {} {HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{}">"#,
            count * BAR_WIDTH,
            self.label,
        )?;
        for (x, bar) in (0..).step_by(usize::try_from(BAR_WIDTH).unwrap_or(1)).zip(&self.bars) {
            let all = scaled(bar.good + bar.bad, most);
            let bad = if bar.bad > 0 { scaled(bar.bad, most).max(1) } else { 0 };
            for (class, top, height) in [("good", bad, all - bad), ("bad", 0, bad)] {
                if height > 0 {
                    let (x, y, width) = (x + 1, HEIGHT - all + top, BAR_WIDTH - 2);
                    write!(
                        f,
                        r#"<rect class="{class}" x="{x}" y="{y}" width="{width}" height="{height}"/>"#
                    )?;
                }
            }
        }
        f.write_str("</svg>")
    }
}

impl HtmlSafe for Bars {}

/// At least one unit for anything that is there.
fn scaled(value: i64, most: i64) -> i64 {
    if value > 0 { (value * HEIGHT / most).max(1) } else { 0 }
}

/// A line without axes: how much in each of the last minutes, with what failed below it.
#[derive(Clone, Debug)]
pub(super) struct Sparkline(pub(super) Vec<Bar>);

impl fmt::Display for Sparkline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const WIDTH: usize = 120;
        const SPARK_HEIGHT: i64 = 28;
        let (good, bad): (i64, i64) =
            self.0.iter().fold((0, 0), |(good, bad), bar| (good + bar.good, bad + bar.bad));
        let most = self.0.iter().map(|bar| bar.good + bar.bad).max().unwrap_or(0).max(1);
        let label =
            format!("{} succeeded, {} failed in the last hour", view::number(good), view::number(bad));
        write!(
            f,
            r#"<svg class="spark" viewBox="0 0 {WIDTH} {SPARK_HEIGHT}" width="{WIDTH}" height="{SPARK_HEIGHT}" role="img" aria-label="{label}">"#
        )?;
        let step = WIDTH / self.0.len().max(1);
        let mut line = String::new();
        for (index, bar) in self.0.iter().enumerate() {
            let height = (bar.good + bar.bad) * (SPARK_HEIGHT - 3) / most;
            write!(
                line,
                "{}{},{}",
                if index > 0 { " " } else { "" },
                index * step,
                SPARK_HEIGHT - 2 - height
            )?;
        }
        write!(f, r#"<polyline points="{line}"/>"#)?;
        for (index, bar) in self.0.iter().enumerate().filter(|(_, bar)| bar.bad > 0) {
            let height = (bar.bad * (SPARK_HEIGHT - 3) / most).max(2);
            write!(
                f,
                r#"<rect class="bad" x="{}" y="{}" width="2" height="{height}"/>"#,
                index * step,
                SPARK_HEIGHT - 1 - height
            )?;
        }
        f.write_str("</svg>")
    }
}

impl HtmlSafe for Sparkline {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_high_as_its_share_and_never_invisible() {
        let bars = vec![Bar { good: 1000, bad: 0 }, Bar { good: 0, bad: 1 }, Bar::default()];
        let svg = Bars { label: "three".to_owned(), bars }.to_string();
        assert!(svg.contains(r#"<rect class="good" x="1" y="0" width="8" height="100"/>"#), "{svg}");
        assert!(svg.contains(r#"<rect class="bad" x="11" y="99" width="8" height="1"/>"#), "{svg}");
        assert_eq!(svg.matches("<rect").count(), 2);
    }

    #[test]
    fn a_sparkline_says_in_words_what_it_shows() {
        let svg = Sparkline(vec![Bar { good: 1200, bad: 0 }, Bar { good: 0, bad: 3 }]).to_string();
        assert!(svg.contains(r#"aria-label="1,200 succeeded, 3 failed in the last hour""#), "{svg}");
        assert!(!svg.contains("style"));
    }
}
