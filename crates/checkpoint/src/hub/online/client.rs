//! One request to the hub, with its redirects, its errors and its patience.
//!
//! A token goes to the hub's own address and nowhere else, wherever a redirect leads.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use ureq::http::{HeaderMap, Method, Response, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, AsSendBody, Body, SendBody};

use crate::error::{Error, Result};
use crate::hub::cache::Cache;
use crate::hub::settings::Settings;
use crate::hub::watch::{Progress, Watch};
use crate::hub_error::HubError;

/// The hub, as this machine may use it.
#[derive(Debug, Clone)]
pub struct Hub {
    settings: Arc<Settings>,
    agent: Agent,
}

/// What a request is about, for its errors.
#[derive(Debug, Clone, Copy)]
pub(super) struct About<'a> {
    pub(super) repo: &'a str,
    pub(super) revision: &'a str,
    pub(super) file: Option<&'a str>,
}

/// A request that can be sent again.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) url: String,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) payload: Payload,
    /// Whether sending it twice does what sending it once does.
    pub(super) repeatable: bool,
}

/// What a request carries.
#[derive(Debug)]
pub(super) enum Payload {
    Nothing,
    Bytes(Vec<u8>),
    /// A part of a file.
    Part {
        path: PathBuf,
        offset: u64,
        bytes: u64,
    },
}

/// An answer, of any status that does not ask for another try.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) response: Response<Body>,
    /// The address that answered.
    pub(super) url: String,
    /// The headers of the hub's own answer, where it redirected to another host.
    pub(super) hub_headers: Option<HeaderMap>,
}

impl Request {
    pub(super) fn get(url: String) -> Self {
        Self {
            method: Method::GET,
            url,
            headers: Vec::new(),
            payload: Payload::Nothing,
            repeatable: true,
        }
    }

    pub(super) fn post_json(url: String, json: &serde_json::Value) -> Self {
        Self {
            method: Method::POST,
            headers: vec![("content-type", "application/json".to_owned())],
            payload: Payload::Bytes(json.to_string().into_bytes()),
            ..Self::get(url)
        }
    }
}

impl Reply {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        header(self.response.headers(), name)
    }

    pub(super) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    pub(super) fn json<T: DeserializeOwned>(&mut self) -> Result<T> {
        const MAX_JSON_BYTES: u64 = 64 << 20;
        let body = self.response.body_mut().with_config().limit(MAX_JSON_BYTES).read_to_vec();
        let body = body.map_err(|e| unreachable(&self.url, e))?;
        serde_json::from_slice(&body).map_err(|e| malformed(&self.url, e.to_string()))
    }
}

impl Hub {
    /// The hub that the environment names.
    pub fn from_env() -> Result<Self> {
        Self::new(Settings::from_env())
    }

