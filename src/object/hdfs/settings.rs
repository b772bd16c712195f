//! Settings of an HDFS client, from the URL, the options of the store, and Hadoop's own configuration.
//!
//! | URL | cluster |
//! | --- | --- |
//! | `hdfs://host:port/path` | the NameNode with this RPC port |
//! | `hdfs://nameservice/path` | the NameNodes of `dfs.ha.namenodes.<nameservice>`; the active one serves |
//! | `hdfs:///path` | `fs.defaultFS` |
//!
//! `core-site.xml` and `hdfs-site.xml` are read from the folder of the option `config_dir`, else of `HADOOP_CONF_DIR`,
//! else from `HADOOP_HOME/etc/hadoop`. The client reads them, too; this file handles the properties that it ignores.

use std::{collections::BTreeMap, path::PathBuf};

use roxmltree::{Document, ParsingOptions};
use url::Url;

use super::super::{OpenError, StoreOptions};

/// Files of Hadoop's configuration. A later file overrides an earlier one.
const FILES: [&str; 2] = ["core-site.xml", "hdfs-site.xml"];

/// Names of the options of this store, with `_` for `-`.
const OPTIONS: [&str; 7] =
    ["config_dir", "user", "replication", "block_size", "kerberos_principal", "kerberos_keytab", "kerberos_cache"];

/// Time in milliseconds that a DataNode may be silent before a read turns to the next one. Hadoop's own minute is
/// longer than an attempt at a request.
const DATANODE_PATIENCE_MS: &str = "5000";

/// All settings of a client.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// `hdfs://` and the authority: a host and port, or a nameservice.
    pub(super) url: String,
    pub(super) config_dir: Option<String>,
    pub(super) user: Option<String>,
    pub(super) kerberos_principal: Option<String>,
    pub(super) kerberos_keytab: Option<String>,
    pub(super) kerberos_cache: Option<String>,
    /// Number of replicas of a file; `None` for the default of the cluster.
    pub(super) replication: Option<u32>,
    /// Block size in bytes; `None` for the default of the cluster.
    pub(super) block_size: Option<u64>,
    /// The nameservice and the names of its NameNodes, if the URL names no port.
    nameservice: Option<(String, Vec<String>)>,
    datanode_patience: String,
}

type Properties = BTreeMap<String, String>;

impl Settings {
    /// Resolves `options`, whose URL is `url`.
    ///
    /// # Errors
    /// [`OpenError`], which names the option or file at fault.
    pub(super) fn new(options: &StoreOptions, url: &Url) -> Result<Self, OpenError> {
        let wrong = |reason: String| OpenError::Option { url: options.url.clone(), reason };
        let given = given(options)?;
        let hadoop = hadoop(given.get("config_dir")).map_err(wrong)?;
        let url = cluster(url, &hadoop).map_err(wrong)?;
        let nameservice = nameservice(&url, &hadoop).map_err(wrong)?;
        let find = |option: &str, property: &str| {
            given.get(option).map(|value| (format!("option `{option}`"), value)).or_else(|| {
                hadoop.get(property).map(|value| (format!("`{property}` of Hadoop's configuration"), value))
            })
        };
        let number = |option, property, smallest| match find(option, property) {
            Some((name, value)) => size(value)
                .filter(|number| *number >= smallest)
                .map(Some)
                .ok_or_else(|| wrong(format!("{name}: `{value}` is no number from {smallest}"))),
            None => Ok(None),
        };
        let replication = number("replication", "dfs.replication", 1)?.map(|copies| copies.min(u64::from(u16::MAX)));
        let option = |name| given.get(name).cloned();
        Ok(Self {
            config_dir: option("config_dir"),
            user: option("user"),
            kerberos_principal: option("kerberos_principal"),
            kerberos_keytab: option("kerberos_keytab"),
            kerberos_cache: option("kerberos_cache"),
            replication: replication.and_then(|copies| u32::try_from(copies).ok()),
            block_size: number("block_size", "dfs.blocksize", 512)?,
            datanode_patience: hadoop
                .get("dfs.client.socket-timeout")
                .map_or(DATANODE_PATIENCE_MS, String::as_str)
                .to_owned(),
            url,
            nameservice,
        })
    }

    /// Properties that the client gets in addition to Hadoop's files, after `given_up` clients whose NameNode hung. The
    /// client tries each NameNode once, and begins with the one after the last that hung. The caller makes pauses and
    /// further attempts.
    pub(super) fn properties(&self, given_up: usize) -> Vec<(String, String)> {
        let mut properties = vec![("dfs.client.socket-timeout".to_owned(), self.datanode_patience.clone())];
        let mut others = 0;
        if let Some((service, namenodes)) = &self.nameservice {
            let mut namenodes = namenodes.clone();
            others = namenodes.len().saturating_sub(1);
            // Each client that was given up moves on by one, so no NameNode that hangs is asked twice in a row.
            let first = given_up.checked_rem(namenodes.len()).unwrap_or_default();
            namenodes.rotate_left(first);
            properties.push((format!("dfs.ha.namenodes.{service}"), namenodes.join(",")));
            // Otherwise the client would shuffle the order that was just made.
            properties.push((format!("dfs.client.failover.random.order.{service}"), "false".to_owned()));
        }
        properties.push(("dfs.client.failover.max.attempts".to_owned(), others.to_string()));
        properties
    }
}

