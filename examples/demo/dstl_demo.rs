//! The program `dstl-demo`: real work that survives real crashes. `make demo` builds and runs it.
//!
//! ```text
//!   supervisor ──starts, kill -9, starts again──▶ daemon (`dstl serve`) ◀──────▶ store
//!       │  ▲                                         ▲
//!       │  │ reports                                 │ socket
//!       └──┴────starts, kill -9, starts again──▶ task (`dstl-demo as-task`)
//! ```
//!
//! The task counts words over real text with the client library alone, and checkpoints twice a second. The supervisor
//! kills one of the two at random moments and starts it again. The state comes back from the store, and the task goes
//! on at the position in its checkpoint's attachment. At the end the supervisor restores the last checkpoint once more,
//! compares every entry with a straightforward count in memory, and sweeps the store: no unreferenced object may be
//! left in it.
//!
//! | file | |
//! | --- | --- |
//! | `args`, `run` | the command line; a demo from its beginning to its end |
//! | `input` | the text |
//! | `states` | the states and the attachment |
//! | `task` | the task |
//! | `report` | the messages between task and supervisor |
//! | `schedule` | when to kill which process |
//! | `process`, `supervisor` | starting, killing, starting again |
//! | `count`, `verify` | the straightforward count, the comparison |
//! | `store` | the store, probed and swept |
//! | `progress`, `outcome` | the display during the demo and at its end |

#![expect(clippy::disallowed_methods, reason = "the demo is a program of its own")]

mod args;
mod count;
mod input;
mod outcome;
mod process;
mod progress;
mod report;
mod run;
mod schedule;
mod states;
mod store;
mod supervisor;
mod task;
mod verify;

use std::{error::Error as StdError, io, process::ExitCode};

use clap::Parser as _;

use self::{
    args::{Args, Command, DemoOptions},
    run::DemoError,
    task::{TaskError, TaskOptions},
};

/// `EX_USAGE` of sysexits(3): the command line is at fault, and trying again will not help.
const EXIT_USAGE: u8 = 64;

/// Exit code of a task that lost its daemon; `EX_TEMPFAIL` of sysexits(3).
const EXIT_DAEMON_GONE: u8 = 75;

/// The exit code of an interrupted command, by the convention of shells.
const EXIT_INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    // The logs and the store of the demo hold state: no other user may read them.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { EXIT_USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return ended(&error, 1),
    };
    match args.command {
        Some(Command::AsTask(options)) => runtime.block_on(as_task(options)),
        None => runtime.block_on(demo(args.demo)),
    }
}

/// Runs the demo and shows its outcome.
async fn demo(options: DemoOptions) -> ExitCode {
    let json = options.json;
    let outcome = match run::run(options).await {
        Ok(outcome) => outcome,
        Err(error) => {
            let code = match error {
                DemoError::Usage(_) => EXIT_USAGE,
                DemoError::Interrupted => EXIT_INTERRUPTED,
                DemoError::Store(_) | DemoError::Start(_) | DemoError::Failed(_) => 1,
            };
            return ended(&error, code);
        }
    };
    let text = if json { outcome.json() } else { outcome.table() };
    // A reader that has left has seen enough.
    if let Err(error) = io::Write::write_all(&mut io::stdout().lock(), text.as_bytes())
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        return ended(&error, 1);
    }
    if outcome.ok { ExitCode::SUCCESS } else { ended(&DemoError::failed("the outcome is not as it should be"), 1) }
}

/// Runs one life of the task.
async fn as_task(options: TaskOptions) -> ExitCode {
    match task::run(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ TaskError::DaemonGone(_)) => ended(&error, EXIT_DAEMON_GONE),
        Err(error) => ended(&error, 1),
    }
}

/// Tells an error and its causes.
fn ended(error: &dyn StdError, code: u8) -> ExitCode {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    eprintln!("dstl-demo: {text}");
    code.into()
}
