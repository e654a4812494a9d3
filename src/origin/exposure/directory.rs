//! What a `file:` target would give away. Only what the file server serves is looked at, and it serves no
//! name that begins with a dot: a `.git` or `.env` inside is not there for visitors.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use super::danger::{self, Danger};
use super::web::is_env;

/// How deep, how many entries and how much of a file are looked at.
const DEPTH: usize = 2;
const ENTRIES: usize = 4096;
const OF_A_FILE: u64 = 16 * 1024;

/// Looks at a directory. Blocks.
pub(super) fn look(dir: &Path) -> Vec<&'static Danger> {
    let mut found = Vec::new();
    // The folder itself, served as the root, or a repository without a working copy.
    if dir.join("HEAD").is_file() && dir.join("objects").is_dir() && dir.join("refs").is_dir() {
        found.push(&danger::GIT);
    }
    let mut left = ENTRIES;
    walk(dir, DEPTH, &mut left, &mut found);
    found
}

fn walk(dir: &Path, depth: usize, left: &mut usize, found: &mut Vec<&'static Danger>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    let mut below = Vec::new();
    for entry in entries.flatten() {
        if *left == 0 {
            return;
        }
        *left -= 1;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') {
            continue;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => below.push(entry.path()),
            Ok(kind) if kind.is_file() => found.extend(danger_of(&name, &entry.path())),
            _ => {}
        }
    }
    if depth > 0 {
        for dir in below {
            walk(&dir, depth - 1, left, found);
        }
    }
}

fn danger_of(name: &str, path: &Path) -> Option<&'static Danger> {
    let name = name.to_ascii_lowercase();
    let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    let may_be_key = name.starts_with("id_") && !name.ends_with(".pub") || ends(&[".pem", ".key"]);
    if may_be_key && beginning(path).contains("PRIVATE KEY-----") {
        return Some(&danger::PRIVATE_KEY);
    }
    (ends(&[".env"]) && is_env(&beginning(path))).then_some(&danger::ENV_FILE)
}

fn beginning(path: &Path) -> String {
    let mut bytes = Vec::new();
    // What cannot be read is not served either.
    if let Ok(file) = fs::File::open(path) {
        let _ = file.take(OF_A_FILE).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
