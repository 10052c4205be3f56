//! A story as a mail's HTML: one column of 600 pixels, tables and inline styles as mail clients want them, no image, light and dark.

use super::{
    fields::Fact,
    mail,
    message::Links,
    safe,
    story::{Action, List, Quote, Story, Tone},
};
use crate::store::Severity;

/// Fonts, from what each system has.
const FONT: &str = "font-family:-apple-system,BlinkMacSystemFont,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;";

/// The document up to its first text: what mail clients keep of styles is inline, the rest makes it dark where that is wanted.
const HEAD: &str = r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="supported-color-schemes" content="light dark">
<meta name="format-detection" content="telephone=no,date=no,address=no,email=no">
<style>
:root { color-scheme: light dark; supported-color-schemes: light dark; }
body { margin: 0; padding: 0; -webkit-text-size-adjust: 100%; }
a { text-decoration: none; }
@media (max-width: 620px) { .frame { padding: 0 !important; } .card { border-radius: 0 !important; } .in { padding-left: 20px !important; padding-right: 20px !important; } }
@media (prefers-color-scheme: dark) {
  .page { background: #111418 !important; }
  .card { background: #1b2026 !important; border-color: #2d343d !important; }
  .ink { color: #e9ecef !important; }
  .mute { color: #9aa5b1 !important; }
  .rule { border-color: #2d343d !important; }
  .well { background: #242a32 !important; color: #dfe3e8 !important; }
  .link { color: #8ab4f8 !important; }
  .good { color: #57c98b !important; } .plain { color: #8ab4f8 !important; } .warn { color: #f0b429 !important; } .bad { color: #ff8a80 !important; }
}
</style>
<title>"#;

/// Longest text that a template made, as HTML, in bytes. Gmail hides what is beyond 102 KB in all.
const TEXT_MAX: usize = 64 * 1024;
/// Likewise what somebody wrote.
const QUOTE_MAX: usize = 24 * 1024;
/// Likewise an item of a list, of which there are at most a few dozen, and any other text.
const ITEM_MAX: usize = 800;

/// HTML as it grows. What is not written in this program goes in by [`Page::text`] only, which escapes it.
struct Page(String);

impl Page {
    fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        safe::html(&mut self.0, text);
        self
    }

    /// As much of `text` as is at most `max` bytes when escaped, its lines broken. Mail programs cut long messages where they please.
    fn lines(&mut self, text: &str, max: usize) -> &mut Self {
        let end = self.0.len() + max;
        let mut character = [0; 4];
        for it in text.chars() {
            if end <= self.0.len() {
                self.raw("&hellip;");
                break;
            }
            match it {
                '\n' => _ = self.raw("<br>"),
                other => safe::html(&mut self.0, other.encode_utf8(&mut character)),
            }
        }
        self
    }

    fn font(&mut self) -> &mut Self {
        self.raw(FONT)
    }
}

/// What stands in the middle of the page.
pub(super) enum Body<'a> {
    /// What the story says.
    Story,
    /// A text that a template made, in place of it.
    Text(&'a str),
    /// HTML that a template made, every value in it escaped.
    Html(&'a str),
}

/// The document.
pub(super) fn html(
    story: &Story,
    subject: &str,
    severity: Severity,
    body: &Body<'_>,
    links: Links<'_>,
    note: Option<&str>,
) -> String {
    let mut page = Page(String::with_capacity(8 * 1024));
    page.raw(HEAD).text(subject).raw("</title>\n</head>\n");
    page.raw(r#"<body class="page" style="margin:0;padding:0;background:#f2f4f7;">"#);
    preheader(&mut page, if let Body::Text(text) = body { text } else { &story.lead });
    page.raw(r#"<table role="presentation" class="page" width="100%" cellpadding="0" cellspacing="0" border="0" style="background:#f2f4f7;"><tr><td class="frame" align="center" style="padding:32px 12px;">"#);
    page.raw(
        r#"<!--[if mso]><table role="presentation" width="600" cellpadding="0" cellspacing="0" border="0"><tr><td><![endif]-->"#,
    );
    page.raw(r#"<table role="presentation" class="card" width="100%" cellpadding="0" cellspacing="0" border="0" style="max-width:600px;background:#ffffff;border:1px solid #e1e5ea;border-radius:12px;border-collapse:separate;overflow:hidden;">"#);
    let colours = Colours::of(story.tone, severity);
    page.raw(r#"<tr><td height="4" style="height:4px;line-height:4px;font-size:0;background:"#)
        .raw(colours.bar)
        .raw(r#";">&nbsp;</td></tr>"#);
    heading(&mut page, story, severity, &colours);
    match body {
        Body::Story => middle(&mut page, story),
        Body::Text(text) => {
            paragraph(&mut page, text);
        }
        Body::Html(markup) => {
            page.raw(r#"<tr><td class="in ink" style="padding:14px 32px 0;font-size:16px;line-height:1.55;color:#1d242c;"#)
                .font()
                .raw(r#"">"#);
            page.0.push_str(markup);
            page.raw("</td></tr>");
        }
    }
    ways(&mut page, story, matches!(body, Body::Story), links, colours.button);
    foot(&mut page, story, note);
    page.raw("</table>").raw("<!--[if mso]></td></tr></table><![endif]-->").raw("</td></tr></table>\n</body>\n</html>\n");
    page.0
}

/// The colours of a story.
struct Colours {
    /// Of the bar on top.
    bar: &'static str,
    /// Of words on the card, with the class that makes them bright in the dark.
    word: &'static str,
    class: &'static str,
    /// Of the button, under white.
    button: &'static str,
}

impl Colours {
    fn of(tone: Tone, severity: Severity) -> Self {
        let (bar, word, class) = match (severity, tone) {
            (Severity::Critical, _) | (Severity::Info, Tone::Bad) => ("#d64545", "#b42318", "bad"),
            (Severity::Warning, _) | (_, Tone::Attention) => ("#e8a317", "#935f00", "warn"),
            (_, Tone::Good) => ("#2f9e6b", "#1d7a50", "good"),
            (_, Tone::Neutral) => ("#3f6fd8", "#2c57b5", "plain"),
        };
        Self { bar, word, class, button: "#2c57b5" }
    }
}

/// What lists of mails show beside the subject.
fn preheader(page: &mut Page, text: &str) {
    page.raw(r#"<div style="display:none;max-height:0;overflow:hidden;opacity:0;font-size:1px;line-height:1px;">"#);
    page.text(&safe::line(text, 140)).raw("</div>");
}

fn heading(page: &mut Page, story: &Story, severity: Severity, colours: &Colours) {
    page.raw(r#"<tr><td class="in" style="padding:26px 32px 0;"#).font().raw(r#"">"#);
    page.raw(r#"<span class=""#)
        .raw(colours.class)
        .raw(r#"" style="font-size:12px;line-height:16px;font-weight:700;letter-spacing:.06em;text-transform:uppercase;color:"#);
    page.raw(colours.word).raw(r#";">"#).text(&story.topic);
    match severity {
        Severity::Info => {}
        Severity::Warning => _ = page.raw(" &middot; warning"),
        Severity::Critical => _ = page.raw(" &middot; critical"),
    }
    page.raw("</span>");
    page.raw(r#"<h1 class="ink" dir="auto" style="margin:8px 0 0;font-size:22px;line-height:30px;font-weight:700;color:#12181f;word-break:break-word;overflow-wrap:anywhere;">"#);
    page.text(&story.title).raw("</h1></td></tr>");
}

fn paragraph(page: &mut Page, text: &str) {
    page.raw(r#"<tr><td class="in ink" dir="auto" style="padding:14px 32px 0;font-size:16px;line-height:25px;color:#1d242c;word-break:break-word;overflow-wrap:anywhere;"#);
    page.font().raw(r#"">"#).lines(text, TEXT_MAX).raw("</td></tr>");
}

/// What happened, and what to do; the facts follow the button.
fn middle(page: &mut Page, story: &Story) {
    paragraph(page, &story.lead);
    if let Some(quote) = &story.quote {
        words(page, quote);
    }
    if let Some(list) = &story.list {
        listed(page, list);
    }
    if let Some(todo) = &story.todo {
        page.raw(r#"<tr><td class="in ink" style="padding:20px 32px 0;font-size:16px;line-height:25px;color:#1d242c;word-break:break-word;"#);
        page.font().raw(r#""><strong>What to do.</strong> "#).text(todo).raw("</td></tr>");
    }
}

fn label(page: &mut Page, text: &str) {
    page.raw(r#"<div class="mute" dir="auto" style="font-size:13px;line-height:18px;font-weight:600;color:#5b6673;padding-bottom:6px;word-break:break-word;">"#);
    page.text(text).raw("</div>");
}

fn words(page: &mut Page, quote: &Quote) {
    page.raw(r#"<tr><td class="in" style="padding:20px 32px 0;"#).font().raw(r#"">"#);
    label(page, &quote.label);
    page.raw(r#"<div class="well" dir="auto" style="padding:12px 16px;border-radius:8px;background:#f4f6f8;color:#28313b;font-size:15px;line-height:23px;word-break:break-word;overflow-wrap:anywhere;">"#);
    page.lines(&quote.block.text, QUOTE_MAX).raw("</div>");
    if let Some(cut) = mail::cut(&quote.block) {
        page.raw(r#"<div class="mute" style="padding-top:6px;font-size:13px;line-height:18px;color:#5b6673;">"#)
            .text(&cut)
            .raw("</div>");
    }
    page.raw("</td></tr>");
}

fn listed(page: &mut Page, list: &List) {
    page.raw(r#"<tr><td class="in" style="padding:20px 32px 0;"#).font().raw(r#"">"#);
    label(page, &list.label);
    page.raw(r#"<table role="presentation" class="well" width="100%" cellpadding="0" cellspacing="0" border="0" style="background:#f4f6f8;border-radius:8px;color:#28313b;">"#);
    for (n, item) in list.items.iter().map(String::as_str).chain(mail::more(list.omitted).as_deref()).enumerate() {
        page.raw(r#"<tr><td class="rule" dir="auto" style="padding:9px 16px;font-size:15px;line-height:22px;word-break:break-word;overflow-wrap:anywhere;"#);
        if 0 < n {
            page.raw("border-top:1px solid #e1e5ea;");
        }
        page.font().raw(r#"">"#).lines(item, ITEM_MAX).raw("</td></tr>");
    }
    page.raw("</table></td></tr>");
}

fn facts(page: &mut Page, facts: &[Fact]) {
    page.raw(r#"<tr><td class="in" style="padding:20px 32px 0;"><table role="presentation" width="100%" cellpadding="0" cellspacing="0" border="0">"#);
    for fact in facts {
        page.raw(r#"<tr><td class="rule mute" valign="top" width="30%" style="padding:8px 12px 8px 0;border-top:1px solid #e9ecf0;font-size:14px;line-height:20px;color:#5b6673;word-break:break-word;"#);
        page.font().raw(r#"">"#).text(&fact.name);
        page.raw(r#"</td><td class="rule ink" valign="top" dir="auto" style="padding:8px 0;border-top:1px solid #e9ecf0;font-size:14px;line-height:20px;color:#1d242c;word-break:break-word;overflow-wrap:anywhere;"#);
        page.font().raw(r#"">"#).text(&fact.value).raw("</td></tr>");
    }
    page.raw("</table></td></tr>");
}

/// The button, where there is something to press; the facts, where the story is told; the way to the event's page.
fn ways(page: &mut Page, story: &Story, told: bool, links: Links<'_>, colour: &'static str) {
    if let Some(action) = &story.action {
        button(page, action, colour);
    }
    if told && !story.facts.is_empty() {
        facts(page, &story.facts);
    }
    if let Some(link) = links.event {
        page.raw(r#"<tr><td class="in" style="padding:18px 32px 0;font-size:14px;line-height:20px;"#).font();
        page.raw(r#""><a class="link" style="color:#2c57b5;font-weight:600;" href=""#)
            .text(link)
            .raw(r#"">Show this event in Hookyard</a></td></tr>"#);
    }
}

/// A button that is one in every client: a coloured cell with a link that fills it.
fn button(page: &mut Page, action: &Action, colour: &'static str) {
    page.raw(r#"<tr><td class="in" style="padding:24px 32px 0;"#)
        .font()
        .raw(r#""><table role="presentation" cellpadding="0" cellspacing="0" border="0"><tr><td align="center" bgcolor=""#);
    page.raw(colour).raw(r#"" style="border-radius:8px;background:"#).raw(colour).raw(r#";"><a href=""#).text(&action.url);
    page.raw(r#"" target="_blank" rel="noopener noreferrer" style="display:inline-block;padding:13px 26px;font-size:16px;line-height:20px;font-weight:600;color:#ffffff;border-radius:8px;"#);
    page.font().raw(r#"">"#).text(&action.label).raw("</a></td></tr></table>");
    page.raw(
        r#"<div class="mute" style="padding-top:10px;font-size:13px;line-height:19px;color:#5b6673;word-break:break-all;">"#,
    );
    match &action.host {
        Some(host) => _ = page.raw("It leads to ").text(host).raw("."),
        None => {
            page.raw(r#"Or open this link: <a class="link" style="color:#2c57b5;" href=""#).text(&action.url).raw(r#"">"#);
            page.text(&action.url).raw("</a>");
        }
    }
    page.raw("</div></td></tr>");
}

fn foot(page: &mut Page, story: &Story, note: Option<&str>) {
    page.raw(r#"<tr><td class="in" style="padding:28px 32px 26px;"><div class="rule mute" style="border-top:1px solid #e9ecf0;padding-top:14px;font-size:12px;line-height:18px;color:#5b6673;word-break:break-word;overflow-wrap:anywhere;"#);
    page.font().raw(r#"">"#);
    if let Some(note) = note {
        page.text(&mail::built_in(note)).raw("<br>");
    }
    page.raw("Sent by Hookyard &middot; ").text(&story.foot).raw("</div></td></tr>");
}
