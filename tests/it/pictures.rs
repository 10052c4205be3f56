//! The HTML mail as a browser shows it, light and dark. `tests/pictures` makes the pictures in `deploy/pictures`, for people to look at.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use hookyard::{
    envelope::{DeliveryId, Envelope, EventUid},
    render::{MessageScene, Strictness, Templates},
    store::Severity,
};
use serde_json::Value;

use crate::messages::events;

/// Types that are pictured, with the height they take and how grave their rule says they are.
const PICTURED: [(&str, u32, Severity); 2] =
    [("credential.expired", 790, Severity::Info), ("workflow.instance.halted", 1090, Severity::Warning)];
/// Light and dark, as Chromium's `preferredColorScheme` numbers them.
const SCHEMES: [(&str, u8); 2] = [("light", 1), ("dark", 0)];
const WIDTH: u32 = 680;
/// Longest a browser may take for a picture, in seconds.
const PATIENCE: &str = "300";

fn html(event: &Envelope, severity: Severity) -> String {
    let data: Value = serde_json::from_slice(event.data()).unwrap();
    let admin_url = "https://relay-admin.example.com".parse().unwrap();
    let scene = MessageScene {
        event,
        data: &data,
        delivery: DeliveryId { event: EventUid { salt: 0x1f2e_3d4c_5b6a_7988, seq: 3 }, n: 1 },
        attempt: 1,
        severity,
        admin_url: Some(&admin_url),
        reconnect: Some("https://relay.example.com/reconnect/djEuZXZ0XzAwMw.8c1f0a"),
    };
    Templates::new(&[].into(), Strictness::Lenient).message(None, &scene).html
}

/// The browser, where there is one.
pub(crate) fn browser() -> Option<&'static str> {
    for name in ["chromium", "chromium-browser", "google-chrome"] {
        let found = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if found.is_ok_and(|status| status.success()) {
            return Some(name);
        }
    }
    None
}

/// Shows what is at `url` as wide as a mail, and keeps the picture.
pub(crate) fn picture(browser: &str, url: &str, scheme: u8, height: u32, to: &Path) {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new("timeout");
    command
        .args([PATIENCE, browser])
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1"])
        .arg(format!("--blink-settings=preferredColorScheme={scheme}"))
        .arg(format!("--window-size={WIDTH},{height}"))
        .arg(format!("--user-data-dir={}", home.path().display()))
        .arg(format!("--screenshot={}", to.display()))
        .arg(url)
        .env("HOME", home.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let done = command.status().unwrap();
    assert!(done.success(), "{browser}: {done}");
}

#[test]
fn a_browser_shows_the_mail_light_and_dark() {
    let Some(browser) = browser() else {
        println!("skipped: no Chromium here (apt-get install chromium)");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("HOOKYARD_PICTURES");
    for (name, height, severity) in PICTURED {
        let event = events().into_iter().find(|event| event.r#type == name).unwrap();
        let page = folder.path().join(format!("{name}.html"));
        std::fs::write(&page, html(&event, severity)).unwrap();
        let mut shown = Vec::new();
        for (scheme, number) in SCHEMES {
            let to = folder.path().join(format!("{name}-{scheme}.png"));
            picture(browser, &format!("file://{}", page.display()), number, height, &to);
            let png = std::fs::read(&to).unwrap();
            assert_eq!(png.get(..8), Some(&b"\x89PNG\r\n\x1a\n"[..]), "{name} {scheme}");
            let size = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
            assert_eq!((size(16), size(20)), (WIDTH, height), "{name} {scheme}");
            assert!((10_000..100_000).contains(&png.len()), "{name} {scheme}: {} bytes, so it is empty or too busy", png.len());
            if let Some(kept) = &kept {
                std::fs::copy(&to, Path::new(kept).join(to.file_name().unwrap())).unwrap();
            }
            shown.push(png);
        }
        assert_ne!(shown[0], shown[1], "{name} looks the same in the dark");
    }
}
