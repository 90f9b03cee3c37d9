//! Bar charts as inline SVG: one bar for each row of each system, and a thin line from the lowest to the highest round. Pure.
//!
//! Colours are CSS classes of the page, so that they follow light and dark.

use std::fmt::Write;

use super::html::escape;
use super::summary::Spread;

const WIDTH: f64 = 380.0;
const LABELS: f64 = 112.0;
const VALUES: f64 = 62.0;
const BAR: f64 = 10.0;
const GAP: f64 = 12.0;

#[derive(Debug, Clone, Default)]
pub(super) struct Chart {
    /// Names the figure and its unit.
    pub(super) title: String,
    pub(super) groups: Vec<ChartGroup>,
}

#[derive(Debug, Clone)]
pub(super) struct ChartGroup {
    pub(super) label: String,
    pub(super) ours: bool,
    pub(super) bars: Vec<ChartBar>,
}

#[derive(Debug, Clone)]
pub(super) struct ChartBar {
    /// The CSS class, which gives the colour.
    pub(super) class: &'static str,
    pub(super) name: &'static str,
    pub(super) value: Spread,
    pub(super) text: String,
}

impl Chart {
    /// The figure with its caption; empty if there is nothing to show.
    pub(super) fn render(&self) -> String {
        let largest = self.bars().map(|bar| bar.value.max).fold(0.0, f64::max);
        if largest <= 0.0 {
            return String::new();
        }
        let scale = (WIDTH - LABELS - VALUES) / largest;
        let mut body = String::new();
        let mut top = 4.0;
        for group in &self.groups {
            let height = group.bars.len() as f64 * (BAR + 2.0);
            let weight = if group.ours { "name ours" } else { "name" };
            // Writing to a string can't fail.
            let _ = write!(
                body,
                r#"<text class="{weight}" x="{:.1}" y="{:.1}">{}</text>"#,
                LABELS - 8.0,
                top + height / 2.0 + 3.0,
                escape(&group.label)
            );
            for bar in &group.bars {
                draw(&mut body, bar, top, scale);
                top += BAR + 2.0;
            }
            top += GAP;
        }
        let height = top - GAP + 6.0;
        let title = escape(&self.title);
        format!(
            r#"<figure><figcaption>{title}</figcaption><svg viewBox="0 0 {WIDTH} {height:.0}" role="img" aria-label="{title}"><line class="axis" x1="{LABELS}" x2="{LABELS}" y1="0" y2="{height:.0}"/>{body}</svg></figure>"#
        )
    }

    fn bars(&self) -> impl Iterator<Item = &ChartBar> {
        self.groups.iter().flat_map(|group| &group.bars)
    }
}

fn draw(body: &mut String, bar: &ChartBar, top: f64, scale: f64) {
    let ChartBar { class, name, value, text } = bar;
    // Noise around zero may be below it.
    let at = |value: f64| LABELS + (value * scale).max(0.0);
    let (low, end, high, middle) = (at(value.min), at(value.median), at(value.max), top + BAR / 2.0);
    let _ = write!(
        body,
        r#"<g><title>{name}: {}</title><rect class="{class}" x="{LABELS}" y="{top:.1}" width="{:.1}" height="{BAR}" rx="2"/>"#,
        escape(text),
        (end - LABELS).max(1.0)
    );
    if high - low >= 1.0 {
        let _ = write!(body, r#"<path class="spread" d="M{low:.1} {middle:.1}H{high:.1}"/>"#);
    }
    let _ = write!(
        body,
        r#"<text class="value" x="{:.1}" y="{:.1}">{}</text></g>"#,
        high.max(end) + 5.0,
        middle + 3.5,
        escape(text)
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(median: f64) -> Chart {
        let value = Spread { median, min: median - 1.0, max: median + 1.0 };
        let bar = ChartBar { class: "one", name: "logs off", value, text: "a < b".into() };
        Chart { title: "t & u".into(), groups: vec![ChartGroup { label: "<x>".into(), ours: true, bars: vec![bar] }] }
    }

    #[test]
    fn bars_stay_inside_and_text_is_escaped() {
        let svg = chart(9.0).render();
        assert!(svg.contains(r#"width="185.4""#), "nine tenths of the room: {svg}");
        assert!(svg.contains("a &lt; b") && svg.contains("&lt;x&gt;") && svg.contains("t &amp; u"), "{svg}");
    }

    #[test]
    fn nothing_is_drawn_of_nothing_and_noise_below_zero_has_a_bar() {
        assert_eq!(Chart::default().render(), "");
        assert!(chart(-0.5).render().contains(r#"width="1.0""#));
    }
}
