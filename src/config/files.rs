//! The texts of a configuration as one: the main file, and behind it the fragments it includes, each where the one before it ends.
//!
//! So a [`Place`] is two offsets and nothing more, places sort by file, and whoever shows one asks here for file, line and column.

use std::path::{Path, PathBuf};

use super::tree::{Lines, Place};
use crate::sign;

/// A file and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// As given on the command line; of a fragment, below the folder of the main file.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
}

/// Hexadecimal digits of [`Files::hash`].
const HASH_LEN: usize = 12;

/// The files of a configuration, the main file first.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// All texts, with a line end between any two.
    text: String,
    parts: Vec<Part>,
    lines: Lines,
}

#[derive(Debug, Clone)]
struct Part {
    path: PathBuf,
    start: usize,
    end: usize,
}

impl Files {
    /// A configuration of one file.
    pub fn new(main: File) -> Self {
        let mut files = Self::default();
        files.add(main);
        files
    }

    /// Puts `file` behind the others; answers where it begins.
    pub fn add(&mut self, file: File) -> usize {
        if !self.parts.is_empty() {
            self.text.push('\n');
        }
        let start = self.text.len();
        self.lines.extend(start, &file.text);
        self.text.push_str(&file.text);
        self.parts.push(Part { path: file.path, start, end: self.text.len() });
        start
    }

    /// The path of the main file, as given on the command line.
    pub fn path(&self) -> &Path {
        self.parts.first().map_or(Path::new(""), |part| &part.path)
    }

    /// The text of the main file.
    pub fn main(&self) -> &str {
        self.all().next().map_or("", |(_, text)| text)
    }

    /// Every file with its text, the main file first.
    pub fn all(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.parts.iter().map(|part| (part.path.as_path(), self.text.get(part.start..part.end).unwrap_or_default()))
    }

    /// The texts as one, which places are offsets of.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Which file, from 0, holds `place`.
    pub fn index(&self, place: Place) -> usize {
        self.parts.partition_point(|part| part.start <= place.start).saturating_sub(1)
    }

    /// The path of the file that holds `place`.
    pub fn path_of(&self, place: Place) -> &Path {
        self.parts.get(self.index(place)).map_or(Path::new(""), |part| &part.path)
    }

    /// The folder of the file that holds `place`, against which its relative paths are read.
    pub fn folder(&self, place: Place) -> &Path {
        self.path_of(place).parent().unwrap_or(Path::new(""))
    }

    /// The line of its file, from 1, on which `place` begins.
    pub fn line(&self, place: Place) -> usize {
        let start = self.parts.get(self.index(place)).map_or(0, |part| part.start);
        self.lines.line(place.start).saturating_sub(self.lines.line(start)) + 1
    }

    /// The byte at which the line of `place` begins.
    pub fn line_start(&self, place: Place) -> usize {
        self.lines.start(place.start)
    }

    /// The column, in characters from 1, at which `place` begins.
    pub fn column(&self, place: Place) -> usize {
        self.text.get(self.line_start(place)..place.start).map_or(1, |before| before.chars().count() + 1)
    }

    /// `there` as one says it at `here`: `line 3` of the same file, `routes.d/a.yaml:3:5` of another.
    pub fn mention(&self, there: Place, here: Place) -> String {
        if self.index(there) == self.index(here) {
            return format!("line {}", self.line(there));
        }
        format!("{}:{}:{}", self.path_of(there).display(), self.line(there), self.column(there))
    }

    /// The same with its preposition: `on line 3`, `at routes.d/a.yaml:3:5`.
    pub fn whereabouts(&self, there: Place, here: Place) -> String {
        let preposition = if self.index(there) == self.index(here) { "on" } else { "at" };
        format!("{preposition} {}", self.mention(there, here))
    }

    /// The first 12 hexadecimal digits of SHA-256 over the file, or over all of them with their paths and lengths.
    pub fn hash(&self) -> String {
        let folder = self.path().parent().unwrap_or(Path::new(""));
        let mut pieces = vec![self.main().as_bytes().to_vec()];
        for (path, text) in self.all().skip(1) {
            let path = path.strip_prefix(folder).unwrap_or(path).as_os_str().as_encoded_bytes();
            pieces.push(format!("\0{}\0{}\0", path.len(), text.len()).into_bytes());
            pieces.extend([path.to_vec(), text.as_bytes().to_vec()]);
        }
        let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        let mut hash = sign::hex(&sign::sha256(&pieces));
        hash.truncate(HASH_LEN);
        hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.into(), text: text.into() }
    }

    fn place(start: usize) -> Place {
        Place { start, end: start + 1 }
    }

    #[test]
    fn a_place_knows_its_file_line_and_column() {
        let mut files = Files::new(file("etc/routes.yaml", "a: 1\nb: 2"));
        let one = files.add(file("etc/routes.d/a.yaml", "\né: x\n"));
        let two = files.add(file("etc/routes.d/b.yaml", ""));
        let three = files.add(file("etc/c.yaml", "z"));
        assert_eq!((one, files.text()), (10, "a: 1\nb: 2\n\né: x\n\n\nz"));
        let told = |at: usize| {
            let at = place(at);
            format!("{}:{}:{}", files.path_of(at).display(), files.line(at), files.column(at))
        };
        assert_eq!(told(5), "etc/routes.yaml:2:1");
        assert_eq!(told(9), "etc/routes.yaml:2:5", "what ends a file is of that file");
        assert_eq!(told(one + 3), "etc/routes.d/a.yaml:2:2");
        assert_eq!(told(two), "etc/routes.d/b.yaml:1:1");
        assert_eq!(told(three), "etc/c.yaml:1:1");
        assert_eq!(files.folder(place(one)), Path::new("etc/routes.d"));
        assert_eq!(files.whereabouts(place(0), place(5)), "on line 1");
        assert_eq!(files.whereabouts(place(one + 1), place(5)), "at etc/routes.d/a.yaml:2:1");
        assert_eq!(files.all().map(|(_, text)| text).collect::<Vec<_>>(), ["a: 1\nb: 2", "\né: x\n", "", "z"]);
    }

    #[test]
    fn the_hash_is_that_of_the_file_or_tells_all_files_apart() {
        let hash = |fragments: &[(&str, &str)]| {
            let mut files = Files::new(file("x/routes.yaml", "version: 1"));
            fragments.iter().for_each(|(path, text)| _ = files.add(file(path, text)));
            files.hash()
        };
        assert_eq!(hash(&[]), "1a6ddd3533d9");
        let several =
            [hash(&[]), hash(&[("x/a", "")]), hash(&[("x/b", "")]), hash(&[("x/a", "b")]), hash(&[("x/a", ""), ("x/b", "")])];
        let distinct: std::collections::HashSet<_> = several.iter().collect();
        assert_eq!(distinct.len(), several.len());
    }
}
