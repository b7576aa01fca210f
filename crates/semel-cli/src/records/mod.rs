//! `semel records`: what operators see and do, over the API of the admin address.

use std::{
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use clap::{Args, Subcommand};
use http::{Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Limited};
use semel_client::Http;
use serde_json::{Map, Value, json};
use tokio::time::timeout;
use tower::ServiceExt as _;

use crate::{FAILURE, SUCCESS, config::ConfigError};

mod show;

/// The gateway refused, and changed nothing: no such record, or it may still run, or it is not unknown.
const REFUSED: u8 = 3;

/// How long the gateway may take for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// The largest answer but that of an export, in bytes.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// The largest file with a token, with headers or with a content, in bytes.
const FILE_BYTES_MAX: u64 = 4 << 20;

const CODES: &str = "\
Exit codes:
  0  done
  1  the gateway failed, or is not there; a settle or release may have been done: look again
  2  wrong command line
  3  refused, and nothing was changed: no such record, it may still run, its outcome is known, or it changed";

/// What operators see of records, and what they do about outcomes that nobody knows.
///
/// Asks the admin address of a running gateway (gateway.admin), and shows the token of gateway.admin_token_file.
#[derive(Args)]
#[command(after_help = CODES)]
pub(crate) struct Records {
    #[command(flatten)]
    to: To,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct To {
    /// The admin address of the gateway
    #[arg(long, global = true, value_name = "URL", env = "SEMEL_ADMIN", default_value = "http://127.0.0.1:9090")]
    admin: Uri,
    /// The file with the token of operators: the one that gateway.admin_token_file names
    #[arg(long, global = true, value_name = "FILE", env = "SEMEL_ADMIN_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// JSON, as the gateway says it
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Lists records: where they stand, whose they are, how old they are.
    #[command(
        after_help = "Examples:\n  semel records list --phase unknown\n  semel records list --phase unknown --route /orders --older-than 1h\n  semel records list --json | jq .next          (go on with --after)\n\nThe phase unknown includes what was in flight when its gateway died."
    )]
    List {
        #[command(flatten)]
        filter: Filter,
        /// How many at most, up to 1000
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: u32,
        /// Go on where an earlier list ended
        #[arg(long, value_name = "NEXT")]
        after: Option<String>,
    },
    /// Shows one record, and what the gateway has seen of it since it started.
    #[command(
        after_help = "Examples:\n  semel records show 5f0c..      (64 digits: a record; 32 digits: an exchange, as logs name it)\n  semel records show --method POST --path /orders --headers caller.txt --content order.json\n      as its caller would send it; caller.txt has lines such as  Idempotency-Key: \"7f1c-1\""
    )]
    Show {
        #[command(flatten)]
        which: Which,
    },
    /// Says how an operation ended of which nobody knows.
    ///
    /// Look at the origin first. What is settled as happened is never executed again; what is settled as not happened is
    /// executed by the next retry. It is written to the audit log of the gateway, with who and why.
    #[command(
        after_help = "Examples:\n  semel records settle 5f0c.. --did-not-happen --who Ana --why 'no such order in the books, ticket 17'\n  semel records settle 5f0c.. --happened 201 --who Ana --why 'order 42 is there'\n      a retry is told that it happened, with 201, and that the reply is not kept\n  semel records settle --method POST --path /orders --headers caller.txt --content order.json \\\n      --happened 201 --reply order-42.json --who Ana --why 'order 42 is there'\n      a retry is told this reply: the key, which is in the request, seals it"
    )]
    Settle {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        outcome: Outcome,
        /// The content of the reply that retries are told; needs the request
        #[arg(long, value_name = "FILE", requires = "happened")]
        reply: Option<PathBuf>,
        /// The content type of that reply
        #[arg(long, value_name = "TYPE", requires = "reply", default_value = "application/json")]
        reply_type: String,
        /// Only if the record is as it was shown: its stamp
        #[arg(long, value_name = "STAMP")]
        stamp: Option<String>,
        #[command(flatten)]
        by: By,
    },
    /// Releases a guard, or a slot, whose owner is over.
    #[command(
        after_help = "Example:\n  semel records release --path /ramp/order/4711 --headers caller.txt --who Ana --why 'closed by hand'\n      what a GET of that path by that caller would release, if its response showed it"
    )]
    Release {
        /// The path of a request whose response would show the release
        #[arg(long, value_name = "PATH")]
        path: String,
        /// Its method
        #[arg(long, value_name = "METHOD", default_value = "GET")]
        method: Method,
        /// A file with the headers that tell its caller from others, a line each
        #[arg(long, value_name = "FILE")]
        headers: Option<PathBuf>,
        #[command(flatten)]
        by: By,
    },
    /// Writes all records to standard output, as one JSON object per line: all that operators may see, and nothing else.
    #[command(
        after_help = "Example:\n  semel records export --phase unknown > unknown.ndjson\n\nAn export that breaks off says so, and exits 1."
    )]
    Export {
        #[command(flatten)]
        filter: Filter,
    },
}

