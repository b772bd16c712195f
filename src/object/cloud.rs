//! The cloud stores of object_store, with errors that say which setting to look at.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};

use super::error::NO_STORE;

/// Most bytes of an error's text that are shown. The longest URL and S3's message about it fit.
const TOLD_BYTES: usize = 3000;

/// The provider, which decides the advice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cloud {
    S3,
    Gcs,
    Azure,
}

/// A store whose errors carry advice.
#[derive(Debug)]
pub(super) struct CloudStore {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) cloud: Cloud,
}

/// An error of the store in one line, with its innermost cause and advice.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Advised(String);

/// Texts that an error may contain, in lower case, and the advice for it. The first entry that fits gives the advice.
type Advice = (&'static [&'static str], &'static str);

const OF_S3: [Advice; 9] = [
    (
        &["nosuchbucket"],
        "there is no such bucket: look at the bucket of the URL, and at the options `endpoint` and `region`",
    ),
    (&["invalidbucketname"], "that cannot be a bucket's name: look at the URL"),
    (&["invalidaccesskeyid"], "the store does not know the access key: look at AWS_ACCESS_KEY_ID"),
    (&["signaturedoesnotmatch"], "the secret key does not fit the access key: look at AWS_SECRET_ACCESS_KEY"),
    (
        &["expiredtoken", "tokenrefreshrequired", "invalidtoken"],
        "the credentials are expired: renew AWS_SESSION_TOKEN and its keys, or look at what hands them out",
    ),
    (
        &["authorizationheadermalformed", "permanentredirect", "incorrectly configured region", "301 moved"],
        "the bucket is in another region: look at the option `region`, or AWS_REGION",
    ),
    (&["requesttimetooskewed"], "the clock of this host is off: set it"),
    (
        &["accessdenied", "403 forbidden"],
        "the credentials lack permission: grant s3:ListBucket on the bucket, and s3:GetObject, s3:PutObject and \
         s3:DeleteObject on its objects, or look at AWS_ACCESS_KEY_ID",
    ),
    (&["quotaexceeded", "insufficientstorage", "507 "], "the quota is used up: raise it, or name another bucket"),
];

const OF_GCS: [Advice; 4] = [
    (
        &["nosuchbucket", "bucket does not exist"],
        "there is no such bucket: look at the bucket of the URL, and at the option `base_url`",
    ),
    (
        &["401 unauthorized", "authenticationrequired", "invalid_grant"],
        "the credentials are refused or expired: look at GOOGLE_APPLICATION_CREDENTIALS, \
         GOOGLE_SERVICE_ACCOUNT or GOOGLE_BEARER_TOKEN",
    ),
    (
        &["accessdenied", "403 forbidden"],
        "the credentials lack permission: grant storage.objects.create, .get, .list and .delete on the bucket, \
         or look at GOOGLE_APPLICATION_CREDENTIALS",
    ),
    (&["metadata.google.internal", "169.254.169.254"], "no credentials were found: set GOOGLE_APPLICATION_CREDENTIALS"),
];

const OF_AZURE: [Advice; 5] = [
    (
        &["containernotfound", "container does not exist"],
        "there is no such container: look at the container of the URL, and at the option `account_name`",
    ),
    (
        &["authenticationfailed", "invalidauthenticationinfo", "401 "],
        "the credentials are refused or expired: look at AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_KEY, or the \
         AZURE_CLIENT_… that are set",
    ),
    (
        &["authorizationfailure", "authorizationpermissionmismatch", "insufficientaccountpermissions", "403 "],
        "the credentials lack permission: give them the role Storage Blob Data Contributor, or look at \
         AZURE_STORAGE_ACCOUNT_KEY",
    ),
    (&["accountisdisabled", "resourcenotfound"], "look at the option `account_name`, or AZURE_STORAGE_ACCOUNT_NAME"),
    (&["169.254.169.254"], "no credentials were found: set AZURE_STORAGE_ACCOUNT_KEY, or another one of AZURE_…"),
];

