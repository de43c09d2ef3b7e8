//! Certificates, with a server that other code runs.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use checkpoint::hub::{Hub, Settings, Watch};

use crate::place::{Place, id};

/// Answers everything with 404 and an error of the hub's.
const SERVER: &str = r#"
import http.server, ssl, sys
class Hub(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(404)
        self.send_header("X-Error-Code", "RevisionNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Hub)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
"#;

/// Makes a certificate of `localhost` that signs itself, and its key.
fn certificate(dir: &Path) -> bool {
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
        ])
        .args(["-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .current_dir(dir)
        .output();
    made.is_ok_and(|output| output.status.success())
}

#[test]
fn only_trusted_certificates_are_taken() {
    let place = Place::empty();
    let dir = place.dir.path();
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    if !certificate(dir) {
        println!("skipped: no openssl");
        return;
    }
    let server = Command::new("python3")
        .args(["-c", SERVER])
        .args([&cert, &key])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut server) = server else {
        println!("skipped: no python3");
        return;
    };
    let mut port = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let endpoint = format!("https://localhost:{}", port.trim());
    let ask = |certificates| {
        let settings = Settings { endpoint: endpoint.clone(), certificates, ..place.settings() };
        Hub::new(settings).and_then(|hub| hub.resolve(&id(), Watch::nobody())).unwrap_err()
    };
    let (trusted, stranger) = (ask(Some(cert.clone())), ask(None));
    server.kill().unwrap();
    server.wait().unwrap();

    assert_eq!(trusted.to_string(), "owner/name has no revision main");
    assert!(stranger.to_string().ends_with("cannot be reached"), "{stranger}");
    let source = std::error::Error::source(&stranger).unwrap().to_string();
    assert!(source.contains("certificate"), "{source}");

    fs::write(&cert, "none").unwrap();
    let expected = format!("SSL_CERT_FILE is {cert:?}, which is not a file of PEM certificates");
    assert_eq!(ask(Some(cert)).to_string(), expected);
    let absent = dir.join("absent.pem");
    assert_eq!(
        ask(Some(absent.clone())).to_string(),
        format!("{} cannot be read", absent.display())
    );
}
