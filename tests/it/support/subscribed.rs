//! Subscriptions, made and changed as the API does, without its HTTP.

use std::sync::Arc;

use data_encoding::BASE64;
use hookyard::{
    access::{Caller, Scope},
    subscriptions::{Created, Dialect, Subscription, Updated, Wanted},
};
use serde_json::{Value, json};

use super::{Received, Receiver, Routes, TestApp, routes, signed::mac};

/// Whether `request` is signed `standard` by `secret`, among others.
pub(crate) fn is_signed_by(request: &Received, secret: &str) -> bool {
    let key = BASE64.decode(secret.trim_start_matches("whsec_").as_bytes()).unwrap();
    let head = format!("{}.{}.", request.header("webhook-id"), request.header("webhook-timestamp"));
    let wanted = format!("v1,{}", BASE64.encode(&mac(&key, &[head.as_bytes(), &request.body])));
    request.header("webhook-signature").split(' ').any(|item| item == wanted)
}

/// A relay that takes Interactor's events and lets subscriptions reach 127.0.0.1.
pub(crate) fn open_routes() -> Routes {
    open_routes_with("")
}

/// The same with more under `subscriptions`.
pub(crate) fn open_routes_with(fields: &str) -> Routes {
    let sep = if fields.is_empty() { "" } else { ", " };
    routes().interactor().section(&format!("subscriptions: {{allow_targets: [127.0.0.1]{sep}{fields}}}"))
}

/// A token's holder, bound to `namespaces` where some are given.
pub(crate) fn token(id: &str, namespaces: &[&str]) -> Caller {
    let bound = (!namespaces.is_empty()).then(|| namespaces.iter().map(ToString::to_string).collect());
    Caller { id: id.to_owned(), name: id.to_owned(), scopes: Scope::Webhooks.into(), namespaces: bound }
}

impl TestApp {
    /// Registers `receiver` for every event, under the token the relay was started with.
    pub(crate) async fn subscribes(&self, receiver: &Receiver) -> Created {
        self.subscribes_as(&Caller::bootstrap(), json!({"url": receiver.url(), "events": ["**"]})).await
    }

    /// Registers what `body` says.
    pub(crate) async fn subscribes_as(&self, caller: &Caller, body: Value) -> Created {
        let wanted = Wanted::read(&body, Dialect::Interactor).unwrap();
        self.handles.subscriptions.create(caller, Dialect::Interactor, wanted).await.unwrap()
    }

    /// Switches one on.
    pub(crate) async fn enables(&self, id: &str) -> Updated {
        self.handles.subscriptions.enable(&Caller::bootstrap(), id, None).await.unwrap()
    }

    /// Switches one off.
    pub(crate) async fn disables(&self, id: &str) -> Arc<Subscription> {
        self.handles.subscriptions.disable(&Caller::bootstrap(), id).await.unwrap().subscription
    }

    /// Deletes one.
    pub(crate) async fn deletes(&self, id: &str) {
        self.handles.subscriptions.delete(&Caller::bootstrap(), id).await.unwrap();
    }

    /// One as it is now.
    pub(crate) fn subscription(&self, id: &str) -> Arc<Subscription> {
        self.handles.subscriptions.get(&Caller::bootstrap(), id).unwrap()
    }
}
