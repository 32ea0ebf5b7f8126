//! Times, sizes and rates as people read them.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::html::{Html, html};

/// A moment on this machine's clock: the time alone when it is of today.
pub fn moment(at: Timestamp) -> Html {
    let zone = TimeZone::system();
    let (then, now) = (at.to_zoned(zone.clone()), Timestamp::now().to_zoned(zone));
    let format = if then.date() == now.date() {
        "%H:%M:%S"
    } else {
        "%Y-%m-%d %H:%M"
    };
    html!(
        "<time datetime=\"{}\">{}</time>",
        at.to_string(),
        then.strftime(format).to_string()
    )
}

/// The same of milliseconds since 1970.
pub fn moment_of_ms(at: i64) -> Html {
    Timestamp::from_millisecond(at)
        .map(moment)
        .unwrap_or_default()
}

/// The time of a log line.
pub fn clock(at: Timestamp) -> String {
    let then = at.to_zoned(TimeZone::system());
    then.strftime("%H:%M:%S%.3f").to_string()
}

/// `12.3 MiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    #[expect(
        clippy::cast_precision_loss,
        reason = "one digit behind the point is shown"
    )]
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{size:.1} {}", UNITS[unit]),
    }
}

/// `0.2`, `12`, `1.5k`: requests a second.
pub fn rate(rate: f64) -> String {
    if rate >= 1000.0 {
        format!("{:.1}k", rate / 1000.0)
    } else if rate >= 10.0 {
        format!("{rate:.0}")
    } else if rate >= 0.05 {
        format!("{rate:.1}")
    } else {
        "0".to_owned()
    }
}

/// `0.4 ms`, `12 ms`, `1.5 s`.
pub fn time(time: Duration) -> String {
    milliseconds(time.as_secs_f64() * 1000.0)
}

/// The same of a number of milliseconds.
pub fn milliseconds(time: f64) -> String {
    if time >= 1000.0 {
        format!("{:.1} s", time / 1000.0)
    } else if time >= 10.0 {
        format!("{time:.0} ms")
    } else {
        format!("{time:.1} ms")
    }
}

/// Text whose literals stand in backticks, as all our messages have them.
pub fn prose(text: &str) -> Html {
    if !text.matches('`').count().is_multiple_of(2) {
        return html!("{}", text);
    }
    let parts = text.split('`').enumerate();
    parts
        .map(|(at, part)| {
            if at.is_multiple_of(2) {
                html!("{}", part)
            } else {
                html!("<code>{}</code>", part)
            }
        })
        .collect()
}

/// A long name that may be broken behind a separator, rather than within a word or a number.
pub fn breakable(name: &str) -> Html {
    name.split_inclusive(['/', '.', '-', '@', '_'])
        .map(|part| html!("{}<wbr>", part))
        .collect()
}

/// A name whose digest is cut to twelve digits, as tools for images and commits do.
pub fn shortened(name: &str) -> String {
    let digits = name.bytes().rev().take_while(u8::is_ascii_hexdigit).count();
    if digits < 32 {
        return name.to_owned();
    }
    format!("{}…", &name[..name.len() - digits + 12])
}

/// `1 file`, `2 files`.
pub fn counted(count: u64, one: &str, many: &str) -> String {
    let word = if count == 1 { one } else { many };
    format!("{count} {word}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(3 << 19), "1.5 MiB");
        assert_eq!(
            [0.01, 0.25, 42.4, 1500.0].map(rate),
            ["0", "0.2", "42", "1.5k"]
        );
        assert_eq!(
            [0.42, 12.3, 1500.0].map(milliseconds),
            ["0.4 ms", "12 ms", "1.5 s"]
        );
        assert_eq!(counted(1, "file", "files"), "1 file");
        assert_eq!(counted(0, "file", "files"), "0 files");
    }

    #[test]
    fn digests_are_cut_and_names_are_not() {
        let digest = "0123456789abcdef".repeat(2);
        assert_eq!(shortened(&format!("a.b/c:{digest}")), "a.b/c:0123456789ab…");
        assert_eq!(shortened("a.b/c:1.0"), "a.b/c:1.0");
        assert_eq!(breakable("a.b_c").into_string(), "a.<wbr>b_<wbr>c<wbr>");
    }

    #[test]
    fn literals_in_messages_are_set_apart() {
        let shown = prose("no module `a<b`, twice").into_string();
        assert_eq!(shown, "no module <code>a&lt;b</code>, twice");
        assert_eq!(prose("a ` b").into_string(), "a ` b");
    }

    #[test]
    fn moments_of_other_days_have_a_date() {
        let past = moment(Timestamp::from_second(0).unwrap()).into_string();
        assert!(past.contains("datetime=\"1970-01-01T00:00:00Z\""), "{past}");
        assert!(past.contains("19"), "{past}");
        let now = moment(Timestamp::now()).into_string();
        assert_eq!(
            now.rsplit_once('>').unwrap().0.len() - now.find("\">").unwrap(),
            2 + 8 + 6
        );
    }
}
