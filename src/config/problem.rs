//! What is wrong with a configuration: every problem, each with its line and the fix.

use std::fmt;
use std::path::PathBuf;

/// One thing to mend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// In which file.
    pub file: PathBuf,
    /// On which line, when it is about one.
    pub line: Option<usize>,
    /// Which key, dotted: `listen.https`; empty when it is about the file.
    pub key: String,
    /// What is wrong, and what to write instead.
    pub what: String,
}

/// Why a configuration is not taken: all that is wrong with it, file by file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// At least one, in the order of files and lines.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    pub(super) fn new(mut problems: Vec<Problem>) -> Self {
        // Stable: problems of one line stay in the order in which they were found.
        problems.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
        Self { problems }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, of_file) in self.problems.chunk_by(|a, b| a.file == b.file).enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            let count = of_file.len();
            let plural = if count == 1 { "" } else { "s" };
            write!(f, "{}: {count} problem{plural}", of_file[0].file.display())?;
            for problem in of_file {
                write!(f, "\n  ")?;
                if let Some(line) = problem.line {
                    write!(f, "line {line}: ")?;
                }
                if !problem.key.is_empty() {
                    write!(f, "{}: ", problem.key)?;
                }
                f.write_str(&problem.what)?;
            }
        }
        Ok(())
    }
}