fn given(options: &StoreOptions) -> Result<Properties, OpenError> {
    let known = options.options.iter().map(|(key, value)| {
        let name = key.to_ascii_lowercase().replace('-', "_");
        if OPTIONS.contains(&name.as_str()) {
            return Ok((name, value.clone()));
        }
        Err(OpenError::UnknownOption { url: options.url.clone(), key: key.clone() })
    });
    known.collect()
}

/// Hadoop's configuration; empty if no folder is named.
fn hadoop(config_dir: Option<&String>) -> Result<Properties, String> {
    let of_environment = || {
        let home = || Some(PathBuf::from(std::env::var_os("HADOOP_HOME")?).join("etc/hadoop"));
        std::env::var_os("HADOOP_CONF_DIR").map(PathBuf::from).or_else(home)
    };
    let Some(folder) = config_dir.map(PathBuf::from).or_else(of_environment) else { return Ok(Properties::new()) };
    let mut properties = Properties::new();
    for name in FILES {
        let file = folder.join(name);
        match std::fs::read_to_string(&file) {
            Ok(text) => parse(&text, &mut properties).map_err(|error| format!("`{}`: {error}", file.display()))?,
            // A cluster may do with one of the two files.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("`{}` cannot be read: {error}", file.display())),
        }
    }
    Ok(properties)
}

fn parse(text: &str, properties: &mut Properties) -> Result<(), roxmltree::Error> {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text, options)?;
    for property in document.root_element().children().filter(|node| node.has_tag_name("property")) {
        let text = |tag| property.children().find(|node| node.has_tag_name(tag)).and_then(|node| node.text());
        if let (Some(name), Some(value)) = (text("name"), text("value")) {
            properties.insert(name.trim().to_owned(), value.trim().to_owned());
        }
    }
    Ok(())
}

/// `hdfs://` and the authority of `url`, or of `fs.defaultFS` if `url` has none.
fn cluster(url: &Url, hadoop: &Properties) -> Result<String, String> {
    let authority = |url: &Url| {
        let host = url.host_str().filter(|host| !host.is_empty())?;
        Some(url.port().map_or_else(|| format!("hdfs://{host}"), |port| format!("hdfs://{host}:{port}")))
    };
    if let Some(named) = authority(url) {
        return Ok(named);
    }
    let default = hadoop
        .get("fs.defaultFS")
        .ok_or("the URL names no NameNode, and Hadoop's configuration has no `fs.defaultFS`")?;
    let parsed = Url::parse(default).ok().filter(|default| default.scheme() == "hdfs");
    parsed.as_ref().and_then(authority).ok_or_else(|| format!("`fs.defaultFS` is `{default}`, and not of HDFS"))
}

/// The nameservice and its NameNodes, for a URL without a port.
fn nameservice(url: &str, hadoop: &Properties) -> Result<Option<(String, Vec<String>)>, String> {
    let name = url.trim_start_matches("hdfs://");
    // With a port the URL names one NameNode, and nothing has to be looked up.
    if name.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
        return Ok(None);
    }
    let key = format!("dfs.ha.namenodes.{name}");
    let namenodes = hadoop.get(&key).ok_or_else(|| {
        format!(
            "`{name}` has no port and is no nameservice: Hadoop's configuration (HADOOP_CONF_DIR, or the option \
             `config_dir`) has no `{key}`. For a single NameNode name its RPC port, as a rule 8020: `hdfs://{name}:8020/…`"
        )
    })?;
    let namenodes: Vec<_> = namenodes.split(',').map(|id| id.trim().to_owned()).filter(|id| !id.is_empty()).collect();
    for id in &namenodes {
        let address = format!("dfs.namenode.rpc-address.{name}.{id}");
        if !hadoop.contains_key(&address) {
            return Err(format!("`{key}` names `{id}`, but Hadoop's configuration has no `{address}`"));
        }
    }
    if namenodes.is_empty() {
        return Err(format!("`{key}` names no NameNode"));
    }
    Ok(Some((name.to_owned(), namenodes)))
}

