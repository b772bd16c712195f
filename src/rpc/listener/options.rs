//! Options of listening: addresses, permissions and bounds.

use std::{
    fmt,
    net::SocketAddr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, de};

use super::TlsOptions;
use crate::limits::Bounds;

/// Longest path of a Unix socket in bytes: the size of the system's `sockaddr_un` without the final NUL.
const SOCKET_PATH_MAX: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// Options of listening: addresses, permissions and bounds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct ListenerOptions {
    /// Path of the Unix socket; its directory must exist. Default `/run/dstl/dstl.sock`.
    pub socket: PathBuf,
    /// Permissions of the socket file, octal, as a string. Default `"0600"`.
    pub socket_mode: SocketMode,
    /// Group of the socket file, a name in `/etc/group` or a number. Default: the daemon's group.
    pub socket_group: Option<Group>,
    /// Users whose processes may connect to the socket. Default: if only the owner may use the socket, the daemon's
    /// user and root; otherwise every user that the mode admits. A user in a container with its own user namespace is
    /// identified by its uid outside.
    pub allowed_uids: Option<Vec<u32>>,
    /// Whether the directory of the socket may be writable by everybody. Default `false`.
    pub open_directory: bool,
    /// A TCP address to listen on as well. Default: none.
    pub tcp: Option<TcpOptions>,
    /// How many connections there may be, and how long they may take.
    #[serde(skip, default = "roomy")]
    pub bounds: Bounds,
}

/// Bounds of a daemon without configured ones.
fn roomy() -> Bounds {
    Bounds::of(2 << 30, 4 << 20, 4096)
}

/// Listening on TCP: either with mutual TLS, or insecure on loopback.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TcpOptions {
    /// Address and port; port 0 takes a free one.
    pub address: SocketAddr,
    /// Whether to accept connections without TLS, and so from every user of this host. Only for a loopback address.
    /// Default `false`.
    #[serde(default)]
    pub insecure: bool,
    /// Mutual TLS. Default: none.
    pub tls: Option<TlsOptions>,
}

/// Permission bits of the socket file, the lowest nine bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketMode(u32);

/// A group of this host.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Group {
    /// A group id.
    Id(u32),
    /// A name in `/etc/group`.
    Name(String),
}

/// A fault of [`ListenerOptions`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsFault {
    /// The path is longer than the system can bind.
    #[error("socket path `{path}` has {bytes} bytes, the system allows {max}; choose a shorter one")]
    PathTooLong {
        /// The configured path.
        path: PathBuf,
        /// Length of the path in bytes.
        bytes: usize,
        /// The greatest length in bytes.
        max: usize,
    },
    /// The path names no file.
    #[error("socket path `{path}` names no file")]
    NoFileName {
        /// The configured path.
        path: PathBuf,
    },
    /// The list of users is empty, so no client could connect.
    #[error("`allowed-uids` is empty; leave it out to let the mode of the socket decide")]
    NobodyAllowed,
    /// TCP without TLS was configured for an address that is not loopback.
    #[error("`{address}` is not a loopback address and so cannot be insecure; configure tls for it")]
    InsecureBeyondLoopback {
        /// The configured address.
        address: SocketAddr,
    },
    /// Neither TLS nor `insecure` was configured.
    #[error("tcp address `{address}` needs tls (certificate, key, client-ca), or insecure = true on loopback")]
    NoTls {
        /// The configured address.
        address: SocketAddr,
    },
    /// Both TLS and `insecure` were configured.
    #[error("tcp address `{address}` is both insecure and with tls; choose one")]
    TlsAndInsecure {
        /// The configured address.
        address: SocketAddr,
    },
}

impl ListenerOptions {
    /// All faults of the options by themselves; files are not read.
    #[must_use]
    pub fn faults(&self) -> Vec<OptionsFault> {
        let mut faults = Vec::new();
        let bytes = self.socket.as_os_str().as_bytes().len();
        if bytes > SOCKET_PATH_MAX {
            faults.push(OptionsFault::PathTooLong { path: self.socket.clone(), bytes, max: SOCKET_PATH_MAX });
        }
        if self.socket.file_name().is_none() {
            faults.push(OptionsFault::NoFileName { path: self.socket.clone() });
        }
        if self.allowed_uids.as_ref().is_some_and(Vec::is_empty) {
            faults.push(OptionsFault::NobodyAllowed);
        }
        faults.extend(self.tcp.as_ref().and_then(TcpOptions::fault));
        faults
    }

    /// The directory of the socket.
    pub(super) fn directory(&self) -> &Path {
        match self.socket.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }
}

impl Default for ListenerOptions {
    fn default() -> Self {
        Self {
            socket: PathBuf::from("/run/dstl/dstl.sock"),
            socket_mode: SocketMode(0o600),
            socket_group: None,
            allowed_uids: None,
            open_directory: false,
            tcp: None,
            bounds: roomy(),
        }
    }
}