#[derive(Args)]
struct Filter {
    /// Where they stand: in-flight, unknown, completed, guard
    #[arg(long, value_name = "PHASE")]
    phase: Option<String>,
    /// Their route, by its path template
    #[arg(long, value_name = "ROUTE")]
    route: Option<String>,
    /// Whose they are: the label of a principal, as lists show it
    #[arg(long, value_name = "LABEL")]
    principal: Option<String>,
    /// Last written longer ago than this, such as 1h
    #[arg(long, value_name = "AGE")]
    older_than: Option<String>,
    /// Last written less long ago than this
    #[arg(long, value_name = "AGE")]
    younger_than: Option<String>,
}

/// Which record: by its name, or by its request.
#[derive(Args)]
struct Which {
    /// The name of a record (64 hexadecimal digits), or of an exchange (32)
    #[arg(value_name = "RECORD", required_unless_present = "path", conflicts_with = "path")]
    name: Option<String>,
    /// The path of the request, as its caller would send it
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// Its method
    #[arg(long, value_name = "METHOD", default_value = "POST", requires = "path")]
    method: Method,
    /// A file with its headers, a line each: the key, the content type, and what tells its caller from others
    #[arg(long, value_name = "FILE", requires = "path")]
    headers: Option<PathBuf>,
    /// A file with its content
    #[arg(long, value_name = "FILE", requires = "path")]
    content: Option<PathBuf>,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Outcome {
    /// It happened, and the origin said, or would have said, this status
    #[arg(long, value_name = "STATUS")]
    happened: Option<u16>,
    /// It did not happen, in no attempt: a retry executes
    #[arg(long)]
    did_not_happen: bool,
}

/// Who acts, and why: for the audit log.
#[derive(Args)]
struct By {
    /// Who you are
    #[arg(long, value_name = "NAME")]
    who: String,
    /// Why: what you have seen, a ticket
    #[arg(long, value_name = "WORDS")]
    why: String,
}

/// Runs it, and says the exit code.
pub(crate) fn run(records: Records) -> anyhow::Result<u8> {
    let Records { to, command } = records;
    let asking = Asking::new(to)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(async {
        let show: fn(&Value) -> String = match &command {
            Command::List { .. } => show::list,
            Command::Show { .. } => show::one,
            Command::Settle { .. } => show::settled,
            Command::Release { .. } => show::released,
            Command::Export { .. } => |_| String::new(),
        };
        let request = match command {
            Command::List { filter, limit, after } => {
                let more = [("limit", Some(limit.to_string())), ("after", after)];
                asking.get(&format!("/v1/records?{}", filter.query(more)))
            }
            Command::Export { filter } => {
                let request = asking.get(&format!("/v1/export?{}", filter.query([])));
                return asking.export(request?).await;
            }
            Command::Show { which } => match which.read()? {
                Named::Record(record) => asking.get(&format!("/v1/records/{record}")),
                Named::Exchange(exchange) => asking.get(&format!("/v1/exchanges/{exchange}")),
                Named::Request(request) => asking.post("/v1/find", &request),
            },
            Command::Settle { which, outcome, reply, reply_type, stamp, by } => {
                if reply.is_some() && which.path.is_none() {
                    let why = "--reply: the key, which is in the request, seals a reply: give --path, --headers and --content";
                    return Err(ConfigError::new(why).into());
                }
                let mut asked = Map::new();
                let (name, which) = match which.read()? {
                    Named::Record(record) => ("record", json!(record)),
                    Named::Exchange(exchange) => ("exchange", json!(exchange)),
                    Named::Request(request) => ("request", request),
                };
                asked.insert(name.to_owned(), which);
                asked.insert("outcome".to_owned(), json!(outcome.as_str()));
                if let Some(status) = outcome.happened {
                    asked.insert("reply".to_owned(), given(status, reply.as_deref(), &reply_type)?);
                }
                if let Some(stamp) = stamp {
                    asked.insert("stamp".to_owned(), json!(stamp));
                }
                asked.insert("who".to_owned(), json!(by.who));
                asked.insert("why".to_owned(), json!(by.why));
                asking.post("/v1/settle", &Value::Object(asked))
            }
            Command::Release { path, method, headers, by: By { who, why } } => {
                let headers = read_headers(headers.as_deref())?;
                let (method, why, who) = (method.as_str(), why.as_str(), who.as_str());
                let asked = json!({ "path": path, "method": method, "headers": headers, "who": who, "why": why });
                asking.post("/v1/release", &asked)
            }
        };
        asking.ask(request?, show).await
    })
}

impl Outcome {
    fn as_str(&self) -> &'static str {
        if self.did_not_happen { "did-not-happen" } else { "happened" }
    }
}

