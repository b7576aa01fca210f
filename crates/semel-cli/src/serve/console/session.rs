//! Who is signed in at the console. Sessions live in this process only, and end with it.

use std::{
    collections::HashMap,
    fmt::{self, Write as _},
    net::IpAddr,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, header};
use parking_lot::Mutex;

/// How long a session lives without a page being asked for.
pub(super) const SESSION_IDLE_MAX: Duration = Duration::from_mins(30);
/// How long it lives however busy.
pub(super) const SESSION_LIFE_MAX: Duration = Duration::from_hours(12);
/// Sessions at once; a further one ends the one that has been idle longest.
const SESSIONS_MAX: usize = 64;
/// Wrong tokens from one address within [`WRONG_WITHIN`] before it has to wait.
const WRONG_TOKENS_MAX: u32 = 5;
/// See [`WRONG_TOKENS_MAX`].
const WRONG_WITHIN: Duration = Duration::from_mins(1);
/// Addresses that are remembered for wrong tokens; a further one displaces the oldest.
const ADDRESSES_MAX: usize = 1024;
/// The name of the session's cookie.
const COOKIE: &str = "semel-console";
/// The bytes of a session's id and of its form token.
const SECRET_LEN: usize = 32;

/// The sessions of a console.
#[derive(Default)]
pub(super) struct Sessions {
    // By the digest of the id, whose comparison tells nothing of the id.
    open: Mutex<HashMap<blake3::Hash, Session>>,
    wrong: Mutex<HashMap<IpAddr, Wrong>>,
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sessions(..)")
    }
}

struct Session {
    operator: Operator,
    begun: Instant,
    seen: Instant,
    notice: Option<String>,
}

/// Who asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Operator {
    /// What they call themselves; the audit log's `who` unless they say otherwise.
    pub who: String,
    /// What each of their forms holds, so that no other page can post one.
    pub form: FormToken,
}

/// The mark of forms that a session was given.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct FormToken(String);

impl fmt::Debug for FormToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FormToken(..)")
    }
}

impl FormToken {
    /// For the form.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a form has it, in the same time whatever differs.
    pub(super) fn is(&self, shown: &str) -> bool {
        blake3::hash(shown.as_bytes()) == blake3::hash(self.0.as_bytes())
    }
}

/// Whether a request keeps its session alive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asks {
    /// Somebody asked for a page.
    ForAPage,
    /// A page that may be forgotten in a tab asked by itself.
    ByItself,
}

/// Wrong tokens of one address.
struct Wrong {
    since: Instant,
    count: u32,
}

impl Sessions {
    /// Begins a session; gives the id for its cookie.
    pub(super) fn begin(&self, who: String, now: Instant) -> String {
        let id = secret();
        let operator = Operator { who, form: FormToken(secret()) };
        let mut open = self.open.lock();
        open.retain(|_, session| session.lives(now));
        while open.len() >= SESSIONS_MAX {
            let idlest = open.iter().min_by_key(|(_, session)| session.seen).map(|(id, _)| *id);
            open.remove(&idlest.expect("there is one, since there are many"));
        }
        open.insert(digest(&id), Session { operator, begun: now, seen: now, notice: None });
        id
    }

    /// The operator whose session a request shows.
    pub(super) fn find(&self, headers: &HeaderMap, asks: Asks, now: Instant) -> Option<Operator> {
        let id = shown(headers)?;
        let mut open = self.open.lock();
        let session = open.get_mut(&id)?;
        if !session.lives(now) {
            open.remove(&id);
            return None;
        }
        match asks {
            Asks::ForAPage => session.seen = now,
            Asks::ByItself => {}
        }
        Some(session.operator.clone())
    }

    /// Ends the session that a request shows.
    pub(super) fn end(&self, headers: &HeaderMap) {
        if let Some(id) = shown(headers) {
            self.open.lock().remove(&id);
        }
    }

    /// Leaves words for the next page of a session.
    pub(super) fn leave_notice(&self, headers: &HeaderMap, words: String) {
        let Some(id) = shown(headers) else { return };
        if let Some(session) = self.open.lock().get_mut(&id) {
            session.notice = Some(words);
        }
    }

    /// Takes those words.
    pub(super) fn take_notice(&self, headers: &HeaderMap) -> Option<String> {
        self.open.lock().get_mut(&shown(headers)?)?.notice.take()
    }

