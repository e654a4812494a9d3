//! Every parser that reads what strangers, peers or people wrote, fed with broken input. One binary:
//!
//! ```text
//! cargo test --test fuzz                              all targets, a few seconds
//! cargo test --test fuzz -- --seconds 600             each target for ten minutes
//! cargo test --test fuzz -- --seconds 60 control      those whose name contains that
//! cargo test --test fuzz -- --keep …                  adds what it learnt to the corpus
//! ```
//!
//! On stable Rust and without instrumentation: inputs are mutated from a corpus, and what a target says
//! about an input (accepted, or refused for which reason) stands for coverage: the first input of each
//! kind joins the corpus. A finding is a panic, a broken promise of the target, or an input that takes
//! longer than [`SLOW`]; the input is written down and the process ends with 1.

#![allow(
    clippy::unwrap_used,
    reason = "a harness fails like the test that it is; clippy only knows functions marked #[test]"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "the harness measures real time, and takes its seed from it"
)]

mod mutate;
mod targets;

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use mutate::Mutator;
use targets::{TARGETS, Target};

/// An input that takes longer is a finding; so long, because the machine may be busy.
const SLOW: Duration = Duration::from_secs(10);

/// The most inputs of one target in memory, and the longest one that is kept on disk.
const CORPUS: usize = 4096;
const KEPT: usize = 1024;

/// What was asked for on the command line.
struct Wish {
    seconds: f64,
    seed: u64,
    keep: bool,
    names: Vec<String>,
    list: bool,
}

impl Wish {
    fn read() -> Result<Self, String> {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let mut wish = Self {
            seconds: 1.0,
            seed: since.map_or(1, |d| d.as_nanos() as u64),
            keep: false,
            names: Vec::new(),
            list: false,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut number = |what: &str| words.next().ok_or(format!("{what} wants a number"));
            match &*word {
                "--seconds" => {
                    let text = number("--seconds")?;
                    wish.seconds = text.parse().map_err(|e| format!("{text}: {e}"))?;
                }
                "--seed" => {
                    let text = number("--seed")?;
                    wish.seed = text.parse().map_err(|e| format!("{text}: {e}"))?;
                }
                "--keep" => wish.keep = true,
                "--list" => wish.list = true,
                // What cargo test passes to every test binary.
                other if other.starts_with('-') => {}
                name => wish.names.push(name.to_owned()),
            }
        }
        Ok(wish)
    }

    fn wants(&self, target: &Target) -> bool {
        self.names.is_empty() || self.names.iter().any(|name| target.name.contains(&**name))
    }
}

