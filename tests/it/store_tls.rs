//! `sslmode` of a store's URL against real servers, with certificates made here: what is encrypted, what is trusted, and what is said.

use std::{path::Path, process::Command};

use hookyard::{clock::Clock, secret::Secret, store};

use crate::support::servers::{Server, own};

/// Runs openssl in `folder`.
fn openssl(folder: &Path, arguments: &str) {
    let done = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output();
    let done = done.unwrap_or_else(|error| panic!("openssl is needed (PostgreSQL's packages bring it): {error}"));
    assert!(done.status.success(), "{arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Makes an authority, another, and a certificate of the first for `localhost`.
fn certificates(folder: &Path) {
    let settings = "[req]\ndistinguished_name=name\nprompt=no\n[name]\nCN=hookyard tests\n[ca]\nbasicConstraints=critical,CA:TRUE\n\
        keyUsage=critical,keyCertSign\n[leaf]\nbasicConstraints=critical,CA:FALSE\nsubjectAltName=DNS:localhost\n\
        [own]\nbasicConstraints=CA:TRUE\nsubjectAltName=DNS:localhost\n";
    std::fs::write(folder.join("c.cnf"), settings).unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -config c.cnf";
    for name in ["ca", "other"] {
        openssl(folder, &format!("req -x509 {key} -extensions ca -days 2 -keyout {name}.key -out {name}.pem"));
    }
    openssl(folder, &format!("req -new {key} -keyout server.key -out server.csr"));
    let sign = "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -set_serial 7 -days 2 -extfile c.cnf -extensions leaf";
    openssl(folder, &format!("{sign} -out server.crt"));
}

/// Opens the store there; whether its connections are encrypted, or what is said.
async fn opens(server: &Server, host: &str, query: &str) -> Result<bool, String> {
    let url = Secret::new(format!("postgres://hookyard:hush-hush@{host}:{}/postgres?{query}", server.port));
    let opened = store::open(&url, Path::new(""), Clock::system()).await;
    let store = opened.map_err(|error| {
        let said = error.to_string();
        assert!(!said.contains("hush-hush"), "{said}");
        said
    })?;
    store.ready().await.unwrap();
    let asked = "SELECT bool_and(s.ssl) || '/' || bool_or(s.ssl) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid)
        WHERE a.application_name = 'hookyard'";
    // A socket that nothing encrypts.
    let said = Command::new(crate::support::postgres::program("psql"))
        .args(["-XAtqc", asked, &format!("postgres://watcher@127.0.0.1:{}/postgres", server.port)])
        .output()
        .unwrap();
    store.close().await;
    match String::from_utf8_lossy(&said.stdout).trim() {
        "true/true" => Ok(true),
        "false/false" => Ok(false),
        other => panic!("{other} {}", String::from_utf8_lossy(&said.stderr)),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_sslmode_encrypts_and_trusts_as_it_says() {
    let server = Server::start().await;
    server.asks("CREATE ROLE watcher LOGIN SUPERUSER");
    let folder = server.folder().to_owned();
    certificates(&folder);
    let path = |name: &str| folder.join(name).display().to_string();
    let (ca, other) = (path("ca.pem"), path("other.pem"));

    // A server that knows no TLS.
    assert_eq!(opens(&server, "localhost", "sslmode=disable").await, Ok(false));
    assert_eq!(opens(&server, "localhost", "sslmode=prefer").await, Ok(false));
    for mode in ["require", "verify-ca", "verify-full"] {
        let said = opens(&server, "localhost", &format!("sslmode={mode}&sslrootcert={ca}")).await.unwrap_err();
        assert!(said.contains("cannot be reached") && said.contains("does not support TLS"), "{mode}: {said}");
    }

    // One that knows it.
    own(&folder.join("server.key"));
    own(&folder.join("server.crt"));
    let tls = format!("ssl = on\nssl_cert_file = '{}'\nssl_key_file = '{}'", path("server.crt"), path("server.key"));
    server.with(&tls, None).await;
    assert_eq!(opens(&server, "localhost", "sslmode=disable").await, Ok(false));
    for query in ["", "sslmode=prefer", "sslmode=require"] {
        assert_eq!(opens(&server, "localhost", query).await, Ok(true), "{query}");
    }
    for (query, host) in
        [("verify-ca", "localhost"), ("verify-ca", "127.0.0.1"), ("verify-full", "localhost"), ("require", "127.0.0.1")]
    {
        assert_eq!(opens(&server, host, &format!("sslmode={query}&sslrootcert={ca}")).await, Ok(true), "{query} {host}");
    }
    let said = opens(&server, "127.0.0.1", &format!("sslmode=verify-full&sslrootcert={ca}")).await.unwrap_err();
    assert!(said.contains("certificate") && said.contains("127.0.0.1"), "another name: {said}");
    // As PostgreSQL's own clients do, `require` verifies where authorities are named.
    for mode in ["verify-full", "verify-ca", "require"] {
        let said = opens(&server, "localhost", &format!("sslmode={mode}&sslrootcert={other}")).await.unwrap_err();
        assert!(said.contains("certificate"), "another authority: {mode}: {said}");
    }
    let said = opens(&server, "localhost", "sslmode=verify-full").await.unwrap_err();
    assert!(said.contains("certificate"), "the system's authorities have not signed it: {said}");
    for (file, why) in [("none.pem", "authorities"), ("c.cnf", "authorities")] {
        let said = opens(&server, "localhost", &format!("sslmode=verify-full&sslrootcert={}", path(file))).await.unwrap_err();
        assert!(said.contains(why), "{file}: {said}");
    }

    // One that takes nobody in without.
    let only = "host all watcher 127.0.0.1/32 trust\nhostssl all hookyard 127.0.0.1/32 trust\n";
    server.with("", Some(only)).await;
    let said = opens(&server, "127.0.0.1", "sslmode=disable").await.unwrap_err();
    assert!(said.contains("no pg_hba.conf entry"), "{said}");
    assert_eq!(opens(&server, "127.0.0.1", "sslmode=prefer").await, Ok(true));
}

/// Starts a server that shows the certificate in this file, whose key is `server.key`.
async fn shows(server: &Server, file: &str) {
    let path = |name: &str| server.folder().join(name).display().to_string();
    own(&server.folder().join("server.key"));
    own(&server.folder().join(file));
    let tls = format!("ssl = on\nssl_cert_file = '{}'\nssl_key_file = '{}'", path(file), path("server.key"));
    server.with(&tls, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_as_openssl_makes_them_are_taken_or_it_is_said_what_they_lack() {
    let server = Server::start().await;
    server.asks("CREATE ROLE watcher LOGIN SUPERUSER");
    let folder = server.folder().to_owned();
    certificates(&folder);
    let path = |name: &str| folder.join(name).display().to_string();
    let (ca, other, mine) = (path("ca.pem"), path("other.pem"), path("own.crt"));

    // Signed without a word on extensions.
    openssl(&folder, "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -set_serial 8 -days 2 -out first.crt");
    openssl(&folder, "x509 -in first.crt -noout -text -out first.txt");
    let text = std::fs::read_to_string(folder.join("first.txt")).unwrap();
    assert!(text.contains("Version: 1 "), "this openssl is too new to make one: {text}");
    shows(&server, "first.crt").await;
    for query in ["", "sslmode=prefer", "sslmode=require"] {
        assert_eq!(opens(&server, "localhost", query).await, Ok(true), "{query}");
    }
    for mode in ["require", "verify-ca", "verify-full"] {
        let said = opens(&server, "localhost", &format!("sslmode={mode}&sslrootcert={ca}")).await.unwrap_err();
        assert!(said.contains("version 1") && said.contains("subjectAltName"), "{mode}: {said}");
    }

    // Signed by itself, as an authority.
    let sign = "x509 -req -in server.csr -signkey server.key -set_serial 9 -extfile c.cnf -extensions own";
    openssl(&folder, &format!("{sign} -days 2 -out own.crt"));
    shows(&server, "own.crt").await;
    for (mode, host) in [("require", "127.0.0.1"), ("verify-ca", "127.0.0.1"), ("verify-full", "localhost")] {
        assert_eq!(opens(&server, host, &format!("sslmode={mode}&sslrootcert={mine}")).await, Ok(true), "{mode}");
    }
    let said = opens(&server, "127.0.0.1", &format!("sslmode=verify-full&sslrootcert={mine}")).await.unwrap_err();
    assert!(said.contains("certificate") && said.contains("127.0.0.1"), "another name: {said}");
    for roots in [&ca, &other] {
        let said = opens(&server, "localhost", &format!("sslmode=verify-ca&sslrootcert={roots}")).await.unwrap_err();
        assert!(said.contains("certificate") && said.contains("sslrootcert"), "another's word: {said}");
    }

    // Its time is over.
    openssl(&folder, &format!("{sign} -days -1 -out old.crt"));
    shows(&server, "old.crt").await;
    let said = opens(&server, "localhost", &format!("sslmode=verify-full&sslrootcert={}", path("old.crt"))).await.unwrap_err();
    assert!(said.to_lowercase().contains("expired"), "{said}");
}
