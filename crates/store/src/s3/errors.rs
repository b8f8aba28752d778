//! What an answer of the server, or none, means to us, and the sentence that says it.

use std::error::Error as StdError;
use std::io;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::config::S3Config;
use super::usage::Request;
use crate::Error;

/// Bytes of a server's own words that are passed on; some answer with a page of HTML.
const MESSAGE_BYTES_MAX: usize = 300;
/// The code of a server that does not know a header or a request.
const NOT_IMPLEMENTED: &str = "NotImplemented";

/// What went wrong with one attempt.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    /// The server may have done it all the same.
    pub(crate) undecided: bool,
    text: String,
}

/// Kinds that are treated differently by somebody here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// There is no such object.
    NotFound,
    /// A condition of the request does not hold.
    Condition,
    /// The range begins past the end of the object.
    PastTheEnd,
    /// It may pass.
    Passing,
    /// All of a body came, and its checksum is another. It may have been the network.
    Changed,
    /// New credentials may help.
    Expired,
    /// The clocks differ. The SDK has seen by how much, and signs the next request by the server's.
    Skewed,
    /// The server does not know what was asked for.
    Unsupported,
    /// No right.
    Denied,
    /// No room.
    Full,
    /// It stays so until a person changes something.
    Refused,
}

/// What is known of the answer of a server that refused.
struct Answer<'a> {
    status: u16,
    code: &'a str,
    message: &'a str,
    /// The region the server says the bucket is in.
    region: Option<&'a str>,
}

impl Fault {
    pub(crate) fn new(kind: Kind, text: impl Into<String>) -> Fault {
        Fault { kind, undecided: false, text: text.into() }
    }

    /// It may pass, and the server may have done it all the same.
    pub(crate) fn lost(text: impl Into<String>) -> Fault {
        Fault { kind: Kind::Passing, undecided: true, text: text.into() }
    }

    /// After it was left open what happened, a condition that failed says nothing that the next call would not find out.
    pub(crate) fn left_open(self) -> Fault {
        let kind = match self.kind {
            Kind::Condition | Kind::NotFound => Kind::Passing,
            kind => kind,
        };
        Fault { kind, ..self }
    }

    /// Reads what the SDK says.
    pub(crate) fn from_sdk<E>(config: &S3Config, request: Request, error: SdkError<E, HttpResponse>) -> Fault
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        if let SdkError::ServiceError(refusal) = &error {
            let (raw, refusal) = (refusal.raw(), refusal.err());
            return of_answer(
                config,
                request,
                &Answer {
                    status: raw.status().as_u16(),
                    code: refusal.code().unwrap_or_default(),
                    message: refusal.message().unwrap_or_default(),
                    region: raw.headers().get("x-amz-bucket-region"),
                },
            );
        }
        if let SdkError::ResponseError(answer) = &error {
            let status = answer.raw().status().as_u16();
            return Fault::lost(format!(
                "{} gave an answer ({status}) that is not one of S3",
                config.place()
            ));
        }
        of_connection(config, &error)
    }

    /// The error a caller of the store gets.
    pub(crate) fn into_error(self, action: &'static str, key: &str) -> Error {
        let key = key.to_owned();
        let source = io::Error::other(self.text);
        match self.kind {
            Kind::NotFound => Error::NotFound { key },
            Kind::Denied | Kind::Expired => Error::Denied { action, key, source },
            Kind::Full => Error::Full { action, key, source },
            Kind::Changed => Error::Corrupt { key, source },
            Kind::Refused | Kind::Skewed | Kind::Unsupported => Error::Refused { action, key, source },
            Kind::Passing | Kind::Condition | Kind::PastTheEnd => Error::Unavailable { action, key, source },
        }
    }
}

fn of_answer(config: &S3Config, request: Request, answer: &Answer) -> Fault {
    let (bucket, place) = (&config.bucket, config.place());
    let Answer { status, code, .. } = *answer;
    let said = said(answer);
    let refused = |text: String| Fault::new(Kind::Refused, text);
    let denied = |text: String| Fault::new(Kind::Denied, text);
    match (code, status) {
        ("NoSuchKey", _) => Fault::new(Kind::NotFound, said),
        // An answer to HEAD has no body and so no code.
        ("NotFound" | "", 404) if request == Request::Head => Fault::new(Kind::NotFound, said),
        ("PreconditionFailed", _) | (_, 412) => Fault::new(Kind::Condition, said),
        ("InvalidRange", _) | (_, 416) => Fault::new(Kind::PastTheEnd, said),
        ("NoSuchBucket", _) => refused(format!(
            "there is no bucket \"{bucket}\" at {place}; create it, or correct the address of the repository"
        )),
        ("PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed", _) | (_, 301 | 307) => {
            refused(wrong_region(config, answer))
        }
        ("RequestTimeTooSkewed", _) => Fault::new(
            Kind::Skewed,
            format!(
                "the clock of this machine and that of {place} differ by more than the server accepts; set this machine's clock"
            ),
        ),
        ("ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" | "RequestExpired", _) => {
            Fault::new(Kind::Expired, format!("the credentials have expired ({code}); provide new ones"))
        }
        ("InvalidAccessKeyId" | "NotSignedUp", _) => denied(format!(
            "{place} does not know the access key ({code}); check the credentials, and that they are for this server"
        )),
        ("SignatureDoesNotMatch", _) => denied(format!(
            "the secret key does not belong to the access key ({code}); check the credentials"
        )),
        ("QuotaExceeded" | "XMinioStorageFull" | "InsufficientStorage", _) | (_, 507) => {
            Fault::new(Kind::Full, said)
        }
        (NOT_IMPLEMENTED, _) | (_, 501) => Fault::new(Kind::Unsupported, said),
        ("ConditionalRequestConflict" | "OperationAborted" | "RequestTimeout" | "IncompleteBody", _)
        | ("BadDigest" | "XAmzContentSHA256Mismatch", _)
        | (_, 408 | 429) => Fault::new(Kind::Passing, said),
        // Whether something in front of the server or the server itself gave up, it may have done the work before.
        (_, 500..) => Fault::lost(said),
        (_, 401 | 403) => denied(format!(
            "the credentials lack the right {} on bucket \"{bucket}\" ({said})",
            right(request)
        )),
        (_, 404) => refused(format!("{place} does not answer as S3 does ({said}); check the endpoint")),
        _ => refused(said),
    }
}

