//! The operators' web page, on the admin address under `/console`.
//!
//! Written on the server; every page works without scripts. It shows what [`Operators`] shows, and acts through it, so
//! that it can do nothing that the API under `/v1` cannot, and every act is in the audit log.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use maud::{Markup, html};
use semel::Body;
use tokio::time::timeout;

use super::operators::{Operators, WORDS_CHARS_MAX, token::Token};

mod assets;
mod overview;
mod page;
mod records;
mod routes;
mod search;
mod session;
mod settle;
#[cfg(test)]
mod tests;
mod words;

pub(crate) use self::session::Transport;
use self::{
    page::{Fields, Tone, notice, outside, see, told},
    session::{Asks, Operator, SESSION_IDLE_MAX, Sessions},
};

/// Where it is: this path and all below it.
pub(crate) const CONSOLE_PATH: &str = "/console";

/// The largest form, in bytes: a reply to keep, encoded.
const FORM_BYTES_MAX: usize = 4 << 20;
/// How long an operator's browser may take to send one.
const FORM_READ_MAX: Duration = Duration::from_secs(10);

/// The console of one gateway.
#[derive(Debug)]
pub(crate) struct Console {
    operators: Operators,
    /// Without it nobody can sign in.
    token: Option<Token>,
    transport: Transport,
    sessions: Sessions,
}

/// One request of somebody who is signed in.
#[derive(Clone, Copy)]
struct Asked<'a> {
    head: &'a Parts,
    operator: &'a Operator,
    from: SocketAddr,
}

type Answer = Response<Body>;

impl Console {
    /// For operators who show `token`.
    pub(crate) fn new(operators: Operators, token: Option<Token>, transport: Transport) -> Console {
        Console { operators, token, transport, sessions: Sessions::default() }
    }

    /// Answers a request for [`CONSOLE_PATH`] or something below it.
    pub(crate) async fn answer(&self, request: Request<Incoming>, from: SocketAddr) -> Answer {
        let (head, content) = request.into_parts();
        let answer = self.route(&head, content, from).await;
        page::protect(answer)
    }

    async fn route(&self, head: &Parts, content: Incoming, from: SocketAddr) -> Answer {
        let path = head.uri.path();
        let reads = [Method::GET, Method::HEAD].contains(&head.method);
        if !reads && head.method != Method::POST {
            let mut answer = sorry(StatusCode::METHOD_NOT_ALLOWED, "Only GET, HEAD and POST are answered here.");
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
            return answer;
        }
        if assets::has(path) {
            let asset = assets::answer(path, &head.headers).filter(|_| reads);
            return asset.unwrap_or_else(|| sorry(StatusCode::NOT_FOUND, "There is no such file."));
        }
        let Some(token) = &self.token else { return without_token() };
        if !reads && !is_of_this_page(head) {
            return sorry(StatusCode::FORBIDDEN, "This form was sent by another page, and nothing was done.");
        }
        let now = Instant::now();
        match (path, reads) {
            ("/console/login", true) => return login(StatusCode::OK, destination(&query(head)), None),
            ("/console/login", false) => return self.sign_in(token, head, content, from).await,
            _ => {}
        }
        let asks = if path == overview::NOW_PATH { Asks::ByItself } else { Asks::ForAPage };
        let Some(operator) = self.sessions.find(&head.headers, asks, now) else { return signed_out(head, asks) };
        let asked = Asked { head, operator: &operator, from };
        if reads {
            return self.read(asked).await;
        }
        let fields = match self.fields(content).await {
            Ok(fields) => fields,
            Err((status, words)) => return sorry(status, &words),
        };
        if !operator.form.is(fields.text("form")) {
            let words =
                "This form is of another session, and nothing was done. Go back, load its page again, and repeat.";
            return sorry(StatusCode::FORBIDDEN, words);
        }
        self.act(asked, &fields).await
    }

