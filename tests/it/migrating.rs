//! `deploy/migrating.md` and the README's case of polling: every file of theirs can be checked as it stands, and every switch-over is
//! played with their files and commands, whose secrets come from the environment.

use std::{path::Path, process::Command};

use crate::support::{
    Home, Receiver, Relay, Reply, Request, SOON,
    honeyframe::{Honeyframe, TOKEN},
    referee::Server,
    relay::{BINARY, TOKEN as ADMIN, finish},
    routes::OUT,
    signed::{self, HMAC, INTERACTOR},
    until,
};

/// What every file is given that plays here.
const HERE: &str = "\nserver: {listen: \"127.0.0.1:0\", admin_listen: \"127.0.0.1:0\"}\nstore: {url: \"sqlite://hookyard.db\"}\n\
                    security: {allow_targets: [127.0.0.1]}\nsubscriptions: {allow_targets: [127.0.0.1]}\n";
const README_SECRET: &str = "0f9a3c71d2e84b56a7";

/// A block of a page: its language and its text.
type Block = (String, String);

/// The blocks of `page` below `heading`, up to the next one like it.
fn blocks(page: &str, heading: &str) -> Vec<Block> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap();
    let (_, below) = text.split_once(&format!("\n## {heading}\n")).unwrap();
    let below = below.split("\n## ").next().unwrap();
    let fenced = below.split("\n```").skip(1).step_by(2);
    fenced.map(|block| block.split_once('\n').unwrap()).map(|(language, text)| (language.to_owned(), text.to_owned())).collect()
}

fn of(blocks: &[Block], language: &str) -> Vec<String> {
    blocks.iter().filter(|(one, _)| one == language).map(|(_, text)| text.clone()).collect()
}

