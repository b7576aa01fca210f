//! Why a request was refused, in the API's words (its error catalogue; `dialects.md` section 2, "Errors").

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::sandbox::api;

/// An error of the catalogue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Code {
    /// The content is not a JSON object.
    InvalidJson,
    /// The content does not say that it is JSON.
    MissingContentType,
    /// A member that there is not.
    UnknownField,
    /// No product has this id.
    ResourceNotFound,
    /// No operation has this path.
    RouteNotFound,
    /// The path has operations, and none of this method. Not in the catalogue.
    MethodNotAllowed,
    /// No form, or no name of one.
    FormRequired,
    /// Whoever asks has not agreed to be contacted.
    ConsentRequired,
    /// Not an address.
    InvalidEmail,
    /// Too many fields, or too many bytes of them.
    PayloadTooLarge,
    /// Not a department.
    InvalidDept,
    /// Another JSON type than the member has.
    InvalidValueType,
    /// The content broke off or was too slow. Not in the catalogue.
    RequestIncomplete,
    /// Anything else that is the caller's; only faults say so. Not in the catalogue.
    InvalidRequest,
    /// Too many requests in this window.
    RateLimited,
    /// The machine is broken.
    ServerError,
    /// The machine is busy, or its database is.
    TemporarilyUnavailable,
}

impl Code {
    /// The stable text that clients branch on.
    pub(super) fn text(self) -> &'static str {
        match self {
            Code::InvalidJson => "invalid_json",
            Code::MissingContentType => "missing_content_type",
            Code::UnknownField => "unknown_field",
            Code::ResourceNotFound => "resource_not_found",
            Code::RouteNotFound => "route_not_found",
            Code::MethodNotAllowed => "method_not_allowed",
            Code::FormRequired => "form_required",
            Code::ConsentRequired => "consent_required",
            Code::InvalidEmail => "invalid_email",
            Code::PayloadTooLarge => "payload_too_large",
            Code::InvalidDept => "invalid_dept",
            Code::InvalidValueType => "invalid_value_type",
            Code::RequestIncomplete => "request_incomplete",
            Code::InvalidRequest => "invalid_request",
            Code::RateLimited => "rate_limited",
            Code::ServerError => "server_error",
            Code::TemporarilyUnavailable => "temporarily_unavailable",
        }
    }

    /// The status that it is told with.
    pub(super) fn status(self) -> StatusCode {
        match self {
            Code::InvalidJson | Code::MissingContentType | Code::UnknownField | Code::InvalidRequest => {
                StatusCode::BAD_REQUEST
            }
            Code::RequestIncomplete => StatusCode::REQUEST_TIMEOUT,
            Code::ResourceNotFound | Code::RouteNotFound => StatusCode::NOT_FOUND,
            Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Code::FormRequired
            | Code::ConsentRequired
            | Code::InvalidEmail
            | Code::PayloadTooLarge
            | Code::InvalidDept
            | Code::InvalidValueType => StatusCode::UNPROCESSABLE_ENTITY,
            Code::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Code::ServerError => StatusCode::INTERNAL_SERVER_ERROR,
            Code::TemporarilyUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The family. The API's pages have two vocabularies for it; this is the reference's.
    fn family(self) -> &'static str {
        match self {
            Code::RateLimited => "rate_limit_error",
            Code::ServerError | Code::TemporarilyUnavailable => "api_error",
            Code::InvalidJson
            | Code::MissingContentType
            | Code::UnknownField
            | Code::ResourceNotFound
            | Code::RouteNotFound
            | Code::MethodNotAllowed
            | Code::FormRequired
            | Code::ConsentRequired
            | Code::InvalidEmail
            | Code::PayloadTooLarge
            | Code::InvalidDept
            | Code::InvalidValueType
            | Code::RequestIncomplete
            | Code::InvalidRequest => "invalid_request_error",
        }
    }
}

/// An error, what to say of it, and the member that it is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Refusal {
    pub(super) code: Code,
    pub(super) message: String,
    pub(super) param: Option<String>,
}

impl Refusal {
    /// About the request as a whole.
    pub(super) fn new(code: Code, message: impl Into<String>) -> Refusal {
        Refusal { code, message: message.into(), param: None }
    }

    /// About one member, named as `fields.email`.
    pub(super) fn of(code: Code, param: impl Into<String>, message: impl Into<String>) -> Refusal {
        Refusal { code, message: message.into(), param: Some(param.into()) }
    }

    /// As a response. It has no `request_id` yet: [`name_request`] adds it to whatever is answered.
    pub(super) fn response(&self) -> Response<Bytes> {
        let mut error = json!({ "type": self.code.family(), "code": self.code.text(), "message": self.message });
        if let Some(param) = &self.param {
            error["param"] = Value::from(param.as_str());
        }
        api::json(self.code.status(), &json!({ "error": error }))
    }
}

/// An error that no handler made, with exactly this status.
pub(super) fn trouble(status: StatusCode) -> Response<Bytes> {
    let (code, message) = match status {
        StatusCode::NOT_FOUND => (Code::RouteNotFound, "There is no such path."),
        StatusCode::METHOD_NOT_ALLOWED => {
            (Code::MethodNotAllowed, "This path has no such method. Allow names those that it has.")
        }
        StatusCode::REQUEST_TIMEOUT => {
            (Code::RequestIncomplete, "The content did not arrive in time. Nothing was recorded.")
        }
        StatusCode::PAYLOAD_TOO_LARGE => (Code::PayloadTooLarge, "The content is too large. Nothing was recorded."),
        StatusCode::TOO_MANY_REQUESTS => {
            (Code::RateLimited, "Too many requests. Repeat this one, with the same Idempotency-Key, later.")
        }
        StatusCode::SERVICE_UNAVAILABLE => {
            (Code::TemporarilyUnavailable, "This cannot be answered now. Repeat it with the same Idempotency-Key.")
        }
        other if other.is_client_error() => (Code::InvalidRequest, "The request was refused."),
        _ => (Code::ServerError, "Something went wrong here. Repeat the request with the same Idempotency-Key."),
    };
    let mut response = Refusal::new(code, message).response();
    *response.status_mut() = status;
    if status == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// Puts the request's id into an error (clients quote it to support), whoever made the error.
pub(super) fn name_request(response: &mut Response<Bytes>, request_id: &str) {
    let Ok(mut content) = serde_json::from_slice::<Value>(response.body()) else { return };
    if let Some(error) = content.get_mut("error").and_then(Value::as_object_mut) {
        error.insert("request_id".to_owned(), Value::from(request_id));
        *response.body_mut() = Bytes::from(content.to_string());
    }
}
