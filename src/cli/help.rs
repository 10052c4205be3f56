//! The command line as a person learns it: verbs in groups, examples, exit statuses, environment. What a verb does stands at the verb.

use clap::{ColorChoice, Command, CommandFactory, FromArgMatches};

use super::{Args, output};

/// A verb's examples, each of which is a line that works.
type Examples = &'static [&'static str];

/// The verbs by what they are for, in the order in which they are met. A verb that is in none stands under the last one.
const GROUPS: [(&str, &[(&str, Examples)]); 4] = [
    (
        "Run",
        &[
            ("demo", &["hookyard demo", "hookyard demo --exit"]),
            (
                "serve",
                &["hookyard serve", "hookyard serve --config /etc/hookyard/routes.yaml --log hookyard::deliver=debug,info"],
            ),
            ("reload", &["hookyard reload"]),
        ],
    ),
    (
        "Check",
        &[
            ("check", &["hookyard check", "hookyard check --json --config routes.yaml", "hookyard check --against 24h"]),
            ("test", &["hookyard test", "hookyard test --junit results.xml"]),
            (
                "explain",
                &[
                    "hookyard explain event.json --expect to=crm,ops-slack",
                    "hookyard explain --type credential.expired --source interactor",
                ],
            ),
            ("schema", &["hookyard schema > routes.schema.json", "hookyard schema --included > routes.d/routes.schema.json"]),
            (
                "sign",
                &[
                    "hookyard sign --source interactor --body event.json",
                    "hookyard sign --scheme standard --secret-env CRM_SECRET --body event.json --curl https://crm.example.com/hooks",
                ],
            ),
            ("doctor", &["hookyard doctor", "hookyard doctor --json --strict"]),
        ],
    ),
    (
        "Look",
        &[
            ("tail", &["hookyard tail", "hookyard tail --target crm --state dead --json"]),
            ("top", &[]),
            (
                "events",
                &["hookyard events --source interactor --since 1h", "hookyard events ev_00000000000000ab0000000000000003"],
            ),
            (
                "deliveries",
                &[
                    "hookyard deliveries --target crm --state pending",
                    "hookyard deliveries dl_00000000000000ab0000000000000003_1",
                ],
            ),
            ("sources", &["hookyard sources", "hookyard sources propose connectors"]),
            ("jobs", &["hookyard jobs", "hookyard jobs cancel job_7"]),
        ],
    ),
    (
        "Act",
        &[
            (
                "send",
                &[
                    "hookyard send --source interactor --sample credential.expired",
                    "hookyard send --source agents --body event.json",
                ],
            ),
            (
                "dead-letters",
                &[
                    "hookyard dead-letters",
                    "hookyard dead-letters retry --target crm --since 24h --dry-run",
                    "hookyard dead-letters resolve dl_00000000000000ab0000000000000003_1 --note \"done by hand\"",
                ],
            ),
            ("rejections", &["hookyard rejections --code invalid_signature", "hookyard rejections retry --source interactor"]),
            ("replay", &["hookyard replay --source interactor --since 2h --target crm --dry-run"]),
            ("erase", &["hookyard erase --subject cust_42 --dry-run", "hookyard erase --subject cust_42 --yes"]),
            ("target", &["hookyard target", "hookyard target test crm --event credential.expired", "hookyard target pause crm"]),
            ("mute", &["hookyard mute add --target ops-slack --for 2h --reason \"move of the CRM\""]),
            (
                "token",
                &["hookyard token create --name zapier --scopes webhooks,events:read --namespace user_123 --expires-in 90d"],
            ),
            ("secrets", &["hookyard secrets rekey"]),
            (
                "store",
                &[
                    "hookyard store copy --to 'postgres://hookyard:${PGPASSWORD}@db.example.com/hookyard?sslmode=verify-full'",
                    "hookyard store copy --from postgres://hookyard@localhost/hookyard --to sqlite://hookyard.db",
                ],
            ),
            (
                "completions",
                &["hookyard completions bash > /etc/bash_completion.d/hookyard", "hookyard completions fish | source"],
            ),
        ],
    ),
];

/// What follows the options of the whole command line.
const LEARN: &str = "\
Begin with:
  hookyard demo                    every event on its way, with nothing but this binary
  hookyard check                   every mistake of routes.yaml, with its line
  hookyard serve                   the relay itself
  hookyard help <verb>             what a verb does, with examples

Exit status:
  0  good
  1  the thing asked about is bad: the file, a test, a delivery
  2  wrong usage
  3  the relay or its store cannot be reached