/// Where what the pages call by name is here, and the environment.
struct Places {
    hosts: Vec<(&'static str, String)>,
    env: Vec<(&'static str, String)>,
}

impl Places {
    fn put(&self, text: &str) -> String {
        self.hosts.iter().fold(text.to_owned(), |text, (name, here)| text.replace(name, here))
    }

    fn file(&self, text: &str) -> String {
        self.put(text) + HERE
    }

    /// Runs the commands of `script` one after the other, as they stand; each must succeed. `serve` runs already.
    async fn run(&self, relay: &Relay, script: &str) -> String {
        let folder = Path::new(BINARY).parent().unwrap().display().to_string();
        let mut said = String::new();
        for line in script.lines().filter(|line| !line.is_empty() && !line.starts_with("hookyard serve")) {
            let line = self.put(line).replace("127.0.0.1:9080", &relay.admin.to_string());
            let mut command = Command::new("sh");
            command.args(["-c", &line]).current_dir(relay.home.path().join("cli"));
            command.env("PATH", format!("{folder}:{}", std::env::var("PATH").unwrap()));
            command.env("HOOKYARD_ADMIN_TOKEN", ADMIN).envs(self.env.iter().cloned());
            let output = finish(command).await;
            let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(output.status.success(), "{line}: {out}{err}");
            said.push_str(&format!("$ {line}\n{out}{err}\n"));
        }
        said
    }

    /// Starts a relay on a file of the pages, in a folder of its own.
    async fn start(&self, file: &str) -> Relay {
        self.start_in(&Home::new(), file).await
    }

    /// The same, where another may have been before.
    async fn start_in(&self, home: &Home, file: &str) -> Relay {
        let file = self.file(file);
        home.write("routes.yaml", &file);
        let mut command = home.command(&["serve", "--config", "routes.yaml"]);
        command.envs(self.env.iter().cloned());
        let relay = Relay::from(home, command).await;
        tell(&relay, &file);
        relay
    }
}

/// Another file in its place.
fn replace(relay: &Relay, file: &str) {
    relay.home.write("routes.yaml", file);
    tell(relay, file);
}

/// Lets the commands find the relay where it listens, which `file` leaves to chance.
fn tell(relay: &Relay, file: &str) {
    let at = |name: &str, addr: &dyn std::fmt::Display| (format!("{name}: \"127.0.0.1:0\""), format!("{name}: \"{addr}\""));
    let [(any_admin, admin), (any, public)] = [at("admin_listen", &relay.admin), at("{listen", &relay.public)];
    let folder = relay.home.path().join("cli");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("routes.yaml"), file.replace(&any_admin, &admin).replace(&any, &public)).unwrap();
}

#[tokio::test]
async fn every_file_of_the_pages_is_good_as_it_stands() {
    let pages = [
        ("deploy/migrating.md", "From polling", 2),
        ("deploy/migrating.md", "From a hand-written Express receiver", 1),
        ("deploy/migrating.md", "From direct n8n webhooks", 1),
        ("README.md", "Polled today, pushed one day", 2),
    ];
    for (page, heading, count) in pages {
        let files = of(&blocks(page, heading), "yaml");
        assert_eq!(files.len(), count, "{heading}");
        for file in files {
            let home = Home::new();
            home.write("routes.yaml", &file);
            let output = home.run(&["check", "--no-secrets"]).await;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{heading}: {said}");
        }
    }
}

/// Step 1's environment: all that the case needs to its end.
fn honeyframes(api: &Receiver, job: &Receiver) -> Places {
    Places {
        hosts: vec![
            ("https://honeyframe.example.com", format!("http://{}", api.addr)),
            ("https://job.example.com/hooks/runs", job.url()),
        ],
        env: vec![("HONEYFRAME_TOKEN", TOKEN.to_owned()), ("HONEYFRAME_SECRET", HMAC.to_owned()), ("JOB_SECRET", OUT.to_owned())],
    }
}

#[tokio::test]
async fn a_start_by_the_other_file_asks_a_last_time_too_and_so_does_one_in_the_middle() {
    let ((honeyframe, api), job) = (Honeyframe::start().await, Receiver::ok().await);
    let mut places = honeyframes(&api, &job);
    let files = of(&blocks("deploy/migrating.md", "From polling"), "yaml");
    // Whoever has not set it before starts again with it.
    let secret = places.env.remove(1);
    let relay = places.start(&files[0]).await;
    api.first().await;
    until("the first round", SOON, async || {
        let row = relay.data("/api/v1/sources").await[0].clone();
        (!row["poll"]["last_success_at"].is_null()).then_some(())
    })
    .await;
    // The file is on disk before: a relay that looks at it does not know the secret, and goes on asking.
    replace(&relay, &places.file(&files[1]));
    let home = relay.home.clone();
    assert!(relay.stop().await.success());
    let just_before = honeyframe.fails(&jiff::Timestamp::now().to_string());
    places.env.push(secret);
    let relay = places.start_in(&home, &files[1]).await;
    assert_eq!(job.first().await.json()["data"], just_before);
    // Killed before the round of what is late, it asks again after the next start; what it asks for is not doubled.
    relay.settled("target=job", 1).await;
    relay.kill();
    let late = honeyframe.fails(&jiff::Timestamp::now().to_string());
    let relay = places.start_in(&home, &files[1]).await;
    assert_eq!(job.wait_for(2).await[1].json()["data"], late);
    let pushed = honeyframe.fails(&jiff::Timestamp::now().to_string());
    for run in [&just_before, &late, &pushed] {
        assert_eq!(relay.send(&Honeyframe::push(run)).await.status, 200);
    }
    assert_eq!(job.wait_for(3).await[2].json()["data"], pushed);
    // Without the token the former file cannot be read: that is told.
    assert!(relay.stop().await.success());
    places.env.retain(|(name, _)| *name != "HONEYFRAME_TOKEN");
    let relay = places.start_in(&home, &files[1]).await;
    until("that to be told", SOON, async || relay.log_text().contains("is not polled a last time").then_some(())).await;
    assert_eq!(job.count(), 3);
}

#[tokio::test]
async fn from_polling_to_the_relay_and_to_being_told() {
    let ((honeyframe, api), job) = (Honeyframe::start().await, Receiver::ok().await);
    let places = honeyframes(&api, &job);
    honeyframe.fails("2026-01-20T11:00:00Z");
    let missed = honeyframe.fails("2026-01-20T12:30:00Z");
    let blocks = blocks("deploy/migrating.md", "From polling");
    let (files, scripts) = (of(&blocks, "yaml"), of(&blocks, "sh"));
    let relay = places.start(&files[0]).await;
    let polled = job.first().await;
    assert_eq!((&polled.json()["data"], &polled.json()["type"]), (&missed, &"recipe.run.failed".into()));
    let said = places.run(&relay, &scripts[0]).await;
    assert!(said.contains("recipe.run.failed") && said.contains("delivered"), "{said}");
    // It pushes before the relay is ready for that, and what failed meanwhile is in the list.
    let run = honeyframe.fails(&jiff::Timestamp::now().to_string());
    assert_eq!(relay.send(&Honeyframe::push(&run)).await.status, 404);
    replace(&relay, &places.file(&files[1]));
    places.run(&relay, &scripts[1]).await;
    assert_eq!(job.wait_for(2).await[1].json()["data"], run);
    let pushed = honeyframe.fails(&jiff::Timestamp::now().to_string());
    assert_eq!(relay.send(&Honeyframe::push(&pushed)).await.status, 200);
    assert_eq!(relay.send(&Honeyframe::push(&run)).await.json()["duplicate"], true);
    let seen = job.wait_for(3).await;
    assert_eq!(seen[2].json()["data"], pushed);
    for request in &seen {
        let at: i64 = request.header("webhook-timestamp").parse().unwrap();
        let expected = signed::standard_item(OUT, request.header("webhook-id"), at, &request.body);
        assert_eq!(request.header("webhook-signature"), expected);
    }
    assert_eq!(seen.len(), 3);
}

#[tokio::test]
async fn the_readmes_case_a_subscriber_is_told_of_what_was_polled_and_of_what_is_pushed() {
    let ((honeyframe, api), job) = (Honeyframe::start().await, Receiver::ok().await);
    let places = honeyframes(&api, &job);
    let blocks = blocks("README.md", "Polled today, pushed one day");
    let (files, scripts) = (of(&blocks, "yaml"), of(&blocks, "sh"));
    let relay = places.start(&files[0]).await;
    let (subscribe, poll) = scripts[0].split_once('\n').unwrap();
    let said = places.run(&relay, subscribe).await;
    assert!(said.contains("\"event_type\":\"recipe.run.failed\"") && said.matches(README_SECRET).count() == 1, "{said}");
    let first = honeyframe.fails(&jiff::Timestamp::now().to_string());
    places.run(&relay, poll).await;
    assert_eq!(job.first().await.json()["data"], first);
    replace(&relay, &places.file(&files[1]));
    places.run(&relay, "hookyard reload").await;
    let second = honeyframe.fails(&jiff::Timestamp::now().to_string());
    for run in [&first, &second] {
        assert_eq!(relay.send(&Honeyframe::push(run)).await.status, 200);
    }
    let seen = job.wait_for(2).await;
    assert_eq!((&seen[1].json()["data"], seen.len()), (&second, 2));
    for request in &seen {
        let signature = format!("sha256={}", signed::hex_mac(README_SECRET, &[&request.body]));
        assert_eq!(request.header("x-honeyframe-signature"), signature);
        assert_eq!(request.json()["type"], "recipe.run.failed");
    }
}

#[tokio::test]
async fn from_express_to_the_relay_before_it() {
    let express = Server::start("seed_express.cjs", "INTERACTOR_WEBHOOK_SECRET", INTERACTOR).await;
    let mut places = Places {
        hosts: vec![("https://app.example.com", format!("http://127.0.0.1:{}", express.port))],
        env: vec![("INTERACTOR_WEBHOOK_SECRET", INTERACTOR.to_owned())],
    };
    let blocks = blocks("deploy/migrating.md", "From a hand-written Express receiver");
    let file = of(&blocks, "yaml")[0].clone();
    let relay = places.start(&file).await;
    let (check, rest) = of(&blocks, "sh")[0]
        .split_once("hookyard deliveries")
        .map(|(a, b)| (a.to_owned(), format!("hookyard deliveries{b}")))
        .unwrap();
    places.run(&relay, &check).await;
    relay.settled("target=app", 1).await;
    let said = places.run(&relay, &rest).await;
    assert!(said.contains("delivered") && !said.contains("dead"), "{said}");
    // The second registration's secret is there after another start.
    let home = relay.home.clone();
    assert!(relay.stop().await.success());
    places.env.push(("INTERACTOR_WEBHOOK_SECRET_RELAY", "whsec_of_the_second_registration".to_owned()));
    let relay = places.start_in(&home, &file).await;
    // Both registrations post to the relay, each with its secret; Express checks the one that it knows.
    relay.accepts(&signed::interactor(signed::event("evt_a"))).await;
    relay.accepts(&signed::interactor_by("whsec_of_the_second_registration", signed::event("evt_b"))).await;
    for row in relay.settled("target=app", 3).await {
        assert_eq!((&row["state"], &row["attempts"]), (&"delivered".into(), &1.into()), "{row}");
    }
}

#[tokio::test]
async fn from_a_sender_that_posts_to_n8n_to_the_relay_between_them() {
    // The workflow is being edited when the first message comes.
    let missing = Reply::Full(404, Vec::new(), r#"{"code":404,"message":"The requested webhook is not registered."}"#.into());
    let n8n = Receiver::start([missing, 200.into()]).await;
    let places = Places {
        hosts: Vec::new(),
        env: vec![
            ("N8N_PATH_SECRET", "p4th".to_owned()),
            ("N8N_WEBHOOK_URL", n8n.url()),
            ("N8N_RELAY_KEY", "relay-key".to_owned()),
        ],
    };
    let blocks = blocks("deploy/migrating.md", "From direct n8n webhooks");
    let relay = places.start(&of(&blocks, "yaml")[0]).await;
    places.run(&relay, &of(&blocks, "sh")[0]).await;
    let seen = n8n.wait_for(2).await;
    let message = br#"{"message": "Customer X just signed up", "metadata": {"customer_id": 42}}"#;
    for request in &seen {
        assert_eq!((request.body.trim_ascii(), request.header("x-relay-key")), (&message[..], "relay-key"));
    }
    assert_eq!(seen[0].header("idempotency-key"), seen[1].header("idempotency-key"));
    until("the message to be delivered", SOON, async || {
        let rows = relay.all("/api/v1/deliveries?target=workflow&state=delivered").await;
        (rows.len() == 1).then_some(())
    })
    .await;
    let another = Request::json("/triggers/n8n/p4th", br#"{"message": "another", "metadata": {}}"#);
    relay.accepts(&another).await;
    assert_eq!(n8n.wait_for(3).await[2].json()["message"], "another");
}
