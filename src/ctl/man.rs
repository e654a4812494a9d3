//! Man pages and completions, made from the definitions: the command line's own and the table of
//! codes. The committed pages are compared with what is rendered here.

use std::collections::BTreeMap;
use std::path::Path;

use clap::{Arg, ArgAction, Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use super::args::{Args, EXAMPLES};
use super::error::CtlError;
use crate::codes::{Code, Row};

/// A section that no definition holds.
#[derive(Debug, Clone)]
pub struct Section {
    /// `FILES`
    pub title: &'static str,
    /// Its paragraphs.
    pub body: Vec<Paragraph>,
}

/// A paragraph of a [`Section`].
#[derive(Debug, Clone)]
pub enum Paragraph {
    /// Running text.
    Text(String),
    /// A term and what it means.
    Item(String, String),
    /// A line to type.
    Code(String),
}

impl Paragraph {
    /// Running text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A term and what it means.
    pub fn item(term: impl Into<String>, text: impl Into<String>) -> Self {
        Self::Item(term.into(), text.into())
    }
}

/// Renders a command's page: name, synopsis, description, options, all its commands, then `extra`.
/// `section` is `1` for people's commands and `8` for daemons.
pub fn render(command: Command, section: &str, extra: &[Section]) -> String {
    let mut command = command;
    command.build();
    let man = Man::new(command.clone())
        .title(command.get_name().to_uppercase())
        .section(section)
        .manual("wormkey");
    let mut page = Vec::new();
    let parts = [
        Man::render_title,
        Man::render_name_section,
        Man::render_synopsis_section,
        Man::render_description_section,
        Man::render_options_section,
    ];
    for part in parts {
        part(&man, &mut page).expect("writing to a Vec cannot fail");
    }
    let mut roff = Roff::new();
    if visible(&command).next().is_some() {
        roff.control("SH", ["COMMANDS"]);
        commands(&mut roff, &command, "");
    }
    sections(&mut roff, extra);
    let mut text = String::from_utf8_lossy(&page).into_owned();
    text.push_str(&roff.render());
    tidy(&text)
}

/// What `roff` puts before each document; once is enough for a page.
const PREAMBLE: &str = ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n";

/// Keeps the preamble at the top only, and no trailing blanks.
fn tidy(text: &str) -> String {
    let body = text.replace(PREAMBLE, "");
    let lines: Vec<String> = body.lines().map(tidy_line).collect();
    format!("{PREAMBLE}{}\n", lines.join("\n"))
}

fn tidy_line(line: &str) -> String {
    let line = line.trim_end();
    if line.starts_with(".TH ") {
        // An empty date is written as nothing, and the next argument would be taken for it.
        return line.replacen("  ", " \"\" ", 1);
    }
    // Not every troff reads UTF-8, but each knows this spelling.
    let mut plain = String::with_capacity(line.len());
    for c in line.chars() {
        if c.is_ascii() {
            plain.push(c);
        } else {
            plain.push_str(&format!("\\[u{:04X}]", u32::from(c)));
        }
    }
    plain
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set() && sub.get_name() != "help")
}

fn commands(roff: &mut Roff, command: &Command, before: &str) {
    for sub in visible(command) {
        let name = format!("{before}{}", sub.get_name());
        let is_group = visible(sub).next().is_some();
        if !is_group || !sub.is_subcommand_required_set() {
            entry(roff, command, sub, &name);
        }
        if is_group {
            commands(roff, sub, &format!("{name} "));
        }
    }
}

/// One command: what it is called, what it does, and each option that no earlier one has explained.
fn entry(roff: &mut Roff, parent: &Command, sub: &Command, name: &str) {
    let own: Vec<&Arg> = arguments(sub).collect();
    roff.control("SS", [&*format!("{name}{}", usage(&own))]);
    let about = sub.get_long_about().or_else(|| sub.get_about());
    paragraphs(roff, &about.map(ToString::to_string).unwrap_or_default());
    let told = told_before(parent, sub);
    for arg in own {
        if told.is_some_and(|before| has(before, arg)) {
            continue;
        }
        roff.control("TP", []);
        roff.text(term(arg));
        let help = arg.get_long_help().or_else(|| arg.get_help());
        paragraphs(roff, &help.map(ToString::to_string).unwrap_or_default());
    }
    if let Some(before) = told {
        roff.control("PP", []);
        let lacking: Vec<String> = arguments(before)
            .filter(|arg| !has(sub, arg))
            .filter_map(|arg| Some(format!("--{}", arg.get_long()?)))
            .collect();
        let but_for = match &lacking[..] {
            [] => ".".to_owned(),
            some => format!(", but for {}.", some.join(", ")),
        };
        roff.text([
            roman("It takes the options of "),
            bold(before.get_name()),
            roman(format!(", too{but_for}")),
        ]);
    }
}

/// The arguments that a page tells of.
fn arguments(command: &Command) -> impl Iterator<Item = &Arg> {
    let is_help = |arg: &&Arg| {
        matches!(
            arg.get_action(),
            ArgAction::Help | ArgAction::HelpLong | ArgAction::HelpShort
        )
    };
    command
        .get_arguments()
        .filter(|arg| !arg.is_hide_set() && !arg.is_global_set())
        .filter(move |arg| !is_help(arg))
}

