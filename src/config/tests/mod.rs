//! Tables of files and what is said about them.

mod acme;
mod client;
mod examples;
mod files;
mod server;
mod site;

use std::path::{Path, PathBuf};

use super::{ClientConfig, ServerConfig, load};

/// A directory with the files given.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let this = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            let path = this.path(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A text without the directory's name.
    fn short(&self, text: impl ToString) -> String {
        let root = format!("{}/", self.0.path().display());
        text.to_string().replace(&root, "")
    }
}

fn load_server(text: &str) -> Result<ServerConfig, String> {
    let folder = Folder::new(&[("server.toml", text)]);
    ServerConfig::load(Some(&folder.path("server.toml"))).map_err(|err| folder.short(err))
}

fn load_client(text: &str) -> Result<ClientConfig, String> {
    let folder = Folder::new(&[("client.toml", text)]);
    // The machine's own client, whoever runs the tests.
    let machine = load::Person::default();
    ClientConfig::load_as(Some(&folder.path("client.toml")), &machine)
        .map_err(|err| folder.short(err))
}

/// The lines below the heading, without their indent.
fn lines<T: std::fmt::Debug>(result: Result<T, String>) -> Vec<String> {
    let text = result.expect_err("this configuration is wrong");
    let (heading, rest) = text.split_once('\n').expect("a heading and problems");
    let count = rest.lines().count();
    let plural = if count == 1 { "" } else { "s" };
    assert!(
        heading.ends_with(&format!(": {count} problem{plural}")),
        "{text}"
    );
    rest.lines()
        .map(|line| line.trim_start().to_owned())
        .collect()
}
