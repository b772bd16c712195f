//! Errors of the HDFS client, with advice on the setting to look at.

use std::io::ErrorKind;

use hdfs_native::HdfsError;
use object_store::Error;

use super::settings::Settings;

/// Name of this store in errors.
pub(super) const STORE: &str = "HDFS";

/// An error of the client in one line, and advice.
#[derive(Debug, thiserror::Error)]
#[error("{text}{advice}")]
struct Advised {
    text: String,
    advice: String,
}

/// Texts that an error may contain, and the advice for it. The first entry that fits is used.
const ADVICE: [(&[&str], &str); 10] = [
    (
        &["SafeModeException"],
        "the NameNode is in safe mode: it accepts no changes until it leaves it; see `hdfs dfsadmin -safemode get`",
    ),
    (
        &["QuotaExceeded"],
        "the quota of the folder is used up: raise it (`hdfs dfsadmin -setQuota`, `-setSpaceQuota`), or name another folder",
    ),
    (
        &["SIMPLE authentication is not enabled", "SASL", "GSSAPI", "Kerberos"],
        "look at `hadoop.security.authentication` in core-site.xml, and at the options `kerberos_principal`, \
         `kerberos_keytab` and `kerberos_cache`",
    ),
    (
        &["InvalidToken", "token is expired", "token can't be found"],
        "the delegation token is expired or foreign: renew the file that HADOOP_TOKEN_FILE_LOCATION names",
    ),
    (
        &["AccessControlException", "AuthorizationException"],
        "give the folder to this user, or name another user: the option `user`, or HADOOP_USER_NAME",
    ),
    (&["StandbyException"], "none of the NameNodes is active; see `hdfs haadmin -getAllServiceState`"),
    (
        &["could only be written to", "could only be replicated to", "All DataNodes failed"],
        "no DataNode takes the block: they are down, full or out of reach; see `hdfs dfsadmin -report`",
    ),
    (
        &["block size is less than", "io.bytes.per.checksum"],
        "raise the option `block_size`, or `dfs.blocksize` in hdfs-site.xml",
    ),
    (
        &["replication factor", "replication of"],
        "change the option `replication`, or `dfs.replication` in hdfs-site.xml",
    ),
    (&["Invalid path name", "PathComponentTooLong"], "HDFS does not take this name: look at the path of the URL"),
];

/// The settings that hold the address of the NameNodes.
const ADDRESS: &str = "look at host and port of the URL, or at `dfs.namenode.rpc-address` in hdfs-site.xml";

/// Whether the NameNode answered that there is no such file or folder.
pub(super) fn is_absent(error: &HdfsError) -> bool {
    match error {
        HdfsError::FileNotFound(_) => true,
        HdfsError::RPCError(exception, _) => exception == "java.io.FileNotFoundException",
        _ => false,
    }
}

/// The error of a call, for the layers above. The advice names the cluster of `settings`.
pub(super) fn told(error: HdfsError, settings: &Settings) -> Error {
    let text = error.to_string();
    let text = text.lines().next().unwrap_or_default().to_owned();
    let advice = advice(&error, &text).map(|advice| format!(" ({}: {advice})", settings.url)).unwrap_or_default();
    let source = Box::new(Advised { text, advice });
    match error {
        HdfsError::AlreadyExists(path) => Error::AlreadyExists { path, source },
        error if is_absent(&error) => Error::NotFound { path: String::new(), source },
        HdfsError::RPCError(exception, _) | HdfsError::FatalRPCError(exception, _)
            if exception.ends_with("AccessControlException") =>
        {
            Error::PermissionDenied { path: String::new(), source }
        }
        _ => Error::Generic { store: STORE, source },
    }
}

fn advice(error: &HdfsError, text: &str) -> Option<String> {
    let by_text = ADVICE.iter().find(|(signs, _)| signs.iter().any(|sign| text.contains(sign)));
    let address = match error {
        HdfsError::IOError(error) => match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::AddrNotAvailable => "no NameNode listens there",
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => "the host is out of reach",
            ErrorKind::UnexpectedEof
            | ErrorKind::BrokenPipe
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::InvalidData => "it hung up: is it stopping, or is that port not its RPC port?",
            _ if text.contains("lookup address") => "there is no such host",
            _ => return None,
        },
        HdfsError::InvalidRPCResponse(_) => "what answers there is no NameNode, or that port is not its RPC port",
        _ => return by_text.map(|(_, advice)| (*advice).to_owned()),
    };
    Some(format!("{address}; {ADDRESS}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use url::Url;

    use super::*;
    use crate::object::{StoreOptions, error::Class};

    fn settings() -> Settings {
        let url = "hdfs://nn:8020/a";
        Settings::new(&StoreOptions::new(url), &Url::parse(url).unwrap()).unwrap()
    }

    fn rpc(exception: &str, text: &str) -> Error {
        told(HdfsError::RPCError(exception.into(), text.into()), &settings())
    }

    #[test]
    fn an_error_is_one_line_that_names_the_setting_to_look_at() {
        let hadoop = "org.apache.hadoop";
        for (exception, text, named) in [
            (
                "hdfs.server.namenode.SafeModeException",
                "Cannot create file /a. Name node is in safe mode.\nat",
                "-safemode",
            ),
            ("hdfs.protocol.DSQuotaExceededException", "The DiskSpace quota of /a is exceeded", "-setSpaceQuota"),
            ("security.AccessControlException", "Permission denied: user=me, access=WRITE", "option `user`"),
            ("security.AccessControlException", "SIMPLE authentication is not enabled.", "`kerberos_keytab`"),
            ("security.token.SecretManager$InvalidToken", "token is expired", "HADOOP_TOKEN_FILE_LOCATION"),
            ("ipc.StandbyException", "Operation category READ is not supported in state standby", "haadmin"),
            ("ipc.RemoteException", "File /a could only be written to 0 of the 1 minReplication nodes", "-report"),
        ] {
            let told = rpc(&format!("{hadoop}.{exception}"), text).to_string();
            assert!(told.contains(named) && told.contains("hdfs://nn:8020"), "{told}");
            assert!(!told.contains('\n'), "{told}");
        }
    }

    #[test]
    fn a_namenode_that_is_not_there_is_told_with_its_setting() {
        let refused = HdfsError::IOError(ErrorKind::ConnectionRefused.into());
        let told = told(refused, &settings()).to_string();
        assert!(told.contains("hdfs://nn:8020: no NameNode listens there") && told.contains("rpc-address"), "{told}");
    }

    #[test]
    fn another_port_of_the_namenode_is_told_as_such() {
        for kind in [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset, ErrorKind::UnexpectedEof] {
            let told = told(HdfsError::IOError(kind.into()), &settings()).to_string();
            assert!(told.contains("is that port not its RPC port?"), "{told}");
        }
    }

    #[test]
    fn only_what_the_namenode_says_is_absent_or_there() {
        assert_eq!(Class::of(&rpc("java.io.FileNotFoundException", "File does not exist: /a")), Class::NotFound);
        assert_eq!(Class::of(&told(HdfsError::AlreadyExists("/a".into()), &settings())), Class::Exists);
        assert_eq!(Class::of(&rpc("org.apache.hadoop.security.AccessControlException", "no")), Class::Retry);
        assert_eq!(Class::of(&rpc("java.io.IOException", "File does not exist")), Class::Retry);
    }
}