/// The first command that shares most of its options with a later one: `open`, of `run`.
fn told_before<'a>(parent: &'a Command, sub: &Command) -> Option<&'a Command> {
    const WORTH_IT: usize = 4;
    let options = |of: &Command| of.get_arguments().filter(|arg| has(sub, arg)).count();
    visible(parent)
        .take_while(|before| before.get_name() != sub.get_name())
        .find(|before| options(before) > WORTH_IT)
}

/// Whether a command has this very option.
fn has(command: &Command, arg: &Arg) -> bool {
    !arg.is_positional()
        && command
            .get_arguments()
            .any(|other| other.get_long() == arg.get_long() && says_the_same(other, arg))
}

fn says_the_same(one: &Arg, other: &Arg) -> bool {
    let help = |arg: &Arg| arg.get_help().map(ToString::to_string);
    one.get_id() == other.get_id() && help(one) == help(other)
}

fn usage(args: &[&Arg]) -> String {
    let mut text = String::new();
    if args.iter().any(|arg| !arg.is_positional()) {
        text.push_str(" [options]");
    }
    for arg in args.iter().filter(|arg| arg.is_positional()) {
        let name = value(arg);
        let many = arg
            .get_num_args()
            .is_some_and(|range| range.max_values() > 2);
        let dashes = if arg.is_last_set() { "-- " } else { "" };
        let dots = if many { "…" } else { "" };
        if arg.is_required_set() {
            text.push_str(&format!(" {dashes}{name}{dots}"));
        } else {
            text.push_str(&format!(" [{dashes}{name}{dots}]"));
        }
    }
    text
}

fn value(arg: &Arg) -> String {
    arg.get_value_names().map_or_else(
        || arg.get_id().to_string().to_uppercase(),
        |names| names.join(" "),
    )
}

fn term(arg: &Arg) -> Vec<Inline> {
    let Some(long) = arg.get_long() else {
        return vec![italic(value(arg))];
    };
    let mut term = Vec::new();
    if let Some(short) = arg.get_short() {
        term.extend([bold(format!("-{short}")), roman(", ")]);
    }
    term.push(bold(format!("--{long}")));
    let may_be_alone = arg
        .get_num_args()
        .is_some_and(|range| range.min_values() == 0);
    if arg.get_action().takes_values() {
        term.extend(match may_be_alone {
            true => [roman("[="), italic(value(arg)), roman("]")].to_vec(),
            false => [roman(" "), italic(value(arg))].to_vec(),
        });
    }
    for alias in arg.get_visible_aliases().unwrap_or_default() {
        term.extend([roman(", "), bold(format!("--{alias}"))]);
    }
    term
}

fn paragraphs(roff: &mut Roff, text: &str) {
    for (i, paragraph) in text.split("\n\n").enumerate() {
        if i > 0 {
            roff.control("IP", []);
        }
        roff.text([roman(paragraph.trim())]);
    }
}

fn sections(roff: &mut Roff, sections: &[Section]) {
    for section in sections {
        roff.control("SH", [section.title]);
        for paragraph in &section.body {
            match paragraph {
                Paragraph::Text(text) => {
                    roff.control("PP", []);
                    roff.text([roman(text)]);
                }
                Paragraph::Item(term, text) => {
                    roff.control("TP", []);
                    roff.text([bold(term)]);
                    roff.text([roman(text)]);
                }
                Paragraph::Code(line) => {
                    roff.control("PP", []);
                    roff.control("nf", []);
                    roff.text([bold(format!("    {line}"))]);
                    roff.control("fi", []);
                }
            }
        }
    }
}

/// `wormkeyctl(1)`.
pub fn wormkeyctl() -> String {
    let examples = EXAMPLES
        .iter()
        .flat_map(|(line, what)| [Paragraph::text(*what), Paragraph::Code((*line).to_owned())])
        .collect();
    let extra = [
        Section {
            title: "EXIT STATUS",
            body: exits(),
        },
        Section {
            title: "ENVIRONMENT",
            body: vec![
                Paragraph::item(
                    "WORMKEY_SOCKET",
                    "The client's socket, unless --socket is given.",
                ),
                Paragraph::item(
                    "XDG_RUNTIME_DIR",
                    "Where a person's own client has its socket: wormkey/client.sock.",
                ),
                Paragraph::item(
                    "XDG_STATE_HOME, HOME",
                    "Where it is without a runtime directory: wormkey/client.sock, by default below \
                     ~/.local/state.",
                ),
                Paragraph::item("NO_COLOR", "If set, no colours."),
                Paragraph::item(
                    "WORMKEY_COMPLETE",
                    "bash, zsh or fish: print the script that completes the command line, and nothing else; \
                     source it in the shell.",
                ),
            ],
        },
        Section {
            title: "FILES",
            body: vec![
                Paragraph::item(
                    "/run/wormkey/client.sock",
                    "The socket of the system's client.",
                ),
                Paragraph::item("/run/wormkey/server.sock", "The socket of the server."),
            ],
        },
        Section {
            title: "JSON",
            body: vec![Paragraph::text(
                "With --json every command prints one document on standard output, and a failure prints \
                 one on standard error: {\"code\",\"detail\",\"fix\",\"exit\"}. Times are RFC 3339 in UTC; what is \
                 absent is null; fields are added and never taken away. open --watch prints the tunnel, then \
                 one line for each event, as logs --follow does.",
            )],
        },
        super::man_api::section(),
        Section {
            title: "EXAMPLES",
            body: examples,
        },
        Section {
            title: "SEE ALSO",
            body: vec![Paragraph::text(
                "wormkey(7), wormkeyd(8), wormkey-server.toml(5), wormkey-client.toml(5), wormkey-errors(7)",
            )],
        },
    ];
    render(Args::command(), "1", &extra)
}