    async fn read(&self, asked: Asked<'_>) -> Answer {
        let path = asked.head.uri.path();
        match path {
            CONSOLE_PATH => self.overview(asked).await,
            "/console/" => see(CONSOLE_PATH),
            overview::NOW_PATH => told(StatusCode::OK, self.now().await),
            "/console/unknown" => self.unknown(asked).await,
            "/console/search" => self.search_page(asked).await,
            "/console/routes" => self.routes(asked),
            _ => match records::place(path) {
                Some((record, None)) => self.record(asked, record).await,
                Some((record, Some(outcome))) => self.settle_page(asked, record, outcome).await,
                None => sorry(StatusCode::NOT_FOUND, "There is no such page."),
            },
        }
    }

    async fn act(&self, asked: Asked<'_>, fields: &Fields) -> Answer {
        match asked.head.uri.path() {
            "/console/logout" => {
                self.sessions.end(&asked.head.headers);
                let mut answer = see("/console/login");
                set_cookie(&mut answer, &session::no_cookie(self.transport.of(&asked.head.headers)));
                answer
            }
            "/console/search" => self.search(asked, fields).await,
            path => match records::place(path) {
                Some((record, Some(outcome))) => self.settle(asked, record, outcome, fields).await,
                Some((_, None)) | None => sorry(StatusCode::NOT_FOUND, "There is no such form."),
            },
        }
    }

    /// What a form says; or the status and the words of the answer.
    async fn fields(&self, content: Incoming) -> Result<Fields, (StatusCode, String)> {
        let wrong = |status, words: &str| Err((status, format!("{words} Nothing was done.")));
        match timeout(FORM_READ_MAX, Limited::new(content, FORM_BYTES_MAX).collect()).await {
            Ok(Ok(content)) => Fields::read(&content.to_bytes())
                .or_else(|why| wrong(StatusCode::BAD_REQUEST, &format!("This is no form of the console: {why}."))),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                wrong(StatusCode::PAYLOAD_TOO_LARGE, &format!("A form has at most {FORM_BYTES_MAX} bytes."))
            }
            Ok(Err(_broken)) => wrong(StatusCode::BAD_REQUEST, "The form broke off."),
            Err(_elapsed) => wrong(StatusCode::REQUEST_TIMEOUT, "The form took too long."),
        }
    }

    async fn sign_in(&self, token: &Token, head: &Parts, content: Incoming, from: SocketAddr) -> Answer {
        let now = Instant::now();
        // Before the content is read: who guesses costs nothing.
        if let Some(wait) = self.sessions.must_wait(from.ip(), now) {
            let seconds = wait.as_secs() + 1;
            let words = format!("Too many wrong tokens came from your address. Try again in {seconds} seconds.");
            let mut answer = login(StatusCode::TOO_MANY_REQUESTS, CONSOLE_PATH, Some(&words));
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            return answer;
        }
        let fields = match self.fields(content).await {
            Ok(fields) => fields,
            Err((status, words)) => return sorry(status, &words),
        };
        let to = destination(&fields);
        if !token.matches(fields.text("token").as_bytes()) {
            self.sessions.was_wrong(from.ip(), now);
            tracing::warn!(target: "semel::audit", %from, "a wrong token was shown to the console");
            return login(StatusCode::FORBIDDEN, to, Some("That is not the token."));
        }
        let who = fields.text("who");
        if who.is_empty() || who.chars().count() > WORDS_CHARS_MAX || who.chars().any(char::is_control) {
            let words = format!("Say who you are, in 1 to {WORDS_CHARS_MAX} characters: the audit log names you.");
            return login(StatusCode::BAD_REQUEST, to, Some(&words));
        }
        // A session that this browser had is over.
        self.sessions.end(&head.headers);
        let id = self.sessions.begin(who.to_owned(), now);
        tracing::info!(target: "semel::audit", who, %from, "signed in to the console");
        let mut answer = see(to);
        set_cookie(&mut answer, &session::cookie(&id, self.transport.of(&head.headers)));
        answer
    }

    /// A page, with the words that an earlier act left for it.
    fn page(&self, asked: Asked<'_>, status: StatusCode, place: page::Place, title: &str, content: &Markup) -> Answer {
        let left = self.sessions.take_notice(&asked.head.headers);
        let content = html! {
            @if let Some(words) = left { (notice(Tone::Good, &html! { p { (words) } })) }
            (content)
        };
        told(status, page::page(asked.operator, place, title, &content))
    }
}

