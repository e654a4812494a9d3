//! `wormkeyd`: arguments, logging, runtime, one call into a role.

use std::process::ExitCode;

fn main() -> ExitCode {
    wormkey::daemon::main()
}
