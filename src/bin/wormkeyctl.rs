//! `wormkeyctl`: the command line of wormkey. A runtime around [`wormkey::ctl::run`].

use std::process::ExitCode;

use anyhow::Context as _;
use wormkey::ctl::{self, Io};

fn main() -> anyhow::Result<ExitCode> {
    // First of all: it reads the environment, and no thread may be there yet.
    if ctl::complete::answered() {
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let exit = runtime.block_on(ctl::run(std::env::args_os(), Io::process()));
    // Standard input may still be waited for by a thread of its own; nobody needs it any more.
    runtime.shutdown_background();
    Ok(ExitCode::from(exit))
}