fn wrong_region(config: &S3Config, answer: &Answer) -> String {
    let bucket = &config.bucket;
    match answer.region {
        Some(region) => format!("bucket \"{bucket}\" is in region {region}; set that as the region"),
        None => format!("bucket \"{bucket}\" is in another region; set its region ({})", said(answer)),
    }
}

/// What a policy calls the right to make this request.
fn right(request: Request) -> &'static str {
    match request {
        Request::Put => "s3:PutObject",
        Request::Get | Request::Head => "s3:GetObject",
        Request::List => "s3:ListBucket",
        Request::Delete => "s3:DeleteObject",
    }
}

/// The server's own words.
fn said(answer: &Answer) -> String {
    let code = if answer.code.is_empty() { "no reason given" } else { answer.code };
    let message: String =
        answer.message.chars().filter(|c| !c.is_control()).take(MESSAGE_BYTES_MAX).collect();
    match message.as_str() {
        "" => format!("the server answered {}: {code}", answer.status),
        message => format!("the server answered {}: {code}: {message}", answer.status),
    }
}

/// There was no answer.
fn of_connection<E>(config: &S3Config, error: &SdkError<E, HttpResponse>) -> Fault
where
    E: StdError + 'static,
{
    let place = config.place();
    let causes = causes(error);
    if let Some(error) = causes.iter().find_map(|cause| cause.downcast_ref::<CredentialsError>()) {
        return of_credentials(config, error);
    }
    let texts: Vec<String> = causes.iter().map(ToString::to_string).collect();
    let cause = texts.last().cloned().unwrap_or_default();
    if let Some(doubt) = texts.iter().rev().find(|text| text.contains("invalid peer certificate")) {
        let doubt = &doubt[doubt.find("invalid peer certificate").unwrap_or(0)..];
        return Fault::new(
            Kind::Refused,
            format!(
                "the certificate of {place} is not trusted ({doubt}); name the file with its authority's certificate as CA file"
            ),
        );
    }
    if texts.iter().any(|text| text.contains("received corrupt message of type InvalidContentType")) {
        return Fault::new(
            Kind::Refused,
            format!("{place} does not speak TLS; check the endpoint's https://"),
        );
    }
    match error {
        SdkError::ConstructionFailure(_) => Fault::new(Kind::Refused, cause),
        _ if never_connected(&causes) => {
            Fault::new(Kind::Passing, format!("{place} cannot be reached: {cause}"))
        }
        _ => Fault::lost(format!("the connection to {place} was lost: {cause}")),
    }
}

fn of_credentials(config: &S3Config, error: &CredentialsError) -> Fault {
    let cause = causes(error).last().map(ToString::to_string).unwrap_or_default();
    match (error, &config.options.credentials_file) {
        (CredentialsError::CredentialsNotLoaded(_), Some(file)) => {
            let profile = config.options.profile.as_deref().unwrap_or("default");
            Fault::new(
                Kind::Denied,
                format!(
                    "there are no credentials in {}; it must have an access key and its secret under [{profile}], as ~/.aws/credentials has",
                    file.display()
                ),
            )
        }
        (CredentialsError::CredentialsNotLoaded(_), None) => Fault::new(
            Kind::Denied,
            "there are no credentials in the environment, a profile, a web identity or the machine's metadata; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a credentials file",
        ),
        (CredentialsError::InvalidConfiguration(_), _) => {
            Fault::new(Kind::Denied, format!("the credentials are not configured well: {cause}"))
        }
        _ => Fault::new(Kind::Passing, format!("credentials cannot be had: {cause}")),
    }
}

/// The error and what is behind it, outermost first.
fn causes<'a>(error: &'a (dyn StdError + 'static)) -> Vec<&'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| error.source()).collect()
}

/// Whether nothing was sent.
fn never_connected(causes: &[&(dyn StdError + 'static)]) -> bool {
    let refused = |error: &io::Error| {
        matches!(
            error.kind(),
            io::ErrorKind::ConnectionRefused
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkUnreachable
                | io::ErrorKind::AddrNotAvailable
        )
    };
    causes.iter().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(refused)
            || ["dns error", "failed to lookup address", "HTTP connect timeout"]
                .iter()
                .any(|text| cause.to_string().contains(text))
    })
}

/// All that is behind an error, in one line.
pub(crate) fn innermost(error: &(dyn StdError + 'static)) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}
