//! What the services' errors mean to a caller.

use std::fmt::Debug;

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use dormouse_core::{Error, ErrorKind};

/// What a failed call tells of its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It had none, and the same call may succeed later.
    None,
    /// It may have had one: the answer was lost.
    Unknown,
    /// It had none, and the same call will not succeed.
    Never,
}

/// Codes of calls that were turned away before they did anything.
const TURNED_AWAY: &[&str] = &[
    "KmsThrottled",
    "OverLimit",
    "PriorRequestNotComplete",
    "ProvisionedThroughputExceeded",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "SlowDown",
    "Throttling",
    "ThrottlingError",
    "ThrottlingException",
    "TooManyRequestsException",
    "TransactionConflict",
    "TransactionConflictException",
    "TransactionInProgressException",
];

/// Codes that tell that credentials or permissions are not there: they may be later.
const DENIED: &[&str] = &[
    "AccessDenied",
    "AccessDeniedException",
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "MissingAuthenticationToken",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
];

/// Codes that tell that a part of the instance is not there.
const MISSING: &[&str] = &[
    "AWS.SimpleQueueService.NonExistentQueue",
    "ClusterNotFoundException",
    "NoSuchBucket",
    "QueueDoesNotExist",
    "ResourceNotFoundException",
];

/// Whether a code is one of calls that were turned away.
pub(crate) fn is_turned_away(code: &str) -> bool {
    TURNED_AWAY.contains(&code)
}

/// What a failed call tells of its effect.
pub(crate) fn effect<E: ProvideErrorMetadata>(error: &SdkError<E>) -> Effect {
    match error {
        SdkError::ServiceError(answer) => {
            let code = answer.err().code().unwrap_or_default();
            let status = answer.raw().status().as_u16();
            if is_turned_away(code) || status == 429 {
                Effect::None
            } else if status >= 500 {
                Effect::Unknown
            } else {
                Effect::Never
            }
        }
        SdkError::ConstructionFailure(_) => Effect::Never,
        _ => Effect::Unknown,
    }
}

/// The error of a failed call. A part of the instance that is missing is `Unavailable`: no message is to end for
/// it.
pub(crate) fn from_sdk<E>(doing: &str, error: SdkError<E>) -> Error
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + Debug + 'static,
{
    let code = error.code().unwrap_or_default().to_owned();
    let known = |codes: &[&str]| codes.contains(&code.as_str());
    let (kind, told) = if effect(&error) != Effect::Never {
        (ErrorKind::Unavailable, "")
    } else if known(DENIED) {
        let told =
            ": credentials or permissions are missing; docs/running-on-aws.md lists what each process needs";
        (ErrorKind::Unavailable, told)
    } else if known(MISSING) {
        let told = ": a part of the instance is missing; see `dormouse instance check`";
        (ErrorKind::Unavailable, told)
    } else {
        (ErrorKind::Internal, "")
    };
    let mut text = format!("{doing} failed{told}");
    if let Some(message) = error.message() {
        text.push_str(&format!(" ({code}: {message})"));
    }
    Error::new(kind, text).with_source(error)
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::{
        error::{ErrorMetadata, SdkError},
        operation::get_item::GetItemError,
    };

    use super::*;

    fn answered(code: &str, status: u16) -> SdkError<GetItemError> {
        let meta = ErrorMetadata::builder().code(code).message("told").build();
        let status = status.try_into().expect("a status");
        let raw = aws_sdk_dynamodb::config::http::HttpResponse::new(status, Vec::<u8>::new().into());
        SdkError::service_error(GetItemError::generic(meta), raw)
    }

    #[test]
    fn every_answer_has_a_kind_and_an_effect() {
        for (code, status, kind, told) in [
            (
                "ProvisionedThroughputExceededException",
                400,
                ErrorKind::Unavailable,
                Effect::None,
            ),
            (
                "TransactionConflictException",
                400,
                ErrorKind::Unavailable,
                Effect::None,
            ),
            ("Whatever", 429, ErrorKind::Unavailable, Effect::None),
            (
                "InternalServerError",
                500,
                ErrorKind::Unavailable,
                Effect::Unknown,
            ),
            ("SlowDown", 503, ErrorKind::Unavailable, Effect::None),
            (
                "AccessDeniedException",
                400,
                ErrorKind::Unavailable,
                Effect::Never,
            ),
            (
                "ResourceNotFoundException",
                400,
                ErrorKind::Unavailable,
                Effect::Never,
            ),
            ("ValidationException", 400, ErrorKind::Internal, Effect::Never),
        ] {
            let error = answered(code, status);
            assert_eq!(effect(&error), told, "{code}");
            let error = from_sdk("reading", error);
            assert_eq!(error.kind(), kind, "{code}");
            assert!(error.report().contains("told"), "{}", error.report());
        }
        let lost = SdkError::<GetItemError>::timeout_error("late");
        assert_eq!(effect(&lost), Effect::Unknown);
        assert_eq!(from_sdk("reading", lost).kind(), ErrorKind::Unavailable);
    }
}
