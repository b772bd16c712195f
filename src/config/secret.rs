//! Hides credentials in quoted settings, which may have some although they must not.

/// Shown in place of a secret.
pub(super) const HIDDEN: &str = "…";

/// Characters that end a URL in running text.
const DELIMITERS: &[char] = &['"', '\'', '`'];

/// The text before the signature in Azure's shared access signatures.
const SIGNATURE: &str = "sig=";

/// `text` with `…` in place of possible credentials in each URL: user and password, the query, a signature.
///
/// For example `s3://key:secret@bucket/p` becomes `s3://…@bucket/p`, and `az://c/p?sv=1&sig=x` becomes `az://c/p?…`.
pub(super) fn hide(text: &str) -> String {
    let is_end = |c: char| c.is_whitespace() || DELIMITERS.contains(&c);
    text.split_inclusive(is_end).map(hide_in_word).collect()
}

fn hide_in_word(word: &str) -> String {
    let body = word.trim_end_matches(|c: char| c.is_whitespace() || DELIMITERS.contains(&c));
    let end = word.get(body.len()..).unwrap_or_default();
    let Some((scheme, rest)) = body.split_once("://") else {
        return match body.split_once(SIGNATURE) {
            Some((before, _)) => format!("{before}{SIGNATURE}{HIDDEN}{end}"),
            None => word.to_owned(),
        };
    };
    // A secret may contain slashes. A container of Azure (`abfs://container@account`) has no password and is not a
    // credential.
    let rest = match rest.rsplit_once('@') {
        Some((user, host)) if user.contains(':') => format!("{HIDDEN}@{host}"),
        _ => rest.to_owned(),
    };
    let rest = match rest.split_once('?') {
        Some((path, _)) => format!("{path}?{HIDDEN}"),
        None => rest,
    };
    format!("{scheme}://{rest}{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_of_urls_are_hidden_and_nothing_else() {
        for (text, shown) in [
            ("s3://key:secret@bucket/p", "s3://…@bucket/p"),
            ("s3://key:se/cr:et@bucket/p", "s3://…@bucket/p"),
            ("az://c/p?sv=1&sig=secret", "az://c/p?…"),
            ("az://k:secret@c/p?sig=secret#x", "az://…@c/p?…"),
            (
                "here it is `base = \"s3://k:secret@b\"`; also s3://a:secret@c ",
                "here it is `base = \"s3://…@b\"`; also s3://…@c ",
            ),
            ("sv=2024&sig=secret", "sv=2024&sig=…"),
            ("abfs://container@account.dfs.core.windows.net/p", "abfs://container@account.dfs.core.windows.net/p"),
            ("file:///a b/c", "file:///a b/c"),
            ("10 ms", "10 ms"),
        ] {
            assert_eq!(hide(text), shown);
        }
    }
}
