//! A delivery that reached some of its people and not the others: it is a dead letter for those it did not reach, and whoever has it is not
//! told again by the next of its throttle's key.

use crate::support::{
    Receiver, Reply, Routes, SOON, TestApp,
    app::MINUTELY,
    routes,
    smtp::{MailServer, through},
    spawn_app, until,
};

/// One in a day for each credential, as in delivery.md.
fn throttled(file: Routes, to: &str) -> Routes {
    let throttle = "throttle: {key: $.data.credential_id, limit: 1, per: 24h}";
    file.rule(&format!("name: expired, match: {{type: credential.expired}}, to: [{to}], {throttle}"))
}

async fn count(app: &TestApp, state: &str) -> usize {
    app.rows(&format!("state={state}")).await.len()
}

async fn come_to(app: &TestApp, wanted: &[(&str, usize)]) {
    let last = std::cell::RefCell::new(String::new());
    let check = async || {
        let mut now = Vec::new();
        for (state, _) in wanted {
            now.push((*state, count(app, state).await));
        }
        *last.borrow_mut() = format!("{now:?}");
        (now == wanted).then_some(())
    };
    until(&format!("deliveries to be {wanted:?}"), SOON, check).await;
}

#[tokio::test]
async fn a_colleague_whose_address_is_gone_does_not_make_forty_mails() {
    let gone = |line: &str, _: usize| line.starts_with("RCPT TO:<gone@").then(|| "550 5.1.1 gone".to_owned());
    let mail = MailServer::answering(gone).await;
    let file = through(routes().interactor(), "mail", &mail, "[gone@example.com, dana@example.com]", "");
    let app = spawn_app(throttled(file, "mail")).await;
    app.takes_many(5).await;
    come_to(&app, &[("dead", 1), ("suppressed", 4), ("pending", 0)]).await;
    // Those that come later find that one went.
    app.takes("evt_later").await;
    come_to(&app, &[("dead", 1), ("suppressed", 5), ("pending", 0)]).await;
    assert_eq!((mail.mails().len(), mail.count("RCPT TO:<gone@")), (1, 1));
}

#[tokio::test]
async fn a_mail_that_reached_nobody_gives_its_place_to_another() {
    let mail =
        MailServer::answering(|line, before| (line.starts_with("RCPT") && before < 2).then(|| "550 5.1.1 gone".to_owned())).await;
    let file = through(routes().interactor(), "mail", &mail, "[kim@example.com, dana@example.com]", "");
    let app = spawn_app(throttled(file, "mail")).await;
    app.takes_many(5).await;
    come_to(&app, &[("dead", 1), ("delivered", 1), ("suppressed", 3)]).await;
}

/// Twilio, which takes what goes to numbers that `taken` names and knows no others.
async fn twilio(taken: &'static [&'static str]) -> Receiver {
    Receiver::answering(move |request, _| {
        let known = taken.iter().any(|number| request.text().contains(&format!("To=whatsapp%3A%2B{number}")));
        match known {
            true => Reply::Full(201, Vec::new(), r#"{"sid":"SM1","status":"queued"}"#.into()),
            false => Reply::Full(400, Vec::new(), r#"{"code":21211,"message":"no such number","status":400}"#.into()),
        }
    })
    .await
}

fn wa(twilio: &Receiver) -> Routes {
    let way = format!("kind: whatsapp, account_sid: AC0123, auth_token: hush, base_url: \"http://{}\"", twilio.addr);
    let to = "from: \"whatsapp:+14155238886\", to: [\"+15550100\", \"+15550101\", \"+15550102\"]";
    routes().interactor().destination("wa", &format!("{way}, {to}, {MINUTELY}"))
}

#[tokio::test]
async fn a_number_that_cannot_be_reached_does_not_make_forty_messages_for_the_others() {
    // Whichever of them is the one that fails: the first keeps the delivery that was split.
    for taken in [&["15550101", "15550102"], &["15550100", "15550102"]] {
        let twilio = twilio(taken).await;
        let app = spawn_app(throttled(wa(&twilio), "wa")).await;
        app.takes_many(5).await;
        come_to(&app, &[("dead", 1), ("delivered", 2), ("suppressed", 4), ("pending", 0)]).await;
        app.takes("evt_later").await;
        come_to(&app, &[("dead", 1), ("delivered", 2), ("suppressed", 5), ("pending", 0)]).await;
    }
}

#[tokio::test]
async fn messages_none_of_which_arrived_give_their_place_to_one() {
    let twilio = twilio(&[]).await;
    let app = spawn_app(throttled(wa(&twilio), "wa")).await;
    app.takes_many(3).await;
    // Each of the three takes the place of the one before, and dies for each number.
    come_to(&app, &[("dead", 9), ("suppressed", 0), ("pending", 0)]).await;
    assert_eq!(twilio.count(), 9);
}