    /// The hub that `settings` name.
    pub fn new(settings: Settings) -> Result<Self> {
        if origin(&settings.endpoint).is_none() {
            return Err(HubError::Variable {
                name: "HF_ENDPOINT",
                value: settings.endpoint,
                expected: "an http or https address",
            }
            .into());
        }
        let tls =
            TlsConfig::builder().root_certs(root_certs(settings.certificates.as_deref())?).build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .user_agent(concat!("dus/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_resolve(Some(settings.timeout))
            .timeout_connect(Some(settings.timeout))
            .timeout_per_read(Some(settings.timeout))
            .timeout_per_write(Some(settings.timeout))
            .max_idle_connections_per_host(settings.connections)
            .build();
        Ok(Self { settings: Arc::new(settings), agent: config.new_agent() })
    }

    /// What it was told.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn cache(&self) -> Result<Cache> {
        let dir = self.settings.cache.clone();
        Ok(Cache::new(dir.ok_or(HubError::NoCache)?))
    }

    /// The same hub, asked once: for questions to which the cache knows an answer too.
    pub(super) fn impatient(&self) -> Self {
        let settings = Settings { retries: 0, ..(*self.settings).clone() };
        Self { settings: Arc::new(settings), agent: self.agent.clone() }
    }

    /// An error if nothing may be asked.
    pub(super) fn refuse_offline(&self, what: &str) -> Result<()> {
        if self.settings.offline {
            return Err(HubError::Offline { what: what.to_owned() }.into());
        }
        Ok(())
    }

    /// Sends `request` and insists on success.
    pub(super) fn ask(&self, request: &Request, about: About, watch: Watch) -> Result<Reply> {
        let reply = self.send(request, watch)?;
        if reply.response.status().is_success() {
            Ok(reply)
        } else {
            Err(self.refusal(reply, about))
        }
    }

    /// Sends `request` until an answer comes that does not ask for another try.
    pub(super) fn send(&self, request: &Request, watch: Watch) -> Result<Reply> {
        let mut tries = 0;
        loop {
            watch.check()?;
            let wait = match self.send_once(request, watch) {
                // A busy server did nothing, so that this may be sent again in any case.
                Ok(reply) if is_busy(&reply) && tries < self.settings.retries => {
                    self.asked_wait(&reply)?
                }
                Ok(reply) => return Ok(reply),
                Err(Failed::Here(error)) => return Err(error),
                Err(Failed::OnTheWay { url, error }) => {
                    let enough = if is_absent(&error) { 1 } else { self.settings.retries };
                    if tries >= enough.min(self.settings.retries) || !request.repeatable {
                        return Err(unreachable(&url, error));
                    }
                    None
                }
            };
            self.wait(tries, wait, watch)?;
            tries += 1;
        }
    }

    /// Waits before try `tries + 1`: as long as a server asked for, else longer each time.
    pub(super) fn wait(&self, tries: u32, asked: Option<Duration>, watch: Watch) -> Result<()> {
        const LONGEST_UNASKED: u32 = 8;
        let growing = self.settings.first_wait * 2_u32.pow(tries.min(8)).min(LONGEST_UNASKED);
        let wait = asked.unwrap_or(growing);
        if wait >= Duration::from_secs(1) {
            (watch.progress)(Progress::Waiting(wait));
        }
        sleep(wait, watch)
    }

    /// How long a busy server asks to be left alone, if it says so; an error if that is too long.
    fn asked_wait(&self, reply: &Reply) -> Result<Option<Duration>> {
        let asked = reply.header("retry-after").and_then(|text| text.trim().parse().ok());
        let asked = asked.or_else(|| rate_limit_reset(reply.header("ratelimit")?));
        let Some(wait) = asked.map(Duration::from_secs) else { return Ok(None) };
        if wait > self.settings.longest_wait {
            return Err(HubError::RateLimited { host: host(&reply.url), wait }.into());
        }
        Ok(Some(wait))
    }

    /// Sends `request` and follows where the answer leads.
    fn send_once(&self, request: &Request, watch: Watch) -> Result<Reply, Failed> {
        const MAX_REDIRECTS: usize = 10;
        let mut url = request.url.clone();
        let mut hub_headers = None;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.exchange(request, &url, watch)?;
            let redirects = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            // A request with a payload is sent on only where the server insists on the same request.
            let keeps_payload = matches!(response.status().as_u16(), 307 | 308);
            let follow = redirects && (request.method == Method::GET || keeps_payload);
            let location = header(response.headers(), "location").filter(|_| follow);
            let Some(location) = location else {
                return Ok(Reply { response, url, hub_headers });
            };
            let next = resolve(&url, location).ok_or_else(|| {
                Failed::Here(malformed(&url, format!("a redirect to {location:?}")))
            })?;
            if self.is_hub(&url) && !self.is_hub(&next) {
                hub_headers = Some(response.headers().clone());
            }
            url = next;
        }
        Err(Failed::Here(malformed(&request.url, "redirects without end".to_owned())))
    }