    /// How long an address has to wait before it may show a token; `None`: it may now.
    pub(super) fn must_wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let wrong = self.wrong.lock();
        let wrong = wrong.get(&address)?;
        let left = WRONG_WITHIN.saturating_sub(now.saturating_duration_since(wrong.since));
        (wrong.count >= WRONG_TOKENS_MAX && !left.is_zero()).then_some(left)
    }

    /// Notes that an address showed a wrong token.
    pub(super) fn was_wrong(&self, address: IpAddr, now: Instant) {
        let mut all = self.wrong.lock();
        all.retain(|_, wrong| now.saturating_duration_since(wrong.since) < WRONG_WITHIN);
        if all.len() >= ADDRESSES_MAX && !all.contains_key(&address) {
            let oldest = all.iter().min_by_key(|(_, wrong)| wrong.since).map(|(address, _)| *address);
            all.remove(&oldest.expect("there is one, since there are many"));
        }
        all.entry(address).or_insert(Wrong { since: now, count: 0 }).count += 1;
    }
}

impl Session {
    fn lives(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.seen) < SESSION_IDLE_MAX
            && now.saturating_duration_since(self.begun) < SESSION_LIFE_MAX
    }
}

/// Whether cookies are for encrypted connections only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Transport {
    /// The admin address speaks plain HTTP.
    Plain,
    /// It speaks TLS.
    Tls,
}

impl Transport {
    /// As the browser has it: a proxy before the admin address may speak TLS, and then the form's origin says so.
    pub(super) fn of(self, headers: &HeaderMap) -> Transport {
        let origin = headers.get(header::ORIGIN).map_or(b"".as_slice(), HeaderValue::as_bytes);
        if origin.starts_with(b"https://") { Transport::Tls } else { self }
    }
}

/// The `Set-Cookie` that begins a session (RFC 6265 section 4.1).
pub(super) fn cookie(id: &str, transport: Transport) -> String {
    format!("{COOKIE}={id}; {}", attributes(transport))
}

/// The `Set-Cookie` that ends one.
pub(super) fn no_cookie(transport: Transport) -> String {
    format!("{COOKIE}=; Max-Age=0; {}", attributes(transport))
}

fn attributes(transport: Transport) -> &'static str {
    match transport {
        Transport::Plain => "Path=/console; HttpOnly; SameSite=Strict",
        Transport::Tls => "Path=/console; HttpOnly; SameSite=Strict; Secure",
    }
}

/// The digest of the id that a request shows, if it shows one.
fn shown(headers: &HeaderMap) -> Option<blake3::Hash> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut ids = lines.flat_map(|line| line.split(';')).filter_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        (name == COOKIE).then_some(value)
    });
    match (ids.next(), ids.next()) {
        (Some(id), None) => Some(digest(id)),
        // Of two, one was not set here.
        (None | Some(_), _) => None,
    }
}

fn digest(id: &str) -> blake3::Hash {
    blake3::hash(id.as_bytes())
}

