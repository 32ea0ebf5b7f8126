//! How much of this machine's disk the local platform may keep for things that nobody uses.

use std::time::Duration;

use super::Error;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What is removed by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upkeep {
    /// Above this, what was not used for longest goes first.
    pub max_bytes: u64,
    /// What nobody used for so long goes in any case.
    pub unused_for: Duration,
}

impl Default for Upkeep {
    fn default() -> Self {
        Self {
            max_bytes: 10_000_000_000,
            unused_for: 30 * DAY,
        }
    }
}

impl Upkeep {
    /// What the two settings say; `off` takes a bound away.
    pub(super) fn read(max_size: Option<&str>, unused_days: Option<&str>) -> Result<Self, Error> {
        let mut upkeep = Self::default();
        if let Some(text) = max_size {
            upkeep.max_bytes = size(text).ok_or_else(|| Error::Size { value: text.into() })?;
        }
        if let Some(text) = unused_days {
            upkeep.unused_for = days(text).ok_or_else(|| Error::Days { value: text.into() })?;
        }
        Ok(upkeep)
    }
}

/// `10GB`, `512 MiB`, `1000` bytes, `off`.
fn size(text: &str) -> Option<u64> {
    if text == "off" {
        return Some(u64::MAX);
    }
    let end = text.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "t" | "tb" => 1_000_000_000_000,
        "ki" | "kib" => 1 << 10,
        "mi" | "mib" => 1 << 20,
        "gi" | "gib" => 1 << 30,
        "ti" | "tib" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

fn days(text: &str) -> Option<Duration> {
    match text {
        "off" => Some(Duration::MAX),
        number => DAY.checked_mul(number.parse().ok()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_read_with_their_units() {
        for (text, bytes) in [
            ("10GB", 10_000_000_000),
            ("512 MiB", 512 << 20),
            ("1000", 1000),
            ("0", 0),
            ("off", u64::MAX),
        ] {
            assert_eq!(Upkeep::read(Some(text), None).unwrap().max_bytes, bytes);
        }
        for text in ["ten", "10 parsecs", "-1", "99999999999TB", "GB"] {
            let error = Upkeep::read(Some(text), None).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
        assert_eq!(Upkeep::read(None, Some("7")).unwrap().unused_for, 7 * DAY);
        assert_eq!(
            Upkeep::read(None, Some("off")).unwrap().unused_for,
            Duration::MAX
        );
        assert!(Upkeep::read(None, Some("a week")).is_err());
    }
}