fn main() -> ExitCode {
    let wish = match Wish::read() {
        Ok(wish) => Arc::new(wish),
        Err(what) => {
            eprintln!("fuzz: {what}");
            return ExitCode::from(2);
        }
    };
    let wanted: Vec<&'static Target> = TARGETS.iter().filter(|t| wish.wants(t)).collect();
    if wish.list {
        wanted.iter().for_each(|t| eprintln!("{}: test", t.name));
        return ExitCode::SUCCESS;
    }
    // Panics are caught and told once, with the input.
    std::panic::set_hook(Box::new(|_| {}));
    let (next, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let wanted = Arc::new(wanted);
    let workers: Vec<_> = (0..cores.min(wanted.len()))
        .map(|_| {
            let (wanted, wish) = (Arc::clone(&wanted), Arc::clone(&wish));
            let (next, failed) = (Arc::clone(&next), Arc::clone(&failed));
            std::thread::spawn(move || {
                while let Some(target) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(finding) = Run::new(target, &wish).run() {
                        eprintln!("fuzz: {}: {finding}", target.name);
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
    // As test programs say it, so that whoever counts them counts these.
    let failed = failed.load(Ordering::Relaxed);
    let (passed, word) = (
        wanted.len() - failed,
        if failed == 0 { "ok" } else { "FAILED" },
    );
    eprintln!("test result: {word}. {passed} passed; {failed} failed; 0 ignored");
    match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Since when a target is busy, and with what.
type Busy = Mutex<Option<(Instant, Vec<u8>)>>;

/// One target at work.
struct Run<'a> {
    target: &'static Target,
    wish: &'a Wish,
    mutator: Mutator,
    inputs: Vec<Vec<u8>>,
    /// What the target has said so far.
    said: HashSet<String>,
    /// What it is busy with, for the watchdog.
    busy: Arc<Busy>,
}

impl<'a> Run<'a> {
    fn new(target: &'static Target, wish: &'a Wish) -> Self {
        let mut inputs = (target.seeds)();
        inputs.extend(corpus(target.name));
        inputs.push(Vec::new());
        Self {
            target,
            wish,
            mutator: Mutator::new(wish.seed, target.words),
            inputs,
            said: HashSet::new(),
            busy: Arc::default(),
        }
    }

    fn run(mut self) -> Result<(), String> {
        let watchdog = Watchdog::over(self.target.name, &self.busy);
        let began = Instant::now();
        let limit = Duration::from_secs_f64(self.wish.seconds);
        let seeds = self.inputs.clone();
        for seed in &seeds {
            self.try_one(seed)?;
        }
        let mut count = seeds.len();
        while began.elapsed() < limit {
            for _ in 0..64 {
                let input = self.mutator.next(&self.inputs);
                if self.try_one(&input)? {
                    self.learn(input);
                }
            }
            count += 64;
        }
        drop(watchdog);
        eprintln!(
            "fuzz: {:<16} {count:>9} inputs, {:>4} kinds of answers, seed {}",
            self.target.name,
            self.said.len(),
            self.wish.seed
        );
        Ok(())
    }

    /// Whether the target said something new about it.
    fn try_one(&mut self, input: &[u8]) -> Result<bool, String> {
        *self.busy.lock().unwrap() = Some((Instant::now(), input.to_vec()));
        let judged = catch_unwind(AssertUnwindSafe(|| (self.target.judge)(input)));
        *self.busy.lock().unwrap() = None;
        match judged {
            Ok(kind) => Ok(self.said.insert(kind)),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                let place = write_down(self.target.name, input);
                Err(format!("{} (input in {place})", text.unwrap_or("a panic")))
            }
        }
    }

    fn learn(&mut self, input: Vec<u8>) {
        if self.wish.keep && input.len() <= KEPT {
            let dir = corpus_dir(self.target.name);
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join(name_of(&input)), &input).unwrap();
        }
        if self.inputs.len() < CORPUS {
            self.inputs.push(input);
        }
    }
}

/// Ends the process when one input takes too long: nothing else can end such a loop.
struct Watchdog(Arc<AtomicBool>);

impl Watchdog {
    fn over(name: &'static str, busy: &Arc<Busy>) -> Self {
        let (done, busy) = (Arc::new(AtomicBool::new(false)), Arc::clone(busy));
        let stop = Arc::clone(&done);
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(200));
                let busy = busy.lock().unwrap();
                if let Some((_, input)) = busy.as_ref().filter(|(at, _)| at.elapsed() > SLOW) {
                    let place = write_down(name, input);
                    eprintln!("fuzz: {name}: an input takes over {SLOW:?} (in {place})");
                    std::process::exit(1);
                }
            }
        });
        Self(done)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn corpus_dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(name)
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let files = std::fs::read_dir(corpus_dir(name));
    let mut files: Vec<PathBuf> = files
        .into_iter()
        .flatten()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    files
        .iter()
        .map(|file| std::fs::read(file).unwrap())
        .collect()
}

/// A finding belongs into the corpus once it is mended; until then it lies where it does not get lost.
fn write_down(name: &str, input: &[u8]) -> String {
    let dir = std::env::temp_dir().join("wormkey-fuzz");
    let file = dir.join(format!("{name}-{}", name_of(input)));
    match std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(&file, input)) {
        Ok(()) => file.display().to_string(),
        Err(_) => format!("{:?}", String::from_utf8_lossy(input)),
    }
}

/// FNV-1a: the same input has the same name.
fn name_of(input: &[u8]) -> String {
    let hash = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}