fn secret() -> String {
    let mut bytes = [0; SECRET_LEN];
    getrandom::fill(&mut bytes).expect("the kernel has random bytes");
    bytes.iter().fold(String::with_capacity(2 * SECRET_LEN), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(cookies: &[String]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for cookie in cookies {
            headers.append(header::COOKIE, HeaderValue::from_str(cookie).expect("a value"));
        }
        headers
    }

    #[test]
    fn e11_a_session_ends_when_idle_when_old_and_on_request() {
        let sessions = Sessions::default();
        let start = Instant::now();
        let begin = |who: &str| {
            let id = sessions.begin(who.to_owned(), start);
            with(&[format!("other=1; {COOKIE}={id}")])
        };
        let who = |headers: &HeaderMap, asks, at| sessions.find(headers, asks, start + at).map(|found| found.who);
        let second = Duration::from_secs(1);

        let idle = begin("ada");
        assert_eq!(who(&idle, Asks::ForAPage, SESSION_IDLE_MAX.saturating_sub(second)).as_deref(), Some("ada"));
        assert_eq!(
            who(&idle, Asks::ByItself, (SESSION_IDLE_MAX * 2).saturating_sub(second * 2)).as_deref(),
            Some("ada")
        );
        assert_eq!(
            who(&idle, Asks::ForAPage, (SESSION_IDLE_MAX * 2).saturating_sub(second)),
            None,
            "a poll is no sign of life"
        );

        let busy = begin("ada");
        let mut at = Duration::ZERO;
        while at < SESSION_LIFE_MAX {
            assert!(who(&busy, Asks::ForAPage, at).is_some(), "{at:?}");
            at += SESSION_IDLE_MAX / 2;
        }
        assert_eq!(who(&busy, Asks::ForAPage, SESSION_LIFE_MAX), None, "however busy");

        let ended = begin("ada");
        sessions.end(&ended);
        assert_eq!(who(&ended, Asks::ForAPage, Duration::ZERO), None);
    }

    #[test]
    fn e11_only_the_one_cookie_that_was_set_opens_a_session() {
        let sessions = Sessions::default();
        let start = Instant::now();
        let id = sessions.begin("ada".to_owned(), start);
        let finds = |cookies: &[String]| sessions.find(&with(cookies), Asks::ForAPage, start).is_some();
        assert!(finds(&[format!("{COOKIE}={id}")]));
        for wrong in [format!("{COOKIE}={}", &id[1..]), format!("{COOKIE}="), format!("x{COOKIE}={id}"), id.clone()] {
            assert!(!finds(std::slice::from_ref(&wrong)), "{wrong}");
        }
        assert!(!finds(&[]) && !finds(&[format!("{COOKIE}=planted; {COOKIE}={id}")]));
        assert!(!finds(&[format!("{COOKIE}={id}"), format!("{COOKIE}=planted")]));
        let mut headers = HeaderMap::new();
        assert_eq!(Transport::Plain.of(&headers), Transport::Plain);
        for (origin, transport) in [("http://127.0.0.1", Transport::Plain), ("https://semel.example", Transport::Tls)] {
            headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            assert_eq!(Transport::Plain.of(&headers), transport);
        }
        for (transport, secure) in [(Transport::Plain, false), (Transport::Tls, true)] {
            for line in [cookie(&id, transport), no_cookie(transport)] {
                assert!(line.contains("HttpOnly; SameSite=Strict") && line.contains("Path=/console;"), "{line}");
                assert_eq!(line.contains("Secure"), secure, "{line}");
            }
        }
    }

    #[test]
    fn e11_sessions_are_limited_and_the_idlest_goes_first() {
        let sessions = Sessions::default();
        let start = Instant::now();
        let ids: Vec<String> = (0..=SESSIONS_MAX as u64)
            .map(|second| sessions.begin(second.to_string(), start + Duration::from_secs(second)))
            .collect();
        let finds = |id: &String| {
            let headers = with(&[format!("{COOKIE}={id}")]);
            sessions.find(&headers, Asks::ByItself, start + Duration::from_mins(2)).is_some()
        };
        assert_eq!(ids.iter().filter(|id| finds(id)).count(), SESSIONS_MAX);
        assert!(!finds(&ids[0]) && finds(&ids[1]));
    }

    #[test]
    fn e11_who_guesses_tokens_has_to_wait() {
        let sessions = Sessions::default();
        let start = Instant::now();
        let [guesser, other] = [1, 2].map(|last| IpAddr::from([127, 0, 0, last]));
        for _ in 0..WRONG_TOKENS_MAX {
            assert_eq!(sessions.must_wait(guesser, start), None);
            sessions.was_wrong(guesser, start);
        }
        assert_eq!(sessions.must_wait(guesser, start), Some(WRONG_WITHIN));
        assert_eq!(sessions.must_wait(other, start), None);
        assert_eq!(sessions.must_wait(guesser, start + WRONG_WITHIN), None);
        for last in 0..u32::try_from(ADDRESSES_MAX).expect("it fits") {
            sessions.was_wrong(IpAddr::from(last.to_be_bytes()), start + Duration::from_secs(1));
        }
        assert!(sessions.wrong.lock().len() <= ADDRESSES_MAX);
    }

    #[test]
    fn e11_a_form_is_of_one_session() {
        let sessions = Sessions::default();
        let start = Instant::now();
        let tokens = ["ada", "ben"].map(|who| {
            let headers = with(&[format!("{COOKIE}={}", sessions.begin(who.to_owned(), start))]);
            sessions.find(&headers, Asks::ForAPage, start).expect("it has begun").form
        });
        assert!(tokens[0].is(tokens[0].as_str()) && !tokens[0].is(tokens[1].as_str()) && !tokens[0].is(""));
    }
}
