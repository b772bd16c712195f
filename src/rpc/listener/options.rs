//! Options of listening: addresses, permissions and bounds.

use std::{
    fmt,
    net::SocketAddr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    str::FromStr,
};

use super::TlsOptions;
use crate::{
    limits::Bounds,
    setting::{FromValue, Kind, Value, options},
};

/// Longest path of a Unix socket in bytes: the size of the system's `sockaddr_un` without the final NUL.
const SOCKET_PATH_MAX: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

options! {
    /// Options of listening: addresses, permissions and bounds.
    ///
    /// Without `allowed_uids`, the daemon's user and root may connect if only the owner may use the socket, otherwise
    /// every user that the mode admits. A user in a container with its own user namespace is identified by its uid
    /// outside.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct ListenerOptions given (usual_socket: PathBuf, tcp: Option<TcpOptions>, bounds: Bounds) {
        /// Unix socket of the gRPC service.
        pub socket: PathBuf = computed(
            "rpc.socket", Socket 1, Kind::Path { optional: false },
            "$XDG_RUNTIME_DIR/dstl.sock, else /run/dstl/dstl.sock for root, else /tmp/dstl-<uid>/dstl.sock",
            "/run/dstl/dstl.sock",
        ) else { usual_socket };
        /// Permissions of the socket, in octal.
        pub socket_mode: SocketMode = option("rpc.socket-mode", Socket 2, Kind::Mode, "0600");
        /// Group of the socket, by name or id; empty for the daemon's own.
        pub socket_group: Option<Group> = option("rpc.socket-group", Socket 3, Kind::Text, "");
        /// User ids that may connect to the socket, beside the daemon's own; empty for whoever its permissions admit.
        pub allowed_uids: Option<Vec<u32>> = option("rpc.allowed-uids", Socket 4, Kind::Ids, "");
        /// Takes a folder for the socket that everybody may write: whoever can could put a socket of theirs in its
        /// place. For a volume that only the containers of one pod have.
        pub open_directory: bool = option("rpc.socket-folder-open", Socket 5, Kind::Flag, "false");
        /// A TCP address to listen on as well.
        pub tcp: Option<TcpOptions> = plain(tcp);
        /// How many connections there may be, and how long they may take.
        pub bounds: Bounds = plain(bounds);
    }
}

options! {
    /// The options of TCP, before the rules between options say whether they make sense.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct TcpSettings {
        /// Address of the gRPC service over TCP; needs TLS or rpc.tcp.insecure.
        pub address: Option<SocketAddr> = option("rpc.tcp.address", Tcp 1, Kind::Address, "off");
        /// Certificate chain of the daemon, PEM.
        pub certificate: Option<PathBuf> = option("rpc.tcp.cert", Tcp 2, Kind::OPTIONAL_PATH, "");
        /// Private key of the daemon, PEM.
        pub key: Option<PathBuf> = option("rpc.tcp.key", Tcp 3, Kind::OPTIONAL_PATH, "");
        /// Certificates that sign those of the clients, PEM.
        pub client_ca: Option<PathBuf> = option("rpc.tcp.client-ca", Tcp 4, Kind::OPTIONAL_PATH, "");
        /// Serves TCP without TLS; only on a loopback address.
        pub insecure: bool = option("rpc.tcp.insecure", Tcp 5, Kind::Flag, "false");
    }
}

impl TcpSettings {
    /// How to listen on TCP; `None` if it is off.
    #[must_use]
    pub fn listening(&self) -> Option<TcpOptions> {
        let tls = match (&self.certificate, &self.key, &self.client_ca) {
            (Some(certificate), Some(key), Some(client_ca)) => {
                Some(TlsOptions { certificate: certificate.clone(), key: key.clone(), client_ca: client_ca.clone() })
            }
            _ => None,
        };
        self.address.map(|address| TcpOptions { address, insecure: self.insecure, tls })
    }
}