/// What a page may ask about: the query.
fn query(head: &Parts) -> Fields {
    // A query that no page of the console made asks for nothing.
    Fields::read(head.uri.query().unwrap_or_default().as_bytes()).unwrap_or_default()
}

/// Where to go after signing in: a page of the console.
fn destination(fields: &Fields) -> &str {
    let to = fields.text("to");
    let is_here = to.starts_with("/console/") && to.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if is_here { to } else { CONSOLE_PATH }
}

/// Whether a form comes from a page of the same origin, as far as the browser says (Fetch Metadata). The cookie is
/// `SameSite=Strict`, but the form to sign in needs none.
fn is_of_this_page(head: &Parts) -> bool {
    let site = head.headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    site.is_none_or(|site| [b"same-origin".as_slice(), b"none".as_slice()].contains(&site))
}

fn set_cookie(answer: &mut Answer, cookie: &str) {
    let cookie = HeaderValue::from_str(cookie).expect("a cookie of the console is ASCII without controls");
    answer.headers_mut().insert(header::SET_COOKIE, cookie);
}

/// A page that only says something.
fn sorry(status: StatusCode, words: &str) -> Answer {
    let content = html! {
        h1 { (status.canonical_reason().unwrap_or("Sorry")) }
        p { (words) }
        p { a href=(CONSOLE_PATH) { "To the console" } }
    };
    told(status, outside("Sorry", &content))
}

fn without_token() -> Answer {
    let content = html! {
        h1 { "The console needs a token" }
        p { "This gateway has none, so nobody can sign in, and nothing of its records is shown." }
        p { "Write one to a file that only the gateway may read:" }
        pre { code { "(umask 077; openssl rand -hex 32 > /etc/semel/admin-token)" } }
        p { "Name the file in the gateway's configuration, and start the gateway again:" }
        pre { code { "[gateway]\nadmin_token_file = \"/etc/semel/admin-token\"" } }
    };
    told(StatusCode::FORBIDDEN, outside("No token", &content))
}

fn signed_out(head: &Parts, asks: Asks) -> Answer {
    match asks {
        Asks::ForAPage => {
            let reads = [Method::GET, Method::HEAD].contains(&head.method);
            let wanted = head.uri.path_and_query().map_or(CONSOLE_PATH, |wanted| wanted.as_str());
            let to = if reads { wanted } else { CONSOLE_PATH };
            let to: String = form_urlencoded::byte_serialize(to.as_bytes()).collect();
            see(&format!("/console/login?to={to}"))
        }
        Asks::ByItself => {
            let mut answer = told(StatusCode::UNAUTHORIZED, html! {});
            answer.headers_mut().insert("hx-redirect", HeaderValue::from_static("/console/login"));
            answer
        }
    }
}

fn login(status: StatusCode, to: &str, wrong: Option<&str>) -> Answer {
    let minutes = SESSION_IDLE_MAX.as_secs() / 60;
    let content = html! {
        h1 { "Sign in" }
        @if let Some(words) = wrong { (notice(Tone::Wrong, &html! { p { (words) } })) }
        form class="tall" action="/console/login" method="post" {
            input type="hidden" name="to" value=(to);
            div class="field" {
                label for="token" { "Token of operators" }
                input id="token" name="token" type="password" autocomplete="current-password" required autofocus aria-describedby="token-hint";
                p class="hint" id="token-hint" { "The content of the file that gateway.admin_token_file names." }
            }
            div class="field" {
                label for="who" { "Who you are" }
                input id="who" name="who" autocomplete="username" maxlength=(WORDS_CHARS_MAX) required aria-describedby="who-hint";
                p class="hint" id="who-hint" { "The audit log names you with everything that you do here." }
            }
            div { button { "Sign in" } }
            p class="hint" { "You are signed out after " (minutes) " minutes without a page." }
        }
    };
    told(status, outside("Sign in", &content))
}