    fn exchange(
        &self,
        request: &Request,
        url: &str,
        watch: Watch,
    ) -> Result<Response<Body>, Failed> {
        let mut builder = ureq::http::Request::builder().method(&request.method).uri(url);
        // What is counted in bytes must arrive as it lies there.
        builder = builder.header("accept-encoding", "identity");
        for (name, value) in &request.headers {
            builder = builder.header(*name, value);
        }
        if let Some(token) = self.settings.token.as_ref().filter(|_| self.is_hub(url)) {
            builder = builder.header("authorization", format!("Bearer {token}"));
        }
        let bad = |e: ureq::http::Error| Failed::Here(malformed(url, e.to_string()));
        let on_the_way = |error| Failed::OnTheWay { url: url.to_owned(), error };
        match &request.payload {
            Payload::Nothing => self.run(builder.body(()).map_err(bad)?).map_err(on_the_way),
            Payload::Bytes(bytes) => {
                self.run(builder.body(&bytes[..]).map_err(bad)?).map_err(on_the_way)
            }
            Payload::Part { path, offset, bytes } => {
                let open = || {
                    let mut file = File::open(path)?;
                    file.seek(SeekFrom::Start(*offset))?;
                    io::Result::Ok(file)
                };
                let file = open().map_err(|e| Failed::Here(Error::io(path, "read", e)))?;
                let mut part = Counted { inner: file.take(*bytes), watch, read: 0 };
                builder = builder.header("content-length", *bytes);
                let body = builder.body(SendBody::from_reader(&mut part)).map_err(bad)?;
                let answer = self.run(body);
                let arrived = answer.as_ref().is_ok_and(|answer| answer.status().is_success());
                if !arrived {
                    (watch.progress)(Progress::Lost(part.read));
                }
                if (watch.is_cancelled)() {
                    return Err(Failed::Here(HubError::Cancelled.into()));
                }
                answer.map_err(on_the_way)
            }
        }
    }

    fn run<S: AsSendBody>(
        &self,
        request: ureq::http::Request<S>,
    ) -> Result<Response<Body>, ureq::Error> {
        // Storing what was sent may take a server longer than finding what was asked for.
        let silence = self.settings.timeout * if request.method() == Method::GET { 1 } else { 6 };
        let configured = self.agent.configure_request(request).timeout_per_read(Some(silence));
        self.agent.run(configured.build())
    }

    /// Whether `url` lies on the hub itself, so that it may see the token.
    pub(super) fn is_hub(&self, url: &str) -> bool {
        origin(url).is_some() && origin(url) == origin(&self.settings.endpoint)
    }

    /// What an answer other than success means.
    pub(super) fn refusal(&self, mut reply: Reply, about: About) -> Error {
        let repo = about.repo.to_owned();
        let with_token = self.settings.token.is_some();
        let code = reply.header("x-error-code").unwrap_or_default().to_owned();
        let message = reason(&mut reply);
        let error = match (reply.status(), &*code) {
            (_, "GatedRepo") => {
                let page = format!("{}/{repo}", self.settings.endpoint);
                HubError::Gated { repo, page, with_token }
            }
            (_, "RevisionNotFound") => {
                HubError::RevisionNotFound { repo, revision: about.revision.to_owned() }
            }
            (_, "EntryNotFound") => HubError::FileNotFound {
                repo,
                revision: about.revision.to_owned(),
                file: about.file.unwrap_or("of that name").to_owned(),
            },
            (_, "RepoNotFound") => HubError::RepoNotFound { repo, with_token },
            (401, _) if message.contains("Invalid credentials") => HubError::BadToken,
            // The hub answers so for what is private, too.
            (401 | 404, _) if self.is_hub(&reply.url) => {
                HubError::RepoNotFound { repo, with_token }
            }
            (403, _) if self.is_hub(&reply.url) => {
                HubError::Forbidden { doing: format!("this to {repo}"), message }
            }
            (status, _) => HubError::Status { url: without_query(&reply.url), status, message },
        };
        error.into()
    }
}

/// Why no answer came.
enum Failed {
    /// For a reason on this machine, or one that another try does not change.
    Here(Error),
    /// Between this machine and the server.
    OnTheWay { url: String, error: ureq::Error },
}

/// A part of a file that tells how much of it was read.
struct Counted<'a> {
    inner: io::Take<File>,
    watch: Watch<'a>,
    read: u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if (self.watch.is_cancelled)() {
            return Err(io::Error::other("cancelled"));
        }
        let read = self.inner.read(buffer)?;
        if read == 0 && self.inner.limit() > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter"));
        }
        self.read += read as u64;
        (self.watch.progress)(Progress::Done(read as u64));
        Ok(read)
    }
}

/// Whether the server would answer otherwise at another time.
fn is_busy(reply: &Reply) -> bool {
    [408, 429, 500, 502, 503, 504].contains(&reply.status())
}

/// Sleeps, unless the caller wants to stop.
fn sleep(time: Duration, watch: Watch) -> Result<()> {
    const STEP: Duration = Duration::from_millis(50);
    let end = Instant::now() + time;
    loop {
        watch.check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(STEP));
    }
}

