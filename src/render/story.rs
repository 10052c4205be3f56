//! What a message says, before it has a form: a title, what happened, facts, what to do.

use super::{MessageScene, builtin, safe};

/// Longest text taken from an event or made by a template, in characters.
const BODY_MAX: usize = 8_000;

/// What a message says.
#[derive(Debug, Clone, Default)]
pub(super) struct Story {
    /// One line that tells it.
    pub(super) title: String,
    /// Further text, of several lines.
    pub(super) body: safe::Block,
}

impl Story {
    /// What the scene's event says.
    pub(super) fn of(scene: &MessageScene<'_>) -> Self {
        let title = builtin::line(scene.event, scene.data);
        Self { body: safe::block(&title, BODY_MAX), title }
    }

    /// What `count` gathered events say; `lines` of them, `omitted` further ones are only counted.
    pub(super) fn gathered(count: usize, lines: &[String], omitted: usize) -> Self {
        let mut text = lines.iter().map(|line| format!("- {}\n", safe::line(line, 600))).collect::<String>();
        if 0 < omitted {
            text += &format!("and {omitted} more\n");
        }
        Self { title: format!("{count} events"), body: safe::block(&text, BODY_MAX) }
    }

    /// Says `text`, which a template made, instead.
    pub(super) fn body(&mut self, text: &str) {
        self.body = safe::block(text, BODY_MAX);
    }
}