/// A number as Hadoop writes it: digits, and an optional `k`, `m`, `g` or `t` for powers of 1024.
fn size(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let (digits, shift) = match text.strip_suffix(['k', 'm', 'g', 't']) {
        Some(digits) => (
            digits,
            match text.as_bytes().last()? {
                b'k' => 10,
                b'm' => 20,
                b'g' => 30,
                _ => 40,
            },
        ),
        None => (text.as_str(), 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;

    const HA: &str = r#"<?xml version="1.0"?>
        <?xml-stylesheet type="text/xsl" href="configuration.xsl"?>
        <configuration>
            <property><name>dfs.ha.namenodes.mine</name><value>a, b,c</value><final>true</final></property>
            <property><name>dfs.namenode.rpc-address.mine.a</name><value>h1:8020</value></property>
            <property><name>dfs.namenode.rpc-address.mine.b</name><value>h2:8020</value></property>
            <property><name>dfs.namenode.rpc-address.mine.c</name><value>h3:8020</value></property>
            <property><name>dfs.blocksize</name><value>64m</value></property>
            <property><name>dfs.replication</name><value>2</value></property>
        </configuration>"#;

    fn with(url: &str, files: &[(&str, &str)], options: &[(&str, &str)]) -> Result<Settings, String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let mut all = StoreOptions::new(url);
        all.options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        all.options.insert("config-dir".into(), folder.path().display().to_string());
        Settings::new(&all, &Url::parse(url).unwrap()).map_err(|error| error.to_string())
    }

    fn property(settings: &Settings, given_up: usize, name: &str) -> String {
        settings.properties(given_up).into_iter().find(|(key, _)| key == name).unwrap().1
    }

    #[test]
    fn a_port_names_one_namenode_which_is_asked_once() {
        let settings = with("hdfs://nn:9000/a/b", &[], &[]).unwrap();
        assert_eq!(settings.url, "hdfs://nn:9000");
        assert_eq!(property(&settings, 0, "dfs.client.failover.max.attempts"), "0");
        assert_eq!(property(&settings, 0, "dfs.client.socket-timeout"), "5000");
    }

    #[test]
    fn a_nameservice_begins_with_another_namenode_after_each_that_hung() {
        let settings = with("hdfs://mine/a", &[("hdfs-site.xml", HA)], &[]).unwrap();
        let order = [0, 1, 2, 3].map(|given_up| property(&settings, given_up, "dfs.ha.namenodes.mine"));
        assert_eq!(order, ["a,b,c", "b,c,a", "c,a,b", "a,b,c"]);
        assert_eq!(property(&settings, 0, "dfs.client.failover.max.attempts"), "2");
    }

    #[test]
    fn a_url_without_authority_is_that_of_the_default_file_system() {
        let default = |url: &str| {
            format!("<configuration><property><name>fs.defaultFS</name><value>{url}</value></property></configuration>")
        };
        let settings = with("hdfs:///a", &[("core-site.xml", &default("hdfs://nn:8020"))], &[]).unwrap();
        assert_eq!(settings.url, "hdfs://nn:8020");
        let refused = with("hdfs:///a", &[("core-site.xml", &default("s3a://bucket"))], &[]).unwrap_err();
        assert!(refused.contains("`s3a://bucket`, and not of HDFS"), "{refused}");
        let refused = with("hdfs:///a", &[], &[]).unwrap_err();
        assert!(refused.contains("no `fs.defaultFS`"), "{refused}");
    }

    #[test]
    fn options_win_over_the_configuration_of_hadoop_and_that_over_the_cluster() {
        let files = [("hdfs-site.xml", HA)];
        let settings = with("hdfs://mine/a", &files, &[]).unwrap();
        assert_eq!((settings.replication, settings.block_size), (Some(2), Some(64 << 20)));
        let options = [("replication", "3"), ("block-size", "1048576"), ("user", "flink")];
        let settings = with("hdfs://mine/a", &files, &options).unwrap();
        assert_eq!((settings.replication, settings.block_size), (Some(3), Some(1 << 20)));
        assert_eq!(settings.user.as_deref(), Some("flink"));
        let settings = with("hdfs://nn:1/a", &[], &[]).unwrap();
        assert_eq!((settings.replication, settings.block_size), (None, None));
    }

    #[test]
    fn what_is_wrong_is_told_with_the_setting_at_fault() {
        let without = HA.replace("rpc-address.mine.b", "rpc-address.mine.x");
        for (url, files, options, told) in [
            ("hdfs://mine/a", vec![], vec![], "`hdfs://mine:8020/…`"),
            ("hdfs://mine/a", vec![("hdfs-site.xml", &*without)], vec![], "has no `dfs.namenode.rpc-address.mine.b`"),
            ("hdfs://mine/a", vec![("hdfs-site.xml", "<configuration>")], vec![], "hdfs-site.xml`: "),
            ("hdfs://nn:1/a", vec![], vec![("replication", "0")], "option `replication`: `0` is no number from 1"),
            ("hdfs://nn:1/a", vec![], vec![("block_size", "1x")], "option `block_size`: `1x`"),
            ("hdfs://nn:1/a", vec![], vec![("replicas", "1")], "unknown option `replicas`"),
        ] {
            let refused = with(url, &files, &options).unwrap_err();
            assert!(refused.contains(told), "{refused}");
        }
    }
}