Environment:
  HOOKYARD_CONFIG          the configuration, for --config
  HOOKYARD_URL             the admin listener of the relay that is asked, for --url
  HOOKYARD_ADMIN_TOKEN     the token that the relay takes, and that verbs ask it with
  HOOKYARD_ENCRYPTION_KEY  seals what is kept secret, where the file does not say: 32 bytes in base64
  HOOKYARD_LOG             which logs are written, for --log
  NO_COLOR                 no colours; there are none either where the output is no terminal";

/// The arguments of this process; wrong usage ends it here, with 2.
pub(super) fn parse() -> Args {
    let matches = command().get_matches();
    Args::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// The whole command line.
pub(super) fn command() -> Command {
    let colour = if output::coloured() && output::note_coloured() { ColorChoice::Auto } else { ColorChoice::Never };
    let command = Args::command().color(colour);
    let verbs = groups(&command);
    let command = GROUPS.iter().flat_map(|(_, verbs)| verbs.iter()).fold(command, with_examples);
    let template = format!("{{about}}\n\n{{usage-heading}} {{usage}}\n\n{verbs}\nOptions:\n{{options}}\n\n{LEARN}\n");
    command.help_template(template)
}

fn with_examples(command: Command, (verb, examples): &(&'static str, Examples)) -> Command {
    if examples.is_empty() || command.find_subcommand(verb).is_none() {
        return command;
    }
    let text = format!("Examples:\n  {}", examples.join("\n  "));
    command.mut_subcommand(verb, |it| it.after_help(text))
}

/// The verbs that there are, each with its sentence.
fn groups(command: &Command) -> String {
    let verbs: Vec<(&str, String)> = command
        .get_subcommands()
        .map(|it| (it.get_name(), it.get_about().map(ToString::to_string).unwrap_or_default()))
        .collect();
    let width = verbs.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let mut out = String::new();
    for (title, listed) in GROUPS {
        out.push_str(&format!("{title}:\n"));
        for (name, about) in listed.iter().filter_map(|(name, _)| verbs.iter().find(|(verb, _)| verb == name)) {
            out.push_str(&format!("  {name:width$}  {}\n", about.trim_end_matches('.')));
        }
        out.push('\n');
    }
    out.truncate(out.trim_end().len());
    for (name, about) in
        verbs.iter().filter(|(name, _)| !GROUPS.iter().any(|(_, listed)| listed.iter().any(|(it, _)| it == name)))
    {
        out.push_str(&format!("\n  {name:width$}  {}", about.trim_end_matches('.')));
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    #[test]
    fn the_whole_help() {
        insta::assert_snapshot!(command().render_long_help().to_string());
    }

    #[test]
    fn every_verb_has_its_sentence_and_its_group() {
        let command = command();
        let grouped = |name| GROUPS.iter().any(|(_, listed)| listed.iter().any(|(it, _)| *it == name));
        for verb in command.get_subcommands() {
            assert!(verb.get_about().is_some(), "{} has no sentence", verb.get_name());
            assert!(grouped(verb.get_name()), "{} is in no group of GROUPS", verb.get_name());
        }
    }

    #[test]
    fn every_verb_that_prints_data_can_print_json_and_takes_the_file() {
        for verb in command().get_subcommands() {
            let has = |name: &str| verb.get_arguments().any(|it| it.get_long() == Some(name));
            let name = verb.get_name();
            assert!(has("json") || ["serve", "schema", "completions"].contains(&name), "{name} has no --json");
            assert!(has("config") || ["demo", "schema", "completions"].contains(&name), "{name} has no --config");
        }
    }

    #[test]
    fn every_example_works() {
        let mut seen = 0;
        for example in GROUPS.iter().flat_map(|(_, verbs)| verbs.iter()).flat_map(|(_, examples)| examples.iter()) {
            let line = example.split([">", "|"].map(|c| c.chars().next().unwrap())).next().unwrap();
            let parsed = command().try_get_matches_from(words(line));
            match parsed {
                Ok(_) => seen += 1,
                // A verb that is not there yet.
                Err(error) if error.kind() == ErrorKind::InvalidSubcommand => {}
                Err(error) => panic!("{example}: {error}"),
            }
        }
        assert!(20 < seen, "{seen}");
    }

    /// A line as a shell takes it apart, as far as the examples go.
    fn words(line: &str) -> Vec<String> {
        let parts = line.split('"').enumerate();
        parts
            .flat_map(|(at, part)| match at % 2 {
                0 => part.split_whitespace().map(str::to_owned).collect(),
                _ => vec![part.to_owned()],
            })
            .collect()
    }
}