/// The table of exit codes, from the codes that have them.
fn exits() -> Vec<Paragraph> {
    let meanings = BTreeMap::from([
        (0, "Done."),
        (1, "Anything else, such as a full disk."),
        (
            2,
            "The command line is not understood, or a value on it is not valid.",
        ),
        (3, "The daemon is not running."),
        (
            4,
            "Refused by policy or for want of permission, such as that to use the socket.",
        ),
        (5, "Not found."),
        (6, "Conflict: a name or a port is taken or reserved."),
        (7, "The server cannot be reached."),
        (8, "The local service cannot be reached."),
        (9, "Timed out."),
        (78, "The configuration is not valid."),
    ]);
    let mut body: Vec<Paragraph> = meanings
        .into_iter()
        .map(|(exit, meaning)| Paragraph::item(exit.to_string(), meaning))
        .collect();
    body.push(Paragraph::text(
        "run ends with the command's own status, 128 and the signal's number if one ended it, 127 if it was \
         not found, 126 if it could not be started. wormkey-errors(7) has each error.",
    ));
    body
}

/// `wormkey-errors(7)`: the table of codes.
pub fn errors() -> String {
    let row = |code: &Code| {
        let Row {
            name,
            status,
            exit,
            cause,
            fix,
            ..
        } = code.row();
        Paragraph::item(
            name,
            format!("{cause} {fix} HTTP status {status}, exit code {exit}."),
        )
    };
    // The numbers are kept apart by who met them first; these two, visitors meet as well.
    const ALSO_VISITORS: [Code; 2] = [Code::NotFound, Code::ExposedOrigin];
    let is_visitors = |code: &Code| code.row().wire < 40 || ALSO_VISITORS.contains(code);
    let part = |from: u32, to: u32, visitors: bool| -> Vec<Paragraph> {
        Code::ALL
            .iter()
            .filter(|code| (from..to).contains(&code.row().wire) && is_visitors(code) == visitors)
            .map(row)
            .collect()
    };
    page(
        "wormkey-errors",
        "7",
        &[
            Section {
                title: "NAME",
                body: vec![Paragraph::text(
                    "wormkey-errors - what wormkey's error codes mean, and what to do",
                )],
            },
            Section {
                title: "DESCRIPTION",
                body: vec![Paragraph::text(
                    "One table of codes serves visitors (the wormkey-error header, and the code of a problem+json \
                     answer), the admin API, wormkeyctl (its exit code, and code with --json) and the links \
                     between client and server.",
                )],
            },
            Section {
                title: "WHAT VISITORS MEET",
                body: part(0, 100, true),
            },
            Section {
                title: "WHAT PEOPLE AND DEVICES MEET BESIDES",
                body: part(40, 100, false),
            },
            Section {
                title: "HOW LINKS AND STREAMS END",
                body: part(100, u32::MAX, false),
            },
            Section {
                title: "SEE ALSO",
                body: vec![Paragraph::text("wormkey(7), wormkeyctl(1), wormkeyd(8)")],
            },
        ],
    )
}

/// Renders a page that no command line stands behind.
pub fn page(name: &str, section: &str, body: &[Section]) -> String {
    let mut roff = Roff::new();
    let source = concat!("wormkey ", env!("CARGO_PKG_VERSION"));
    roff.control(
        "TH",
        [name.to_uppercase().as_str(), section, "", source, "wormkey"],
    );
    sections(&mut roff, body);
    tidy(&roff.render())
}

/// Writes the pages of `wormkeyctl`.
pub(super) fn write(dir: &Path) -> Result<(), CtlError> {
    for (name, text) in [
        ("wormkeyctl.1", wormkeyctl()),
        ("wormkey-errors.7", errors()),
    ] {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(|err| CtlError::Generate { path, err })?;
    }
    Ok(())
}

pub(super) fn write_completions(dir: &Path) -> Result<(), CtlError> {
    super::complete::write(dir).map_err(|err| CtlError::Generate {
        path: dir.into(),
        err,
    })
}

/// Writes a command's completions for bash, zsh and fish into a directory.
pub fn completions(command: Command, dir: &Path) -> std::io::Result<()> {
    let mut command = command;
    let name = command.get_name().to_owned();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, &name, dir)?;
    }
    Ok(())
}
