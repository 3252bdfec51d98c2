//! The listener for people and monitors: metrics, and whether the process lives. Whether it is ready is told besides;
//! nobody should stop it because a backend is away, so liveness is about the process alone.

use crate::plugin::Plugin;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// Connections at once: two monitors and a person.
const CONNECTIONS: usize = 16;
/// Time for a request's head.
const HEAD: Duration = Duration::from_secs(5);
/// Longest life of a connection: a monitor comes back.
const LONGEST: Duration = Duration::from_secs(300);
/// Pause after a failed accept.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, plugin: Arc<Plugin>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Whoever comes when all places are taken waits in the kernel's queue.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "no connection could be taken");
                sleep(PAUSE).await;
                continue;
            }
        };
        let plugin = Arc::clone(&plugin);
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let answer = answer(&plugin, request.method(), request.uri().path());
                async { Ok::<_, Infallible>(answer) }
            });
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_headers(64);
            let connection = http.serve_connection(TokioIo::new(stream), service);
            // A connection that fails is its client's.
            let _ = timeout(LONGEST, connection).await;
            drop(place);
        });
    }
}

fn answer(plugin: &Plugin, method: &Method, path: &str) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let (status, kind, text) = match (method, path) {
        (&Method::GET, "/livez") => (StatusCode::OK, TEXT, "ok\n".to_owned()),
        (&Method::GET, "/readyz") => match plugin.ready() {
            Ok(key_id) => (StatusCode::OK, TEXT, format!("ok {}\n", key_id.hash())),
            Err(refusal) => (StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{refusal}\n")),
        },
        (&Method::GET, "/metrics") => (StatusCode::OK, OPENMETRICS, plugin.metrics().text()),
        (_, "/livez" | "/readyz" | "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, TEXT, "use GET\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, TEXT, "there are /metrics, /livez and /readyz\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