/// The reply that an operator gives.
fn given(status: u16, content: Option<&Path>, content_type: &str) -> anyhow::Result<Value> {
    let Some(path) = content else { return Ok(json!({ "status": status })) };
    let content = read_text(path)?;
    Ok(json!({ "status": status, "headers": { "Content-Type": content_type }, "content": content }))
}

impl Filter {
    fn query<const N: usize>(self, more: [(&str, Option<String>); N]) -> String {
        let Filter { phase, route, principal, older_than, younger_than } = self;
        let own = [
            ("phase", phase),
            ("route", route),
            ("principal", principal),
            ("older_than", older_than),
            ("younger_than", younger_than),
        ];
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (name, value) in own.into_iter().chain(more) {
            if let Some(value) = value {
                query.append_pair(name, &value);
            }
        }
        query.finish()
    }
}

/// What names a record.
enum Named {
    Record(String),
    Exchange(String),
    Request(Value),
}

impl Which {
    fn read(self) -> anyhow::Result<Named> {
        let Which { name, path, method, headers, content } = self;
        if let Some(path) = path {
            let content = content.map_or_else(|| Ok(String::new()), |file| read_text(&file))?;
            let headers = read_headers(headers.as_deref())?;
            let method = method.as_str();
            return Ok(Named::Request(
                json!({ "method": method, "path": path, "headers": headers, "content": content }),
            ));
        }
        let name = name.unwrap_or_default();
        match name.len() {
            64 => Ok(Named::Record(name)),
            32 => Ok(Named::Exchange(name)),
            _ => Err(ConfigError::new(format!(
                "\"{name}\" names nothing: a record has 64 hexadecimal digits, an exchange 32"
            ))
            .into()),
        }
    }
}

/// Header lines of a file, as `{"name": ["value", ..]}`. What is wrong is told by the line's number: the line may hold a
/// credential.
fn read_headers(path: Option<&Path>) -> anyhow::Result<Value> {
    let mut headers = Map::new();
    let Some(path) = path else { return Ok(Value::Object(headers)) };
    for (number, line) in read_text(path)?.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let Some((name, value)) = line.split_once(':') else {
            let why = format!("{}, line {}: write a name, a colon and a value", path.display(), number + 1);
            return Err(ConfigError::new(why).into());
        };
        let lines = headers.entry(name.trim().to_owned()).or_insert_with(|| json!([]));
        lines.as_array_mut().expect("it was made one").push(json!(value.trim()));
    }
    // A header that is there once is the common case, and the only one that a release takes.
    for lines in headers.values_mut() {
        if let Some([line]) = lines.as_array().map(Vec::as_slice) {
            *lines = line.clone();
        }
    }
    Ok(Value::Object(headers))
}

fn read_text(path: &Path) -> anyhow::Result<String> {
    let read = || {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(std::io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes")));
        }
        String::from_utf8(bytes).map_err(std::io::Error::other)
    };
    read().map_err(|error| ConfigError::new(format!("cannot read {}: {error}", path.display())).into())
}

/// Whoever is asked, and how.
struct Asking {
    http: Http,
    admin: String,
    token: String,
    json: bool,
}

