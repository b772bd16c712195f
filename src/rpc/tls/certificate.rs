//! Reads two facts from certificates: when they end, and the names that they are for.
//!
//! Only these are read from their DER (X.509, RFC 5280); rustls decides whether a certificate is valid and signed. A
//! complete parser would add a dozen crates for three fields.

use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

const SEQUENCE: u8 = 0x30;
const OID: u8 = 0x06;
const OCTET_STRING: u8 = 0x04;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// Kinds of alternative names.
const DNS_NAME: u8 = 0x82;
const URI: u8 = 0x86;

const COMMON_NAME: &[u8] = &[0x55, 4, 3];
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 29, 17];

/// The facts that are read from a certificate.
#[derive(Debug, Default, PartialEq, Eq)]
struct Facts {
    /// Unix time at which it ends.
    until: i64,
    /// Alternative names, then the common names of the subject.
    names: Vec<String>,
}

/// The earliest Unix time at which one of `certificates` ends; `None` if none can be read.
pub(super) fn first_end(certificates: &[CertificateDer<'_>]) -> Option<i64> {
    certificates.iter().filter_map(|certificate| Some(facts(certificate)?.until)).min()
}

/// The names of the client at the other end, whose certificate one of our authorities has signed: URIs (as in SPIFFE)
/// and DNS names of its certificate, then the common names of its subject.
pub(crate) fn peer_names(stream: &TlsStream<TcpStream>) -> Vec<String> {
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    shown.and_then(|certificate| facts(certificate)).unwrap_or_default().names
}

fn facts(certificate: &[u8]) -> Option<Facts> {
    let whole = Der(certificate).expect(SEQUENCE)?;
    let mut body = Der(whole).expect(SEQUENCE).map(Der)?;
    body.skip_if(VERSION);
    // Serial number, algorithm and issuer are skipped.
    for _ in 0..3 {
        body.next()?;
    }
    let mut validity = body.expect(SEQUENCE).map(Der)?;
    validity.next()?;
    let (tag, text) = validity.next()?;
    let until = time(tag, text)?;
    let common = common_names(body.expect(SEQUENCE)?);
    let extensions = body.find(|(tag, _)| *tag == EXTENSIONS).map_or(&[][..], |(_, extensions)| extensions);
    let mut names = alternative_names(extensions);
    names.extend(common);
    // The names are logged, so empty ones and control characters are removed.
    names.retain(|name| !name.is_empty() && !name.contains(char::is_control));
    names.dedup();
    Some(Facts { until, names })
}

/// Elements of DER, one after the other: tag and contents.
#[derive(Debug, Clone, Copy)]
struct Der<'a>(&'a [u8]);

impl<'a> Iterator for Der<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let mut len = usize::from(first);
        if first & 0x80 != 0 {
            let (octets, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
            // No certificate is longer than two or three length octets can tell.
            len = octets.iter().try_fold(0_usize, |len, octet| Some(len.checked_mul(256)? + usize::from(*octet)))?;
            rest = after;
        }
        let (contents, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some((tag, contents))
    }
}

impl<'a> Der<'a> {
    /// The next element, which must have this tag.
    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, contents)| contents)
    }

    fn skip_if(&mut self, tag: u8) {
        if self.0.first() == Some(&tag) {
            self.next();
        }
    }
}

fn common_names(subject: &[u8]) -> Vec<String> {
    let attributes = Der(subject).flat_map(|(_, set)| Der(set));
    let name = |attribute: &[u8]| {
        let mut parts = Der(attribute);
        let is_name = parts.expect(OID)? == COMMON_NAME;
        let (_, text) = parts.next()?;
        is_name.then(|| std::str::from_utf8(text).ok().map(str::to_owned)).flatten()
    };
    attributes.filter_map(|(_, attribute)| name(attribute)).collect()
}

