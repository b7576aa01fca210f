//! How an operation ended, or that nobody knows. There is always one (L18).

use semel_core::retry::Reply;

/// How an operation ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It happened; the API's response.
    Fresh(Reply),
    /// It happened earlier; the API's response to that, replayed (L15).
    Replayed(Reply),
    /// It happened: the resource with this operation's id was seen (L5).
    AlreadyExists(Resource),
    /// It did not happen.
    Rejected(Rejection),
    /// Nobody knows whether it happened. The operation stays open: resume it later, with the same key.
    Unresolved(Unresolved),
}

/// A resource that was seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resource {
    /// Its path at the API.
    pub path: String,
    /// What the API showed.
    pub reply: Reply,
}

/// Why an operation did not happen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejection {
    /// The reason, as a stable word of the judgement tables.
    pub why: String,
    /// The reason, for people.
    pub say: String,
    /// Whether it may be resumed, with the same key and content, once the cause is mended (L4).
    pub resumable: bool,
    /// The API's last answer, if there was any.
    pub reply: Option<Reply>,
}

/// Why nobody knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unresolved {
    /// The reason, as a stable word of the judgement tables.
    pub why: String,
    /// The reason, for people.
    pub say: String,
    /// The API's last answer, if there was any.
    pub reply: Option<Reply>,
}

impl Outcome {
    /// Whether it is proven that it happened.
    pub fn happened(&self) -> bool {
        match self {
            Outcome::Fresh(_) | Outcome::Replayed(_) | Outcome::AlreadyExists(_) => true,
            Outcome::Rejected(_) | Outcome::Unresolved(_) => false,
        }
    }

    /// The API's last answer, if there was any.
    pub fn reply(&self) -> Option<&Reply> {
        match self {
            Outcome::Fresh(reply) | Outcome::Replayed(reply) => Some(reply),
            Outcome::AlreadyExists(resource) => Some(&resource.reply),
            Outcome::Rejected(rejection) => rejection.reply.as_ref(),
            Outcome::Unresolved(unresolved) => unresolved.reply.as_ref(),
        }
    }
}
