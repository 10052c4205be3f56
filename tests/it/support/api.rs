//! Both listeners of a relay, wherever it runs: what senders post, and what its API answers.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{
    Answer, Request, SOON,
    relay::{TOKEN, client, sample, send},
    until,
};

/// The two listeners of one relay, and a client for them.
pub(crate) struct Api {
    /// Where senders reach it.
    pub(crate) public: SocketAddr,
    /// Where its API is.
    pub(crate) admin: SocketAddr,
    client: reqwest::Client,
}

impl Api {
    /// The relay that listens there.
    pub(crate) fn new(public: SocketAddr, admin: SocketAddr) -> Self {
        Self { public, admin, client: client() }
    }

    /// Sends `request` to the public listener.
    pub(crate) async fn send(&self, request: &Request) -> Answer {
        self.try_send(request).await.unwrap()
    }

    /// Sends `request` to the public listener, which may break off.
    pub(crate) async fn try_send(&self, request: &Request) -> Result<Answer, reqwest::Error> {
        send(&self.client, self.public, request).await
    }

    /// Sends `request`, which must become a new event, and yields the event's id.
    pub(crate) async fn accepts(&self, request: &Request) -> String {
        let answer = self.send(request).await;
        let json = answer.json();
        assert_eq!((answer.status, &json["received"]), (200, &Value::Bool(true)), "{}", answer.text());
        assert!(json.get("duplicate").is_none(), "{json}");
        json["id"].as_str().unwrap().to_owned()
    }

    /// `GET` of the admin listener with the token.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.get_as(path, Some(TOKEN)).await
    }

    /// `GET` of the admin listener with another token, or none.
    pub(crate) async fn get_as(&self, path: &str, token: Option<&str>) -> Answer {
        let mut request = self.client.get(format!("http://{}{path}", self.admin));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        Answer::read(request.send().await.unwrap()).await
    }

    /// `GET` of the public listener.
    pub(crate) async fn get_public(&self, path: &str) -> Answer {
        Answer::read(self.client.get(format!("http://{}{path}", self.public)).send().await.unwrap()).await
    }

    /// `POST` of JSON to the admin listener with the token.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        let request = self.client.post(format!("http://{}{path}", self.admin)).bearer_auth(TOKEN);
        let request = request.header("content-type", "application/json").body(body.to_string());
        Answer::read(request.send().await.unwrap()).await
    }

    /// `method` on the admin listener with this token, and JSON where there is some.
    pub(crate) async fn ask_as(&self, token: &str, method: &str, path: &str, body: Option<&Value>) -> Answer {
        self.ask_at(self.admin, token, method, path, body).await
    }

    /// The same on either listener.
    pub(crate) async fn ask_at(&self, at: SocketAddr, token: &str, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let mut request = self.client.request(method.parse().unwrap(), format!("http://{at}{path}")).bearer_auth(token);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        Answer::read(request.send().await.unwrap()).await
    }

    /// A token with these scopes, bound to these namespaces where there are some.
    pub(crate) async fn token(&self, scopes: &[&str], namespaces: &[&str]) -> String {
        let namespaces = Some(namespaces).filter(|namespaces| !namespaces.is_empty());
        let wanted = json!({"name": "of a test", "scopes": scopes, "namespaces": namespaces});
        self.posts("/api/v1/tokens", &wanted).await["token"].as_str().unwrap().to_owned()
    }

    /// What `POST path` answers under `data`; it must succeed.
    pub(crate) async fn posts(&self, path: &str, body: &Value) -> Value {
        let answer = self.post(path, body).await;
        assert!((200..300).contains(&answer.status), "{path}: {} {}", answer.status, answer.text());
        answer.json()["data"].take()
    }

    /// What `GET path` of the API holds under `data`.
    pub(crate) async fn data(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()["data"].take()
    }

    /// Every row of a list, page by page.
    pub(crate) async fn all(&self, path: &str) -> Vec<Value> {
        let mut rows = Vec::new();
        let mut page = format!("{path}{}limit=500", if path.contains('?') { '&' } else { '?' });
        let first = page.clone();
        loop {
            let answer = self.get(&page).await;
            assert_eq!(answer.status, 200, "{page}: {}", answer.text());
            let mut json = answer.json();
            rows.append(json["data"].as_array_mut().unwrap());
            match json["next"].as_str() {
                Some(next) => page = format!("{first}&after={next}"),
                None => return rows,
            }
        }
    }

    /// The deliveries that fit `query` (`target=crm`), once there are `count` of them, all final.
    pub(crate) async fn settled(&self, query: &str, count: usize) -> Vec<Value> {
        let path = format!("/api/v1/deliveries?{query}");
        let done = |row: &Value| matches!(row["state"].as_str(), Some("delivered" | "dead"));
        until(&format!("{count} deliveries to settle ({query})"), SOON, async || {
            let rows = self.all(&path).await;
            (rows.len() == count && rows.iter().all(done)).then_some(rows)
        })
        .await
    }

    /// `/metrics`.
    pub(crate) async fn metrics(&self) -> String {
        self.get_as("/metrics", None).await.text()
    }

    /// The sum of all samples of metric `name` whose labels have every one of `labels` (`status="success"`).
    pub(crate) async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        sample(&self.metrics().await, name, labels)
    }
}