fn alternative_names(extensions: &[u8]) -> Vec<String> {
    let wanted = |extension: &[u8]| Der(extension).expect(OID) == Some(ALTERNATIVE_NAMES);
    let all = Der(extensions).flat_map(|(_, extensions)| Der(extensions));
    let contents = all.filter(|(_, extension)| wanted(extension)).flat_map(|(_, extension)| Der(extension));
    let names = contents.filter(|(tag, _)| *tag == OCTET_STRING).flat_map(|(_, names)| Der(names));
    let names = names.flat_map(|(_, names)| Der(names)).filter(|(tag, _)| [DNS_NAME, URI].contains(tag));
    names.filter_map(|(_, name)| std::str::from_utf8(name).ok().map(str::to_owned)).collect()
}

/// Unix time of `YYMMDDHHMMSSZ`, for years from 1950 on, or `YYYYMMDDHHMMSSZ`, as `tag` says. Certificates may have no
/// other form.
fn time(tag: u8, text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = text.split_at_checked(2)?;
            let year: i64 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = text.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let part = |at: usize| rest.get(at..at + 2)?.parse::<i64>().ok();
    let (month, day, hour, minute, second) = (part(0)?, part(2)?, part(4)?, part(6)?, part(8)?);
    if rest.len() != 10 || !(1..=12).contains(&month) {
        return None;
    }
    Some(((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}

/// Days since 1970 of a Gregorian date. Years begin in March, so that a leap day is the last day of a year.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    365 * year + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use std::path::Path;

    use rustls::pki_types::pem::PemObject as _;

    use super::*;

    /// 2126-10-28 09:37:49 UTC, in seconds since the Unix epoch.
    const UNTIL: i64 = 4_948_853_869;

    const NAMES: [(&str, &str); 4] = [
        ("ca.pem", "dstl test authority"),
        ("server.pem", "dstl test server"),
        ("server.pem", "localhost"),
        ("client.pem", "dstl test client"),
    ];

    fn fixture(name: &str) -> CertificateDer<'static> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls").join(name);
        CertificateDer::from_pem_file(path).unwrap()
    }

    #[test]
    fn certificates_tell_their_names_and_their_end() {
        for (file, name) in NAMES {
            let facts = facts(&fixture(file)).unwrap();
            assert!(facts.names.iter().any(|it| it == name), "{file}: {facts:?}");
            assert_eq!(facts.until, UNTIL, "{file}");
        }
        assert_eq!(first_end(&[fixture("ca.pem"), fixture("server.pem")]), Some(UNTIL));
    }

    #[test]
    fn what_is_no_certificate_tells_nothing_however_it_is_cut_or_damaged() {
        let whole = fixture("server.pem");
        for end in 0..whole.len() {
            let _ = facts(&whole[..end]);
        }
        for at in 0..whole.len() {
            for byte in [0, 0x7f, 0x80, 0x84, 0xff] {
                let mut damaged = whole.to_vec();
                if let Some(octet) = damaged.get_mut(at) {
                    *octet = byte;
                }
                let _ = facts(&damaged);
            }
        }
        assert_eq!(facts(b""), None);
        assert_eq!(facts(&[SEQUENCE, 0x88, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), None);
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        let utc = |text: &str| time(UTC_TIME, text.as_bytes());
        let general = |text: &str| time(GENERALIZED_TIME, text.as_bytes());
        assert_eq!(utc("700101000000Z"), Some(0));
        assert_eq!(utc("000229235959Z"), Some(951_868_799));
        assert_eq!(utc("491231235959Z"), Some(2_524_607_999));
        assert_eq!(utc("500101000000Z"), Some(-631_152_000));
        assert_eq!(general("20240229120000Z"), Some(1_709_208_000));
        assert_eq!(general("99991231235959Z"), Some(253_402_300_799));
        for text in ["", "Z", "7001010000Z", "701301000000Z", "700101000000", "70010100000xZ"] {
            assert_eq!(utc(text), None, "{text}");
        }
    }
}
