//! URLs of stores in the notation of Flink and Hadoop, converted to ours.
//!
//! | theirs | ours |
//! | --- | --- |
//! | `s3p://`, `s3n://` | `s3://`: these schemes choose a client, not a store |
//! | `wasb[s]://container@account.blob.core.windows.net/…` | `abfs[s]://container@account.dfs.core.windows.net/…`, the same container |
//! | `hdfs://`, `s3://`, `s3a://`, `gs://`, `abfs[s]://`, `file:` and paths | the same |
//! | others | none, and why not |

use crate::setting::Kind;

/// Schemes by which Flink chooses a client for S3.
const S3: [&str; 2] = ["s3p", "s3n"];

/// The schemes of Hadoop's older client for Azure, which has the same containers as the newer one.
const WASB: [&str; 2] = ["wasb", "wasbs"];

/// The host of Azure accounts; object_store supports no other clouds of Microsoft.
const WASB_HOST: &str = ".blob.core.windows.net";

/// Schemes of Hadoop that dstl does not support, and what to do instead.
const REFUSED: [(&[&str], &str); 4] = [
    (
        &["oss"],
        "OSS refuses to overwrite by a header of its own, and whether its S3 interface does is unknown: examine it with \
         `dstl store doctor s3://bucket/prefix` and the store's option `endpoint`; where all promises hold, name it so",
    ),
    (
        &["cosn", "obs", "o3fs", "ofs"],
        "dstl has no client for it; where it has an S3 interface, examine that with `dstl store doctor s3://bucket/prefix` and the \
         store's option `endpoint`; where all promises hold, name it so",
    ),
    (
        &["viewfs", "har"],
        "dstl reads no mount tables and no archives: name the folder behind it, such as `hdfs://nameservice/path`",
    ),
    (
        &["webhdfs", "swebhdfs", "hftp"],
        "dstl speaks HDFS's own protocol: `hdfs://namenode:8020/path`, with the NameNode's RPC port",
    ),
];

/// Whether `text` is a URL of a kind that Flink and Hadoop have, and dstl does not.
pub(super) fn is_foreign(text: &str) -> bool {
    let scheme = scheme(text);
    let refused = || REFUSED.iter().any(|(schemes, _)| schemes.contains(&&*scheme));
    S3.contains(&&*scheme) || WASB.contains(&&*scheme) || refused()
}

/// Converts `text` to our notation.
///
/// # Errors
///
/// The reason why dstl cannot use it, as the end of a sentence.
pub(super) fn ours(text: &str) -> Result<String, String> {
    let scheme = scheme(text);
    let rest = text.get(scheme.len()..).unwrap_or_default();
    let ours = match &*scheme {
        s3 if S3.contains(&s3) => format!("s3{rest}"),
        wasb if WASB.contains(&wasb) => azure(&wasb.replace("wasb", "abfs"), rest)?,
        _ => text.to_owned(),
    };
    if Kind::Store.parse(&ours).is_some() {
        return Ok(ours);
    }
    let refused = REFUSED.iter().find(|(schemes, _)| schemes.contains(&&*scheme));
    Err(refused.map_or_else(|| Kind::Store.allowed(), |(_, why)| (*why).to_owned()))
}

fn scheme(text: &str) -> String {
    text.split_once("://").map_or("", |(scheme, _)| scheme).to_ascii_lowercase()
}

fn azure(scheme: &str, rest: &str) -> Result<String, String> {
    let inside = rest.trim_start_matches("://");
    let (authority, path) = inside.split_once('/').unwrap_or((inside, ""));
    match authority.strip_suffix(WASB_HOST).and_then(|it| it.split_once('@')) {
        Some((container, account)) => Ok(format!("{scheme}://{container}@{account}.dfs.core.windows.net/{path}")),
        None => Err(format!("it names no container and account: `wasb://container@account{WASB_HOST}/path` would")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn a_url_of_a_store_that_dstl_has_is_translated() {
        for (theirs, expected) in [
            ("hdfs://nn:8020/flink", "hdfs://nn:8020/flink"),
            ("hdfs://nameservice/flink", "hdfs://nameservice/flink"),
            ("hdfs:///flink", "hdfs:///flink"),
            ("s3a://bucket/a", "s3a://bucket/a"),
            ("s3p://bucket/a", "s3://bucket/a"),
            ("S3N://bucket/a", "s3://bucket/a"),
            ("gs://bucket/a", "gs://bucket/a"),
            ("abfss://c@me.dfs.core.windows.net/a", "abfss://c@me.dfs.core.windows.net/a"),
            ("wasbs://c@me.blob.core.windows.net/a/b", "abfss://c@me.dfs.core.windows.net/a/b"),
            ("wasb://c@me.blob.core.windows.net", "abfs://c@me.dfs.core.windows.net/"),
            ("/var/flink", "/var/flink"),
            ("file:///var/flink", "file:///var/flink"),
        ] {
            assert_eq!(ours(theirs).as_deref(), Ok(expected), "{theirs}");
            assert_eq!(is_foreign(theirs), theirs != expected, "{theirs}");
        }
    }

    #[test]
    fn a_url_of_another_store_is_refused_with_what_to_do() {
        for (theirs, told) in [
            ("oss://bucket/a", "`dstl store doctor s3://bucket/prefix`"),
            ("cosn://bucket/a", "has an S3 interface"),
            ("viewfs://cluster/a", "`hdfs://nameservice/path`"),
            ("webhdfs://nn:9870/a", "RPC port"),
            ("wasb:///a", "names no container and account"),
            ("wasb://c@me.blob.core.chinacloudapi.cn/a", "names no container and account"),
            ("maprfs:///a", "one of the schemes"),
            ("s3p://key:secret@bucket/a", "without credentials"),
        ] {
            let why = ours(theirs).unwrap_err();
            assert!(why.contains(told), "{theirs}: {why}");
            assert_eq!(is_foreign(theirs), !theirs.starts_with("maprfs"), "{theirs}");
            assert!(!why.contains("secret") && !why.ends_with('.'), "{why}");
        }
    }
}