/// The certificates to trust: those in the file at `path`, else Mozilla's.
fn root_certs(path: Option<&Path>) -> Result<RootCerts> {
    let Some(path) = path else { return Ok(RootCerts::WebPki) };
    let pem = std::fs::read(path).map_err(|e| Error::io(path, "read", e))?;
    let certificates: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(HubError::Variable {
            name: "SSL_CERT_FILE",
            value: path.to_string_lossy().into_owned(),
            expected: "a file of PEM certificates",
        }
        .into());
    }
    Ok(RootCerts::new_with_certs(&certificates))
}

/// Whether no server was there at all, so that trying for long is of no use.
fn is_absent(error: &ureq::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    match error {
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => true,
        ureq::Error::Io(e) => {
            matches!(e.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable)
        }
        _ => false,
    }
}

pub(super) fn unreachable(
    url: &str,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    HubError::Unreachable { host: host(url), source: error.into() }.into()
}

pub(super) fn malformed(url: &str, problem: String) -> Error {
    HubError::Malformed { url: without_query(url), problem }.into()
}

pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The server's reason for a refusal, on one line.
fn reason(reply: &mut Reply) -> String {
    #[derive(serde::Deserialize)]
    struct Said {
        error: String,
    }
    const MAX_BYTES: u64 = 64 << 10;
    let said = reply.header("x-error-message").map(str::to_owned).or_else(|| {
        let body = reply.response.body_mut().with_config().limit(MAX_BYTES).read_to_vec().ok()?;
        serde_json::from_slice::<Said>(&body).ok().map(|said| said.error)
    });
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    said.unwrap_or_default().chars().map(printable).take(300).collect()
}

/// The seconds until more may be asked, of a header such as `"api";r=0;t=55`; `None` while `r` is not 0.
fn rate_limit_reset(text: &str) -> Option<u64> {
    let value = |key: &str| {
        let mut parts = text.split(';').map(str::trim);
        parts.find_map(|part| part.strip_prefix(key)?.parse::<u64>().ok())
    };
    (value("r=")? == 0).then(|| value("t="))?
}

/// The server of a URL, as it stands in an error.
pub(super) fn host(url: &str) -> String {
    let authority =
        url.parse::<Uri>().ok().and_then(|uri| uri.authority().map(ToString::to_string));
    authority.unwrap_or_else(|| url.to_owned())
}

/// Signed addresses carry keys in their query.
fn without_query(url: &str) -> String {
    url.split(['?', '#']).next().unwrap_or(url).to_owned()
}

/// Scheme, host and port.
fn origin(url: &str) -> Option<(String, String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?.to_owned();
    let usual = match &*scheme {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    Some((scheme, uri.host()?.to_ascii_lowercase(), uri.port_u16().unwrap_or(usual)))
}

/// Where `location` leads from `url`.
fn resolve(url: &str, location: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    let absolute = if let Some(rest) = location.strip_prefix("//") {
        format!("{}://{rest}", uri.scheme_str()?)
    } else if location.starts_with('/') {
        format!("{}://{}{location}", uri.scheme_str()?, uri.authority()?)
    } else {
        location.to_owned()
    };
    origin(&absolute).map(|_| absolute)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_to_absolute_addresses() {
        let from = "https://hub.example:8443/a/b?c";
        let check = |location, expected: Option<&str>| {
            assert_eq!(resolve(from, location).as_deref(), expected);
        };
        check("/x?y", Some("https://hub.example:8443/x?y"));
        check("//cdn.example/x", Some("https://cdn.example/x"));
        check("http://cdn.example/x", Some("http://cdn.example/x"));
        check("file:///etc/passwd", None);
        check("x", None);
    }

    #[test]
    fn the_usual_port_is_the_same_origin() {
        assert_eq!(origin("https://Hub.example/x"), origin("https://hub.example:443"));
        assert_ne!(origin("http://hub.example"), origin("https://hub.example"));
        assert_ne!(origin("https://hub.example"), origin("https://hub.example.evil"));
        assert_eq!(host("https://user@hub.example:1/x"), "user@hub.example:1");
    }

    #[test]
    fn rate_limits_say_when_they_end() {
        assert_eq!(rate_limit_reset(r#""api";r=0;t=55"#), Some(55));
        assert_eq!(rate_limit_reset(r#""api"; r=3; t=55"#), None);
        assert_eq!(rate_limit_reset("nonsense"), None);
    }
}
