//! Configurations of several files: what they say together, and who is blamed for what.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use super::*;

fn env(name: &str) -> Option<String> {
    match name {
        "WORD" => Some("swordfish".into()),
        "CRM_SECRET" => Some("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into()),
        _ => None,
    }
}

/// A folder with these files in it, the first of them `routes.yaml`.
fn folder(main: &str, fragments: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in std::iter::once(&("routes.yaml", main)).chain(fragments) {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

fn load_in(folder: &Path) -> Loaded {
    load(&folder.join("routes.yaml"), &env)
}

fn loaded(main: &str, fragments: &[(&str, &str)]) -> Loaded {
    load_in(folder(main, fragments).path())
}

/// `file:line:col code: message (note)`, one line each.
fn said(folder: &Path, loaded: &Loaded) -> String {
    let strip = |text: &str| text.replace(&format!("{}/", folder.display()), "");
    let line = |it: report::Diagnostic| {
        let more = [it.help.map(|help| format!(" | {help}")), it.note.map(|note| format!(" = {note}"))];
        let path = it.path.map(|path| format!(" [{path}]")).unwrap_or_default();
        let more = more.into_iter().flatten().collect::<String>();
        strip(&format!("{}:{}:{}{path} {}: {}{more}", it.file, it.line, it.col, it.code, it.message))
    };
    report::diagnostics(loaded).into_iter().map(line).collect::<Vec<_>>().join("\n")
}

fn told(main: &str, fragments: &[(&str, &str)]) -> String {
    let folder = folder(main, fragments);
    said(folder.path(), &load_in(folder.path()))
}

const MAIN: &str = "version: 1
include: [routes.d/*.yaml]
contacts: [{namespace: '*', email: ops@x.example}]
sources: {agents: {kind: agent, path: /a, secrets: ['${WORD}']}}
destinations: {ops: {kind: n8n, url: https://n8n.example.com/webhook/x}}
rules:
  - {name: all, match: {source: '*'}, to: [ops]}
  - {name: own, match: {source: hookyard}, to: [ops]}
";

#[test]
fn several_files_are_one_configuration() {
    let sales = "version: 1
sources: {shop: {kind: standard, path: /shop, secrets: ['${CRM_SECRET}']}}
destinations:
  crm: {kind: n8n, url: https://n8n.example.com/webhook/crm}
contacts: [{namespace: acme, email: acme@x.example}]
schedules: {nights: {tz: Europe/Berlin, windows: [{days: mon-sun, from: '22:00', to: '07:00'}]}}
templates: {line: '{{ event.type }}'}
rules: [{name: sales, to: [{destination: crm, template: line}]}]
";
    let billing = "rules: [{name: billing, to: [ops]}]";
    let loaded = loaded(
        MAIN,
        &[("routes.d/20-sales.yaml", sales), ("routes.d/10-billing.yaml", billing), ("routes.d/30.yaml", "# later")],
    );
    assert_eq!(report::text(&loaded, false), "");
    let config = loaded.config.unwrap();
    assert_eq!(config.rules.iter().map(|rule| rule.name.as_str()).collect::<Vec<_>>(), ["all", "own", "billing", "sales"]);
    assert_eq!(config.sources.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["agents", "shop"]);
    assert_eq!(config.destinations.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["ops", "crm"]);
    assert_eq!((config.contacts.list.len(), config.templates.len()), (2, 1));
    let names: Vec<_> = loaded.files.all().map(|(path, _)| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["routes.yaml", "10-billing.yaml", "20-sales.yaml", "30.yaml"]);
    assert_eq!(loaded.includes.len(), 1);
    assert!(loaded.includes[0].ends_with("routes.d/*.yaml"));
    assert!(!loaded.shown.contains("MfKQ"), "a literal secret of a fragment is masked");

    let kept: Vec<File> = loaded.files.all().map(|(path, text)| File { path: path.into(), text: text.into() }).collect();
    let again = parse_kept(kept[0].clone(), kept[1..].to_vec(), &env);
    assert_eq!(again.config.unwrap().hash, config.hash, "and no file is left on disk");
}

#[test]
fn the_hash_tells_fragments_apart() {
    let hash = |fragment: &str| loaded(MAIN, &[("routes.d/a.yaml", fragment)]).config.unwrap().hash;
    assert_ne!(hash("# one"), hash("# two"));
    assert_eq!(hash("# one"), hash("# one"), "wherever they lie");
}

#[test]
fn a_bad_fragment_is_blamed_by_its_own_place_and_names_are_unique_over_files() {
    let a = "destinations:
  ops: {kind: n8n, url: https://n8n.example.com/webhook/y}
rules:
  - name: all
    to: [ops]
  - name: fine
    throtle: {}
    to: [crn]
";
    let b = "sources:
  other: {kind: agent, path: /a, secrets: [hush]}
destinations: {crm: {kind: n8n, url: https://n8n.example.com/webhook/z, renamed_from: ops}}
templates: {t: '{{ x'}
";
    insta::assert_snapshot!(told(MAIN, &[("routes.d/a.yaml", a), ("routes.d/b.yaml", b)]), @r##"
    routes.d/a.yaml:2:3 [destinations.ops] repeated-key: destination `ops` is declared twice = first at routes.yaml:5:16
    routes.d/a.yaml:4:11 [rules[0].name] repeated-name: two rules have the name "all" = first at routes.yaml:7:12
    routes.d/a.yaml:7:5 [rules[1].throtle] unknown-key: rule "fine" has no key `throtle` | did you mean `throttle`? = keys here: cancel_on digest match name severity stop throttle to when
    routes.d/a.yaml:8:10 [rules[1].to[0]] unknown-destination: rule "fine" sends to `crn`, which is not declared | did you mean `crm` (routes.d/b.yaml:3:16)? = declared: crm, ops
    routes.d/b.yaml:2:30 [sources.other.path] repeated-path: sources "agents" and "other" have the same path = first at routes.yaml:4:39
    routes.d/b.yaml:2:44 [sources.other.secrets[0]] literal-secret: this secret stands in the file itself, for whoever reads it | put it in the environment and write ${OTHER_SECRET}, or in a file and write ${file:/run/secrets/other_secret}
    routes.d/b.yaml:3:87 [destinations.crm.renamed_from] bad-rename: `ops` is still declared: only what is gone can be adopted = declared at routes.d/a.yaml:2:3
    routes.d/b.yaml:4:16 [templates.t] bad-template: this template cannot be used: syntax error: unexpected end of input, expected end of variable block
    "##);
    let folder = folder(MAIN, &[("routes.d/a.yaml", a)]);
    let text = report::text(&load_in(folder.path()), false).replace(&format!("{}/", folder.path().display()), "");
    insta::assert_snapshot!(text, @r##"
    error[repeated-key]: destination `ops` is declared twice
     --> routes.d/a.yaml:2:3
      |
    2 |   ops: {kind: n8n, url: https://n8n.example.com/*********}
      |   ^^^
      |
      = note: first at routes.yaml:5:16

    error[repeated-name]: two rules have the name "all"
     --> routes.d/a.yaml:4:11
      |
    4 |   - name: all
      |           ^^^
      |
      = note: first at routes.yaml:7:12

    error[unknown-key]: rule "fine" has no key `throtle`
     --> routes.d/a.yaml:7:5
      |
    7 |     throtle: {}
      |     ^^^^^^^ help: did you mean `throttle`?
      |
      = note: keys here: cancel_on digest match name severity stop throttle to when

    error[unknown-destination]: rule "fine" sends to `crn`, which is not declared
     --> routes.d/a.yaml:8:10
      |
    8 |     to: [crn]
      |          ^^^
      |
      = note: declared: ops

    routes.yaml: 4 errors, 0 warnings
    "##);
}

#[test]
fn a_fragment_that_is_no_yaml_leaves_the_others_to_be_checked() {
    let a = "rules: [{name: x, to: @ops}]\nsecret: hunter2";
    let b = "rules: [{name: y, to: [ops], stop: perhaps}]";
    insta::assert_snapshot!(told(MAIN, &[("routes.d/a.yaml", a), ("routes.d/b.yaml", b)]), @r##"
    routes.d/a.yaml:1:23 bad-yaml: a value cannot begin with `@` | put it in quotes: "@ops"
    routes.d/b.yaml:1:36 bad-type: expected `true` or `false`, found `perhaps`
    "##);
    assert!(!loaded(MAIN, &[("routes.d/a.yaml", a)]).shown.contains("hunter2"));
    let main = MAIN.replace("to: [ops]", "to: [declared-there]");
    assert!(!told(&main, &[("routes.d/a.yaml", a)]).contains("declared-there"), "nobody knows what it declares");
}

#[test]
fn what_is_said_once_for_all_is_said_in_the_main_file() {
    let a = "version: 2
include: [more.yaml]
server: {listen: '0.0.0.0:1'}
store: {url: '${NOT_SET}'}
security: {encryption_key: hunter2}
defaults: {}
unmatched: keep
reconnect_url: x
contacts_file: x
rulez: []
beacons: [x]
rules: {name: x}
sources: [x]
";
    let folder = folder(MAIN, &[("routes.d/a.yaml", a), ("routes.d/b.yaml", "- x")]);
    let loaded = load_in(folder.path());
    insta::assert_snapshot!(said(folder.path(), &loaded), @r##"
    routes.d/a.yaml:1:10 [version] bad-version: this version of Hookyard reads files of `version: 1`
    routes.d/a.yaml:2:1 [include] nested-include: a file that is included includes no others | name all files under `include` of routes.yaml
    routes.d/a.yaml:3:1 [server] misplaced-key: `server` is said once for all, and not in a file that is included | move it to routes.yaml
    routes.d/a.yaml:4:1 [store] misplaced-key: `store` is said once for all, and not in a file that is included | move it to routes.yaml
    routes.d/a.yaml:5:1 [security] misplaced-key: `security` is said once for all, and not in a file that is included | move it to routes.yaml
    routes.d/a.yaml:6:1 [defaults] misplaced-key: `defaults` is said once for all, and not in a file that is included | move it to routes.yaml
    routes.d/a.yaml:7:1 [unmatched] misplaced-key: `unmatched` is said once for all, and not in a file that is included | move it to routes.yaml
    routes.d/a.yaml:8:1 [reconnect_url] misplaced-key: `reconnect_url` is said once for all, and not in a file that is included | move it to routes.yaml
    routes.d/a.yaml:9:1 [contacts_file] misplaced-key: `contacts_file` is said once for all, and not in a file that is included | move it to routes.yaml
    routes.d/a.yaml:10:1 [rulez] unknown-key: a file that is included has no key `rulez` | did you mean `rules`? = keys here: contacts destinations rules schedules sources templates tests version
    routes.d/a.yaml:11:1 [beacons] unknown-key: a file that is included has no key `beacons` = keys here: contacts destinations rules schedules sources templates tests version
    routes.d/a.yaml:12:8 [rules] bad-type: expected `rules` as a list, found a map
    routes.d/a.yaml:13:10 [sources] bad-type: expected `sources` as a map of names, found a list
    routes.d/b.yaml:1:1 bad-type: expected a map of sections, such as `rules: […]`
    "##);
    assert!(!loaded.shown.contains("hunter2"));
}

#[test]
fn patterns_and_names_that_find_nothing_are_told_of() {
    let include = |what: &str| told(&MAIN.replace("[routes.d/*.yaml]", what), &[("teams/a/r.yaml", ""), ("one.yaml", "")]);
    insta::assert_snapshot!(include("[none/*.yaml, teams/*/r.yaml, one.yaml, '*.yaml']"), @"routes.yaml:2:11 [include[0]] no-such-file: there is no file that `none/*.yaml` fits");
    insta::assert_snapshot!(include("[gone.yaml, '**/x.yaml', 7]"), @r##"
    routes.yaml:2:11 [include[0]] no-such-file: there is no file `gone.yaml` | names are read against the folder of routes.yaml
    routes.yaml:2:22 [include[1]] bad-value: `**/x.yaml` names no files | `*` stands for any part of one name, as in routes.d/*.yaml or teams/*/routes.yaml
    routes.yaml:2:35 [include[2]] bad-type: expected text, found a number | put it in quotes: "7"
    "##);
    assert_eq!(include("one.yaml"), "", "one need not be a list");
}

#[test]
fn what_cannot_be_read_is_blamed_on_the_file() {
    let folder = folder(MAIN, &[("routes.d/latin.yaml", "")]);
    let at = |name: &str| folder.path().join("routes.d").join(name);
    fs::write(at("latin.yaml"), b"a: b\nc: \xe9\n").unwrap();
    fs::write(at("large.yaml"), vec![b' '; yaml::FILE_MAX + 1]).unwrap();
    fs::create_dir(at("folder.yaml")).unwrap();
    symlink("/dev/zero", at("device.yaml")).unwrap();
    symlink("nowhere", at("link.yaml")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(at("pipe.yaml")).status().unwrap().success());
    insta::assert_snapshot!(said(folder.path(), &load_in(folder.path())), @r##"
    routes.d/device.yaml:1:1 unreadable-file: routes.d/device.yaml cannot be read: it is a device, not a file
    routes.d/folder.yaml:1:1 unreadable-file: routes.d/folder.yaml cannot be read: it is a folder, not a file
    routes.d/large.yaml:1:1 unreadable-file: the file is larger than 4 MiB | put a part of it into a file of its own, and that under `include`
    routes.d/latin.yaml:2:4 unreadable-file: this is not UTF-8
    routes.d/link.yaml:1:1 unreadable-file: routes.d/link.yaml cannot be read: it is a link to a file that does not exist
    routes.d/pipe.yaml:1:1 unreadable-file: routes.d/pipe.yaml cannot be read: it is a pipe, not a file
    "##);
}

#[test]
fn too_many_or_too_large_files_are_refused_at_the_pattern() {
    let many: Vec<(String, &str)> = (0..=include::FRAGMENTS_MAX).map(|n| (format!("routes.d/{n:04}.yaml"), "")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, text)| (name.as_str(), *text)).collect();
    insta::assert_snapshot!(told(MAIN, &many), @"routes.yaml:2:11 [include[0]] too-large: `include` names more than 256 files, or 16 MiB together");
    let comment = format!("#{}", "x".repeat(yaml::FILE_MAX - 1));
    let large: Vec<(String, &str)> =
        (0..include::TOTAL_MAX / yaml::FILE_MAX).map(|n| (format!("routes.d/{n:04}.yaml"), comment.as_str())).collect();
    let large: Vec<(&str, &str)> = large.iter().map(|(name, text)| (name.as_str(), *text)).collect();
    insta::assert_snapshot!(told(MAIN, &large), @"routes.yaml:2:11 [include[0]] too-large: `include` names more than 256 files, or 16 MiB together");
    let items = format!("rules: [{}]", "{to: []},".repeat(yaml::NODES_MAX / 5));
    insta::assert_snapshot!(told(MAIN, &[("routes.d/a.yaml", &items), ("routes.d/b.yaml", &items)]), @"routes.d/b.yaml:1:479827 too-large: the configuration holds more than 400000 keys and values");
}

#[test]
fn relative_paths_of_a_fragment_are_read_beside_it() {
    let main = format!("{MAIN}server: {{public_url: '${{file:url}}'}}\n");
    let fragment = "sources: {s: {kind: agent, path: /s, secrets: ['${file:keys/s}']}}";
    let folder =
        folder(&main, &[("routes.d/a.yaml", fragment), ("url", "https://r.example.com\n"), ("routes.d/keys/s", "hush\n")]);
    let loaded = load(&folder.path().join("routes.yaml"), &System);
    let problems: Vec<_> = loaded.problems.iter().map(|problem| problem.message.as_str()).collect();
    assert_eq!(problems, ["environment variable WORD is not set"]);
    fs::remove_file(folder.path().join("routes.d/keys/s")).unwrap();
    let said = said(folder.path(), &load(&folder.path().join("routes.yaml"), &System));
    assert!(
        said.contains("routes.d/a.yaml:1:49 [sources.s.secrets[0]] unreadable-file: routes.d/keys/s cannot be read"),
        "{said}"
    );
}

#[test]
fn a_file_that_includes_itself_and_links_to_one_file_count_once() {
    let folder = folder(&MAIN.replace("routes.d/*.yaml", "'*.yaml', a.yaml"), &[("a.yaml", "templates: {t: x}")]);
    symlink("a.yaml", folder.path().join("b.yaml")).unwrap();
    let loaded = load_in(folder.path());
    assert!(loaded.config.is_some(), "{}", report::text(&loaded, false));
    let names: Vec<PathBuf> = loaded.files.all().map(|(path, _)| PathBuf::from(path.file_name().unwrap())).collect();
    assert_eq!(names, [Path::new("routes.yaml"), Path::new("a.yaml")]);
}