/// Advice for all stores, where no object store answers at the address.
const OF_ADDRESS: [Advice; 5] = [
    (&["connection refused"], "nobody listens there"),
    (&["failed to lookup address", "dns error", "name or service not known"], "there is no such host"),
    (&["no route to host", "network is unreachable"], "the host is out of reach"),
    (&["certificate"], "its certificate is not trusted here"),
    (&["invalidcontenttype", "corrupt message", "invalid http version", "invalid http"], "is it `http`, or `https`?"),
];

/// Texts that show a web page in place of an answer of an object store.
const OF_PAGES: [&str; 6] =
    ["<html", "<!doctype html", "a web page in place", "invalid list response", "header missing", "invalid delete"];

impl Cloud {
    fn advice(self, text: &str) -> Option<String> {
        let text = text.to_ascii_lowercase();
        let fits = |signs: &[&str]| signs.iter().any(|sign| text.contains(sign));
        let endpoint = match self {
            Self::S3 => "look at the option `endpoint`, or AWS_ENDPOINT_URL",
            Self::Gcs => "look at the option `base_url`",
            Self::Azure => "look at the options `account_name` and `endpoint`",
        };
        let own: &[Advice] = match self {
            Self::S3 => &OF_S3,
            Self::Gcs => &OF_GCS,
            Self::Azure => &OF_AZURE,
        };
        // Before the store's own advice: a web page may contain any of those texts.
        if fits(&OF_PAGES) {
            return Some(format!("{NO_STORE}, or something before it: {endpoint}"));
        }
        if let Some((_, advice)) = own.iter().find(|(signs, _)| fits(signs)) {
            return Some((*advice).to_owned());
        }
        let address = OF_ADDRESS.iter().find(|(signs, _)| fits(signs));
        address.map(|(_, what)| format!("{what}: {endpoint}"))
    }

    /// The same error in one line and with advice.
    fn told(self, error: Error) -> Error {
        let line = self.line(&error);
        let source = Box::new(Advised(line));
        match error {
            Error::NotFound { path, .. } => Error::NotFound { path, source },
            Error::AlreadyExists { path, .. } => Error::AlreadyExists { path, source },
            Error::Precondition { path, .. } => Error::Precondition { path, source },
            Error::NotModified { path, .. } => Error::NotModified { path, source },
            Error::PermissionDenied { path, .. } => Error::PermissionDenied { path, source },
            Error::Unauthenticated { path, .. } => Error::Unauthenticated { path, source },
            Error::Generic { store, .. } => Error::Generic { store, source },
            other => other,
        }
    }

    fn line(self, error: &Error) -> String {
        // Its own text is that of the variant and of its source. The causes below are not always in it.
        let mut causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
        let mut text = causes.next().map_or_else(|| error.to_string(), ToString::to_string);
        for cause in causes {
            let cause = cause.to_string();
            if !text.contains(&cause) {
                text = format!("{text}: {cause}");
            }
        }
        let advice = self.advice(&text).map(|advice| format!(" ({advice})")).unwrap_or_default();
        let words: Vec<_> = without_page(&text).split_whitespace().collect();
        format!("{}{advice}", shortened(&words.join(" ")))
    }
}

/// `text` up to the web page in it, if there is one.
fn without_page(text: &str) -> &str {
    let lower = text.to_ascii_lowercase();
    let page = OF_PAGES.iter().filter(|sign| sign.starts_with('<')).filter_map(|sign| lower.find(sign)).min();
    page.and_then(|at| text.get(..at)).map_or(text, str::trim_end)
}

fn shortened(text: &str) -> String {
    let end = text.floor_char_boundary(TOLD_BYTES);
    if end < text.len() { format!("{}…", text.get(..end).unwrap_or_default()) } else { text.to_owned() }
}