impl Asking {
    fn new(to: To) -> anyhow::Result<Asking> {
        let To { admin, token_file, json } = to;
        let Some(file) = token_file else {
            let why =
                "which token? Give --token-file FILE, or SEMEL_ADMIN_TOKEN_FILE: the file of gateway.admin_token_file";
            return Err(ConfigError::new(why).into());
        };
        let token = read_text(&file)?.trim_end().to_owned();
        let has_scheme = matches!(admin.scheme_str(), Some("http" | "https"));
        if !has_scheme || admin.path_and_query().is_some_and(|path| path.as_str() != "/") {
            let why = format!("--admin {admin}: expected an address such as http://127.0.0.1:9090");
            return Err(ConfigError::new(why).into());
        }
        let admin = admin.to_string().trim_end_matches('/').to_owned();
        Ok(Asking { http: Http::new().context("cannot start")?, admin, token, json })
    }

    fn get(&self, path: &str) -> anyhow::Result<Request<Bytes>> {
        self.request(Method::GET, path, Bytes::new())
    }

    fn post(&self, path: &str, content: &Value) -> anyhow::Result<Request<Bytes>> {
        self.request(Method::POST, path, content.to_string().into())
    }

    fn request(&self, method: Method, path: &str, content: Bytes) -> anyhow::Result<Request<Bytes>> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.admin))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .body(content);
        Ok(request.map_err(|error| ConfigError::new(format!("that cannot be asked for: {error}")))?)
    }

    /// Asks, and prints what `show` makes of the answer.
    async fn ask(&self, request: Request<Bytes>, show: fn(&Value) -> String) -> anyhow::Result<u8> {
        let (status, answer) = self.answer(self.send(request).await?).await?;
        if !status.is_success() {
            return Ok(self.refused(status, &answer));
        }
        let text = if self.json {
            answer
        } else {
            show(&serde_json::from_str(&answer).context("that is no answer of semel")?)
        };
        std::io::stdout().write_all(text.as_bytes()).context("cannot write")?;
        Ok(SUCCESS)
    }

    /// Copies an export as it comes.
    async fn export(&self, request: Request<Bytes>) -> anyhow::Result<u8> {
        let response = self.send(request).await?;
        if !response.status().is_success() {
            let (status, answer) = self.answer(response).await?;
            return Ok(self.refused(status, &answer));
        }
        let mut content = response.into_body();
        let mut out = std::io::stdout().lock();
        while let Some(frame) = timeout(ANSWER_MAX, content.frame()).await.context("the export stopped")? {
            if let Ok(data) = frame.context("the export broke off, and is not whole")?.into_data() {
                out.write_all(&data).context("cannot write")?;
            }
        }
        Ok(SUCCESS)
    }

    /// Says why not. What the gateway refuses has changed nothing; of what failed nobody knows.
    fn refused(&self, status: StatusCode, answer: &str) -> u8 {
        let problem: Value = serde_json::from_str(answer).unwrap_or_default();
        if self.json {
            eprintln!("{}", answer.trim_end());
        } else {
            let detail = problem["detail"].as_str().unwrap_or("that is no answer of semel: is it the admin address?");
            eprintln!("semel: {status}: {detail}");
        }
        if status.is_server_error() { FAILURE } else { REFUSED }
    }

    async fn send(&self, request: Request<Bytes>) -> anyhow::Result<Response<impl Content + use<>>> {
        let answered = timeout(ANSWER_MAX, self.http.clone().oneshot(request)).await;
        let answered = answered.with_context(|| format!("{} did not answer within {ANSWER_MAX:?}", self.admin))?;
        answered.with_context(|| format!("cannot ask {}", self.admin))
    }

    async fn answer(&self, response: Response<impl Content>) -> anyhow::Result<(StatusCode, String)> {
        let (parts, content) = response.into_parts();
        let content = timeout(ANSWER_MAX, Limited::new(content, ANSWER_BYTES_MAX).collect()).await;
        let content = content.with_context(|| format!("{} did not answer in time", self.admin))?;
        let content = content.map_err(|error| anyhow!("the answer of {} broke off: {error}", self.admin))?;
        let text = String::from_utf8(content.to_bytes().into()).context("the answer is no text")?;
        Ok((parts.status, text))
    }
}

/// The content of an answer.
trait Content: http_body::Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static> + Unpin {}
impl<B: http_body::Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static> + Unpin> Content for B {}
