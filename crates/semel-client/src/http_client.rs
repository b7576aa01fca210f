//! The adapter of reqwest: a service of plain requests that never sends one twice by itself.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;

/// An HTTP client (HTTP/1.1, TLS by rustls with the system's roots) for [`Client`](crate::Client). It follows no
/// redirects, retries nothing and takes no proxy.
#[derive(Clone, Debug)]
pub struct Http(reqwest::Client);

/// What went wrong with a request.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct HttpError(reqwest::Error);

impl Http {
    /// One with its own pool of connections.
    pub fn new() -> Result<Http, HttpError> {
        // Somebody else's choice for the whole process is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .build()
            .map(Http)
            .map_err(HttpError)
    }
}

impl HttpError {
    /// Whether not one byte of the request left: no connection was made, or there was nothing to send.
    pub fn is_not_sent(&self) -> bool {
        self.0.is_connect() || self.0.is_builder()
    }
}

impl tower::Service<http::Request<Bytes>> for Http {
    type Response = http::Response<reqwest::Body>;
    type Error = HttpError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, HttpError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), HttpError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Bytes>) -> Self::Future {
        let client = self.0.clone();
        Box::pin(async move {
            let request = reqwest::Request::try_from(request).map_err(HttpError)?;
            client.execute(request).await.map(Into::into).map_err(HttpError)
        })
    }
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn e30_a_refused_connection_sent_nothing() {
        let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = nobody.local_addr().unwrap();
        drop(nobody);
        let request = http::Request::post(format!("http://{address}/")).body(Bytes::new()).unwrap();
        let error = Http::new().unwrap().oneshot(request).await.map(|_| ()).unwrap_err();
        assert!(error.is_not_sent(), "{error:?}");
    }

    #[tokio::test]
    async fn l02_a_reset_connection_may_have_sent_everything() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let mut sockets = 0;
            loop {
                let Ok((socket, _)) = listener.accept().await else { return sockets };
                drop(socket);
                sockets += 1;
                if sockets == 1 {
                    return sockets;
                }
            }
        });
        let request = http::Request::post(format!("http://{address}/")).body(Bytes::from_static(b"x")).unwrap();
        let error = Http::new().unwrap().oneshot(request).await.map(|_| ()).unwrap_err();
        assert!(!error.is_not_sent(), "{error:?}");
        assert_eq!(server.await.unwrap(), 1);
    }
}