/// Listening on TCP: either with mutual TLS, or insecure on loopback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpOptions {
    /// Address and port; port 0 takes a free one.
    pub address: SocketAddr,
    /// Whether to accept connections without TLS, and so from every user of this host. Only for a loopback address.
    pub insecure: bool,
    /// Mutual TLS. Default: none.
    pub tls: Option<TlsOptions>,
}

/// Permission bits of the socket file, the lowest nine bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketMode(u32);

/// A group of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
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
        Self::usual(PathBuf::from("/run/dstl/dstl.sock"), None, Bounds::of(2 << 30, 4 << 20, 4096))
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

impl FromValue for SocketMode {
    fn from_value(value: Value) -> Result<Self, String> {
        u32::from_value(value).map(Self)
    }
}

impl FromStr for Group {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.parse().map_or_else(|_| Self::Name(text.to_owned()), Self::Id))
    }
}

impl FromValue for Option<Group> {
    fn from_value(value: Value) -> Result<Self, String> {
        let text = String::from_value(value)?;
        Ok(text.parse().ok().filter(|_| !text.is_empty()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn nothing_given_is_a_private_socket() {
        let options = ListenerOptions::default();
        assert_eq!(options.socket_mode.to_string(), "0600");
        assert_eq!((&options.socket_group, &options.allowed_uids, &options.tcp), (&None, &None, &None));
        assert_eq!(options.faults(), []);
    }

    #[test]
    fn a_group_is_a_number_or_a_name() {
        assert_eq!("1000".parse(), Ok(Group::Id(1000)));
        assert_eq!("staff".parse(), Ok(Group::Name("staff".into())));
        let of = |text: &str| Option::<Group>::from_value(Value::Text(text.into())).unwrap();
        assert_eq!((of(""), of("flink")), (None, Some(Group::Name("flink".into()))));
    }

    #[test]
    fn modes_are_octal_strings() {
        for (text, bits) in [("0600", 0o600), ("660", 0o660), ("0o777", 0o777), ("0", 0)] {
            assert_eq!(text.parse::<SocketMode>().unwrap().bits(), bits);
        }
        for text in ["", "0888", "1777", "+600", "rw", "-1"] {
            assert!(text.parse::<SocketMode>().is_err(), "{text}");
        }
    }

    /// TCP at `address`, with certificates or without.
    fn tcp(address: &str, insecure: bool, is_certified: bool) -> TcpSettings {
        let file = |name: &str| is_certified.then(|| PathBuf::from(name));
        let (certificate, key, client_ca) = (file("a.pem"), file("b.pem"), file("c.pem"));
        TcpSettings { address: Some(address.parse().unwrap()), certificate, key, client_ca, insecure }
    }

    #[test]
    fn tcp_is_mutual_tls_or_insecure_loopback() {
        let fault = |tcp: TcpSettings| tcp.listening().unwrap().fault();
        assert_eq!(fault(tcp("127.0.0.1:1", true, false)), None);
        assert_eq!(fault(tcp("[::1]:1", true, false)), None);
        assert_eq!(fault(tcp("0.0.0.0:1", false, true)), None);
        let address = "0.0.0.0:1".parse().unwrap();
        assert_eq!(fault(tcp("0.0.0.0:1", true, false)), Some(OptionsFault::InsecureBeyondLoopback { address }));
        assert_eq!(fault(tcp("0.0.0.0:1", true, true)), Some(OptionsFault::TlsAndInsecure { address }));
        assert_eq!(fault(tcp("0.0.0.0:1", false, false)), Some(OptionsFault::NoTls { address }));
        let without_key = TcpSettings { key: None, ..tcp("0.0.0.0:1", false, true) };
        assert_eq!(fault(without_key), Some(OptionsFault::NoTls { address }));
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let socket = PathBuf::from(format!("/tmp/{}", "x".repeat(120)));
        let tcp = tcp("1.2.3.4:5", false, false).listening();
        let options = ListenerOptions { socket, allowed_uids: Some(vec![]), tcp, ..ListenerOptions::default() };
        let faults = options.faults();
        assert_eq!(faults.len(), 3);
        assert!(faults[0].to_string().contains("has 125 bytes, the system allows 107"), "{}", faults[0]);
    }
}
