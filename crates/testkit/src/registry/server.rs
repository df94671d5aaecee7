//! Listeners, connections, and one request from its head to its answer.

use super::answer::{Answer, End};
use super::connection::{AnswerBody, Control, Cut, Socket};
use super::fault::{Fault, strike};
use super::log::{Listener, Request};
use super::{Shared, routes};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::io;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Accepts until the runtime ends.
pub(crate) async fn serve(listener: TcpListener, which: Listener, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            shared.connections.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let control = Control::default();
            let socket = Socket::new(stream, control.clone());
            match &shared.tls {
                None => connection(socket, which, shared, control).await,
                Some(tls) => {
                    let acceptor = TlsAcceptor::from(Arc::clone(&tls.config));
                    // A client that does not trust the certificate, or does not speak TLS, goes.
                    if let Ok(stream) = acceptor.accept(socket).await {
                        connection(stream, which, shared, control).await;
                    }
                }
            }
        });
    }
}

async fn connection<S>(stream: S, which: Listener, shared: Arc<Shared>, control: Control)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request| {
        let (shared, control) = (Arc::clone(&shared), control.clone());
        async move { answer(which, &shared, request, control).await }
    });
    // An error here is one that a test asked for, or a client that went away.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(
    which: Listener,
    shared: &Shared,
    request: hyper::Request<Incoming>,
    control: Control,
) -> io::Result<Response<AnswerBody>> {
    let (head, body) = request.into_parts();
    let mut request = Request::new(which, &head);
    let at = shared.log(request.clone());
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();

    let mut instead = None;
    let faults = strike(&mut shared.rules.lock().unwrap(), &request, true);
    for fault in faults {
        match fault {
            Fault::Delay(time) => tokio::time::sleep(time).await,
            Fault::Hang => std::future::pending().await,
            Fault::Close => return Err(io::ErrorKind::ConnectionAborted.into()),
            Fault::Reset => {
                control.cut(Cut::Reset);
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            Fault::IgnoreRange => request.headers.retain(|(k, _)| k != "range"),
            Fault::Status { code, headers, body } => instead = Some((code, headers, body)),
            other => panic!("{other:?} does not act before a request is handled"),
        }
    }
    let answer = match instead {
        Some((code, headers, body)) => status(code, headers, body),
        None => handle(shared, &request, body),
    };
    shared.set_status(at, answer.status);
    Ok(respond(answer, &request, control))
}

/// The answer in place of the registry's own.
fn status(code: u16, headers: Vec<(String, String)>, body: Vec<u8>) -> Answer {
    let mut answer = Answer::empty(code);
    if !body.is_empty() {
        answer.set("Content-Length", &body.len().to_string());
        answer.body = body.into();
    }
    answer.headers.extend(headers);
    answer
}

fn handle(shared: &Shared, request: &Request, body: Bytes) -> Answer {
    let mut answer = routes::handle(shared, request, body);
    if (200..300).contains(&answer.status) {
        let faults = strike(&mut shared.rules.lock().unwrap(), request, false);
        faults.into_iter().for_each(|fault| answer.spoil(fault));
    }
    answer
}

fn respond(mut answer: Answer, request: &Request, control: Control) -> Response<AnswerBody> {
    if request.is_method(&Method::HEAD) {
        answer.body = Bytes::new();
        answer.sending.end = End::Finish;
    }
    let mut response = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        response = response.header(name, value);
    }
    response.body(AnswerBody::new(&answer, control, request.sent_counter())).unwrap()
}
