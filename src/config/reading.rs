//! From files to one tree: each is read, parsed, masked and has its references resolved by itself; then fragments are put behind the
//! main file.

use std::{path::PathBuf, sync::Arc};

use super::{
    Environment, File, Options,
    decode::{Context, Decode, Located},
    include::{self, Distinct, FRAGMENTS_MAX, Found, PATTERNS_MAX},
    mask::Mask,
    merge::{self, Outline},
    read::{self, Fault},
    references::{self, References},
    tree::{Node, Place},
    yaml,
};

/// Where the fragments of a configuration come from.
pub(super) enum Fragments {
    /// From disk, as the patterns of the main file say.
    OnDisk,
    /// These are all.
    Given(Vec<File>),
}

/// What was read so far.
pub(super) struct Reading<'e> {
    env: &'e dyn Environment,
    pub(super) cx: Context,
    pub(super) mask: Mask,
    pub(super) references: References,
    /// The patterns of `include`, against the folder of the main file.
    pub(super) includes: Vec<PathBuf>,
    /// How many keys and values further files may hold.
    nodes_left: usize,
    /// The trees as they are written, where they are wanted so.
    written: Option<Vec<Node>>,
}

impl<'e> Reading<'e> {
    /// Reads `main` and its fragments. The tree is `None` where the main file holds none.
    pub(super) fn of(
        main: File,
        fragments: Fragments,
        env: &'e dyn Environment,
        options: Options,
    ) -> (Self, Option<(Node, Outline)>) {
        let mut reading = Self {
            env,
            cx: Context::default(),
            mask: Mask::default(),
            references: References { opaque: options.no_secrets, ..References::default() },
            includes: Vec::new(),
            nodes_left: yaml::NODES_MAX,
            written: options.effective.then(Vec::new),
        };
        let Some(mut root) = reading.tree(main) else { return (reading, None) };
        let found = match fragments {
            Fragments::OnDisk => reading.look_up(&root),
            Fragments::Given(files) => files.into_iter().filter_map(|file| reading.tree(file)).collect(),
        };
        let outline = merge::merge(&mut root, found, &mut reading.cx);
        (reading, Some((root, outline)))
    }

    /// All files as one tree, as they are written, where that is wanted. What is wrong with it is told of elsewhere.
    pub(super) fn written(&mut self) -> Option<Node> {
        let mut files = self.written.take()?.into_iter();
        let mut root = files.next()?;
        merge::merge(&mut root, files.collect(), &mut Context { files: self.cx.files.clone(), ..Context::default() });
        Some(root)
    }

    /// A main file that cannot be read.
    pub(super) fn refused(path: PathBuf, fault: &Fault, env: &'e dyn Environment) -> Self {
        let empty = File { path: PathBuf::new(), text: String::new() };
        let (mut reading, _) = Self::of(empty, Fragments::Given(Vec::new()), env, Options::default());
        reading.cx = Context::default();
        reading.refuse(path, fault);
        reading
    }

    /// The tree of a further file.
    fn tree(&mut self, file: File) -> Option<Node> {
        let base = Arc::make_mut(&mut self.cx.files).add(file);
        let files = self.cx.files.clone();
        let text = files.text().get(base..).unwrap_or_default();
        let Some(mut root) = yaml::parse_at(base, text, self.nodes_left, &mut self.cx) else {
            self.mask.add_lines(text, base);
            self.cx.incomplete = true;
            return None;
        };
        self.nodes_left = self.nodes_left.saturating_sub(root.count());
        self.mask.add_tree(&root, files.text());
        self.written.iter_mut().for_each(|written| written.push(root.clone()));
        references::resolve(&mut root, self.env, &mut self.references, &mut self.cx);
        Some(root)
    }

    /// Notes that a file has no text to read, with what there is of it to show.
    fn refuse(&mut self, path: PathBuf, fault: &Fault) {
        let shown = path.display().to_string();
        let (text, at) = match fault {
            Fault::NotUtf8(text, at) => (text.clone(), *at),
            _ => (String::new(), 0),
        };
        let base = Arc::make_mut(&mut self.cx.files).add(File { path, text });
        self.cx.incomplete = true;
        self.mask.add_lines(self.cx.files.text().get(base..).unwrap_or_default(), base);
        let (code, message) = fault.describe(&shown);
        let problem = self.cx.error(code, Place { start: base + at, end: base + at }, message);
        problem.help = fault.help().map(str::to_owned);
    }

    /// The fragments that the patterns of `root`, the main file, name: each once, in the order of the patterns, then by name.
    fn look_up(&mut self, root: &Node) -> Vec<Node> {
        let Some(patterns) = self.patterns(root) else { return Vec::new() };
        let mut distinct = Distinct::new(self.cx.files.path());
        let folder = self.cx.files.folder(Place::default()).to_owned();
        let (mut trees, mut number) = (Vec::new(), 0);
        for pattern in patterns {
            self.includes.push(folder.join(&pattern.value));
            for path in self.found(&folder, &pattern) {
                if !distinct.insert(&path) {
                    continue;
                }
                number += 1;
                if FRAGMENTS_MAX < number || self.is_full(&path) {
                    let bounds = format!("{FRAGMENTS_MAX} files, or {} MiB together", include::TOTAL_MAX >> 20);
                    self.cx.incomplete = true;
                    self.cx.error("too-large", pattern.place, format!("`include` names more than {bounds}"));
                    return trees;
                }
                match read::text(&path) {
                    Ok(text) => trees.extend(self.tree(File { path, text })),
                    Err(fault) => self.refuse(path, &fault),
                }
            }
        }
        trees
    }

    /// Whether all files would be too large with the one at `path`.
    fn is_full(&self, path: &std::path::Path) -> bool {
        let size = std::fs::metadata(path).map_or(0, |it| usize::try_from(it.len()).unwrap_or(usize::MAX));
        size <= yaml::FILE_MAX && include::TOTAL_MAX < self.cx.files.text().len() + size
    }

    fn patterns(&mut self, root: &Node) -> Option<Vec<Located<String>>> {
        let node = root.get("include").filter(|node| node.value != super::Value::Null)?;
        let nodes = if let super::Value::List(items) = &node.value { items.as_slice() } else { std::slice::from_ref(node) };
        if PATTERNS_MAX < nodes.len() {
            self.cx.error("bad-value", node.place, format!("more than {PATTERNS_MAX} patterns"));
            return None;
        }
        Some(nodes.iter().filter_map(|node| Located::decode(node, &mut self.cx)).collect())
    }

    /// The files that `pattern` names.
    fn found(&mut self, folder: &std::path::Path, pattern: &Located<String>) -> Vec<PathBuf> {
        let Located { value: text, place } = pattern;
        if text.contains("**") || text.is_empty() {
            self.cx
                .error("bad-value", *place, format!("`{text}` names no files"))
                .help("`*` stands for any part of one name, as in routes.d/*.yaml or teams/*/routes.yaml");
            return Vec::new();
        }
        match include::find(folder, text) {
            Found::Files(files) => {
                if files.is_empty() {
                    self.cx.warning("no-such-file", *place, format!("there is no file that `{text}` fits"));
                }
                files
            }
            Found::Missing => {
                self.cx.incomplete = true;
                let help = format!("names are read against the folder of {}", self.cx.files.path().display());
                self.cx.error("no-such-file", *place, format!("there is no file `{text}`")).help(help);
                Vec::new()
            }
            Found::Unreadable(reason) => {
                self.cx.incomplete = true;
                self.cx.error("unreadable-file", *place, reason);
                Vec::new()
            }
        }
    }
}