impl TcpOptions {
    fn fault(&self) -> Option<OptionsFault> {
        let address = self.address;
        match (&self.tls, self.insecure) {
            (Some(_), false) => None,
            (Some(_), true) => Some(OptionsFault::TlsAndInsecure { address }),
            (None, true) if address.ip().is_loopback() => None,
            (None, true) => Some(OptionsFault::InsecureBeyondLoopback { address }),
            (None, false) => Some(OptionsFault::NoTls { address }),
        }
    }
}

impl SocketMode {
    /// The permission bits.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl FromStr for SocketMode {
    type Err = String;

    /// Octal digits, with or without `0` or `0o` in front.
    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix("0o").unwrap_or(text);
        match u32::from_str_radix(digits, 8) {
            Ok(bits) if bits <= 0o777 && !digits.starts_with('+') => Ok(Self(bits)),
            _ => Err(format!("`{text}` is no file mode; give octal digits such as `0660`")),
        }
    }
}

impl fmt::Display for SocketMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl<'de> Deserialize<'de> for SocketMode {
    /// Only from a string, since a bare `600` would be read as decimal.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl FromStr for Group {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.parse().map_or_else(|_| Self::Name(text.to_owned()), Self::Id))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn parse(toml: &str) -> Result<ListenerOptions, toml::de::Error> {
        toml::from_str(toml)
    }

    #[test]
    fn nothing_given_is_a_private_socket() {
        let options = parse("").unwrap();
        assert_eq!(options, ListenerOptions::default());
        assert_eq!(options.socket_mode.to_string(), "0600");
        assert_eq!(options.faults(), []);
    }

    #[test]
    fn everything_can_be_given() {
        let options = parse(
            r#"
            socket = "x.sock"
            socket-mode = "0660"
            socket-group = "flink"
            allowed-uids = [0, 9999]
            [tcp]
            address = "10.0.0.1:7000"
            tls = { certificate = "a.pem", key = "b.pem", client-ca = "c.pem" }
            "#,
        )
        .unwrap();
        assert_eq!(options.socket_mode.bits(), 0o660);
        assert_eq!(options.socket_group, Some(Group::Name("flink".into())));
        assert_eq!(options.allowed_uids, Some(vec![0, 9999]));
        assert_eq!(options.tcp.as_ref().unwrap().tls.as_ref().unwrap().key, Path::new("b.pem"));
        assert_eq!(options.faults(), []);
        assert_eq!(parse("socket-group = 1000").unwrap().socket_group, Some(Group::Id(1000)));
        assert_eq!("1000".parse(), Ok(Group::Id(1000)));
        assert_eq!("staff".parse(), Ok(Group::Name("staff".into())));
    }

    #[test]
    fn modes_are_octal_strings() {
        for (text, bits) in [("0600", 0o600), ("660", 0o660), ("0o777", 0o777), ("0", 0)] {
            assert_eq!(text.parse::<SocketMode>().unwrap().bits(), bits);
        }
        for text in ["", "0888", "1777", "+600", "rw", "-1"] {
            assert!(text.parse::<SocketMode>().is_err(), "{text}");
        }
        assert!(parse("socket-mode = 600").is_err());
        assert!(parse("no-such-option = 1").is_err());
    }

    #[test]
    fn tcp_is_mutual_tls_or_insecure_loopback() {
        let tls = r#"tls = { certificate = "a", key = "b", client-ca = "c" }"#;
        let fault = |tcp: &str| parse(&format!("[tcp]\n{tcp}")).unwrap().faults().pop();
        assert_eq!(fault("address = \"127.0.0.1:1\"\ninsecure = true"), None);
        assert_eq!(fault("address = \"[::1]:1\"\ninsecure = true"), None);
        assert_eq!(fault(&format!("address = \"0.0.0.0:1\"\n{tls}")), None);
        let address = "0.0.0.0:1".parse().unwrap();
        assert_eq!(
            fault("address = \"0.0.0.0:1\"\ninsecure = true"),
            Some(OptionsFault::InsecureBeyondLoopback { address })
        );
        assert_eq!(fault("address = \"0.0.0.0:1\""), Some(OptionsFault::NoTls { address }));
        assert_eq!(
            fault(&format!("address = \"0.0.0.0:1\"\ninsecure = true\n{tls}")),
            Some(OptionsFault::TlsAndInsecure { address })
        );
        assert!(parse("[tcp]\naddress = \"0.0.0.0:1\"\ntls = { certificate = \"a\", key = \"b\" }").is_err());
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let socket = format!("/tmp/{}", "x".repeat(120));
        let options =
            parse(&format!("socket = {socket:?}\nallowed-uids = []\n[tcp]\naddress = \"1.2.3.4:5\"")).unwrap();
        let faults = options.faults();
        assert_eq!(faults.len(), 3);
        assert!(faults[0].to_string().contains("has 125 bytes, the system allows 107"), "{}", faults[0]);
    }
}
