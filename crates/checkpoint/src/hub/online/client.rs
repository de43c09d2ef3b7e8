//! One request to the hub, with its redirects, its errors and its patience.
//!
//! A token goes to the hub's own address and nowhere else, wherever a redirect leads.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use ureq::http::{Method, Response};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, AsSendBody, Body, SendBody};

use super::address::{host, origin, resolve, without_secrets};
use super::reply::{About, Reply, header, malformed, unreachable};
use crate::error::{Error, Result};
use crate::hub::cache::Cache;
use crate::hub::settings::Settings;
use crate::hub::upload::Content;
use crate::hub::watch::{Progress, Watch};
use crate::hub_error::HubError;

/// The hub, as this machine may use it.
#[derive(Debug, Clone)]
pub struct Hub {
    settings: Arc<Settings>,
    agent: Agent,
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
        content: Content,
        offset: u64,
        bytes: u64,
    },
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
        let sendable = |token: &String| token.bytes().all(|byte| byte.is_ascii_graphic());
        if !settings.token.as_ref().is_none_or(sendable) {
            return Err(HubError::NotAToken.into());
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

    /// Sends `request` and reads the answer, which is JSON.
    pub(super) fn ask_json<T: DeserializeOwned>(
        &self,
        request: &Request,
        about: About,
        watch: Watch,
    ) -> Result<(T, Reply)> {
        let mut tries = 0;
        loop {
            let mut reply = self.ask(request, about, watch)?;
            let again = request.repeatable && tries < self.settings.retries;
            match reply.json() {
                Ok(json) => return Ok((json, reply)),
                // The connection broke in the midst of it.
                Err(Error::Hub(e)) if again && matches!(*e, HubError::Unreachable { .. }) => {}
                Err(error) => return Err(error),
            }
            self.wait(tries, None, watch)?;
            tries += 1;
        }
    }

    /// Sends `request` until an answer comes that does not ask for another try.
    pub(super) fn send(&self, request: &Request, watch: Watch) -> Result<Reply> {
        let mut tries = 0;
        loop {
            watch.check()?;
            let wait = match self.send_once(request, watch) {
                // A busy server did nothing, so that this may be sent again in any case.
                Ok(reply) if reply.is_busy() && tries < self.settings.retries => {
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
        let Some(wait) = reply.asked_wait() else { return Ok(None) };
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
                let location = without_secrets(location);
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
            Payload::Part { content, offset, bytes } => {
                let file = content.open(*offset).map_err(Failed::Here)?;
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
    inner: io::Take<Box<dyn Read + 'a>>,
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
