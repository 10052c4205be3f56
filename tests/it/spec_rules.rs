//! delivery.md, "Two rules, one target".

use serde_json::json;

use crate::support::{Receiver, routes, spawn_app};

#[tokio::test]
async fn two_rules_that_name_one_target_make_one_delivery() {
    let crm = Receiver::ok().await;
    let file = routes()
        .interactor()
        .webhook("crm", &crm)
        .rule("name: first, match: {type: \"credential.*\"}, to: [crm]")
        .rule("name: second, match: {type: \"**\"}, to: [crm, crm]");
    let app = spawn_app(file).await;
    app.takes("evt_1").await;
    let row = app.reaches("", "delivered").await;
    assert_eq!((&row["rule"], crm.count()), (&json!("first"), 1));
    let event = app.all("/api/v1/events").await.remove(0);
    let story = app.data(&format!("/api/v1/events/{}", event["uid"].as_str().unwrap())).await;
    assert_eq!(story["rules"], json!(["first", "second"]), "both matched: {story}");
}

#[tokio::test]
async fn its_template_is_the_first_rules() {
    let n8n = Receiver::ok().await;
    let file = routes()
        .interactor()
        .destination("n8n", &format!("kind: n8n, url: \"{}\"", n8n.url()))
        .rule("name: first, match: {type: \"**\"}, to: [{destination: n8n, template: one}]")
        .rule("name: second, match: {type: \"**\"}, to: [{destination: n8n, template: two}]")
        .section("templates: {one: \"from the first\", two: \"from the second\"}");
    let app = spawn_app(file).await;
    app.takes("evt_1").await;
    assert_eq!(n8n.first().await.json()["message"], "from the first");
    app.reaches("", "delivered").await;
}

#[tokio::test]
async fn its_severity_is_the_highest() {
    for severities in [["info", "critical"], ["critical", "warning"]] {
        let crm = Receiver::ok().await;
        let [first, second] = severities;
        let file = routes()
            .interactor()
            .webhook("crm", &crm)
            .rule(&format!("name: first, match: {{type: \"**\"}}, severity: {first}, to: [crm]"))
            .rule(&format!("name: second, match: {{type: \"**\"}}, severity: {second}, to: [crm]"));
        let app = spawn_app(file).await;
        app.takes("evt_1").await;
        assert_eq!(app.reaches("", "delivered").await["severity"], "critical", "{severities:?}");
    }
}
