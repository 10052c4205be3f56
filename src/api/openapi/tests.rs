//! The document holds together, and holds what is routed.

use std::{collections::BTreeSet, sync::Arc};

use axum::{body::Body, http::Request};
use serde_json::Value;

use crate::api::{
    scopes::{self, Needs},
    tests::{self, Fake},
};

/// The document that the admin listener answers without a token.
async fn document() -> Value {
    let router = tests::api(Arc::new(Fake::default())).admin();
    let request = Request::builder().uri("/api/openapi.json").body(Body::empty()).unwrap();
    let (status, body) = tests::ask(router, request).await;
    assert_eq!(status, 200, "{body}");
    body
}

/// Path, method and operation of all that is in it.
fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
    let paths = document["paths"].as_object().unwrap().iter();
    paths.flat_map(|(path, item)| item.as_object().unwrap().iter().map(move |(method, it)| (&**path, &**method, it))).collect()
}

#[tokio::test]
async fn every_operation_is_named_sorted_and_explained() {
    let document = document().await;
    assert_eq!(document["openapi"], "3.1.0");
    let tags: BTreeSet<_> = document["tags"].as_array().unwrap().iter().map(|tag| tag["name"].as_str().unwrap()).collect();
    let (mut ids, mut used) = (BTreeSet::new(), BTreeSet::new());
    for (path, method, operation) in operations(&document) {
        let what = format!("{method} {path}");
        assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{what}: its id is taken");
        used.insert(operation["tags"][0].as_str().unwrap());
        let summary = operation["summary"].as_str().unwrap();
        assert!(!summary.is_empty() && !summary.contains('[') && summary.len() < 140, "{what}: {summary}");
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let about = parameter["description"].as_str().unwrap_or_default();
            assert!(!about.is_empty(), "{what}: nothing says what `{}` means (openapi/params.rs)", parameter["name"]);
        }
        let properties = operation.pointer("/requestBody/content/application~1json/schema/properties");
        for (name, property) in properties.and_then(Value::as_object).into_iter().flatten() {
            let about = property["description"].as_str().unwrap_or_default();
            assert!(!about.is_empty(), "{what}: nothing says what `{name}` means (openapi/params.rs)");
        }
        for (status, response) in operation["responses"].as_object().unwrap() {
            assert!(!response["description"].as_str().unwrap().is_empty(), "{what}: {status} is not explained");
        }
    }
    assert_eq!(used, tags, "every tag has an operation, every operation a tag that is explained");
}

#[tokio::test]
async fn every_reference_leads_somewhere_and_everything_is_referred_to() {
    let document = document().await;
    let mut referred = BTreeSet::new();
    references(&document, &mut referred);
    let here: BTreeSet<_> = document["components"]["schemas"]
        .as_object()
        .unwrap()
        .keys()
        .map(|name| format!("#/components/schemas/{name}"))
        .collect();
    assert_eq!(referred.difference(&here).collect::<Vec<_>>(), Vec::<&String>::new(), "leads nowhere");
    assert!(!document.to_string().contains(super::params::OURS), "a schema of ours is still wrapped");
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

/// What the listeners answer, and what is in the document: the same but for what is no part of the API.
#[tokio::test]
async fn the_document_holds_every_route_and_no_other() {
    let api = || tests::api(Arc::new(Fake::default()));
    let public = scopes::tests::routes(&api().public(|| true, axum::Router::new()));
    let mut there: BTreeSet<_> = scopes::tests::routes(&api().admin()).union(&public).cloned().collect();
    assert!(
        there.remove(&("POST".to_owned(), "/callbacks/twilio/{destination}".to_owned())),
        "Twilio's reports are Twilio's affair"
    );
    let document = document().await;
    let told = operations(&document).into_iter().map(|(path, method, _)| (method.to_uppercase(), path.to_owned()));
    assert_eq!(told.collect::<BTreeSet<_>>(), there);
}

#[tokio::test]
async fn what_a_token_must_allow_stands_in_the_document() {
    let document = document().await;
    for (path, method, operation) in operations(&document) {
        let security = operation["security"].as_array().unwrap();
        let needs =
            scopes::ROUTES.iter().find(|(known, template, _)| known.as_str() == method.to_uppercase() && *template == path);
        match needs.unwrap().2 {
            Needs::Nothing => assert!(security.is_empty() && operation["responses"].get("401").is_none(), "{path}"),
            Needs::Scopes(scopes) => {
                let told: Vec<_> = scopes.iter().map(ToString::to_string).collect();
                assert_eq!(security[0]["token"], serde_json::json!(told), "{path}");
                assert!(["401", "403", "503"].iter().all(|status| operation["responses"].get(status).is_some()), "{path}");
            }
        }
    }
}

/// The page at `/api/docs`.
async fn page() -> String {
    let router = tests::api(Arc::new(Fake::default())).admin();
    let request = Request::builder().uri("/api/docs").body(Body::empty()).unwrap();
    let (status, body) = tests::ask(router, request).await;
    assert_eq!(status, 200, "{body}");
    body.as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_page_shows_every_operation_and_every_link_in_it_leads_somewhere() {
    let (document, page) = (document().await, page().await);
    let after = |mark: &str| page.split(mark).skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect::<Vec<_>>();
    let (ids, links) = (after(" id=\""), after("href=\"#"));
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "an id is given twice");
    assert_eq!(links.iter().find(|link| !ids.contains(link)), None, "leads nowhere");
    for (path, method, operation) in operations(&document) {
        assert!(ids.contains(&operation["operationId"].as_str().unwrap().to_owned()), "{method} {path}");
    }
}

#[tokio::test]
async fn the_page_says_how_to_call_it() {
    let page = page().await;
    let example = |id: &str| {
        let operation = page.split(&format!(" id=\"{id}\"")).nth(1).unwrap();
        let (_, curl) = operation.split_once("tabindex=\"0\">").unwrap();
        curl.split("</pre>").next().unwrap().replace("&quot;", "\"").replace("&#39;", "'")
    };
    insta::assert_snapshot!(example("mutes_add"), @r#"
    curl -X POST "$HOOKYARD/api/v1/mutes" \
      -H "Authorization: Bearer $TOKEN" \
      -H 'Content-Type: application/json' \
      -d '{"for":"24h"}'
    "#);
    insta::assert_snapshot!(example("health_alive"), @r#"curl "$HOOKYARD/healthz""#);
    insta::assert_snapshot!(example("deliveries_one"), @r#"
    curl "$HOOKYARD/api/v1/deliveries/dl_00000000000000ab0000000000000007_1" \
      -H "Authorization: Bearer $TOKEN"
    "#);
    insta::assert_snapshot!(example("config_check"), @r#"
    curl -X POST "$HOOKYARD/api/v1/config/check" \
      -H "Authorization: Bearer $TOKEN" \
      -H 'Content-Type: application/yaml' \
      --data-binary @routes.yaml
    "#);
}