impl fmt::Display for CloudStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for CloudStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.store.put_opts(location, payload, options).await.map_err(|error| self.cloud.told(error))
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(path, options).await.map_err(|error| self.cloud.told(error))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.store.get_opts(location, options).await.map_err(|error| self.cloud.told(error))
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let cloud = self.cloud;
        self.store.delete_stream(locations).map_err(move |error| cloud.told(error)).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let cloud = self.cloud;
        self.store.list(prefix).map_err(move |error| cloud.told(error)).boxed()
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let cloud = self.cloud;
        self.store.list_with_offset(prefix, offset).map_err(move |error| cloud.told(error)).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await.map_err(|error| self.cloud.told(error))
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await.map_err(|error| self.cloud.told(error))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::object::error::Class;

    fn not_found(text: &str) -> Error {
        Error::NotFound { path: "a".into(), source: text.into() }
    }

    fn generic(text: &str) -> Error {
        Error::Generic { store: "S3", source: text.into() }
    }

    #[test]
    fn an_error_is_one_line_that_names_the_setting_to_look_at() {
        for (cloud, text, named) in [
            (Cloud::S3, "403 Forbidden: <Code>InvalidAccessKeyId</Code>", "AWS_ACCESS_KEY_ID"),
            (Cloud::S3, "403 Forbidden: <Code>SignatureDoesNotMatch</Code>", "AWS_SECRET_ACCESS_KEY"),
            (Cloud::S3, "400 Bad Request: <Code>ExpiredToken</Code>", "AWS_SESSION_TOKEN"),
            (Cloud::S3, "403 Forbidden: <Code>AccessDenied</Code>", "s3:PutObject"),
            (Cloud::S3, "403 Forbidden: <Code>RequestTimeTooSkewed</Code>", "clock of this host"),
            (
                Cloud::S3,
                "Received redirect without LOCATION, this normally indicates an incorrectly configured region",
                "`region`",
            ),
            (Cloud::S3, "200 OK: <!DOCTYPE html>\n<html>Welcome</html>", "`endpoint`"),
            (
                Cloud::S3,
                "error sending request: tcp connect error: Connection refused (os error 111)",
                "nobody listens there",
            ),
            (Cloud::Gcs, "401 Unauthorized: <Code>AuthenticationRequired</Code>", "GOOGLE_APPLICATION_CREDENTIALS"),
            (Cloud::Gcs, "dns error: failed to lookup address information", "`base_url`"),
            (
                Cloud::Azure,
                "403 Server failed: <Code>AuthenticationFailed</Code>\nSignature",
                "AZURE_STORAGE_ACCOUNT_KEY",
            ),
            (Cloud::Azure, "403 Forbidden: AuthorizationPermissionMismatch", "Storage Blob Data Contributor"),
        ] {
            let told = cloud.told(generic(text)).to_string();
            assert!(told.contains(named), "{told}");
            assert!(!told.contains('\n') && !told.contains("Welcome"), "{told}");
        }
        assert!(Cloud::S3.told(generic("500: we are sorry")).to_string().ends_with("500: we are sorry"));
        assert!(Cloud::S3.told(generic(&"x".repeat(100_000))).to_string().len() < 4000);
    }

    #[test]
    fn what_an_error_means_stays() {
        let told = |error| Class::of(&Cloud::S3.told(error));
        assert_eq!(told(not_found("404 Not Found: <Code>NoSuchKey</Code>")), Class::NotFound);
        assert_eq!(told(not_found("404 Not Found: <Code>NoSuchBucket</Code>")), Class::Retry);
        assert_eq!(told(Error::AlreadyExists { path: "a".into(), source: "409".into() }), Class::Exists);
        assert_eq!(told(Error::Precondition { path: "a".into(), source: "412".into() }), Class::Exists);
        assert_eq!(told(generic("503 Slow Down")), Class::Retry);
    }

    #[test]
    fn a_page_that_says_not_found_is_not_a_missing_object() {
        let page = "404 Not Found: <html><head><title>404 Not Found</title></head></html>";
        let told = Cloud::S3.told(not_found(page));
        assert_eq!(Class::of(&told), Class::Retry, "{told}");
        assert!(told.to_string().contains("no object store"), "{told}");
    }
}
