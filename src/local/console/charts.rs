//! Small pictures of numbers over time, as inline SVG.
//!
//! The drawing has no text: its scale and its newest values stand beside it as text, where they can
//! be read by everybody and do not stretch. Classes of the style sheet give colours and dashes.

use std::fmt::Write;

use super::html::{Html, html};

/// A line's class, and its values, oldest first; `None` where there was nothing to measure.
pub struct Line {
    pub class: &'static str,
    pub values: Vec<Option<f64>>,
}

/// The picture is drawn in these units and stretched to its place.
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 100.0;

/// A chart with room for `slots` values; the newest are at the right end. `top` is the value at
/// the upper end.
pub fn chart(lines: &[Line], slots: usize, top: f64, told: &str) -> Html {
    let mut drawn = Html::default();
    for line in lines {
        let (stroke, area) = paths(&line.values, slots, top);
        if line.class.contains("area") {
            drawn += html!("<path class=\"fill\" d=\"{}\"/>", area);
        }
        drawn += html!("<path class=\"{}\" d=\"{}\"/>", line.class, stroke);
    }
    html!(
        "<svg class=\"chart\" viewBox=\"0 0 600 100\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"{}\"><path class=\"grid\" d=\"M0 .5H600M0 50H600M0 99.5H600\"/>{}</svg>",
        told,
        drawn
    )
}

/// The smallest of 1, 2, 5, 10, ... that is not below any value.
pub fn top(lines: &[Line]) -> f64 {
    let most = lines
        .iter()
        .flat_map(|line| line.values.iter().copied().flatten())
        .fold(0.0_f64, f64::max);
    let mut decade = 0.001;
    while decade < 1e12 {
        for step in [1.0, 2.0, 5.0] {
            if decade * step >= most {
                return decade * step;
            }
        }
        decade *= 10.0;
    }
    most
}

#[expect(clippy::cast_precision_loss, reason = "there are some hundred slots")]
fn paths(values: &[Option<f64>], slots: usize, top: f64) -> (String, String) {
    let step = WIDTH / (slots.max(2) - 1) as f64;
    let first = slots.saturating_sub(values.len());
    let (mut stroke, mut area) = (String::new(), String::new());
    let mut began = None;
    for (index, value) in values.iter().enumerate() {
        let x = step * (first + index) as f64;
        let Some(value) = value else {
            close(&mut area, &mut began, x - step);
            continue;
        };
        // The line itself must not be cut off at the ends.
        let y =
            HEIGHT - 1.0 - (value / top.max(f64::MIN_POSITIVE)).clamp(0.0, 1.0) * (HEIGHT - 2.0);
        let command = if began.is_some() { 'L' } else { 'M' };
        let _ = write!(stroke, "{command}{x:.0} {y:.1}");
        if began.is_none() {
            // A value alone is a dot.
            stroke.push_str("h.1");
            let _ = write!(area, "M{x:.0} {HEIGHT}");
            began = Some(x);
        }
        let _ = write!(area, "L{x:.0} {y:.1}");
    }
    close(&mut area, &mut began, WIDTH);
    (stroke, area)
}

fn close(area: &mut String, began: &mut Option<f64>, x: f64) {
    if began.take().is_some() {
        let _ = write!(area, "L{x:.0} {HEIGHT}Z");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(values: &[Option<f64>]) -> Line {
        Line {
            class: "area",
            values: values.to_vec(),
        }
    }

    #[test]
    fn the_scale_is_a_round_number_above_all() {
        for (most, expected) in [
            (0.0, 0.001),
            (0.9, 1.0),
            (1.5, 2.0),
            (3.0, 5.0),
            (700.0, 1000.0),
        ] {
            let scale = top(&[line(&[None, Some(most)])]);
            assert!(
                (scale - expected).abs() < expected * 1e-6,
                "{most}: {scale}"
            );
        }
    }

    #[test]
    fn the_newest_is_at_the_right_and_gaps_stay_gaps() {
        let (stroke, area) = paths(&[Some(1.0), None, Some(0.0)], 4, 1.0);
        assert_eq!(stroke, "M200 1.0h.1M600 99.0h.1");
        assert_eq!(area, "M200 100L200 1.0L200 100ZM600 100L600 99.0L600 100Z");
        assert_eq!(paths(&[], 4, 1.0).0, "");
    }

    #[test]
    fn what_is_told_is_escaped() {
        let text = chart(&[line(&[])], 10, 1.0, "\"><b>").into_string();
        assert!(text.contains("aria-label=\"&quot;&gt;&lt;b&gt;\""));
    }
}
