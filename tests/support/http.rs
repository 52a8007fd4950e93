//! HTTP as clients speak it.

use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName};
use reqwest::{Client, Method};
use serde_json::Value;

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Response {
    /// A header's text; empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// A client that follows no redirects and knows no proxy.
#[derive(Debug)]
pub struct Http {
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Http {
    pub fn new() -> Self {
        // Another test of this process may have been first.
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let client = Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(30))
            .build()
            .unwrap();
        Self { runtime, client }
    }

    /// A request that must be answered, whatever the answer.
    pub fn ask(&self, method: Method, url: &str, headers: &[(&str, &str)]) -> Response {
        self.try_ask(method, url, headers)
            .unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    /// A request to somebody who may not be there.
    ///
    /// # Errors
    /// When there is no whole answer.
    pub fn try_ask(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
    ) -> Result<Response, reqwest::Error> {
        let mut request = self.client.request(method, url);
        for (name, value) in headers {
            request = request.header(HeaderName::from_bytes(name.as_bytes()).unwrap(), *value);
        }
        self.runtime.block_on(async {
            let response = request.send().await?;
            Ok(Response {
                status: response.status().as_u16(),
                headers: response.headers().clone(),
                body: response.bytes().await?.into(),
            })
        })
    }

    /// Sends a body as JSON.
    pub fn post(&self, url: &str, body: &str) -> Response {
        let request = self.client.post(url).body(body.to_owned());
        let request = request.header("content-type", "application/json");
        let answered = self.runtime.block_on(async {
            let response = request.send().await?;
            Ok::<_, reqwest::Error>(Response {
                status: response.status().as_u16(),
                headers: response.headers().clone(),
                body: response.bytes().await?.into(),
            })
        });
        answered.unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    pub fn get(&self, url: &str) -> Response {
        self.ask(Method::GET, url, &[])
    }
}

impl Default for Http {
    fn default() -> Self {
        Self::new()
    }
}
