//! Figures as people read them.

use std::time::Duration;

/// A number as the functions below take it.
#[allow(clippy::cast_precision_loss, reason = "two or three digits are shown")]
#[must_use]
pub fn float(number: u64) -> f64 {
    number as f64
}

/// A rate without its fraction.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates are positive, and shown rounded")]
#[must_use]
pub fn whole(number: f64) -> u64 {
    number as u64
}

/// Bytes with a unit: `0 B`, `1.5 KiB`, `20 MiB`.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "two digits are shown")]
    let mut value = bytes as f64;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    for next in units {
        if value < 1_024.0 {
            break;
        }
        (value, unit) = (value / 1_024.0, next);
    }
    let digits = usize::from(unit != "B" && value < 10.0);
    format!("{value:.digits$} {unit}")
}

/// A count, short: `7`, `1.5 k`, `20 M`.
#[must_use]
pub fn count(count: f64) -> String {
    let (value, unit) = match count {
        it if it >= 1e9 => (it / 1e9, " G"),
        it if it >= 1e6 => (it / 1e6, " M"),
        it if it >= 1e4 => (it / 1e3, " k"),
        it => (it, ""),
    };
    let is_whole = value >= 100.0 || (value - value.round()).abs() < 0.05;
    let digits = usize::from(!is_whole);
    format!("{value:.digits$}{unit}")
}

/// A time with a unit: `0.4 ms`, `20 ms`, `1.5 s`, `3 min`, `2 h`, `5 d`.
#[must_use]
pub fn time(ms: f64) -> String {
    let (value, unit) = match ms {
        it if it < 1_000.0 => (it, "ms"),
        it if it < 120_000.0 => (it / 1_000.0, "s"),
        it if it < 7_200_000.0 => (it / 60_000.0, "min"),
        it if it < 172_800_000.0 => (it / 3_600_000.0, "h"),
        it => (it / 86_400_000.0, "d"),
    };
    let digits = usize::from(value > 0.0 && value < 10.0);
    format!("{value:.digits$} {unit}")
}

/// The time of day of a moment, in UTC, with its date unless it is of the day of `now_ms`. Both are milliseconds since
/// the Unix epoch.
#[must_use]
pub fn moment(at_ms: u64, now_ms: u64) -> String {
    const DAY_MS: u64 = 86_400_000;
    let whole = humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + Duration::from_millis(at_ms.min(1 << 47)));
    let whole = whole.to_string();
    let (date, clock) = whole.split_once('T').unwrap_or(("", &whole));
    let clock = clock.trim_end_matches('Z');
    if at_ms / DAY_MS == now_ms / DAY_MS { clock.to_owned() } else { format!("{date} {clock}") }
}

/// A price: with as many digits as it takes to tell it from nothing.
#[must_use]
pub fn price(price: f64, currency: &str) -> String {
    let digits = if price >= 100.0 {
        0
    } else if price >= 0.1 || price <= 0.0 {
        2
    } else {
        4
    };
    format!("{price:.digits$} {currency}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_have_units() {
        assert_eq!([0, 1_023, 1_536, 20 << 20, u64::MAX].map(bytes), ["0 B", "1023 B", "1.5 KiB", "20 MiB", "16 EiB"]);
        assert_eq!([0.0, 7.04, 0.4, 1_234.5, 25_500.0, 2e6].map(count), ["0", "7", "0.4", "1234", "25.5 k", "2 M"]);
        assert_eq!(
            [0.0, 0.42, 20.0, 1_500.0, 180_000.0, 8e6, 5e8].map(time),
            ["0 ms", "0.4 ms", "20 ms", "1.5 s", "3.0 min", "2.2 h", "5.8 d"]
        );
        assert_eq!(moment(1_000, 2_000), "00:00:01");
        assert_eq!(moment(1_000, 90_000_000), "1970-01-01 00:00:01");
        assert_eq!(price(0.0034, "USD"), "0.0034 USD");
        assert_eq!(price(12.0, "EUR"), "12.00 EUR");
    }
}
